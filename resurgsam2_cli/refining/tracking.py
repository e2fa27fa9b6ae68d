"""What follows from corrections: each is tracked from in both directions, as far as it changes anything.

Tracking starts from the mask that a person gave, and from what the frames beside it hold if that was about right. It
stops where it agrees with what is there, at the next frame that is kept, or at the end of its reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from model import resize_masks
from model.initial_frame import presence
from model.memory_bank import Direction
from model.preprocess import given_masks
from model.session import Session
from model.states import ObjectState, RestoredKind, Step
from resurgsam2_cli.outputs import ObjectResult
from resurgsam2_cli.refining.changes import Changed, Changes, decoded
from resurgsam2_cli.refining.encoded import EncodedFrames
from resurgsam2_cli.refining.kept import Kept
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.segmenting.engine import device_errors
from resurgsam2_cli.segmenting.placing import Grid, Placed
from resurgsam2_cli.segmenting.reading import encode_prompts, read, read_backwards, with_features
from resurgsam2_cli.segmenting.rendering import passed
from resurgsam2_cli.segmenting.session import Watch, clicks_of
from resurgsam2_cli.segmenting.summary import Undertaking

_REMEMBERED = 8
"""Kept frames, and conditioning frames of the run, that a correction is tracked with: each must be read and encoded."""

_TRUSTED = 0.5
"""Frames beside a corrected one are remembered if its old mask has this IoU with the new one."""

_LESS_CERTAIN = 0.1
"""Between two kept frames, the mask from the nearer one counts, unless it is less certain by this much."""

_SURE = 10.0
"""The object score of what a person said, as the network gives it to masks."""


@dataclass(frozen=True)
class Reach:
    """How far a correction is followed."""

    alike: float = 0.98
    """IoU at which a new mask agrees with the one that is there."""
    agreed: int = 10
    """Frames in a row that must agree before tracking stops; 0 never stops it."""
    frames: int | None = None
    """At most so many frames on each side."""


@dataclass(frozen=True)
class Correction:
    """What a person said of an object in a frame, or in all from ``step`` to ``last``."""

    row: int
    step: int
    last: int
    stage: str
    """One of :data:`~resurgsam2_cli.refining.versions.GIVEN`."""
    counts: str | None = None
    """COCO's compressed RLE of the mask that was drawn; None where there is none, or nothing to draw."""
    clicks: tuple[Placed, ...] = ()
    """Clicks and boxes, on the mask that was drawn or is there."""

    @property
    def spreads(self) -> bool:
        """Whether the frames around it follow from it."""
        return self.stage != "confirmed" and self.step == self.last


@dataclass
class _Way:
    """A pass from a corrected frame."""

    session: Session
    rows: list[int]
    """The objects, in the order of the session."""
    start: int
    limits: dict[int, int]
    """Where each object stops at the latest: that frame is not changed."""
    direction: Direction
    agreed: dict[int, int] = field(default_factory=dict)

    def active(self, step: int, reach: Reach) -> list[int]:
        """The objects that are still followed."""
        rows = [row for row in self.rows if (self.limits[row] - step) * self.direction > 0]
        return [row for row in rows if not reach.agreed or self.agreed.get(row, 0) < reach.agreed]

    @property
    def last(self) -> int:
        """Where the pass ends."""
        return max(self.limits.values()) if self.direction == 1 else min(self.limits.values())


