"""``resurgsam2 weights``: list, fetch, add, remove, verify, convert."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resurgsam2_cli.commands import options as shared
from resurgsam2_cli.commands.help import Command
from resurgsam2_cli.commands.usage import Group
from resurgsam2_cli.errors import UsageError, WeightsProblem, weights_errors
from resurgsam2_cli.files.text import did_you_mean

if TYPE_CHECKING:
    from rich.text import Text

    from weights.store import Installed

app = typer.Typer(
    cls=Group,
    help="Where weights come from: fetch published ones, add your own.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_DEFAULT = "resurgsam2-ref-endovis18"
_TOWER = "clip-vit-b-32"


@app.command("list", cls=Command)
def list_weights(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """List what is here, and what can be fetched."""
    from rich.table import Table
    from rich.text import Text

    from resurgsam2_cli.files.text import one_line
    from resurgsam2_cli.terminal.console import console
    from weights import store

    with weights_errors():
        have, known, broken = store.installed(), store.releases(), store.damaged()
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "folder": str(store.home()),
                    "installed": [store.describe(x) for x in have.values()],
                    "damaged": [store.describe(x) for x in broken.values()],
                    "releases": [
                        {
                            **store.describe(x),
                            "here": name in have,
                            "download_size": store.download_size(x, have.get(name)),
                            "size_on_disk": store.size_on_disk(x, have.get(name)),
                        }
                        for name, x in known.items()
                    ],
                }
            )
        )
        return
    table = Table(title=f"weights in {store.home()}", title_justify="left", show_lines=True)
    table.add_column("name", no_wrap=True)
    table.add_column("here")
    table.add_column("what")
    if store.BUNDLED.is_file():
        facts = {"for": "words and pointing", "size": f"{_size(store.BUNDLED.stat().st_size)} on disk"}
        table.add_row(store.DEMO, "bundled", _facts("a small network, trained on rendered scenes alone", facts))
    for name, release in known.items():
        item = have.get(name)
        sizes = store.download_size(release, item), store.size_on_disk(release, item)
        facts = {
            "for": f"{release.use}; trained on {release.data}" if release.data else release.use,
            "size": f"{_size(sizes[0])} to download, {_size(sizes[1])} on disk",
            "licence": release.licence,
        }
        here = "yes" if item else "damaged" if name in broken else "no"
        table.add_row(name, here, _facts(f"{release.title} ({release.kind})", facts))
    for name, item in have.items():
        if name not in known:
            facts = {"size": f"{_size(item.size)} on disk"}
            table.add_row(name, "yes", _facts(f"a {item.kind}, added from {item.source}", facts))
    for name in broken:
        if name not in known:
            table.add_row(one_line(name), "damaged", "its record cannot be used")
    console().print(table)
    if broken:
        error = store.damage(broken.values())
        console().print(Text(f"{one_line(str(error))}\n  {one_line(error.hint)}"), soft_wrap=True)


@app.command(cls=Command)
def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(help=f"Names from 'weights list'; by default, {_DEFAULT} and its text tower."),
    ] = None,
    quiet: shared.Quiet = False,
    as_json: shared.AsJson = False,
    verbose: shared.Verbose = False,
) -> None:
    """Download weights into the cache; a broken download is resumed.

    The environment variable RESURGSAM2_MIRROR names a server of your own, such as http://mirror.local/hf. Its address
    stands in place of https://huggingface.co and the other servers, and the rest of each address stays, as in
    http://mirror.local/hf/openai/clip-vit-base-patch32/resolve/main/model.safetensors. A file of Google Drive has its
    id there: http://mirror.local/hf/ID. Sums and sizes that are known are checked as always.

    On a machine without internet, copy the files over and use: resurgsam2 weights add
    """
    from resurgsam2_cli.cache.download import fetch as download
    from weights import store

    with weights_errors():
        known = store.releases()
    for name in names or []:
        if name not in known:
            raise UsageError(f"{name!r} is not a release", f"{did_you_mean(name, known)}there are: {', '.join(known)}")
    done: list[Installed] = []
    with weights_errors():
        if broken := [x for name, x in store.damaged().items() if name in (names or (_DEFAULT, _TOWER))]:
            raise store.damage(broken)
    for name in names or [_DEFAULT, _TOWER]:
        if name in store.installed():
            _say(f"{name}: already here", quiet=quiet or as_json)
            continue
        release = known[name]

        def tell(host: str, size: int | None, name: str = name) -> None:
            much = "a file whose size it does not say" if size is None else _size(size)
            _say(f"{name}: downloading {much} from {host}", quiet=quiet or as_json)

        with weights_errors():
            for item in download(release, _check(release.kind), tell):
                done.append(item)
                _say(f"{item.name}: {_size(item.size)}, sha256 {item.sha256}\n{item.path}", quiet=quiet or as_json)
    if as_json:
        typer.echo(json.dumps([store.describe(x) for x in done]))


@app.command(cls=Command)
def add(
    path: Annotated[Path, typer.Argument(help="A .pth, .pt, .bin or .safetensors file that you have.")],
    name: Annotated[str | None, typer.Option(help="The name to give it; by default, that of the file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace added weights of that name.")] = False,
    quiet: shared.Quiet = False,
    as_json: shared.AsJson = False,
    verbose: shared.Verbose = False,
) -> None:
    """Check a weight file that you got elsewhere and take a copy into the cache: a network, or CLIP's text tower."""
    from resurgsam2_cli.cache.install import described, install
    from weights import store
    from weights.key_map import is_clip
    from weights.loader import read_tensors

    chosen = name or path.stem
    with weights_errors():
        taken = ("auto", store.DEMO, *store.releases())
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", chosen) or chosen in taken:
        raise UsageError(
            f"{chosen!r} cannot be the name of added weights", "choose another with --name: letters, digits, - _ ."
        )
    with weights_errors():
        kind = "clip" if is_clip(read_tensors(path).tensors) else "network"
        item = install(described(path, chosen, kind, str(path.absolute())), _check(kind), overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps(store.describe(item)))
    _say(f"{item.name}: a {kind}, {_size(item.size)}, sha256 {item.sha256}\n{item.path}", quiet=quiet or as_json)


