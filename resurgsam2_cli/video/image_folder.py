"""A folder of images as a video: one image per frame, in natural order."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.text import printable
from resurgsam2_cli.video.frames import (
    DEFAULT_FOLDER_RATE,
    Frame,
    LocalFile,
    Reading,
    content_sum,
    empty_part,
    natural_order,
    safe_name,
    too_large,
)
from resurgsam2_cli.video.images import Page, opened_image, pages, upright
from resurgsam2_cli.video.positions import WHOLE, Chooser, Part

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

_SUFFIXES = {"jpg": (".jpg", ".jpeg"), "png": (".png",)}


@dataclass(frozen=True)
class Original:
    """A frame as the file of its own in which it lies, for those who need no pixels."""

    number: int
    """As in :class:`~resurgsam2_cli.video.frames.Frame`."""
    file: Path
    size: tuple[int, int]
    """(width, height)"""

    def content(self) -> bytes:
        """The whole file. Raises :class:`InputError`."""
        try:
            return self.file.read_bytes()
        except OSError as error:
            raise _unreadable(error) from error


class ImageFolder:
    """Images in natural order: ``2.png`` comes before ``10.png``. A file of several pages is as many frames.

    ``path`` is a folder, or one image.
    """

    audio: Path | None = None
    pixel_aspect = Fraction(1)

    def __init__(self, path: Path, reading: Reading | None = None) -> None:
        self.path: Path | str = path
        self.reading = reading or Reading()
        self.rate = self.reading.frame_rate or DEFAULT_FOLDER_RATE
        self.warnings: list[str] = []
        self.facts: dict[str, Any] = {}
        folder = path.is_dir()
        self.name = safe_name(path.resolve().name if folder else path.stem, "frames")
        self._files = sorted(
            (x for x in (path.iterdir() if folder else [path]) if _is_image(x)), key=lambda x: natural_order(x.name)
        )
        if not self._files:
            raise InputError(
                f"{path}: no images in this folder",
                f"expected {', '.join(sorted(IMAGE_SUFFIXES))} files, one per frame",
            )
        guard = Image.MAX_IMAGE_PIXELS
        if guard is not None and self.reading.most_pixels > guard:
            Image.MAX_IMAGE_PIXELS = self.reading.most_pixels  # as was asked for
        self._pages = self._all_pages()
        names = [f"{file.stem}-{x.label}{file.suffix}" if x.label else file.name for file, x in self._pages]
        self._names = frame_names(names)
        pairs = zip(names, self._names, strict=True)
        if found := next(((x, y) for x, y in pairs if y != printable(x).rpartition(".")[0]), None):
            self.warnings.append(f"images share a name: each is a frame of its own, so {found[0]} has {found[1]}.png")

    def _all_pages(self) -> list[tuple[Path, Page]]:
        """The frames, from the headers alone: a folder of mixed sizes fails before any work is done."""
        found: list[tuple[Path, Page]] = []
        for file in self._files:
            with opened_image(file) as image:
                for page in pages(image):
                    width, height = page.size
                    if width * height > self.reading.most_pixels:
                        raise too_large(file, width, height)
                    found.append((file, page))
                    first, size = found[0][0], found[0][1].size
                    if page.size != size:
                        raise InputError(
                            f"{file}: is {width} x {height}, but {first.name} is {size[0]} x {size[1]}",
                            "all images of a folder must have one size: they are the frames of one video",
                        )
        return found

    def expected(self, part: Part) -> int | None:
        """How many frames :meth:`frames` will give."""
        return part.count(len(self._pages), self.rate)

    def within_reach(self) -> int:
        """How many frames there are: each is a picture of its own."""
        return len(self._pages)

    def identity(self) -> dict[str, Any]:
        """``files``, their total ``size``, and a ``sum`` over sizes and content. Raises :class:`InputError`."""
        try:
            sizes = [file.stat().st_size for file in self._files]
            return {
                "files": len(sizes),
                "size": sum(sizes),
                "sum": content_sum([LocalFile(x) for x in self._files], self._names),
            }
        except OSError as error:
            raise _unreadable(error) from error

    def frames(self, part: Part = WHOLE) -> Generator[Frame, None, None]:
        """Read the wanted images. Raises :class:`InputError` for one that cannot be read."""
        yield from (x for x in self.pictures(part, "") if isinstance(x, Frame))

    def pictures(self, part: Part, kind: str) -> Generator[Frame | Original, None, None]:
        """The wanted images; those that are files of ``kind`` (``jpg`` or ``png``) already are not decoded.

        Only a file that shows one picture alone stands for a frame: not one that is turned upright on reading, has
        several pages, or has colours that readers take differently. Raises :class:`InputError`.
        """
        chooser, given = Chooser(part), 0
        wanted: list[tuple[int, Fraction]] = []
        for number in range(len(self._pages)):
            time = number / self.rate
            choice = chooser.wanted(number, float(time))
            if choice is None:
                break
            if choice:
                wanted.append((number, time))
        for file, of_file in itertools.groupby(wanted, key=lambda x: self._pages[x[0]][0]):
            first = self._pages[wanted[given][0]][1]
            if kind and first.plain == kind and file.suffix.lower() in _SUFFIXES[kind]:
                yield from (Original(number, file, first.size) for number, _ in of_file)
                given += 1
                continue
            with opened_image(file) as image:
                for number, time in of_file:
                    given += 1
                    yield Frame(number, self._names[number], time, upright(image, self._pages[number][1]))
        if not given:
            raise empty_part(self.path, len(self._pages))

    def interrupt(self) -> None:
        """Do nothing: no frame takes long."""


def _unreadable(error: OSError) -> InputError:
    return InputError(
        f"{error.filename}: cannot be read ({error.strerror})", "check that it is there, and that you may read it"
    )


def _is_image(file: Path) -> bool:
    """Whether a file is a frame by its name. Raises :class:`InputError` if it is one by name alone."""
    if file.suffix.lower() not in IMAGE_SUFFIXES or file.name.startswith("."):
        return False
    if not file.is_file():
        raise InputError(f"{file}: is called an image, but is no file", "remove it, or rename it")
    return True


def frame_names(files: list[str]) -> list[str]:
    """The names of frames from those of their pictures, without suffix: ``frame_10`` for ``frame_10.jpg``.

    Pictures that would share a name, ignoring case, keep their suffix, or get their number.
    """

    def unique(candidates: list[str], instead: list[str]) -> list[str]:
        count = Counter(x.casefold() for x in candidates)
        return [y if count[x.casefold()] > 1 or not x else x for x, y in zip(candidates, instead, strict=True)]

    whole = [printable(x) for x in files]
    numbered = [f"{x}-{i:05d}" for i, x in enumerate(whole)]
    stems = [x.rpartition(".")[0] for x in whole]
    names = unique(stems, whole)
    return names if len({x.casefold() for x in names}) == len(names) else unique(whole, numbered)
