"""What JSON and XML files have in common: images of a video by name, and shapes of objects by label and id."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from resurgsam2_cli.edits.index import Index, Shape
from resurgsam2_cli.edits.masks import ChangedMasks, OwnMasks, is_rounded, merged_counts
from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.rle import decoded
from resurgsam2_cli.files.text import composed, did_you_mean, one_line, shown, xml_text
from resurgsam2_cli.runs.reading import RunFrame
from resurgsam2_cli.runs.record import Run

_OF_CVAT = re.compile(r"frame_(\d{6,18})")
"""How CVAT names the frames of a video: by their numbers in it."""

_MOST_PARTS = 6  # of the path of a run, which exports join to a name

_MOST_PER_MASK = 64
"""Shapes that a file may have for each mask that a run can have, until it is taken for broken."""


def names_of(run: Run) -> set[str]:
    """The names, composed, that the folder of a run's frames may have: exports of several runs join those above it."""
    parts = os.path.realpath(run.folder).split(os.sep)[-_MOST_PARTS:]
    names = run.name, run.name.replace("/", "__"), *("__".join(parts[first:]) for first in range(len(parts)))
    return {composed(x) for x in names}


def folder_of_run(folders: list[str], run: Run, where: str) -> str:
    """Which of the folders of a file's images is that of the run; empty if the images have none.

    A folder is the run's if it is the end of the path of the run, or if its last part is the name of the run and no
    other's is. Raises :class:`InputError`.
    """
    if folders == [""]:
        return ""
    names, path = names_of(run), composed(os.path.realpath(run.folder)).split(os.sep)
    parts = {x: composed(x).split("/") for x in folders if x}
    same = [x for x in parts if composed(x) == composed(run.name) or path[-len(parts[x]) :] == parts[x]]
    likely = [max(same, key=len)] if same else [x for x in parts if composed(x) in names or parts[x][-1] in names]
    if len(likely) == 1:
        return likely[0]
    shown = ", ".join(one_line(x) or "no folder" for x in folders[:5]) or "none"
    if likely:
        raise InputError(
            f"{where}: has several videos that may be {run.name} ({', '.join(map(one_line, likely[:5]))})",
            "export this run alone, and correct that",
        )
    raise InputError(
        f"{where}: has no image of {run.name}; the folders of its images are: {shown}",
        f"images are named by the run and the frame, such as {run.name}/00000.png; if the run was renamed since then,"
        " give it its old name",
    )


def split_name(name: str) -> tuple[str, str]:
    """The folder and the file name without its ending of an image."""
    folder, _, file = name.replace("\\", "/").rpartition("/")
    stem, dot, ending = file.rpartition(".")
    return folder, stem if dot and re.fullmatch("[A-Za-z]{3,4}", ending) else file


def place_images(index: Index, where: str) -> str:
    """Find out which frame each listed image of the run is; returns their folder. Raises :class:`InputError`."""
    run = index.run
    folder = folder_of_run(index.folders(), run, where)
    for x in index.listed_in(folder):
        image = one_line(f"{folder}/{x.stem}".lstrip("/"))
        frame = index.frame_named(x.stem)
        if frame is None and (of_video := _OF_CVAT.fullmatch(x.stem)):
            frame = index.frame_numbered(int(of_video[1]))
            if frame is None:
                # A task made of the whole video lists all of its frames: only what is drawn there is too much.
                index.place_nowhere(x.key)
                continue
        if frame is None or (x.number is not None and x.number != frame):
            why = "no frame with this name" if frame is None else f"frame {frame} under this name, not {x.number}"
            raise InputError(
                f"{where}: lists the image {image}, and {run.name} has {why}",
                f"its frames are named as its images are, such as {index.any_name()}",
            )
        if x.size not in ("", size_text(run.width, run.height)):
            raise InputError(
                f"{where}: the image {image} is {x.size} pixels, and {run.name} is {run.width} x {run.height}",
                "masks are drawn on frames in their full size",
            )
        if not index.place_image(x.key, frame):
            raise InputError(f"{where}: lists frame {frame} twice ({image})", "keep one of the two images")
    return folder


