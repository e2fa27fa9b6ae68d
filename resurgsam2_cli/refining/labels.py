"""The label image of a frame in which the masks of some objects have changed.

A label image has one object per pixel, and the logits that decided between objects are not kept. What stays the same
keeps its pixels; what a person drew lies on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np

Masks = Mapping[int, np.ndarray]
"""The own mask (height, width) bool of each object by its id; they may overlap."""


def is_drawn_over(labels: np.ndarray, masks: Masks) -> bool:
    """Whether a label image shows anything that no order of these masks could give: somebody has edited it."""
    for ident in np.unique(labels).tolist():
        at = labels == ident
        if ident and (ident not in masks or (at & ~masks[ident]).any()):
            return True
        if not ident and any((at & mask).any() for mask in masks.values()):
            return True
    return False


def redrawn(labels: np.ndarray, before: Masks, after: Masks, given: Set[int], kept: Set[int]) -> np.ndarray:
    """The label image (height, width) uint8 for the masks ``after``, from that for the masks ``before``.

    ``given`` are objects whose masks a person gives now, ``kept`` those whose masks a person gave at any time.
    """
    labels = labels.copy()
    for ident, mask in after.items():
        if mask is not before[ident]:
            labels[(labels == ident) & ~mask] = 0
    for ident in sorted(after, key=lambda x: (x not in kept, x)):
        labels[(labels == 0) & after[ident]] = ident
    for ident in sorted(given & after.keys()):  # clicks may leave nothing
        labels[after[ident]] = ident
    return labels
