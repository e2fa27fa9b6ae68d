"""``resurgsam2 segment``: one video or frame folder, one or many prompts."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from resurgsam2_cli.commands import options as shared
from resurgsam2_cli.errors import InputError, UsageError

if TYPE_CHECKING:
    from resurgsam2_cli.prompts.prompt import Prompt


def segment(
    ctx: typer.Context,
    source: Annotated[
        list[str], typer.Argument(help="A video file, a folder of images, or - for a video on standard input.")
    ],
    text: shared.Texts = None,
    prompts: shared.PromptFilePath = None,
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
    threshold: shared.Threshold = 0.0,
    overwrite: shared.Overwrite = False,
    quiet: shared.Quiet = False,
    as_json: shared.AsJson = False,
    verbose: shared.Verbose = False,
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

      ssh scope cat video.mp4 | resurgsam2 segment - -t "right bipolar forceps"
    """
    from resurgsam2_cli.files.atomic import writing
    from resurgsam2_cli.runs.folder import Wanted
    from resurgsam2_cli.runs.sums import corrections
    from resurgsam2_cli.video.source import open_source, source_path

    # First check what can go wrong without the model: importing torch takes seconds.
    if len(source) > 1:
        raise UsageError(f"segment takes one video, not {len(source)}", "for several: resurgsam2 batch ...")
    asked = _prompts(text, prompts, source[0])
    shared.check(ctx.params)
    with open_source(source[0], shared.reading(ctx.params)) as video:
        wanted = Wanted(out, video.name, source_path(video), video.identity())
        options = shared.segment_options(ctx.params)
        if overwrite and (by_hand := corrections(wanted.find()[0])) and not quiet:
            typer.echo(f"resurgsam2: replacing a run that was corrected by hand: {', '.join(by_hand)}", err=True)
        with wanted.claim(overwrite=overwrite) as folder:
            from resurgsam2_cli.segmenting.engine import build_engine
            from resurgsam2_cli.segmenting.pipeline import segment as run
            from resurgsam2_cli.terminal.bars import FramesBar
            from resurgsam2_cli.terminal.summary import summary_lines

            engine = build_engine(weights, clip_weights, device, precision)
            for line in () if quiet else engine.warnings:
                typer.echo(f"resurgsam2: {line}", err=True)
            total = video.expected(options.part)
            with FramesBar(video.name, asked, total, quiet=quiet or as_json) as bar:
                summary = run(engine, video, asked, options, folder, bar)
    if as_json:
        with writing(Path("standard output")):
            print(json.dumps({**summary.record, "files": [str(p.absolute()) for p in summary.files]}), flush=True)
    elif not quiet:
        for line in summary_lines(summary.record, [p.absolute() for p in summary.files]):
            typer.echo(line, err=True)


def _prompts(text: list[str] | None, file: Path | None, source: str) -> tuple[Prompt, ...]:
    """What is asked for, from the command line or from the rows of a prompt file that name the source."""
    from resurgsam2_cli.batch.items import Item
    from resurgsam2_cli.prompts.files import read_prompts
    from resurgsam2_cli.prompts.prompt import checked, parse_prompts

    if text and file is not None:
        raise UsageError("give prompts either with --text or with --prompts", "see: resurgsam2 segment --help")
    if file is None:
        return parse_prompts(text or [])
    item = Item(source, PurePosixPath(Path(source).absolute().name))
    found = read_prompts(file).prompts_of(item.names)
    if not found:
        raise InputError(f"{file}: has nothing for {item.stem!r}", "add a row for it, or use --text")
    return checked(found)
