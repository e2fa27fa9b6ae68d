"""Checksums of what a run wrote, which show a person's corrections."""

from __future__ import annotations

import hashlib
from pathlib import Path

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.runs.record import MARKS, Run, read_run

_BYTES = 16


class TreeSum:
    """The checksum of a folder's PNG files, which are added one by one as they are written, in any order."""

    def __init__(self) -> None:
        self._total = 0

    def add(self, name: str, content: bytes) -> None:
        """Take a file into account; ``name`` is its path below the folder."""
        key = name.encode("utf-8", "surrogateescape") + b"\0"
        self._total += int.from_bytes(hashlib.blake2b(key + content, digest_size=_BYTES).digest(), "big")

    def value(self) -> str:
        """The checksum in hexadecimal."""
        return f"{self._total % 2 ** (8 * _BYTES):0{2 * _BYTES}x}"


def file_sum(path: Path) -> str:
    """The checksum of a file, in hexadecimal. Raises ``OSError``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_BYTES)).hexdigest()


def tree_sum(folder: Path) -> str:
    """The checksum of a folder, as :class:`TreeSum` makes it. Raises ``OSError``."""
    total = TreeSum()
    for path in folder.rglob("*.png"):
        if path.is_file():
            total.add(path.relative_to(folder).as_posix(), path.read_bytes())
    return total.value()


def corrected(run: Run) -> list[str]:
    """What a person changed in a run: marks, and files and folders that are not what was written."""
    changed = [MARKS] if (run.folder / MARKS).exists() else []
    for name, expected in run.sums.items():
        path = run.folder / name
        try:
            if (tree_sum if path.is_dir() else file_sum)(path) != expected:
                changed.append(name)
        except OSError:
            changed.append(name)
    return changed


def corrections(folder: Path) -> list[str]:
    """What :func:`corrected` gives for a folder; empty if it does not hold a run that can be read."""
    try:
        return corrected(read_run(folder))
    except InputError:
        return []
