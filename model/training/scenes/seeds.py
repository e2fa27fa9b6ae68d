"""Random numbers of a scene: every part has a stream of its own, so that a change to one leaves the others alone."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """The parts of a scene that chance decides. The numbers are part of what a seed means: never change one."""

    CAST = 0
    """What is in the scene, how it moves, and how the view sways."""
    TISSUE = 1
    CAMERA = 2
    GRAIN = 99
    """The picture of noise that a scene's frames share."""
    GRAIN_PLACE = 7
    """Where a frame cuts its noise out of that picture; drawn anew for every frame."""


def random_numbers(seed: int, stream: Stream, frame: int | None = None) -> np.random.Generator:
    """The random numbers of one part of a scene, or of one part of one of its frames."""
    return np.random.default_rng((seed, stream) if frame is None else (seed, frame, stream))
