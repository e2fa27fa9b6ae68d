"""The mask that clicks make in a frame of a run: it is to do what they say."""

from __future__ import annotations

import numpy as np
import torch

from model.prompt_tokens import POSITIVE, Clicks
from model.states import ObjectState, Step
from resurgsam2_cli.refining.changes import decoded
from resurgsam2_cli.refining.correction import Correction
from resurgsam2_cli.refining.known import Known, iou
from resurgsam2_cli.refining.points import deepest, obeyed
from resurgsam2_cli.segmenting.session import clicks_of

_FITTING = 0.5
"""Words fit a mask if a click in its middle makes one of at least this IoU with it, together with them."""


def clicked(known: Known, x: Correction) -> tuple[np.ndarray, ObjectState]:
    """The mask (height, width) bool that clicks make, and what the network says of it.

    First they correct the mask that is there, as in a session that has just tracked this frame. If that does not agree
    with all of them, memory or words may hold on to something else: then they count alone, with the object's words or
    without.
    """
    marks = [y.mark for y in x.clicks]
    best: tuple[int, np.ndarray, ObjectState] | None = None
    for remembers, silent in ((True, False), (False, False), (False, True)):
        if silent and not known.speaks(x.row):
            break
        found = _pointed(known, x, remembers=remembers, silent=silent)
        (mask,), (state,) = known.rendered(found), found.objects
        agreed, count = obeyed(mask, marks)
        if best is None or agreed > best[0]:
            best = agreed, mask, state
        if agreed == count:
            break
    assert best is not None
    return best[1], best[2]


def _pointed(known: Known, x: Correction, *, remembers: bool, silent: bool) -> Step:
    session, step = known.session([x.row], {x.row} if silent else set()), x.step
    known.read_around(step)
    with known.network("point"):
        features = known.features[step]
        if remembers and known.condition(session, x.row, 0, step, run_too=True):
            session.begin(1)
            known.remember(session, x.row, 0, step, 1)
            known.restore(session, x.row, 0, step, "recent")
        if x.counts is not None:
            drawn = decoded(x.counts, known.grid.height, known.grid.width)
            session.adopt(0, step, features, known.for_network(drawn))
        return session.point(0, step, features, clicks_of(x.clicks, known.grid, known.run.engine.device))


def words_fit(known: Known, row: int, step: int, mask: np.ndarray) -> bool:
    """Whether the words of an object, if it has any, may mean what a mask (height, width) bool shows."""
    if not known.speaks(row) or not mask.any():
        return True
    session, device = known.session([row]), known.run.engine.device
    x, y = deepest(mask)
    point = torch.tensor([[[x / known.grid.width, y / known.grid.height]]], device=device)
    with known.network("point"):
        clicks = Clicks(point, torch.tensor([[POSITIVE]], device=device))
        found = session.point(0, step, known.features[step], clicks)
    return iou(known.rendered(found)[0], mask) >= _FITTING
