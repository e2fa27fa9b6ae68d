"""Label images and binary masks as PNG."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from resurgsam2_cli.outputs.base import Clip, FrameResult, Sink
from resurgsam2_cli.palette import davis_palette


def save_mask(image: Image.Image, path: Path) -> None:
    """Write an image of few, even regions as a PNG: runs alone make files half as large, in the same time."""
    image.save(path, compress_type=zlib.Z_RLE)


def save_labels(labels: np.ndarray, path: Path) -> None:
    """Write a label image (height, width) uint8 as a PNG with the DAVIS palette."""
    image = Image.fromarray(labels)
    image.putpalette(davis_palette())
    save_mask(image, path)


class LabelPngs(Sink):
    """``masks/00000.png``: one palette image a frame, pixel = object id, also where nothing was found."""

    def __init__(self, folder: Path, clip: Clip) -> None:
        super().__init__(folder, clip)
        (folder / "masks").mkdir()

    def write(self, result: FrameResult) -> None:
        """Write the frame's label image."""
        save_labels(result.labels, self.folder / "masks" / result.file_name)

    def finish(self) -> Iterable[str]:
        """The folder."""
        return ["masks"]


class ObjectPngs(Sink):
    """``objects/001/00000.png``: one binary image (0/255) per object and frame; objects may overlap here."""

    def __init__(self, folder: Path, clip: Clip) -> None:
        super().__init__(folder, clip)
        for i in range(1, len(clip.prompts) + 1):
            (folder / "objects" / f"{i:03d}").mkdir(parents=True)

    def write(self, result: FrameResult) -> None:
        """Write the masks of the frame."""
        for i, mask in enumerate(result.masks, start=1):
            image = Image.fromarray(mask.view(np.uint8) * 255)
            save_mask(image, self.folder / "objects" / f"{i:03d}" / result.file_name)

    def finish(self) -> Iterable[str]:
        """The folder."""
        return ["objects"]
