"""An endless supply of surgical-looking scenes with exact masks and sentences, one per seed.

A :class:`Scene` draws an endoscope's view: wet tissue that breathes, instruments of eight kinds that enter from a
side and work, sometimes an organ, a needle or a thread, and the camera's flaws. Colour and labels come from the
same geometry, so masks are exact; the same seed, size and length give the same pixels, frame by frame, in any order::

    scene = Scene(7)
    image, labels = scene.render(40)
    for target in scene.targets:
        mask, sentences = labels == target.id, scene.sentences(target, 40)

Lengths are in units of the image's height, in screen axes (x right, y down), unless said otherwise; tools are
modelled in units of their shaft's width, along +x, with the origin at the wrist. Nothing but noise depends on the
image's size, so a seed shows the same scene at any resolution of the same aspect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

_WORK = {
    "grasper": ("grasping", "retracting"),
    "scissors": ("cutting", "dissecting"),
    "needle driver": ("suturing", "looping", "grasping"),
    "bipolar forceps": ("cauterizing", "grasping", "dissecting"),
    "hook": ("cauterizing", "dissecting", "retracting"),
    "suction": ("suctioning", "irrigating"),
    "clip applier": ("clipping",),
    "ultrasound probe": ("scanning",),
}
CATEGORIES = tuple(_WORK)
TISSUES = ("kidney", "liver edge", "needle", "thread")
OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}

_LOCATIONS = (("top left", "top", "top right"), ("left", "center", "right"), ("bottom left", "bottom", "bottom right"))

Floats = NDArray[np.float64]
Colour = tuple[int, int, int]
_Mesh = list[tuple[tuple[int, ...], tuple[float, ...]]]  # as PIL wants it


@dataclass(frozen=True)
class Target:
    """One thing of a scene that sentences can name."""

    id: int
    """From 1; its pixel value in the label image."""
    category: str
    """One of :data:`CATEGORIES` or :data:`TISSUES`."""
    side: str | None
    """"left", "right", "top" or "bottom": where an instrument enters and keeps to. None: the thing has no side."""


# --- Shapes ---------------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """A filled polygon; the outlines of a shape together are its mask, the rest lies within them."""

    points: Floats  # (n, 2)
    colour: Colour
    outline: bool


@dataclass(frozen=True)
class _Shape:
    """Parts to draw in this order, their points in one array so that they can be moved at once."""

    points: Floats  # (n, 2)
    pieces: tuple[tuple[int, int, Colour, bool], ...]  # start and stop in `points`

    @staticmethod
    def of(parts: Sequence[_Part]) -> _Shape:
        ends = np.cumsum([len(part.points) for part in parts]).tolist()
        spans = zip([0, *ends], ends, parts, strict=False)
        pieces = tuple((start, stop, part.colour, part.outline) for start, stop, part in spans)
        return _Shape(np.concatenate([part.points for part in parts]), pieces)

    def placed(self, origin: Floats, angle: float, scale: float, flip: float = 1.0) -> _Shape:
        """Scaled, turned by an angle in radians, and moved to the origin; a flip of -1 mirrors it first."""
        c, s = scale * math.cos(angle), scale * math.sin(angle)
        return _Shape(self.points @ np.array([[c, s], [-s * flip, c * flip]]) + origin, self.pieces)


def _mix(a: Colour, b: Colour, amount: float) -> Colour:
    red, green, blue = (round(x + (y - x) * amount) for x, y in zip(a, b, strict=True))
    return red, green, blue


def _lit(colour: Colour, across: float) -> Colour:
    """The colour of a glossy rod at a place across it, from -1 to 1."""
    diffuse = 0.30 + 0.75 * math.sqrt(max(0.0, 1 - (0.25 + across) ** 2 / 1.6))
    gloss = 0.55 * math.exp(-(((across + 0.3) / 0.22) ** 2))
    shaded = _mix(_mix((0, 0, 0), colour, diffuse), (140, 44, 40), 0.22 * max(0.0, across))  # the tissue's reflection
    return _mix(shaded, (255, 250, 245), gloss * (0.35 + 0.65 * sum(colour) / 765))


def _smooth(knots: Floats, rounds: int = 2) -> Floats:
    """Chaikin's corner cutting of a polyline, ends kept."""
    for _ in range(rounds):
        quarter = 0.75 * knots[:-1] + 0.25 * knots[1:]
        cut = np.stack([quarter, knots[:-1] + knots[1:] - quarter], axis=1).reshape(-1, knots.shape[1])
        knots = np.concatenate([knots[:1], cut, knots[-1:]])
    return knots


def _tube(
    knots: Sequence[Sequence[float]] | Floats, colour: Colour, bands: int = 4, smooth: bool = True
) -> list[_Part]:
    """A rod through knots (x, y, half width), in stripes from rim to rim."""
    line = np.asarray(knots, dtype=np.float64)
    line = _smooth(line) if smooth else line
    path, half = line[:, :2], line[:, 2:]
    tangent = np.gradient(path, axis=0)
    normal = tangent[:, ::-1] * (-1, 1) / np.maximum(np.hypot(*tangent.T)[:, None], 1e-9)

    def stripe(low: float, high: float) -> Floats:
        return np.concatenate([path + normal * half * low, (path + normal * half * high)[::-1]])

    edges = np.linspace(-1, 1, bands + 1).tolist()
    parts = [_Part(stripe(-1, 1), _lit(colour, 0.9), outline=True)]
    return parts + [_Part(stripe(a, b), _lit(colour, (a + b) / 2), outline=False) for a, b in pairwise(edges)]


def _strip(knots: Sequence[Sequence[float]], colour: Colour) -> list[_Part]:
    """A flat tube that lies on other parts: inlays, slots, rings."""
    return [part._replace(outline=False) for part in _tube(knots, colour, bands=2)]


def _disc(x: float, y: float, radius: float, colour: Colour, stretch: float = 1.0) -> _Part:
    angle = np.linspace(0, 2 * math.pi, 12, endpoint=False)
    points = np.stack([x + radius * stretch * np.cos(angle), y + radius * np.sin(angle)], axis=1)
    return _Part(points, colour, outline=False)


def _turned(parts: list[_Part], degrees: float) -> list[_Part]:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [part._replace(points=part.points @ np.array([[c, s], [-s, c]])) for part in parts]


def _mirrored(parts: list[_Part]) -> list[_Part]:
    """The parts with y negated."""
    return [part._replace(points=part.points * (1, -1)) for part in parts]


# --- Instruments ----------------------------------------------------------------------------------------------


class _Paint(NamedTuple):
    """The colours of an instrument."""

    shaft: Colour
    metal: Colour
    accent: Colour


_DARK = (26, 26, 30)
_GOLD = (222, 172, 62)


