"""What follows from corrections: each is tracked from in both directions, as far as it changes anything.

Tracking starts from the mask that a person gave, and from what the frames beside it hold if that was about right. It
stops where it agrees with what is there, at the next frame that is kept, or at the end of its reach.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from model.initial_frame import presence
from model.memory_bank import Direction
from model.session import Session
from model.states import ObjectState
from resurgsam2_cli.outputs import ObjectResult
from resurgsam2_cli.refining.changes import Changed, Changes
from resurgsam2_cli.refining.clicking import clicked, words_fit
from resurgsam2_cli.refining.correction import SURE, Correction
from resurgsam2_cli.refining.kept import Kept
from resurgsam2_cli.refining.known import Known, iou
from resurgsam2_cli.refining.sense import GROWN, Sense, follows, growth, sense_of
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.segmenting.reading import read, read_backwards, with_features
from resurgsam2_cli.segmenting.rendering import passed
from resurgsam2_cli.segmenting.session import Watch
from resurgsam2_cli.segmenting.summary import Undertaking

_TRUSTED = 0.5
"""Frames beside a corrected one are remembered if its old mask has this IoU with the new one."""

_FADED, _NEVER_BELOW = 0.5, 0.9
"""A correction has faded where the new mask differs from the one that is there by this share of what was changed in the
corrected frame, however small that was; masks with an IoU below the second number never agree."""

_LESS_CERTAIN = 0.1
"""A new mask that is less certain than the one that is there by this much does not count, unless a person drew the mask
that it follows from, or said that another thing is the object. Between two kept frames, the mask from the nearer one
counts, unless it is that."""

_LEFT = 0.1
"""A run has left what it followed where its masks of two frames in a row have at most this IoU."""


@dataclass(frozen=True)
class Reach:
    """How far a correction is followed."""

    alike: float = 0.98
    """IoU at which a new mask agrees with the one that is there, whatever was changed in the corrected frame."""
    agreed: int = 10
    """Frames in a row that must agree before tracking stops; 0 never stops it."""
    frames: int | None = None
    """At most so many frames on each side."""


@dataclass(frozen=True)
class _Trust:
    """What of an object is to be believed where it was corrected."""

    beside: bool
    """The masks beside it."""
    run: bool
    """The frames that the run tracked it from."""
    words: bool
    """Its words."""
    alike: float
    """IoU of its old and its new mask."""
    sense: Sense
    """What was said of its mask."""
    growth: float
    """How many times as large it may become."""
    drawn: bool
    """Whether a person drew its mask, which is then right; one that clicks made is the network's guess."""
    largest: float = math.inf
    """Pixels that a mask may have which follows from its own, unless the one that is there is large, too."""
    denied: np.ndarray | None = None
    """Its old mask, (height, width) bool, if a person said that there is nothing of it."""


@dataclass
class _Pass:
    """A pass from a corrected frame."""

    session: Session
    rows: list[int]
    """The objects, in the order of the session."""
    start: int
    limits: dict[int, int]
    """Where each object stops at the latest: that frame is not changed."""
    direction: Direction
    trust: Mapping[int, _Trust] = field(default_factory=dict)
    agreed: dict[int, int] = field(default_factory=dict)
    denied: dict[int, np.ndarray | None] = field(default_factory=dict)
    """The last mask that is there of what was denied; None when the run has left it."""

    def has_left(self, row: int, old: np.ndarray) -> bool:
        """Whether the run, whose mask of the next frame is ``old``, has left what was denied, if something was."""
        trust = self.trust.get(row)
        if trust is None or trust.denied is None:
            return False
        last = self.denied.get(row, trust.denied)
        self.denied[row] = old if last is not None and old.any() and iou(last, old) > _LEFT else None
        return self.denied[row] is None

    def active(self, step: int, reach: Reach, whole: Collection[int]) -> list[int]:
        """The objects that are still followed; those of ``whole`` to their limits."""
        rows = [row for row in self.rows if (self.limits[row] - step) * self.direction > 0]
        most = reach.agreed
        return [row for row in rows if not most or row in whole or self.agreed.get(row, 0) < most]

    @property
    def last(self) -> int:
        """Where the pass ends."""
        return max(self.limits.values()) if self.direction == 1 else min(self.limits.values())


