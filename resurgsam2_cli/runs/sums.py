"""Checksums of what a run wrote, which show a person's corrections."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from resurgsam2_cli.files.kinds import OF_SYSTEMS, UNFINISHED
from resurgsam2_cli.files.text import is_name, parse_json
from resurgsam2_cli.runs.record import ANNOTATIONS, FRAMES, MARKS, MASKS, OBJECTS, RECORD, raw_record

_BYTES = 16

_FILES = {"png": MASKS, "object_png": OBJECTS, "coco": ANNOTATIONS, "overlay": "overlay.mp4"}
"""What each output writes."""


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


def corrections(folder: Path) -> list[str]:
    """What a person changed in a run, finished or kept unfinished: marks, and what is not as it was written."""
    changed = [MARKS] if (folder / MARKS).exists() else []
    for name, expected in _sums(folder).items():
        path = folder / name
        try:
            if path.exists() and (tree_sum if path.is_dir() else file_sum)(path) != expected:
                changed.append(name)
        except OSError:
            changed.append(name)
    return changed


def missing(folder: Path) -> list[str]:
    """What a run wrote and is not there any more."""
    return [name for name in _sums(folder) if not (folder / name).exists()]


def _sums(folder: Path) -> dict[str, str]:
    sums = raw_record(folder).get("sums")
    return {x: y for x, y in sums.items() if is_name(x) and isinstance(y, str)} if isinstance(sums, dict) else {}


def foreign(folder: Path) -> list[str]:
    """What is in the folder of a run, finished or kept unfinished, that the run did not write."""
    record = raw_record(folder)
    settings = record.get("settings")
    outputs = settings.get("outputs") if isinstance(settings, dict) else None
    if not isinstance(outputs, list):  # not even begun
        return []
    ours = {RECORD, FRAMES, MARKS, "history", UNFINISHED, *OF_SYSTEMS}
    ours |= {file for output, file in _FILES.items() if output in outputs}
    found = [x.name for x in folder.iterdir() if x.name not in ours]
    images = {f"{x}.png" for x in _names(folder)} | OF_SYSTEMS
    below = [folder / MASKS, *((folder / OBJECTS).iterdir() if (folder / OBJECTS).is_dir() else ())]
    for path in below:
        if path.is_dir():
            found += [x.relative_to(folder).as_posix() for x in path.iterdir() if x.name not in images]
        elif path.exists():
            found.append(path.relative_to(folder).as_posix())
    return sorted(found)


def _names(folder: Path) -> Iterator[str]:
    """Of the frames of a run, as far as its lines can be read."""
    try:
        with (folder / FRAMES).open(encoding="utf-8") as lines:
            for line in lines:
                frame = parse_json(line)
                yield str(frame.get("name", f"{frame.get('frame', 0):05d}"))
    except (OSError, ValueError, AttributeError, TypeError):
        return
