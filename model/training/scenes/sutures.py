"""Needles and threads, which lie on the tissue and move with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from model.training.scenes.motion import Track, wander
from model.training.scenes.shapes import Color, Floats, Shape, tube
from model.training.scenes.sway import Sway
from model.training.scenes.targets import Target


class _Look(NamedTuple):
    """The bounds of a category's half width and length, and its colours."""

    width: tuple[float, float]
    length: tuple[float, float]
    colors: tuple[Color, ...]


_LOOKS = {
    "needle": _Look((0.008, 0.011), (0.085, 0.12), ((206, 210, 216), (188, 192, 202))),
    "thread": _Look((0.0062, 0.0085), (0.28, 0.42), ((34, 28, 96), (70, 28, 120), (24, 40, 120))),
}


@dataclass
class Suture:
    """A needle or a thread."""

    target: Target
    track: Track  # places in the world, not in the picture
    sway: Sway
    width: float
    length: float
    turn: float
    phase: Floats  # (3,)
    color: Color

    def action(self, t: int) -> str:
        """What it does in frame t."""
        return self.track.actions[t]

    def shapes(self, t: int) -> list[Shape]:
        """Its one shape in frame t."""
        seconds = t / self.sway.fps
        knots = self._needle() if self.target.category == "needle" else self._thread(seconds)
        place = self.track.place[t : t + 1]
        angle = self.turn + 0.35 * math.sin(0.5 * t / self.sway.fps + self.phase[0])
        shape = Shape.of(tube(knots, self.color, bands=3, smooth=False))
        return [shape.placed(place[0] - self.sway.shift(place, t)[0], angle, 1.0)]

    def _needle(self) -> Floats:
        """An arc that tapers to its point."""
        angle = np.linspace(-1.65, 1.65, 26)
        taper = np.interp(angle, [-1.65, 0.9, 1.65], [1.0, 1.0, 0.55])
        return np.stack([self.length * np.cos(angle), self.length * np.sin(angle), self.width * taper], axis=1)

    def _thread(self, seconds: float) -> Floats:
        """A wave that changes slowly."""
        s = np.linspace(-1, 1, 44)
        coarse = 0.11 * np.sin(4 * s + self.phase[0] + 0.5 * seconds)
        fine = 0.05 * np.sin(9 * s + self.phase[1] - 0.7 * seconds)
        x = self.length * s + 0.035 * np.sin(6 * s + self.phase[2] + 0.4 * seconds)
        return np.stack([x, coarse + fine, np.full(44, self.width)], axis=1)


def make_suture(target: Target, rng: np.random.Generator, sway: Sway, aspect: float, frames: int) -> Suture:
    """A needle or thread that drifts about some place near the middle of the picture."""
    look = _LOOKS[target.category]
    home = rng.uniform(0.3, 0.7, 2) * (aspect, 1)
    track = wander(rng, frames, sway.fps, lambda: home + rng.normal(0, 0.06, 2), (), lazy=True)
    return Suture(
        target,
        track,
        sway,
        width=rng.uniform(*look.width),
        length=rng.uniform(*look.length),
        turn=rng.uniform(0, 6.3),
        phase=rng.uniform(0, 6.3, 3),
        color=look.colors[rng.integers(len(look.colors))],
    )
