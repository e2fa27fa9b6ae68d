"""``resurgsam2 batch``: many videos, with one set of prompts or a prompt file."""

from __future__ import annotations

import json
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resurgsam2_cli.commands import options as shared
from resurgsam2_cli.errors import UsageError, UserError, weights_errors

if TYPE_CHECKING:
    from resurgsam2_cli.batch.executor import Executor
    from resurgsam2_cli.batch.find import LeftOut
    from resurgsam2_cli.batch.items import Item, Outcome
    from resurgsam2_cli.batch.job import Job
    from resurgsam2_cli.batch.record import Record
    from resurgsam2_cli.joining.pieces import Split
    from resurgsam2_cli.prompts.files import PromptFile

_BATCH = "Batch"
_OVERLAP = 2.0  # seconds
_RAY = "Ray cluster"
_CLUSTER = {"address": "address", "workers": "workers", "cpus_per_worker": "cpus", "gpus_per_worker": "gpus"}
"""The options of a cluster, and what they are called in :class:`~resurgsam2_cli.batch.on_ray.Cluster`."""
_NAMED = 10
"""How many things left out are named one by one."""


class Where(StrEnum):
    """Where the videos are done."""

    LOCAL = "local"
    RAY = "ray"


def batch(
    ctx: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(help="Videos, folders of videos or of images, globs, and .txt files with a path per line."),
    ],
    text: shared.Texts = None,
    prompts: shared.PromptFilePath = None,
    out: Annotated[
        str, typer.Option("--out", "-o", help="Folder for the runs, or its URL; it mirrors the folders of the sources.")
    ] = "runs",
    recursive: Annotated[
        bool,
        typer.Option("--recursive", "-r", help="Also look into folders inside of folders.", rich_help_panel=_BATCH),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Do at most this many videos; skipped ones do not count.", rich_help_panel=_BATCH),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print what would be done, with frame counts; exit code 1 if something would fail.",
            rich_help_panel=_BATCH,
        ),
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Do only the videos that failed in the last batch.", rich_help_panel=_BATCH
        ),
    ] = False,
    split_minutes: Annotated[
        float | None,
        typer.Option(
            help="Do longer videos in pieces of so many minutes, which are joined at the end.", rich_help_panel=_BATCH
        ),
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(help="Seconds that two neighbouring pieces have in common (default 2).", rich_help_panel=_BATCH),
    ] = None,
    engine: Annotated[
        Where,
        typer.Option(
            help="local, or ray for a cluster of machines (pip install 'ray[default]').", rich_help_panel=_RAY
        ),
    ] = Where.LOCAL,
    address: Annotated[
        str | None,
        typer.Option(
            help="host:port, ray://host:port, local, or auto for the cluster that this machine is in.",
            rich_help_panel=_RAY,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="How many workers; by default, as many as there is room for.", rich_help_panel=_RAY),
    ] = None,
    cpus_per_worker: Annotated[
        float | None, typer.Option(min=0.01, help="Cores for each worker (default 2).", rich_help_panel=_RAY)
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            min=0, help="GPUs for each worker, such as 0.5 (default 1, if there are any).", rich_help_panel=_RAY
        ),
    ] = None,
    weights: shared.Weights = "auto",
    clip_weights: shared.ClipWeights = None,
    device: Annotated[
        str,
        typer.Option(
            help="Where to compute: auto, cpu, cuda, cuda:1 or mps; for several at once, cuda:0,cuda:1.",
            rich_help_panel=shared.MODEL,
        ),
    ] = "auto",
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
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace runs that differ from what is asked for now.", rich_help_panel=shared.OUTPUTS
        ),
    ] = False,
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
    """Segment many videos; the network is loaded once.

    Run it again to resume: it skips what is complete with the same settings and does the rest. It leaves a finished
    run of other settings, weights, prompts or another source alone and reports it as changed, unless --overwrite is
    given. A video that fails does not stop the others. A table at the end, and batch.json, say what happened to each;
    the exit code is 1 if anything that was asked for is not there.

    Examples

      resurgsam2 batch videos/ --text "left grasper" -o results

      resurgsam2 batch "day*/*.mp4" --prompts prompts.csv --dry-run

      resurgsam2 batch videos/ --text kidney --device cuda:0,cuda:1

      resurgsam2 batch videos/ --text kidney --engine ray --gpus-per-worker 0.5

      resurgsam2 batch Ref-EndoVis18/valid/JPEGImages --prompts Ref-EndoVis18/valid/meta_expressions.json
    """
    from resurgsam2_cli.batch.find import find_items
    from resurgsam2_cli.files.kinds import check_folder
    from resurgsam2_cli.files.urls import is_url
    from resurgsam2_cli.terminal.batch_plan import say_plans

    if bool(text) == (prompts is not None):
        if text:
            raise UsageError("there are prompts in --text and in --prompts", "give them in one of the two")
        raise UsageError("no prompt was given", 'name what you mean: --text "left grasper", or --prompts FILE')
    shared.check(ctx.params)
    if not is_url(out):
        check_folder(Path(out))
    executor = _executor(ctx.params)
    if any(x.startswith("memory://") for x in (out, *sources)) and (engine is Where.RAY or "," in device):
        raise UsageError("memory:// is there for one process alone", "use a folder, or an object store such as s3://")
    asked, file = _prompts(text, prompts)
    found = find_items(sources, out=Path(out), recursive=recursive)
    for error in () if quiet else found.missing[:_NAMED]:
        typer.echo(f"resurgsam2: {error.message}; it counts as a failed video", err=True)
    items = [replace(item, prompts=file.prompts_of(item.names) if file else asked) for item in found.items]
    job, record, everything = _job(ctx.params), _record(out, ctx), items
    shared.say_wording(*_weights(ctx.params)[:2], [x.text for item in items for x in item.prompts], quiet=quiet)
    if retry_failed:
        items = [item for item in items if record.failed_before(item)]
    if dry_run:
        if engine is Where.LOCAL:
            from resurgsam2_cli.segmenting.engine import choose_device, choose_precision

            for one in device.split(","):
                choose_precision(precision, choose_device(one.strip()))
        plans = list(_limited(_plans(job, items), limit))
        if as_json:
            _print_json({"videos": plans, "left_out": [asdict(x) for x in found.left_out]})
        else:
            say_plans(plans)
            _say_left_out(found.left_out, quiet=quiet)
        _say_unmatched(file, everything)
        if any(x["state"] in ("failed", "changed") for x in plans):
            raise typer.Exit(UserError.exit_code)
        return
    _say_left_out(found.left_out, quiet=quiet)
    if not items:
        typer.echo("nothing failed in the last batch", err=True)
    work = _run(executor, job, items, limit, quiet=quiet, silent=quiet or as_json) if items else iter(())
    outcomes = list(record.add(work))
    record.tidy()
    if as_json:
        _print_json({"videos": [asdict(x) for x in outcomes], "left_out": [asdict(x) for x in found.left_out]})
    elif not quiet and items:
        _say_outcomes(outcomes)
        typer.echo(out if is_url(out) else str(Path(out).absolute()), err=True)
    elif quiet:
        for x in outcomes:
            if not x.is_there:
                typer.echo(f"{x.source}: {x.state}: {x.error or x.note}", err=True)
    _say_unmatched(file, everything)
    if not all(x.is_there for x in outcomes):
        raise typer.Exit(UserError.exit_code)


