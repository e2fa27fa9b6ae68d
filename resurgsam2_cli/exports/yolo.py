"""YOLO segmentation: a text file of polygons for each image, in the layout of ultralytics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from resurgsam2_cli import __version__
from resurgsam2_cli.exports.base import MADE_BY, Dataset, Exporter, ExportFrame, Mask, Video
from resurgsam2_cli.exports.polygons import joined, outline
from resurgsam2_cli.files.text import counted

_ONE_SPLIT = "train"
_INSIDE = 0.25
"""Part of a pixel. Readers multiply by the size, then some round and some cut off: both get back to the pixel."""


def _prefixes(names: list[str]) -> dict[str, str]:
    """What stands before the frames of each video: its name, such that no two frames share a file.

    Frame ``1_0`` of ``op`` and frame ``0`` of ``op_1`` would: then it is ``op-``.
    """
    found = {x: x for x in names}
    for name in sorted(names, key=len):
        others = [x.casefold() for other, x in found.items() if other != name]
        while any(x == found[name].casefold() or x.startswith(f"{found[name].casefold()}_") for x in others):
            found[name] += "-"
    return found


def _corners(ring: np.ndarray) -> str:
    """A ring (corners, 2) of shares of the width and the height, as text."""
    if len(ring) < 3:  # readers take fewer than three corners for a box
        ring = np.concatenate((ring, *(ring[-1:],) * (3 - len(ring))))
    return " ".join(["%.6f"] * ring.size) % tuple(ring.ravel().tolist())


class YoloExport(Exporter):
    """``data.yaml``, ``labels/<split>/<video>_<00000>.txt``, pictures in ``images/<split>/`` under the same names.

    Classes count from 0, in the order of the categories' ids. A frame without objects has an empty file. A mask is one
    line: its connected parts are joined, or, with ``parts``, have a line each.
    """

    inner_suffixes = frozenset({".txt"})

    @classmethod
    def contents(cls, dataset: Dataset) -> set[str]:
        """Two folders and a file."""
        return {"labels", "images", "data.yaml"}

    def __init__(self, root: Path, dataset: Dataset) -> None:
        super().__init__(root, dataset)
        self._classes = {x.id: i for i, x in enumerate(dataset.categories)}
        self._prefixes = _prefixes([x.flat_name for x in dataset.videos])
        self._masks = self._with_holes = self._in_parts = 0
        for split in dataset.splits or (_ONE_SPLIT,):
            (root / "labels" / split).mkdir(parents=True)

    def add(self, video: Video, frames: Iterator[ExportFrame]) -> None:
        """Write the labels of a video."""
        folder = self.root / "labels" / (video.split or _ONE_SPLIT)
        scale = np.array([video.run.width, video.run.height])
        for frame in frames:
            masks = frame.decoded() if frame.masks else ()
            lines = "".join(self._lines(x, mask, scale) for x, mask in zip(frame.masks, masks, strict=True))
            (folder / f"{self._prefixes[video.flat_name]}_{frame.name}.txt").write_text(lines, encoding="ascii")

    def _lines(self, x: Mask, mask: np.ndarray, scale: np.ndarray) -> str:
        left, top, width, height = (int(v) for v in x.box)
        found = outline(mask[top : top + height, left : left + width])
        self._masks += 1
        self._with_holes += found.holes > 0
        self._in_parts += len(found.parts) > 1
        rings = found.parts if self.dataset.options.parts else [joined(found.parts)]
        number = self._classes[x.object.category.id]
        return "".join(f"{number} {_corners((ring + np.array([left, top]) + _INSIDE) / scale)}\n" for ring in rings)

    def picture_path(self, video: Video, file_name: str) -> str:
        """``images/train/video_00000.jpg``."""
        return f"images/{video.split or _ONE_SPLIT}/{self._prefixes[video.flat_name]}_{file_name}"

    def finish(self) -> None:
        """Write ``data.yaml``. It has no ``path``, so that the folder may be moved."""
        splits = self.dataset.splits or (_ONE_SPLIT,)
        train = "train" if "train" in splits else splits[0]
        val = next((x for x in ("val", "valid", "validation") if x in splits), splits[-1])
        lines = [f"# {MADE_BY} {__version__}", f"train: images/{train}", f"val: images/{val}"]
        lines += [f"{x}: images/{x}" for x in splits if x not in (train, val)]
        names = [f"  {self._classes[x.id]}: {json.dumps(x.name, ensure_ascii=False)}" for x in self.dataset.categories]
        (self.root / "data.yaml").write_text("\n".join([*lines, "names:", *names, ""]), encoding="utf-8")

    def losses(self) -> list[str]:
        """What polygons cannot hold."""
        lines = []
        masks = counted(self._masks, "mask")
        if self._with_holes:
            has = "has" if self._with_holes == 1 else "have"
            lines.append(f"{self._with_holes} of {masks} {has} holes: polygons hold none, they are filled")
        if self._in_parts:
            parts = (
                "a polygon each, which readers take for objects of their own"
                if self.dataset.options.parts
                else "joined by lines, as one object has one polygon (--parts gives each its own)"
            )
            lines.append(f"{self._in_parts} of {masks} are in several parts: {parts}")
        if not self.dataset.options.frames:
            lines.append("there are no pictures, which training on YOLO labels needs: add --frames jpg")
        if not self.dataset.splits:
            lines.append("there is no --split: data.yaml names the same images for train and val")
        return lines
