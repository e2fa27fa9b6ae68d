"""``resurgsam2 batch``: many videos, with one set of prompts or a prompt file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resurgsam2_cli.commands import options as shared
from resurgsam2_cli.errors import UsageError, UserError

if TYPE_CHECKING:
    from resurgsam2_cli.batching import Item, Job, Outcome
    from resurgsam2_cli.engine import Engine
    from resurgsam2_cli.prompts import Prompt
    from resurgsam2_cli.workers import EngineRequest

_BATCH = "Batch"


def batch(
    sources: Annotated[
        list[str],
        typer.Argument(help="Videos, folders of videos or of images, globs, and .txt files with a path per line."),
    ],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", "-t", help="What to segment in every video, as for segment; again for each object."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help='By video: CSV (video,text,label), JSON {"video": [text, ...]}, or meta_expressions.json.'),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the runs; mirrors the sources' folders.")] = Path(
        "runs"
    ),
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Look into folders of folders.", rich_help_panel=_BATCH)
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Do at most so many videos; skipped ones do not count.", rich_help_panel=_BATCH),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, with frame counts.", rich_help_panel=_BATCH)
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Only what failed in the last batch.", rich_help_panel=_BATCH)
    ] = False,
    weights: shared.Weights = "auto",
    clip_weights: shared.ClipWeights = None,
    device: Annotated[
        str,
        typer.Option(
            help="auto, cpu, cuda, cuda:1 or mps; several at once as cuda:0,cuda:1.", rich_help_panel=shared.MODEL
        ),
    ] = "auto",
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
    quiet: shared.Quiet = False,
    as_json: shared.AsJson = False,
    min_presence: shared.MinPresence = 0.9,
    min_iou: shared.MinIou = 0.7,
    window: shared.Window = 5,
    long_term: shared.LongTerm = 3,
    long_term_min_iou: shared.LongTermMinIou = 0.95,
    pool: shared.Pool = 5,
) -> None:
    """Segment many videos; the network is loaded once.

    Run it again to go on: what is complete with the same settings is skipped, the rest is done. A video that fails
    does not stop the others. The end is a table of what happened to each, also in batch.json; the exit code is 1 if
    any failed.

    [bold]Examples[/bold]

      resurgsam2 batch videos/ --text "left grasper" -o results

      resurgsam2 batch "day*/*.mp4" --prompts prompts.csv --dry-run

      resurgsam2 batch videos/ --text kidney --device cuda:0,cuda:1

      resurgsam2 batch Ref-EndoVis18/valid/JPEGImages --prompts Ref-EndoVis18/valid/meta_expressions.json
    """
    from resurgsam2_cli.batching import Job, Record, find_items, read_prompts
    from resurgsam2_cli.prompts import parse_prompts
    from resurgsam2_cli.video.source import Part, Position

    if bool(text) == (prompts is not None):
        raise UsageError("give prompts either with --text or with --prompts", "see: resurgsam2 batch --help")
    shared.check(threshold)
    asked = _asked(parse_prompts(text)) if text else _asked_of(read_prompts(prompts or Path()))
    part = Part(Position.parse(start), Position.parse(end) if end is not None else None, stride)
    chosen_rate = shared.rate(frame_rate)
    devices = [x.strip() for x in device.split(",")]
    items = [replace(item, prompts=asked(item) or ()) for item in find_items(sources, recursive=recursive)]

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
    job, record = Job(out, options, chosen_rate), Record(out)
    if retry_failed:
        items = [item for item in items if record.failed_before(item)]
        if not items:
            typer.echo("nothing failed in the last batch", err=True)
            return

    from resurgsam2_cli.workers import EngineRequest

    def warn(warning: str) -> None:
        if warning and not quiet:
            typer.echo(f"resurgsam2: {warning}", err=True)

    request = EngineRequest(weights, clip_weights, precision)
    if dry_run:
        engine = request.build(devices[0])
        warn(engine.warning)
        _say_plan(job, items, engine)
        return
    outcomes = list(record.add(_run(job, items, request, devices, limit, warn, quiet=quiet or as_json)))
    if as_json:
        from dataclasses import asdict

        typer.echo(json.dumps({"videos": [asdict(x) for x in outcomes]}))
    elif not quiet:
        _say_outcomes(outcomes)
        typer.echo(str(out.absolute()), err=True)
    if any(x.state == "failed" for x in outcomes):
        raise typer.Exit(UserError.exit_code)


def _asked(prompts: tuple[Prompt, ...]) -> Callable[[Item], tuple[Prompt, ...] | None]:
    return lambda item: prompts


def _asked_of(table: dict[str, tuple[Prompt, ...]]) -> Callable[[Item], tuple[Prompt, ...] | None]:
    """By the video's name without suffix, or by its file name."""
    return lambda item: table.get(item.name) or table.get(Path(item.source).name)


def _run(
    job: Job,
    items: list[Item],
    request: EngineRequest,
    devices: list[str],
    most: int | None,
    warn: Callable[[str], None],
    *,
    quiet: bool,
) -> Iterator[Outcome]:
    from resurgsam2_cli.progress import BatchTable
    from resurgsam2_cli.workers import segment_here, segment_on

    table = BatchTable(len(items), quiet=quiet)
    if len(devices) > 1:
        with table:
            yield from segment_on(job, items, request, devices, table, most, warn)
        return
    engine = request.build(devices[0])
    warn(engine.warning)
    with table:
        yield from segment_here(job, items, engine, table, most)


def _say_plan(job: Job, items: list[Item], engine: Engine) -> None:
    total = 0
    for item in items:
        try:
            what, frames = job.plan(item, engine)
        except UserError as error:
            typer.echo(f"{item.source}: would fail: {error.message}")
            continue
        words = {"new": "to do", "skip": "complete already", "redo": "to do again, as settings or source changed"}
        typer.echo(f"{item.source}: {words[what]}" + (f", about {frames} frames" if frames is not None else ""))
        total += frames or 0 if what != "skip" else 0
    typer.echo(f"about {total} frames to do")


def _say_outcomes(outcomes: list[Outcome]) -> None:
    from rich.console import Console

    from resurgsam2_cli.progress import outcome_table

    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = 200  # a file has no edge to wrap at
    console.print(outcome_table(outcomes))
    counts = {state: sum(x.state == state for x in outcomes) for state in ("done", "skipped", "failed")}
    console.print(", ".join(f"{n} {state}" for state, n in counts.items()), highlight=False)
