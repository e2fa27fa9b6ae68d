"""``resurgsam2 segment``: one video or frame folder, one or many prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from resurgsam2_cli.commands import options as shared


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
    weights: shared.Weights = "auto",
    clip_weights: shared.ClipWeights = None,
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    seed: shared.Seed = 0,
    start: shared.Start = "0",
    end: shared.End = None,
    stride: shared.Stride = 1,
    frame_rate: shared.FrameRate = None,
    png: shared.Png = True,
    object_png: shared.ObjectPng = False,
    coco: shared.Coco = True,
    overlay: shared.Overlay = True,
    threshold: shared.Threshold = 0.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run.", rich_help_panel="Outputs")
    ] = False,
    quiet: shared.Quiet = False,
    as_json: shared.AsJson = False,
    min_presence: shared.MinPresence = 0.9,
    min_iou: shared.MinIou = 0.7,
    window: shared.Window = 5,
    long_term: shared.LongTerm = 3,
    long_term_min_iou: shared.LongTermMinIou = 0.95,
    pool: shared.Pool = 5,
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
    shared.check(threshold)
    part = Part(Position.parse(start), Position.parse(end) if end is not None else None, stride)
    with open_source(source, shared.rate(frame_rate)) as video:
        folder = RunFolder(out, video.name, source_path(video), overwrite=overwrite)

        from resurgsam2_cli.engine import build_engine
        from resurgsam2_cli.pipeline import segment as run
        from resurgsam2_cli.progress import ProgressBar

        rules = {
            "min_presence": min_presence,
            "min_iou": min_iou,
            "window": window,
            "long_term": long_term,
            "long_term_min_iou": long_term_min_iou,
            "pool": pool,
        }
        outputs = {"png": png, "object_png": object_png, "coco": coco, "overlay": overlay}
        options = shared.segment_options(part, rules, **outputs, threshold=threshold, seed=seed)
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
