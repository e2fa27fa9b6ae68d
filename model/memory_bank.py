"""DLM, the diversity-driven long-term memory: what one tracked object remembers and what it recalls.

Three kinds of frames: the conditioning frame that CIFS chose, the most recent tracked frames, and a few
long-term frames, each promoted from a pool of confident frames because it is the one least like the newest
long-term frame. Remembering writes, recalling reads.

These are the rules, on frame numbers alone. The features that the numbers stand for lie in
:class:`~model.memory.Memory`. All sets are bounded, so a stream of any length runs in constant memory.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from model.config import Rules


class Recall(NamedTuple):
    """What the tracker attends to for one object at one frame."""

    frames: list[tuple[int, int]]
    """Frames and their temporal slots. Slot d - 1 is the frame d steps back; the last slot, -1, is shared by the
    conditioning and the long-term frames."""
    pointers: list[tuple[int, float]]
    """Frames whose object pointers count, and their distance in time, as a share of the longest one that counts."""


class Promotion(NamedTuple):
    """A full pool: one of its frames becomes a long-term frame."""

    candidates: tuple[int, ...]
    anchor: int
    """The frame that the new one is to be least like."""


def most_frames(rules: Rules) -> int:
    """How many frames an object may recall at once."""
    return 1 + rules.recent + rules.long_term


def most_kept(rules: Rules) -> int:
    """How many frames a bank may hold at once, the one being tracked among them."""
    return 1 + _recent(rules) + 1 + rules.long_term + max(0, rules.pool - 1) * (rules.long_term > 0)


def _recent(rules: Rules) -> int:
    """Frames t-6..t-1 are recalled with their features, t-15..t-1 with their pointers."""
    return max(rules.recent, rules.pointers - 1)


class MemoryBank:
    """The memory of one object from its conditioning frame on.

    ``clip_length`` is the number of frames of the clip where it is known. It matters only in clips shorter than
    ``rules.pointers`` frames, where the published code scales pointer distances by it.
    """

    def __init__(self, rules: Rules, conditioning_frame: int, clip_length: int | None = None) -> None:
        self._rules = rules
        self.conditioning_frame = conditioning_frame
        self._recent: deque[int] = deque(maxlen=_recent(rules))
        self._long_term: deque[int] = deque(maxlen=rules.long_term)
        self._pool: list[int] = []
        longest = rules.pointers if clip_length is None else min(clip_length, rules.pointers)
        self._pointer_span = max(longest - 1, 1)

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
        return {self.conditioning_frame, *self._recent, *self._long_term, *self._pool}

    def recall(self, frame: int) -> Recall:
        """What to attend to when ``frame`` is tracked, in the order that the network expects."""
        rules = self._rules
        recent = [m for m in self._recent if frame - m <= rules.recent]
        frames = [(self.conditioning_frame, -1)]
        frames += [(m, frame - m - 1) for m in recent]
        frames += [(m, -1) for m in self._long_term if m not in recent]

        newest_first = [m for m in reversed(self._recent) if frame - m < rules.pointers]
        pointers = [(m, (frame - m) / self._pointer_span) for m in (self.conditioning_frame, *newest_first)]
        return Recall(frames, pointers)

    def remember(self, frame: int, predicted_iou: float) -> Promotion | None:
        """Take a tracked frame into memory; a confident one joins the pool, also when the object is absent.

        If the pool is full now, one of its frames must be promoted (:meth:`promote`) before the next frame.
        """
        rules = self._rules
        self._recent.append(frame)
        if rules.long_term and predicted_iou > rules.long_term_min_iou:
            self._pool.append(frame)
        if len(self._pool) < rules.pool:
            return None
        return Promotion(tuple(self._pool), self._long_term[-1] if self._long_term else self.conditioning_frame)

    def promote(self, frame: int) -> None:
        """Make a frame of the pool a long-term frame, and empty the pool."""
        self._long_term.append(frame)
        self._pool.clear()
