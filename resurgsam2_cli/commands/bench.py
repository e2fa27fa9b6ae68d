"""``resurgsam2 bench``: frames per second per stage, and what the others wait for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resurgsam2_cli.commands import options as shared
from resurgsam2_cli.errors import UsageError

if TYPE_CHECKING:
    from resurgsam2_cli.segmenting.bench import Benchmark


def bench(
    source: Annotated[
        str | None, typer.Argument(help="A video or a folder of images; by default, a rendered scene.")
    ] = None,
    count_objects: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Number of objects to measure with; repeat for each number (default 1 and 4)."),
    ] = None,
    size: Annotated[str, typer.Option(help="Size of the rendered scene, width x height.")] = "1280x720",
    count_frames: Annotated[int, typer.Option(min=8, help="How many frames to measure over.")] = 200,
    weights: shared.Weights = "auto",
    clip_weights: shared.ClipWeights = None,
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    as_json: shared.AsJson = False,
    verbose: shared.Verbose = False,
) -> None:
    """Measure frames per second of each stage alone, and of all together, on this machine.

    Decoding, the network (encoding, then detecting or tracking), and the outputs (masks in the video's size, then each
    file) run side by side; with a GPU, so does each output. The slowest of them is the bottleneck. Each time includes
    waiting for the device; start-up is measured separately.

    Examples

      resurgsam2 bench

      resurgsam2 bench video.mp4 --count-objects 1 --count-objects 16 --device cuda --precision bf16 --json
    """
    import tempfile

    width, height = _parse_size(size)

    from resurgsam2_cli.segmenting.bench import benchmark, make_video
    from resurgsam2_cli.segmenting.engine import Engine, build_engine
    from resurgsam2_cli.video.source import open_source

    engines: list[Engine] = []

    def build() -> Engine:
        engines.append(build_engine(weights, clip_weights, device, precision))
        return engines[0]

    def say(stage: str) -> None:
        typer.echo(f"measuring: {stage}", err=True)

    with tempfile.TemporaryDirectory() as folder:
        if source is None:
            say("a rendered scene is made")
            path = Path(folder) / "scene.mp4"
            make_video(path, height, width, count_frames)
            source = str(path)
        with open_source(source) as video:
            result = benchmark(build, video, count_frames, count_objects or [1, 4], say)
    engine = engines[0]
    if engine.executor.shortage:
        typer.echo(f"resurgsam2: {engine.executor.shortage}", err=True)
    if as_json:
        typer.echo(json.dumps({"weights": engine.weights.name, "backend": engine.record(), **result.record()}))
    else:
        _say(
            result,
            f"{engine.weights.name} on {engine.record()['device_name']} ({engine.device}, {engine.executor.precision})",
        )


def _say(result: Benchmark, what: str) -> None:
    from rich.table import Table

    from resurgsam2_cli.terminal.console import console

    table = Table("stage", "objects", "frames/s", "ms per frame", box=None, pad_edge=False)
    rows = [(x, "") for x in result.stages]
    rows += [(stage, str(x.objects)) for x in result.objects for stage in (*x.stages, x.end_to_end)]
    for stage, objects in rows:
        table.add_row(stage.stage, objects, f"{stage.frames_per_second:.1f}", f"{1000 * stage.seconds:.1f}")
    screen = console()
    screen.print(f"{what}, {result.width} x {result.height}, start-up {result.start_up_seconds:.1f} s")
    screen.print(table)
    for x in result.objects:
        peak = ", ".join(f"{value} MB ({where})" for where, value in x.peak_memory_mb.items() if value is not None)
        screen.print(
            f"{x.objects} object{'s' * (x.objects > 1)}: the bottleneck is: {x.bottleneck}; end to end takes "
            f"{x.of_bottleneck:.2f} times its time; peak memory {peak}"
        )


def _parse_size(text: str) -> tuple[int, int]:
    """Width and height, as ``1280x720``. Raises :class:`UsageError`."""
    found = re.fullmatch(r"(\d{2,4})x(\d{2,4})", text)
    if not found or not all(16 <= int(x) <= 8192 for x in found.groups()):
        raise UsageError(f"--size {text} is not a size from 16x16 to 8192x8192", "write it as 1280x720")
    return int(found[1]), int(found[2])
