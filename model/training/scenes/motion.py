"""Motion: the ways that things take through a scene, and how each action moves a tool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.training.scenes.shapes import Floats


class Gait(NamedTuple):
    """How an action moves a tool."""

    opening: float
    """The jaws' mean opening, from 0 to 1."""
    swing: float
    """How far the opening swings to either side of the mean."""
    rate: float
    """Swings per second."""
    wobble: float
    """How far the tip wobbles."""


GAITS = {
    "idle": Gait(0.35, 0.0, 0.0, 0.002),
    "grasping": Gait(0.45, 0.45, 0.5, 0.01),
    "cutting": Gait(0.5, 0.5, 1.2, 0.012),
    "retracting": Gait(0.05, 0.0, 0.0, 0.02),
    "moving": Gait(0.15, 0.1, 0.3, 0.004),
    "suctioning": Gait(0.0, 0.0, 0.0, 0.03),
    "clipping": Gait(0.55, 0.45, 0.4, 0.006),
    "cauterizing": Gait(0.3, 0.2, 0.6, 0.015),
    "suturing": Gait(0.15, 0.15, 0.4, 0.045),
    "looping": Gait(0.1, 0.1, 0.3, 0.07),
    "dissecting": Gait(0.55, 0.45, 0.7, 0.025),
    "irrigating": Gait(0.0, 0.0, 0.0, 0.015),
    "scanning": Gait(0.0, 0.0, 0.0, 0.05),
}
ACTIONS = tuple(GAITS)
"""Everything that a target can do."""


def ease(x: Floats) -> Floats:
    """Smoothstep of numbers clipped to [0, 1]."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3 - 2 * x)


def moving_mean(values: Floats, width: int) -> Floats:
    """The mean of (frames,) values over a window of an odd number of frames, ends repeated."""
    padded = np.pad(values, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid")


@dataclass
class Track:
    """A way through a scene, one entry per frame."""

    place: Floats  # (frames, 2)
    actions: list[str]
    stretch: NDArray[np.int64]  # (frames,): number of the stretch between two way points


def wander(
    rng: np.random.Generator, frames: int, fps: int, goal: Callable[[], Floats], work: tuple[str, ...], lazy: bool
) -> Track:
    """Go from goal to goal, with rests in between. Each stretch of the way has an action of its own.

    ``goal`` draws the next goal, (2,). An action is one of ``work``, or else "idle" or "moving". Lazy things rest more
    often.
    """
    place, actions, numbers = np.empty((frames, 2)), ["idle"] * frames, np.empty(frames, dtype=np.int64)
    here, start, number = goal(), 0, 0
    while start < frames:
        stop = start + max(2, round(fps * rng.uniform(0.6, 2.6)))
        there = here if rng.random() < (0.85 if lazy else 0.35) else goal()
        still = bool(np.hypot(*(there - here)) < 0.08)
        rest = "idle" if still else "moving"
        action = rest if not work or rng.random() < 0.4 else str(rng.choice(work))
        span = np.arange(start, min(stop, frames))
        progress = ease((span - float(start)) / (stop - start))[:, None]
        place[span] = here + (there - here) * progress
        actions[start:stop] = [action] * len(span)
        numbers[span] = number
        here, start, number = there, stop, number + 1
    return Track(place, actions, numbers)


def presence(rng: np.random.Generator, frames: int, fps: int, leaves: bool, late: bool) -> Floats:
    """How far a thing is in view in each frame, (frames,): 0 out of view, 1 fully in.

    One that ``leaves`` goes away and comes back; one that is ``late`` comes in after the start.
    """
    t, ramp = np.arange(frames, dtype=np.float64), max(2.0, fps * rng.uniform(0.4, 0.8))
    if leaves and frames >= 12:
        gap = min(frames // 3, max(18, frames // 8)) + int(rng.integers(0, max(1, frames // 6)))
        start = rng.uniform(0.2, 0.8) * (frames - gap - 2 * ramp) + ramp
        return ease((start - t) / ramp) + ease((t - start - gap) / ramp)
    if late:
        return ease((t - rng.uniform(0.1, 0.35) * frames) / ramp)
    return np.ones(frames)
