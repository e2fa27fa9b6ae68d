"""Frames of a video file, a folder of images, or standard input, as one stream.

All three give the same :class:`Frame` objects: RGB uint8, upright, numbered as in the source, with their true
presentation time. Nothing is read ahead but what the pipe holds.
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
from resurgsam2_cli.video.frames import DEFAULT_FOLDER_RATE, Frame
from resurgsam2_cli.video.image_folder import ImageFolder
from resurgsam2_cli.video.positions import Part
from resurgsam2_cli.video.video_file import VideoFile

_VIDEOS = (
    "3g2 3gp amv asf avi divx dv f4v flv gif h264 h265 hevc m1v m2t m2ts m2v m4v mj2 mjpeg mjpg mk3d mkv mod mov mp4 "
    "mpe mpeg mpg mpv mts mxf nut ogm ogv qt rm rmvb tod tp trp ts vob webm wmv wtv y4m"
)
VIDEO_SUFFIXES = frozenset(map(".{}".format, _VIDEOS.split()))


def holds_videos(entries: Iterable[Path]) -> bool:
    """Whether a folder with these entries counts as one of videos, whatever lies beside them."""
    return any(x.suffix.lower() in VIDEO_SUFFIXES and not x.name.startswith("._") and x.is_file() for x in entries)


class Source(Protocol):
    """What a pipeline needs of a video. Size, rate and times are known once :meth:`frames` gave the first frame."""

    path: Path
    """The path that is recorded; ``-`` for standard input."""
    name: str
    """The stem of the output folder."""
    rate: Fraction
    """Frames per second."""
    audio: Path | None
    """A file with the sound of this video."""

    def frames(self, part: Part) -> Generator[Frame, None, None]:
        """The wanted frames in order. Raises :class:`InputError`."""
        ...

    def interrupt(self) -> None:
        """From another thread: abort the frame that :meth:`frames` waits for; no more will come."""
        ...

    def expected(self, part: Part) -> int | None:
        """About how many frames :meth:`frames` will give."""
        ...

    def identity(self) -> dict[str, Any]:
        """``size`` (bytes), ``sum``, and for a folder ``files``: a different value means different content."""
        ...


def source_path(source: Source) -> str:
    """The source's path as run.json has it: absolute, or ``-``."""
    return "-" if str(source.path) == "-" else readable(os.path.abspath(source.path))


@contextmanager
def open_source(source: str, frame_rate: Fraction | None = None) -> Iterator[Source]:
    """Open a video file, a folder of images, or ``-``.

    ``frame_rate`` is for folders, which have none of their own (default 25). Raises :class:`InputError`.
    """
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
            yield VideoFile(Path(copy.name), shown=Path("-"), name="stdin")
        return
    path = Path(source)
    if not source:
        raise UsageError("the source is empty", "name a video, a folder of images, or -")
    if frame_rate is not None and not os.path.isdir(path):
        raise UsageError("--frame-rate is for folders of images; a video has its own", "leave it out")
    if os.path.isdir(path):
        if holds_videos(path.iterdir()):
            raise InputError(f"{source}: is a folder of videos", "name one of them, or do all: resurgsam2 batch")
        yield ImageFolder(path, frame_rate or DEFAULT_FOLDER_RATE)
    elif os.path.isfile(path):
        yield VideoFile(path)
    elif os.path.exists(path):
        raise InputError(f"{source}: is neither a file nor a folder", "pipe it in: resurgsam2 segment - < ...")
    elif "://" in source:
        raise InputError(
            f"{source}: only local files are opened",
            "download it first, or pipe it in: ... | resurgsam2 segment -",
        )
    else:
        raise InputError(f"{source}: no such file or folder", "check the path; '-' reads standard input")
