"""Measures masks against a data set: J, F, J&F and Dice of each object, video, group, and overall.

Predictions are runs of this program, or PNG trees in the DAVIS layout (``<video>/<frame>.png``, pixel = object id) or
the SA-V one (``<video>/<object>/<frame>.png``, one image an object), also as ``export`` writes them. The truth is a PNG
tree of either kind, or a data set in the layout of Ref-EndoVis: ``Annotations/<video>/<frame>.png`` with
``meta_expressions.json`` beside.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as coco_mask

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.exports.runs import EXPORT_RECORD
from resurgsam2_cli.metrics import contour_accuracy, dice, region_similarity
from resurgsam2_cli.run_folder import read_record, writing

Labels = NDArray[np.integer]
Masks = NDArray[np.bool_]

_TOOLS = tuple(range(1, 11))
GROUPS: dict[str, dict[str, tuple[int, ...]]] = {
    "ref-endovis17": {"tools": _TOOLS},
    "ref-endovis18": {"tools": _TOOLS, "tissue": (11, 12, 17)},
}
"""Object ids of the groups that the published figures are of, by data set."""


@dataclass(frozen=True)
class Score:
    """The measures of one object of one video, or the mean over several; each from 0 to 100."""

    video: str
    object: str
    """Its id in the truth; empty for a mean."""
    text: str
    """The prompt, where there was one."""
    j: float
    f: float
    dice: float
    absent_empty: float | None
    """Share of the frames without the object in which the prediction is empty, too; None where it is always there."""
    frames: int

    @property
    def j_and_f(self) -> float:
        """The mean of J and F."""
        return (self.j + self.f) / 2


@dataclass(frozen=True)
class Evaluation:
    """The scores of all objects, and their means."""

    objects: list[Score]
    videos: list[Score]
    groups: dict[str, Score]
    overall: Score
    all_frames: bool

    def record(self) -> dict[str, Any]:
        """As plain JSON types."""

        def row(score: Score) -> dict[str, Any]:
            return {**asdict(score), "j_and_f": score.j_and_f}

        return {
            "all_frames": self.all_frames,
            "overall": row(self.overall),
            "groups": {name: row(score) for name, score in self.groups.items()},
            "videos": [row(score) for score in self.videos],
            "objects": [row(score) for score in self.objects],
        }

    def write_csv(self, path: Path) -> None:
        """A line an object, then one a video, a group, and overall."""
        with writing(path), path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["level", "video", "object", "text", "J&F", "J", "F", "Dice", "absent_empty", "frames"])
            levels = (
                ("object", self.objects),
                ("video", self.videos),
                ("group", list(self.groups.values())),
                ("overall", [self.overall]),
            )
            for level, scores in levels:
                for x in scores:
                    numbers = (x.j_and_f, x.j, x.f, x.dice, x.absent_empty)
                    cells = ["" if value is None else f"{value:.4f}" for value in numbers]
                    table.writerow([level, x.video, x.object, x.text, *cells, x.frames])


# --- What is there --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """A data set's annotations."""

    folder: Path
    """Holds a folder a video."""
    expressions: dict[str, dict[str, int]]
    """Object id of each text, by video; empty without ``meta_expressions.json``."""

    @staticmethod
    def find(path: Path) -> Truth:
        """Raises :class:`InputError` where ``path`` holds no annotations."""
        if not path.is_dir():
            raise InputError(f"{path}: no such folder", "give the folder of a data set, or of its annotations")
        folder = path / "Annotations" if (path / "Annotations").is_dir() else path
        if not any(x.is_dir() for x in folder.iterdir()):
            raise InputError(f"{folder}: holds no folder of a video", "give the folder that holds Annotations/")
        for place in (path, path.parent):
            if (place / EXPRESSIONS).is_file():
                table = read_expressions(place / EXPRESSIONS)
                return Truth(folder, {name: dict(expressions) for name, expressions in table.items()})
        return Truth(folder, {})


EXPRESSIONS = "meta_expressions.json"


