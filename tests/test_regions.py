"""Pieces of masks and holes in them, compared with flooding."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from resurgsam2_cli.files.regions import SPECK, Regions, count_regions, piece_at


def _flooded(mask: np.ndarray, *, corners: bool) -> list[set[tuple[int, int]]]:
    """Regions by flooding, one pixel after the other."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            region.add((y, x))
            for a in (-1, 0, 1):
                for b in (-1, 0, 1):
                    if (a == 0 or b == 0 or corners) and (y + a, x + b) in left:
                        left.remove((y + a, x + b))
                        edge.append((y + a, x + b))
        found.append(region)
    return found


def _code(mask: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def _expected(mask: np.ndarray) -> tuple[int, int]:
    height, width = mask.shape
    least = SPECK * mask.sum()
    pieces = [x for x in _flooded(mask, corners=False) if len(x) >= least]
    holes = [
        x
        for x in _flooded(~mask, corners=True)
        if len(x) >= least and not any(y in (0, height - 1) or z in (0, width - 1) for y, z in x)
    ]
    return len(pieces), len(holes)


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
        lambda shape: st.lists(arrays(bool, shape).filter(lambda x: bool(x.any())), min_size=1, max_size=4)
    )
)
def test_pieces_and_holes_are_those_of_flooding(masks: list[np.ndarray]) -> None:
    found = count_regions([_code(x) for x in masks], *masks[0].shape)
    assert list(zip(found.pieces, found.holes, strict=True)) == [_expected(x) for x in masks]


def test_pieces_and_holes_of_larger_masks() -> None:
    """Specks exist only there; regions that grow together late, and columns that are full from top to bottom."""
    rng = np.random.default_rng(0)
    masks = []
    for scale in (1, 2, 5, 9):
        coarse = rng.random((60 // scale + 1, 70 // scale + 1)) < 0.6
        masks.append(np.kron(coarse, np.ones((scale, scale), bool))[:60, :70])
    comb = np.zeros((60, 70), bool)
    comb[::4], comb[:, 66] = True, True
    masks += [comb, comb[:, ::-1], np.ones((60, 70), bool)]
    found = count_regions([_code(x) for x in masks], 60, 70)
    assert list(zip(found.pieces, found.holes, strict=True)) == [_expected(x) for x in masks]
    assert count_regions([], 60, 70) == Regions([], [])


def test_a_mask_of_too_many_runs_is_one_piece() -> None:
    """The size of the picture is what a file says: a mask in it may be of millions of columns."""
    wide = 2**27
    full = coco_mask.frPyObjects({"size": [1, wide], "counts": [0, wide]}, 1, wide)["counts"].decode()
    small = coco_mask.frPyObjects({"size": [1, wide], "counts": [5, 3, 4, 2, wide - 14]}, 1, wide)["counts"].decode()
    apart = coco_mask.frPyObjects({"size": [2, wide], "counts": [2, 4, 2 * wide - 10, 4]}, 2, wide)["counts"].decode()
    assert count_regions([full, small], 1, wide) == Regions([1, 2], [0, 0])
    assert count_regions([apart], 2, wide) == Regions([2], [0])


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))), st.data())
def test_the_piece_at_a_pixel(mask: np.ndarray, data: st.DataObject) -> None:
    row, column = (data.draw(st.integers(0, n - 1)) for n in mask.shape)
    expected = next((x for x in _flooded(mask, corners=False) if (row, column) in x), set())
    assert {(int(y), int(x)) for y, x in np.argwhere(piece_at(mask, row, column))} == expected