@app.command(cls=Command)
def remove(
    names: Annotated[list[str], typer.Argument(help="Names from 'weights list'.")],
    quiet: shared.Quiet = False,
    as_json: shared.AsJson = False,
    verbose: shared.Verbose = False,
) -> None:
    """Delete weights from the cache."""
    from resurgsam2_cli.cache import install
    from weights import store

    for name in names:
        if name == store.DEMO:
            raise UsageError("the demo weights come with the program and cannot be removed", "leave them out")
    if len(names) > 1 and (unknown := [x for x in names if x not in {**store.installed(), **store.damaged()}]):
        near = did_you_mean(unknown[0], store.installed())
        raise UsageError(f"{unknown[0]!r} is not here, so nothing was removed", f"{near}see: resurgsam2 weights list")
    paths = [str(install.remove(name)) for name in names]
    if as_json:
        typer.echo(json.dumps({"removed": paths}))
    for path in paths:
        _say(f"removed {path}", quiet=quiet or as_json)


@app.command(cls=Command)
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names from 'weights list'; by default, all.")] = None,
) -> None:
    """Compare what is here with its recorded checksum, and check that it still fits the network."""
    from weights import store
    from weights.errors import WeightsError

    have, broken = store.installed(), store.damaged()
    for name in names or []:
        if name not in {**have, **broken}:
            raise UsageError(
                f"{name!r} is not here", f"{did_you_mean(name, have)}there are: {', '.join(have) or 'none'}"
            )
    if not have and not broken:
        typer.echo("there are no weights yet; get them with: resurgsam2 weights fetch")
    problems: list[WeightsError] = []
    for name in names or [*have, *broken]:
        try:
            if name in broken:
                raise store.damage([broken[name]])
            store.verify(have[name], _check(have[name].kind))
            typer.echo(f"{name}: good, sha256 {have[name].sha256}")
        except WeightsError as error:
            problems.append(error)
    if problems:
        hints = dict.fromkeys(x.hint for x in problems)
        raise WeightsProblem("; ".join(map(str, problems)), "; ".join(hints))


