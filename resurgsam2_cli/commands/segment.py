"""``resurgsam2 segment``: one video or frame folder, one or many prompts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from resurgsam2_cli.commands import options as shared
from resurgsam2_cli.errors import InputError, UsageError

if TYPE_CHECKING:
    from resurgsam2_cli.prompts.marks import Mark
    from resurgsam2_cli.prompts.prompt import Prompt


def segment(
    ctx: typer.Context,
    source: Annotated[
        list[str], typer.Argument(help="A video file, a folder of images, or - for a video on standard input.")
    ],
    text: shared.Texts = None,
    prompts: shared.PromptFilePath = None,
    mark: shared.Marks = None,
    marks: shared.MarksFile = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder in which the video gets a folder of its own.")
    ] = Path("runs"),
    weights: shared.Weights = "auto",
    clip_weights: shared.ClipWeights = None,
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    seed: shared.Seed = 0,
    start: shared.Start = "0",
    end: shared.End = None,
    stride: shared.Stride = 1,
    frame_rate: shared.FrameRate = None,
    deinterlace: shared.Deinterlace = False,
    max_pixels: shared.MaxPixels = None,
    png: shared.Png = True,
    object_png: shared.ObjectPng = False,
    coco: shared.Coco = True,
    overlay: shared.Overlay = True,
    legend: shared.Legend = True,
    threshold: shared.Threshold = 0.0,
    min_part: shared.MinPart = 0,
    fill_holes: shared.FillHoles = 0,
    overwrite: shared.Overwrite = False,
    quiet: shared.Quiet = False,
    as_json: shared.AsJson = False,
    verbose: shared.Verbose = False,
    direction: shared.Direction = "forward",
    find_again: shared.FindAgain = False,
    lost_after: shared.LostAfter = None,
    search_every: shared.SearchEvery = None,
    min_presence: shared.MinPresence = None,
    min_iou: shared.MinIou = None,
    window: shared.Window = None,
    long_term: shared.LongTerm = None,
    long_term_min_iou: shared.LongTermMinIou = None,
    pool: shared.Pool = None,
) -> None:
    """Segment one video: say what you mean, get its mask in every frame.

    Examples

      resurgsam2 segment video.mp4 --text "left grasper"

      resurgsam2 segment video.mp4 -t "left grasper=grasper" -t kidney --start 1:30 --end 2:00 -o results

      resurgsam2 segment frames/ -t scissors --no-overlay --json

      resurgsam2 segment video.mp4 --mark "grasper@1:30 +320,240" --mark "grasper@2:10 +300,200 -420,260"

      ssh scope cat video.mp4 | resurgsam2 segment - -t "right bipolar forceps"
    """
    from resurgsam2_cli.files.atomic import writing
    from resurgsam2_cli.runs.find import check_no_run
    from resurgsam2_cli.runs.folder import Wanted
    from resurgsam2_cli.runs.record import MARKS
    from resurgsam2_cli.runs.sums import corrections
    from resurgsam2_cli.segmenting.placing import with_marks
    from resurgsam2_cli.video.source import open_source, source_path

    # First check what can go wrong without the model: importing torch takes seconds.
    if len(source) > 1:
        raise UsageError(f"segment takes one video, not {len(source)}", "for several: resurgsam2 batch ...")
    check_no_run(source[0])
    said = _marks(mark, marks)
    asked = () if said and not text and prompts is None else _prompts(text, prompts, source[0])
    part = shared.check(ctx.params)
    if find_again and not asked:
        raise UsageError("--find-again searches for texts, and there are none", "leave it out, or add --text")
    with open_source(source[0], shared.reading(ctx.params)) as video:
        objects, where = with_marks(video, part, asked, said)
        wanted = Wanted(out, video.name, source_path(video), video.identity())
        options = replace(shared.segment_options(ctx.params), marks=where)
        by_hand = corrections(wanted.find()[0]) if overwrite else []
        by_hand = [x for x in by_hand if x != MARKS or not said]  # the same marks, or better ones, are given again
        if by_hand and not quiet:
            typer.echo(f"resurgsam2: replacing a run that was corrected by hand: {', '.join(by_hand)}", err=True)
        with wanted.claim(overwrite=overwrite) as folder:
            from resurgsam2_cli.segmenting.engine import build_engine
            from resurgsam2_cli.segmenting.pipeline import segment as run
            from resurgsam2_cli.terminal.bars import FramesBar
            from resurgsam2_cli.terminal.summary import summary_lines

            engine = build_engine(weights, clip_weights, device, precision, words=bool(asked))
            for line in () if quiet else engine.warnings:
                typer.echo(f"resurgsam2: {line}", err=True)
            shared.say_wording(engine.weights.name, engine.weights.path, [x.text for x in asked], quiet=quiet)
            total = None if options.in_passes else video.expected(options.part)
            with FramesBar(video.name, objects, total, quiet=quiet or as_json) as bar:
                summary = run(engine, video, objects, options, folder, bar, bar)
    if as_json:
        with writing(Path("standard output")):
            print(json.dumps({**summary.record, "files": [str(p.absolute()) for p in summary.files]}), flush=True)
    elif not quiet:
        for line in summary_lines(summary.record, [p.absolute() for p in summary.files]):
            typer.echo(line, err=True)


def _marks(texts: list[str] | None, file: Path | None) -> list[Mark]:
    if not texts and file is None:
        return []
    from resurgsam2_cli.prompts.marks import parse_mark, read_marks

    found = [parse_mark(x) for x in texts or ()]
    if file is not None:
        # A new run does not have the masks that somebody confirmed in an earlier one.
        found += [x for x in read_marks(file) if not x.confirmed]
    if not found:
        raise InputError(f"{file}: has no mark", "add one, or use --text")
    return found


def _prompts(text: list[str] | None, file: Path | None, source: str) -> tuple[Prompt, ...]:
    """What is asked for, from the command line or from the rows of a prompt file that name the source."""
    from resurgsam2_cli.batch.items import Item
    from resurgsam2_cli.files.text import did_you_mean
    from resurgsam2_cli.prompts.files import read_prompts
    from resurgsam2_cli.prompts.prompt import checked, parse_prompts

    if text and file is not None:
        raise UsageError("there are prompts in --text and in --prompts", "give them in one of the two")
    if file is None:
        return parse_prompts(text or [])
    item = Item(source, PurePosixPath(Path(source).absolute().name))
    table = read_prompts(file)
    found = table.prompts_of(item.names)
    if not found:
        near = did_you_mean(item.below.name, [name for name, _ in table.rows])
        raise InputError(f"{file}: has nothing for {item.stem!r}", f"{near}add a row for it, or use --text")
    return checked(found)
