"""``resurgsam2 review``: a page on this machine, to see what is worth a look, correct it, and confirm it."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import typer

from resurgsam2_cli.commands import options as shared
from resurgsam2_cli.errors import UsageError

_PAGE = "The page"


def review(
    ctx: typer.Context,
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs, or folders that hold runs.")],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 for any free one.", rich_help_panel=_PAGE)
    ] = 0,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.", rich_help_panel=_PAGE)] = False,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="For looking only: nothing is changed.", rich_help_panel=_PAGE)
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Instead of a server: write one page (an .html file) with the places worth a look, to send to "
            "somebody. It shows pictures of the video.",
            rich_help_panel=_PAGE,
        ),
    ] = None,
    count_places: Annotated[
        int, typer.Option(min=1, max=1000, help="With --save: places of each run, at most.", rich_help_panel=_PAGE)
    ] = 20,
    sources: shared.Sources = None,
    weights: shared.WeightsOfRun = None,
    clip_weights: shared.ClipWeights = None,
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    overwrite: shared.Overwrite = False,
    quiet: shared.Quiet = False,
    as_json: shared.AsJson = False,
    verbose: shared.Verbose = False,
) -> None:
    """See finished runs, what is worth a look, and put wrong masks right, on a page that only this machine can open.

    Click on what is meant, and beside it; draw; say where something is absent, and what is right. Then have it tracked
    again. All of it is kept in the run, which gets a next version, as with "resurgsam2 refine".

    Examples

      resurgsam2 review runs/video

      resurgsam2 review runs/ --read-only

      resurgsam2 review runs/video --save look.html
    """
    from resurgsam2_cli.runs.find import find_runs

    found, unfinished = find_runs(runs)
    if unfinished and not quiet:
        typer.echo(f"resurgsam2: {unfinished} unfinished run{'s' * (unfinished > 1)} left out", err=True)
    if save is not None:
        from resurgsam2_cli.review.saved import save_page

        save_page(found, save, count_places, sources, overwrite=overwrite)
        if as_json:
            print(json.dumps({"path": str(save.absolute()), "runs": len(found)}), flush=True)
        elif not quiet:
            typer.echo(str(save.absolute()), err=True)
        return
    if overwrite:
        raise UsageError("--overwrite is for --save", "leave it out: nothing else is written over")

    from resurgsam2_cli.commands.refine import engines_of
    from resurgsam2_cli.process.interruption import Interrupted
    from resurgsam2_cli.review.opened import OpenRun
    from resurgsam2_cli.review.server import Page, serve
    from resurgsam2_cli.segmenting.engine import build_engine

    opened = []
    load = lru_cache(2)(build_engine)  # with words and without: the network is loaded once for all runs
    for run in found:
        build = None if read_only else engines_of(run, weights, ctx.params, load, quiet=quiet)
        opened.append(OpenRun(run, build, sources))

    def tell(address: str) -> None:
        if as_json:
            print(json.dumps({"address": address, "runs": len(found)}), flush=True)
        elif quiet:
            typer.echo(address, err=True)
        else:
            typer.echo(f"{address}\n  Ctrl-C ends it; only this machine can open it", err=True)
        if show:
            import webbrowser

            webbrowser.open(address)

    try:
        serve(Page(opened), port, tell)
    except Interrupted:  # that is how a page ends
        if not (quiet or as_json):
            typer.echo("\nresurgsam2: the page is closed; all that was said is kept in the runs", err=True)