def _grasper(opening: float, paint: _Paint) -> list[_Part]:
    """Two straight toothed jaws."""
    x = np.linspace(0.5, 1.85, 15)
    teeth = np.stack([x, np.where(np.arange(15) % 2, -0.06, 0.1)], axis=1)
    jaw = [_Part(np.concatenate([teeth, [[1.85, 0.2], [0.5, 0.2]]]), _lit(paint.metal, 0.75), outline=True)]
    jaw += _tube([(0, 0.1, 0.2), (0.5, 0.2, 0.17), (1.85, 0.17, 0.12), (2.0, 0.15, 0.05)], paint.metal)
    jaw += _strip([(0.7, 0.2, 0.05), (1.5, 0.19, 0.05)], _DARK)
    jaw = _turned(jaw, 2 + 24 * opening)
    return _mirrored(jaw) + jaw + [_disc(0.05, 0, 0.15, _lit(paint.metal, 0.6))]


def _scissors(opening: float, paint: _Paint) -> list[_Part]:
    """Two pointed blades, curved and crossing at a screw."""
    knots = [(-0.55, -0.32, 0.14), (-0.1, -0.16, 0.17), (0.5, 0.14, 0.22), (1.2, 0.3, 0.19), (2.1, 0.12, 0.02)]
    blade = _tube(knots, paint.metal, bands=3)
    blade += _strip([(0.35, -0.04, 0.02), (1.2, 0.15, 0.03), (2.0, 0.09, 0.01)], (250, 250, 250))
    blade = _turned(blade, 1 + 25 * opening)
    return _mirrored(blade) + blade + [_disc(0.1, 0, 0.15, _DARK), _disc(0.1, 0, 0.09, _lit(paint.metal, -0.3))]


def _needle_driver(opening: float, paint: _Paint) -> list[_Part]:
    """Short blunt jaws with gold inlay."""
    jaw = _tube([(0, 0.16, 0.26), (0.5, 0.25, 0.25), (1.0, 0.21, 0.21), (1.08, 0.2, 0.12)], paint.metal)
    jaw += _strip([(0.3, 0.1, 0.1), (1.05, 0.09, 0.1)], _GOLD)
    jaw = _turned(jaw, 1 + 19 * opening)
    return _mirrored(jaw) + jaw + [_disc(0.02, 0, 0.2, _GOLD)]


def _bipolar_forceps(opening: float, paint: _Paint) -> list[_Part]:
    """Two long thin bowed tines in coloured insulation."""
    spread = 0.12 + 0.3 * opening
    tine = _tube(
        [(0, 0.1, 0.1), (0.8, 0.1 + 1.1 * spread, 0.09), (1.9, 0.1 + 1.3 * spread, 0.08), (2.8, 0.04 + spread, 0.05)],
        paint.metal,
        bands=3,
    )
    tine += _tube(
        [(-0.1, 0.12, 0.2), (0.8, 0.1 + 1.05 * spread, 0.15), (1.75, 0.1 + 1.24 * spread, 0.12)], paint.accent
    )
    return _mirrored(tine) + tine


def _hook(opening: float, paint: _Paint) -> list[_Part]:
    """A thin L of metal out of a tapering sleeve; no jaws."""
    wire = _tube(
        [(0, 0, 0.11), (1.55, 0, 0.11), (1.8, 0.0, 0.12), (1.84, 0.2, 0.12), (1.84, 0.72, 0.11), (1.84, 0.85, 0.04)],
        paint.metal,
        bands=3,
    )
    return wire + _tube([(-0.3, 0, 0.41), (0.1, 0, 0.38), (0.4, 0, 0.26), (0.85, 0, 0.2)], paint.accent)


def _suction(opening: float, paint: _Paint) -> list[_Part]:
    """The plain tube goes on to a rounded end with holes."""
    end = _tube([(-0.4, 0, 0.395), (1.2, 0, 0.395), (1.42, 0, 0.36), (1.58, 0, 0.24), (1.62, 0, 0.02)], paint.metal, 7)
    return end + [_disc(x, y, 0.11, _DARK, 1.5) for x, y in ((1.12, -0.08), (0.6, 0.12), (0.05, -0.1), (1.42, 0.05))]


def _clip_applier(opening: float, paint: _Paint) -> list[_Part]:
    """Wide U-shaped jaws, a coloured clip between them."""
    reach = 0.42 + 0.3 * opening
    knots = [(0.1, 0, 0.26), (0.3, reach * 1.2, 0.22), (0.9, reach * 1.15, 0.19), (1.7, reach, 0.17), (1.8, reach, 0.1)]
    jaw = _tube(knots, paint.metal)
    clip = [(0.5, 0, 0.1), (0.5, reach * 0.8, 0.1), (1.0, reach * 0.72, 0.11), (1.66, reach * 0.68, 0.11)]
    half = _tube(clip, paint.accent, bands=3)
    return _mirrored(half + jaw) + half + jaw


def _ultrasound_probe(opening: float, paint: _Paint) -> list[_Part]:
    """A thick rounded paddle with a dark transducer face."""
    knots = [
        (-0.2, 0, 0.36),
        (0.25, 0, 0.5),
        (0.5, 0, 0.85),
        (1.5, 0, 0.92),
        (2.4, 0, 0.8),
        (2.7, 0, 0.5),
        (2.72, 0, 0.05),
    ]
    body = _tube(knots, paint.accent, bands=8)
    face = _strip([(0.85, 0.36, 0.28), (2.3, 0.36, 0.28)], (58, 66, 80))
    marks = [part for x in (1.0, 1.4, 1.8, 2.2) for part in _strip([(x, -0.62, 0.03), (x, -0.34, 0.03)], _DARK)]
    return body + face + marks


class _Tool(NamedTuple):
    """How a category looks: its tip, how far that reaches, whether a wrist carries it, and its accent colours."""

    tip: Callable[[float, _Paint], list[_Part]]
    reach: float
    wristed: bool
    accents: tuple[Colour, ...] = ((120, 120, 125),)


_BLUES = ((34, 92, 190), (28, 120, 176), (58, 70, 200))
_TOOLS = {
    "grasper": _Tool(_grasper, 2.0, True),
    "scissors": _Tool(_scissors, 2.1, True),
    "needle driver": _Tool(_needle_driver, 1.1, True),
    "bipolar forceps": _Tool(_bipolar_forceps, 2.8, True, _BLUES),
    "hook": _Tool(_hook, 1.9, False, ((36, 36, 40), (225, 222, 210), (150, 70, 30))),
    "suction": _Tool(_suction, 1.6, False),
    "clip applier": _Tool(_clip_applier, 1.8, True, ((60, 200, 130), (238, 240, 236), (150, 215, 70))),
    "ultrasound probe": _Tool(_ultrasound_probe, 2.7, False, ((176, 190, 208), (196, 202, 210), (150, 172, 200))),
}
_TIP_SCALE = 1.2  # of a tip, to its model
_SHAFTS = ((44, 46, 52), (62, 64, 72), (36, 38, 46), (128, 132, 140), (168, 172, 178))
_METALS = ((176, 180, 188), (198, 200, 204), (160, 162, 172), (190, 184, 176))


