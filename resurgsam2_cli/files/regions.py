"""Connected pieces of masks and holes in them, counted from run lengths: nothing is decoded to pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resurgsam2_cli.files.rle import run_lengths_of

Ints = NDArray[np.int64]

SPECK = 0.02
"""Pieces and holes below this share of the mask's pixels are not counted."""

_MOST_RUNS = 2**14
"""Runs of a mask, one per column at least, that are looked at: a wide picture in a damaged file has more."""


@dataclass(frozen=True)
class Regions:
    """One number per mask."""

    pieces: list[int]
    """Parts of the mask that do not touch one another."""
    holes: list[int]
    """Parts of the background that the mask encloses."""


def count_regions(counts: list[str], height: int, width: int) -> Regions:
    """The pieces and holes of masks (height, width), given their compressed ``counts``, without specks.

    Pixels of a piece touch at their sides, those of a hole at their corners too. A mask that is too wide to look at
    counts as one piece without a hole. Raises ``ValueError`` if the counts are damaged.
    """
    if not counts:
        return Regions([], [])
    lengths, first = run_lengths_of(counts)
    numbers = np.diff(first, append=len(lengths))
    # All masks side by side are one wide picture, whose pixels are counted down its columns.
    bounds = np.cumsum(lengths)
    is_mask = (np.arange(len(lengths)) - np.repeat(first, numbers)) % 2 == 1
    begins, ends = bounds - lengths, bounds
    some = lengths > 0
    columns = np.where(some & is_mask, (ends - 1) // height - begins // height + 1, 0)
    many = np.add.reduceat(columns, first) > _MOST_RUNS
    some &= ~np.repeat(many, numbers)
    grid = _Grid(height, width, len(counts))
    mask = grid.runs(begins[some & is_mask], ends[some & is_mask])
    areas = grid.per_mask(mask.lengths, mask.mask)
    piece = mask.regions()
    sizes = np.bincount(piece, weights=mask.lengths, minlength=len(piece))
    found = np.flatnonzero(sizes)
    pieces = grid.per_mask(sizes[found] >= SPECK * areas[mask.mask[found]], mask.mask[found])
    # Euler: runs less touches are pieces less holes. Most masks have no hole, and need no look at their background.
    euler = grid.per_mask(np.ones(len(piece)), mask.mask) - grid.per_mask(np.ones(len(mask.left)), mask.mask[mask.left])
    holed = grid.per_mask(np.ones(len(found)), mask.mask[found]) > euler
    holes = np.zeros(len(counts))
    if holed.any():
        own = some & ~is_mask & np.repeat(holed, numbers)
        holes = _holes(grid, mask, begins[own], ends[own], areas)
    pieces[many] = 1
    return Regions(pieces.astype(int).tolist(), holes.astype(int).tolist())


def piece_at(mask: NDArray[np.bool_], row: int, column: int) -> NDArray[np.bool_]:
    """The connected piece of a mask (height, width) that holds a pixel; empty if the mask does not."""
    if not mask[row, column]:
        return np.zeros_like(mask)
    runs = _runs_of(mask)
    region, place = runs.regions(), column * len(mask) + row
    return _drawn(runs, region == region[np.searchsorted(runs.begins, place, "right") - 1], mask.shape)


def small_regions(
    mask: NDArray[np.bool_], limit: int, *, corners: bool = False, enclosed: bool = False
) -> NDArray[np.bool_]:
    """The regions of fewer than ``limit`` pixels of a mask (height, width), which touch at their ``corners``, too.

    ``enclosed`` leaves out those that reach the edge of the picture.
    """
    if limit <= 1 or not mask.any():
        return np.zeros_like(mask)
    runs = _runs_of(mask, corners=corners)
    region, (height, width) = runs.regions(), mask.shape
    small = np.bincount(region, weights=runs.lengths) < limit
    if enclosed:
        outside = (runs.begins % height == 0) | (runs.ends % height == 0)
        outside |= (runs.column == 0) | (runs.column == width - 1)
        small[region[outside]] = False
    return _drawn(runs, small[region], (height, width))


def _runs_of(mask: NDArray[np.bool_], *, corners: bool = False) -> _Runs:
    flat = np.concatenate(([False], mask.T.ravel(), [False]))
    bounds = np.flatnonzero(flat[1:] != flat[:-1])
    height, width = mask.shape
    return _Grid(height, width, 1).runs(bounds[::2], bounds[1::2], corners=corners)


def _drawn(runs: _Runs, which: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Some of the runs of one mask as a mask (height, width)."""
    height, width = shape
    edges = np.zeros(height * width + 1, np.int8)
    np.add.at(edges, runs.begins[which], 1)
    np.add.at(edges, runs.ends[which], -1)
    return np.cumsum(edges[:-1], dtype=np.int8).astype(bool).reshape(width, height).T


def _holes(grid: _Grid, mask: _Runs, begins: Ints, ends: Ints, areas: NDArray) -> NDArray:
    """The holes of each mask, given the runs of all masks, and those of the background of some, not yet cut."""
    first, last = np.full(grid.masks, grid.masks * grid.width), np.full(grid.masks, -1)
    np.minimum.at(first, mask.mask, mask.column)
    np.maximum.at(last, mask.mask, mask.column)
    # Only columns that the mask reaches can have a hole.
    of = begins // (grid.height * grid.width)
    begins = np.maximum(begins, first[of] * grid.height)
    ends = np.minimum(ends, (last[of] + 1) * grid.height)
    columns = np.where(begins < ends, (ends - 1) // grid.height - begins // grid.height + 1, 0)
    own = (begins < ends) & (grid.per_mask(columns, of) <= _MOST_RUNS)[of]
    background = grid.runs(begins[own], ends[own], corners=True)
    column, first, last = background.column, first[background.mask], last[background.mask]
    top, bottom = background.begins % grid.height == 0, background.ends % grid.height == 0
    outside = top | bottom | (column == first) | (column == last)
    region = background.regions()
    sizes = np.bincount(region, weights=background.lengths, minlength=len(region))
    open_ = np.bincount(region, weights=outside, minlength=len(region)) > 0
    found = np.flatnonzero((sizes > 0) & ~open_)
    of = background.mask[found]
    return grid.per_mask(sizes[found] >= SPECK * areas[of], of)


@dataclass(frozen=True)
class _Grid:
    """Several masks of one size, side by side."""

    height: int
    width: int
    masks: int

    def per_mask(self, values: NDArray, mask: Ints) -> NDArray:
        """Sum values by the mask that they belong to."""
        return np.bincount(mask, weights=values, minlength=self.masks)

    def runs(self, begins: Ints, ends: Ints, *, corners: bool = False) -> _Runs:
        """Runs of pixels, cut where a column ends, and all that touch, at their ``corners`` too or not."""
        first = begins // self.height
        count = (ends - 1) // self.height - first + 1
        if (count > 1).any():
            which = np.repeat(np.arange(len(begins)), count)
            column = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count) + first[which]
            begins = np.maximum(begins[which], column * self.height)
            ends = np.minimum(ends[which], (column + 1) * self.height)
        column = begins // self.height
        # Those that touch a run on its right are neighbours in order.
        low = np.searchsorted(ends, begins + self.height, "left" if corners else "right")
        high = np.searchsorted(begins, ends + self.height, "right" if corners else "left")
        touching = np.where(column % self.width == self.width - 1, 0, high - low)
        left = np.repeat(np.arange(len(begins)), touching)
        right = np.arange(len(left)) + np.repeat(low - (np.cumsum(touching) - touching), touching)
        if corners:  # the lowest pixel of a column is followed by the highest of the next: these do not touch
            beside = column[right] == column[left] + 1
            left, right = left[beside], right[beside]
        return _Runs(begins, ends, column, column // self.width, left, right)


@dataclass(frozen=True)
class _Runs:
    """Runs of pixels in order, each in one column, by their places in the wide picture."""

    begins: Ints
    ends: Ints
    column: Ints
    mask: Ints
    left: Ints
    """With ``right``: the pairs of runs that touch."""
    right: Ints

    @property
    def lengths(self) -> Ints:
        return self.ends - self.begins

    def regions(self) -> Ints:
        """For each run, one run of its region, the same for all of the region."""
        root = np.arange(len(self.begins))
        root[self.right[::-1]] = self.left[::-1]  # the first neighbour on the left
        while True:
            further = root[root]
            if (further == root).all():
                break
            root = further
        # What grows together farther right: few pairs, once each.
        a, b = root[self.left], root[self.right]
        apart = a != b
        return _joined(len(root), np.unique(np.stack((a[apart], b[apart])), axis=1))[root] if apart.any() else root


def _joined(count: int, pairs: Ints) -> Ints:
    """For each of ``count`` things one thing that it hangs together with, given (2, any) ``pairs`` that do."""
    above: dict[int, int] = {}

    def top(x: int) -> int:
        while (up := above.get(x, x)) != x:
            above[x] = x = above.get(up, up)
        return x

    for x, y in pairs.T.tolist():
        above[top(x)] = top(y)
    joined = np.arange(count)
    for x in list(above):
        joined[x] = top(x)
    return joined
