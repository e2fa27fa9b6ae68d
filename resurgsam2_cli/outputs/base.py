"""What every output has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resurgsam2_cli.files.palette import color_of
from resurgsam2_cli.files.rle import compressed, runs_inside
from resurgsam2_cli.prompts.prompt import Prompt

if TYPE_CHECKING:  # nobody who only writes needs PyTorch
    from model.preprocess import Region


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
    legend: bool = True
    """Whether the overlay names the objects."""
    demo_weights: bool = False
    """Whether the bundled demo network made the masks: the outputs say so."""

    @property
    def colors(self) -> list[tuple[int, int, int]]:
        """RGB of each object."""
        return [color_of(i) for i in range(1, len(self.prompts) + 1)]


@dataclass(frozen=True)
class Searched:
    """What the search had said of an object in a frame that a pass backwards went over later."""

    present: bool
    object_score: float
    predicted_iou: float


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
    direction: int = 1
    """Of the pass that made the mask: 1 forwards, -1 backwards."""
    search: Searched | None = None

    @property
    def score(self) -> float:
        """Presence times predicted IoU."""
        return self.presence * self.predicted_iou


NO_PIXELS = np.zeros((0, 0, 0), np.uint8)
"""What a result has in place of a picture that nobody looks at."""


@dataclass(frozen=True)
class PackedMasks:
    """Masks as bits, which is an eighth of their bytes: they are unpacked where somebody looks at them."""

    bits: np.ndarray
    """(objects, height, width / 8, rounded up) uint8, as ``numpy.packbits`` makes them"""
    width: int

    @cached_property
    def boxes(self) -> list[list[float] | None]:
        """[x, y, width, height] of each mask; None if it is empty."""
        columns = np.unpackbits(np.bitwise_or.reduce(self.bits, axis=1), axis=-1, count=self.width).view(bool)
        return boxes_of(np.logical_or.reduce(self.bits, axis=2), columns)

    def unpacked(self) -> np.ndarray:
        """The masks, (objects, height, width) bool.

        Only the boxes are unpacked: what is around them is memory that nobody has touched yet.
        """
        masks = np.zeros((*self.bits.shape[:2], self.width), bool)
        for i, box in enumerate(self.boxes):
            region = region_of(box)
            masks[i][region] = self.inside(i, region)
        return masks

    def inside(self, i: int, region: Region) -> np.ndarray:
        """What of a mask is inside a region, bool."""
        rows, columns = region
        first, end = columns.start // 8, min(columns.stop, self.width)
        bits = self.bits[i, rows, first : -(-end // 8)]
        # In one row, as numpy holds Python's lock while it unpacks short ones.
        pixels = np.unpackbits(bits.reshape(-1)).view(bool).reshape(len(bits), 8 * bits.shape[1])
        return pixels[:, columns.start - 8 * first : end - 8 * first]


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
    made: np.ndarray | PackedMasks
    """The masks, as whoever made them has them."""
    labels: np.ndarray
    """(height, width) uint8, the label image: pixel = object id"""
    objects: list[ObjectResult]
    known_boxes: list[list[float] | None] | None = None
    """The boxes of the masks, if whoever made them knows them."""

    @property
    def file_name(self) -> str:
        """The file name of this frame's images."""
        return f"{self.name}.png"

    def __getstate__(self) -> dict[str, Any]:
        """What another process gets: not what follows from it."""
        return {x.name: getattr(self, x.name) for x in fields(self)}

    @cached_property
    def masks(self) -> np.ndarray:
        """(objects, height, width) bool; they may overlap."""
        return self.made.unpacked() if isinstance(self.made, PackedMasks) else self.made

    @cached_property
    def rle(self) -> list[dict[str, Any]]:
        """Compressed RLE of each mask, ``counts`` as an ASCII string."""
        return [{"size": list(self._size), "counts": counts} for _, counts in self._encoded]

    @cached_property
    def areas(self) -> list[int]:
        """Pixels of each object's own mask."""
        return [area for area, _ in self._encoded]

    @cached_property
    def boxes(self) -> list[list[float] | None]:
        """[x, y, width, height] of each mask; None if it is empty."""
        if self.known_boxes is not None:
            return self.known_boxes
        if isinstance(self.made, PackedMasks):
            return self.made.boxes
        return boxes_around(self.masks)

    @cached_property
    def _encoded(self) -> list[tuple[int, str]]:
        """Area and compressed counts of each mask: who needs one of them mostly needs both."""
        runs = [runs_inside(self.mask_inside(i, region_of(box)), box, self._size) for i, box in enumerate(self.boxes)]
        return [(int(x[1::2].sum()), counts) for x, counts in zip(runs, compressed(runs), strict=True)]

    def mask_inside(self, i: int, region: Region) -> np.ndarray:
        """What of a mask is inside a region, bool: the others need not be unpacked for it."""
        return self.made.inside(i, region) if isinstance(self.made, PackedMasks) else self.made[i][region]

    @property
    def _size(self) -> tuple[int, int]:
        """Height and width of a mask."""
        if isinstance(self.made, PackedMasks):
            return self.made.bits.shape[1], self.made.width
        return self.made.shape[1], self.made.shape[2]


