"""How this program recognises its own files and folders: it never replaces any others."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resurgsam2_cli.errors import OutputError

Predicate = Callable[[Path], bool]

_OF_SYSTEMS = {".DS_Store", "Thumbs.db", "desktop.ini"}
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
    contents: Callable[[Path], set[str]] | None = None
    """The names that this program gives in such a folder; anything else there is a user's."""

    def foreign(self, path: Path) -> list[str]:
        """Names in a folder of ours that this program did not give."""
        if self.contents is None or not path.is_dir():
            return []
        return sorted({x.name for x in path.iterdir()} - self.contents(path) - _OF_SYSTEMS)


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
        raise OutputError(f"{path}: is already there", f"add --overwrite to replace it, or {kind.elsewhere}")


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
