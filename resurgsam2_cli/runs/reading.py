"""The frames of a finished run, one at a time, every field checked."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from pycocotools import mask as coco_mask

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.json_list import read_lists
from resurgsam2_cli.files.rle import check_rles
from resurgsam2_cli.files.text import is_name, parse_json, shown
from resurgsam2_cli.runs.record import ANNOTATIONS, FRAMES, RECORD, Run, as_written

_LONGEST = 2**24
"""Characters of a line of frames.jsonl. A frame with the most objects that a run may have takes far fewer."""


_TOGETHER = 128
"""Masks that are checked at once."""


@dataclass(frozen=True, slots=True)
class RunMask:
    """One object in one frame, as annotations.json has it."""

    object_id: int
    rle: dict[str, Any]
    """Compressed, ``counts`` as an ASCII string."""
    area: float
    box: list[float]
    """[x, y, width, height]"""
    score: float


@dataclass(frozen=True, slots=True)
class RunFrame:
    """One processed frame."""

    number: int
    """The frame's number in the source."""
    name: str
    """The name of its images in ``masks/`` and ``objects/``."""
    time: float
    """Seconds, from frames.jsonl."""
    states: list[dict[str, Any]]
    """The objects in the frame's line of frames.jsonl."""
    masks: list[RunMask]
    """The objects that are there; they may overlap."""


def check_files(run: Run) -> None:
    """Raise :class:`InputError` if a file that holds the masks of a run is missing."""
    if not (run.folder / ANNOTATIONS).is_file():
        why = "" if "coco" in run.outputs or not run.outputs else ": the run was made with --no-coco"
        raise InputError(
            f"{run.folder / ANNOTATIONS}: is missing{why}",
            "the masks come from it: segment the video again with --coco --overwrite",
        )
    if not (run.folder / FRAMES).is_file():
        raise InputError(f"{run.folder / FRAMES}: is missing", "segment the video again with --overwrite")


def read_states(run: Run) -> Iterator[tuple[int, str, float, list[dict[str, Any]]]]:
    """Number, name, time and object states of each processed frame, in order. Raises :class:`InputError`."""
    path = run.folder / FRAMES
    last, count = -1, 0
    with as_written(path), path.open(encoding="utf-8") as lines:
        for line in _lines(lines):
            number, name, time, states = read_line(run, line)
            if number <= last:
                raise ValueError(f"frame {number} after {last}")
            last, count = number, count + 1
            yield number, name, time, states
        if count != run.frames:
            raise ValueError(f"it has {count} frames, {RECORD} says {run.frames}")


def read_line(run: Run, line: str) -> tuple[int, str, float, list[dict[str, Any]]]:
    """Number, name, time and object states of a frame, from its line of frames.jsonl.

    Raises ``ValueError``, ``KeyError`` and the like.
    """
    frame = parse_json(line)
    number, time, states = frame["frame"], frame["time"], frame["objects"]
    if not _is_whole(number):
        raise ValueError(f"frame {shown(number)}")
    name = frame.get("name", f"{number:05d}")  # older versions named images by number alone
    if not is_name(name):
        raise ValueError(f"frame {number} is called {shown(name)}")
    if not _is_number(time):
        raise ValueError(f"frame {number} has the time {shown(time)}")
    if [x["id"] for x in states] != [x.id for x in run.objects]:
        raise ValueError(f"frame {number} does not have the objects of {RECORD}")
    for state in states:
        _check_state(number, state)
    return number, name, float(time), states


def _lines(file: IO[str]) -> Iterator[str]:
    while line := file.readline(_LONGEST):
        if len(line) == _LONGEST:
            raise ValueError("a line in it has no end")
        yield line


def _check_state(number: int, state: dict[str, Any]) -> None:
    numbers = _is_number(state["object_score"]) and _is_number(state["predicted_iou"])
    if not numbers or not isinstance(state["stage"], str) or not isinstance(state["present"], bool):
        raise ValueError(f"frame {number} has the object {shown(state)}")


def read_frames(run: Run) -> Iterator[RunFrame]:
    """The processed frames in order, one at a time, with their masks. Raises :class:`InputError`."""
    annotations = _annotations(run)
    none = (0, 0, None)
    image, frame, mask = next(annotations, none)
    position = 0
    for position, (number, name, time, states) in enumerate(read_states(run), start=1):
        masks = []
        while mask is not None and image == position:
            with as_written(run.folder / FRAMES):
                if frame != number:
                    raise ValueError(f"frame {number} stands where {ANNOTATIONS} has {frame}")
            masks.append(mask)
            image, frame, mask = next(annotations, none)
        yield RunFrame(number, name, time, states, masks)
    with as_written(run.folder / ANNOTATIONS):
        if mask is not None:
            raise ValueError(f"image {image} of {position}")


@dataclass(frozen=True, slots=True)
class _Placed:
    image: int
    """Counts the frames from 1."""
    number: int
    item: dict[str, Any]


def _annotations(run: Run) -> Iterator[tuple[int, int, RunMask]]:
    """Each mask with the id of its image and the number of its frame."""
    with as_written(run.folder / ANNOTATIONS):
        placed = _placed(run)
        while several := list(itertools.islice(placed, _TOGETHER)):
            for x, mask in zip(several, masks_of(run, [x.item for x in several]), strict=True):
                yield x.image, x.number, mask


def _placed(run: Run) -> Iterator[_Placed]:
    """The annotations in order, each with the frame that it belongs to. Raises ``ValueError`` and the like."""
    known = {x.id for x in run.objects}
    numbers = array("q")  # numbers in the source, by image id: eight bytes per frame
    last, here = 0, set[int]()
    for key, item in read_lists(run.folder / ANNOTATIONS):
        if key == "annotations":
            image, object_id = item["image_id"], item["track_id"]
            if not _is_whole(image) or not max(last, 1) <= image <= len(numbers):
                raise ValueError(f"image {shown(image)} after {last}, of {len(numbers)}")
            if not _is_whole(object_id) or object_id not in known:
                raise ValueError(f"{RECORD} has no object {shown(object_id)}")
            if image == last and object_id in here:
                raise ValueError(f"image {image} has object {object_id} twice")
            here = {object_id} | (here if image == last else set())
            last = image
            yield _Placed(image, numbers[image - 1], item)
        elif key == "images":
            if not _is_whole(item["frame_index"]):
                raise ValueError(f"frame {shown(item['frame_index'])}")
            numbers.append(item["frame_index"])
            if item["id"] != len(numbers):
                raise ValueError(f"image {shown(item['id'])} is number {len(numbers)}")


def masks_of(run: Run, items: list[dict[str, Any]]) -> Iterator[RunMask]:
    """The masks of annotations, checked together: one by one that would take longer than reading them.

    Raises ``ValueError``, ``KeyError`` and the like.
    """
    if not items:
        return
    check_rles([x["segmentation"] for x in items], run.height, run.width)
    rles = [{"size": [run.height, run.width], "counts": x["segmentation"]["counts"]} for x in items]
    # Formats with polygons or boxes cut the mask out by its box: the two must agree.
    areas, boxes = coco_mask.area(rles).tolist(), coco_mask.toBbox(rles).tolist()
    for item, rle, area, box in zip(items, rles, areas, boxes, strict=True):
        if not _is_number(item["score"]):
            raise ValueError(f"a mask with the score {shown(item['score'])}")
        if not area or item["area"] != area or item["bbox"] != box:
            found = f"area {shown(item['area'])} and box {shown(item['bbox'])}"
            raise ValueError(f"a mask with {found}, not {area} and {box}")
        yield RunMask(item["track_id"], rle, float(area), box, item["score"])


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
