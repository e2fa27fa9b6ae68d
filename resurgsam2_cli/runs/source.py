"""Finds the video that a run was made from, and reads its frames."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.text import did_you_mean
from resurgsam2_cli.files.urls import is_url
from resurgsam2_cli.runs.folder import same_content
from resurgsam2_cli.runs.record import Run
from resurgsam2_cli.video.frames import MOST_PIXELS, Frame, Reading
from resurgsam2_cli.video.image_folder import ImageFolder, Original
from resurgsam2_cli.video.positions import Part
from resurgsam2_cli.video.source import Source, has_images, open_source


@contextmanager
def opened_source(run: Run, sources: Path | None = None) -> Iterator[Source]:
    """The video of a run, where it was or below the folder ``sources``.

    Raises :class:`InputError` if it is gone, or if its content has changed since.
    """
    if run.source == "-":
        raise InputError(
            f"{run.name}: its video came from standard input and was not kept",
            "segment it from a file: its frames are needed here",
        )
    path = run.source if sources is None else _below(sources, run.source)
    if not (os.path.exists(path) or is_url(path)):
        raise InputError(
            f"{path}: the video of {run.name} is not there any more",
            "name the folder where the videos are now: --sources FOLDER",
        )
    reading = Reading(
        run.rate if has_images(path) or "files" in run.identity else None,
        run.deinterlaced,
        max(MOST_PIXELS, run.height * run.width),
    )
    with open_source(path, reading) as source:
        if not same_content(run.identity, source.identity()):
            raise InputError(
                f"{path}: is not the video that {run.name} was made of (its content has changed)",
                "segment it again, or name the folder of the right one: --sources FOLDER",
            )
        yield source


def _below(sources: Path, recorded: str) -> str:
    """The recorded path below another folder: as many of its last parts as are found there.

    A folder of images may also be named itself.
    """
    if not os.path.isdir(sources):
        raise InputError(f"{sources}: no such folder", "--sources names the folder that the videos are in now")
    parts = PurePath(recorded).parts[1:]
    for first in range(len(parts)):
        path = sources.joinpath(*parts[first:])
        if os.path.exists(path):
            return str(path)
    if Path(os.path.abspath(sources)).name == PurePath(recorded).name:
        return str(sources)
    near = did_you_mean(PurePath(recorded).name, os.listdir(sources))
    raise InputError(
        f"{sources}: has no {PurePath(recorded).name or recorded!r}",
        f"{near}the video was {recorded}; --sources names the folder that it is in now",
    )


def source_frames(run: Run, source: Source, every: int = 1) -> Iterator[Frame]:
    """The pictures of each ``every``-th processed frame. Raises :class:`InputError`."""
    yield from (x for x in source_pictures(run, source, every, "") if isinstance(x, Frame))


def source_pictures(run: Run, source: Source, every: int, kind: str) -> Iterator[Frame | Original]:
    """The same; those that are image files of ``kind`` (``jpg`` or ``png``) come as these files, not decoded."""
    part = Part(run.part.start, run.part.end, run.part.stride * every)
    pictures = source.pictures(part, kind) if isinstance(source, ImageFolder) else source.frames(part)
    for picture in pictures:
        width, height = picture.size if isinstance(picture, Original) else picture.rgb.shape[1::-1]
        if (height, width) != (run.height, run.width):
            raise InputError(
                f"{source.path}: is {width} x {height}, but the masks of {run.name} are {run.width} x {run.height}",
                "segment it again",
            )
        yield picture
