"""J and F, the measures of DAVIS (Perazzi et al. 2016), and Dice; per object and frame."""

from __future__ import annotations

import math

import numpy as np

_TOLERANCE = 0.008
"""How far apart boundaries may lie and still agree, as a share of the image's diagonal."""


def region_similarity(mask: np.ndarray, truth: np.ndarray) -> float:
    """J, the intersection over union of two (height, width) bool masks; 1 if both are empty."""
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 1.0


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Twice the intersection over the sum of the areas; 1 if both masks are empty."""
    total = int(mask.sum()) + int(truth.sum())
    return 2 * int((mask & truth).sum()) / total if total else 1.0


def contour_accuracy(mask: np.ndarray, truth: np.ndarray) -> float:
    """F, the harmonic mean of the boundaries' precision and recall; 1 if both masks are empty.

    Boundary pixels agree within ceil(0.008 * diagonal) pixels.
    """
    radius = math.ceil(_TOLERANCE * math.hypot(*mask.shape))
    ours, theirs = _boundary(mask), _boundary(truth)
    if not ours.any() or not theirs.any():
        return float(ours.any() == theirs.any())
    precision = (ours & _dilated(theirs, radius)).sum() / ours.sum()
    recall = (theirs & _dilated(ours, radius)).sum() / theirs.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from the one to the right, below, or both (one pixel wide, as in DAVIS)."""
    right, below, both = mask.copy(), mask.copy(), mask.copy()
    right[:, :-1] = mask[:, 1:]
    below[:-1] = mask[1:]
    both[:-1, :-1] = mask[1:, 1:]
    boundary = (mask ^ right) | (mask ^ below) | (mask ^ both)
    boundary[-1] = mask[-1] ^ right[-1]
    boundary[:, -1] = mask[:, -1] ^ below[:, -1]
    boundary[-1, -1] = False
    return boundary


def _dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    """The mask grown by a disk."""
    height, width = mask.shape
    padded = np.pad(mask, radius)
    grown = np.zeros_like(mask)
    for dy in range(-radius, radius + 1):
        # A row of the disk is a run: doubling shifts make the union over it.
        reach = math.isqrt(radius * radius - dy * dy)
        rows = padded[radius + dy : radius + dy + height]
        line, length = rows.copy(), 1
        while length < 2 * reach + 1:
            step = min(length, 2 * reach + 1 - length)
            line[:, :-step] |= line[:, step:]
            length += step
        grown |= line[:, radius - reach : radius - reach + width]
    return grown
