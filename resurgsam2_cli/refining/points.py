"""Clicks and boxes against a mask: whether it does what they say, and where a person would click."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from resurgsam2_cli.prompts.marks import Box, Mark

_BOXED = 0.5
"""A mask is what a box means if the IoU of its own box with that is above this."""


def obeyed(mask: np.ndarray, marks: Iterable[Mark]) -> tuple[int, int]:
    """How many of the clicks and boxes a mask (height, width) bool agrees with, and how many there are."""
    agreed = count = 0
    height, width = mask.shape
    for mark in marks:
        for x, y, on in mark.points:
            agreed += bool(mask[min(int(y), height - 1), min(int(x), width - 1)]) == on
            count += 1
        if mark.box is not None:
            agreed += _box_iou(mask, mark.box) > _BOXED
            count += 1
    return agreed, count


def _box_iou(mask: np.ndarray, box: Box) -> float:
    rows, columns = (np.flatnonzero(mask.any(axis=x)) for x in (1, 0))
    if not len(rows):
        return 0.0
    left, top, width, height = box
    spans = ((columns[0], columns[-1] + 1, left, left + width), (rows[0], rows[-1] + 1, top, top + height))
    both, own, given = (
        np.prod(x) for x in zip(*((min(b, d) - max(a, c), b - a, d - c) for a, b, c, d in spans), strict=True)
    )
    if any(min(b, d) <= max(a, c) for a, b, c, d in spans):
        return 0.0
    return float(both / (own + given - both))


def deepest(mask: np.ndarray) -> tuple[float, float]:
    """The middle of a pixel that is farthest from the outside of a mask (height, width) bool: x and y in pixels."""
    left = np.pad(mask, 1)
    while True:
        smaller = left.copy()
        smaller[1:-1, 1:-1] &= left[:-2, 1:-1] & left[2:, 1:-1] & left[1:-1, :-2] & left[1:-1, 2:]
        if not smaller.any():
            break
        left = smaller
    y, x = np.argwhere(left)[0] - 1
    return float(x) + 0.5, float(y) + 0.5
