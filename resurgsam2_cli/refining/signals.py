"""Evidence that masks are wrong, from what a run says of an object, frame by frame: changes, and coming and going.

What a frame shows by itself is in :mod:`resurgsam2_cli.refining.weaknesses`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

KEPT = frozenset(("point", "drawn", "imported", "absent", "confirmed"))
"""Stages in which a person said what is true."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run says of one object in one frame."""

    position: int
    """Counts the processed frames from 0."""
    frame: int
    """The frame's number in the source."""
    state: dict[str, Any]
    """The object's state in frames.jsonl."""
    area: float
    """Pixels; 0 if there is no mask."""
    box: tuple[float, ...]
    """left, top, width and height; zeros if there is no mask."""
    pieces: int
    holes: int
    covered: float
    """The largest share of the mask that the mask of another object covers."""
    cover: str
    """The label of that other object."""

    @property
    def is_there(self) -> bool:
        """Whether there is a mask."""
        return self.area > 0

    @property
    def is_kept(self) -> bool:
        """Whether a person said what is true here."""
        return self.state["stage"] in KEPT


@dataclass(frozen=True, slots=True)
class Evidence:
    """Something that speaks for wrong masks of an object."""

    kind: str
    position: int
    """Of the frame to look at, counting the processed frames from 0."""
    frame: int
    """The same frame, by its number in the source."""
    span: tuple[int, int]
    """First and last frame of the stretch that it speaks of, by their numbers in the source."""
    strength: float
    """From 0 to 1."""
    clause: str
    """What is seen, as a sentence without its capital and its full stop."""


def during(frames: int, qualifier: str = "") -> str:
    """For how long, in words; the ``qualifier`` stands before the number."""
    return f"in {qualifier}one frame" if frames == 1 else f"for {qualifier}{frames} frames"


class Jumps:
    """What changes from one frame to the next, compared with what is usual for the object."""

    NEW = 0.1
    """Weight of a new frame in what is usual."""

    def __init__(self, cuts: Collection[int] = ()) -> None:
        self._cuts = cuts  # where pieces of the video were joined: each searched and tracked for itself
        self.doubt = 0.0
        """Of the last frame."""
        self._before: Seen | None = None
        self._speed = 0.02
        self._growth = 0.02
        self._iou: float | None = None
        self._fallen = False
        self._followed = False  # whether any frame was tracked forwards

    def step(self, now: Seen) -> list[Evidence]:
        """Take the next frame; gives what is seen in it."""
        before, self._before, self.doubt = self._before, now, 0.0
        found: list[Evidence] = []
        # A change between a kept frame and another is about the other; between two kept frames, it is true.
        where = before if before is not None and now.is_kept else now
        if before is not None and not where.is_kept:
            pair = _Pair(before, now, where)
            if before.is_there and now.is_there:
                found += self._jumps(pair)
            if now.frame not in self._cuts:
                found += self._seams(pair)
        if now.is_there:
            found += self._fall(now)
        self._followed = self._followed or (now.state["stage"] == "track" and now.state.get("direction", 1) == 1)
        return found

    def finish(self) -> list[Evidence]:
        """Nothing is left over."""
        return []

    def _jumps(self, pair: _Pair) -> list[Evidence]:
        before, now = pair.before, pair.now
        pixels = _moved(before, now)
        speed = pixels / math.sqrt((before.area + now.area) / 2)
        growth = abs(math.log(now.area / before.area))
        self.doubt = min(0.9, speed)
        to = "grows" if now.area > before.area else "shrinks"
        found = [
            *pair.evidence(
                "place_jump",
                (speed - 0.1 - 4 * self._speed) / 0.6,
                f"the mask jumps by {pixels:.0f} pixels from one frame to the next",
            ),
            *pair.evidence(
                "area_jump",
                (growth - 0.15 - 4 * self._growth) / 0.7,
                f"the mask {to} to {now.area / before.area:.0%} of its area from one frame to the next",
            ),
        ]
        # A jump is not what is usual from now on.
        self._speed += self.NEW * (min(speed, 0.3) - self._speed)
        self._growth += self.NEW * (min(growth, 0.3) - self._growth)
        return found

    def _seams(self, pair: _Pair) -> list[Evidence]:
        """Where masks from two passes, or from two conditioning frames, meet."""
        old, new = pair.before.state, pair.now.state
        # Frames before the one that the words found first are tracked too, backwards: nothing was lost there.
        if self._followed and old["stage"] == "track" and new["stage"] == "detect":
            return pair.evidence("found_again", 1.0, "its words find the object again after tracking had lost it")
        known, others = old.get("conditioning_frames"), new.get("conditioning_frames")
        apart = 0.3 + 0.7 * (1 - _box_iou(pair.before.box, pair.now.box))
        if old.get("direction", 1) != new.get("direction", 1):
            return pair.evidence("seam", apart, "tracking backwards and tracking forwards meet")
        if known and others and known != others:
            return pair.evidence("seam", apart, "from here on, the object is tracked from other frames")
        return []

    def _fall(self, now: Seen) -> list[Evidence]:
        iou = now.state["predicted_iou"]
        usual = iou if self._iou is None else self._iou
        self._iou = usual + self.NEW * (iou - usual)
        fell, self._fallen = usual - iou > 0.1 and not self._fallen, usual - iou > 0.05
        if not fell or now.is_kept:
            return []
        clause = f"the network's own rating of the mask falls from {usual:.2f} to {iou:.2f}"
        return _Pair(now, now, now).evidence("iou_fall", (usual - iou) / 0.3, clause)


