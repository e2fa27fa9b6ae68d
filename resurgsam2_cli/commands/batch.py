"""``resurgsam2 batch``: many videos, with one set of prompts or a prompt file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resurgsam2_cli.commands import options as shared
from resurgsam2_cli.errors import UsageError, UserError

if TYPE_CHECKING:
    from resurgsam2_cli.batching import Batch, Item, Outcome
    from resurgsam2_cli.engine import Engine
    from resurgsam2_cli.prompts import Prompt

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

      resurgsam2 batch Ref-EndoVis18/valid/JPEGImages --prompts Ref-EndoVis18/valid/meta_expressions.json
    """
    from resurgsam2_cli.batching import Batch, find_items, read_prompts
    from resurgsam2_cli.prompts import parse_prompts
    from resurgsam2_cli.video.source import Part, Position

    if bool(text) == (prompts is not None):
        raise UsageError("give prompts either with --text or with --prompts", "see: resurgsam2 batch --help")
    shared.check(threshold)
    asked = _asked(parse_prompts(text)) if text else _asked_of(read_prompts(prompts or Path()))
    part = Part(Position.parse(start), Position.parse(end) if end is not None else None, stride)
    chosen_rate = shared.rate(frame_rate)
    items = find_items(sources, recursive=recursive)

    from resurgsam2_cli.engine import build_engine

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
    job = Batch(out, asked, options, chosen_rate)
    if retry_failed:
        items = [item for item in items if job.failed_before(item)]
        if not items:
            typer.echo("nothing failed in the last batch", err=True)
            return
    engine = build_engine(weights, clip_weights, device, precision)
    if engine.warning and not quiet:
        typer.echo(f"resurgsam2: {engine.warning}", err=True)
    if dry_run:
        _say_plan(job, items, engine)
        return
    outcomes = _run(job, items, engine, limit, quiet=quiet or as_json)
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


def _run(job: Batch, items: list[Item], engine: Engine, limit: int | None, *, quiet: bool) -> list[Outcome]:
    from resurgsam2_cli.pipeline import Watcher
    from resurgsam2_cli.progress import ProgressBar
    from resurgsam2_cli.video.source import Source

    outcomes: list[Outcome] = []
    for number, item in enumerate(items, start=1):
        if limit is not None and sum(x.state != "skipped" for x in outcomes) >= limit:
            break
        bars: list[ProgressBar] = []

        def watch(source: Source, prompts: tuple[Prompt, ...], bars: list[ProgressBar] = bars) -> Watcher:
            bar = ProgressBar(source.name, prompts, source.expected(job.options.part), quiet=quiet)
            bars.append(bar)
            return bar.__enter__()

        try:
            outcome = job.run(item, engine, watch)
        finally:
            for bar in bars:
                bar.__exit__(None, None, None)
        outcomes.append(outcome)
        if not quiet:
            detail = outcome.error or outcome.note or ""
            if outcome.frames is not None and outcome.seconds:
                detail = f"{outcome.frames} frames, {outcome.frames / outcome.seconds:.1f} frames/s {detail}".rstrip()
            typer.echo(f"{number} of {len(items)}: {item.source}: {outcome.state} ({detail})", err=True)
    return outcomes


def _say_plan(job: Batch, items: list[Item], engine: Engine) -> None:
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
    from rich.table import Table

    table = Table("video", "state", "frames", "frames/s", "what", box=None, pad_edge=False)
    for x in outcomes:
        rate = f"{x.frames / x.seconds:.1f}" if x.frames and x.seconds else ""
        table.add_row(x.source, x.state, str(x.frames or ""), rate, x.error or x.note or "")
    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = 200  # a file has no edge to wrap at
    console.print(table)
    counts = {state: sum(x.state == state for x in outcomes) for state in ("done", "skipped", "failed")}
    console.print(", ".join(f"{n} {state}" for state, n in counts.items()), highlight=False)
