"""The sentences that name what a scene shows, and sentences that name nothing in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.training.scenes.targets import CATEGORIES, OPPOSITE, TISSUES, WORK, Target

_LOCATIONS = (("top left", "top", "top right"), ("left", "center", "right"), ("bottom left", "bottom", "bottom right"))

LOCATIONS = tuple(place for row in _LOCATIONS for place in row)
"""Where a target can be; the sides that it reaches in from are among them."""


class Sighting(NamedTuple):
    """What a target does in a frame, and where."""

    action: str
    location: str


def location(mask: NDArray[np.bool_]) -> str | None:
    """Where in the picture a mask (height, width) lies, in thirds: "top left", "center", ...; None if it is empty."""
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        return None
    height, width = mask.shape
    return _LOCATIONS[int(3 * np.mean(rows) / height)][int(3 * np.mean(columns) / width)]


def actions_of(category: str) -> tuple[str, ...]:
    """All that sentences say about what a category does."""
    return (*WORK.get(category, ()), "idle", "moving")


def names(target: Target, sighting: Sighting | None = None) -> list[str]:
    """All sentences that fit a target; those about a frame need its sighting there."""
    always = [target.category, *_with_side(target.category, target.side)]
    return always if sighting is None else always + _with_action(target.category, *sighting)


def absent(targets: Sequence[Target], rng: np.random.Generator, count: int) -> list[str]:
    """Sentences that fit none of the targets. They name another category, or a lone instrument on the opposite side."""
    present: dict[str, set[str | None]] = {}
    for target in targets:
        present.setdefault(target.category, set()).add(target.side)
    lone = {category: side for category, (side, *more) in present.items() if side and not more}
    missing = [category for category in CATEGORIES + TISSUES if category not in present]
    sentences = []
    for _ in range(count):
        if lone and rng.random() < 0.35:
            category = str(rng.choice(list(lone)))
            sentences.append(_misplaced(category, OPPOSITE[lone[category]], rng))
        else:
            sentences.append(_missing(str(rng.choice(missing)), rng))
    return sentences


def _with_side(category: str, side: str | None) -> list[str]:
    return [f"{side} {category}", f"{category} on the {side}"] if side else []


def _with_action(category: str, action: str, location: str) -> list[str]:
    return [f"{category} is {action} on the {location}", f"{category} is {action}"]


def _misplaced(category: str, side: str, rng: np.random.Generator) -> str:
    """A sentence that says that a category is on a side."""
    places = [place for place in LOCATIONS if side in place.split()]
    action = str(rng.choice([*WORK.get(category, ()), "idle"]))
    located, _ = _with_action(category, action, str(rng.choice(places)))
    return str(rng.choice([*_with_side(category, side), located]))


def _missing(category: str, rng: np.random.Generator) -> str:
    """Any sentence about a category."""
    side = str(rng.choice(list(OPPOSITE)))
    action = str(rng.choice(actions_of(category)))
    located, bare = _with_action(category, action, str(rng.choice(LOCATIONS)))
    options = [category, str(rng.choice(_with_side(category, side))), located, bare]
    return options[rng.choice(4, p=[0.3, 0.3, 0.25, 0.15])]