@dataclass(frozen=True)
class _Pair:
    """Two frames, one after the other, and the one of them to look at."""

    before: Seen
    now: Seen
    where: Seen

    def evidence(self, kind: str, strength: float, clause: str) -> list[Evidence]:
        """Nothing, if it is not stronger than 0."""
        if strength <= 0:
            return []
        where = self.where
        span = (self.before.frame, self.now.frame)
        return [Evidence(kind, where.position, where.frame, span, min(1.0, strength), clause)]


def _moved(before: Seen, now: Seen) -> float:
    """How far the middle of the box moves, in pixels."""
    (a, b, c, d), (e, f, g, h) = before.box, now.box
    return math.hypot(e - a + (g - c) / 2, f - b + (h - d) / 2)


def _box_iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    either = a[2] * a[3] + b[2] * b[3] - both
    return both / either if either else 1.0


class Appearances:
    """When an object comes and goes."""

    SHORT = 5
    """Frames: what is there, or away, for no longer flickers."""

    def __init__(self) -> None:
        self.doubt = 0.0
        self._first: Seen | None = None  # of the frames up to now that show it, or that do not
        self._last: Seen | None = None
        self._shown: Seen | None = None  # the last frame that shows it
        self._kept = False  # whether a person said so in any of these frames

    def step(self, now: Seen) -> list[Evidence]:
        """Take the next frame; gives what is seen in it."""
        found: list[Evidence] = []
        if self._first is None or self._first.is_there != now.is_there:
            found = self._turn(now)
            self._first, self._kept = now, False
        self._last = now
        self._kept = self._kept or now.is_kept
        if now.is_there:
            self._shown = now
        return found

    def finish(self) -> list[Evidence]:
        """Give the last appearance, if it is not the end of the run."""
        shown, last = self._shown, self._last
        if shown is None or shown is last or shown.is_kept:
            return []
        return [_appearance("last", shown, shown, shown, "the object is shown for the last time")]

    def _turn(self, now: Seen) -> list[Evidence]:
        """It comes or goes, in the frame ``now``."""
        first, last = self._first, self._last
        if self._shown is None:
            if not now.is_there or now.is_kept:
                return []
            return [_appearance("first", now, now, now, "the object is shown for the first time")]
        assert first is not None
        assert last is not None
        frames = last.position - first.position + 1
        if frames <= self.SHORT:
            what = f"is shown {during(frames, 'only ')}" if first.is_there else f"vanishes {during(frames)}"
            clause = f"the object {what}"
            return [] if self._kept else [_appearance("flicker", first, first, last, clause)]
        if now.is_there and not now.is_kept:
            return [_appearance("reentry", now, first, now, f"the object is back after {frames} frames")]
        return []


def _appearance(kind: str, at: Seen, first: Seen, last: Seen, clause: str) -> Evidence:
    return Evidence(kind, at.position, at.frame, (first.frame, last.frame), 1.0, clause)