class Follower:
    """Corrects frames of a run and tracks from there, into ``changes``.

    ``version`` is the number of the version that is being made. ``kept`` grows by what is corrected. Raises a
    :class:`~resurgsam2_cli.errors.UserError`.
    """

    def __init__(
        self, run: Undertaking, index: RunIndex, kept: Kept, changes: Changes, reach: Reach, version: int
    ) -> None:
        self._run, self._index, self._kept, self._changes = run, index, kept, changes
        self._reach, self._version = reach, version
        part, of = run.options.part, index.run
        self._grid = Grid(index.number(0), part.stride, of.height, of.width, part.end)
        self._features = EncodedFrames(run, self._grid)

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
        trusted = {step: self._corrected(group) for step, group in sorted(by_step.items())}
        for step, rows in trusted.items():
            self._spread(step, rows, watch)

    # What a person said

    def _say(self, x: Correction) -> None:
        """Frames that are right as they are, or in which there is nothing."""
        nothing = np.zeros((self._grid.height, self._grid.width), bool)
        for step in range(x.step, x.last + 1):
            if x.stage == "confirmed":
                there = self._there(step, x.row)
                state = {**there.state, "stage": x.stage, "pass": self._version}
                self._changes.put(step, x.row, replace(there, state=state))
            else:
                self._put(step, x.row, nothing, self._given(x, step, present=False))

    def _given(self, x: Correction, step: int, *, present: bool) -> ObjectResult:
        score = _SURE if present else -_SURE
        frames = tuple(self._index.number(y) for y in self._kept_around(x.row, step))
        stage = x.stage if present else "absent"
        return ObjectResult(x.row + 1, stage, present, score, 1.0, presence(score), frames, ())

    def _kept_around(self, row: int, step: int) -> list[int]:
        return sorted({*self._kept.nearest(row, step, _REMEMBERED), step})

    def _corrected(self, group: list[Correction]) -> dict[int, bool]:
        """Correct a frame; returns, for each object, whether the frames beside it are to be remembered."""
        trusted = {}
        for x in group:
            old = self._mask(x.step, x.row)
            if x.clicks:
                mask, result = self._clicked(x)
            else:
                mask = decoded(x.counts, self._grid.height, self._grid.width)
                result = self._given(x, x.step, present=x.counts is not None)
            self._put(x.step, x.row, mask, result)
            trusted[x.row] = _iou(old, mask) >= _TRUSTED
        return trusted

    def _clicked(self, x: Correction) -> tuple[np.ndarray, ObjectResult]:
        """The mask that clicks make of the one that is there, as in a session that has just tracked this frame."""
        session, step = self._session([x.row]), x.step
        self._read_around(step)
        with self._network("point"):
            features = self._features[step]
            known = self._condition(session, x.row, 0, step, run_too=True)
            session.begin(1)
            if known:
                self._remember(session, x.row, 0, step, 1)
                self._restore(session, x.row, 0, step, "recent")
            if x.counts is not None:
                drawn = decoded(x.counts, self._grid.height, self._grid.width)
                session.adopt(0, step, features, self._for_network(drawn))
            found = session.point(0, step, features, clicks_of(x.clicks, self._grid, self._run.engine.device))
        state = replace(found.objects[0], conditioning_frames=tuple(self._kept_around(x.row, step)))
        return self._rendered(found)[0], self._result(x.row, state)

    # What follows

    def _spread(self, step: int, trusted: Mapping[int, bool], watch: Watch) -> None:
        """Track from a corrected frame in both directions."""
        objects = self._index.run.objects
        rows = sorted(trusted, key=lambda row: (not objects[row].words, row))  # as sessions have them
        end = len(self._index)
        farthest = end if self._reach.frames is None else self._reach.frames + 1
        above = {row: min(self._kept.after(row, step, end), step + farthest) for row in rows}
        below = {row: max(self._kept.before(row, step), step - farthest) for row in rows}
        rows = [row for row in rows if above[row] > step + 1 or below[row] < step - 1]
        if not rows:  # all that is beside them is kept, too
            return
        session = self._session(rows)
        self._read_around(step)
        with self._network("point"):
            for k, row in enumerate(rows):
                self._condition(session, row, k, step, run_too=trusted[row])
                self._restore(session, row, k, step, "conditioning")
        ways: tuple[tuple[Direction, dict[int, int]], ...] = (
            (1, {row: above[row] for row in rows}),
            (-1, {row: below[row] for row in rows}),
        )
        for direction, limits in ways:
            with self._network("point"):
                session.begin(direction)
                for k, row in enumerate(rows):
                    if trusted[row]:
                        self._remember(session, row, k, step, direction)
            self._pass(_Way(session, rows, step, limits, direction), watch)

    def _pass(self, way: _Way, watch: Watch) -> None:
        """Go from a corrected frame towards the limit of each object, until it agrees with what is there."""
        run, part = self._run, self._grid.part
        if abs(way.last - way.start) < 2:
            return
        if way.direction == 1:
            frames = read(run.engine, run.source, part(way.start + 1, way.last), run.timing)
        else:
            frames = read_backwards(run, self._grid, way.last + 1, way.start)
        with closing(with_features(run, self._grid, frames)) as ready:
            for step, frame, handed in ready:
                rows = way.active(step, self._reach)
                if not rows:
                    return
                with self._network("segment"):
                    found = way.session.step(step, handed.take(), [way.rows.index(row) for row in rows])
                watch(passed(frame, rows, found.objects))
                for row, mask, state in zip(rows, self._rendered(found), found.objects, strict=True):
                    self._take(way, step, row, mask, state)

    def _take(self, way: _Way, step: int, row: int, mask: np.ndarray, state: ObjectState) -> None:
        """Take a mask of a pass, or leave what is there; count whether they agree."""
        there, result = self._there(step, row), self._result(row, state)
        agrees = _iou(self._mask(step, row), mask) >= self._reach.alike
        way.agreed[row] = way.agreed.get(row, 0) + 1 if agrees else 0
        after, end = self._kept.after(row, step, len(self._index)), len(self._index)
        before = self._kept.before(row, step)
        if before >= 0 and after < end:  # what is there may come from the other side
            near, far = (step - before, after - step) if way.direction == 1 else (after - step, step - before)
            new = _certainty(result.present, result.object_score, result.predicted_iou)
            if not counts_more(near <= far, new, _certainty_of(there.state)):
                return
        self._put(step, row, mask, result)

    # What is remembered

    def _read_around(self, step: int) -> None:
        recent = self._run.options.rules.recent
        self._features.read(max(0, step - recent), min(len(self._index), step + recent + 1))

    def _condition(self, session: Session, row: int, k: int, step: int, *, run_too: bool) -> bool:
        """Give an object conditioning frames: kept ones, and if ``run_too``, those that it was tracked with.

        Returns whether there are any.
        """
        frames = set(self._kept.nearest(row, step, _REMEMBERED))
        if run_too:
            known = self._known(step, row, "conditioning_frames")
            frames |= set(sorted(known, key=lambda x: abs(x - step))[:_REMEMBERED])
        frames.discard(step)
        for other in sorted(frames):
            self._restore(session, row, k, other, "conditioning")
        return bool(frames)

    def _remember(self, session: Session, row: int, k: int, step: int, direction: Direction) -> None:
        """Give an object the frames that a pass would just have gone over before ``step``."""
        rules = self._run.options.rules
        if direction == 1 and rules.long_term:
            for frame in self._known(step, row, "long_term_frames")[-rules.long_term :]:
                if not session.remembers(k, frame):
                    self._restore(session, row, k, frame, "long-term")
        for back in range(rules.recent, 0, -1):
            frame = step - back * direction
            if 0 <= frame < len(self._index) and not session.remembers(k, frame):
                self._restore(session, row, k, frame, "recent")

    def _known(self, step: int, row: int, name: str) -> list[int]:
        """Frames that the run, as it was, names for an object in a frame, as steps."""
        numbers = self._index.frame(step).states[row].get(name, [])
        return [x for x in map(self._index.step, numbers) if x is not None]

    def _restore(self, session: Session, row: int, k: int, step: int, kind: RestoredKind) -> None:
        state = self._there(step, row).state
        known = ObjectState("track", state["object_score"], state["predicted_iou"], (), (), ())
        session.restore(k, step, self._features[step], self._for_network(self._mask(step, row)), known, kind)

    # Masks

    def _there(self, step: int, row: int) -> Changed:
        """What is known of an object in a frame."""
        changed = self._changes.get(step, row)
        if changed is not None:
            return changed
        frame = self._index.frame(step)
        mask = next((x for x in frame.masks if x.object_id == row + 1), None)
        return Changed(
            frame.states[row], None if mask is None else mask.rle["counts"], 0.0 if mask is None else mask.score
        )

    def _mask(self, step: int, row: int) -> np.ndarray:
        return self._there(step, row).mask(self._grid.height, self._grid.width)

    def _put(self, step: int, row: int, mask: np.ndarray, result: ObjectResult) -> None:
        self._changes.put(step, row, Changed.of_mask(mask, result, self._version))

    def _result(self, row: int, state: ObjectState) -> ObjectResult:
        frames, long_term = (
            tuple(self._grid.frame(x) for x in y) for y in (state.conditioning_frames, state.long_term_frames)
        )
        score = state.object_score
        return ObjectResult(
            row + 1,
            state.stage,
            state.present,
            score,
            state.predicted_iou,
            presence(score),
            frames,
            long_term,
            state.direction,
        )

    def _rendered(self, found: Step) -> list[np.ndarray]:
        full = resize_masks(found.mask_logits, self._grid.height, self._grid.width)
        return list((full > self._run.options.threshold).cpu().numpy())

    def _for_network(self, mask: np.ndarray) -> torch.Tensor:
        engine = self._run.engine
        return given_masks(mask[None], engine.config, engine.device)[0]

    # The network

    def _session(self, rows: Sequence[int]) -> Session:
        """A session of some objects, those with words first."""
        run = self._run
        words = tuple(run.prompts[row] for row in rows if run.prompts[row].words and run.engine.config.words)
        with self._network("text"):
            prompts = encode_prompts(run.engine, words) if words else None
            session = Session(run.engine.executor, prompts, run.options.rules, self._clip_length(), keep="both")
        for _ in rows[len(words) :]:
            session.add()
        return session

    def _clip_length(self) -> int | None:
        frames = len(self._index)
        return frames if frames < self._run.options.rules.pointers else None

    @contextmanager
    def _network(self, stage: str) -> Iterator[None]:
        engine = self._run.engine
        with device_errors(), engine.context(), self._run.timing.measure(stage, device=engine.device):
            yield


def counts_more(is_nearer: bool, new: float, old: float) -> bool:
    """Whether a new mask counts between two kept frames, given how certain it and the old one are, from 0 to 1."""
    return new >= old - _LESS_CERTAIN if is_nearer else old < new - _LESS_CERTAIN


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two masks; 1 if both are empty."""
    either = np.count_nonzero(a | b)
    return 1.0 if not either else np.count_nonzero(a & b) / either


def _certainty(present: bool, object_score: float, predicted_iou: float) -> float:
    """From 0 to 1: how sure the network is of a mask, or that there is nothing."""
    there = presence(object_score)
    return there * predicted_iou if present else 1 - there


def _certainty_of(state: Mapping[str, Any]) -> float:
    return _certainty(state["present"], state["object_score"], state["predicted_iou"])