def _prompts(text: list[str] | None, path: Path | None) -> tuple[Any, PromptFile | None]:
    from resurgsam2_cli.prompts.files import read_prompts
    from resurgsam2_cli.prompts.prompt import parse_prompts

    return (parse_prompts(text), None) if text else ((), read_prompts(path or Path()))


def _job(parameters: dict[str, Any]) -> Job:
    from resurgsam2_cli.batch.job import Job
    from resurgsam2_cli.batch.pieces import SplitJob
    from resurgsam2_cli.batch.standing import Asked
    from resurgsam2_cli.batch.stored import StoredJob
    from resurgsam2_cli.files.urls import is_url
    from weights import store

    options = shared.segment_options(parameters)
    name, path, clip = _weights(parameters)
    with weights_errors():
        weights = {"name": name, "sha256": store.known_sum(path)}
        if clip is not None:
            weights["clip_sha256"] = store.known_sum(clip)
    precision = None if parameters["precision"] == "auto" else parameters["precision"]
    reading = shared.reading(parameters)
    asked = Asked(options.record(reading), weights, precision, reading.frame_rate)
    out, rest = parameters["out"], (options, asked, reading, parameters["overwrite"], parameters["verbose"])
    split = _split(parameters["split_minutes"], parameters["overlap"])
    if split is None:
        return StoredJob(Path(), *rest, url=out) if is_url(out) else Job(Path(out), *rest)
    if is_url(out):
        raise UsageError("--split-minutes needs a folder that all workers see", "name a folder with -o, not a URL")
    return SplitJob(Path(out), *rest, split=split)


def _split(minutes: float | None, overlap: float | None) -> Split | None:
    """How videos are cut. Raises :class:`UsageError`."""
    from resurgsam2_cli.joining.pieces import Split

    if minutes is None:
        if overlap is not None:
            raise UsageError("--overlap is for --split-minutes", "leave it out, or add --split-minutes")
        return None
    try:
        return Split(minutes, _OVERLAP if overlap is None else overlap)
    except ValueError as error:
        raise UsageError(f"--split-minutes, --overlap: {error}", "as in --split-minutes 10 --overlap 2") from error


