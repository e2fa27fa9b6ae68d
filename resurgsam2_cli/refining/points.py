"""Clicks and boxes against a mask: whether it does what they say, and where a person would click."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from resurgsam2_cli.prompts.marks import Box, Mark, Point

_BOXED = 0.5
"""A mask is what a box means if the IoU of its own box with that is above this."""


def obeyed(mask: np.ndarray, marks: Iterable[Mark]) -> tuple[int, int]:
    """How many of the clicks and boxes a mask (height, width) bool agrees with, and how many there are."""
    agreed = count = 0
    for mark in marks:
        agreed += len(mark.points) - len(missed_clicks(mask, [mark]))
        count += len(mark.points)
        if mark.box is not None:
            agreed += _box_iou(mask, mark.box) > _BOXED
            count += 1
    return agreed, count


def place_of(mask: np.ndarray, click: Point) -> tuple[int, int]:
    """Row and column of the pixel of a mask (height, width) that a click lies in."""
    height, width = mask.shape
    return min(int(click[1]), height - 1), min(int(click[0]), width - 1)


def missed_clicks(mask: np.ndarray, marks: Iterable[Mark]) -> list[Point]:
    """The clicks that a mask (height, width) bool does not agree with."""
    return [x for mark in marks for x in mark.points if bool(mask[place_of(mask, x)]) != x[2]]


def distance(mask: np.ndarray, click: Point) -> float:
    """Pixels from a click on the object to the mask (height, width) bool, or from one beside it to the background.

    Infinite if there is neither.
    """
    rows, columns = np.nonzero(mask if click[2] else ~mask)
    return float(np.hypot(columns + 0.5 - click[0], rows + 0.5 - click[1]).min(initial=np.inf))


def extent(mask: np.ndarray) -> int:
    """Pixels of the longer side of a mask's box; 0 if it is empty."""
    rows, columns = np.nonzero(mask)
    return int(max(np.ptp(rows), np.ptp(columns))) + 1 if len(rows) else 0


def disc(shape: tuple[int, ...], click: Point, radius: float) -> np.ndarray:
    """The pixels (height, width) bool whose middles lie around a click."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    around: np.ndarray = np.hypot(columns + 0.5 - click[0], rows + 0.5 - click[1]) <= radius
    around[place_of(around, click)] = True
    return around


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
