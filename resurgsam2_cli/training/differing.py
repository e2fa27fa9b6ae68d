"""How the plan of a training differs from the one that its folder was begun with, in the names of the options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from resurgsam2_cli.files.text import printable, shown
from resurgsam2_cli.training.plan import TOLD

_NAMED = 3
"""Videos that a message names."""

_OPTIONS = {
    r"phases 1 steps": "--detection-steps",
    r"phases 2 steps": "--tracking-steps",
    r"phases \d+ batch": "--count-clips",
    r"phases \d+ prompts": "--count-prompts",
    r"phases \d+ tracked": "--count-tracked",
    r"recipe learning_rate": "--learning-rate",
    r"recipe fusion_learning_rate": "--fusion-learning-rate",
    r"recipe train_text": "--train-text",
}
"""Which option decides what stands under these names in the plan of a training on data."""

_FOLLOWS = r"recipe steps|phases \d+ image_size"
"""What follows from options that are named themselves."""

_OTHERS = {"seed": "--seed", "processes": "--processes"}
"""Options of every training."""


def differences(before: Any, now: dict[str, Any]) -> list[str]:
    """Where the record of a plan differs from the one of before, each option once; empty if nowhere."""
    if not isinstance(before, dict):
        return ["it keeps no plan of this program"]
    if (before.get("data") is None) != (now["data"] is None):  # what else differs comes with that
        found = [_data(before, now)]
    else:
        found = [_data(before, now)] if before.get("data") != now["data"] else []
        found += _recipe(before, now)
    if before.get("start") != now["start"]:
        found.append("--start with other weights")
    if before.get("text tower") != now["text tower"]:
        found.append("--clip-weights with another file")
    found += [_changed(x, before.get(key), now[key]) for key, x in _OTHERS.items() if before.get(key) != now[key]]
    return list(dict.fromkeys(found))


def _changed(option: str, before: Any, now: Any) -> str:
    return f"{option} {shown(before)}, now {shown(now)}"


def _recipe(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Differences in what is learned, and how."""
    apart = {"data", "start", "text tower", *_OTHERS, *TOLD}
    old, new = ({key: x for key, x in record.items() if key not in apart} for record in (before, now))
    pairs = list(_unequal(old, new))
    if any(name.startswith("configuration") for name, *_ in pairs):
        return ["--configuration" if now["start"] is None else "the network of --start"]
    if now["data"] is None:
        if not pairs:
            return []
        if _points(old) != _points(new):
            return [f"--pointing, which it was begun with{'out' if _points(new) else ''}"]
        # The recipes for rendered scenes are part of the program: one from nothing, one that goes on from weights.
        known = (before.get("start") is None) != (now["start"] is None)
        return [] if known else ["the recipe of another version of this program"]
    found = []
    for name, a, b in pairs:
        option = next((x for pattern, x in _OPTIONS.items() if re.fullmatch(pattern, name)), None)
        if option is not None and a is not None:
            found.append(_changed(option, a, b))
        elif not re.fullmatch(_FOLLOWS, name):
            found.append("the recipe of another version of this program")
    return found


def _points(record: dict[str, Any]) -> bool:
    """Whether a plan teaches to be pointed at."""
    phases = record.get("phases")
    return isinstance(phases, list) and any(isinstance(x, dict) and x.get("lesson") != "words" for x in phases)


def _unequal(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The places in which two records differ, by name, and what stands there."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in (*now, *(x for x in before if x not in now)):
            yield from _unequal(before.get(key), now.get(key), f"{name} {key}".strip())
    elif isinstance(before, list) and isinstance(now, (list, tuple)) and len(before) == len(now):
        for i, (a, b) in enumerate(zip(before, now, strict=True), start=1):
            yield from _unequal(a, b, f"{name} {i}")
    elif before != now and not (isinstance(now, tuple) and before == list(now)):
        yield name, before, now


def _data(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Which data differ, as far as the records tell; those of older versions name no videos."""
    old_place, place = (
        "rendered scenes" if record.get("data") is None else printable(str(record.get("data folder") or ""))
        for record in (before, now)
    )
    if old_place and place and old_place != place:
        said = f"--data {old_place}, now {place}"
    else:
        said = f"--data with other content in {place}" if place else "--data with other content"
    old, new = before.get("videos"), now.get("videos")
    if not isinstance(old, dict) or not isinstance(new, dict) or not old or not new:
        return said
    kinds = {
        "changed": [x for x in new if x in old and old[x] != new[x]],
        "added": [x for x in new if x not in old],
        "left out": [x for x in old if x not in new],
    }
    named = [f"{kind} {_listed(names)}" for kind, names in kinds.items() if names]
    return f"{said}: {'; '.join(named) or 'the same videos in another order'}"


def _listed(names: list[str]) -> str:
    several = ", ".join(printable(x) for x in names[:_NAMED])
    return several if len(names) <= _NAMED else f"{several} and {len(names) - _NAMED} more"
