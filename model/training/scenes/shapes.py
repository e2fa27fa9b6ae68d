"""Shapes: polygons with colours, and the rods, strips and discs that tools and sutures are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Color = tuple[int, int, int]

_BLACK = (0, 0, 0)
_TISSUE_GLOW = (140, 44, 40)  # what the tissue reflects onto the rod's lower side
_LAMP = (255, 250, 245)


class Part(NamedTuple):
    """A filled polygon."""

    points: Floats  # (n, 2)
    color: Color
    outline: bool
    """Whether it belongs to the shape's mask. The other parts lie within those that do."""


class Piece(NamedTuple):
    """A part as a :class:`Shape` keeps it: its points are the shape's from ``start`` to ``stop``."""

    start: int
    stop: int
    color: Color
    outline: bool


@dataclass(frozen=True)
class Shape:
    """Parts to draw in this order. All points are in one array, so that they move in one step."""

    points: Floats  # (n, 2)
    pieces: tuple[Piece, ...]

    @staticmethod
    def of(parts: Sequence[Part]) -> Shape:
        """The parts as one shape."""
        ends = np.cumsum([len(part.points) for part in parts]).tolist()
        spans = zip([0, *ends], ends, parts, strict=False)
        pieces = tuple(Piece(start, stop, part.color, part.outline) for start, stop, part in spans)
        return Shape(np.concatenate([part.points for part in parts]), pieces)

    def placed(self, origin: Floats, angle: float, scale: float, flip: float = 1.0) -> Shape:
        """The shape scaled, turned by an angle in radians, and moved to the origin. A flip of -1 mirrors it first."""
        c, s = scale * math.cos(angle), scale * math.sin(angle)
        return Shape(self.points @ np.array([[c, s], [-s * flip, c * flip]]) + origin, self.pieces)

    def polygons(self, points: Floats) -> Iterator[tuple[Piece, list[float]]]:
        """The pieces, each with its polygon as PIL wants it: x, y, x, y, ...

        ``points`` are the shape's points, (n, 2), in the pixels of a picture.
        """
        flat = points.ravel().tolist()
        for piece in self.pieces:
            yield piece, flat[2 * piece.start : 2 * piece.stop]


def mix(a: Color, b: Color, amount: float) -> Color:
    """The colour that lies between two: ``a`` for an amount of 0, ``b`` for 1."""
    red, green, blue = (round(x + (y - x) * amount) for x, y in zip(a, b, strict=True))
    return red, green, blue


def lit(color: Color, across: float) -> Color:
    """The colour of a glossy rod at a place across it, from -1 to 1."""
    diffuse = 0.30 + 0.75 * math.sqrt(max(0.0, 1 - (0.25 + across) ** 2 / 1.6))
    gloss = 0.55 * math.exp(-(((across + 0.3) / 0.22) ** 2))
    shaded = mix(mix(_BLACK, color, diffuse), _TISSUE_GLOW, 0.22 * max(0.0, across))
    return mix(shaded, _LAMP, gloss * (0.35 + 0.65 * sum(color) / 765))


def _smooth(knots: Floats, rounds: int = 2) -> Floats:
    """Chaikin's corner cutting of a polyline, ends kept."""
    for _ in range(rounds):
        quarter = 0.75 * knots[:-1] + 0.25 * knots[1:]
        cut = np.stack([quarter, knots[:-1] + knots[1:] - quarter], axis=1).reshape(-1, knots.shape[1])
        knots = np.concatenate([knots[:1], cut, knots[-1:]])
    return knots


def tube(knots: Sequence[Sequence[float]] | Floats, color: Color, bands: int = 4, smooth: bool = True) -> list[Part]:
    """A rod through knots (x, y, half width), in stripes from rim to rim."""
    line = np.asarray(knots, dtype=np.float64)
    line = _smooth(line) if smooth else line
    path, half_width = line[:, :2], line[:, 2:]
    tangent = np.gradient(path, axis=0)
    normal = tangent[:, ::-1] * (-1, 1) / np.maximum(np.hypot(*tangent.T)[:, None], 1e-9)

    def stripe(low: float, high: float) -> Floats:
        return np.concatenate([path + normal * half_width * low, (path + normal * half_width * high)[::-1]])

    edges = np.linspace(-1, 1, bands + 1).tolist()
    parts = [Part(stripe(-1, 1), lit(color, 0.9), outline=True)]
    return parts + [Part(stripe(a, b), lit(color, (a + b) / 2), outline=False) for a, b in pairwise(edges)]


def strip(knots: Sequence[Sequence[float]], color: Color) -> list[Part]:
    """A flat tube that lies on other parts: an inlay, a slot or a ring."""
    return [part._replace(outline=False) for part in tube(knots, color, bands=2)]


def disc(x: float, y: float, radius: float, color: Color, stretch: float = 1.0) -> Part:
    """A disc that lies on other parts; ``stretch`` makes it wider along x."""
    angle = np.linspace(0, 2 * math.pi, 12, endpoint=False)
    points = np.stack([x + radius * stretch * np.cos(angle), y + radius * np.sin(angle)], axis=1)
    return Part(points, color, outline=False)


def turned(parts: list[Part], degrees: float) -> list[Part]:
    """The parts turned about the origin, from x towards y."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [part._replace(points=part.points @ np.array([[c, s], [-s, c]])) for part in parts]


def mirrored(parts: list[Part]) -> list[Part]:
    """The parts with y negated."""
    return [part._replace(points=part.points * (1, -1)) for part in parts]
