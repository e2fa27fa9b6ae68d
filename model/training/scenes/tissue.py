"""Tissue: flesh with fat and vessels, and the organs that lie on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from model.training.scenes.seeds import Stream, random_numbers
from model.training.scenes.shapes import Color
from model.training.scenes.sway import Mesh
from model.training.scenes.targets import Target
from model.training.scenes.textures import Plane, grey, noise, ramp


class _Look(NamedTuple):
    """A kind of tissue."""

    flesh: tuple[Color, Color, Color, Color]
    """Its colours, from hollow to ridge."""
    fat: Color
    fatty: float
    """The share that is fat."""
    vessels: int


_LOOKS = (
    _Look(((88, 22, 26), (150, 50, 46), (196, 92, 80), (226, 148, 126)), (228, 186, 122), 0.30, 5),
    _Look(((122, 48, 34), (188, 100, 62), (222, 152, 88), (240, 202, 138)), (240, 206, 140), 0.55, 4),
    _Look(((136, 58, 62), (190, 106, 102), (222, 152, 142), (240, 190, 178)), (240, 206, 150), 0.12, 8),
    _Look(((56, 12, 16), (104, 26, 28), (146, 48, 44), (186, 90, 78)), (206, 150, 100), 0.18, 6),
)
_VESSEL = (104, 14, 26)
_KIDNEYS = ((142, 50, 46), (122, 46, 56), (160, 74, 58))
_LIVERS = ((112, 40, 34), (98, 34, 40), (128, 58, 40))
_MARGIN = 0.1  # how far the world reaches beyond each border of the picture


class World:
    """The tissue, a little larger than the picture: colours and labels that are seen through a moving frame."""

    finer = 2
    """Pixels of the world per pixel of the picture: so fine that the nearest one will do, which is fast."""

    def __init__(self, seed: int, height: int, width: int, organs: Iterable[Target]) -> None:
        self.margin, self._seen = math.ceil(_MARGIN * height), (width, height)
        painting = _Painting(random_numbers(seed, Stream.TISSUE), height, width, self.margin)
        for organ in organs:
            painting.add(organ)
        size = (self.finer * painting.size[0], self.finer * painting.size[1])
        picture = Image.fromarray(np.clip(painting.color, 0, 255).astype(np.uint8))
        self._picture = picture.resize(size, Image.Resampling.BICUBIC)
        labels = painting.labels
        self._labels = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST) if labels.any() else None

    def seen(self, mesh: Mesh) -> Image.Image:
        """The tissue in colour, in the size of the picture."""
        return self._picture.transform(self._seen, Image.Transform.MESH, mesh, Image.Resampling.NEAREST)

    def seen_labels(self, mesh: Mesh) -> Image.Image:
        """The organs' ids, in the size of the picture."""
        if self._labels is None:
            return Image.new("L", self._seen)
        return self._labels.transform(self._seen, Image.Transform.MESH, mesh, Image.Resampling.NEAREST)


class _Organ(NamedTuple):
    """An organ's form."""

    inside: Plane
    """How much of each pixel it covers."""
    dome: Plane
    """How high its surface is, from 0 to 1."""
    tone: Color


