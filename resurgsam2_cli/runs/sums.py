"""Checksums of what a run wrote, which show a person's corrections."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from resurgsam2_cli.files.kinds import OF_SYSTEMS, SUCCEEDS, UNFINISHED, is_partial_name
from resurgsam2_cli.files.text import is_name, parse_json, read_text
from resurgsam2_cli.runs.record import ANNOTATIONS, DRAFT, FRAMES, HISTORY, MARKS, MASKS, OBJECTS, RECORD, raw_record

_BYTES = 16

_FILES = {"png": MASKS, "object_png": OBJECTS, "coco": ANNOTATIONS, "overlay": "overlay.mp4"}
"""What each output writes."""


_OF_OLD_VERSIONS = {"annotations.json.images", "annotations.json.annotations"}
"""Left by a kill."""

_OF_ANY_RUN = {RECORD, FRAMES, MARKS, DRAFT, HISTORY, UNFINISHED, SUCCEEDS, *OF_SYSTEMS, *_OF_OLD_VERSIONS}

OWN_NAMES = _OF_ANY_RUN | set(_FILES.values())
"""What the folder of a run may hold, whatever its outputs are."""


class TreeSum:
    """The checksum of a folder's PNG files, which are added as they are written, in any order, by any thread."""

    def __init__(self, start: str = "0") -> None:
        self._total, self._lock = int(start, 16), threading.Lock()

    def add(self, name: str, content: bytes) -> None:
        """Take a file into account; ``name`` is its path below the folder."""
        number = _number(name, content)
        with self._lock:
            self._total += number

    def replace(self, name: str, old: bytes, new: bytes) -> None:
        """Take into account that a file that was added has another content now."""
        self.add(name, new)
        self.remove(name, old)

    def remove(self, name: str, content: bytes) -> None:
        """Take into account that a file that was added is gone."""
        number = _number(name, content)
        with self._lock:
            self._total -= number

    def value(self) -> str:
        """The checksum in hexadecimal."""
        return f"{self._total % 2 ** (8 * _BYTES):0{2 * _BYTES}x}"


def _number(name: str, content: bytes) -> int:
    key = name.encode("utf-8", "surrogateescape") + b"\0"
    return int.from_bytes(hashlib.blake2b(key + content, digest_size=_BYTES).digest(), "big")


def file_sum(path: Path) -> str:
    """The checksum of a file, in hexadecimal. Raises ``OSError``."""
    with path.open("rb") as file:
        return stream_sum(file)


def stream_sum(file: IO[bytes]) -> str:
    """The checksum of what is left to read in a file, in hexadecimal. Raises ``OSError``."""
    digest = hashlib.blake2b(digest_size=_BYTES)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def tree_sum(folder: Path) -> str:
    """The checksum of a folder, as :class:`TreeSum` makes it. Raises ``OSError``."""
    total = TreeSum()
    for name, path in images_below(os.fspath(folder)):
        with open(path, "rb", buffering=0) as file:
            total.add(name, file.read())
    return total.value()


def images_below(folder: str, below: str = "") -> Iterator[tuple[str, str]]:
    """The PNG files of a folder and those in it: their paths below it, with slashes, and their whole paths."""
    with os.scandir(folder) as entries:  # an hour of video has 90,000: objects for their paths would take longest
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from images_below(entry.path, f"{below}{entry.name}/")
            elif entry.name.endswith(".png") and entry.is_file():
                yield below + entry.name, entry.path


def corrections(folder: Path) -> list[str]:
    """What a person changed in a run, finished or kept unfinished: marks, and what is not as it was written."""
    changed = [name for name in (MARKS, DRAFT) if _says_something(folder / name)]
    for name, expected in _sums(folder).items():
        path = folder / name
        try:
            if path.exists() and (tree_sum if path.is_dir() else file_sum)(path) != expected:
                changed.append(name)
        except OSError:
            changed.append(name)
    return changed


def _says_something(path: Path) -> bool:
    """Whether there are marks in a file, or what cannot be read."""
    try:
        return parse_json(read_text(path)) != {"marks": []}
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True


def missing(folder: Path, is_less: Callable[[str, Any], bool] | None = None) -> list[str]:
    """What a run wrote and is not there any more, or not all of it.

    ``is_less`` says for a name, if the run is not in the folder itself, whether a file of it is gone or empty, or a
    folder has fewer entries.
    """
    outputs, frames = _outputs(folder), raw_record(folder).get("source", {}).get("frames")
    if outputs is None:
        return []
    wanted = [FRAMES, *(file for output, file in _FILES.items() if output in outputs)]
    less = is_less or (lambda name, least: _is_less(folder / name, least))
    return [name for name in wanted if less(name, frames if name == MASKS else 1)]


def _is_less(path: Path, least: Any) -> bool:
    """Whether a file is gone or empty, or a folder has fewer entries."""
    if not path.is_dir():
        return not path.exists() or not path.stat().st_size
    return isinstance(least, int) and sum(1 for _ in path.iterdir()) < least


def _sums(folder: Path) -> dict[str, str]:
    sums = raw_record(folder).get("sums")
    return {x: y for x, y in sums.items() if is_name(x) and isinstance(y, str)} if isinstance(sums, dict) else {}


def foreign(folder: Path) -> list[str]:
    """What is in the folder of a run, finished or kept unfinished, that the run did not write."""
    ours, is_image = own_names(folder), _images_of(folder)
    found = [x.name for x in folder.iterdir() if x.name not in ours and not is_partial_name(x.name)]
    below = [folder / MASKS, *((folder / OBJECTS).iterdir() if (folder / OBJECTS).is_dir() else ())]
    for path in below:
        if path.is_dir():
            found += [x.relative_to(folder).as_posix() for x in path.iterdir() if not is_image(x.name)]
        elif path.exists():
            found.append(path.relative_to(folder).as_posix())
    return sorted(found)


def own_names(folder: Path) -> set[str]:
    """What the folder of a run may hold that the run, or the system, made."""
    outputs = _outputs(folder) or set(_FILES)
    return _OF_ANY_RUN | {file for output, file in _FILES.items() if output in outputs}


def _outputs(folder: Path) -> set[str] | None:
    """What a run was to write; None if its record does not say so yet."""
    settings = raw_record(folder).get("settings")
    outputs = settings.get("outputs") if isinstance(settings, dict) else None
    return {x for x in outputs if isinstance(x, str)} if isinstance(outputs, list) else None


def _images_of(folder: Path) -> Callable[[str], bool]:
    """Tells whether a name is that of an image of the run's, or of one that systems leave.

    The images of a run that was killed may be ahead of its lines: by their form then, which is that of a number for
    video, and any for a folder of images.
    """
    if _outputs(folder) is not None:
        images = {f"{x}.png" for x in _names(folder)} | OF_SYSTEMS
        return lambda name: name in images or is_partial_name(name)
    source = raw_record(folder).get("source")
    form = r".+\.png" if isinstance(source, dict) and "files" in source else r"\d{5,}\.png"
    return lambda name: bool(re.fullmatch(form, name)) or name in OF_SYSTEMS or is_partial_name(name)


def _names(folder: Path) -> Iterator[str]:
    """Of the frames of a run, as far as its lines can be read."""
    try:
        with (folder / FRAMES).open(encoding="utf-8") as lines:
            for line in lines:
                frame = parse_json(line)
                yield str(frame.get("name", f"{frame.get('frame', 0):05d}"))
    except (OSError, ValueError, AttributeError, TypeError):
        return
