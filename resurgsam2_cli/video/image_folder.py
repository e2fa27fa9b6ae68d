"""A folder of images as a video: one image per frame, in natural order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.text import one_line
from resurgsam2_cli.video.frames import Frame, content_sum, empty_part, natural_order, safe_name
from resurgsam2_cli.video.positions import Chooser, Part

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

Image.MAX_IMAGE_PIXELS = None  # a guard for servers; here the files are the user's own


class ImageFolder:
    """Images in natural order: ``2.png`` comes before ``10.png``."""

    audio: Path | None = None

    def __init__(self, path: Path, rate: Fraction) -> None:
        self.path, self.rate = path, rate
        self.name = safe_name(path.resolve().name, "frames")
        self._files = sorted(
            (x for x in path.iterdir() if x.suffix.lower() in IMAGE_SUFFIXES and not x.name.startswith(".")),
            key=lambda x: natural_order(x.name),
        )
        if not self._files:
            raise InputError(
                f"{path}: no images in this folder",
                f"expected {', '.join(sorted(IMAGE_SUFFIXES))} files, one per frame",
            )
        self._names = frame_names([file.name for file in self._files])
        # Read only the headers: a folder of mixed sizes fails before any work is done.
        self._size = self._size_of(self._files[0])
        for file in self._files[1:]:
            size = self._size_of(file)
            if size != self._size:
                raise InputError(
                    f"{file}: is {size[0]} x {size[1]}, but {self._files[0].name} is {self._size[0]} x {self._size[1]}",
                    "all images of a folder must have one size: they are the frames of one video",
                )

    @staticmethod
    def _size_of(file: Path) -> tuple[int, int]:
        try:
            with Image.open(file) as image:
                turned = image.format in _TURNED and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
                return (image.height, image.width) if turned else image.size
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            raise _unreadable(file, error) from error

    def expected(self, part: Part) -> int | None:
        """How many frames :meth:`frames` will give."""
        return part.count(len(self._files), self.rate)

    def identity(self) -> dict[str, Any]:
        """``files``, their total ``size``, and a ``sum`` over sizes and content. Raises :class:`InputError`."""
        try:
            sizes = [file.stat().st_size for file in self._files]
            return {"files": len(sizes), "size": sum(sizes), "sum": content_sum(self._files)}
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read ({error.strerror})", "check the file") from error

    def frames(self, part: Part) -> Generator[Frame, None, None]:
        """Read the wanted images. Raises :class:`InputError` for one that cannot be read."""
        chooser, given = Chooser(part), 0
        for number, file in enumerate(self._files):
            time = number / self.rate
            wanted = chooser.wanted(number, float(time))
            if wanted is None:
                break
            if wanted:
                given += 1
                try:
                    with Image.open(file) as image:
                        rgb = _rgb(image)
                except (OSError, SyntaxError, ValueError) as error:
                    raise _unreadable(file, error) from error
                yield Frame(number, self._names[number], time, rgb)
        if not given:
            raise empty_part(self.path, len(self._files))

    def interrupt(self) -> None:
        """Do nothing: no frame takes long."""


def frame_names(files: list[str]) -> list[str]:
    """The names of frames from those of their pictures, without suffix: ``frame_10`` for ``frame_10.jpg``.

    Pictures that would share a name, ignoring case, keep their suffix, or get their number.
    """

    def unique(candidates: list[str], instead: list[str]) -> list[str]:
        count = Counter(x.casefold() for x in candidates)
        return [y if count[x.casefold()] > 1 or not x else x for x, y in zip(candidates, instead, strict=True)]

    whole = [one_line(x) for x in files]
    numbered = [f"{x}-{i:05d}" for i, x in enumerate(whole)]
    stems = [x.rpartition(".")[0] for x in whole]
    names = unique(stems, whole)
    return names if len({x.casefold() for x in names}) == len(names) else unique(whole, numbered)


_ORIENTATION = 0x0112  # the EXIF tag
_TURNED = ("JPEG", "TIFF")  # where cameras write it; PIL would decode a whole PNG to look for it


def _rgb(image: Image.Image) -> np.ndarray:
    """Upright, (height, width, 3) uint8. Raises ``ValueError`` for pixels whose range is unknown."""
    if image.format in _TURNED:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels: save it with 8 bits")
    if image.mode.startswith("I"):  # 16 bits, which PIL would clip instead of scaling
        grey = (np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)
        return np.stack([grey] * 3, axis=-1)
    return np.array(image.convert("RGB"))


def _unreadable(file: Path, error: Exception) -> InputError:
    return InputError(f"{file}: cannot be read as an image ({error})", "replace or remove it")
