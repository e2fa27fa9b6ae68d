"""What the page sends of an object and a frame, checked, as an entry of the draft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.prompts.marks import Mark, mark_of
from resurgsam2_cli.review.content import Content
from resurgsam2_cli.review.draft import Draft, Entry


def same_frame(x: Entry, other: Entry) -> bool:
    """Whether an entry is about the one object and frame of another."""
    return x["object"] == other["object"] and x["frame"] == other["frame"] and "end" not in x


def entry_of(said: dict[str, Any], content: Content, draft: Draft) -> Entry:
    """What the page sent, checked, as an item of marks.json.

    With a ``change``, ``"add"`` or ``"cut"``, the ``mask`` is what was painted on the mask that is there by now: what
    was said of it before may not have been known to the page when the person began to paint.
    """
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
    change = said.get("change")
    if change is not None and (change not in ("add", "cut") or "mask" not in entry or "end" in entry):
        raise UsageError("what was drawn cannot be read", "load the page again")
    if change is None and entry.get("mask", {}).get("counts") == [run.height * run.width]:
        return _absent(entry)  # all was erased
    mark: Mark = mark_of(entry, Path("the page"), 1)
    mark.check_inside(run.width, run.height)
    if mark.mask is not None:
        mask = mark.read_mask(run.width, run.height)
        if change is not None:
            under = _shown(content, draft, entry)
            mask = under | mask if change == "add" else under & ~mask
        entry["mask"] = content.as_rle(mask)
        if not mask.any():
            return _absent(entry)
    return entry


def _absent(entry: Entry) -> Entry:
    return {"object": entry["object"], "frame": entry["frame"], "absent": True}


def _shown(content: Content, draft: Draft, entry: Entry) -> np.ndarray:
    """The mask (height, width) bool of the object and frame of an entry: of the draft, or else of the run."""
    last = draft.last(entry["object"], entry["frame"], content.run.part.stride)
    found = None if last is None else content.mask_of(last)
    return content.mask_at(entry["object"], entry["frame"]) if found is None else found


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
