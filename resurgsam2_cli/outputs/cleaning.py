"""Specks and holes in masks: what is written is cleaned if one asks for it, never what is remembered."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from resurgsam2_cli.files.regions import small_regions
from resurgsam2_cli.outputs.base import FrameResult, boxes_around, region_of

AS_SAID = frozenset(("drawn", "imported", "confirmed"))
"""Stages whose masks are a person's, to the pixel: they are never cleaned."""


@dataclass(frozen=True)
class Cleaning:
    """What is removed from masks, and what is added to them. Both count pixels of the video; 0 changes nothing."""

    min_part: int = 0
    """Parts of fewer pixels are removed, even if nothing is left; pixels of a part touch at sides or corners."""
    fill_holes: int = 0
    """Holes of fewer pixels are filled: background that the mask encloses, also where it leaks at a corner."""

    def __post_init__(self) -> None:
        for x in fields(self):
            value = getattr(self, x.name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"{x.name} is {value!r}, not a number of pixels")

    def __bool__(self) -> bool:
        return self.min_part > 0 or self.fill_holes > 0

    def masks(self, masks: np.ndarray, boxes: list[list[float] | None] | None = None) -> np.ndarray:
        """Masks (any, height, width) bool without specks, and then without holes; ``boxes`` are around their pixels."""
        if not self:
            return masks
        cleaned = masks.copy()
        for mask, box in zip(cleaned, boxes_around(masks) if boxes is None else boxes, strict=True):
            if box is None:
                continue
            inside = mask[region_of(box)]
            inside &= ~small_regions(inside, self.min_part, corners=True)
            inside |= small_regions(~inside, self.fill_holes, enclosed=True)
        return cleaned

    def result(self, result: FrameResult) -> FrameResult:
        """A frame with cleaned masks, and a label image to match. What a person drew stays as it is.

        A pixel that an object loses shows the first of the others that has it; one that it gains is what it was, if
        it was of another.
        """
        if not self:
            return result
        said = {x.id for x in result.objects if x.stage in AS_SAID}
        masks = self.masks(result.masks, [None if i in said else x for i, x in enumerate(result.boxes, start=1)])
        labels = result.labels.copy()
        for i, (old, new) in enumerate(zip(result.masks, masks, strict=True), start=1):
            labels[old & ~new & (labels == i)] = 0
        for i, new in enumerate(masks, start=1):
            labels[new & (labels == 0)] = i
        return replace(result, made=masks, labels=labels, known_boxes=boxes_around(masks))
