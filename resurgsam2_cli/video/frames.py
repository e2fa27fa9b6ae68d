"""What sources of frames have in common: the frame, and what tells one source from another."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.text import one_line

DEFAULT_FOLDER_RATE = Fraction(25)

MOST_PIXELS = 2**30 // 4 // 3
"""Of a picture, if nothing else is asked for: as in Pillow, a quarter of a gigabyte of RGB."""


@dataclass(frozen=True)
class Reading:
    """How a source is read."""

    frame_rate: Fraction | None = None
    """Of a folder of images, which has none of its own; None for :data:`DEFAULT_FOLDER_RATE`."""
    deinterlace: bool = False
    """Fill in the lines of one field of interlaced video from the other."""
    most_pixels: int = MOST_PIXELS
    """Larger pictures are not opened."""


@dataclass(frozen=True)
class Frame:
    """One decoded frame."""

    number: int
    """The number in the source, from 0, whatever was skipped."""
    name: str
    """The name of the frame's images: the picture's own name in a folder, else the number with leading zeros."""
    time: Fraction
    """Presentation time in seconds."""
    rgb: np.ndarray
    """(height, width, 3) uint8"""


class EmptyPart(InputError):
    """No frame lies in the part asked for."""

    frames: int | None = None
    """How many the source has, if that is known."""


def empty_part(path: Path | str, frames: int | None) -> EmptyPart:
    """The error of a part without frames; ``frames`` is how many the source has, if that is known."""
    found = "no frame lies" if frames is None else f"it has {frames} frames, none of them"
    error = EmptyPart(f"{path}: {found} in the part asked for", "change --start or --end")
    error.frames = frames
    return error


def too_large(path: Path | str, width: int, height: int) -> InputError:
    """The error of a picture that would take too much memory."""
    return InputError(
        f"{path}: is {width} x {height} pixels, more than is safe to open",
        f"if that is right: --max-pixels {width * height}",
    )


def safe_name(stem: str, default: str) -> str:
    """A folder name from that of a source: without control characters, and never that of a partial folder."""
    name = one_line(stem).strip(". ") or default
    return f"{name}_" if name.lower().endswith(".partial") else name


def digits_for(frames: int | None) -> int:
    """How many digits keep the names of about ``frames`` frames in order; at least five."""
    return max(5, len(str(int((frames or 0) * 1.05))))


_SAMPLE = 2**20  # bytes


class Sampled(Protocol):
    """A file of which parts are read."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def part(self, begin: int, most: int) -> bytes:
        """Up to so many bytes from a place on."""
        ...


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine. Raises ``OSError``."""

    path: Path

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size

    def part(self, begin: int, most: int) -> bytes:
        """Up to so many bytes from a place on."""
        with self.path.open("rb") as stream:
            stream.seek(begin)
            return stream.read(most)


def content_sum(files: Sequence[Sampled], names: Sequence[str] = ()) -> str:
    """A sum over sizes and over the first, middle and last megabyte of files read as one."""
    sizes = [file.size for file in files]
    total = sum(sizes)
    digest = hashlib.blake2b(repr((sizes, *names)).encode(), digest_size=16)
    for begin in sorted({0, max(0, (total - _SAMPLE) // 2), max(0, total - _SAMPLE)}):
        left, offset = _SAMPLE, begin
        for file, size in zip(files, sizes, strict=True):
            if offset >= size:
                offset -= size
                continue
            data = file.part(offset, left)
            digest.update(data)
            left, offset = left - len(data), 0
            if left <= 0:
                break
    return digest.hexdigest()


def frame_key(name: str) -> str:
    """The key by which frames are matched: the name, or its value if it is a number, whatever its leading zeros."""
    return str(int(name)) if name.isascii() and name.isdecimal() else name


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """A sort key by which numbers inside names count as numbers: ``2.png`` comes before ``10.png``."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(x), x) if x.isdecimal() else (1, 0, x.lower()) for x in parts if x]
