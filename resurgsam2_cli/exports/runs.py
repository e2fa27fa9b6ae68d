"""Finished runs as exports see them: found in folders, read frame by frame."""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Any

from resurgsam2_cli.errors import InputError, UsageError
from resurgsam2_cli.outputs.json_list import read_lists
from resurgsam2_cli.run_folder import RECORD, UNFINISHED, read_record
from resurgsam2_cli.video.source import Frame, Part, Position, Source, open_source, readable

ANNOTATIONS = "annotations.json"
FRAMES = "frames.jsonl"
EXPORT_RECORD = "export.json"
"""In the folder of an export: what it holds, and that it is ours."""


@dataclass(frozen=True)
class RunObject:
    """An object that was asked for."""

    id: int
    text: str
    label: str
    color: tuple[int, int, int]
    """RGB in the run's overlay."""


@dataclass(frozen=True)
class Run:
    """A finished run, without its frames."""

    folder: Path
    name: str
    """Unique among the runs of an export; its parts, joined by ``/``, mirror the folders."""
    source: str
    """The video's path when it was segmented; ``-`` for standard input."""
    identity: dict[str, int]
    """Size of the video then: another one is another video."""
    height: int
    width: int
    rate: Fraction
    """Frames per second of the source."""
    frames: int
    """That were processed."""
    part: Part
    """Of the source that was processed."""
    objects: tuple[RunObject, ...]


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
    """In the source."""
    time: float
    """Seconds, from frames.jsonl."""
    states: list[dict[str, Any]]
    """``objects`` of the frame's line in frames.jsonl."""
    masks: list[RunMask]
    """Of the objects that are there; they may overlap."""


def find_runs(paths: list[Path]) -> tuple[list[Run], int]:
    """The finished runs in ``paths``, in order, and how many unfinished ones were left out.

    A path is a run's folder, or a folder that holds such at any depth. A run is named by its path below the one that
    was given; where two would have one name, all are named by their path below the common parent. Raises
    :class:`InputError` where a path holds none.
    """
    found: dict[Path, str] = {}
    unfinished = 0
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such folder", "name the folder of a run, or one that holds runs")
        if not path.is_dir():
            raise InputError(f"{path}: is no folder", "name the folder of a run, or one that holds runs")
        folders, left_out = _walk(path)
        unfinished += left_out
        if not folders:
            why = f"the {left_out} there did not finish" if left_out else "no run.json in it or below"
            raise InputError(f"{path}: holds no finished run ({why})", "make one: resurgsam2 segment ... -o FOLDER")
        for folder in folders:
            whole = folder.resolve()
            name = whole.name if folder == path else folder.relative_to(path).as_posix()
            found.setdefault(whole, readable(name))
    if max(Counter(found.values()).values()) > 1:
        parent = Path(os.path.commonpath([folder.parent for folder in found]))
        found = {folder: readable(folder.relative_to(parent).as_posix()) for folder in found}
    return [_run(folder, name) for folder, name in found.items()], unfinished


def _walk(top: Path) -> tuple[list[Path], int]:
    """Folders of finished runs at and below ``top`` in order of their names, and the number of unfinished ones."""
    folders, unfinished = [], 0
    for here, below, files in os.walk(top):
        folder = Path(here)
        if UNFINISHED in files:
            unfinished += RECORD in files or FRAMES in files
            below.clear()
        elif RECORD in files:
            if read_record(folder) is None:
                unfinished += 1
            elif not _is_replaced(folder):
                folders.append(folder)
            below.clear()
        elif EXPORT_RECORD in files:
            below.clear()  # an export among the runs: many files, none of them a run
        below.sort()
    return folders, unfinished


def _is_replaced(folder: Path) -> bool:
    """Whether a newer run took this one's place, and only its removal is still to come."""
    return folder.name.endswith(".replaced") and read_record(folder.with_name(folder.name[:-9])) is not None


def _run(folder: Path, name: str) -> Run:
    record = read_record(folder) or {}
    with _as_written(folder / RECORD):
        source, settings = record["source"], record["settings"]
        end = settings["end"]
        return Run(
            folder=folder,
            name=name,
            source=str(source["path"]),
            identity={key: int(source[key]) for key in ("size", "files") if key in source},
            height=int(source["height"]),
            width=int(source["width"]),
            rate=Fraction(source["frame_rate"]),
            frames=int(source["frames"]),
            part=Part(
                Position.parse(settings["start"]),
                None if end is None else Position.parse(end),
                int(settings["stride"]),
            ),
            objects=tuple(
                RunObject(int(x["id"]), str(x["text"]), str(x["label"]), parse_color(x["color"]))
                for x in record["objects"]
            ),
        )


def parse_color(text: str) -> tuple[int, int, int]:
    """``#rrggbb`` as RGB. Raises ``ValueError``."""
    value = bytes.fromhex(text.removeprefix("#"))
    if len(value) != 3:
        raise ValueError(f"{text!r} is not #rrggbb")
    return value[0], value[1], value[2]


