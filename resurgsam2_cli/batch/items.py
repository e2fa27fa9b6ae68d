"""What a batch is made of: videos, how far they are, and what happened to them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from resurgsam2_cli.files.text import readable
from resurgsam2_cli.files.urls import is_url
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.video.image_folder import IMAGE_SUFFIXES
from resurgsam2_cli.video.positions import Part
from resurgsam2_cli.video.source import VIDEO_SUFFIXES

State = Literal["done", "skipped", "changed", "failed"]


@dataclass(frozen=True)
class Piece:
    """A piece of a long video."""

    number: int
    """From 1."""
    count: int
    part: Part
    of: Path
    """The folder of the whole run, below the output folder."""

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.number:05d}"


@dataclass(frozen=True)
class Item:
    """A source, where it lies below the folder that was given, and its prompts."""

    source: str
    below: PurePosixPath
    """Its path below the source folder; the name alone if it was given itself. The run goes to the same place."""
    prompts: tuple[Prompt, ...] = ()
    beside: frozenset[str] = frozenset()
    """Names, in lower case, of the folders beside its run in which runs of other videos go."""
    piece: Piece | None = None
    """What of it is to be done now, if that is not all."""
    pieces: tuple[str, ...] = ()
    """The folders of its pieces, if they are done and to be joined now."""

    @property
    def parent(self) -> Path:
        """The folder below the output folder in which the run goes."""
        return Path(self.below.parent)

    @property
    def is_folder(self) -> bool:
        """Whether the source is a folder of images; of a URL, its suffix must tell."""
        if is_url(self.source):
            return self.below.suffix.lower() not in VIDEO_SUFFIXES | IMAGE_SUFFIXES
        return os.path.isdir(self.source)

    @property
    def stem(self) -> str:
        """The name without the suffix of a file."""
        return self.below.name if self.is_folder else self.below.stem

    @property
    def names(self) -> tuple[str, ...]:
        """What prompt files may call it: its file name, or any end of its path; with the suffix or without."""
        parts = PurePosixPath(Path(self.key).as_posix()).parts
        ends = [PurePosixPath(*parts[i:]) for i in range(len(parts))] + [self.below]
        whole = [str(x) for x in ends] + [self.source]
        return tuple(whole if self.is_folder else [*whole, *(str(x.with_suffix("")) for x in ends if x.name)])

    @property
    def key(self) -> str:
        """The name used in the record."""
        return readable(self.source if is_url(self.source) else str(Path(self.source).absolute()))

    @property
    def place(self) -> tuple[Path, str]:
        """Items of one place are done one after the other, so that the first gets the name and the next ``-2``."""
        if self.piece is not None:
            return self.piece.of, self.piece.name
        return self.parent, self.stem.lower()

    @property
    def title(self) -> str:
        """What people call it."""
        if self.piece is not None:
            return f"{self.source} ({self.piece.number} of {self.piece.count} pieces)"
        return f"{self.source} (joining its pieces)" if self.pieces else self.source


class Cut(NamedTuple):
    """In place of an outcome: the video is to be done in these pieces."""

    items: tuple[Item, ...]


class Progress(NamedTuple):
    """How far a video is."""

    frames: int
    total: int | None
    """An estimate; None if it is unknown."""
    stages: str
    """The stage of each object, in words."""


@dataclass(frozen=True)
class Outcome:
    """What happened to one video."""

    source: str
    state: State
    folder: str | None = None
    frames: int | None = None
    seconds: float | None = None
    error: str | None = None
    note: str | None = None

    @property
    def frames_per_second(self) -> float | None:
        """None if nothing was segmented."""
        return self.frames / self.seconds if self.frames and self.seconds else None

    @property
    def is_there(self) -> bool:
        """Whether the run that was asked for is there now."""
        return self.state in ("done", "skipped")