@lru_cache(maxsize=2048)
def _tip(category: str, level: int, paint: _Paint) -> _Shape:
    """The tip of a category, opened by level / 16."""
    return _Shape.of(_TOOLS[category].tip(level / 16, paint))


def _body(category: str, paint: _Paint) -> _Shape:
    """The shaft, and the clevis that holds a wristed tip; it widens towards the camera."""
    colour = paint.metal if category == "suction" else paint.shaft
    end = -0.9 if _TOOLS[category].wristed else -0.2
    parts = _tube([(-40, 0, 0.95), (end, 0, 0.47)], colour, bands=7, smooth=False)
    if category == "suction":
        return _Shape.of(parts)
    ring = [(end - 0.35, 0, 0.5), (end - 0.1, 0, 0.5)]
    parts += _tube(ring, _mix(paint.metal, colour, 0.35), bands=4, smooth=False)
    if _TOOLS[category].wristed:
        parts += _tube([(end - 0.1, 0, 0.44), (-0.4, 0, 0.38), (0.05, 0, 0.3), (0.2, 0, 0.1)], paint.metal)
        parts += [_disc(-0.55, 0, 0.15, _lit(paint.metal, 0.9)), _disc(-0.55, 0, 0.09, _lit(paint.metal, -0.1))]
    return _Shape.of(parts)


# --- Motion ---------------------------------------------------------------------------------------------------


class _Gait(NamedTuple):
    """How an action moves a tool: the jaws' mean opening and swing, their rate in Hz, and the tip's wobble."""

    opening: float
    swing: float
    rate: float
    wobble: float


_GAITS = {
    "idle": _Gait(0.35, 0.0, 0.0, 0.002),
    "grasping": _Gait(0.45, 0.45, 0.5, 0.01),
    "cutting": _Gait(0.5, 0.5, 1.2, 0.012),
    "retracting": _Gait(0.05, 0.0, 0.0, 0.02),
    "moving": _Gait(0.15, 0.1, 0.3, 0.004),
    "suctioning": _Gait(0.0, 0.0, 0.0, 0.03),
    "clipping": _Gait(0.55, 0.45, 0.4, 0.006),
    "cauterizing": _Gait(0.3, 0.2, 0.6, 0.015),
    "suturing": _Gait(0.15, 0.15, 0.4, 0.045),
    "looping": _Gait(0.1, 0.1, 0.3, 0.07),
    "dissecting": _Gait(0.55, 0.45, 0.7, 0.025),
    "irrigating": _Gait(0.0, 0.0, 0.0, 0.015),
    "scanning": _Gait(0.0, 0.0, 0.0, 0.05),
}
ACTIONS = tuple(_GAITS)


def _ease(x: Floats) -> Floats:
    """Smoothstep of numbers clipped to [0, 1]."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3 - 2 * x)


def _moving_mean(values: Floats, width: int) -> Floats:
    """The mean of (frames,) values over a window of an odd number of frames, ends repeated."""
    padded = np.pad(values, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid")


@dataclass
class _Track:
    """A way through a scene, one entry per frame."""

    place: Floats  # (frames, 2)
    actions: list[str]
    segment: NDArray[np.int64]  # (frames,): number of the stretch between two way points


def _wander(
    rng: np.random.Generator, frames: int, fps: int, goal: Callable[[], Floats], work: tuple[str, ...], lazy: bool
) -> _Track:
    """Eased ways between goals with rests between them; an action of its own for every stretch."""
    place, actions, segment = np.empty((frames, 2)), ["idle"] * frames, np.empty(frames, dtype=np.int64)
    here, start, number = goal(), 0, 0
    while start < frames:
        stop = start + max(2, round(fps * rng.uniform(0.6, 2.6)))
        there = here if rng.random() < (0.85 if lazy else 0.35) else goal()
        still = bool(np.hypot(*(there - here)) < 0.08)
        rest = "idle" if still else "moving"
        action = rest if not work or rng.random() < 0.4 else str(rng.choice(work))
        span = np.arange(start, min(stop, frames))
        progress = _ease((span - float(start)) / (stop - start))[:, None]
        place[span] = here + (there - here) * progress
        actions[start:stop] = [action] * len(span)
        segment[span] = number
        here, start, number = there, stop, number + 1
    return _Track(place, actions, segment)


def _presence(rng: np.random.Generator, frames: int, fps: int, leaves: bool, late: bool) -> Floats:
    """(frames,) how far a thing is in the picture: 1 quite, 0 not at all."""
    t, ramp = np.arange(frames, dtype=np.float64), max(2.0, fps * rng.uniform(0.4, 0.8))
    if leaves and frames >= 12:
        gap = min(frames // 3, max(18, frames // 8)) + int(rng.integers(0, max(1, frames // 6)))
        start = rng.uniform(0.2, 0.8) * (frames - gap - 2 * ramp) + ramp
        return _ease((start - t) / ramp) + _ease((t - start - gap) / ramp)
    if late:
        return _ease((t - rng.uniform(0.1, 0.35) * frames) / ramp)
    return np.ones(frames)


@dataclass
class _Instrument:
    """A tool on a shaft that pivots about a point outside the picture."""

    target: Target
    actions: list[str]
    paint: _Paint
    width: float
    flip: float
    pivot: Floats  # (2,)
    tip: Floats  # (frames, 2)
    opening: Floats  # (frames,)
    bend: Floats  # (frames,), radians at the wrist
    presence: Floats  # (frames,)
    body: _Shape = field(init=False)

    def __post_init__(self) -> None:
        self.body = _body(self.target.category, self.paint)

    def shapes(self, t: int) -> list[_Shape]:
        """In heights, the lower one first; none where it is out of the picture."""
        if self.presence[t] <= 0:
            return []
        way = self.tip[t] - self.pivot
        length, angle = float(np.hypot(*way)), math.atan2(way[1], way[0])
        reach = length * self.presence[t] - _TOOLS[self.target.category].reach * self.width * _TIP_SCALE
        wrist = self.pivot + way / length * reach
        tip = _tip(self.target.category, round(16 * float(self.opening[t])), self.paint)
        head = tip.placed(wrist, angle + float(self.bend[t]), self.width * _TIP_SCALE, self.flip)
        return [self.body.placed(wrist, angle, self.width), head]


def _make_instrument(
    target: Target, rng: np.random.Generator, aspect: float, fps: int, along: float, presence: Floats
) -> _Instrument:
    """An instrument that enters at `along`, a fraction of its side's length."""
    category, side = target.category, target.side
    frames = len(presence)
    flat = side in ("left", "right")
    depth, breadth = (aspect, 1.0) if flat else (1.0, aspect)  # of the picture, as seen from the side
    far = 0.58 if flat else 0.64

    def seen(inwards: float, sideways: float) -> Floats:
        inwards = depth - inwards if side in ("right", "bottom") else inwards
        return np.array([inwards, sideways] if flat else [sideways, inwards])

    def goal() -> Floats:
        sideways = 0.55 * along + 0.45 * rng.uniform(0.1, 0.9) + rng.normal(0, 0.06)
        return seen(depth * rng.uniform(0.36, far), breadth * float(np.clip(sideways, 0.12, 0.88)))

    track = _wander(rng, frames, fps, goal, _WORK[category], lazy=bool(rng.random() < 0.25))
    gait = np.array([_GAITS[action] for action in track.actions])  # (frames, 4)
    seconds, phase = np.arange(frames) / fps, rng.uniform(0, 2 * math.pi, 3)
    opening = gait[:, 0] + gait[:, 1] * np.sin(2 * math.pi * gait[:, 2] * seconds + phase[0])
    wobble = _moving_mean(gait[:, 3], 13)[:, None]
    swing = np.stack([np.sin(4.1 * seconds + phase[1]), np.sin(3.3 * seconds + phase[2])], axis=1)
    bends = rng.normal(0, 0.3, int(track.segment[-1]) + 1) if _TOOLS[category].wristed else np.zeros(frames)
    tool = _TOOLS[category]
    steel = _METALS[rng.integers(len(_METALS))]
    paint = _Paint(_SHAFTS[rng.integers(len(_SHAFTS))], steel, tool.accents[rng.integers(len(tool.accents))])
    return _Instrument(
        target,
        track.actions,
        paint,
        width=rng.uniform(0.06, 0.095),
        flip=float(rng.choice([-1.0, 1.0])),
        pivot=seen(-0.24, breadth * along),
        tip=track.place + swing * wobble,
        opening=np.clip(_moving_mean(opening, 7), 0, 1),
        bend=np.clip(_moving_mean(bends[track.segment], 15), -0.6, 0.6),
        presence=presence,
    )


