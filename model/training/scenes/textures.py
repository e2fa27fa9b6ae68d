"""Textures: smooth noise and grey images, for tissue and camera alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.float32]


def noise(rng: np.random.Generator, size: tuple[int, int], aspect: float, cells: int) -> Plane:
    """Smooth noise of zero mean and unit variance over (width, height) pixels, ``cells`` grains high."""
    grid = rng.standard_normal((cells + 3, round(cells * aspect) + 3), dtype=np.float32)
    values = np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC))
    return np.asarray((values - values.mean()) / (values.std() + 1e-6), dtype=np.float32)


def grey(values: Plane) -> Image.Image:
    """Values of 0 to 1 as an "L" image."""
    return Image.fromarray(np.clip(values * 255, 0, 255).astype(np.uint8))


def ramp(values: Plane, low: float, high: float) -> Plane:
    """0 below ``low``, 1 above ``high``, and a straight line between them."""
    return np.clip((values - low) / (high - low), 0, 1)
