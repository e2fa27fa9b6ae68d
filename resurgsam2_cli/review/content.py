"""What one version of a run holds, for the page: masks, lanes, places worth a look, pictures."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from resurgsam2_cli.errors import InputError, UsageError
from resurgsam2_cli.files.rle import decoded, encoded
from resurgsam2_cli.refining.places import SEEN, Place, worth_a_look
from resurgsam2_cli.refining.seen import sum_of_masks
from resurgsam2_cli.refining.versions import versions_of
from resurgsam2_cli.review.draft import Entry
from resurgsam2_cli.review.lanes import Lanes
from resurgsam2_cli.review.pictures import Pictures
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.runs.reading import RunFrame
from resurgsam2_cli.runs.record import Run, color_text, raw_marks
from resurgsam2_cli.segmenting.placing import grid_of_run

MOST_FRAMES = 64
"""Masks of so many frames are given at once."""

MOST_PLACES = 50


class Content:
    """One version of a run. Its methods may be called by any thread. Raises a ``UserError``."""

    def __init__(self, run: Run, stamp: tuple[int, int], sources: Path | None) -> None:
        self.run, self.stamp = run, stamp
        self.version = versions_of(run.folder)[-1].number
        self._index = RunIndex(run)
        self._lock = threading.Lock()
        self._long = threading.Lock()
        self.grid = grid_of_run(self._index)
        self.pictures = Pictures(run, self.grid, sources)

    @property
    def key(self) -> str:
        """Differs between versions."""
        return f"{self.version}-{self.stamp[0]:x}"

    def close(self) -> None:
        """Close the files."""
        self.pictures.close()
        with self._lock:
            self._index.__exit__(None, None, None)

    def step(self, number: int) -> int | None:
        """The place of a frame of the source; None if the run does not have it."""
        return self._index.step(number)

    def frame(self, step: int) -> RunFrame:
        """What the run says of a frame."""
        if not 0 <= step < self.run.frames:
            raise UsageError(f"there is no frame at {step}", "ask for another one")
        with self._lock:
            return self._index.frame(step)

    def describe(self) -> dict[str, Any]:
        """What stays the same while the page shows this version."""
        run = self.run
        return {
            "name": run.name,
            "width": run.width,
            "height": run.height,
            "frames": run.frames,
            "first": self.grid.first,
            "stride": self.grid.stride,
            "seen": SEEN * self.grid.stride,
            "version": self.version,
            "stamp": self.key,
            "objects": [
                {"id": x.id, "label": x.label, "text": x.text, "color": color_text(x.color)} for x in run.objects
            ],
        }

    def masks(self, first: int, end: int) -> list[dict[str, Any]]:
        """The frames from ``first`` up to ``end``, each with the state of all objects and the masks that it has."""
        if not 0 <= first < end <= self.run.frames or end - first > MOST_FRAMES:
            raise UsageError(f"the frames {first} to {end} of {self.run.frames}", "ask for others")
        found = []
        for step in range(first, end):
            frame = self.frame(step)
            masks = {x.object_id: x.rle["counts"] for x in frame.masks}
            states = [
                {
                    "stage": x["stage"],
                    "present": x["present"],
                    "iou": x["predicted_iou"],
                    "pass": x.get("pass", 0),
                    "counts": masks.get(x["id"]),
                }
                for x in frame.states
            ]
            found.append({"step": step, "number": frame.number, "time": frame.time, "objects": states})
        return found

    @property
    def lanes(self) -> Lanes:
        """All frames, condensed; the first time they are read."""
        with self._long:
            return self._lanes

    @cached_property
    def _lanes(self) -> Lanes:
        return Lanes.of_run(self.run)

    @property
    def places(self) -> Sequence[Place]:
        """What is worth a look, the most urgent first."""
        with self._long:
            return self._places

    @cached_property
    def _places(self) -> list[Place]:
        return worth_a_look(self.run, MOST_PLACES)

    def place_list(self) -> list[dict[str, Any]]:
        """The same, as the page has them."""
        found = []
        for x in self.places:
            step = self.step(x.frame)
            assert step is not None
            found.append({**x.to_json(), "step": step})
        return found

    def counted(self) -> dict[str, int]:
        """How many places are left to look at, and at how many a person has said something."""
        return {"left": sum(not x["reviewed"] for x in self.place_list()), "reviewed": self.lanes.looks(SEEN)}

    # Masks of a person

    def seen(self, entry: Entry) -> str:
        """A sum over the masks of an object in the frames that an entry is about."""
        row = entry["object"] - 1
        first, last = self.step(entry["frame"]), self.step(entry["end"] if "end" in entry else entry["frame"])
        if first is None or last is None or row >= len(self.run.objects):
            return ""
        return sum_of_masks(map(self.frame, range(first, last + 1)), row + 1)

    def still_right(self, entry: Entry) -> bool:
        """Whether the masks of a "confirmed" are those that the person saw, as far as that is known."""
        return entry.get("seen") in (None, self.seen(entry))

    def as_rle(self, mask: np.ndarray) -> dict[str, Any]:
        """COCO's RLE of a mask (height, width) bool."""
        return {"size": list(mask.shape), "counts": encoded(mask)}

    def mask_of(self, entry: Entry) -> np.ndarray | None:
        """The mask (height, width) bool that an entry of a draft has; None if it has none."""
        shape = (self.run.height, self.run.width)
        if entry.get("absent"):
            return np.zeros(shape, bool)
        return decoded(entry["mask"]["counts"], shape) if "mask" in entry else None

    def mask_at(self, object_id: int, frame: int) -> np.ndarray:
        """The mask (height, width) bool that an object of the run has in one of its frames."""
        step = self.step(frame)
        assert step is not None
        found = next((x.rle["counts"] for x in self.frame(step).masks if x.object_id == object_id), None)
        return decoded(found, (self.run.height, self.run.width))

    def marks_with_masks(self, path: Path, count: int) -> list[Entry]:
        """The last ``count`` items of a marks.json as entries of a draft; clicks get the mask that they made."""
        marks = raw_marks(path)[-count:] if count else []
        ids = {x.label: x.id for x in self.run.objects}
        found = []
        for x in marks:
            name = x.get("object")
            entry = {**x, "object": name if type(name) is int else ids.get(str(name), 0)}
            step = self.step(entry["frame"])
            if not entry["object"] or step is None:
                raise InputError(f"{path}: is not as this program wrote it", "restore it, or move it away")
            if (entry.get("points") or entry.get("box")) and "mask" not in entry:
                masks = {y.object_id: y.rle for y in self.frame(step).masks}
                if entry["object"] in masks:
                    entry["mask"] = masks[entry["object"]]
            if entry.get("confirmed"):
                entry["seen"] = self.seen(entry)
            found.append(entry)
        return found
