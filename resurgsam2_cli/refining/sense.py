"""What a correction says of the frames around it: more of the object, less of it, or another mask.

A pass from a corrected frame sees the object a little differently everywhere. Only what is of the kind that a person
said follows: who adds to a mask takes nothing away elsewhere, and who takes from one adds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from resurgsam2_cli.prompts.marks import Point
from resurgsam2_cli.refining.correction import Correction
from resurgsam2_cli.refining.known import iou
from resurgsam2_cli.refining.points import missed_clicks

Mask = NDArray[np.bool_]
"""(height, width)."""

_SAME = 0.5
"""Masks of one thing have at least this IoU; of a mask that grows, as much as this share stays."""

GROWN = 3.0
"""More than three times as much as a mask that is there is another thing, unless the mask that was clicked on grew as
much."""


class Sense(Enum):
    """What was said of a mask."""

    SAME = "that is right"
    MORE = "this, too"
    LESS = "not this"
    MUCH_LESS = "hardly any of this"
    OTHER = "this"


def sense_of(x: Correction, old: Mask, mask: Mask) -> Sense:
    """What a correction says that made ``mask`` of the ``old`` one.

    Clicks say it by where they are, whatever else the network changed. What was drawn says it by what it changed.
    """
    missed = missed_clicks(old, [y.mark for y in x.clicks])
    if any(y.mark.box is not None for y in x.clicks):
        return Sense.OTHER
    if missed:
        more, less = any(on for *_, on in missed), not all(on for *_, on in missed)
    else:
        more, less = bool((mask & ~old).any()), bool((old & ~mask).any())
    if more == less:
        return Sense.OTHER if more else Sense.SAME
    if more:
        return Sense.MORE if _is_in(old, mask) else Sense.OTHER
    return Sense.MUCH_LESS if mask.any() and iou(old, mask) < _SAME else Sense.LESS


def is_more_or_less(old: Mask, new: Mask, clicks: Sequence[Point]) -> bool:
    """Whether a new mask, made by clicks that the old one does not obey, shows the same thing: more or less of it."""
    if not old.any():
        return False
    return _is_in(old, new) if all(on for *_, on in clicks) else iou(old, new) >= _SAME


def _is_in(old: Mask, new: Mask) -> bool:
    """Whether most of a mask, if it is not empty, is in another one."""
    return bool(np.count_nonzero(old & new) >= _SAME * np.count_nonzero(old))


def growth(old: Mask, new: Mask) -> float:
    """How many times as large as the mask that is there one may be that follows from such a correction."""
    if not old.any():
        return GROWN
    return max(GROWN, GROWN / 2 * float(np.count_nonzero(new)) / float(np.count_nonzero(old)))


def follows(sense: Sense, old: Mask, new: Mask, most: float = GROWN) -> Mask:
    """What counts in a frame that holds the ``old`` mask, where a pass sees the ``new`` one; one of them if it can.

    ``most`` is the :func:`growth`.
    """
    if sense in (Sense.OTHER, Sense.SAME):
        return new if sense is Sense.OTHER else old
    if sense is Sense.MORE:
        grown = old | new
        is_more = new.any() and not (old.any() and np.count_nonzero(grown) > most * np.count_nonzero(old))
        return grown if is_more else old
    if not new.any() or not old.any():
        return new if old.any() else old
    if (iou(old, new) < _SAME) if sense is Sense.LESS else not _is_in(new, old):
        return old  # that something else is seen says nothing about what is there
    left = old & new
    return left if left.any() else old
