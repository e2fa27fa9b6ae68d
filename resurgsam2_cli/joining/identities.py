"""Which object of a piece is which of the piece before, by the masks that both have in the frames of their overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from resurgsam2_cli.runs.cuts import Cut, Differs, Meeting

SAME = 0.5
"""Two objects with this mean IoU are one. A smaller overlap does not change an identity."""

_OWN = 1e-3
"""By so little an object's own id is preferred, where two prompts have the same masks."""

Rle = dict[str, Any]
"""Compressed, ``counts`` as an ASCII string."""


@dataclass(frozen=True)
class Sides:
    """One frame of an overlap, with the masks of both pieces by the ids of their objects; an absent one has none."""

    number: int
    """Of the source."""
    first: Mapping[int, Rle]
    second: Mapping[int, Rle]


def meet(overlap: Sequence[Sides], count: int) -> Cut:
    """Cut two pieces of ``count`` objects together. The frames of the overlap are looked at one at a time, twice.

    Identity follows the masks: prompts such as "left grasper" may mean another instrument in the second piece. The IoU
    of two objects is a mean over the frames in which either has a mask, from the first one on in which the second piece
    has found its object: it searches from its beginning on. Objects are paired so that the sum of these is the largest,
    and not below :data:`SAME`. The others keep their ids if these are free. The pieces are cut together where the pairs
    agree best, or else in the middle.
    """
    compared = _Compared(count)
    for sides in overlap:
        compared.add(sides)
    ious = compared.ious()
    pairs = {j: int(i) for j, i in enumerate(best_pairs(_gain(ious))) if ious[i, j] >= SAME}
    rows = _filled(pairs, count)
    at = _best_frame(overlap, [(i + 1, j + 1) for j, i in pairs.items()])
    objects = sorted(
        (Meeting(i + 1, j + 1, *compared.said(i, j, float(ious[i, j]))) for j, i in rows.items()), key=lambda x: x.id
    )
    return Cut(overlap[at].number, (overlap[0].number, overlap[-1].number), tuple(objects))


class _Compared:
    """The objects of two pieces compared over frames."""

    def __init__(self, count: int) -> None:
        self._sums, self._frames = np.zeros((count, count)), np.zeros((count, count), int)
        self._first, self._second = np.zeros(count, bool), np.zeros(count, bool)
        """Which objects have been there so far."""

    def add(self, sides: Sides) -> None:
        """Take a frame."""
        rows, columns = ([x - 1 for x in sorted(side)] for side in (sides.first, sides.second))
        here, there = np.zeros_like(self._first), np.zeros_like(self._second)
        here[rows], there[columns] = True, True
        self._first |= here
        self._second |= there
        self._frames += (here[:, None] | there) & self._second
        if rows and columns:
            ours, theirs = [sides.first[i + 1] for i in rows], [sides.second[j + 1] for j in columns]
            self._sums[np.ix_(rows, columns)] += coco_mask.iou(ours, theirs, [0] * len(theirs))

    def ious(self) -> NDArray[np.float64]:
        """(first, second), the mean IoU of each two objects."""
        means: NDArray[np.float64] = self._sums / np.maximum(self._frames, 1)
        return means

    def said(self, i: int, j: int, iou: float) -> tuple[float | None, Differs | None]:
        """The IoU of an object that is ``i`` in the first piece and ``j`` in the second, and how the two differ."""
        first, second = self._first[i], self._second[j]
        if not first and not second:
            return None, None
        if iou >= SAME:
            return iou, None
        if first and second:
            return iou, "elsewhere"
        return 0.0, "gone" if first else "new"


def _gain(ious: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(ious >= SAME, ious + _OWN * np.eye(len(ious)), 0.0)


def _filled(pairs: Mapping[int, int], count: int) -> dict[int, int]:
    """The object of the first piece for each of the second: those in ``pairs``, then its own, then what is left."""
    rows = dict(pairs)
    for j in range(count):
        if j not in rows and j not in pairs.values():
            rows[j] = j
    free = sorted(set(range(count)) - set(rows.values()))
    return rows | dict(zip((j for j in range(count) if j not in rows), free, strict=True))


def _best_frame(overlap: Sequence[Sides], pairs: Sequence[tuple[int, int]]) -> int:
    """The place of the frame where the pairs agree best, of several the one nearest to the middle."""
    middle = len(overlap) // 2
    if not pairs:
        return middle
    agreements = (float(np.mean([_iou(x.first.get(i), x.second.get(j)) for i, j in pairs])) for x in overlap)
    return max((round(x, 6), -abs(at - middle), at) for at, x in enumerate(agreements))[2]


def _iou(a: Rle | None, b: Rle | None) -> float:
    """IoU of two masks; 1 if there are none."""
    if a is None or b is None:
        return float(a is b)
    return float(coco_mask.iou([a], [b], [0])[0, 0])


def best_pairs(gain: NDArray[np.float64]) -> NDArray[np.intp]:
    """The row of each column in the assignment with the largest sum of a square matrix.

    The Hungarian method with potentials (Kuhn 1955, Munkres 1957), which takes the cube of the number of rows. Rows and
    columns count from 1 within it: 0 stands for none.
    """
    count = len(gain)
    of_rows, of_columns = np.zeros(count + 1), np.zeros(count + 1)
    row_of, came_from = np.zeros(count + 1, np.intp), np.zeros(count + 1, np.intp)
    for row in range(1, count + 1):
        row_of[0], column = row, 0
        slack, used = np.full(count + 1, np.inf), np.zeros(count + 1, bool)
        while True:
            used[column] = True
            i = row_of[column]
            reduced = np.concatenate(([np.inf], -gain[i - 1] - of_rows[i] - of_columns[1:]))
            better = ~used & (reduced < slack)
            slack[better], came_from[better] = reduced[better], column
            column = int(np.where(used, np.inf, slack).argmin())
            least = slack[column]
            of_rows[row_of[used]] += least
            of_columns[used] -= least
            slack[~used] -= least
            if not row_of[column]:
                break
        while column:
            row_of[column] = row_of[came_from[column]]
            column = int(came_from[column])
    return row_of[1:] - 1
