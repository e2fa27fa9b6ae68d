"""What every output has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from resurgsam2_cli.files.palette import color_of
from resurgsam2_cli.prompts.prompt import Prompt


@dataclass(frozen=True)
class Clip:
    """What the outputs know of a video before its first frame."""

    name: str
    """The name of the run's folder, unique below the output folder, so that many runs can be joined."""
    height: int
    width: int
    rate: Fraction
    """Frames per second of the outputs: the source's, divided by the stride."""
    start: Fraction
    """Presentation time of the first processed frame, in seconds."""
    length: Fraction | None
    """Seconds of the wanted part, if it ends before the source does."""
    audio: Path | None
    prompts: tuple[Prompt, ...]
    """Object ids count from 1 in this order."""
    pixel_aspect: Fraction = Fraction(1)
    """Width of a displayed pixel over its height."""

    @property
    def colors(self) -> list[tuple[int, int, int]]:
        """RGB of each object."""
        return [color_of(i) for i in range(1, len(self.prompts) + 1)]


@dataclass(frozen=True)
class ObjectResult:
    """One object in one frame. Frame numbers are those of the source."""

    id: int
    stage: str
    present: bool
    object_score: float
    predicted_iou: float
    presence: float
    conditioning_frames: tuple[int, ...]
    long_term_frames: tuple[int, ...]

    @property
    def score(self) -> float:
        """Presence times predicted IoU."""
        return self.presence * self.predicted_iou


@dataclass(frozen=True)
class FrameResult:
    """One frame, all objects."""

    number: int
    """The frame's number in the source."""
    name: str
    """The name of the frame's images."""
    time: Fraction
    rgb: np.ndarray
    """(height, width, 3) uint8"""
    masks: np.ndarray
    """(objects, height, width) bool; they may overlap"""
    labels: np.ndarray
    """(height, width) uint8, the label image: pixel = object id"""
    objects: list[ObjectResult]

    @property
    def file_name(self) -> str:
        """The file name of this frame's images."""
        return f"{self.name}.png"

    @cached_property
    def rle(self) -> list[dict[str, Any]]:
        """Compressed RLE of each mask, ``counts`` as an ASCII string."""
        return [encode_rle(mask, box) for mask, box in zip(self.masks, self.boxes, strict=True)]

    @cached_property
    def areas(self) -> list[int]:
        """Pixels of each object's own mask."""
        return [int(np.count_nonzero(mask)) for mask in self.masks]

    @cached_property
    def boxes(self) -> list[list[float] | None]:
        """[x, y, width, height] of each mask; None if it is empty."""
        return [_box(mask) for mask in self.masks]


def encode_rle(mask: np.ndarray, box: list[float] | None) -> dict[str, Any]:
    """Compressed RLE of a mask (height, width) bool; reads only its ``box`` [x, y, width, height].

    The result is that of pycocotools, which would go through every pixel of the picture.
    """
    height, width = mask.shape
    bounds = np.zeros(0, np.intp)
    if box is not None:
        left, top, columns, rows = (int(x) for x in box)
        # Column by column, each closed by background at both ends: every run has a start and an end.
        inside = np.pad(mask[top : top + rows, left : left + columns].T, ((0, 0), (1, 1)))
        column, row = np.divmod(np.flatnonzero(inside[:, 1:] != inside[:, :-1]), rows + 1)
        bounds = (left + column) * height + top + row
        ends = np.flatnonzero(bounds[1:-1:2] == bounds[2::2]) * 2 + 1  # where a run continues in the next column
        bounds = np.delete(bounds, np.concatenate((ends, ends + 1)))
    if not len(bounds) or bounds[-1] < mask.size:
        bounds = np.append(bounds, mask.size)
    plain = {"size": [height, width], "counts": np.diff(bounds, prepend=0).tolist()}
    return {**plain, "counts": coco_mask.frPyObjects(plain, height, width)["counts"].decode("ascii")}


def _box(mask: np.ndarray) -> list[float] | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    top, left = int(rows[0]), int(columns[0])
    return [float(left), float(top), float(columns[-1] - left + 1), float(rows[-1] - top + 1)]


class Sink(ABC):
    """Writes one format into ``folder``. ``finish`` or ``abort`` is called once, at the end."""

    def __init__(self, folder: Path, clip: Clip) -> None:
        self.folder, self.clip = folder, clip
        self.sums: dict[str, str] = {}
        """After ``finish``: the checksum of each file or folder that people may correct, by its name."""

    @abstractmethod
    def write(self, result: FrameResult) -> None:
        """Take one frame; they come in order."""

    def finish(self) -> Iterable[str]:
        """Complete the files; return their names in the folder."""
        return ()

    def interrupt(self) -> None:  # noqa: B027  (most wait for nothing)
        """From another thread: end a ``write`` that waits for something outside of this process."""

    def abort(self) -> None:  # noqa: B027  (most have nothing to stop)
        """Stop; what was written will not be used."""