def read_expressions(path: Path) -> dict[str, list[tuple[str, int]]]:
    """Text and object id of each expression, by video. Raises :class:`InputError`."""
    try:
        videos = json.loads(path.read_text(encoding="utf-8"))["videos"]
        return {
            str(name): [(str(x["exp"]), int(x["obj_id"])) for x in video["expressions"].values()]
            for name, video in videos.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: is not in the layout of Ref-EndoVis ({type(error).__name__}: {error})",
            'expected {"videos": {name: {"expressions": {id: {"exp": text, "obj_id": n}}}}}',
        ) from error


@dataclass(frozen=True)
class _Pair:
    """One object of a prediction, and the object of the truth that it is measured against."""

    predicted: int
    true: int
    text: str


@dataclass(frozen=True)
class _Task:
    """One video."""

    video: str
    truth: Path
    prediction: _Prediction
    pairs: tuple[_Pair, ...] | None
    """None: every object of the truth, by its id."""
    all_frames: bool
    skip_missing: bool


@dataclass(frozen=True)
class _Prediction:
    """The masks of one video."""

    folder: Path
    is_run: bool
    objects: list[dict[str, Any]] | None
    """``id`` and ``text`` of each; None where the ids are those of the truth."""


def _predictions(folder: Path) -> dict[str, _Prediction]:
    """By the name of the video: finished runs at any depth, else what an export wrote, else folders of PNGs."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder", "give a folder of runs, or of PNG masks")
    if (folder / EXPORT_RECORD).is_file():
        found = list(_exported(folder))
    else:
        found = [
            (path.parent.name, _Prediction(path.parent, True, record["objects"]))
            for path in sorted(folder.rglob("run.json"))
            if (record := read_record(path.parent)) is not None
        ] or [(x.name, _Prediction(x, False, None)) for x in sorted(folder.iterdir()) if x.is_dir()]
    table: dict[str, _Prediction] = {}
    for name, prediction in found:
        if name in table:
            both = f"{table[name].folder}, {prediction.folder}"
            raise InputError(f"{folder}: has two predictions of {name!r}", f"leave one out: {both}")
        table[name] = prediction
    return table


def _exported(folder: Path) -> Iterator[tuple[str, _Prediction]]:
    """What ``export`` wrote, with its prompts, by the names that the videos have without their folders."""
    path = folder / EXPORT_RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] not in ("davis", "sav"):
            raise InputError(f"{folder}: is an export as {record['format']}", "evaluate the runs, or export as sav")
        for x in record["videos"]:
            split = folder / x.get("split", "")
            masks = split / "Annotations" if (split / "Annotations").is_dir() else split
            objects = [{"id": y["id"], "text": y["text"]} for y in x["objects"]]
            yield x["name"].split("/")[-1], _Prediction(masks / x["folder_name"], False, objects)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is not the record of an export", "export again") from error


def _tasks(predictions: Path, truth: Truth, all_frames: bool, skip_missing: bool) -> list[_Task]:
    found = _predictions(predictions)
    true_videos = sorted(x.name for x in truth.folder.iterdir() if x.is_dir())
    common = [name for name in true_videos if name in found]
    if not common:
        raise InputError(
            f"{predictions}: has no video of {truth.folder}",
            f"folders are matched by name, such as {true_videos[0]!r}",
        )
    if not skip_missing and len(common) < len(true_videos):
        missing = [name for name in true_videos if name not in found]
        raise InputError(
            f"{predictions}: {len(missing)} of {len(true_videos)} videos have no prediction, such as {missing[0]!r}",
            "add --skip-missing to measure the others alone",
        )
    return [
        _Task(
            name,
            truth.folder / name,
            found[name],
            _pairs(found[name], truth.expressions.get(name)),
            all_frames,
            skip_missing,
        )
        for name in common
    ]


def _pairs(prediction: _Prediction, expressions: dict[str, int] | None) -> tuple[_Pair, ...] | None:
    """What each prompt is measured against: the object its text names, else the one of its number."""
    if prediction.objects is None:
        return None
    pairs = []
    for x in prediction.objects:
        text = str(x["text"])
        if expressions is not None and text not in expressions:
            raise InputError(
                f"{prediction.folder}: the data set has no expression {text!r} for this video",
                "run the data set's own expressions: resurgsam2 batch --prompts meta_expressions.json",
            )
        pairs.append(_Pair(int(x["id"]), expressions[text] if expressions else int(x["id"]), text))
    return tuple(pairs)


# --- Reading --------------------------------------------------------------------------------------------------


def _image(path: Path) -> Labels:
    """Values of a label image: palette indices or grey levels. Raises :class:`InputError`."""
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "1", "I", "I;16"):
                raise InputError(
                    f"{path}: is an image in {image.mode}, not of labels", "expected a palette or grey PNG"
                )
            return np.array(image)
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path}: cannot be read ({error})", "replace it") from error


Reader = Callable[[str, int], Masks | None]
"""A frame's stem and an object's id to its mask (height, width); None where the frame is not there."""


def _tree_reader(folder: Path) -> Reader:
    """Of a PNG tree in either layout."""
    per_object = {int(x.name): x for x in folder.iterdir() if x.is_dir() and x.name.isdigit()}
    last: tuple[str, Labels | None] = ("", None)

    def read(stem: str, ident: int) -> Masks | None:
        nonlocal last
        if per_object:
            path = per_object.get(ident, folder) / f"{stem}.png"
            if path.exists():
                return _image(path) > 0
            # An object without a folder is nowhere, if the frame is there for others.
            other = next((x / f"{stem}.png" for x in per_object.values() if (x / f"{stem}.png").exists()), None)
            return None if other is None else np.zeros_like(_image(other), dtype=bool)
        if last[0] != stem:
            path = folder / f"{stem}.png"
            last = (stem, _image(path) if path.exists() else None)
        return None if last[1] is None else last[1] == ident

    return read


def _run_reader(folder: Path) -> Reader:
    """Of a run's annotations.json, where objects may overlap; of its label images, where there is none."""
    path = folder / "annotations.json"
    if not path.exists():
        if not (folder / "masks").is_dir():
            raise InputError(f"{folder}: has neither annotations.json nor masks", "segment it again with --coco")
        return _tree_reader(folder / "masks")
    try:
        coco = json.loads(path.read_text(encoding="utf-8"))
        images = {x["id"]: x for x in coco["images"]}
        frames = {Path(x["file_name"]).stem: (x["height"], x["width"]) for x in coco["images"]}
        rle = {
            (Path(images[x["image_id"]]["file_name"]).stem, x["track_id"]): x["segmentation"]
            for x in coco["annotations"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error})", "segment the video again") from error

    def read(stem: str, ident: int) -> Masks | None:
        if stem not in frames:
            return None
        found = rle.get((stem, ident))
        return np.zeros(frames[stem], dtype=bool) if found is None else coco_mask.decode(found).astype(bool)

    return read


