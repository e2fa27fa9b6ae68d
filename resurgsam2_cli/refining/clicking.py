"""The mask that clicks make in a frame of a run: it is to do what they say."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from model.prompt_tokens import POSITIVE, Clicks
from model.states import ObjectState, Step
from resurgsam2_cli.refining.correction import Correction
from resurgsam2_cli.refining.known import Known, iou
from resurgsam2_cli.refining.points import deepest, obeyed
from resurgsam2_cli.segmenting.session import clicks_of

_FITTING = 0.5
"""Words fit a mask if a click in its middle makes one of at least this IoU with it, together with them."""

_CORRECTED = 0.5
"""A mask that corrects another one has at least this IoU with it; else it shows something else."""


@dataclass(frozen=True)
class _Way:
    """With what the network looks at clicks."""

    memory: bool = False
    """What the frames before and kept ones hold, and the mask that is there."""
    anchored: bool = False
    """The mask that is there, and a click in its middle."""
    silent: bool = False
    """Without the object's words."""


_WAYS = (_Way(memory=True), _Way(anchored=True), _Way(anchored=True, silent=True), _Way(), _Way(silent=True))


def clicked(known: Known, x: Correction) -> tuple[np.ndarray, ObjectState]:
    """The mask (height, width) bool that clicks make, and what the network says of it.

    First they correct the mask that is there, as in a session that has just tracked this frame. Memory, words, or that
    mask may hold on to something else, or let go of the object. So a mask that does not do what the clicks say, or
    has little of what was there, is not taken at once: then they correct that mask without memory, or count alone. If
    all clicks on the object lie on the mask that is there, it is to be corrected; if not, they may mean more of it or
    something else, and the network's own opinion decides.
    """
    marks = [y.mark for y in x.clicks]
    old = known.mask(x.step, x.row) if x.counts is None else known.decoded(x.counts)
    boxed = any(y.box is not None for y in marks)
    on = [replace(y, points=tuple(z for z in y.points if z[2]), box=None) for y in marks]
    on_it, points = obeyed(old, on)
    means, refines = boxed or points > 0, old.any() and on_it == points and not boxed
    best: tuple[tuple[int, bool, float], np.ndarray, ObjectState] | None = None
    for way in _WAYS:
        alone = not (way.memory or way.anchored)
        if (
            (way.silent and not known.speaks(x.row))
            or (way.anchored and (boxed or not old.any()))
            or (alone and not means)  # what is beside an object says nothing about it
        ):
            continue
        found = _pointed(known, x, old, way)
        (mask,), (state,) = known.rendered(found), found.objects
        agreed, count = obeyed(mask, marks)
        alike = iou(old, mask) if old.any() else 1.0
        fits = agreed == count and (alone or alike >= _CORRECTED)
        if fits and (way.memory or refines):
            return mask, state
        rank = (agreed, fits, alike if refines else state.predicted_iou)
        if best is None or rank > best[0]:
            best = rank, mask, state
    assert best is not None
    return best[1], best[2]


def _pointed(known: Known, x: Correction, old: np.ndarray, way: _Way) -> Step:
    session, step = known.session([x.row], {x.row} if way.silent else set()), x.step
    clicks = clicks_of(x.clicks, known.grid, known.run.engine.device)
    known.read_around(step)
    with known.network("point"):
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
    (x, y), device = deepest(mask), known.run.engine.device
    point = torch.tensor([[[x / known.grid.width, y / known.grid.height]]], device=device)
    return Clicks(point, torch.tensor([[POSITIVE]], device=device))


def words_fit(known: Known, row: int, step: int, mask: np.ndarray) -> bool:
    """Whether the words of an object, if it has any, may mean what a mask (height, width) bool shows."""
    if not known.speaks(row) or not mask.any():
        return True
    session = known.session([row])
    with known.network("point"):
        found = session.point(0, step, known.features[step], _middle(known, mask))
    return iou(known.rendered(found)[0], mask) >= _FITTING
