"""The camera: all that lies between the things and the pixels."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from model.training.scenes.motion import ease, moving_mean
from model.training.scenes.seeds import Stream, random_numbers
from model.training.scenes.shapes import Color, Floats
from model.training.scenes.textures import grey, noise, ramp

_GLINT = (255, 244, 236)
_BLOOD = (128, 8, 12)
_SMOKE = (222, 218, 216)
_ROOM = 48  # pixels by which the noise is larger than the picture, on each axis


def _spells(rng: np.random.Generator, frames: int, count: int, shortest: float, longest: float) -> Floats:
    """Let something come up ``count`` times for a while: its strength, (frames,) from 0 to 1. Bounds are in frames."""
    t, strength = np.arange(frames, dtype=np.float64), np.zeros(frames)
    for _ in range(count):
        length, middle, peak = rng.uniform(shortest, longest), rng.uniform(0, frames), rng.uniform(0.5, 1)
        strength = np.maximum(strength, peak * ease(1.6 * (1 - np.abs(t - middle) / (length / 2))))
    return strength


class _Pan:
    """A texture larger than the picture, seen through a frame that circles over it."""

    def __init__(self, texture: Image.Image, size: tuple[int, int], phase: float) -> None:
        self._texture, self._size, self._phase = texture, size, phase

    def at(self, angle: float) -> Image.Image:
        """The part that is seen at an angle of the circle, in radians."""
        left, top = (
            round((0.5 + 0.5 * f(angle + self._phase)) * (whole - part))
            for f, whole, part in zip((math.sin, math.cos), self._texture.size, self._size, strict=True)
        )
        return self._texture.crop((left, top, left + self._size[0], top + self._size[1]))


class Camera:
    """Gloss, vignette, smoke, blood, blur, gain and noise."""

    def __init__(self, seed: int, height: int, width: int, frames: int, fps: int) -> None:
        self._size, self._seed, self._fps = (width, height), seed, fps
        rng, aspect = random_numbers(seed, Stream.CAMERA), width / height
        roomy = (round(1.6 * width), round(1.6 * height))
        glints = [grey(0.5 + 0.2 * noise(rng, roomy, aspect, cells)) for cells in (90, 8)]
        clouds = [grey(0.5 + 0.22 * noise(rng, roomy, aspect, cells)) for cells in (5, 9)]
        sharp = rng.uniform(112, 132)
        self._glint_levels = [round(230 * min(1, max(0, (v - sharp) / 45))) for v in range(256)]
        phases = rng.uniform(0, 6.3, 4)
        pans = [_Pan(texture, self._size, x) for texture, x in zip([*glints, *clouds], phases, strict=True)]
        self._fine_glints, self._broad_glints, self._broad_cloud, self._fine_cloud = pans
        self._smoke = _spells(rng, frames, int(rng.integers(1, 3)) * (rng.random() < 0.35), fps * 1.5, fps * 6)
        self._blood = _spells(rng, frames, int(rng.random() < 0.2), fps * 1.5, fps * 5)
        self._blur = _spells(rng, frames, int(rng.integers(1, 4)) * (rng.random() < 0.4), 6, 22)
        self._blur_axes = [(1.0, 1.0), (1.6, 0.15), (0.15, 1.6)][rng.integers(3)]
        flicker = rng.normal(0, rng.choice([0.0, 0.01, 0.05], p=[0.4, 0.35, 0.25]), frames)
        self._gain = rng.uniform(0.95, 1.18) * (1 + moving_mean(flicker, 3))
        self._balance = rng.uniform(0.94, 1.06, 3) * (1.0, 0.98, 0.97)
        self._vignette, self._rim = self._falloff(rng, aspect)
        self._grain = self._noise(amplitude=rng.uniform(1.2, 4.0))

    def _falloff(self, rng: np.random.Generator, aspect: float) -> tuple[Image.Image, Image.Image | None]:
        """How the light falls off towards the borders, and the mask of the scope's black rim if that can be seen."""
        width, height = self._size
        y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height - 0.5
        x = ((np.arange(width, dtype=np.float32)[None] + 0.5) / width - 0.5) * aspect
        reach, light = math.hypot(aspect, 1) / 2, rng.uniform(-0.12, 0.12, 2)
        glow = 1.02 - rng.uniform(0.35, 0.7) * ((x - light[0]) ** 2 + (y - light[1]) ** 2) / reach**2
        radius = np.sqrt(x * x + y * y)
        edge = rng.uniform(0.84, 0.95) * reach if rng.random() < 0.3 else 2 * reach
        falloff = np.asarray(glow * ramp(-radius, -edge, -edge * 0.96), dtype=np.float32)
        rim = Image.fromarray((radius > edge * 0.985).astype(np.uint8) * 255) if edge < reach else None
        return Image.merge("RGB", [grey(falloff)] * 3), rim

    def _noise(self, amplitude: float) -> Image.Image:
        """The sensor's noise around a level of 128, larger than the picture."""
        width, height = self._size
        rng = random_numbers(self._seed, Stream.GRAIN)
        values = rng.standard_normal((height + _ROOM, width + _ROOM, 3), dtype=np.float32)
        return Image.fromarray(np.clip(128.5 + amplitude * values, 0, 255).astype(np.uint8))

    def gloss(self, picture: Image.Image, t: int) -> None:
        """Lay moving highlights on wet tissue, in place."""
        fine, broad = self._fine_glints.at(0.1 * t / self._fps), self._broad_glints.at(0.17 * t / self._fps)
        glints = ImageChops.multiply(fine, broad)
        picture.paste(_GLINT, (0, 0), glints.point(self._glint_levels))

    def black_out(self, labels: Image.Image) -> None:
        """Take away what the scope's rim hides, in place."""
        if self._rim is not None:
            labels.paste(0, (0, 0), self._rim)

    def expose(self, picture: Image.Image, t: int) -> Image.Image:
        """The picture as the sensor gives it."""
        if self._blood[t] > 0.02:
            self._veil(picture, t, _BLOOD, 0.55 * self._blood[t], 0.12)
        if self._smoke[t] > 0.02:
            self._veil(picture, t, _SMOKE, 0.62 * self._smoke[t], 0.5)
        picture = ImageChops.multiply(picture, self._vignette)
        radius = 0.011 * self._size[1] * self._blur[t]
        if radius > 0.2:
            picture = picture.filter(ImageFilter.BoxBlur((radius * self._blur_axes[0], radius * self._blur_axes[1])))
        levels = np.outer(self._balance * self._gain[t], np.arange(256)).ravel()
        picture = picture.point(np.minimum(levels, 255).astype(int).tolist())
        rng = random_numbers(self._seed, Stream.GRAIN_PLACE, t)
        left, top = rng.integers(0, _ROOM + 1, 2).tolist()
        grain = self._grain.crop((left, top, left + self._size[0], top + self._size[1]))
        return ImageChops.add(picture, grain, 1, -128)

    def _veil(self, picture: Image.Image, t: int, color: Color, strength: float, speed: float) -> None:
        """Lay drifting clouds of a colour over a picture, in place."""
        broad, fine = self._broad_cloud.at(speed * t / self._fps), self._fine_cloud.at(1.7 * speed * t / self._fps)
        cloud = ImageChops.add(broad, fine, 2)
        levels = (255 * strength * np.clip((np.arange(256) - 70) / 110, 0.12, 1)).astype(int).tolist()
        picture.paste(color, (0, 0), cloud.point(levels))