def boxes_around(masks: np.ndarray) -> list[list[float] | None]:
    """The box [x, y, width, height] of each mask (any, height, width) bool; None if it is empty."""
    return boxes_of(np.logical_or.reduce(masks, axis=2), np.logical_or.reduce(masks, axis=1))


def boxes_of(rows: np.ndarray, columns: np.ndarray) -> list[list[float] | None]:
    """The box [x, y, width, height] of each mask, given which rows and columns of the picture it touches.

    Both are (objects, ...) bool; the box of an empty mask is None.
    """
    top, left = rows.argmax(axis=1), columns.argmax(axis=1)
    height = rows.shape[1] - rows[:, ::-1].argmax(axis=1) - top
    width = columns.shape[1] - columns[:, ::-1].argmax(axis=1) - left
    boxes = np.stack((left, top, width, height), axis=1).astype(float).tolist()
    found = np.logical_or.reduce(rows, axis=1)
    return [box if there else None for box, there in zip(boxes, found.tolist(), strict=True)]


def region_of(box: list[float] | None, margin: int = 0) -> Region:
    """The rows and columns of a box, with a margin as far as the picture goes; of None, no rows and columns."""
    if box is None:
        return slice(0, 0), slice(0, 0)
    left, top, width, height = (int(x) for x in box)
    rows = slice(max(0, top - margin), top + height + margin)
    return rows, slice(max(0, left - margin), left + width + margin)


class Sink(ABC):
    """Writes one format into ``folder``. ``finish`` or ``abort`` is called once, at the end."""

    threads = 1
    """How many threads may prepare frames side by side, while another one adds those that are prepared."""

    draws = False
    """Whether it looks at the picture: one that does not may get frames without."""

    def __init__(self, folder: Path, clip: Clip) -> None:
        self.folder, self.clip = folder, clip
        self.sums: dict[str, str] = {}
        """After ``finish``: the checksum of each file or folder that people may correct, by its name."""

    def write(self, result: FrameResult) -> None:
        """Take one frame; they come in order."""
        self.add(self.prepare(result))

    def prepare(self, result: FrameResult) -> Any:
        """Do what asks for no other frame; in any thread, and in any order."""
        return result

    @abstractmethod
    def add(self, prepared: Any) -> None:
        """Take one frame as it was prepared; they come in order."""

    def finish(self) -> Iterable[str]:
        """Complete the files; return their names in the folder."""
        return ()

    def interrupt(self) -> None:  # noqa: B027  (most wait for nothing)
        """From another thread: end an ``add`` that waits for something outside of this process."""

    def abort(self) -> None:  # noqa: B027  (most have nothing to stop)
        """Stop; what was written will not be used."""