class Follower:
    """Corrects frames of a run and tracks from there, into ``changes``.

    ``version`` is the number of the version that is being made. ``kept`` grows by what is corrected. The objects
    ``new`` are followed as far as there are frames, whether that agrees with what is there or not. Raises a
    :class:`~resurgsam2_cli.errors.UserError`.
    """

    def __init__(
        self,
        run: Undertaking,
        index: RunIndex,
        kept: Kept,
        changes: Changes,
        reach: Reach,
        version: int,
        new: Collection[int] = (),
    ) -> None:
        self._run, self._index, self._kept, self._changes = run, index, kept, changes
        self._reach, self._version = reach, version
        self._known = Known(run, index, kept, changes)
        self._new = new

    def search(self, rows: Sequence[int], watch: Watch = lambda *_: None) -> None:
        """Search for objects by their words, and track them, from the first frame to the last."""
        if not rows:
            return
        session = self._known.session(rows)
        with self._known.network("point"):
            session.begin(1)
        end = len(self._index)
        self._pass(_Pass(session, list(rows), -1, dict.fromkeys(rows, end), 1), watch)

    def follow(self, corrections: Sequence[Correction], watch: Watch = lambda *_: None) -> None:
        """Correct frames, then track from those that others follow from. ``watch`` is called as by a session."""
        for x in corrections:
            self._kept.add(x.row, x.step, x.last)
        by_step: dict[int, list[Correction]] = {}
        for x in corrections:
            if x.spreads:
                by_step.setdefault(x.step, []).append(x)
            else:
                self._say(x)
        # All frames are corrected before any is tracked from: each limits how far the others reach.
        found = {step: self._corrected(group) for step, group in sorted(by_step.items())}
        for step, trust in found.items():
            self._spread(step, trust, watch)

    # What a person said

    def _say(self, x: Correction) -> None:
        """Frames that are right as they are, or in which there is nothing."""
        nothing = np.zeros((self._known.grid.height, self._known.grid.width), bool)
        for step in range(x.step, x.last + 1):
            if x.stage == "confirmed":
                there = self._known.there(step, x.row)
                state = {**there.state, "stage": x.stage, "pass": self._version}
                self._changes.put(step, x.row, replace(there, state=state))
            else:
                self._put(step, x.row, nothing, self._given(x, step, present=False))

    def _given(self, x: Correction, step: int, *, present: bool) -> ObjectResult:
        score = SURE if present else -SURE
        frames = tuple(self._index.number(y) for y in self._known.kept_around(x.row, step))
        stage = x.stage if present else "absent"
        return ObjectResult(x.row + 1, stage, present, score, 1.0, presence(score), frames, ())

    def _corrected(self, group: list[Correction]) -> dict[int, _Trust]:
        """Correct a frame; returns, for each object, what else of it is to be believed."""
        known, trust = self._known, {}
        for x in group:
            old = known.mask(x.step, x.row)
            if x.clicks:
                mask, state = clicked(known, x)
                around = tuple(known.kept_around(x.row, x.step))
                result = known.result(x.row, replace(state, conditioning_frames=around))
            else:
                mask = known.decoded(x.counts)
                result = self._given(x, x.step, present=x.counts is not None)
            self._put(x.step, x.row, mask, result)
            alike = iou(old, mask)
            beside = alike >= _TRUSTED
            # Who only says what the object is not says nothing against where it was found.
            words = beside or words_fit(known, x.row, x.step, mask)
            sense, drawn = sense_of(x, old, mask), not x.clicks and x.counts is not None
            most, largest = math.inf, math.inf
            if not drawn:
                most = growth(old, mask)
                largest = GROWN * max(np.count_nonzero(mask), np.count_nonzero(old))
            denied = old if old.any() and not mask.any() else None
            trust[x.row] = _Trust(beside, beside or x.denies, words, alike, sense, most, drawn, largest, denied)
        return trust

    # What follows

    def _spread(self, step: int, trust: Mapping[int, _Trust], watch: Watch) -> None:
        """Track from a corrected frame in both directions."""
        silent = {row for row, x in trust.items() if not x.words}
        rows = sorted(trust, key=lambda row: (row in silent or not self._known.speaks(row), row))  # as sessions do
        end = len(self._index)
        farthest = end if self._reach.frames is None else self._reach.frames + 1
        above = {row: min(self._kept.after(row, step, end), step + farthest) for row in rows}
        below = {row: max(self._kept.before(row, step), step - farthest) for row in rows}
        rows = [row for row in rows if above[row] > step + 1 or below[row] < step - 1]
        if not rows:  # all that is beside them is kept, too
            return
        session = self._known.session(rows, silent)
        self._known.read_around(step)
        with self._known.network("point"):
            for k, row in enumerate(rows):
                self._known.condition(session, row, k, step, run_too=trust[row].run)
                self._known.restore(session, row, k, step, "conditioning")
        ways: tuple[tuple[Direction, dict[int, int]], ...] = (
            (1, {row: above[row] for row in rows}),
            (-1, {row: below[row] for row in rows}),
        )
        for direction, limits in ways:
            with self._known.network("point"):
                session.begin(direction)
                for k, row in enumerate(rows):
                    if trust[row].beside:
                        self._known.remember(session, row, k, step, direction)
            self._pass(_Pass(session, rows, step, limits, direction, trust), watch)

    def _pass(self, way: _Pass, watch: Watch) -> None:
        """Go from a corrected frame towards the limit of each object, until it agrees with what is there."""
        run, part = self._run, self._known.grid.part
        if abs(way.last - way.start) < 2:
            return
        if way.direction == 1:
            frames = read(run.engine, run.source, part(way.start + 1, way.last), run.timing)
        else:
            frames = read_backwards(run, self._known.grid, way.last + 1, way.start)
        with closing(with_features(run, self._known.grid, frames)) as ready:
            for step, frame, features in ready:
                rows = way.active(step, self._reach, self._new)
                if not rows:
                    return
                with self._known.network("segment"):
                    found = way.session.step(step, features, [way.rows.index(row) for row in rows])
                watch(passed(frame, rows, found.objects))
                for row, mask, state in zip(rows, self._known.rendered(found), found.objects, strict=True):
                    self._take(way, step, row, mask, state)

    def _take(self, way: _Pass, step: int, row: int, mask: np.ndarray, state: ObjectState) -> None:
        """Take a mask of a pass, or leave what is there; count whether they agree."""
        there, result = self._known.there(step, row), self._known.result(row, state)
        trust, old = way.trust.get(row), self._known.decoded(there.counts)
        certain_before = _certainty_of(there.state)
        certain = _certainty(result.present, result.object_score, result.predicted_iou)
        new = mask
        is_guess = trust is not None and not trust.drawn and trust.sense is not Sense.OTHER
        if is_guess and old.any() and certain < certain_before - _LESS_CERTAIN:
            new = old  # what is there is the better guess: nobody said that it is wrong here
        elif trust is not None:
            new = follows(trust.sense, old, mask, trust.growth)
            if np.count_nonzero(new) > max(trust.largest, GROWN * np.count_nonzero(old)):
                new = old  # the track has run away from what was shown
        if way.has_left(row, old):
            new = old  # what was denied may be something else than what is there now
        corrected = 0.0 if trust is None else trust.alike
        # What the pass sees counts here, not what of it follows: only then is it back where the run was.
        agrees = new is old or iou(old, mask) >= agreement(self._reach.alike, corrected)
        way.agreed[row] = way.agreed.get(row, 0) + 1 if agrees else 0
        if trust is not None and np.array_equal(new, old):
            return
        end = len(self._index)
        before, after = self._kept.before(row, step), self._kept.after(row, step, end)
        if before >= 0 and after < end:  # what is there may come from the other side
            near, far = (step - before, after - step) if way.direction == 1 else (after - step, step - before)
            if not counts_more(near <= far, certain, certain_before):
                return
        self._put(step, row, new, result)

    def _put(self, step: int, row: int, mask: np.ndarray, result: ObjectResult) -> None:
        self._changes.put(step, row, Changed.of_mask(mask, result, self._version))


def agreement(most: float, corrected: float) -> float:
    """The IoU at which a new mask agrees with the one that is there, at ``most``.

    ``corrected`` is the IoU of the old and the new mask in the frame that was corrected.
    """
    return min(most, max(_NEVER_BELOW, 1 - (1 - corrected) * _FADED))


def counts_more(is_nearer: bool, new: float, old: float) -> bool:
    """Whether a new mask counts between two kept frames, given how certain it and the old one are, from 0 to 1."""
    return new >= old - _LESS_CERTAIN if is_nearer else old < new - _LESS_CERTAIN


def _certainty(present: bool, object_score: float, predicted_iou: float) -> float:
    """From 0 to 1: how sure the network is of a mask, or that there is nothing."""
    there = presence(object_score)
    return there * predicted_iou if present else 1 - there


def _certainty_of(state: Mapping[str, Any]) -> float:
    return _certainty(state["present"], state["object_score"], state["predicted_iou"])
