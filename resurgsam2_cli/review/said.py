"""What the page sends of an object and a frame, checked, as an entry of the draft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.prompts.marks import Mark, mark_of
from resurgsam2_cli.review.content import Content
from resurgsam2_cli.review.draft import Entry


def same_frame(x: Entry, other: Entry) -> bool:
    """Whether an entry is about the one object and frame of another."""
    return x["object"] == other["object"] and x["frame"] == other["frame"] and "end" not in x


def entry_of(said: dict[str, Any], content: Content) -> Entry:
    """What the page sent, checked, as an item of marks.json."""
    known = {"object", "frame", "end", "points", "box", "mask", "absent", "confirmed"}
    entry = {key: value for key, value in said.items() if key in known and value is not None and value is not False}
    run = content.run
    if type(entry.get("object")) is not int or not 1 <= entry["object"] <= len(run.objects):
        raise UsageError("the run has no such object", "choose one of the list")
    for key in ("frame", *(["end"] if "end" in entry else [])):
        if type(entry.get(key)) is not int or content.step(entry[key]) is None:
            raise UsageError("the run has no such frame", "choose another one")
    if entry.get("end", entry["frame"]) < entry["frame"]:
        entry["frame"], entry["end"] = entry["end"], entry["frame"]
    if entry.get("end") == entry["frame"]:
        del entry["end"]
    if not isinstance(entry.get("mask", {}), dict):  # a path would be one of this machine's
        raise UsageError("the mask is no run-length code", "draw it on the page")
    if entry.get("mask", {}).get("counts") == [run.height * run.width]:
        entry = {"object": entry["object"], "frame": entry["frame"], "absent": True}  # all was erased
    mark: Mark = mark_of(entry, Path("the page"), 1)
    mark.check_inside(run.width, run.height)
    if mark.mask is not None:
        entry["mask"] = content.as_rle(mark.read_mask(run.width, run.height))
    return entry


def on_top(entry: Entry, at: list[Entry]) -> Entry:
    """Clicks with those before them in their frame; a box makes a new start."""
    if "box" in entry or not at or (not at[-1].get("points") and not at[-1].get("box")):
        return {**entry, "points": entry.get("points", [])}
    last = at[-1]
    found = {**entry, "points": [*last.get("points", []), *entry["points"]]}
    return {**found, "box": last["box"]} if "box" in last else found


def base_of(at: list[Entry], content: Content, entry: Entry) -> np.ndarray | None:
    """The mask that was drawn before the clicks in their frame, (height, width) bool; None if there is none."""
    if "box" in entry:
        return None
    for x in reversed(at):
        if not x.get("points") and not x.get("box"):
            return content.mask_of(x)
        if x.get("box"):
            return None
    return None