def _objects_in(folder: Path, stems: Iterable[str]) -> list[int]:
    """The ids that a truth has in any frame."""
    ids: set[int] = {int(x.name) for x in folder.iterdir() if x.is_dir() and x.name.isdigit()}
    if not ids:
        for stem in stems:
            ids.update(np.unique(_image(folder / f"{stem}.png")).tolist())
    return sorted(ids - {0})


# --- Measuring ------------------------------------------------------------------------------------------------


def _measure(task: _Task) -> list[Score]:
    """The scores of one video's objects."""
    stems = sorted({x.stem for x in task.truth.rglob("*.png")})
    if not stems:
        raise InputError(f"{task.truth}: holds no PNG image", "give the folder of the annotations")
    true = _tree_reader(task.truth)
    folder = task.prediction.folder
    predicted = (_run_reader if task.prediction.is_run else _tree_reader)(folder)
    pairs = task.pairs
    if pairs is None:
        pairs = tuple(_Pair(i, i, "") for i in _objects_in(task.truth, stems))
    rows: list[list[tuple[float, float, float, bool, bool]]] = [[] for _ in pairs]
    missing = []
    for stem in stems:
        for k, pair in enumerate(pairs):
            mask, truth = predicted(stem, pair.predicted), true(stem, pair.true)
            if mask is None or truth is None:
                missing.append(stem)
                break
            if mask.shape != truth.shape:
                raise InputError(
                    f"{folder}: frame {stem} is {mask.shape[1]} x {mask.shape[0]}, its truth "
                    f"{truth.shape[1]} x {truth.shape[0]}",
                    "measure masks of the data set's own frames",
                )
            here, there = bool(mask.any()), bool(truth.any())
            if not (rows[k] or task.all_frames or here or there):
                continue
            rows[k].append(
                (region_similarity(mask, truth), contour_accuracy(mask, truth), dice(mask, truth), here, there)
            )
    if missing and not task.skip_missing:
        raise InputError(
            f"{folder}: {len(missing)} of {len(stems)} frames of the truth are missing, such as {missing[0]}",
            "predict every frame, or add --skip-missing",
        )
    scores = []
    for pair, row in zip(pairs, rows, strict=True):
        if not row:
            continue
        j, f, d = (100 * float(np.mean([x[i] for x in row])) for i in range(3))
        absent = [not here for *_, here, there in row if not there]
        share = 100 * float(np.mean(absent)) if absent else None
        scores.append(Score(task.video, str(pair.true), pair.text, j, f, d, share, len(row)))
    return scores


