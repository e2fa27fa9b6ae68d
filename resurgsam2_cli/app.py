"""The Typer app. A command parses, builds options, and calls one function. None of this imports torch."""

from __future__ import annotations

from typing import Annotated

import typer

from resurgsam2_cli import __version__
from resurgsam2_cli.commands import (
    batch,
    bench,
    doctor,
    evaluate,
    export,
    probe,
    refine,
    render,
    review,
    segment,
    train,
    weights,
)
from resurgsam2_cli.commands.help import Command
from resurgsam2_cli.commands.usage import Group

app = typer.Typer(
    name="resurgsam2",
    cls=Group,
    help="Say in words which instrument or tissue you mean, get its mask in every frame of a surgical video.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"resurgsam2 {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


app.command("segment", cls=Command)(segment.segment)
app.command("batch", cls=Command)(batch.batch)
app.command("probe", cls=Command)(probe.probe)
app.command("refine", cls=Command)(refine.refine)
app.command("review", cls=Command)(review.review)
app.command("export", cls=Command)(export.export)
app.add_typer(weights.app, name="weights")
app.command("evaluate", cls=Command)(evaluate.evaluate)
app.command("render", cls=Command)(render.render)
app.command("train", cls=Command)(train.train)
app.command("bench", cls=Command)(bench.bench)
app.command("doctor", cls=Command)(doctor.doctor)
