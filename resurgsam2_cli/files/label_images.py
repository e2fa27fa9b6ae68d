"""Label images (pixel = object id) and binary masks as PNG."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.palette import davis_palette

Labels = NDArray[np.integer]

_LABEL_MODES = ("P", "L", "1", "I", "I;16")


def mask_png(image: Image.Image) -> bytes:
    """An image of a few even regions as a PNG. Compressing runs alone halves the file, in the same time."""
    content = io.BytesIO()
    image.save(content, "PNG", compress_type=zlib.Z_RLE)
    return content.getvalue()


def labels_png(labels: np.ndarray) -> bytes:
    """A label image (height, width) uint8 as a PNG with the DAVIS palette."""
    image = Image.fromarray(labels)
    image.putpalette(davis_palette())
    return mask_png(image)


def open_image(path: Path, hint: str) -> Image.Image:
    """An image with its pixels decoded. Raises :class:`InputError` with ``hint``."""
    try:
        image = Image.open(path)
        image.load()
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as an image ({error})", hint) from error
    return image


def read_labels(path: Path, hint: str = "replace it, or leave it out") -> Labels:
    """The values of a label image (height, width): palette indices or grey levels. Raises :class:`InputError`."""
    image = open_image(path, hint)
    if image.mode not in _LABEL_MODES:
        raise InputError(
            f"{path}: is an image in {image.mode}, not of labels", "save it as a palette or grey PNG, pixel = object id"
        )
    return np.array(image)
