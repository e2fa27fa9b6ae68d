"""The mask that clicks make in a frame of a run: it is to do what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import torch

from model.prompt_tokens import POSITIVE, Clicks
from model.states import ObjectState, Step
from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.files.regions import piece_at
from resurgsam2_cli.prompts.marks import Point
from resurgsam2_cli.refining.correction import SURE, Correction
from resurgsam2_cli.refining.known import Known, iou
from resurgsam2_cli.refining.points import deepest, disc, distance, extent, missed_clicks, obeyed, place_of
from resurgsam2_cli.refining.sense import is_more_or_less
from resurgsam2_cli.segmenting.session import clicks_of

_FITTING = 0.5
"""Words fit a mask if a click in its middle makes one of at least this IoU with it, together with them."""

_CORRECTED = 0.5
"""A mask that corrects another one has at least this IoU with it; else it shows something else."""

_FAR = 0.12
"""A click beside a mask means more than its border if it is farther from it than this share of the mask's extent."""

_DEEP = 0.6
"""A click in a mask means more than its border if it is deeper in it than this share of its deepest place."""

_COMPARABLE = 0.3
"""What a click far from a mask means is something else if it has this share of the area of that; else more of it."""

_SHARED = 0.1
"""And if it shares no more than this of the smaller of both."""

_ADDED = 0.2
"""What a click at a mask's border adds to it is at most this share of the mask."""

_AROUND = 1.5
"""What a click takes away from a mask's border reaches this many times its depth."""

_NEAR, _ALIKE = 3, 0.3
"""Something else than the mask that is there is the object if it has this IoU with it in one of so many frames beside:
clicks beside an object do not say where it is."""


@dataclass(frozen=True)
class _Way:
    """With what the network looks at clicks."""

    memory: bool = False
    """What the frames before and kept ones hold, and the mask that is there."""
    anchored: bool = False
    """The mask that is there, and a click in its middle."""
    silent: bool = False
    """Without the object's words."""


_MEMORY = _Way(memory=True)
_OTHERS = (_Way(anchored=True), _Way(anchored=True, silent=True), _Way(), _Way(silent=True))

Found = tuple[np.ndarray, ObjectState]
"""A mask (height, width) bool, and what the network says of it."""

Look = Callable[[_Way], Found]
"""What clicks make in one way; each is looked at once."""


def clicked(known: Known, x: Correction) -> Found:
    """The mask (height, width) bool that clicks make, and what the network says of it.

    Clicks that the mask obeys already change nothing. Else they first correct the mask that is there, as in a session
    that has just tracked this frame, and the new mask counts as far as they say it. If it does not do what they say, or
    if little is left of what was there though the clicks lie near its border, it depends on where they lie. Near the
    border, only what is around them changes. Far from it, memory, words or the old mask hold on to something else: then
    the clicks correct that mask without memory, or count alone. But if memory stands by that mask, what is small, or
    hangs together with it, is added to it. Clicks that are all beside the object take away the whole piece that they
    lie in if the network insists on it and other pieces are left, or if what it sees then is not what it saw in frames
    beside. Raises :class:`UsageError` for clicks where the network finds nothing to show.
    """
    marks = [y.mark for y in x.clicks]
    old = known.mask(x.step, x.row) if x.counts is None else known.decoded(x.counts)
    boxed, missed = any(y.box is not None for y in marks), missed_clicks(old, marks)
    if not boxed and not missed:
        return old, ObjectState("point", SURE if old.any() else -SURE, 1.0, (), (), ())
    large = boxed or not old.any() or any(_means_more(old, y) for y in missed)
    look: Look = cache(partial(_mask, known, x, old))
    others = [way for way in _OTHERS if known.speaks(x.row) or not way.silent]
    new, state = first = look(_MEMORY)
    agreed, count = obeyed(new, marks)
    is_correction = not old.any() or iou(old, new) >= _CORRECTED
    if large and x.denies:
        left = _without(old, missed)
        insists = agreed < count and left.any()
        if insists or not (is_correction or _is_alike_nearby(known, x, new)):
            return left, replace(state, object_score=SURE if left.any() else -SURE)
    if agreed < count or not (is_correction or (large and not boxed)):
        new = new if is_correction else old
        if large:
            other = _other(x, old, others, look)
            adds = is_correction and old.any() and not boxed and all(on for *_, on in missed)
            if not adds or _is_apart(other[0], old):
                new, state = other
    elif boxed:
        return first
    mask = new if boxed or not is_more_or_less(old, new, missed) else _as_said(old, new, missed, large=large)
    for click in () if boxed else missed_clicks(mask, marks):
        if not old.any() and click[2]:
            name = f"object {x.row + 1} ({known.run.prompts[x.row].label})"
            where = f"{name} in frame {known.index.number(x.step)}, at {click[0]:g},{click[1]:g}"
            raise UsageError(
                f"{where}: the network finds nothing there", "click elsewhere on the object, or draw its mask"
            )
        found = [look(way)[0] for way in others] if click[2] else []
        mask = _edited(mask, click, found, 1.0 if _means_more(old, click) else _ADDED)
    if state.present == bool(mask.any()):
        return mask, state
    return mask, replace(state, object_score=SURE if mask.any() else -SURE)


def _is_apart(mask: np.ndarray, old: np.ndarray) -> bool:
    """Whether a mask shows something of a size like that of another one, and none of it."""
    own, there = np.count_nonzero(mask), np.count_nonzero(old)
    return bool(own >= _COMPARABLE * there and np.count_nonzero(mask & old) <= _SHARED * min(own, there))


def _means_more(old: np.ndarray, click: Point) -> bool:
    """Whether a click that a mask does not obey means more than its border."""
    away = distance(old, click)
    if click[2]:
        return away > _FAR * extent(old)
    return away > _DEEP * distance(old, (*deepest(old), False))


