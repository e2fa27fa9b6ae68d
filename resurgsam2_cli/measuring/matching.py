"""Which prediction is measured against which truth.

Predictions are runs of this program, or PNG trees in the DAVIS layout (``<video>/<frame>.png``, pixel = object id) or
the SA-V one (``<video>/<object>/<frame>.png``, one image per object), also as ``export`` writes them. The truth is a
PNG tree of either kind, or a data set in the layout of Ref-EndoVis: ``Annotations/<video>/<frame>.png`` with
``meta_expressions.json`` beside.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.text import did_you_mean, one_line, shown
from resurgsam2_cli.prompts.expressions import EXPRESSIONS, read_expressions
from resurgsam2_cli.runs.find import EXPORT_RECORD, find_runs, has_runs, read_export_record


@dataclass(frozen=True)
class Truth:
    """A data set's annotations."""

    folder: Path
    """Holds a folder per video."""
    expressions: dict[str, dict[str, list[int]]]
    """Object ids of each text, by video; empty without ``meta_expressions.json``."""

    @staticmethod
    def find(path: Path) -> Truth:
        """Raises :class:`InputError` if ``path`` holds no annotations."""
        if not os.path.isdir(path):
            raise InputError(f"{path}: no such folder", "give the folder of a data set, or of its annotations")
        folder = path / "Annotations" if (path / "Annotations").is_dir() else path
        if not any(x.is_dir() for x in folder.iterdir()):
            raise InputError(f"{folder}: holds no folder of a video", "give the folder that holds Annotations/")
        for place in (path, path.parent):
            if (place / EXPRESSIONS).is_file():
                return Truth(folder, _object_ids(place / EXPRESSIONS))
        return Truth(folder, {})

    def videos(self) -> list[str]:
        """Names of the videos."""
        return sorted(x.name for x in self.folder.iterdir() if x.is_dir())


def _object_ids(path: Path) -> dict[str, dict[str, list[int]]]:
    table: dict[str, dict[str, list[int]]] = {}
    for video, expressions in read_expressions(path).items():
        texts = table.setdefault(video, {})
        for x in expressions:
            if x.object_id is None:
                raise InputError(
                    f"{path}: {x.text!r} of {video} has no obj_id",
                    "add it: it says which pixel value of the annotations is meant",
                )
            ids = texts.setdefault(x.text, [])
            if x.object_id not in ids:
                ids.append(x.object_id)
    return table


@dataclass(frozen=True)
class PredictedObject:
    """An object of a prediction, with its prompt."""

    id: int
    text: str


@dataclass(frozen=True)
class VideoPrediction:
    """The masks of one video."""

    folder: Path
    is_run: bool
    objects: tuple[PredictedObject, ...] | None
    """None if the ids are those of the truth."""


@dataclass(frozen=True)
class Pair:
    """One object of a prediction, and the object of the truth that it is measured against."""

    predicted: int
    true: int
    text: str


@dataclass(frozen=True)
class Task:
    """One video to measure."""

    video: str
    truth: Path
    prediction: VideoPrediction
    pairs: tuple[Pair, ...] | None
    """None: every object of the truth, by its id."""
    all_frames: bool
    skip_missing: bool


def match(predictions: Path, truth: Truth, *, all_frames: bool, skip_missing: bool) -> list[Task]:
    """A task for each video of the truth that has a prediction. Raises :class:`InputError`."""
    found = _predictions(predictions)
    videos = truth.videos()
    common = [name for name in videos if name in found]
    if not common:
        raise InputError(
            f"{predictions}: has no video of {truth.folder}", f"folders are matched by name, such as {videos[0]!r}"
        )
    if not skip_missing and len(common) < len(videos):
        missing = [name for name in videos if name not in found]
        raise InputError(
            f"{predictions}: {len(missing)} of {len(videos)} videos have no prediction, such as {missing[0]!r}",
            "add --skip-missing to measure the others alone",
        )
    return [
        Task(
            name,
            truth.folder / name,
            found[name],
            _pairs(found[name], truth.expressions.get(name)),
            all_frames,
            skip_missing,
        )
        for name in common
    ]


def _predictions(folder: Path) -> dict[str, VideoPrediction]:
    """Predictions by video name: what an export wrote, else finished runs at any depth, else folders of PNGs."""
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder", "give a folder of runs, or of PNG masks")
    if (folder / EXPORT_RECORD).is_file():
        found = list(_exported(folder))
    elif has_runs(folder):
        found = [
            (
                run.folder.name,
                VideoPrediction(run.folder, True, tuple(PredictedObject(x.id, x.text) for x in run.objects)),
            )
            for run in find_runs([folder])[0]
        ]
    else:
        found = [(x.name, VideoPrediction(x, False, None)) for x in sorted(folder.iterdir()) if x.is_dir()]
    table: dict[str, VideoPrediction] = {}
    for name, prediction in found:
        if name in table:
            both = f"{table[name].folder}, {prediction.folder}"
            raise InputError(f"{folder}: has two predictions of {name!r}", f"leave one out: {both}")
        table[name] = prediction
    return table


def _exported(folder: Path) -> Iterator[tuple[str, VideoPrediction]]:
    """The videos that ``export`` wrote, with their prompts, by their names without folders."""
    record = read_export_record(folder)
    try:
        if record["format"] not in ("davis", "sav"):
            what = one_line(str(record["format"]))
            raise InputError(f"{folder}: is an export as {what}", "evaluate the runs, or export as sav")
        for x in record["videos"]:
            split = folder / x.get("split", "")
            masks = split / "Annotations" if (split / "Annotations").is_dir() else split
            objects = tuple(_object(y) for y in x["objects"])
            if not (masks / x["folder_name"]).is_dir():
                raise ValueError(f"{shown(x['folder_name'])} is not there")
            yield x["name"].split("/")[-1], VideoPrediction(masks / x["folder_name"], False, objects)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / EXPORT_RECORD}: is not the record of an export", "export again") from error


def _object(entry: dict[str, Any]) -> PredictedObject:
    number, text = entry["id"], entry["text"]
    if not isinstance(number, int) or not isinstance(text, str):
        raise ValueError(f"{shown(entry)} is not an object")
    return PredictedObject(number, text)


def _pairs(prediction: VideoPrediction, expressions: dict[str, list[int]] | None) -> tuple[Pair, ...] | None:
    """What each prompt is measured against: the objects that its text names, else the one of its number."""
    if prediction.objects is None:
        return None
    pairs = []
    for x in prediction.objects:
        if expressions is not None and x.text not in expressions:
            raise InputError(
                f"{prediction.folder}: the data set has no expression {x.text!r} for this video",
                f"{did_you_mean(x.text, expressions)}"
                "run the data set's own expressions: resurgsam2 batch --prompts meta_expressions.json",
            )
        pairs += [Pair(x.id, true, x.text) for true in (expressions[x.text] if expressions else [x.id])]
    return tuple(pairs)