@dataclass
class _Suture:
    """A needle or a thread that lies on the tissue and moves with it."""

    target: Target
    actions: list[str]
    place: Floats  # (frames, 2), in the world
    width: float
    length: float
    turn: float
    phase: Floats  # (3,)
    colour: Colour
    fps: int
    shift: Callable[[Floats, int], Floats]

    def shapes(self, t: int) -> list[_Shape]:
        """In heights."""
        knots = self._needle() if self.target.category == "needle" else self._thread(t / self.fps)
        place = self.place[t : t + 1]
        angle = self.turn + 0.35 * math.sin(0.5 * t / self.fps + self.phase[0])
        shape = _Shape.of(_tube(knots, self.colour, bands=3, smooth=False))
        return [shape.placed(place[0] - self.shift(place, t)[0], angle, 1.0)]

    def _needle(self) -> Floats:
        angle = np.linspace(-1.65, 1.65, 26)
        taper = np.interp(angle, [-1.65, 0.9, 1.65], [1.0, 1.0, 0.55])
        return np.stack([self.length * np.cos(angle), self.length * np.sin(angle), self.width * taper], axis=1)

    def _thread(self, seconds: float) -> Floats:
        s = np.linspace(-1, 1, 44)
        wave = 0.11 * np.sin(4 * s + self.phase[0] + 0.5 * seconds) + 0.05 * np.sin(
            9 * s + self.phase[1] - 0.7 * seconds
        )
        x = self.length * s + 0.035 * np.sin(6 * s + self.phase[2] + 0.4 * seconds)
        return np.stack([x, wave, np.full(44, self.width)], axis=1)


# --- Tissue ---------------------------------------------------------------------------------------------------


class _Look(NamedTuple):
    """A kind of tissue: colours from hollow to ridge, its fat, how much of it there is, and of vessels."""

    flesh: tuple[Colour, Colour, Colour, Colour]
    fat: Colour
    fatty: float
    vessels: int


_LOOKS = (
    _Look(((88, 22, 26), (150, 50, 46), (196, 92, 80), (226, 148, 126)), (228, 186, 122), 0.30, 5),
    _Look(((122, 48, 34), (188, 100, 62), (222, 152, 88), (240, 202, 138)), (240, 206, 140), 0.55, 4),
    _Look(((136, 58, 62), (190, 106, 102), (222, 152, 142), (240, 190, 178)), (240, 206, 150), 0.12, 8),
    _Look(((56, 12, 16), (104, 26, 28), (146, 48, 44), (186, 90, 78)), (206, 150, 100), 0.18, 6),
)
_MARGIN = 0.1  # of the world beyond each border of the picture, in heights
_FINER = 2  # pixels of the world per pixel of the picture: so fine that the nearest one will do, which is fast


def _noise(rng: np.random.Generator, size: tuple[int, int], aspect: float, cells: int) -> NDArray[np.float32]:
    """Smooth noise of zero mean and unit variance over (width, height) pixels, `cells` grains high."""
    grid = rng.standard_normal((cells + 3, round(cells * aspect) + 3), dtype=np.float32)
    field = np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC))
    return np.asarray((field - field.mean()) / (field.std() + 1e-6), dtype=np.float32)


def _grey(values: NDArray[np.float32]) -> Image.Image:
    """Values of 0 to 1 as an "L" image."""
    return Image.fromarray(np.clip(values * 255, 0, 255).astype(np.uint8))