def _is_alike_nearby(known: Known, x: Correction, mask: np.ndarray) -> bool:
    """Whether a mask is about that of the object in a frame beside."""
    steps = (y for y in range(x.step - _NEAR, x.step + _NEAR + 1) if y != x.step and 0 <= y < len(known.index))
    return any(iou(mask, known.mask(y, x.row)) >= _ALIKE for y in steps)


def _without(mask: np.ndarray, clicks: Sequence[Point]) -> np.ndarray:
    """A mask without the pieces that clicks beside the object lie in."""
    left = mask.copy()
    for click in clicks:
        left &= ~piece_at(left, *place_of(left, click))
    return left


def _as_said(old: np.ndarray, new: np.ndarray, clicks: Sequence[Point], *, large: bool) -> np.ndarray:
    """A mask with those of its changes to a new one that clicks ask for, which the old one does not obey.

    Clicks on the object take nothing away, and what is near its border, or beside it, changes only where they lie.
    """
    on = [x[2] for x in clicks]
    if large and any(on):
        return old | new if all(on) else new
    mask = old.copy()
    for click in clicks:
        if click[2]:
            mask |= piece_at(new & ~old, *place_of(old, click))
        else:
            mask &= ~piece_at(old & ~new, *place_of(old, click))
    return mask


def _edited(mask: np.ndarray, click: Point, found: Sequence[np.ndarray], most: float) -> np.ndarray:
    """A mask that obeys a click, changed around it alone.

    A click on the object adds the smallest piece around it of what the network ``found`` in other ways, of at most the
    share ``most`` of the mask's area.
    """
    pieces = [piece_at(x & ~mask, *place_of(mask, click)) for x in found]
    parts = [x for x in pieces if 0 < np.count_nonzero(x) <= most * np.count_nonzero(mask)]
    if parts:
        return mask | min(parts, key=np.count_nonzero)
    radius = distance(mask, click) * (1 if click[2] else _AROUND)
    around = disc(mask.shape, click, max(1.0, min(radius, _FAR * extent(mask))))
    return mask | around if click[2] else mask & ~around


def _other(x: Correction, old: np.ndarray, others: Sequence[_Way], look: Look) -> Found:
    """What clicks mean if it is not the mask that is there, with its memory.

    If all clicks on the object lie on the mask that is there, it is to be corrected; if not, they may mean more of it
    or something else, and the network's own opinion decides.
    """
    marks = [y.mark for y in x.clicks]
    boxed = any(y.box is not None for y in marks)
    on_it, points = obeyed(old, [replace(y, points=tuple(z for z in y.points if z[2]), box=None) for y in marks])
    means, refines = boxed or points > 0, old.any() and on_it == points and not boxed
    best: tuple[tuple[int, bool, float], Found] | None = None
    for way in (_MEMORY, *others):
        alone = not (way.memory or way.anchored)
        if (way.anchored and (boxed or not old.any())) or (alone and not means):
            continue  # what is beside an object says nothing about it
        mask, state = found = look(way)
        agreed, count = obeyed(mask, marks)
        alike = iou(old, mask) if old.any() else 1.0
        fits = agreed == count and (alone or alike >= _CORRECTED)
        if fits and refines:
            return found
        rank = (agreed, fits, alike if refines else state.predicted_iou)
        if best is None or rank > best[0]:
            best = rank, found
    assert best is not None
    return best[1]


def _mask(known: Known, x: Correction, old: np.ndarray, way: _Way) -> Found:
    found = _pointed(known, x, old, way)
    return known.rendered(found)[0], found.objects[0]


def _pointed(known: Known, x: Correction, old: np.ndarray, way: _Way) -> Step:
    session, step = known.session([x.row], {x.row} if way.silent else set()), x.step
    known.read_around(step)
    with known.network("point"):
        clicks = clicks_of(x.clicks, known.grid, known.run.engine.device)
        features = known.features[step]
        if way.memory and known.condition(session, x.row, 0, step, run_too=True):
            session.begin(1)
            known.remember(session, x.row, 0, step, 1)
            known.restore(session, x.row, 0, step, "recent")
        if way.anchored or (way.memory and x.counts is not None):
            session.adopt(0, step, features, known.for_network(old))
        if way.anchored:
            middle = _middle(known, _apart(old, x))
            clicks = Clicks(*(torch.cat(pair, dim=1) for pair in zip(clicks, middle, strict=True)))
        return session.point(0, step, features, clicks)


def _apart(mask: np.ndarray, x: Correction) -> np.ndarray:
    """A mask without what is nearer to a click beside the object than a sixth of its own extent."""
    rows, columns = np.nonzero(mask)
    radius = max(np.ptp(rows), np.ptp(columns)) / 6
    far = np.ones(len(rows), bool)
    for y in x.clicks:
        for px, py, on in y.mark.points:
            far &= on | (np.hypot(columns + 0.5 - px, rows + 0.5 - py) > radius)
    left = np.zeros_like(mask)
    left[rows[far], columns[far]] = True
    return left if far.any() else mask


def _middle(known: Known, mask: np.ndarray) -> Clicks:
    """A click in the middle of a mask."""
    return Clicks.at([deepest(mask)], [POSITIVE], known.grid.width, known.grid.height, known.run.engine.device)


def words_fit(known: Known, row: int, step: int, mask: np.ndarray) -> bool:
    """Whether the words of an object, if it has any, may mean what a mask (height, width) bool shows."""
    if not known.speaks(row) or not mask.any():
        return True
    session = known.session([row])
    with known.network("point"):
        found = session.point(0, step, known.features[step], _middle(known, mask))
    return iou(known.rendered(found)[0], mask) >= _FITTING
