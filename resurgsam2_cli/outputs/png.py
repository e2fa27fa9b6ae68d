"""Label images and binary masks as PNG."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from resurgsam2_cli.files.label_images import labels_png, mask_png
from resurgsam2_cli.outputs.base import Clip, FrameResult, Sink
from resurgsam2_cli.runs.record import MASKS
from resurgsam2_cli.runs.sums import TreeSum


class LabelPngs(Sink):
    """``masks/00000.png``: one palette image per frame, pixel = object id, even if nothing was found."""

    threads = 3  # compressing holds no lock of Python's

    def __init__(self, folder: Path, clip: Clip) -> None:
        super().__init__(folder, clip)
        (folder / MASKS).mkdir()
        self._sum = TreeSum()

    def prepare(self, result: FrameResult) -> tuple[str, bytes]:
        """Compress the frame's label image."""
        return result.file_name, labels_png(result.labels)

    def add(self, prepared: tuple[str, bytes]) -> None:
        """Write it."""
        name, content = prepared
        (self.folder / MASKS / name).write_bytes(content)
        self._sum.add(name, content)

    def finish(self) -> Iterable[str]:
        """Return the folder."""
        self.sums = {MASKS: self._sum.value()}
        return [MASKS]


class ObjectPngs(Sink):
    """``objects/001/00000.png``: one binary image (0/255) per object and frame; objects may overlap here."""

    threads = 4

    def __init__(self, folder: Path, clip: Clip) -> None:
        super().__init__(folder, clip)
        for i in range(1, len(clip.prompts) + 1):
            (folder / "objects" / f"{i:03d}").mkdir(parents=True)
        self._sum = TreeSum()

    def prepare(self, result: FrameResult) -> list[tuple[str, bytes]]:
        """Compress the masks of the frame."""
        return [
            (f"{i:03d}/{result.file_name}", mask_png(Image.fromarray(mask.view(np.uint8) * 255)))
            for i, mask in enumerate(result.masks, start=1)
        ]

    def add(self, prepared: list[tuple[str, bytes]]) -> None:
        """Write them."""
        for name, content in prepared:
            (self.folder / "objects" / name).write_bytes(content)
            self._sum.add(name, content)

    def finish(self) -> Iterable[str]:
        """Return the folder."""
        self.sums = {"objects": self._sum.value()}
        return ["objects"]
