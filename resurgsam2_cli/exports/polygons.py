"""Masks as polygons, for formats that have nothing else.

A polygon goes through the *centres* of a mask's outermost pixels, as OpenCV's contours do, so that filling it with its
border gives the mask again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Outline:
    """The outside of a mask."""

    parts: list[np.ndarray]
    """A ring of corners for each 8-connected part, int (corners, 2) of x and y, the largest first."""
    holes: int
    """How many were filled."""


def outline(mask: np.ndarray) -> Outline:
    """Trace a mask (height, width), which is not empty."""
    inside = np.pad(mask > 0, 1)
    starts = [first for first, _ in _parts(inside, diagonal=True)]
    holes = len(starts) - _euler_number(inside)
    if holes:
        inside = _without_holes(inside)
        starts = [first for first, _ in _parts(inside, diagonal=True)]  # some lay in holes
    stride = inside.shape[1]
    flat = inside.tobytes()
    rings = [np.array(_trace(flat, stride, y * stride + x), np.int32) for y, x in starts]
    parts = [np.stack((ring % stride - 1, ring // stride - 1), axis=1) for ring in rings]
    return Outline(sorted(parts, key=_extent, reverse=True), holes)


_SQUARE = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
"""The corners of a pixel, clockwise from the top left."""

_REACH = 0.35
"""From the centre of a pixel towards its corners, in pixels. From 0.41 on, diagonals would take the pixels beside."""


def bordered(ring: np.ndarray) -> np.ndarray:
    """A ring (corners, 2) of :func:`outline` widened to the borders of its pixels: places on the picture, float.

    0, 0 is the top left edge of the picture. pycocotools fills it to exactly the pixels that the ring encloses, also
    where that is one pixel, or a thread of them.
    """
    if len(ring) == 1:
        return ring + 0.5 + _REACH * _SQUARE
    steps = np.sign(np.roll(ring, -1, axis=0) - ring).tolist()
    ways = [_WAYS.index((x, y)) for x, y in steps]
    corners = []
    for place, before, after in zip(ring.tolist(), [ways[-1], *ways[:-1]], ways, strict=True):
        if (after - before) % 8 <= 4:  # to the right, or back: around the corners of the pixel
            last, first = (before // 2 + 1) % 4, (after + 1) // 2 % 4
            offsets = [_SQUARE[(last + k) % 4] for k in range((first - last) % 4 + 1)]
        else:
            (ax, ay), (bx, by) = _WAYS[before], _WAYS[after]
            offsets = [np.clip((ay + by, -ax - bx), -1, 1)]
        corners += [np.add(place, 0.5) + _REACH * x for x in offsets]
    return np.array(corners)


_WAYS = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
"""The eight ways from a pixel to the next, clockwise from the right."""


def joined(parts: list[np.ndarray]) -> np.ndarray:
    """One ring of all parts, with bridges of no width between them, as ``ultralytics`` joins them."""
    ring = parts[0]
    for part in parts[1:]:
        # Look for the nearest of a few corners only: otherwise a mask of a thousand specks takes minutes.
        ours, theirs = _thinned(ring), _thinned(part)
        distance = ((ring[ours][:, None] - part[theirs][None]) ** 2).sum(axis=2)
        i, j = np.unravel_index(int(distance.argmin()), distance.shape)
        at, start = int(ours[i]), int(theirs[j])
        there_and_back = np.concatenate((part[start:], part[: start + 1]))
        ring = np.concatenate((ring[: at + 1], there_and_back, ring[at:]))
    return ring


def _thinned(ring: np.ndarray) -> np.ndarray:
    return np.arange(0, len(ring), -(-len(ring) // 512))


def _extent(ring: np.ndarray) -> float:
    """Twice the area that a ring encloses, or a measure of its length if it encloses none."""
    x, y = ring.T.astype(np.int64)
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) or len(ring) / 1e6


def _euler_number(inside: np.ndarray) -> int:
    """The 8-connected parts of a padded mask less its holes, counted on its squares of 2 x 2 pixels."""
    a, b, c, d = (x.view(np.uint8) for x in (inside[:-1, :-1], inside[:-1, 1:], inside[1:, :-1], inside[1:, 1:]))
    total = a + b + c + d
    diagonal = int(((total == 2) & (a == d)).sum())
    return (int((total == 1).sum()) - int((total == 3).sum()) - 2 * diagonal) // 4


def filled(mask: np.ndarray) -> np.ndarray:
    """A mask (height, width) without its holes, as bool: what any polygon through its outline encloses."""
    return _without_holes(np.pad(mask > 0, 1))[1:-1, 1:-1]


def _without_holes(inside: np.ndarray) -> np.ndarray:
    """A padded mask without its holes."""
    filled = inside.copy()
    for (y, x), runs in _parts(~inside, diagonal=False):
        if (y, x) != (0, 0):  # (0, 0) is in the padding, which is not a hole
            for row, begin, end in runs:
                filled[row, begin:end] = True
    return filled


_Run = tuple[int, int, int]
"""Row, first column, column after the last."""


def _parts(mask: np.ndarray, *, diagonal: bool) -> Iterator[tuple[tuple[int, int], list[_Run]]]:
    """Connected parts: the row and column of the first pixel in reading order, and all runs in it."""
    edges = np.diff(np.pad(mask.view(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, begins = (x.tolist() for x in np.nonzero(edges == 1))
    ends = np.nonzero(edges == -1)[1].tolist()
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    touch = 0 if diagonal else 1
    above = 0  # the first run of the row above that may still touch
    for i, row in enumerate(rows):
        while above < i and (rows[above] < row - 1 or (rows[above] == row - 1 and ends[above] < begins[i] + touch)):
            above += 1
        j = above
        while j < i and rows[j] == row - 1 and begins[j] <= ends[i] - touch:
            one, other = root(i), root(j)
            parent[max(one, other)] = min(one, other)
            j += 1
    members: dict[int, list[_Run]] = {}
    for i, run in enumerate(zip(rows, begins, ends, strict=True)):
        members.setdefault(root(i), []).append(run)
    for runs in members.values():
        yield runs[0][:2], runs


def _trace(flat: bytes, stride: int, start: int) -> list[int]:
    """Corners of the outer border of a part, clockwise, as places in a flat padded mask.

    ``start`` is the part's first pixel in reading order. This is Moore's algorithm: at each pixel, look at the
    neighbours clockwise, beginning with the last one seen to be outside; the first one inside is next.
    """
    moves = (1, stride + 1, stride, stride - 1, -1, -stride - 1, -stride, -stride + 1)  # clockwise from the right
    turns = [[(x, moves[x]) for x in ((d + 6 + k) % 8 for k in range(8))] for d in range(8)]

    def following(place: int, direction: int) -> int:
        for turn, move in turns[direction]:
            if flat[place + move]:
                return turn
        return -1

    first = following(start, 0)
    if first < 0:
        return [start]
    corners, place, direction = [start], start + moves[first], first
    while True:
        turn = following(place, direction)
        if place == start and turn == first:
            return corners
        if turn != direction:
            corners.append(place)
        place, direction = place + moves[turn], turn
