"""``resurgsam2 weights``: list, fetch, add, verify, convert."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from resurgsam2_cli.errors import OutputError, UsageError

app = typer.Typer(
    help="Where weights come from: fetch published ones, add your own.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_DEFAULT = "resurgsam2-ref-endovis18"


@app.command("list")
def list_weights(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on standard output.")] = False,
) -> None:
    """What is here, and what can be fetched."""
    from rich.console import Console
    from rich.table import Table

    from weights import store

    have, known = store.installed(), store.releases()
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "folder": str(store.home()),
                    "installed": [store.describe(x) for x in have.values()],
                    "releases": [store.describe(x) for x in known.values()],
                }
            )
        )
        return
    table = Table("name", "kind", "here", "what", title=f"weights in {store.home()}", title_justify="left")
    if store.BUNDLED.is_file():
        size = _size(store.BUNDLED.stat().st_size)
        table.add_row(store.DEMO, "network", size, "bundled: small, trained on rendered scenes alone")
    for name, release in known.items():
        item = have.get(name)
        table.add_row(
            name,
            release.kind,
            _size(item.size) if item else "no",
            f"{release.title}\n[dim]licence: {release.licence}[/dim]",
        )
    for name, item in have.items():
        if name not in known:
            table.add_row(name, item.kind, _size(item.size), f"added from {item.source}")
    Console().print(table)


@app.command()
def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(help=f"Names from 'weights list'; {_DEFAULT} and its text tower if left out."),
    ] = None,
) -> None:
    """Download weights into the cache; a broken download goes on where it stopped."""
    from resurgsam2_cli.engine import weights_errors
    from weights import store

    known = store.releases()
    for name in names or []:
        if name not in known:
            raise UsageError(f"{name!r} is no release", f"there are: {', '.join(known)}")
    for name in names or [_DEFAULT, "clip-vit-b-32"]:
        if name in store.installed():
            typer.echo(f"{name}: already here")
            continue
        release = known[name]
        with weights_errors():
            for item in store.fetch(release, _check(release.kind)):
                typer.echo(f"{item.name}: {_size(item.size)}, sha256 {item.sha256}\n{item.path}")


@app.command()
def add(
    path: Annotated[Path, typer.Argument(help="A .pth, .pt, .bin or .safetensors file that you have.")],
    name: Annotated[str | None, typer.Option(help="Its name from now on; the file's stem if left out.")] = None,
) -> None:
    """Check a weight file that you got elsewhere and take it into the cache: a network, or CLIP's text tower."""
    from resurgsam2_cli.engine import weights_errors
    from weights import store
    from weights.key_map import is_clip
    from weights.loader import read_tensors

    chosen = name or path.stem
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", chosen) or chosen in ("auto", store.DEMO, *store.releases()):
        raise UsageError(
            f"{chosen!r} cannot be the name of added weights", "choose another with --name: letters, digits, - _ ."
        )
    with weights_errors():
        kind = "clip" if is_clip(read_tensors(path).tensors) else "network"
        item = store.install(path, chosen, kind, str(path.absolute()), _check(kind))
    typer.echo(f"{item.name}: a {kind}, {_size(item.size)}, sha256 {item.sha256}\n{item.path}")


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names from 'weights list'; all if left out.")] = None,
) -> None:
    """Compare what is here with its recorded sum, and check that it still fits the network."""
    from resurgsam2_cli.engine import weights_errors
    from weights import store

    have = store.installed()
    for name in names or []:
        if name not in have:
            raise UsageError(f"{name!r} is not here", f"there are: {', '.join(have) or 'none'}")
    for name in names or list(have):
        with weights_errors():
            store.verify(have[name], _check(have[name].kind))
        typer.echo(f"{name}: good, sha256 {have[name].sha256}")
    if not have:
        typer.echo("there are no weights yet; get them with: resurgsam2 weights fetch")


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A published checkpoint.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    clip_weights: Annotated[Path | None, typer.Option(help="CLIP's text tower, where the checkpoint has none.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
) -> None:
    """Join a checkpoint and CLIP's text tower into one safetensors file."""
    from resurgsam2_cli.engine import weights_errors
    from weights.loader import check_fit, complete, read_checkpoint, save_release
    from weights.store import resolve, sha256

    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: the file is to end in .safetensors", "rename it")
    if out.exists() and not overwrite:
        raise OutputError(f"{out}: is already there", "add --overwrite to replace it")
    with weights_errors():
        _, path, clip_path = resolve(str(checkpoint), clip_weights)
        loaded = read_checkpoint(path)
        tensors = complete(loaded, path, clip_path)
        check_fit(path, loaded.config, tensors)
    partial = out.with_name(out.name + ".partial")
    try:
        save_release(partial, loaded.config, tensors, made_from=path.name)
        partial.replace(out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{out}: cannot be written ({error.strerror or error})", "write it elsewhere") from error
    typer.echo(f"{out.absolute()}: {_size(out.stat().st_size)}, sha256 {sha256(out)}")


def _check(kind: str) -> Callable[[Path], None]:
    from weights.loader import check_clip, check_network

    return check_clip if kind == "clip" else check_network


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
