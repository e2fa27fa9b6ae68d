"""Single images: their pages, and their pixels as a person sees them."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from resurgsam2_cli.errors import InputError

_ORIENTATION = 0x0112
"""The tag of EXIF and TIFF."""

_WIDTH, _HEIGHT = 0x0100, 0x0101
"""The tags of TIFF."""

_BITS, _MOST_BITS = 0x0102, 16
"""The tag of TIFF, and how many are known to be all that there are."""

_SUBFILE_TYPE = 0x00FE
"""The tag of TIFF whose first bit says that a page is a smaller copy of another."""

_MP_ENTRY = 0xB002
"""The tag of MPO that lists its images."""

_SIDEWAYS = (5, 6, 7, 8)

_KINDS = {"JPEG": "jpg", "PNG": "png"}

_PLAIN = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
"""Modes whose colours every reader has as :func:`upright` has them: 16 bits and CMYK are not among them."""

_XMP = ("xmp", "XML:com.adobe.xmp")
"""Where Pillow keeps XMP, which may also state an orientation."""


_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, ArithmeticError, AttributeError)
"""What Pillow's readers raise for files that are not as they should be."""


@dataclass(frozen=True)
class Page:
    """One picture of an image file."""

    number: int
    """Where it is in the file."""
    label: str
    """Its number among the pictures that are frames, with leading zeros; empty if it is the only one."""
    size: tuple[int, int]
    """(width, height), upright"""
    plain: str = ""
    """``jpg`` or ``png`` if the file is one that shows this picture alone, upright as it is stored; else empty."""


@contextmanager
def opened_image(file: Path) -> Iterator[Image.Image]:
    """Open an image. Raises :class:`InputError`, also for what goes wrong in the block while its pixels are read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a limit of our own follows
            image = Image.open(file)
        with image:
            yield image
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{file}: has more pixels than is safe to open", "if that is right, name how many: --max-pixels"
        ) from error
    except _DAMAGED as error:
        raise _unreadable(file, error) from error


def pages(image: Image.Image) -> list[Page]:
    """The pictures of an image that are frames: not smaller copies of others, as previews are."""
    found = []
    first = int(bool(getattr(image, "default_image", False)))  # what is shown where an animated PNG cannot be
    for number in range(first, getattr(image, "n_frames", 1)):
        if number:
            image.seek(number)
        if not _is_copy(image, number):
            width, height = _size_in_file(image)
            orientation = _orientation(image)
            size = (height, width) if orientation in _SIDEWAYS else (width, height)
            found.append((number, size, _plain_kind(image, orientation)))
    digits = len(str(len(found) - 1))
    return [
        Page(number, f"{i:0{digits}d}" if len(found) > 1 else "", size, kind)
        for i, (number, size, kind) in enumerate(found)
    ]


def _plain_kind(image: Image.Image, orientation: int) -> str:
    """What :attr:`Page.plain` says. What stands in the file counts, not its name."""
    kind = _KINDS.get(image.format or "", "")
    alone = getattr(image, "n_frames", 1) == 1 and not getattr(image, "default_image", False)
    stated = kind == "png" and any("Orientation" in str(image.info.get(x, "")) for x in _XMP)
    return kind if alone and orientation == 1 and not stated and image.mode in _PLAIN else ""


def _bits(image: Image.Image) -> int:
    """Of a sample, if it is a TIFF, which may have more than others."""
    bits = getattr(image, "tag_v2", {}).get(_BITS, 0) if image.format == "TIFF" else 0
    return max(bits) if isinstance(bits, tuple) else int(bits)


def _size_in_file(image: Image.Image) -> tuple[int, int]:
    """(width, height) as the picture lies in the file; newer Pillow says of a TIFF how it will stand."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    return int(tags.get(_WIDTH, image.width)), int(tags.get(_HEIGHT, image.height))


def _is_copy(image: Image.Image, number: int) -> bool:
    if image.format == "TIFF":
        return bool(getattr(image, "tag_v2", {}).get(_SUBFILE_TYPE, 0) & 1)
    if image.format == "MPO" and number:
        entries: Any = getattr(image, "mpinfo", {}).get(_MP_ENTRY, ())
        kind = entries[number]["Attribute"]["MPType"] if number < len(entries) else ""
        return "Thumbnail" in str(kind)
    return False


def _orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF has it. Of a PNG it is looked for without reading the pixels, as Pillow would."""
    if image.format == "PNG" and "exif" not in image.info:
        exif = Image.Exif()
        exif.load(_png_exif(Path(image.filename)))  # type: ignore[attr-defined]
    else:
        exif = image.getexif()
    return int(exif.get(_ORIENTATION, 1))


def _png_exif(file: Path) -> bytes:
    """The content of a PNG's eXIf chunk, which may come after the pixels; empty if there is none."""
    with file.open("rb") as stream:
        stream.seek(8)
        while len(head := stream.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                return stream.read(size)
            stream.seek(size + 4, 1)
    return b""


def upright(image: Image.Image, page: Page) -> np.ndarray:
    """The pixels of a page, (height, width, 3) uint8. Raises ``ValueError`` for pixels whose range is unknown."""
    if getattr(image, "n_frames", 1) > 1:
        image.seek(page.number)
    picture = ImageOps.exif_transpose(image)
    if image.mode == "I" and _bits(image) > _MOST_BITS:
        raise ValueError("pixels of 32 bits: save it with 8 bits")
    return colours(picture)


def colours(picture: Image.Image) -> np.ndarray:
    """The pixels of a picture of any mode, (height, width, 3) uint8. Raises ``ValueError`` for floating-point ones."""
    if picture.mode == "F":
        raise ValueError("floating-point pixels: save it with 8 bits")
    if picture.mode.startswith("I"):  # 16 bits, which PIL would clip instead of scaling
        grey = (np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8)
        return np.stack([grey] * 3, axis=-1)
    return np.array(picture.convert("RGB"))


def _unreadable(file: Path, error: Exception) -> InputError:
    return InputError(f"{file}: cannot be read as an image ({error})", "replace or remove it")
