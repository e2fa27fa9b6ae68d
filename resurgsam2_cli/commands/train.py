"""``resurgsam2 train``: train the demo network on rendered scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_REPORT_EVERY = 20  # steps


def train(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for state, log and release; goes on from there.")],
    hours: Annotated[float | None, typer.Option(help="Save and stop after this time.")] = None,
    start: Annotated[Path | None, typer.Option(help="Weights to begin with; from nothing if left out.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes that train together, each on its cores.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the first weights and of the scenes.")] = 0,
) -> None:
    """Train the demo network on an endless stream of rendered scenes.

    Run it again with the same folder to go on. The folder gets state.pt to go on from, log.csv with the losses of each
    step, and release.safetensors, which --weights takes.
    """
    import dataclasses
    import time

    from resurgsam2_cli.engine import weights_errors
    from resurgsam2_cli.training import DEMO_PLAN
    from resurgsam2_cli.training import train as run

    sums: dict[str, float] = {}

    def report(step: int, losses: dict[str, float], seconds: float) -> None:
        for name, value in {**losses, "seconds": seconds}.items():
            sums[name] = sums.get(name, 0.0) + value / _REPORT_EVERY
        if step % _REPORT_EVERY == 0:
            typer.echo(f"step {step}: " + ", ".join(f"{k} {v:.4f}" for k, v in sums.items()), err=True)
            sums.clear()

    until = None if hours is None else time.monotonic() + hours * 3600
    with weights_errors():
        release = run(
            dataclasses.replace(DEMO_PLAN, seed=seed), out, start=start, processes=processes, report=report, until=until
        )
    typer.echo(str(release.absolute()))
