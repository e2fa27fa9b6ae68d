"""What each category of instrument looks like: its tip, opened more or less, and its shaft.

A tool is modelled in units of its shaft's width, along +x, with the origin at the wrist.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from model.training.scenes.shapes import Color, Part, Shape, disc, lit, mirrored, mix, strip, tube, turned


class Paint(NamedTuple):
    """The colours of an instrument."""

    shaft: Color
    metal: Color
    accent: Color


_DARK = (26, 26, 30)
_GOLD = (222, 172, 62)
_EDGE = (250, 250, 250)
_TRANSDUCER = (58, 66, 80)


def _grasper(opening: float, paint: Paint) -> list[Part]:
    """Two straight toothed jaws."""
    x = np.linspace(0.5, 1.85, 15)
    teeth = np.stack([x, np.where(np.arange(15) % 2, -0.06, 0.1)], axis=1)
    jaw = [Part(np.concatenate([teeth, [[1.85, 0.2], [0.5, 0.2]]]), lit(paint.metal, 0.75), outline=True)]
    jaw += tube([(0, 0.1, 0.2), (0.5, 0.2, 0.17), (1.85, 0.17, 0.12), (2.0, 0.15, 0.05)], paint.metal)
    jaw += strip([(0.7, 0.2, 0.05), (1.5, 0.19, 0.05)], _DARK)
    jaw = turned(jaw, 2 + 24 * opening)
    return mirrored(jaw) + jaw + [disc(0.05, 0, 0.15, lit(paint.metal, 0.6))]


def _scissors(opening: float, paint: Paint) -> list[Part]:
    """Two pointed blades, curved and crossing at a screw."""
    knots = [(-0.55, -0.32, 0.14), (-0.1, -0.16, 0.17), (0.5, 0.14, 0.22), (1.2, 0.3, 0.19), (2.1, 0.12, 0.02)]
    blade = tube(knots, paint.metal, bands=3)
    blade += strip([(0.35, -0.04, 0.02), (1.2, 0.15, 0.03), (2.0, 0.09, 0.01)], _EDGE)
    blade = turned(blade, 1 + 25 * opening)
    return mirrored(blade) + blade + [disc(0.1, 0, 0.15, _DARK), disc(0.1, 0, 0.09, lit(paint.metal, -0.3))]


def _needle_driver(opening: float, paint: Paint) -> list[Part]:
    """Short blunt jaws with gold inlay."""
    jaw = tube([(0, 0.16, 0.26), (0.5, 0.25, 0.25), (1.0, 0.21, 0.21), (1.08, 0.2, 0.12)], paint.metal)
    jaw += strip([(0.3, 0.1, 0.1), (1.05, 0.09, 0.1)], _GOLD)
    jaw = turned(jaw, 1 + 19 * opening)
    return mirrored(jaw) + jaw + [disc(0.02, 0, 0.2, _GOLD)]


def _bipolar_forceps(opening: float, paint: Paint) -> list[Part]:
    """Two long thin bowed tines in coloured insulation."""
    spread = 0.12 + 0.3 * opening
    tine = tube(
        [(0, 0.1, 0.1), (0.8, 0.1 + 1.1 * spread, 0.09), (1.9, 0.1 + 1.3 * spread, 0.08), (2.8, 0.04 + spread, 0.05)],
        paint.metal,
        bands=3,
    )
    tine += tube([(-0.1, 0.12, 0.2), (0.8, 0.1 + 1.05 * spread, 0.15), (1.75, 0.1 + 1.24 * spread, 0.12)], paint.accent)
    return mirrored(tine) + tine


def _hook(opening: float, paint: Paint) -> list[Part]:
    """A thin L of metal that comes out of a tapering sleeve; no jaws."""
    wire = tube(
        [(0, 0, 0.11), (1.55, 0, 0.11), (1.8, 0.0, 0.12), (1.84, 0.2, 0.12), (1.84, 0.72, 0.11), (1.84, 0.85, 0.04)],
        paint.metal,
        bands=3,
    )
    return wire + tube([(-0.3, 0, 0.41), (0.1, 0, 0.38), (0.4, 0, 0.26), (0.85, 0, 0.2)], paint.accent)


def _suction(opening: float, paint: Paint) -> list[Part]:
    """A plain tube with a rounded end that has holes; no jaws."""
    end = tube([(-0.4, 0, 0.395), (1.2, 0, 0.395), (1.42, 0, 0.36), (1.58, 0, 0.24), (1.62, 0, 0.02)], paint.metal, 7)
    return end + [disc(x, y, 0.11, _DARK, 1.5) for x, y in ((1.12, -0.08), (0.6, 0.12), (0.05, -0.1), (1.42, 0.05))]


def _clip_applier(opening: float, paint: Paint) -> list[Part]:
    """Wide U-shaped jaws, a coloured clip between them."""
    reach = 0.42 + 0.3 * opening
    knots = [(0.1, 0, 0.26), (0.3, reach * 1.2, 0.22), (0.9, reach * 1.15, 0.19), (1.7, reach, 0.17), (1.8, reach, 0.1)]
    jaw = tube(knots, paint.metal)
    clip = [(0.5, 0, 0.1), (0.5, reach * 0.8, 0.1), (1.0, reach * 0.72, 0.11), (1.66, reach * 0.68, 0.11)]
    half = tube(clip, paint.accent, bands=3)
    return mirrored(half + jaw) + half + jaw


def _ultrasound_probe(opening: float, paint: Paint) -> list[Part]:
    """A thick rounded paddle with a dark transducer face; no jaws."""
    knots = [
        (-0.2, 0, 0.36),
        (0.25, 0, 0.5),
        (0.5, 0, 0.85),
        (1.5, 0, 0.92),
        (2.4, 0, 0.8),
        (2.7, 0, 0.5),
        (2.72, 0, 0.05),
    ]
    body = tube(knots, paint.accent, bands=8)
    face = strip([(0.85, 0.36, 0.28), (2.3, 0.36, 0.28)], _TRANSDUCER)
    marks = [part for x in (1.0, 1.4, 1.8, 2.2) for part in strip([(x, -0.62, 0.03), (x, -0.34, 0.03)], _DARK)]
    return body + face + marks


class Tool(NamedTuple):
    """How a category looks."""

    tip: Callable[[float, Paint], list[Part]]
    """Its tip, opened from 0 to 1."""
    reach: float
    """How far the tip reaches from the wrist."""
    wristed: bool
    """Whether a wrist carries the tip, so that it can bend."""
    accents: tuple[Color, ...] = ((120, 120, 125),)


_BLUES = ((34, 92, 190), (28, 120, 176), (58, 70, 200))
TOOLS = {
    "grasper": Tool(_grasper, 2.0, True),
    "scissors": Tool(_scissors, 2.1, True),
    "needle driver": Tool(_needle_driver, 1.1, True),
    "bipolar forceps": Tool(_bipolar_forceps, 2.8, True, _BLUES),
    "hook": Tool(_hook, 1.9, False, ((36, 36, 40), (225, 222, 210), (150, 70, 30))),
    "suction": Tool(_suction, 1.6, False),
    "clip applier": Tool(_clip_applier, 1.8, True, ((60, 200, 130), (238, 240, 236), (150, 215, 70))),
    "ultrasound probe": Tool(_ultrasound_probe, 2.7, False, ((176, 190, 208), (196, 202, 210), (150, 172, 200))),
}

_SHAFTS = ((44, 46, 52), (62, 64, 72), (36, 38, 46), (128, 132, 140), (168, 172, 178))
_METALS = ((176, 180, 188), (198, 200, 204), (160, 162, 172), (190, 184, 176))


def paint_of(category: str, rng: np.random.Generator) -> Paint:
    """Draw the colours of an instrument by lot."""
    accents = TOOLS[category].accents
    metal = _METALS[rng.integers(len(_METALS))]
    return Paint(_SHAFTS[rng.integers(len(_SHAFTS))], metal, accents[rng.integers(len(accents))])


_LEVELS = 16  # steps between closed and open: so few that most tips come from the cache


def tip(category: str, opening: float, paint: Paint) -> Shape:
    """The tip of a category, opened from 0 to 1 in steps of a sixteenth."""
    return _tip(category, round(_LEVELS * opening), paint)


@lru_cache(maxsize=2048)
def _tip(category: str, level: int, paint: Paint) -> Shape:
    return Shape.of(TOOLS[category].tip(level / _LEVELS, paint))


def body(category: str, paint: Paint) -> Shape:
    """The shaft, which widens towards the camera, and the clevis that holds a wristed tip."""
    color = paint.metal if category == "suction" else paint.shaft
    end = -0.9 if TOOLS[category].wristed else -0.2
    parts = tube([(-40, 0, 0.95), (end, 0, 0.47)], color, bands=7, smooth=False)
    if category == "suction":
        return Shape.of(parts)
    ring = [(end - 0.35, 0, 0.5), (end - 0.1, 0, 0.5)]
    parts += tube(ring, mix(paint.metal, color, 0.35), bands=4, smooth=False)
    if TOOLS[category].wristed:
        parts += tube([(end - 0.1, 0, 0.44), (-0.4, 0, 0.38), (0.05, 0, 0.3), (0.2, 0, 0.1)], paint.metal)
        parts += [disc(-0.55, 0, 0.15, lit(paint.metal, 0.9)), disc(-0.55, 0, 0.09, lit(paint.metal, -0.1))]
    return Shape.of(parts)
