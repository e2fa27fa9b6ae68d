"""Instruments at work: tools on shafts that enter from a side of the picture and move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from model.training.scenes.motion import GAITS, Track, moving_mean, presence, wander
from model.training.scenes.shapes import Floats, Shape
from model.training.scenes.targets import WORK, Target
from model.training.scenes.tools import TOOLS, Paint, body, paint_of, tip

_TIP_SCALE = 1.2  # a tip's size, relative to its model
_PIVOT_DEPTH = -0.24  # how far inwards of its side a pivot lies: well outside the picture


class Course(NamedTuple):
    """How an instrument moves, one entry per frame."""

    actions: list[str]
    tip: Floats  # (frames, 2)
    opening: Floats  # (frames,), from 0 to 1
    bend: Floats  # (frames,), radians at the wrist
    presence: Floats  # (frames,)


@dataclass
class Instrument:
    """A tool on a shaft that pivots about a point outside the picture."""

    target: Target
    paint: Paint
    course: Course
    width: float  # of the shaft
    flip: float  # -1 mirrors the tip
    pivot: Floats  # (2,)
    body: Shape = field(init=False)

    def __post_init__(self) -> None:
        self.body = body(self.target.category, self.paint)

    def action(self, t: int) -> str:
        """What it does in frame t."""
        return self.course.actions[t]

    def shapes(self, t: int) -> list[Shape]:
        """Its shapes in frame t, the lower one first; none if it is out of the picture."""
        course = self.course
        if course.presence[t] <= 0:
            return []
        way = course.tip[t] - self.pivot
        length, angle = float(np.hypot(*way)), math.atan2(way[1], way[0])
        reach = length * course.presence[t] - TOOLS[self.target.category].reach * self.width * _TIP_SCALE
        wrist = self.pivot + way / length * reach
        head = tip(self.target.category, float(course.opening[t]), self.paint)
        head = head.placed(wrist, angle + float(course.bend[t]), self.width * _TIP_SCALE, self.flip)
        return [self.body.placed(wrist, angle, self.width), head]


class _Entrance(NamedTuple):
    """The picture as seen from the side that an instrument enters from."""

    side: str | None
    aspect: float
    along: float
    """Where it enters, as a share of the side's length."""

    @property
    def _upright(self) -> bool:
        return self.side in ("left", "right")

    @property
    def depth(self) -> float:
        """The length of the picture, from the side to the opposite one."""
        return self.aspect if self._upright else 1.0

    @property
    def breadth(self) -> float:
        """The length of the side."""
        return 1.0 if self._upright else self.aspect

    @property
    def farthest(self) -> float:
        """How far inwards a tip goes, as a share of the depth."""
        return 0.58 if self._upright else 0.64

    def place(self, inwards: float, sideways: float) -> Floats:
        """The place in the picture, (2,)."""
        inwards = self.depth - inwards if self.side in ("right", "bottom") else inwards
        return np.array([inwards, sideways] if self._upright else [sideways, inwards])

    @property
    def pivot(self) -> Floats:
        """The point that the shaft pivots about, (2,)."""
        return self.place(_PIVOT_DEPTH, self.breadth * self.along)

    def goal(self, rng: np.random.Generator) -> Floats:
        """A place for the tip to go to, (2,)."""
        sideways = 0.55 * self.along + 0.45 * rng.uniform(0.1, 0.9) + rng.normal(0, 0.06)
        inwards = self.depth * rng.uniform(0.36, self.farthest)
        return self.place(inwards, self.breadth * float(np.clip(sideways, 0.12, 0.88)))


def _course(track: Track, wristed: bool, in_view: Floats, fps: int, rng: np.random.Generator) -> Course:
    """Let a tool follow a track, in the way of the track's actions."""
    frames = len(in_view)
    mean, swing, rate, wobble = np.array([GAITS[action] for action in track.actions]).T
    seconds = np.arange(frames) / fps
    jaws_phase, x_phase, y_phase = rng.uniform(0, 2 * math.pi, 3)
    opening = mean + swing * np.sin(2 * math.pi * rate * seconds + jaws_phase)
    circling = np.stack([np.sin(4.1 * seconds + x_phase), np.sin(3.3 * seconds + y_phase)], axis=1)
    bends = rng.normal(0, 0.3, int(track.stretch[-1]) + 1) if wristed else np.zeros(frames)
    return Course(
        track.actions,
        tip=track.place + circling * moving_mean(wobble, 13)[:, None],
        opening=np.clip(moving_mean(opening, 7), 0, 1),
        bend=np.clip(moving_mean(bends[track.stretch], 15), -0.6, 0.6),
        presence=in_view,
    )


def _instrument(target: Target, entrance: _Entrance, fps: int, in_view: Floats, rng: np.random.Generator) -> Instrument:
    category = target.category
    lazy = bool(rng.random() < 0.25)
    track = wander(rng, len(in_view), fps, lambda: entrance.goal(rng), WORK[category], lazy)
    course = _course(track, TOOLS[category].wristed, in_view, fps, rng)
    return Instrument(
        target,
        paint_of(category, rng),
        course,
        width=rng.uniform(0.06, 0.095),
        flip=float(rng.choice([-1.0, 1.0])),
        pivot=entrance.pivot,
    )


def _entries(rng: np.random.Generator, sides: Sequence[str | None]) -> list[float]:
    """Where along its side each instrument enters, at a distance from the others on that side."""
    taken: list[tuple[str | None, float]] = []
    for side in sides:
        tries = [float(x) for x in rng.uniform(0.15, 0.85, 12)]
        room = [min([abs(x - other) for s, other in taken if s == side], default=1.0) for x in tries]
        clear = (x for x, space in zip(tries, room, strict=True) if space > 0.3)
        taken.append((side, next(clear, tries[int(np.argmax(room))])))
    return [along for _, along in taken]


def make_instruments(
    targets: Sequence[Target], rng: np.random.Generator, aspect: float, frames: int, fps: int
) -> list[Instrument]:
    """The instruments of a scene, from the lowest to the highest."""
    targets = [targets[i] for i in rng.permutation(len(targets))]
    leaver = int(rng.integers(len(targets))) if rng.random() < 0.4 else -1
    instruments = []
    for i, (target, along) in enumerate(zip(targets, _entries(rng, [x.side for x in targets]), strict=True)):
        late = bool(rng.random() < 0.12)
        in_view = presence(rng, frames, fps, i == leaver, late)
        instruments.append(_instrument(target, _Entrance(target.side, aspect, along), fps, in_view, rng))
    return instruments