@contextmanager
def _as_written(path: Path) -> Iterator[None]:
    """Turn what can be wrong with a file of a run into :class:`InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})", "segment the video again") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, UsageError, ZeroDivisionError) as error:
        cause = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(
            f"{path}: is not as this program wrote it ({cause})", "segment the video again, or leave this run out"
        ) from error


def check_files(run: Run) -> None:
    """Raises :class:`InputError` where a file that every export needs is missing."""
    if not (run.folder / ANNOTATIONS).is_file():
        outputs = ((read_record(run.folder) or {}).get("settings") or {}).get("outputs", ["coco"])
        why = "" if "coco" in outputs else ": the run was made with --no-coco"
        raise InputError(
            f"{run.folder / ANNOTATIONS}: is missing{why}",
            "the masks come from it: segment the video again with --coco --overwrite",
        )
    if not (run.folder / FRAMES).is_file():
        raise InputError(f"{run.folder / FRAMES}: is missing", "segment the video again with --overwrite")


def read_frames(run: Run) -> Iterator[RunFrame]:
    """The processed frames in order, one at a time. Raises :class:`InputError`."""
    annotations = _annotations(run)
    image, mask = next(annotations, (0, None))
    position = 0
    path = run.folder / FRAMES
    with _as_written(path), path.open(encoding="utf-8") as lines:
        for position, line in enumerate(lines, start=1):
            state = json.loads(line)
            masks = []
            while mask is not None and image == position:
                if mask.number != state["frame"]:
                    raise ValueError(f"frame {state['frame']} stands where {ANNOTATIONS} has {mask.number}")
                masks.append(mask.mask)
                image, mask = next(annotations, (0, None))
            yield RunFrame(state["frame"], state["time"], state["objects"], masks)
        if mask is not None or position != run.frames:
            raise ValueError(f"it has {position} frames, {RECORD} says {run.frames}")


@dataclass(frozen=True, slots=True)
class _Placed:
    number: int
    mask: RunMask


def _annotations(run: Run) -> Iterator[tuple[int, _Placed]]:
    """Each mask with the id of its image, which counts the frames from 1."""
    path = run.folder / ANNOTATIONS
    known = {x.id for x in run.objects}
    numbers = array("q")  # of the frames in the source, by image id: eight bytes a frame
    last = 0
    with _as_written(path):
        for key, item in read_lists(path):
            if key == "annotations":
                image, object_id = item["image_id"], item["track_id"]
                if not last <= image <= len(numbers):
                    raise ValueError(f"image {image} after {last}, of {len(numbers)}")
                if object_id not in known:
                    raise ValueError(f"{RECORD} has no object {object_id}")
                last = image
                rle = item["segmentation"]
                if rle["size"] != [run.height, run.width]:
                    raise ValueError(f"a mask of size {rle['size']}, not {[run.height, run.width]}")
                mask = RunMask(object_id, rle, item["area"], item["bbox"], item["score"])
                yield image, _Placed(numbers[image - 1], mask)
            elif key == "images":
                numbers.append(item["frame_index"])
                if item["id"] != len(numbers):
                    raise ValueError(f"image {item['id']} is number {len(numbers)}")


@contextmanager
def opened_source(run: Run, sources: Path | None) -> Iterator[Source]:
    """The video of a run, where it was or below the folder ``sources``.

    Raises :class:`InputError` where it is gone, or another one than then.
    """
    if run.source == "-":
        raise InputError(
            f"{run.name}: its video came from standard input and was not kept",
            "export without its pictures: no --frames, no overlay",
        )
    path = run.source if sources is None else _below(sources, run.source)
    if not os.path.exists(path):
        raise InputError(
            f"{path}: the video of {run.name} is not there any more",
            "name the folder where the videos are now: --sources FOLDER",
        )
    with open_source(path, run.rate if os.path.isdir(path) else None) as source:
        now = source.identity()
        if any(now.get(key) != value for key, value in run.identity.items()):
            raise InputError(
                f"{path}: is not the video that {run.name} was made of (its size has changed)",
                "segment it again, or name the folder of the right one: --sources FOLDER",
            )
        yield source


def _below(sources: Path, recorded: str) -> str:
    """The recorded path below another folder: as many of its last parts as are found there."""
    if not sources.is_dir():
        raise InputError(f"{sources}: no such folder", "--sources names the folder where the videos are now")
    parts = PurePath(recorded).parts[1:]
    for first in range(len(parts)):
        path = sources.joinpath(*parts[first:])
        if path.exists():
            return str(path)
    raise InputError(f"{sources}: has no {parts[-1]}", f"the video was {recorded}; --sources names where it is now")


def source_frames(run: Run, source: Source, every: int) -> Iterator[Frame]:
    """The pictures of each ``every``-th processed frame. Raises :class:`InputError`."""
    part = Part(run.part.start, run.part.end, run.part.stride * every)
    for frame in source.frames(part):
        if frame.rgb.shape[:2] != (run.height, run.width):
            raise InputError(
                f"{source.path}: is {frame.rgb.shape[1]} x {frame.rgb.shape[0]}, but the masks of {run.name} are"
                f" {run.width} x {run.height}",
                "segment it again",
            )
        yield frame
