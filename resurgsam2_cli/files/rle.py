"""COCO's run-length code of masks: made from masks, decoded to run lengths, and checked before anything decodes it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from resurgsam2_cli.files.text import shown

_LONGEST = 6
"""Characters of a number. pycocotools computes with 32 bits: it would decode a longer one to something else."""


def mask_runs(mask: NDArray[np.bool_], box: list[float] | None) -> NDArray[np.intp]:
    """The run lengths of a mask (height, width): columns first, background first. Reads only its ``box``.

    The box is [x, y, width, height], None for an empty mask.
    """
    left, top, columns, rows = (int(x) for x in box or (0, 0, 0, 0))
    return runs_inside(mask[top : top + rows, left : left + columns], box, (mask.shape[0], mask.shape[1]))


def runs_inside(inside: NDArray[np.bool_], box: list[float] | None, size: tuple[int, int]) -> NDArray[np.intp]:
    """The same, of a mask of a ``size`` (height, width), given what is inside its box."""
    height, width = size
    bounds = np.zeros(0, np.intp) if box is None else _bounds(inside, int(box[0]), int(box[1]), height)
    if not len(bounds) or bounds[-1] < height * width:
        bounds = np.append(bounds, height * width)
    bounds[1:] -= bounds[:-1].copy()
    return bounds


def _bounds(inside: NDArray[np.bool_], left: int, top: int, height: int) -> NDArray[np.intp]:
    """Where the runs of the foreground begin and end, counted down the columns of the picture."""
    rows, columns = inside.shape
    # The edges across the rows, of which each column has an even number: sorting a few is faster than transposing all.
    edges = np.empty((rows + 1, columns), bool)
    edges[0], edges[rows] = inside[0], inside[-1]
    np.not_equal(inside[1:], inside[:-1], out=edges[1:rows])
    row, column = np.divmod(np.flatnonzero(edges), columns)
    bounds = column * height + row + (left * height + top)
    bounds.sort()
    if rows == height:  # a run may continue in the next column: it ends there and starts again
        same = np.flatnonzero(bounds[1:] == bounds[:-1])
        bounds = np.delete(bounds, np.concatenate((same, same + 1)))
    return bounds


def compressed(masks: list[NDArray[np.intp]]) -> list[str]:
    """The compressed ``counts`` of masks, given their run lengths: ``rleToString`` of pycocotools, for all at once.

    The inverse of :func:`run_lengths`.
    """
    if not masks:
        return []
    values = np.concatenate([_differences(x) for x in masks])
    size = np.where(values < 0, ~values, values)
    lengths = np.ones(len(values), np.intp)
    for bits in range(4, int(size.max()).bit_length(), 5):
        lengths += size >= 1 << bits
    characters = np.empty((len(values), int(lengths.max())), np.uint8)
    for place in range(characters.shape[1]):
        characters[:, place] = 48 + ((values >> 5 * place) & 31) + 32 * (place < lengths - 1)
    text = characters[np.arange(characters.shape[1]) < lengths[:, None]].tobytes().decode("ascii")
    ends = np.cumsum(lengths)[np.cumsum([len(x) for x in masks]) - 1].tolist()
    return [text[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


def _differences(lengths: NDArray[np.intp]) -> NDArray[np.intp]:
    """From the fourth on, the difference to the one before the last."""
    values = lengths.copy()
    values[3:] -= lengths[1:-2]
    return values


def run_lengths(counts: str) -> NDArray[np.int64]:
    """The run lengths in a compressed ``counts``: columns first, background first. Raises ``ValueError``."""
    return run_lengths_of([counts])[0]


def run_lengths_of(masks: list[str]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """The run lengths of several masks, one after the other, and where each mask begins. Raises ``ValueError``.

    Five bits per character, lowest first; the sixth bit says that more follow. Numbers are signed, and from the fourth
    of a mask on each is the difference to the one before the last (``rleFrString`` of pycocotools).
    """
    bits = np.frombuffer("".join(masks).encode("ascii"), np.uint8).astype(np.int64) - 48
    last = np.cumsum([len(x) for x in masks]) - 1  # character of each mask
    ends = np.flatnonzero(bits < 32)
    if not all(masks) or bits.min() < 0 or bits.max() > 63 or (bits[last] > 31).any():
        raise ValueError("the counts of a mask are damaged")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST:
        raise ValueError("the counts of a mask are damaged")
    shifts = 5 * (np.arange(len(bits)) - np.repeat(starts, lengths))
    values = np.add.reduceat((bits & 31) << shifts, starts)
    values -= ((bits[ends] & 16) << 1) << shifts[ends]  # the sign
    behind = np.searchsorted(ends, last) + 1  # numbers up to the end of each mask
    first = np.concatenate(([0], behind[:-1]))
    place = np.arange(len(values)) - np.repeat(first, behind - first)  # in its mask
    for chain in ((place & 1) == 1, ((place & 1) == 0) & (place > 0)):
        values[chain] = _summed(values[chain], place[chain] < 3)
    return values, first


def _summed(values: NDArray[np.int64], begins: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The running sum, which starts again wherever something ``begins``."""
    if not len(values):
        return values
    total = np.cumsum(values)
    at = np.flatnonzero(begins)
    return total - np.repeat(total[at] - values[at], np.diff(at, append=len(values)))


def encoded(mask: NDArray[np.bool_]) -> str:
    """The compressed ``counts`` of one mask (height, width)."""
    height, width = mask.shape
    return compressed([mask_runs(mask, [0, 0, width, height])])[0]


def decoded(counts: str | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of a ``counts`` that has been checked, in the size ``shape``; None is an empty one."""
    if counts is None:
        return np.zeros(shape, bool)
    mask: NDArray[np.uint8] = coco_mask.decode({"size": list(shape), "counts": counts})
    return mask.astype(bool)


def check_rles(rles: list[Any], height: int, width: int) -> None:
    """Raise ``ValueError`` unless each is a compressed mask that fills (height, width) exactly."""
    for rle in rles:
        size, counts = (rle.get("size"), rle.get("counts")) if isinstance(rle, dict) else (rle, None)
        if size != [height, width] or any(type(x) is not int for x in size) or not isinstance(counts, str):
            raise ValueError(f"a mask of size {shown(size)}, not {[height, width]}")
        if not counts:
            raise ValueError("the counts of a mask do not fill its size")
    lengths, first = run_lengths_of([x["counts"] for x in rles])
    # The longest is looked at first, as a sum over any numbers may overflow to the right one.
    whole = height * width
    if lengths.min() < 0 or lengths.max() > whole or (np.add.reduceat(lengths, first) != whole).any():
        raise ValueError("the counts of a mask do not fill its size")


def check_rle(rle: Any, height: int, width: int) -> None:
    """Raise ``ValueError`` as :func:`check_rles` does, for one mask."""
    check_rles([rle], height, width)
