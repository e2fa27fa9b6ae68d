"""Takes weight files into the cache, and out of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from resurgsam2_cli.errors import OutputError, UsageError
from resurgsam2_cli.files.atomic import write_json, writing
from resurgsam2_cli.files.filling import discard_leftovers, empty_trash, fill, naming, throw_away, tidy
from resurgsam2_cli.files.kinds import Kind, never
from resurgsam2_cli.files.text import did_you_mean
from weights import store
from weights.store import Check, Installed

_REPLACED = "replaced"

_FILE = Kind("a weight file", never, never, "choose another --name")


@contextmanager
def changing_cache() -> Iterator[None]:
    """Have errors in writing say where else the cache may be."""
    try:
        yield
    except OutputError as error:
        hint = f"make room there, or name another folder in {store.HOME_VARIABLE}"
        raise OutputError(error.message, error.hint if "-o" not in error.hint else hint) from error


def install(item: Installed, check: Check, *, overwrite: bool = False) -> Installed:
    """Check the file of ``item`` and take a copy into the cache; return the cached item.

    The cache keeps the previous file of that name until the new one is complete. Raises ``WeightsError`` for a file
    that does not fit and for a damaged record of that name, :class:`UsageError` if other weights have the name and are
    not to be replaced, and :class:`OutputError`. After an error the cache is as it was.
    """
    check(item.path)
    with changing_cache():
        tidy(store.home())
        _finish_replacing(item.name)
    before = store.installed().get(item.name)
    if before is not None and before.sha256 == item.sha256 == store.sha256(before.path):
        return before
    if before is not None and before.sha256 != item.sha256 and not overwrite:
        raise UsageError(f"{item.name} is the name of other weights", "choose another --name, or add --overwrite")
    if before is None and item.name in (broken := store.damaged()):
        raise store.damage([broken[item.name]])
    if before is None and _record(item.name).exists():
        raise UsageError(f"{_record(item.name)}: is in the way", "choose another --name, or move that file away")
    with changing_cache():
        target = _free(item)
        if not target.exists():
            with fill(target, _FILE, overwrite=False) as filling, writing(target):
                with item.path.open("rb") as source, (filling.partial / target.name).open("wb") as copy:
                    shutil.copyfileobj(source, copy, 2**20)
                filling.complete(target.name)
        done = replace(item, path=target, size=target.stat().st_size)
        replaced = {} if before is None or before.path == target else {_REPLACED: before.path.name}
        with naming(store.home()), writing(target):
            discard_leftovers(target)
            write_json(_record(item.name), {**asdict(done), "path": target.name, **replaced})
        empty_trash(store.home())
        _finish_replacing(item.name)
    return done


def _record(name: str) -> Path:
    return store.home() / f"{name}.json"


def _finish_replacing(name: str) -> None:
    """Delete the replaced file, which the record of the new one names until it is gone."""
    path = _record(name)
    if name not in store.installed() or not path.is_file():
        return
    with writing(path):
        entry = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(old := entry.pop(_REPLACED, None), str):
            used = {x.path.name for x in store.installed().values()}
            if (store.home() / old).is_file() and Path(old).name == old and old not in used:
                throw_away(store.home() / old)
            write_json(path, entry)


def _free(item: Installed) -> Path:
    """Where the file goes. Nothing is ever overwritten, so that a record always has the file that it describes."""
    path = store.home() / f"{item.name}{item.path.suffix or '.pth'}"
    if path.exists() and store.sha256(path) != item.sha256:
        path = path.with_name(f"{path.stem}-{item.sha256[:8]}{path.suffix}")
    return path


def described(path: Path, name: str, kind: str, source: str) -> Installed:
    """A file to install."""
    return Installed(name, kind, path, store.sha256(path), path.stat().st_size, source)


def remove(name: str) -> Path:
    """Take weights out of the cache, also if their record is damaged; return the path of what was removed.

    Raises :class:`UsageError`, :class:`OutputError`.
    """
    with changing_cache():
        tidy(store.home())
    item, broken, record = store.installed().get(name), store.damaged().get(name), _record(name)
    if item is None and broken is None:
        here = list(store.installed())
        raise UsageError(f"{name!r} is not here", f"{did_you_mean(name, here)}there are: {', '.join(here) or 'none'}")
    files = [item.path] if item is not None else list(broken.files if broken else ())
    with changing_cache(), writing(record):
        if broken is not None:
            write_json(record, {"name": name, "sha256": None})  # known as ours also without the files beside it
        for path in (*files, record):
            throw_away(path)
    return files[0] if files else record