def id_of(value: Any) -> int | None:
    """An id that other programs may have turned into text or a fraction; None if it is none."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}(\.0*)?", value.strip()):
        value = float(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**31 and value == int(value):
        return int(value)
    return None


def size_text(width: Any, height: Any) -> str:
    """A size as the index has it; empty if one side is not there."""
    if width is None or height is None:
        return ""
    return " x ".join(shown(x) if (number := id_of(x)) is None else str(number) for x in (width, height))


class ShapeEdits:
    """What a JSON or XML file shows of a run, once it has been read into an index."""

    def __init__(self, index: Index, where: str, *, several: bool, labels: Collection[str] | None = None) -> None:
        """``several``: whether the file has other videos, too. Raises :class:`InputError` for what the run lacks.

        ``labels`` are those that the file lists, if it does: about an object of another label it says nothing, as
        whoever exports a part of the objects does not remove the others.
        """
        self._index, self._where, self._run, self._several = index, where, index.run, several
        listed = None if labels is None else {_plain(x) for x in labels}
        self._silent_about = (
            [] if listed is None else [x.id for x in index.run.objects if _plain(x.label) not in listed]
        )
        self.not_listed: set[int] = set()
        """The objects that the run shows in a frame of the file, which does not list their labels."""
        self._objects = self._resolved(list(index.names_of_objects()))

    def object_of(self, label: str, track: int | None, origin: str) -> int:
        """The object of a label: by it alone if the run has it once, else by ``track``. Raises :class:`InputError`."""
        ids = self._labelled(label, origin)
        if len(ids) == 1:
            return ids[0]
        if track is not None and not self._several and track in ids:
            return track
        raise InputError(
            f"{origin}: {self._run.name} has {len(ids)} objects called {label!r}, and track_id"
            f" {'is missing' if track is None else f'{track} is none of theirs'}",
            f"their ids are {', '.join(map(str, ids))}: write the right one into track_id",
        )

    def _labelled(self, label: str, origin: str) -> list[int]:
        ids = [x.id for x in self._run.objects if _plain(x.label) == _plain(label)]
        if not ids:
            labels = list(dict.fromkeys(x.label for x in self._run.objects))
            raise InputError(
                f"{origin}: {self._run.name} has no object called {one_line(label)!r}",
                f"{did_you_mean(label, labels)}it has: {', '.join(labels)}",
            )
        return ids

    def _resolved(self, found: list[tuple[str, int | None, str]]) -> dict[tuple[str, int | None], int]:
        """The object of each label with each id.

        Ids of an export count through all of its runs, so those of several objects with one label are told apart by
        their order, if all of these objects are there.
        """
        table: dict[tuple[str, int | None], int] = {}
        tracks_of: dict[str, set[int]] = {}
        for label, track, _ in found:
            if track is not None:
                tracks_of.setdefault(_plain(label), set()).add(track)
        for label, track, origin in found:
            ids, tracks = self._labelled(label, origin), tracks_of.get(_plain(label), set())
            if self._several and len(ids) > 1 and track is not None and len(tracks) == len(ids):
                table[label, track] = ids[sorted(tracks).index(track)]
            elif self._several and len(ids) > 1:
                raise InputError(
                    f"{origin}: is one of {len(ids)} objects called {label!r}, and in a file of several videos nothing"
                    " tells which",
                    "export this run alone, and correct that",
                )
            else:
                table[label, track] = self.object_of(label, track, origin)
        return table

    def at(self, frame: RunFrame, own: OwnMasks) -> ChangedMasks:
        """The masks in a frame that differ from the run's. Raises :class:`InputError`."""
        stated: dict[int, Shape] = {}
        for x in self._index.shapes(frame.number):
            object_id = self._objects[x.label, x.track]
            stated[object_id] = self._joined(stated[object_id], x, frame, own) if object_id in stated else x
        changes: ChangedMasks = {}
        for object_id, x in stated.items():
            counts = own.counts(object_id)
            if x.counts == counts:
                continue
            mask = decoded(x.counts, own.shape)
            bordered = [decoded(x.bordered, own.shape)] if x.bordered else []
            if not any(is_rounded(y, own.mask(object_id)) for y in (mask, *bordered) if bordered):
                changes |= own.changes({object_id: mask})
        for object_id in self._absent(frame):
            if object_id in stated or own.counts(object_id) is None:
                continue
            if object_id in self._silent_about:
                self.not_listed.add(object_id)
            else:
                changes[object_id] = np.zeros(own.shape, bool)
        return changes

    def _absent(self, frame: RunFrame) -> list[int]:
        """The objects that are absent in a frame unless a shape shows them there."""
        return [x.id for x in self._run.objects] if self._index.is_covered(frame.number) else []

    def _joined(self, one: Shape, other: Shape, frame: RunFrame, own: OwnMasks) -> Shape:
        if not one.joined or one.joined != other.joined:
            raise InputError(
                f"{other.origin}: frame {frame.number} has this object twice ({one.origin.rpartition(': ')[2]})",
                "keep one, make them one mask, or give both the same group in CVAT",
            )
        counts = merged_counts([one.counts, other.counts], own.shape)
        borders = [x.bordered or x.counts for x in (one, other)]
        bordered = merged_counts(borders, own.shape) if one.bordered or other.bordered else ""
        return Shape(one.label, one.track, one.joined, counts, bordered, one.origin)


def _plain(label: str) -> str:
    """A label as formats keep it: XML lacks some characters, and readers change spaces."""
    return composed(xml_text(one_line(label)))


class Room:
    """Counts the shapes of a file, and refuses one that has more than any run needs."""

    def __init__(self, run: Run, where: str) -> None:
        self._left = _MOST_PER_MASK * run.frames * len(run.objects)
        self._where = where

    def take(self) -> None:
        """Count a shape. Raises :class:`InputError`."""
        self._left -= 1
        if self._left < 0:
            raise InputError(f"{self._where}: has far more shapes than the run has masks", "export it again")


def rings_of(values: Any) -> Iterator[list[float]]:
    """The rings of a COCO polygon, every number checked. Raises ``ValueError``."""
    for ring in values:
        numbers = isinstance(ring, list) and all(type(x) in (int, float) and abs(x) < 1e9 for x in ring)
        if not numbers:
            raise ValueError("a polygon that is not a list of numbers")
        yield ring