def _step(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    return np.clip((values - low) / (high - low), 0, 1)


class _World:
    """The tissue, a little larger than the picture: colours and labels to be looked at through a moving frame."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, organs: Iterable[Target]) -> None:
        self.height, self.aspect = height, width / height
        self.margin, self._seen = math.ceil(_MARGIN * height), (width, height)
        self.size = (width + 2 * self.margin, height + 2 * self.margin)
        self._rng = rng
        look = _LOOKS[rng.integers(len(_LOOKS))]
        rows, columns = np.arange(self.size[1]), np.arange(self.size[0])
        self._y = ((rows + 0.5 - self.margin) / height).astype(np.float32)[:, None]
        self._x = ((columns + 0.5 - self.margin) / height).astype(np.float32)[None]
        self._fine = self._octaves((22, 48, 90), (1.0, 0.7, 0.5))
        self._colour = self._flesh(look)
        labels = np.zeros(self.size[::-1], dtype=np.uint8)
        for organ in organs:
            inside, dome, tone = self._kidney(organ) if organ.category == "kidney" else self._liver(organ)
            self._paint(inside, self._surface(tone, dome))
            labels[inside > 0.5] = organ.id
        finer = (_FINER * self.size[0], _FINER * self.size[1])
        picture = Image.fromarray(np.clip(self._colour, 0, 255).astype(np.uint8))
        self._picture = picture.resize(finer, Image.Resampling.BICUBIC)
        self._labels = Image.fromarray(labels).resize(finer, Image.Resampling.NEAREST) if labels.any() else None

    def seen(self, mesh: _Mesh) -> Image.Image:
        """The tissue in colour, as big as the picture."""
        return self._picture.transform(self._seen, Image.Transform.MESH, mesh, Image.Resampling.NEAREST)

    def seen_labels(self, mesh: _Mesh) -> Image.Image:
        """The organs' ids, as big as the picture."""
        if self._labels is None:
            return Image.new("L", self._seen)
        return self._labels.transform(self._seen, Image.Transform.MESH, mesh, Image.Resampling.NEAREST)

    def _octaves(self, cells: Sequence[int], weights: Sequence[float]) -> NDArray[np.float32]:
        total = np.zeros(self.size[::-1], dtype=np.float32)
        for count, weight in zip(cells, weights, strict=True):
            total += weight * _noise(self._rng, self.size, self.aspect, count)
        return total

    def _relief(self, height: NDArray[np.float32], strength: float) -> NDArray[np.float32]:
        """The brightness of a bumpy surface under light from the upper left."""
        down, right = np.gradient(height)
        slope = down + 0.6 * right
        return np.clip(1 + strength * slope / (slope.std() + 1e-6), 0.55, 1.5)[..., None]

    def _flesh(self, look: _Look) -> NDArray[np.float32]:
        """(rows, columns, 3) of flesh with fat and vessels."""
        broad = self._octaves((2, 5, 11), (1.0, 0.7, 0.4))
        tone = np.clip(1.5 + 0.75 * broad + 0.12 * self._fine, 0, 3)
        stops = np.array(look.flesh, dtype=np.float32)
        colour = np.stack([np.interp(tone, range(4), stops[:, c]).astype(np.float32) for c in range(3)], axis=-1)
        lobules = np.abs(_noise(self._rng, self.size, self.aspect, 9)) + 0.06 * self._fine
        patches = _noise(self._rng, self.size, self.aspect, 3) + 0.3 * broad
        edge = float(np.quantile(patches, 1 - look.fatty))
        fat = (
            _step(patches + 0.25 * lobules, edge - 0.2, edge + 0.7)[..., None]
            * (0.5 + 0.5 * _step(lobules, 0, 0.6))[..., None]
        )
        colour += fat * (np.array(look.fat, dtype=np.float32) - colour) * 0.85
        vessels = np.asarray(self._vessels(look.vessels), dtype=np.float32)[..., None] / 255
        colour += 0.6 * vessels * (np.array((104, 14, 26), dtype=np.float32) - colour)
        bumps = broad + 0.5 * np.sqrt(np.maximum(lobules, 0)) * fat[..., 0] + 0.05 * self._fine
        return colour * self._relief(bumps.astype(np.float32), 0.14)

    def _vessels(self, count: int) -> Image.Image:
        """Branching random walks, an "L" image."""
        image = Image.new("L", self.size)
        draw = ImageDraw.Draw(image)
        rng = self._rng
        sprouts = [
            (rng.uniform(0, (self.aspect, 1)), rng.uniform(0, 6.3), rng.uniform(0.008, 0.016)) for _ in range(count)
        ]
        while sprouts:
            place, angle, thick = sprouts.pop()
            points = [place]
            for _ in range(int(rng.integers(8, 22))):
                angle += rng.normal(0, 0.28)
                points.append(points[-1] + 0.03 * np.array([math.cos(angle), math.sin(angle)]))
                if thick > 0.004 and rng.random() < 0.16:
                    sprouts.append((points[-1], angle + rng.choice([-0.8, 0.8]), thick * 0.6))
            line = (np.array(points) * self.height + self.margin).ravel().tolist()
            draw.line(line, fill=170, width=max(1, round(thick * self.height)), joint="curve")
        return image.filter(ImageFilter.GaussianBlur(self.height / 320))

    def _kidney(self, organ: Target) -> tuple[NDArray[np.float32], NDArray[np.float32], Colour]:
        """Coverage, dome height, and tone of a large bean."""
        rng = self._rng
        x, y = self._x - self.aspect * rng.uniform(0.32, 0.68), self._y - rng.uniform(0.32, 0.68)
        turn, long, short = rng.uniform(0, 3.2), rng.uniform(0.34, 0.46), rng.uniform(0.24, 0.31)
        u = (x * math.cos(turn) + y * math.sin(turn)) / long
        v = (y * math.cos(turn) - x * math.sin(turn)) / short + 0.35 * (1 - u * u)
        radius = np.sqrt(u * u + v * v) + 0.025 * _noise(rng, self.size, self.aspect, 4)
        inside = _step(1 - radius, -0.012, 0.012)
        tone = [(142, 50, 46), (122, 46, 56), (160, 74, 58)][rng.integers(3)]
        return inside, np.sqrt(np.clip(1 - radius * radius, 0, 1)).astype(np.float32), tone

    def _liver(self, organ: Target) -> tuple[NDArray[np.float32], NDArray[np.float32], Colour]:
        """Coverage, height, and tone of an organ that reaches in from the target's side up to a wavy edge."""
        rng = self._rng
        flat = organ.side in ("left", "right")
        length, across, along = (self.aspect, self._x, self._y) if flat else (1.0, self._y, self._x)
        across = length - across if organ.side in ("right", "bottom") else across
        frequency, phase = rng.uniform(1.5, 4.0), rng.uniform(0, 6.3, 2)
        edge = length * rng.uniform(0.2, 0.34) + 0.05 * np.sin(frequency * along + phase[0])
        edge = edge + 0.015 * np.sin(3.1 * frequency * along + phase[1]) + 0.3 * rng.normal(0, 0.3) * (along - 0.5)
        depth = np.asarray(edge - across, dtype=np.float32)
        tone = [(112, 40, 34), (98, 34, 40), (128, 58, 40)][rng.integers(3)]
        return _step(depth, -0.003, 0.003), np.sqrt(np.clip(depth / 0.16, 0, 1)), tone

    def _surface(self, tone: Colour, dome: NDArray[np.float32]) -> NDArray[np.float32]:
        """(rows, columns, 3) of a smooth moist organ."""
        mottle = 1 + 0.035 * self._fine + 0.05 * _noise(self._rng, self.size, self.aspect, 7)
        light = (0.5 + 0.55 * dome)[..., None] * self._relief(4 * dome + 0.02 * self._fine, 0.13)
        gloss = 60 * _step(light[..., 0], 1.1, 1.5)[..., None]
        return np.asarray(np.array(tone, dtype=np.float32) * light * mottle[..., None] + gloss, dtype=np.float32)

    def _paint(self, inside: NDArray[np.float32], surface: NDArray[np.float32]) -> None:
        """Lay an organ over the tissue, with the dark crease around it."""
        crease = np.asarray(_grey(inside).filter(ImageFilter.GaussianBlur(self.height * 0.025)), dtype=np.float32) / 255
        self._colour *= (1 - 0.55 * crease)[..., None]
        self._colour += inside[..., None] * (surface - self._colour)


class _Sway:
    """How the view moves over the world: the camera's drift and the breath's swelling."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, fps: int) -> None:
        self._height, self._fps, self._centre = height, fps, np.array((width / height / 2, 0.5))
        self._rate = rng.uniform(0.2, 0.36)
        self._drift, self._phase = rng.uniform(0.008, 0.022, (2, 2)), rng.uniform(0, 6.3, (3, 2))
        self._swell, self._wave = rng.uniform(0.004, 0.022), rng.uniform(0.004, 0.014, 2)
        self._slow = rng.uniform(0.03, 0.14, (2, 2))
        xs, ys = (np.linspace(0, n, 5).round().astype(int).tolist() for n in (width, height))
        self._boxes = [(a, c, b, d) for a, b in pairwise(xs) for c, d in pairwise(ys)]
        corners = [((a, c), (a, d), (b, d), (b, c)) for a, c, b, d in self._boxes]
        self._nodes = np.array(corners, dtype=np.float64).reshape(-1, 2) / height

    def shift(self, points: Floats, t: int) -> Floats:
        """(n, 2) from places of the picture to those of the world that are seen there; same shape."""
        seconds = t / self._fps
        drift = (self._drift * np.sin(2 * math.pi * self._slow * seconds + self._phase[:2])).sum(axis=0)
        breath = 2 * math.pi * self._rate * seconds
        swell = self._swell * math.sin(breath) * (points - self._centre)
        return drift + swell + self._wave * np.sin(breath - 3.0 * points[:, ::-1] + self._phase[2])

    def mesh(self, t: int, margin: int) -> _Mesh:
        """Boxes of the picture and the quadrilaterals of the world that they show, in pixels, as PIL wants them."""
        corners = _FINER * ((self._nodes + self.shift(self._nodes, t)) * self._height + margin)
        return [(box, tuple(quad)) for box, quad in zip(self._boxes, corners.reshape(-1, 8).tolist(), strict=True)]


# --- Camera ---------------------------------------------------------------------------------------------------


def _spells(rng: np.random.Generator, frames: int, count: int, shortest: float, longest: float) -> Floats:
    """(frames,) strength from 0 to 1 of something that comes up for a few stretches (bounds in frames)."""
    t, strength = np.arange(frames, dtype=np.float64), np.zeros(frames)
    for _ in range(count):
        length, middle, peak = rng.uniform(shortest, longest), rng.uniform(0, frames), rng.uniform(0.5, 1)
        strength = np.maximum(strength, peak * _ease(1.6 * (1 - np.abs(t - middle) / (length / 2))))
    return strength


class _Camera:
    """All that lies between the things and the pixels: gloss, vignette, smoke, blood, blur, gain and noise."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, frames: int, fps: int, seed: int) -> None:
        self.size, self._seed, self._fps = (width, height), seed, fps
        aspect = width / height
        roomy = (round(1.6 * width), round(1.6 * height))
        self._glints = [_grey(0.5 + 0.2 * _noise(rng, roomy, aspect, cells)) for cells in (90, 8)]
        self._clouds = [_grey(0.5 + 0.22 * _noise(rng, roomy, aspect, cells)) for cells in (5, 9)]
        sharp = rng.uniform(112, 132)
        self._glint_levels = [round(230 * min(1, max(0, (v - sharp) / 45))) for v in range(256)]
        self._phase = rng.uniform(0, 6.3, 4)
        self._smoke = _spells(rng, frames, int(rng.integers(1, 3)) * (rng.random() < 0.35), fps * 1.5, fps * 6)
        self._blood = _spells(rng, frames, int(rng.random() < 0.2), fps * 1.5, fps * 5)
        self._blur = _spells(rng, frames, int(rng.integers(1, 4)) * (rng.random() < 0.4), 6, 22)
        self._blur_axes = [(1.0, 1.0), (1.6, 0.15), (0.15, 1.6)][rng.integers(3)]
        flicker = rng.normal(0, rng.choice([0.0, 0.01, 0.05], p=[0.4, 0.35, 0.25]), frames)
        self._gain = rng.uniform(0.95, 1.18) * (1 + _moving_mean(flicker, 3))
        self._balance = rng.uniform(0.94, 1.06, 3) * (1.0, 0.98, 0.97)
        self._vignette, self._scope = self._falloff(rng, aspect)
        noise = np.random.default_rng((seed, 99)).standard_normal((height + 48, width + 48, 3), dtype=np.float32)
        grain = np.clip(128.5 + rng.uniform(1.2, 4.0) * noise, 0, 255)
        self._grain = Image.fromarray(grain.astype(np.uint8))

    def _falloff(self, rng: np.random.Generator, aspect: float) -> tuple[Image.Image, Image.Image | None]:
        """What the light and the scope leave of a picture, and the black outside of the scope if it can be seen."""
        width, height = self.size
        y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height - 0.5
        x = ((np.arange(width, dtype=np.float32)[None] + 0.5) / width - 0.5) * aspect
        reach, light = math.hypot(aspect, 1) / 2, rng.uniform(-0.12, 0.12, 2)
        glow = 1.02 - rng.uniform(0.35, 0.7) * ((x - light[0]) ** 2 + (y - light[1]) ** 2) / reach**2
        radius = np.sqrt(x * x + y * y)
        rim = rng.uniform(0.84, 0.95) * reach if rng.random() < 0.3 else 2 * reach
        falloff = np.asarray(glow * _step(-radius, -rim, -rim * 0.96), dtype=np.float32)
        scope = Image.fromarray((radius > rim * 0.985).astype(np.uint8) * 255) if rim < reach else None
        return Image.merge("RGB", [_grey(falloff)] * 3), scope

    def _pan(self, texture: Image.Image, t: int, speed: float, number: int) -> Image.Image:
        """A crop of a roomy texture that moves with the time."""
        phase, way = self._phase[number], speed * t / self._fps
        offset = [
            round((0.5 + 0.5 * f(way + phase)) * (a - b))
            for f, a, b in zip((math.sin, math.cos), texture.size, self.size, strict=True)
        ]
        return texture.crop((offset[0], offset[1], offset[0] + self.size[0], offset[1] + self.size[1]))

    def gloss(self, picture: Image.Image, t: int) -> None:
        """Lay moving highlights on wet tissue, in place."""
        parts = (
            self._pan(texture, t, speed, n)
            for n, (texture, speed) in enumerate(zip(self._glints, (0.1, 0.17), strict=True))
        )
        picture.paste((255, 244, 236), (0, 0), ImageChops.multiply(*parts).point(self._glint_levels))

    def _veil(self, picture: Image.Image, t: int, colour: Colour, strength: float, speed: float) -> None:
        cloud = ImageChops.add(
            self._pan(self._clouds[0], t, speed, 2), self._pan(self._clouds[1], t, 1.7 * speed, 3), 2
        )
        levels = (255 * strength * np.clip((np.arange(256) - 70) / 110, 0.12, 1)).astype(int).tolist()
        picture.paste(colour, (0, 0), cloud.point(levels))

    def black(self, labels: Image.Image) -> None:
        """Take away what the scope's rim hides, in place."""
        if self._scope is not None:
            labels.paste(0, (0, 0), self._scope)

    def expose(self, picture: Image.Image, t: int) -> Image.Image:
        """The picture as the sensor gives it."""
        if self._blood[t] > 0.02:
            self._veil(picture, t, (128, 8, 12), 0.55 * self._blood[t], 0.12)
        if self._smoke[t] > 0.02:
            self._veil(picture, t, (222, 218, 216), 0.62 * self._smoke[t], 0.5)
        picture = ImageChops.multiply(picture, self._vignette)
        radius = 0.011 * self.size[1] * self._blur[t]
        if radius > 0.2:
            picture = picture.filter(ImageFilter.BoxBlur((radius * self._blur_axes[0], radius * self._blur_axes[1])))
        levels = np.outer(self._balance * self._gain[t], np.arange(256)).ravel()
        picture = picture.point(np.minimum(levels, 255).astype(int).tolist())
        left, top = np.random.default_rng((self._seed, t, 7)).integers(0, 49, 2).tolist()
        grain = self._grain.crop((left, top, left + self.size[0], top + self.size[1]))
        return ImageChops.add(picture, grain, 1, -128)


# --- Scenes ---------------------------------------------------------------------------------------------------


def _cast(rng: np.random.Generator) -> list[tuple[str, str | None]]:
    """The category and side of everything in a scene, tissue first; at most one pair, on opposite sides."""
    sides = [str(s) for s in rng.choice(["left", "right", "top", "bottom"], 4, p=[0.34, 0.34, 0.14, 0.18])]
    kinds = [str(kind) for kind in rng.permutation(CATEGORIES)]
    if rng.random() < 0.3:
        cast: list[tuple[str, str | None]] = [(kinds[0], sides[0]), (kinds[0], OPPOSITE[sides[0]])]
        extra = int(rng.choice(3, p=[0.4, 0.4, 0.2]))
    else:
        cast, extra = [], int(rng.choice([1, 2, 3, 4], p=[0.15, 0.4, 0.33, 0.12]))
    cast += list(zip(kinds[1 : extra + 1], sides[1:] + sides[:1], strict=False))
    some = rng.permutation(TISSUES)[: int(rng.choice(3, p=[0.35, 0.4, 0.25]))]
    tissues = sorted((str(tissue) for tissue in some), key=TISSUES.index)
    edge = str(rng.choice(["left", "right", "top", "bottom"], p=[0.2, 0.2, 0.5, 0.1]))
    return [(tissue, edge if tissue == "liver edge" else None) for tissue in tissues] + cast


def _entries(rng: np.random.Generator, sides: Sequence[str | None]) -> list[float]:
    """Where along its side each instrument enters, apart from others of that side."""
    taken: list[tuple[str | None, float]] = []
    for side in sides:
        tries = [float(x) for x in rng.uniform(0.15, 0.85, 12)]
        room = [min([abs(x - other) for s, other in taken if s == side], default=1.0) for x in tries]
        clear = (x for x, space in zip(tries, room, strict=True) if space > 0.3)
        taken.append((side, next(clear, tries[int(np.argmax(room))])))
    return [along for _, along in taken]


def _with_side(category: str, side: str | None) -> list[str]:
    return [f"{side} {category}", f"{category} on the {side}"] if side else []


def _with_action(category: str, action: str, location: str) -> list[str]:
    return [f"{category} is {action} on the {location}", f"{category} is {action}"]


class Scene:
    """A video of `frames` frames (height, width) at `fps` a second, all of it settled by the seed."""

    def __init__(self, seed: int, *, height: int = 256, width: int = 320, frames: int = 200, fps: int = 25) -> None:
        self.seed, self.height, self.width, self.frames, self.fps = seed, height, width, frames, fps
        rng = np.random.default_rng((seed, 0))
        cast = _cast(rng)
        ids = rng.permutation(len(cast)) + 1  # apart from the drawing order
        drawn = [Target(int(i), category, side) for i, (category, side) in zip(ids, cast, strict=True)]
        self.targets: list[Target] = sorted(drawn, key=lambda target: target.id)
        self._sway = _Sway(rng, height, width, fps)
        self._world = _World(
            np.random.default_rng((seed, 1)), height, width, [x for x in drawn if x.category in TISSUES[:2]]
        )
        self._camera = _Camera(np.random.default_rng((seed, 2)), height, width, frames, fps, seed)
        sutures = [self._suture(target, rng) for target in drawn if target.category in TISSUES[2:]]
        tools = self._instruments([target for target in drawn if target.category in CATEGORIES], rng)
        self._actors: list[_Instrument | _Suture] = [*sutures, *tools]

    def _instruments(self, targets: list[Target], rng: np.random.Generator) -> list[_Instrument]:
        """The instruments from the lowest to the highest."""
        targets = [targets[i] for i in rng.permutation(len(targets))]
        leaver = int(rng.integers(len(targets))) if rng.random() < 0.4 else -1
        tools = []
        for i, (target, along) in enumerate(zip(targets, _entries(rng, [x.side for x in targets]), strict=True)):
            leaves, late = i == leaver, bool(rng.random() < 0.12)
            presence = _presence(rng, self.frames, self.fps, leaves, late)
            tools.append(_make_instrument(target, rng, self.width / self.height, self.fps, along, presence))
        return tools

    def _suture(self, target: Target, rng: np.random.Generator) -> _Suture:
        thin = target.category == "thread"
        home = rng.uniform(0.3, 0.7, 2) * (self.width / self.height, 1)

        def goal() -> Floats:
            return home + rng.normal(0, 0.06, 2)

        colours = ((34, 28, 96), (70, 28, 120), (24, 40, 120)) if thin else ((206, 210, 216), (188, 192, 202))
        track = _wander(rng, self.frames, self.fps, goal, (), lazy=True)
        return _Suture(
            target,
            track.actions,
            track.place,
            width=rng.uniform(0.0062, 0.0085) if thin else rng.uniform(0.008, 0.011),
            length=rng.uniform(0.28, 0.42) if thin else rng.uniform(0.085, 0.12),
            turn=rng.uniform(0, 6.3),
            phase=rng.uniform(0, 6.3, 3),
            colour=colours[rng.integers(len(colours))],
            fps=self.fps,
            shift=self._sway.shift,
        )

    def render(self, t: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Frame t: (height, width, 3) RGB, and (height, width) ids of the targets as far as they can be seen."""
        mesh = self._mesh(t)
        picture = self._world.seen(mesh)
        self._camera.gloss(picture, t)
        labels = self._draw(mesh, picture, t)
        return np.array(self._camera.expose(picture, t)), labels

    def labels(self, t: int) -> NDArray[np.uint8]:
        """The second half of :meth:`render`, sooner."""
        return self._draw(self._mesh(t), None, t)

    def _mesh(self, t: int) -> _Mesh:
        if not 0 <= t < self.frames:
            raise IndexError(f"frame {t} of a scene of {self.frames} frames")
        return self._sway.mesh(t, self._world.margin)

    def _draw(self, mesh: _Mesh, picture: Image.Image | None, t: int) -> NDArray[np.uint8]:
        """Draw the actors onto a picture of the tissue, in place, and give the labels."""
        labels = self._world.seen_labels(mesh)
        shapes = [(actor, actor.shapes(t)) for actor in self._actors]
        if picture is not None:
            self._cast_shadows(
                [shape for actor, group in shapes if isinstance(actor, _Instrument) for shape in group], picture
            )
        for actor, group in shapes:
            if group:
                self._stamp(group, actor.target.id, picture, labels)
        self._camera.black(labels)
        return np.array(labels)

    def _cast_shadows(self, shapes: list[_Shape], picture: Image.Image) -> None:
        scale = self.height / 4
        mask = Image.new("L", (self.width // 4, self.height // 4))
        draw = ImageDraw.Draw(mask)
        for shape in shapes:
            flat = ((shape.points + _SHADOW) * scale).ravel().tolist()
            for start, stop, _, outline in shape.pieces:
                if outline:
                    draw.polygon(flat[2 * start : 2 * stop], fill=125)
        mask = mask.filter(ImageFilter.BoxBlur(self.height / 128))
        if box := mask.getbbox():
            size = (4 * (box[2] - box[0]), 4 * (box[3] - box[1]))
            soft = mask.crop(box).resize(size, Image.Resampling.BILINEAR)
            picture.paste((18, 4, 6), (4 * box[0], 4 * box[1]), soft)

    def _stamp(self, shapes: list[_Shape], ident: int, picture: Image.Image | None, labels: Image.Image) -> None:
        """Draw at twice the size inside the bounding box; a pixel belongs to what covers half of it."""
        points = np.concatenate([shape.points for shape in shapes]) * self.height
        low = np.clip(np.floor(points.min(axis=0)) - 1, 0, (self.width, self.height)).astype(int)
        high = np.clip(np.ceil(points.max(axis=0)) + 1, 0, (self.width, self.height)).astype(int)
        if (high <= low).any():
            return
        place = (int(low[0]), int(low[1]))
        size = (2 * int(high[0] - low[0]), 2 * int(high[1] - low[1]))
        cover, paint = Image.new("L", size), Image.new("RGB", size, shapes[-1].pieces[0][2])
        on_cover, on_paint = ImageDraw.Draw(cover), ImageDraw.Draw(paint)
        for shape in shapes:
            flat = (2 * (shape.points * self.height - low) - 0.5).ravel().tolist()
            for start, stop, colour, outline in shape.pieces:
                polygon = flat[2 * start : 2 * stop]
                if outline:
                    on_cover.polygon(polygon, fill=255)
                if picture is not None:
                    on_paint.polygon(polygon, fill=colour)
        cover = cover.reduce(2)
        labels.paste(ident, place, cover.point(_HALF))
        if picture is not None:
            picture.paste(paint.reduce(2), place, cover)

    def sentences(self, target: Target, t: int | None = None) -> list[str]:
        """What names this target and no other of the scene; with a frame, also what it does there, if it is seen."""
        labels = None if t is None else self.labels(t)
        others = [x for x in self.targets if x.id != target.id]
        taken = {sentence for other in others for sentence in self._names(other, t, labels)}
        return [sentence for sentence in self._names(target, t, labels) if sentence not in taken]

    def _names(self, target: Target, t: int | None, labels: NDArray[np.uint8] | None) -> list[str]:
        names = [target.category, *_with_side(target.category, target.side)]
        rows, columns = np.nonzero(labels == target.id) if labels is not None else ((), ())
        if t is None or len(rows) == 0:
            return names
        row, column = int(3 * np.mean(rows) / self.height), int(3 * np.mean(columns) / self.width)
        return names + _with_action(target.category, self.action(target, t), _LOCATIONS[row][column])

    def action(self, target: Target, t: int) -> str:
        """What a target does in frame t: one of :data:`ACTIONS`; organs are idle."""
        return next((actor.actions[t] for actor in self._actors if actor.target.id == target.id), "idle")

    def absent_sentences(self, rng: np.random.Generator, count: int) -> list[str]:
        """Sentences that name nothing of the scene: another category, or one that is there, on the opposite side."""
        present: dict[str, set[str | None]] = {}
        for target in self.targets:
            present.setdefault(target.category, set()).add(target.side)
        lone = {category: side for category, (side, *more) in present.items() if side and not more}
        missing = [category for category in CATEGORIES + TISSUES if category not in present]
        sentences = []
        for _ in range(count):
            if lone and rng.random() < 0.35:
                category = str(rng.choice(list(lone)))
                sentences.append(self._misplaced(category, OPPOSITE[lone[category]], rng))
            else:
                sentences.append(self._missing(str(rng.choice(missing)), rng))
        return sentences

    @staticmethod
    def _misplaced(category: str, side: str, rng: np.random.Generator) -> str:
        places = [place for row in _LOCATIONS for place in row if side in place.split()]
        action = str(rng.choice([*_WORK.get(category, ()), "idle"]))
        template = _with_action(category, action, str(rng.choice(places)))[0]
        return str(rng.choice([*_with_side(category, side), template]))

    @staticmethod
    def _missing(category: str, rng: np.random.Generator) -> str:
        side = str(rng.choice(list(OPPOSITE)))
        action = str(rng.choice([*_WORK.get(category, ()), "idle", "moving"]))
        located, bare = _with_action(category, action, str(rng.choice([place for row in _LOCATIONS for place in row])))
        options = [category, str(rng.choice(_with_side(category, side))), located, bare]
        return options[rng.choice(4, p=[0.3, 0.3, 0.25, 0.15])]


_HALF = [0] * 128 + [255] * 128  # the levels that make a mask of a coverage
_SHADOW = np.array((0.025, 0.05))