@app.command(cls=Command)
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A published checkpoint.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    clip_weights: Annotated[
        Path | None, typer.Option(help="A file with CLIP's text tower, if the checkpoint has none.")
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            help="A value of CIFS or DLM that suits these weights, such as long-term-min-iou=0.85; repeat for more.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT, if this program made it.")] = False,
    quiet: shared.Quiet = False,
    as_json: shared.AsJson = False,
    verbose: shared.Verbose = False,
) -> None:
    """Join a checkpoint and CLIP's text tower into one safetensors file."""
    from resurgsam2_cli.files.filling import new_file
    from resurgsam2_cli.files.kinds import Kind, file_that_holds, never
    from weights.loader import FORMAT, check_fit, complete, read_checkpoint, save_release
    from weights.store import resolve, sha256, stated_rules

    rules = _rules(rule or [])
    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: the file must end in .safetensors", "rename it")
    release = Kind("a release", file_that_holds(FORMAT), never, "name another file")
    with new_file(out, release, overwrite=overwrite) as partial, weights_errors():
        _, path, clip_path = resolve(str(checkpoint), clip_weights)
        loaded = read_checkpoint(path)
        tensors = complete(loaded, path, clip_path)
        check_fit(path, loaded.config, tensors)
        rules = {**stated_rules(path), **rules}
        save_release(partial, loaded.config, tensors, made_from=path.name, **({"rules": rules} if rules else {}))
    size, total = out.stat().st_size, sha256(out)
    if as_json:
        typer.echo(json.dumps({"path": str(out.absolute()), "size": size, "sha256": total}))
    _say(f"{out.absolute()}: {_size(size)}, sha256 {total}", quiet=quiet or as_json)


def _rules(texts: list[str]) -> dict[str, float]:
    """Values for a release to state. Raises :class:`UsageError`."""
    from model import Rules
    from resurgsam2_cli.files.text import did_you_mean
    from weights.store import RULES

    named = {x.replace("_", "-"): x for x in RULES}
    rules: dict[str, float] = {}
    for text in texts:
        said, _, value = (x.strip() for x in text.partition("="))
        if not said or not value:
            raise UsageError(
                f"--rule {text!r}: is not NAME=VALUE", f"write --rule window=3; the names are {', '.join(named)}"
            )
        shown = said.replace("_", "-")
        name = named.get(shown)
        if name is None:
            raise UsageError(
                f"--rule {text!r}: there is no rule {said!r}",
                f"{did_you_mean(shown, named)}the names are {', '.join(named)}",
            )
        if name in rules:
            raise UsageError(f"--rule {shown} is given twice", "leave one of them out")
        kind = type(getattr(Rules(), name))
        try:
            rules[name] = kind(value)
        except ValueError as error:
            what = "a whole number" if kind is int else "a number"
            raise UsageError(
                f"--rule {text!r}: {value!r} is not {what}", f"write --rule {shown}=VALUE, VALUE being {what}"
            ) from error
        try:
            Rules(**{name: rules[name]})  # type: ignore[arg-type]
        except ValueError as error:
            cause = str(error).replace(name, shown)
            raise UsageError(f"--rule {text!r}: {cause}", f"change the value: --rule {shown}=VALUE") from error
    return rules


def _say(text: str, *, quiet: bool) -> None:
    if not quiet:
        typer.echo(text)


def _check(kind: str) -> Callable[[Path], None]:
    from weights.loader import check_clip, check_network

    return check_clip if kind == "clip" else check_network


def _size(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:.1f} MB"


def _facts(title: str, facts: dict[str, str]) -> Text:
    """A title, and under it a line for each fact that there is."""
    from rich.text import Text

    lines = [(f"\n{name}: {fact}", "dim") for name, fact in facts.items() if fact]
    return Text.assemble(title, *lines)
