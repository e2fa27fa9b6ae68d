"""COCO's run-length code of masks: decoded to run lengths, and checked before anything decodes it to pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resurgsam2_cli.files.text import shown

_LONGEST = 6
"""Characters of a number. pycocotools computes with 32 bits: it would decode a longer one to something else."""


def run_lengths(counts: str) -> NDArray[np.int64]:
    """The run lengths in a compressed ``counts``: columns first, background first. Raises ``ValueError``.

    Five bits per character, lowest first; the sixth bit says that more follow. Numbers are signed, and from the fourth
    on each is the difference to the one before the last (``rleFrString`` of pycocotools).
    """
    bits = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    if not len(bits):
        return bits
    ends = np.flatnonzero(bits < 32)
    if bits.min() < 0 or bits.max() > 63 or not len(ends) or ends[-1] != len(bits) - 1:
        raise ValueError("the counts of a mask are damaged")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST:
        raise ValueError("the counts of a mask are damaged")
    shifts = 5 * (np.arange(len(bits)) - np.repeat(starts, lengths))
    values = np.add.reduceat((bits & 31) << shifts, starts)
    values -= ((bits[ends] & 16) << 1) << shifts[ends]  # the sign
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def check_rle(rle: Any, height: int, width: int) -> None:
    """Raise ``ValueError`` unless ``rle`` is a compressed mask that fills (height, width) exactly."""
    size, counts = (rle.get("size"), rle.get("counts")) if isinstance(rle, dict) else (rle, None)
    if size != [height, width] or any(type(x) is not int for x in size) or not isinstance(counts, str):
        raise ValueError(f"a mask of size {shown(size)}, not {[height, width]}")
    lengths = run_lengths(counts)
    # Check the longest first: a sum over arbitrary numbers may overflow to the right one.
    if not len(lengths) or lengths.min() < 0 or lengths.max() > height * width or lengths.sum() != height * width:
        raise ValueError("the counts of a mask do not fill its size")
