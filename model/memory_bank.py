"""DLM, the diversity-driven long-term memory: what one tracked object remembers and what it recalls.

Three kinds of frames: the conditioning frames (the one that CIFS chose, and those that a person pointed at), the most
recent tracked frames, and a few long-term frames, each promoted from a pool of confident frames because it is the one
least like the newest long-term frame. Remembering writes, recalling reads.

These are the rules, on frame numbers alone, of a pass over the video in either direction. The features that the numbers
stand for lie in :class:`~model.memory.Memory`. All sets are bounded, the conditioning frames by what a person made, so
a stream of any length runs in constant memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Literal, NamedTuple

from model.config import Rules


class Recall(NamedTuple):
    """What the tracker attends to for one object at one frame."""

    frames: list[tuple[int, int]]
    """Frames and their temporal slots. Slot d - 1 is the frame d steps back; the last slot, -1, is shared by the
    conditioning and the long-term frames."""
    pointers: list[tuple[int, float]]
    """Frames whose object pointers count, and their distance in time, as a share of the longest one that counts."""
    conditioning: int = 1
    """How many conditioning frames there are; ``frames`` begins with them."""

    @property
    def conditioning_frames(self) -> tuple[int, ...]:
        """In the order in which they became such."""
        return tuple(m for m, _ in self.frames[: self.conditioning])


class Promotion(NamedTuple):
    """A full pool: one of its frames becomes a long-term frame."""

    candidates: tuple[int, ...]
    anchor: int
    """The frame that the new one is to be least like."""


Direction = Literal[1, -1]
"""Of a pass: forwards or backwards in time."""

Keep = Literal["pass", "both", "all"]
"""Which frames stay in memory: those that the pass may still recall; beside them, those that passes
backwards from conditioning frames will; or all, so that each can be corrected."""


MOST_CONDITIONING = 32
"""An object with more conditioning frames recalls the nearest ones, so that its frames take no longer and longer."""


class _Passed(NamedTuple):
    """How the last pass went over a frame."""

    direction: Direction
    long_term: tuple[int, ...]
    """The long-term frames that the frame was tracked with."""


def most_frames(rules: Rules, conditioning: int = 1) -> int:
    """How many frames an object with so many conditioning frames may recall at once."""
    return conditioning + rules.recent + rules.long_term


def most_pointers(rules: Rules, conditioning: int = 1) -> int:
    """How many pointers an object with so many conditioning frames may recall at once."""
    return conditioning + rules.pointers - 1


def most_kept(rules: Rules) -> int:
    """How many frames a bank may hold at once, among them the two that may be on their way."""
    return 1 + _recent(rules) + 2 + rules.long_term + max(0, rules.pool - 1) * (rules.long_term > 0)


def _recent(rules: Rules) -> int:
    """Frames t-6..t-1 are recalled with their features, t-15..t-1 with their pointers."""
    return max(rules.recent, rules.pointers - 1)


class MemoryBank:
    """The memory of one object from its first conditioning frame on.

    ``clip_length`` is the number of frames of the clip where it is known. It matters only in clips shorter than
    ``rules.pointers`` frames, where the published code scales pointer distances by it. ``long_term`` is off for objects
    without words, as in SAM 2.
    """

    def __init__(
        self,
        rules: Rules,
        conditioning_frame: int,
        clip_length: int | None = None,
        *,
        long_term: bool = True,
        keep: Keep = "pass",
    ) -> None:
        self._rules, self._keep = rules, keep
        self._conditioning = [conditioning_frame]
        self._tracked: set[int] = set()
        self._passed: dict[int, _Passed] = {}
        self._remembers_long = long_term and rules.long_term > 0
        self._long_term: deque[int] = deque(maxlen=rules.long_term)
        self._pool: list[int] = []
        self._direction: Direction = 1
        longest = rules.pointers if clip_length is None else min(clip_length, rules.pointers)
        self._pointer_span = max(longest - 1, 1)

    @property
    def conditioning_frames(self) -> tuple[int, ...]:
        """In the order in which they became such."""
        return tuple(self._conditioning)

    @property
    def long_term_frames(self) -> tuple[int, ...]:
        """The long-term frames, oldest choice first."""
        return tuple(self._long_term)

    @property
    def long_term_candidates(self) -> tuple[int, ...]:
        """The pool of confident frames that the next long-term frame is chosen from."""
        return tuple(self._pool)

    @property
    def frames(self) -> set[int]:
        """All frames that may still be recalled."""
        return {*self._conditioning, *self._tracked, *self._long_term, *self._pool}

    def begin(self, direction: Direction) -> None:
        """A pass begins; long-term memory belongs to a pass."""
        self._direction = direction
        self._long_term.clear()
        self._pool.clear()

    def condition(self, frame: int) -> None:
        """Make a frame a conditioning frame, whatever it was; one that is one keeps its place."""
        if frame not in self._conditioning:
            self._conditioning.append(frame)
        passed = self._passed.get(frame)
        self.forget([frame])
        if passed is not None:
            self._passed[frame] = passed

    def take_back(self, frame: int) -> None:
        """Make a conditioning frame a tracked one that no pass went over."""
        self._conditioning.remove(frame)
        self._tracked.add(frame)
        self._passed.pop(frame, None)

    def forget(self, frames: Iterable[int]) -> None:
        """Forget tracked frames: what was said of them is not so."""
        for frame in frames:
            self._tracked.discard(frame)
            self._passed.pop(frame, None)
            for kept in (self._long_term, self._pool):
                if frame in kept:
                    kept.remove(frame)

    def keep(self, frame: int) -> None:
        """The pass goes over a conditioning frame, which stays as it is."""
        self._passed[frame] = _Passed(self._direction, ())

    def recall(self, frame: int) -> Recall:
        """What to attend to when the pass tracks ``frame``, in the order that the network expects."""
        return self._recall(frame, self._direction, self._long_term)

    def recall_again(self, frame: int) -> Recall | None:
        """What to attend to when ``frame`` is prompted; None if no pass went over it yet."""
        passed = self._passed.get(frame)
        if passed is None:
            return None
        # Of a conditioning frame, the long-term frames are none.
        long_term = [m for m in passed.long_term if m in self._tracked and frame in self._tracked]
        return self._recall(frame, passed.direction, long_term)

    def _recall(self, frame: int, direction: Direction, long_term: Iterable[int]) -> Recall:
        rules, tracked, conditioning = self._rules, self._tracked, self._conditioning
        if len(conditioning) > MOST_CONDITIONING:
            nearest = sorted(conditioning, key=lambda m: abs(frame - m))[:MOST_CONDITIONING]
            conditioning = [m for m in conditioning if m in nearest]
        recent = [(m, d - 1) for d in range(rules.recent, 0, -1) if (m := frame - d * direction) in tracked]
        recalled = [(m, -1) for m in conditioning] + recent
        near = {m for m, _ in recent}
        recalled += [(m, -1) for m in long_term if m not in near]

        distances = [(m, (frame - m) * direction) for m in conditioning]
        distances = [(m, d) for m, d in distances if d >= 0]
        distances += [(m, d) for d in range(1, rules.pointers) if (m := frame - d * direction) in tracked]
        pointers = [(m, d / self._pointer_span) for m, d in distances]
        return Recall(recalled, pointers, len(conditioning))

    @property
    def decisive(self) -> bool:
        """Whether the next frame to be judged may fill the pool: what is recalled after that may depend on it."""
        return len(self._pool) + 1 >= self._rules.pool

    def remember(self, frame: int, predicted_iou: float) -> Promotion | None:
        """Take a tracked frame into memory; a confident one joins the pool, also when the object is absent.

        If the pool is full now, one of its frames must be promoted (:meth:`promote`) before the next frame.
        """
        self.track(frame)
        return self.judge(frame, predicted_iou)

    def track(self, frame: int) -> None:
        """Take a tracked frame into memory, before it is known what it says; :meth:`judge` must follow.

        Unless the bank is :attr:`decisive`, the next frame may be recalled and tracked before that.
        """
        self._tracked.add(frame)
        self._passed[frame] = _Passed(self._direction, self.long_term_frames)
        self._forget(frame - _recent(self._rules) * self._direction)

    def judge(self, frame: int, predicted_iou: float) -> Promotion | None:
        """The second half of :meth:`remember`: take the frame into the pool if it is a confident one."""
        rules = self._rules
        if self._remembers_long and predicted_iou > rules.long_term_min_iou:
            self._pool.append(frame)
        return self._promotion(self._pool, frame)

    def promotion_with(self, frame: int) -> Promotion | None:
        """The promotion that will be due if ``frame``, the next one to be judged, is a confident one."""
        return self._promotion([*self._pool, frame], frame) if self._remembers_long else None

    def _promotion(self, pool: list[int], frame: int) -> Promotion | None:
        if len(pool) < self._rules.pool:
            return None
        return Promotion(tuple(pool), self._long_term[-1] if self._long_term else self._last_conditioning(frame))

    def promote(self, frame: int) -> None:
        """Make a frame of the pool a long-term frame, and empty the pool."""
        self._long_term.append(frame)
        self._pool.clear()

    def _last_conditioning(self, frame: int) -> int:
        """The conditioning frame that the pass came by last, or else will first."""
        behind = {m: (frame - m) * self._direction for m in self._conditioning}
        return min(behind, key=lambda m: (behind[m] < 0, abs(behind[m])))

    def _forget(self, frame: int) -> None:
        """Forget a frame that is out of reach now."""
        reach = _recent(self._rules)
        held = self._keep == "both" and any(0 < frame - m <= reach for m in self._conditioning)
        if self._keep != "all" and not held:
            self._tracked.discard(frame)
            self._passed.pop(frame, None)
