"""``resurgsam2 segment``: one video or frame folder, one or many prompts."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from resurgsam2_cli.errors import UsageError

_RULES = "CIFS and DLM (published values by default)"
_OUTPUTS = "Outputs"
_PART = "Part of the video"
_MODEL = "Model"


def segment(
    source: Annotated[
        str, typer.Argument(help="A video file, a folder of images, or - for a video on standard input.")
    ],
    text: Annotated[
        list[str],
        typer.Option(
            "--text",
            "-t",
            help='What to segment, as "left grasper"; again for each object. "text=label" sets the name in exports.',
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder in which the video's own folder is made.")] = Path(
        "runs"
    ),
    weights: Annotated[
        str,
        typer.Option(help="A name of 'resurgsam2 weights list', a file, or auto.", rich_help_panel=_MODEL),
    ] = "auto",
    clip_weights: Annotated[
        Path | None,
        typer.Option(help="CLIP's text tower, where the checkpoint has none.", rich_help_panel=_MODEL),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.", rich_help_panel=_MODEL)] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.", rich_help_panel=_MODEL)] = "auto",
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=2**63 - 1, help="Of the random numbers (inference draws none).", rich_help_panel=_MODEL
        ),
    ] = 0,
    start: Annotated[
        str, typer.Option(help="First frame: a number, or a time (12.5s, 1:02:03).", rich_help_panel=_PART)
    ] = "0",
    end: Annotated[
        str | None,
        typer.Option(help="Where to stop, itself not included: a number or a time.", rich_help_panel=_PART),
    ] = None,
    stride: Annotated[int, typer.Option(help="Take every n-th frame.", rich_help_panel=_PART)] = 1,
    frame_rate: Annotated[
        str | None,
        typer.Option(help="Of a folder of images, as 25 or 30000/1001 (default 25).", rich_help_panel=_PART),
    ] = None,
    png: Annotated[bool, typer.Option(help="masks/: label images.", rich_help_panel=_OUTPUTS)] = True,
    object_png: Annotated[
        bool,
        typer.Option("--object-png", help="objects/: a binary image per object.", rich_help_panel=_OUTPUTS),
    ] = False,
    coco: Annotated[bool, typer.Option(help="annotations.json: COCO RLE.", rich_help_panel=_OUTPUTS)] = True,
    overlay: Annotated[bool, typer.Option(help="overlay.mp4: the video with masks.", rich_help_panel=_OUTPUTS)] = True,
    threshold: Annotated[
        float,
        typer.Option(help="Mask logit above which a pixel belongs to the object.", rich_help_panel=_OUTPUTS),
    ] = 0.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run.", rich_help_panel=_OUTPUTS)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, no summary.", rich_help_panel=_OUTPUTS)
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="The summary as JSON on standard output.", rich_help_panel=_OUTPUTS),
    ] = False,
    min_presence: Annotated[
        float,
        typer.Option(help="CIFS: presence of a credible frame is above this.", rich_help_panel=_RULES),
    ] = 0.9,
    min_iou: Annotated[
        float,
        typer.Option(help="CIFS: predicted IoU of a credible frame is above this.", rich_help_panel=_RULES),
    ] = 0.7,
    window: Annotated[
        int, typer.Option(help="CIFS: credible frames in a row that start tracking.", rich_help_panel=_RULES)
    ] = 5,
    long_term: Annotated[int, typer.Option(help="DLM: long-term frames, 0 for none.", rich_help_panel=_RULES)] = 3,
    long_term_min_iou: Annotated[
        float,
        typer.Option(help="DLM: predicted IoU above which a frame is a candidate.", rich_help_panel=_RULES),
    ] = 0.95,
    pool: Annotated[int, typer.Option(help="DLM: candidates of which one is promoted.", rich_help_panel=_RULES)] = 5,
) -> None:
    """Segment one video: say what you mean, get its mask in every frame.

    [bold]Examples[/bold]

      resurgsam2 segment video.mp4 --text "left grasper"

      resurgsam2 segment video.mp4 -t "left grasper=grasper" -t kidney --start 1:30 --end 2:00 -o results

      resurgsam2 segment frames/ -t scissors --no-overlay --json

      ssh scope cat video.mp4 | resurgsam2 segment - -t "right bipolar forceps"
    """
    from resurgsam2_cli.prompts import parse_prompts
    from resurgsam2_cli.run_folder import RunFolder, writing
    from resurgsam2_cli.video.source import Part, Position, open_source, source_path

    # What can go wrong without the model is looked at first: importing torch takes seconds.
    prompts = parse_prompts(text)
    if not math.isfinite(threshold):
        raise UsageError(f"--threshold {threshold} is no number", "0 is the published value")
    part = Part(Position.parse(start), Position.parse(end) if end is not None else None, stride)
    with open_source(source, _rate(frame_rate)) as video:
        folder = RunFolder(out, video.name, source_path(video), overwrite=overwrite)

        from model import Rules
        from resurgsam2_cli.engine import build_engine
        from resurgsam2_cli.pipeline import SegmentOptions
        from resurgsam2_cli.pipeline import segment as run
        from resurgsam2_cli.progress import ProgressBar

        try:
            rules = Rules(
                min_presence=min_presence,
                min_iou=min_iou,
                window=window,
                long_term=long_term,
                long_term_min_iou=long_term_min_iou,
                pool=pool,
            )
        except ValueError as error:
            raise UsageError(f"--{str(error).replace('_', '-')}", "see: resurgsam2 segment --help") from error
        options = SegmentOptions(
            part=part,
            rules=rules,
            threshold=threshold,
            png=png,
            object_png=object_png,
            coco=coco,
            overlay=overlay,
            seed=seed,
        )
        engine = build_engine(weights, clip_weights, device, precision)
        if engine.warning and not quiet:
            typer.echo(f"resurgsam2: {engine.warning}", err=True)
        total = video.expected(options.part)
        with ProgressBar(video.name, prompts, total, quiet=quiet or as_json) as bar:
            summary = run(engine, video, prompts, options, folder, bar)
    if as_json:
        with writing(Path("standard output")):
            print(json.dumps({**summary.record, "files": [str(p.absolute()) for p in summary.files]}), flush=True)
    elif not quiet:
        for line in summary_lines(summary.record, [p.absolute() for p in summary.files]):
            typer.echo(line, err=True)


def summary_lines(record: dict[str, Any], files: list[Path]) -> list[str]:
    """The last lines of a run: what was found, how fast, and where it is."""
    lines = []
    frames = record["source"]["frames"]
    for x in record["objects"]:
        if x["first_present"] is None:
            found = "not found"
        else:
            found = f"in {x['frames_present']} of {frames} frames, first in {x['first_present']}"
            if x["initial_frame"] is None:
                found += ", never credible enough to be tracked"
            else:
                found += f"; tracked from frame {x['initial_frame']}, chosen at {x['decided_at']}"
        lines.append(f"  {x['id']}  {x['label']}: {found}")
    timing, memory = record["timing"], record["peak_memory_mb"]
    peak = ", ".join(f"{value} MB ({where})" for where, value in memory.items() if value is not None)
    backend = record["backend"]
    lines.append(
        f"{frames} frames in {timing['seconds']:.1f} s, {timing['frames_per_second']:.2f} frames/s"
        f" on {backend['device']} in {backend['precision']}; peak memory {peak}"
    )
    return lines + [str(path) for path in files]


def _rate(text: str | None) -> Fraction | None:
    if text is None:
        return None
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not Fraction(1, 100) <= rate <= 1000:
        raise UsageError(f"{text!r} is no frame rate", "write --frame-rate 25 or --frame-rate 30000/1001")
    return rate
