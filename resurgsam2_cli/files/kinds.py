"""How this program recognises its own files and folders: it never replaces any others."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from resurgsam2_cli.errors import OutputError

Predicate = Callable[[Path], bool]

UNFINISHED = ".unfinished"
"""In a folder that is being filled, or was when its process was killed."""

SUCCEEDS = ".succeeds"
"""In the folder of a next version until that has its place: the sum of the record that it follows."""

OF_SYSTEMS = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""The files that file managers leave everywhere."""


@dataclass(frozen=True)
class Kind:
    """Something that this program writes as a whole, and how to tell its own from a user's."""

    noun: str
    """With its article, as in "a run"."""
    is_ours: Predicate
    """Whether this program made everything that has the final name."""
    is_complete: Predicate
    """Whether a folder that was being filled has everything; never for single files, which appear in one step."""
    elsewhere: str = "choose another folder with -o"
    foreign: Callable[[Path], list[str]] = lambda path: []
    """What a folder of ours holds that this program did not put there."""
    touched: Predicate = lambda path: False
    """Whether a person changed a folder of ours, finished or kept unfinished, since it was written."""
    succeeds: Callable[[Path, Path], bool] = lambda partial, path: False
    """Whether a complete folder is the next version of the one in its place, with all that this one holds."""


PARTIAL = ".partial"


def partial_name(name: str) -> str:
    """The name that a file has until it is whole."""
    return f".{name}{PARTIAL}"


def is_partial_name(name: str) -> bool:
    """Whether a file may be one that a killed process did not finish."""
    return name.startswith(".") and name.endswith(PARTIAL)


def check_free(path: Path, kind: Kind, *, overwrite: bool) -> None:
    """Raise :class:`OutputError` if something has the name ``path`` that may not be replaced."""
    if not os.path.lexists(path) or is_empty(path):
        return
    if not kind.is_ours(path):
        add = "" if overwrite else "already there, and "
        raise OutputError(f"{path}: is {add}not {kind.noun} of this program, so it is not replaced", kind.elsewhere)
    if foreign := kind.foreign(path):
        raise OutputError(
            f"{path}: has something that this program did not make ({foreign[0]}), so it is not replaced",
            f"move that away, or {kind.elsewhere}",
        )
    if not overwrite:
        there, all_of_it = (
            (" with what a person corrected", ", corrections and all") if kind.touched(path) else ("", "")
        )
        raise OutputError(
            f"{path}: is already there{there}", f"add --overwrite to replace it{all_of_it}, or {kind.elsewhere}"
        )


def check_folder(path: Path, remedy: str = "name a folder with -o") -> None:
    """Raise :class:`OutputError` if there is a file where a folder ``path`` is to be, or in the way to it."""
    there = next((x for x in (path, *path.parents) if os.path.lexists(x)), None)
    if there is not None and not os.path.isdir(there):
        raise OutputError(f"{there}: is a file where a folder is expected", remedy)


def never(path: Path) -> bool:
    """Never complete: for targets that appear in one step."""
    return False


def file_that_holds(text: str) -> Predicate:
    """Test whether a file is ours by a text that this program writes into every file of its kind."""

    def is_ours(path: Path) -> bool:
        if not path.is_file() or not path.stat().st_size:
            return False
        # Search all of it: a video holds the text behind its index, which may be long.
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(text.encode()) >= 0

    return is_ours


def is_empty(path: Path) -> bool:
    """Whether this is a folder with nothing in it."""
    return path.is_dir() and not any(path.iterdir())


def tree_state(folder: Path, *apart: str) -> str:
    """A sum over names and sizes of all files in a folder, except those at its top that are named ``apart``."""
    total = 0
    for path in _files(folder, apart):
        entry = f"{path.relative_to(folder).as_posix()}\0{path.lstat().st_size}".encode("utf-8", "surrogateescape")
        total += int.from_bytes(hashlib.blake2b(entry, digest_size=16).digest(), "big")
    return f"{total % 2**128:032x}"


def changed_files(folder: Path, record: str, state: str) -> list[str]:
    """What was added, changed or removed in a folder since ``record``, a file in it, was written as the last one."""
    files = list(_files(folder, (record, UNFINISHED)))
    latest = (folder / record).stat().st_mtime + _TOLERANCE
    newer = [path.relative_to(folder).as_posix() for path in files if path.lstat().st_mtime > latest]
    if newer or tree_state(folder, record, UNFINISHED) == state:
        return sorted(newer)
    return ["files were added or removed"]


_TOLERANCE = 2.0
"""Seconds: file systems round times."""


def _files(folder: Path, apart: tuple[str, ...]) -> Iterator[Path]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if name not in apart and path.name not in OF_SYSTEMS and (path.is_symlink() or not path.is_dir()):
            yield path