class _Painting:
    """The world at the picture's own resolution, while it is made: flesh first, then the organs on it."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, margin: int) -> None:
        self._rng, self._height, self._margin, self._aspect = rng, height, margin, width / height
        self.size = (width + 2 * margin, height + 2 * margin)
        look = _LOOKS[rng.integers(len(_LOOKS))]
        rows, columns = np.arange(self.size[1]), np.arange(self.size[0])
        self._y = ((rows + 0.5 - margin) / height).astype(np.float32)[:, None]
        self._x = ((columns + 0.5 - margin) / height).astype(np.float32)[None]
        self._fine = self._octaves((22, 48, 90), (1.0, 0.7, 0.5))
        self.color = self._flesh(look)
        self.labels = np.zeros(self.size[::-1], dtype=np.uint8)

    def add(self, target: Target) -> None:
        """Lay an organ over the tissue, with the dark crease around it."""
        organ = self._kidney() if target.category == "kidney" else self._liver(target.side)
        surface = self._surface(organ)
        crease = np.asarray(grey(organ.inside).filter(ImageFilter.GaussianBlur(self._height * 0.025)), dtype=np.float32)
        self.color *= (1 - 0.55 * (crease / 255))[..., None]
        self.color += organ.inside[..., None] * (surface - self.color)
        self.labels[organ.inside > 0.5] = target.id

    def _noise(self, cells: int) -> Plane:
        return noise(self._rng, self.size, self._aspect, cells)

    def _octaves(self, cells: Sequence[int], weights: Sequence[float]) -> Plane:
        """A sum of noises, from coarse to fine."""
        total = np.zeros(self.size[::-1], dtype=np.float32)
        for count, weight in zip(cells, weights, strict=True):
            total += weight * self._noise(count)
        return total

    def _relief(self, height: Plane, strength: float) -> Plane:
        """The brightness of a bumpy surface under light from the upper left, (rows, columns, 1)."""
        down, right = np.gradient(height)
        slope = down + 0.6 * right
        return np.clip(1 + strength * slope / (slope.std() + 1e-6), 0.55, 1.5)[..., None]

    def _flesh(self, look: _Look) -> Plane:
        """Flesh with fat and vessels, (rows, columns, 3)."""
        broad = self._octaves((2, 5, 11), (1.0, 0.7, 0.4))
        tone = np.clip(1.5 + 0.75 * broad + 0.12 * self._fine, 0, 3)
        stops = np.array(look.flesh, dtype=np.float32)
        color = np.stack([np.interp(tone, range(4), stops[:, c]).astype(np.float32) for c in range(3)], axis=-1)
        lobules = np.abs(self._noise(9)) + 0.06 * self._fine
        patches = self._noise(3) + 0.3 * broad
        edge = float(np.quantile(patches, 1 - look.fatty))
        patchy, lobed = ramp(patches + 0.25 * lobules, edge - 0.2, edge + 0.7), 0.5 + 0.5 * ramp(lobules, 0, 0.6)
        fat = (patchy * lobed)[..., None]
        color += fat * (np.array(look.fat, dtype=np.float32) - color) * 0.85
        vessels = np.asarray(self._vessels(look.vessels), dtype=np.float32)[..., None] / 255
        color += 0.6 * vessels * (np.array(_VESSEL, dtype=np.float32) - color)
        bumps = broad + 0.5 * np.sqrt(np.maximum(lobules, 0)) * fat[..., 0] + 0.05 * self._fine
        return color * self._relief(bumps.astype(np.float32), 0.14)

    def _vessels(self, count: int) -> Image.Image:
        """Branching random walks, an "L" image."""
        image = Image.new("L", self.size)
        draw = ImageDraw.Draw(image)
        rng = self._rng
        sprouts = [
            (rng.uniform(0, (self._aspect, 1)), rng.uniform(0, 6.3), rng.uniform(0.008, 0.016)) for _ in range(count)
        ]
        while sprouts:
            place, angle, thick = sprouts.pop()
            points = [place]
            for _ in range(int(rng.integers(8, 22))):
                angle += rng.normal(0, 0.28)
                points.append(points[-1] + 0.03 * np.array([math.cos(angle), math.sin(angle)]))
                if thick > 0.004 and rng.random() < 0.16:
                    sprouts.append((points[-1], angle + rng.choice([-0.8, 0.8]), thick * 0.6))
            line = (np.array(points) * self._height + self._margin).ravel().tolist()
            draw.line(line, fill=170, width=max(1, round(thick * self._height)), joint="curve")
        return image.filter(ImageFilter.GaussianBlur(self._height / 320))

    def _kidney(self) -> _Organ:
        """A large bean."""
        rng = self._rng
        x, y = self._x - self._aspect * rng.uniform(0.32, 0.68), self._y - rng.uniform(0.32, 0.68)
        turn, long, short = rng.uniform(0, 3.2), rng.uniform(0.34, 0.46), rng.uniform(0.24, 0.31)
        u = (x * math.cos(turn) + y * math.sin(turn)) / long
        v = (y * math.cos(turn) - x * math.sin(turn)) / short + 0.35 * (1 - u * u)
        radius = np.sqrt(u * u + v * v) + 0.025 * self._noise(4)
        dome = np.sqrt(np.clip(1 - radius * radius, 0, 1)).astype(np.float32)
        return _Organ(ramp(1 - radius, -0.012, 0.012), dome, _KIDNEYS[rng.integers(len(_KIDNEYS))])

    def _liver(self, side: str | None) -> _Organ:
        """An organ that reaches in from a side up to a wavy edge."""
        rng = self._rng
        upright = side in ("left", "right")
        length, across, along = (self._aspect, self._x, self._y) if upright else (1.0, self._y, self._x)
        across = length - across if side in ("right", "bottom") else across
        frequency, phase = rng.uniform(1.5, 4.0), rng.uniform(0, 6.3, 2)
        edge = length * rng.uniform(0.2, 0.34) + 0.05 * np.sin(frequency * along + phase[0])
        edge = edge + 0.015 * np.sin(3.1 * frequency * along + phase[1]) + 0.3 * rng.normal(0, 0.3) * (along - 0.5)
        depth = np.asarray(edge - across, dtype=np.float32)
        dome = np.sqrt(np.clip(depth / 0.16, 0, 1))
        return _Organ(ramp(depth, -0.003, 0.003), dome, _LIVERS[rng.integers(len(_LIVERS))])

    def _surface(self, organ: _Organ) -> Plane:
        """The surface of a smooth moist organ, (rows, columns, 3), continued over the whole world."""
        mottle = 1 + 0.035 * self._fine + 0.05 * self._noise(7)
        light = (0.5 + 0.55 * organ.dome)[..., None] * self._relief(4 * organ.dome + 0.02 * self._fine, 0.13)
        gloss = 60 * ramp(light[..., 0], 1.1, 1.5)[..., None]
        return np.asarray(np.array(organ.tone, dtype=np.float32) * light * mottle[..., None] + gloss, dtype=np.float32)
