"""Versions of a run: each is written beside the one before and takes its place in one step.

The folder of a next version shares all files that stay as they are with the one before it. ``history/0003`` holds what
it takes to go back from version 3: the record and the marks of version 2, its images of the frames that changed, and
the differences of the large files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resurgsam2_cli.errors import InputError, UsageError
from resurgsam2_cli.files.atomic import replacing, write_json, writing
from resurgsam2_cli.files.delta import apply_delta, write_delta
from resurgsam2_cli.files.filling import Filling
from resurgsam2_cli.files.kinds import SUCCEEDS, UNFINISHED
from resurgsam2_cli.files.label_images import labels_png, mask_png, read_labels
from resurgsam2_cli.files.linking import link_missing
from resurgsam2_cli.files.rle import decoded
from resurgsam2_cli.files.text import parse_json
from resurgsam2_cli.outputs.coco import MaskEntry, annotation_entry, categories_of
from resurgsam2_cli.outputs.frames import frame_line
from resurgsam2_cli.refining.changes import Changed, Changes
from resurgsam2_cli.refining.history import DELTA, LARGE, OVERLAY, added_objects, check_history, history_of
from resurgsam2_cli.refining.labels import is_drawn_over, redrawn
from resurgsam2_cli.refining.signals import KEPT
from resurgsam2_cli.refining.widening import object_entries
from resurgsam2_cli.runs.folder import NEXT_ELSEWHERE, next_version
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.runs.reading import RunFrame
from resurgsam2_cli.runs.record import (
    ANNOTATIONS,
    DRAFT,
    FRAMES,
    HISTORY,
    MARKS,
    MASKS,
    OBJECTS,
    RECORD,
    Run,
    as_written,
    have_made,
    is_of_demo,
    raw_record,
)
from resurgsam2_cli.runs.sums import TreeSum, corrections, file_sum, tree_sum

Redraw = Callable[[RunIndex, Path, Path, list[int]], None]
"""Writes an overlay anew: the new version, the old overlay, the new one, and the steps that changed."""

Placing = Callable[[], AbstractContextManager[None]]
"""What is entered while a version takes its place."""


@dataclass(frozen=True)
class Version:
    """One version of a run."""

    number: int
    """0 is the first run."""
    when: str
    """ISO 8601, in UTC; empty for the first."""
    marks: int
    """What was said for it."""
    frames: int
    """How many frames changed."""
    weights: str = ""
    """The name of the weights that tracked them, if not those of the run."""


def versions_of(folder: Path) -> list[Version]:
    """The versions of a run, oldest first; the last is the present one. Raises :class:`InputError`."""
    with as_written(folder / RECORD):
        entries = raw_record(folder).get("versions", [])
        return [Version(0, "", 0, 0), *map(_version, entries)]


def _version(entry: dict[str, Any]) -> Version:
    other = str(entry["weights"]["name"]) if "weights" in entry else ""
    return Version(int(entry["version"]), str(entry["when"]), int(entry["marks"]), int(entry["frames"]), other)


@dataclass(frozen=True)
class Said:
    """What a person said for a version."""

    marks: list[dict[str, Any]]
    """The new content of marks.json."""
    count: int
    """How many marks are new."""
    in_place: bool = False
    """Whether the images of the run itself were edited."""
    weights: dict[str, Any] | None = None
    """What follows from it was made by these, as run.json has them."""


class NextVersion:
    """The folder in which the next version of a run is made. Leave the block before :meth:`complete` to drop it.

    Raises :class:`~resurgsam2_cli.files.filling.Busy` while another program works on the run, and
    :class:`~resurgsam2_cli.errors.UserError`.
    """

    def __init__(self, folder: Path) -> None:
        self._filling: Filling = next_version(folder)
        self.folder, self.partial = self._filling.path, self._filling.partial
        try:
            self.number = versions_of(self.folder)[-1].number + 1
        except BaseException:
            self._filling.abandon()
            raise

    def __enter__(self) -> NextVersion:
        return self

    def __exit__(self, *error: Any) -> None:
        self._filling.__exit__(*error)

    def write(self, index: RunIndex, changes: Changes, said: Said, redraw: Redraw) -> dict[str, Any]:
        """Write what has changed, and what it takes to go back; returns the record for :meth:`complete`."""
        run, old, new = index.run, self.folder, self.partial
        steps = changes.steps()
        with writing(new, NEXT_ELSEWHERE):
            back = history_of(new, self.number)
            back.mkdir(parents=True)
            for name in (RECORD, MARKS):
                if (old / name).exists():
                    shutil.copyfile(old / name, back / name)
            with replacing(new / FRAMES) as path, path.open("wb") as file:
                index.write_frames(file, ((step, _line(index.frame(step), changes.at(step))) for step in steps))
            with replacing(new / ANNOTATIONS) as path, path.open("wb") as file:
                index.write_annotations(file, _annotations(index, changes))
            sums = {**run.sums, FRAMES: file_sum(new / FRAMES), ANNOTATIONS: file_sum(new / ANNOTATIONS)}
            trees = [x for x in (MASKS, OBJECTS) if (old / x).is_dir()]
            starts = {x: tree_sum(old / x) if said.in_place else run.sums.get(x, "0") for x in trees}
            is_demo = run.demo_weights or is_of_demo(said.weights)
            with RunIndex(replace(run, folder=new, demo_weights=is_demo)) as after:
                sums |= _write_images(index, after, changes, (new, back), starts, in_place=said.in_place)
                if (old / OVERLAY).exists():
                    redraw(after, old / OVERLAY, new / OVERLAY, steps)
            for name in LARGE:
                if (new / name).exists():
                    write_delta(new / name, old / name, back / f"{name}{DELTA}")
            write_json(new / MARKS, {"marks": said.marks})
            self._share()
        return self._record(run, steps, (starts, sums), said)

    def complete(self, record: dict[str, Any]) -> None:
        """Take the place of the version before, whose draft goes along as it is now."""
        with writing(self.partial, NEXT_ELSEWHERE):
            write_json(self.partial / RECORD, record)
            self._take_place()

    def _record(
        self, run: Run, steps: list[int], sums: tuple[dict[str, str], dict[str, str]], said: Said
    ) -> dict[str, Any]:
        record = raw_record(self.folder)
        record["objects"] += object_entries(run)[len(record["objects"]) :]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry: dict[str, Any] = {"version": self.number, "when": now, "marks": said.count, "frames": len(steps)}
        if said.weights is not None and not have_made(record, said.weights):
            entry["weights"] = said.weights
        if said.in_place:
            entry["edited"] = sums[0]  # what undo leads back to, unlike the sums of the version before
        objects = _summaries(record["objects"], self.partial / FRAMES)
        return {**record, "objects": objects, "sums": sums[1], "versions": [*record.get("versions", []), entry]}

    def check(self, run: Run) -> None:
        """Raise :class:`InputError` if a file that is copied from is gone, or was edited: the edits would get lost."""
        for name in (FRAMES, ANNOTATIONS):
            if not (run.folder / name).is_file():
                raise InputError(
                    f"{run.folder / name}: is missing, and corrections change it",
                    "put it back from a copy of the run, or segment the video again",
                )
            if name in run.sums and file_sum(run.folder / name) != run.sums[name]:
                raise _edited(
                    run.folder / name, f"{run.folder} --from COPY/{name}, with the original back in its place"
                )

    def undo(self, placing: Placing = nullcontext) -> None:
        """Write the version before the present one, byte for byte. Raises :class:`UsageError` if there is none.

        Images that were edited since go along as they are, unless this would write over one: then it is an error.
        """
        old, new = self.folder, self.partial
        back = history_of(old, self.number - 1)
        if self.number < 2:
            raise UsageError(f"{old}: there is nothing to undo", "see: resurgsam2 refine RUN --versions")
        edited = [x for x in corrections(old) if x not in (MARKS, DRAFT)]
        how = f"{old} --from {old}"
        if others := [x for x in edited if x not in (MASKS, OBJECTS)]:
            raise _edited(old / others[0], how)
        with writing(new, NEXT_ELSEWHERE):
            try:
                check_history(old, self.number - 1, edited=bool(edited))
            except InputError as error:
                if not edited:
                    raise
                raise _edited(old / edited[0], f"{how}; to drop them, delete the edited images") from error
            for name in LARGE:
                if (old / name).exists():  # whoever deletes the overlay can do without it
                    apply_delta(old / name, back / f"{name}{DELTA}", new / name)
            for name in (MASKS, OBJECTS):
                if (back / name).is_dir():
                    shutil.copytree(back / name, new / name)
            added = added_objects(raw_record(old), raw_record(back))
            if (back / MARKS).exists():
                shutil.copyfile(back / MARKS, new / MARKS)
            is_last = [x.name for x in (old / HISTORY).iterdir()] == [back.name]
            gone = HISTORY if is_last else f"{HISTORY}/{back.name}"
            self._share(gone, MARKS, *added)
            with replacing(new / RECORD) as path:
                shutil.copyfile(back / RECORD, path)
            with placing():
                self._take_place()

    def _share(self, *left_out: str) -> None:
        """Give what has not changed a place in the next version, too."""
        link_missing(self.folder, self.partial, {RECORD, DRAFT, UNFINISHED, SUCCEEDS, *left_out})

    def _take_place(self) -> None:
        with suppress(FileNotFoundError):
            shutil.copyfile(self.folder / DRAFT, self.partial / DRAFT)
        self._filling.complete()


def _edited(path: Path, how: str) -> InputError:
    return InputError(
        f"{path}: was edited since this program wrote it", f"take the edits first: resurgsam2 refine {how}"
    )


def _line(frame: RunFrame, changed: dict[int, Changed]) -> str:
    states = [changed[row].state if row in changed else state for row, state in enumerate(frame.states)]
    return frame_line(frame.number, frame.name, frame.time, states)


def _annotations(index: RunIndex, changes: Changes) -> Iterator[tuple[int, list[str]]]:
    """The annotations of changed frames. An object that had one keeps its id; new ones get ids above all others."""
    run, last = index.run, index.last_id
    categories = categories_of(x.label for x in run.objects)
    for step, changed in changes:
        with as_written(run.folder / ANNOTATIONS):
            items = {x["track_id"] - 1: x for x in index.annotations(step)}
        for row, x in changed.items():
            if x.counts is None:
                items.pop(row, None)
                continue
            if row not in items:
                last += 1
            entry = MaskEntry(
                {"size": [run.height, run.width], "counts": x.counts},
                x.state["area"],
                x.state["bbox"],
                row + 1,
                x.score,
            )
            ident = items[row]["id"] if row in items else last
            items[row] = annotation_entry(ident, step + 1, categories[run.objects[row].label], entry)
        yield step, [json.dumps(items[row], ensure_ascii=False) for row in sorted(items)]


def _write_images(
    before: RunIndex,
    after: RunIndex,
    changes: Changes,
    folders: tuple[Path, Path],
    starts: dict[str, str],
    *,
    in_place: bool,
) -> dict[str, str]:
    """Write the images of changed frames into the new version and its history.

    ``starts`` has the sums of their folders before; returns those after.
    """
    run, sums, (new, back) = before.run, {}, folders
    if (run.folder / MASKS).is_dir():
        total = TreeSum(starts[MASKS])
        (new / MASKS).mkdir()
        (back / MASKS).mkdir()
        for step, changed in changes:
            old, now = before.frame(step), after.frame(step)
            path = run.folder / MASKS / f"{old.name}.png"
            labels = _labels(path, run)
            if not in_place and is_drawn_over(labels, _masks(old, run)):
                raise _edited(path, f"{run.folder} --from {run.folder}")
            drawn = _redrawn(labels, old, now, changed, run)
            if not np.array_equal(drawn, labels):
                _replace(path.name, labels_png(drawn), (path.parent, new / MASKS, back / MASKS), total)
        sums[MASKS] = total.value()
    if (run.folder / OBJECTS).is_dir():
        total = TreeSum(starts[OBJECTS])
        new_rows = [x.id - 1 for x in run.objects if not (run.folder / OBJECTS / f"{x.id:03d}").is_dir()]
        for row in new_rows:
            _write_new_object(row, after, new / OBJECTS, total)
        for step, changed in changes:
            name = f"{before.frame(step).name}.png"
            own = _masks(before.frame(step), run)
            for row, x in changed.items():
                if row in new_rows:
                    continue
                mask = x.mask(run.height, run.width)
                path = run.folder / OBJECTS / f"{row + 1:03d}" / name
                was = own.get(row + 1, np.zeros_like(mask))
                if not in_place and not np.array_equal(_labels(path, run) > 0, was):
                    raise _edited(path, f"{run.folder} --from {run.folder}")
                _replace(
                    f"{row + 1:03d}/{name}",
                    mask_png(Image.fromarray(mask.view(np.uint8) * 255)),
                    tuple(x / OBJECTS for x in (run.folder, new, back)),
                    total,
                )
        sums[OBJECTS] = total.value()
    return sums


def _write_new_object(row: int, index: RunIndex, folder: Path, total: TreeSum) -> None:
    """The binary image of an object in every frame of a version that is the first to have it."""
    run, own = index.run, f"{row + 1:03d}"
    (folder / own).mkdir(parents=True)
    for step in range(len(index)):
        frame = index.frame(step)
        mask = _masks(frame, run).get(row + 1, np.zeros((run.height, run.width), bool))
        content, name = mask_png(Image.fromarray(mask.view(np.uint8) * 255)), f"{own}/{frame.name}.png"
        (folder / name).write_bytes(content)
        total.add(name, content)


def _labels(path: Path, run: Run) -> np.ndarray:
    labels = read_labels(path, "put the original back, or segment the video again")
    if labels.shape != (run.height, run.width):
        raise InputError(
            f"{path}: is {labels.shape[1]} x {labels.shape[0]}, the run {run.width} x {run.height}",
            "put the original back",
        )
    return labels


def _masks(frame: RunFrame, run: Run) -> dict[int, np.ndarray]:
    return {x.object_id: decoded(x.rle["counts"], (run.height, run.width)) for x in frame.masks}


def _redrawn(labels: np.ndarray, old: RunFrame, new: RunFrame, changed: dict[int, Changed], run: Run) -> np.ndarray:
    """The label image of a changed frame."""
    nothing = np.zeros((run.height, run.width), bool)
    before, after = (_masks(x, run) for x in (old, new))
    ids = sorted(before.keys() | after.keys())
    was = {x: before.get(x, nothing) for x in ids}
    now = {x: after.get(x, nothing.copy()) if x - 1 in changed else was[x] for x in ids}
    kept = {x["id"] for x in new.states if x["stage"] in KEPT}
    given = {row + 1 for row, x in changed.items() if x.state["stage"] in ("point", "drawn", "imported")}
    return redrawn(labels.astype(np.uint8), was, now, given, kept)


def _replace(name: str, content: bytes, folders: tuple[Path, ...], total: TreeSum) -> None:
    """Write an image of the new version, and keep the old one: ``folders`` are those of old, new and history."""
    old, new, back = (x / name for x in folders)
    before = old.read_bytes()
    for path, data in ((new, content), (back, before)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    total.replace(name, before, content)


def _summaries(objects: list[dict[str, Any]], frames: Path) -> list[dict[str, Any]]:
    """The objects of a record, with what frames.jsonl says of them now."""
    found = [{**x, "frames_present": 0, "first_present": None, "marks": 0} for x in objects]
    with frames.open(encoding="utf-8") as lines:
        for line in lines:
            frame = parse_json(line)
            for x, state in zip(found, frame["objects"], strict=True):
                if state["present"]:
                    x["frames_present"] += 1
                    x["first_present"] = frame["frame"] if x["first_present"] is None else x["first_present"]
                x["marks"] += state["stage"] in KEPT
    return found


def undo(folder: Path, placing: Placing = nullcontext) -> int:
    """Go back to the version before the present one; returns its number.

    ``placing`` is entered while that takes its place. Raises a :class:`~resurgsam2_cli.errors.UserError`.
    """
    with NextVersion(folder) as version:
        version.undo(placing)
    return version.number - 2
