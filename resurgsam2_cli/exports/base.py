"""What every export has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pycocotools import mask as coco_mask

from resurgsam2_cli.exports.categories import Category
from resurgsam2_cli.outputs.cleaning import Cleaning
from resurgsam2_cli.runs.find import MADE_BY as MADE_BY
from resurgsam2_cli.runs.record import Run
from resurgsam2_cli.video.frames import Frame
from resurgsam2_cli.video.source import Source


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and how it looks."""

    frames: str | None = None
    """``jpg`` or ``png`` to export the pictures, too; files of that kind are copied."""
    sources: Path | None = None
    """The folder where the videos are now, if they were moved."""
    every: int = 1
    """Export every n-th of the processed frames."""
    min_score: float = 0.0
    min_area: int = 0
    cleaning: Cleaning = field(default_factory=Cleaning)
    """Of the masks, before those below ``min_area`` are left out."""
    rle: str = "compressed"
    """For youtube-vis: ``compressed`` or ``uncompressed``."""
    parts: bool = False
    """For yolo-seg: a polygon for each connected part of a mask."""
    colors: tuple[tuple[str, tuple[int, int, int]], ...] = ()
    """For overlay: category names with RGB."""
    opacity: float = 0.45
    side_by_side: bool = False
    legend: bool = True


@dataclass(frozen=True)
class VideoObject:
    """An object of a run that is exported."""

    id: int
    """The id in its run."""
    track_id: int
    """The id in the export."""
    text: str
    """Its prompt."""
    category: Category
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Video:
    """A run as the export has it."""

    id: int
    """From 1."""
    run: Run
    flat_name: str
    """Its name without ``/``, for formats whose readers look one folder deep."""
    split: str
    """Empty without ``--split``."""
    objects: dict[int, VideoObject]
    """By their id in the run."""

    @property
    def name(self) -> str:
        """Unique; ``/`` stands between folders."""
        return self.run.name


@dataclass(frozen=True, slots=True)
class Mask:
    """One object in one frame, never empty."""

    object: VideoObject
    rle: dict[str, Any]
    """Compressed, ``counts`` as an ASCII string."""
    area: float
    """Pixels."""
    box: list[float]
    """[x, y, width, height]"""
    score: float


@dataclass(frozen=True, slots=True)
class ExportFrame:
    """One exported frame."""

    number: int
    """The frame's number in the source."""
    name: str
    """The name of its images."""
    file_name: str
    """The name of the file of its picture, with its suffix, as annotations have it."""
    time: float
    """Seconds."""
    states: list[dict[str, Any]]
    """The states of the objects, as in frames.jsonl."""
    masks: list[Mask]
    """In the order of the objects; they may overlap."""
    picture: Frame | None
    """The video's frame, if the exporter :attr:`~Exporter.needs_pictures`."""
    source: Source | None
    """The source of the picture."""

    def decoded(self) -> np.ndarray:
        """The masks as (masks, height, width) uint8, 0 or 1; at least one."""
        return coco_mask.decode([x.rle for x in self.masks]).transpose(2, 0, 1)


@dataclass(frozen=True)
class Dataset:
    """All of an export but its frames."""

    categories: tuple[Category, ...]
    """In order of their ids."""
    splits: tuple[str, ...]
    """Empty without ``--split``."""
    videos: tuple[Video, ...]
    options: ExportOptions


class Exporter(ABC):
    """Writes one format into the folder ``root``: :meth:`add` for each video, then :meth:`finish` or :meth:`abort`."""

    file_suffix: ClassVar[str] = ""
    """The suffix of a format that can be one file, if it has no pictures and no splits."""
    has_pictures: ClassVar[bool] = True
    """Whether ``--frames`` and ``--split`` make sense."""
    needs_pictures: ClassVar[bool] = False
    """Whether the frames come with the video's pictures."""
    inner_suffixes: ClassVar[frozenset[str]] = frozenset()
    """Of files that it writes into the folders of its :meth:`contents`, beside images."""

    def __init__(self, root: Path, dataset: Dataset) -> None:
        self.root, self.dataset = root, dataset

    @classmethod
    @abstractmethod
    def contents(cls, dataset: Dataset) -> set[str]:
        """The names of all that it may write at the top of ``root``."""

    @abstractmethod
    def add(self, video: Video, frames: Iterator[ExportFrame]) -> None:
        """Write a video; ``frames`` is to be read to its end."""

    def picture_path(self, video: Video, file_name: str) -> str:
        """Where the picture of a frame belongs, below ``root``; ``file_name`` is that of the frame."""
        raise NotImplementedError

    def single_file(self) -> str:
        """The path below ``root`` of an export that is one file."""
        raise NotImplementedError

    def finish(self) -> None:  # noqa: B027  (some have nothing to complete)
        """Complete the files."""

    def abort(self) -> None:  # noqa: B027
        """Stop; what was written will not be used."""

    def losses(self) -> list[str]:
        """What the format could not hold, with counts, one line each."""
        return []

    @property
    def suffix(self) -> str:
        """The suffix of pictures that are not copied, as file names in annotations have it."""
        return self.dataset.options.frames or "png"
