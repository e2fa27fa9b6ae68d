"""How the view moves over the tissue: the camera drifts and the breath swells."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from model.training.scenes.shapes import Floats

Mesh = list[tuple[tuple[int, ...], tuple[float, ...]]]
"""Boxes of the picture, each with the quadrilateral of the world that it shows, in pixels, as PIL wants them."""

_BOXES = 4  # on each side of the picture


class Sway:
    """The part of the world that is seen in each frame."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, fps: int) -> None:
        self.fps = fps
        self._height, self._center = height, np.array((width / height / 2, 0.5))
        self._breath_rate = rng.uniform(0.2, 0.36)
        self._drift, phase = rng.uniform(0.008, 0.022, (2, 2)), rng.uniform(0, 6.3, (3, 2))
        self._drift_phase, self._wave_phase = phase[:2], phase[2]
        self._swell, self._wave = rng.uniform(0.004, 0.022), rng.uniform(0.004, 0.014, 2)
        self._drift_rate = rng.uniform(0.03, 0.14, (2, 2))
        xs, ys = (np.linspace(0, n, _BOXES + 1).round().astype(int).tolist() for n in (width, height))
        self._boxes = [(left, top, right, bottom) for left, right in pairwise(xs) for top, bottom in pairwise(ys)]
        corners = [((a, c), (a, d), (b, d), (b, c)) for a, c, b, d in self._boxes]
        self._corners = np.array(corners, dtype=np.float64).reshape(-1, 2) / height

    def shift(self, points: Floats, t: int) -> Floats:
        """What to add to places of the picture, (n, 2), to get the places of the world that are seen there."""
        seconds = t / self.fps
        drift = (self._drift * np.sin(2 * math.pi * self._drift_rate * seconds + self._drift_phase)).sum(axis=0)
        breath = 2 * math.pi * self._breath_rate * seconds
        swell = self._swell * math.sin(breath) * (points - self._center)
        return drift + swell + self._wave * np.sin(breath - 3.0 * points[:, ::-1] + self._wave_phase)

    def mesh(self, t: int, margin: int, finer: int) -> Mesh:
        """What frame t shows of a world with a margin in pixels, at ``finer`` times the picture's resolution."""
        corners = finer * ((self._corners + self.shift(self._corners, t)) * self._height + margin)
        return [(box, tuple(quad)) for box, quad in zip(self._boxes, corners.reshape(-1, 8).tolist(), strict=True)]