def _record(out: str, ctx: typer.Context) -> Record:
    from resurgsam2_cli.batch.record import Record
    from resurgsam2_cli.batch.stored import StoredRecord
    from resurgsam2_cli.files.urls import is_url

    if not is_url(out):
        return Record(Path(out))
    return StoredRecord(out, Path(ctx.with_resource(tempfile.TemporaryDirectory(prefix="resurgsam2-"))))


def _weights(parameters: dict[str, Any]) -> tuple[str, Path, Path | None]:
    """The name of the chosen weights, their file, and that of CLIP if there is one."""
    from weights import store

    with weights_errors():
        return store.resolve(parameters["weights"], parameters["clip_weights"])


def _executor(parameters: dict[str, Any]) -> Executor:
    """What does the work. Raises :class:`UsageError`."""
    from resurgsam2_cli.batch.executor import EngineRequest
    from resurgsam2_cli.batch.here import Here
    from resurgsam2_cli.batch.processes import Processes

    request = EngineRequest(parameters["weights"], parameters["clip_weights"], parameters["precision"])
    devices = [x.strip() for x in parameters["device"].split(",")]
    given = {name: parameters[name] for name in _CLUSTER if parameters[name] is not None}
    if parameters["engine"] is Where.RAY:
        from resurgsam2_cli.batch.on_ray import Cluster, OnRay

        return OnRay(request, parameters["device"], Cluster(**{_CLUSTER[x]: value for x, value in given.items()}))
    for name in given:
        raise UsageError(f"--{name.replace('_', '-')} is for --engine ray", "leave it out, or add --engine ray")
    return Here(request, devices[0]) if len(devices) == 1 else Processes(request, devices)


def _run(
    executor: Executor, job: Job, items: list[Item], most: int | None, *, quiet: bool, silent: bool
) -> Iterator[Outcome]:
    from resurgsam2_cli.terminal.batch_table import BatchTable

    def warn(warnings: Iterable[str]) -> None:
        for line in () if quiet else warnings:
            typer.echo(f"resurgsam2: {line}", err=True)

    with BatchTable(len(items), quiet=silent) as table:
        yield from executor.run(job, items, table, most, warn)


def _plans(job: Job, items: list[Item]) -> Iterator[dict[str, Any]]:
    for item in items:
        try:
            plan = job.plan(item)
        except UserError as error:
            yield {"source": item.key, "state": "failed", "frames": None, "note": error.message}
        except Exception as error:  # a bug: keep its traceback, and look at the other videos all the same
            traceback.print_exc()
            yield {"source": item.key, "state": "failed", "frames": None, "note": f"{type(error).__name__}: {error}"}
        else:
            yield {"source": item.key, **asdict(plan)}


def _limited(plans: Iterator[dict[str, Any]], most: int | None) -> Iterator[dict[str, Any]]:
    """As many as ``--limit`` allows; what is complete or left alone does not count."""
    for x in plans:
        if most is not None and x["state"] in ("new", "replace", "failed"):
            if most == 0:
                return
            most -= 1
        yield x


def _say_left_out(left_out: list[LeftOut], *, quiet: bool) -> None:
    if quiet:
        return
    for x in left_out[:_NAMED]:
        typer.echo(f"left out: {x.path} ({x.reason})", err=True)
    if len(left_out) > _NAMED:
        typer.echo(f"left out: {len(left_out) - _NAMED} more; --json names all", err=True)


def _say_unmatched(file: PromptFile | None, items: list[Item]) -> None:
    from resurgsam2_cli.files.text import did_you_mean

    for name in file.unmatched() if file else ():
        near = did_you_mean(name, [y for x in items for y in (x.below.name, str(x.below))])
        typer.echo(
            f"{file.path if file else ''}: no video is called {name!r}{'; ' if near else ''}{near}".rstrip(), err=True
        )


def _print_json(content: dict[str, Any]) -> None:
    from resurgsam2_cli.files.atomic import writing

    with writing(Path("standard output")):
        print(json.dumps(content), flush=True)


def _say_outcomes(outcomes: list[Outcome]) -> None:
    from resurgsam2_cli.terminal.batch_table import outcome_table
    from resurgsam2_cli.terminal.console import console

    screen = console(stderr=True)
    screen.print(outcome_table(outcomes))
    counts = {state: sum(x.state == state for x in outcomes) for state in ("done", "skipped", "changed", "failed")}
    screen.print(", ".join(f"{n} {state}" for state, n in counts.items() if n or state != "changed"))
