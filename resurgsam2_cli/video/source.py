"""Frames of a video file, a folder of images, or standard input, as one stream.

All three give the same :class:`Frame` objects: RGB uint8, upright, numbered as in the source, with their true
presentation time. No more than a few frames are read ahead.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

from resurgsam2_cli.errors import InputError, OutputError, UsageError
from resurgsam2_cli.files.text import readable
from resurgsam2_cli.files.urls import is_url
from resurgsam2_cli.video.frames import Frame, Reading
from resurgsam2_cli.video.image_folder import IMAGE_SUFFIXES, ImageFolder
from resurgsam2_cli.video.positions import WHOLE, Part
from resurgsam2_cli.video.remote import RemoteSource
from resurgsam2_cli.video.video_file import VideoFile

_VIDEOS = (
    "3g2 3gp amv asf avi divx dv f4v flv gif h264 h265 hevc m1v m2t m2ts m2v m4v mj2 mjpeg mjpg mk3d mkv mod mov mp4 "
    "mpe mpeg mpg mpv mts mxf nut ogm ogv qt rm rmvb tod tp trp ts vob webm wmv wtv y4m"
)
VIDEO_SUFFIXES = frozenset(map(".{}".format, _VIDEOS.split()))
LIST_SUFFIXES = frozenset({".txt", ".lst"})
"""Of files with the path of a video on each line."""


def holds_videos(entries: Iterable[Path]) -> bool:
    """Whether a folder with these entries counts as one of videos, whatever lies beside them."""
    return any(x.suffix.lower() in VIDEO_SUFFIXES and not x.name.startswith("._") and x.is_file() for x in entries)


def has_images(source: str) -> bool:
    """Whether a source that is there is a folder or an image: these have no frame rate of their own."""
    return os.path.isdir(source) or Path(source).suffix.lower() in IMAGE_SUFFIXES


class Source(Protocol):
    """What a pipeline needs of a video. Size, rate and times are known once :meth:`frames` gave the first frame."""

    path: Path | str
    """The path that is recorded; ``-`` for standard input, a text for a URL."""
    name: str
    """The stem of the output folder."""
    rate: Fraction
    """Frames per second."""
    reading: Reading
    pixel_aspect: Fraction
    """Width of a displayed pixel over its height; masks have the pixels that the file has."""
    facts: dict[str, Any]
    """What run.json says of the pictures, once :meth:`frames` is through."""

    @property
    def warnings(self) -> list[str]:
        """What the user should know of the source; more after :meth:`frames`."""
        ...

    @property
    def audio(self) -> Path | None:
        """A file with the sound of this video."""
        ...

    def frames(self, part: Part = WHOLE) -> Generator[Frame, None, None]:
        """The wanted frames in order. Raises :class:`InputError`."""
        ...

    def interrupt(self) -> None:
        """From another thread: abort the frame that :meth:`frames` waits for; no more will come."""
        ...

    def expected(self, part: Part) -> int | None:
        """About how many frames :meth:`frames` will give."""
        ...

    def within_reach(self) -> int | None:
        """How many frames there are, if a late one is reached without decoding all before it; else None.

        Raises :class:`InputError`.
        """
        ...

    def identity(self) -> dict[str, Any]:
        """``size`` (bytes), ``sum``, and for a folder ``files``: a different value means different content."""
        ...


def source_path(source: Source | RemoteSource) -> str:
    """The source's path as run.json has it: absolute, ``-``, or a URL."""
    if isinstance(source.path, str):
        return readable(source.path)
    return "-" if str(source.path) == "-" else readable(os.path.abspath(source.path))


@contextmanager
def open_source(source: str | os.PathLike[str], reading: Reading | None = None) -> Iterator[Source]:
    """Open a video file, a folder of images, one image, ``-`` for standard input, or a URL, for a ``with`` block.

    ``reading`` says what the source does not: the frame rate of images, whether to deinterlace, and how large pictures
    may be. What is behind a URL is copied to this machine for as long as the block lasts. Raises :class:`InputError`,
    and :class:`UsageError` for a frame rate that a video has itself.
    """
    source = os.fspath(source)
    reading = reading or Reading()
    if source == "-":
        # Copied to a file first: most MP4 files cannot be read without seeking, and the sound is needed later.
        if sys.stdin is None:
            raise InputError("-: there is no standard input", "pipe a video in, or name a file")
        with tempfile.NamedTemporaryFile(prefix="resurgsam2-", suffix=".stdin") as copy:
            try:
                shutil.copyfileobj(sys.stdin.buffer, copy)
                copy.flush()
            except OSError as error:
                raise OutputError(
                    f"{copy.name}: standard input cannot be copied ({error.strerror})",
                    "make room there, or name another folder in TMPDIR",
                ) from error
            yield VideoFile(Path(copy.name), shown=Path("-"), name="stdin", reading=reading)
        return
    if is_url(source) and not os.path.exists(source):
        remote = RemoteSource(source)
        with remote.fetched() as copy:
            yield _fetched(remote, copy, reading)
        return
    path = Path(source)
    if not source:
        raise UsageError("the source is empty", "name a video, a folder of images, or -")
    _check_rate(path, reading)
    if os.path.isdir(path):
        if holds_videos(path.iterdir()):
            raise InputError(f"{source}: is a folder of videos", "name one of them, or do all: resurgsam2 batch")
        yield ImageFolder(path, reading)
    elif path.suffix.lower() in LIST_SUFFIXES and os.path.isfile(path):
        raise InputError(f"{source}: is a text file, not a video", "for a list of videos: resurgsam2 batch")
    elif os.path.isfile(path):
        yield ImageFolder(path, reading) if has_images(source) else VideoFile(path, reading=reading)
    elif os.path.exists(path):
        raise InputError(f"{source}: is neither a file nor a folder", "pipe it in: resurgsam2 segment - < ...")
    else:
        raise InputError(f"{source}: no such file or folder", "check the path; '-' reads standard input")


def _check_rate(path: Path, reading: Reading) -> None:
    if reading.frame_rate is not None and os.path.isfile(path) and not has_images(str(path)):
        raise UsageError("--frame-rate is for folders of images; a video has its own", "leave it out")


def _fetched(remote: RemoteSource, copy: Path, reading: Reading) -> Source:
    """The copy of a source behind a URL, under its own names."""
    _check_rate(copy, reading)
    if not has_images(str(copy)):
        return VideoFile(copy, shown=remote.path, name=remote.name, reading=reading)
    images = ImageFolder(copy, reading)
    images.path, images.name = remote.path, remote.name
    return images