def mean_of(name: str, scores: list[Score], ident: str = "") -> Score:
    """The mean over scores, each counting the same."""
    absent = [x.absent_empty for x in scores if x.absent_empty is not None]
    j, f, d = (float(np.mean([getattr(x, key) for x in scores])) for key in ("j", "f", "dice"))
    share = float(np.mean(absent)) if absent else None
    return Score(name, ident, "", j, f, d, share, sum(x.frames for x in scores))


def evaluate(
    predictions: Path,
    truth: Path,
    *,
    groups: dict[str, tuple[int, ...]] | None = None,
    all_frames: bool | None = None,
    skip_missing: bool = False,
    workers: int | None = None,
    watch: Callable[[str], None] = lambda video: None,
) -> Evaluation:
    """Measure ``predictions`` against ``truth``.

    ``all_frames`` counts a frame in which an object has not yet been seen, in truth or prediction, as 1, as the
    published evaluation of Ref-EndoVis does; without, an object counts from the first frame that shows it, as in
    ``vos-benchmark``. Left out, it is so for data sets with expressions alone. Several prompts for one object count
    as their mean. Raises :class:`InputError`.
    """
    found = Truth.find(truth)
    all_frames = bool(found.expressions) if all_frames is None else all_frames
    tasks = _tasks(predictions, found, all_frames, skip_missing)
    scores: list[Score] = []
    for task, part in zip(tasks, _spread(tasks, workers), strict=True):
        scores += part
        watch(task.video)
    if not scores:
        raise InputError(f"{truth}: has no object in any frame", "check the annotations")
    per_object = [mean_of(x.video, same, x.object) for x, same in _by(scores, lambda x: (x.video, x.object))]
    in_group = {name: [x for x in per_object if int(x.object) in ids] for name, ids in (groups or {}).items()}
    return Evaluation(
        scores,
        [mean_of(x.video, same) for x, same in _by(per_object, lambda x: (x.video,))],
        {name: mean_of(name, members) for name, members in in_group.items() if members},
        mean_of("overall", per_object),
        all_frames,
    )


def _by(scores: list[Score], key: Callable[[Score], tuple[str, ...]]) -> list[tuple[Score, list[Score]]]:
    """Scores that share a key, each group with its first member, in order of appearance."""
    groups: dict[tuple[str, ...], list[Score]] = {}
    for score in scores:
        groups.setdefault(key(score), []).append(score)
    return [(group[0], group) for group in groups.values()]


def _spread(tasks: list[_Task], workers: int | None) -> Iterator[list[Score]]:
    workers = min(len(tasks), workers or os.cpu_count() or 1)
    with ProcessPoolExecutor(workers) if workers > 1 else nullcontext() as pool:
        yield from (map if pool is None else partial(pool.map, chunksize=1))(_measure, tasks)
