"""JSON that Label Studio exports: tasks with brush labels and polygons.

A task without an annotation is untouched. In one with an annotation, an object without a region is absent.
"""

from __future__ import annotations

import io
import re
from typing import Any
from urllib.parse import unquote

from resurgsam2_cli.edits.files import Files, reading
from resurgsam2_cli.edits.index import Index, ListedImage, Shape
from resurgsam2_cli.edits.masks import outline_counts
from resurgsam2_cli.edits.shapes import Room, ShapeEdits, id_of, place_images, size_text, split_name
from resurgsam2_cli.errors import InputError
from resurgsam2_cli.exports.label_studio import LOCAL_FILES, TRACK
from resurgsam2_cli.files.brush import decode_brush
from resurgsam2_cli.files.json_list import list_in
from resurgsam2_cli.files.rle import encoded
from resurgsam2_cli.files.text import one_line, shown

_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of an uploaded file."""

_SILENT = ("choices", "textarea", "rating", "number", "datetime", "taxonomy", "pairwise")
"""Results that say nothing of where something is."""


def label_studio_edits(files: Files, name: str, index: Index) -> ShapeEdits:
    """Read the tasks of an export: first which frames they are of, then their regions. Raises :class:`InputError`."""
    where = files.where(name)
    with reading(where):
        for number, task in _tasks(files, name):
            if not index.list_image(_image(number, task)):
                raise ValueError(f"two tasks have the id {shown(task.get('id'))}")
        if not index.folders() and _has_predictions_alone(files, name):
            raise InputError(
                f"{where}: has predictions, as exports for Label Studio do, and no annotations",
                "in Label Studio, submit the tasks (or copy predictions to annotations), and export JSON again",
            )
        if not index.folders():
            raise ValueError("it has no task with an annotation")
        folder = place_images(index, where)
        _read_regions(files, name, index)
    return ShapeEdits(index, where, several=index.folders() != [folder])


def _tasks(files: Files, name: str) -> Any:
    """The tasks that somebody annotated, each with its place in the list."""
    with files.open(name) as file, io.TextIOWrapper(file, encoding="utf-8-sig") as text:
        for number, task in enumerate(list_in(text)):
            if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
                raise ValueError(f"{shown(task)} is not a task: export the project as JSON, not as JSON-MIN")
            if _annotation(task) is not None:
                yield number, task


def _has_predictions_alone(files: Files, name: str) -> bool:
    """Whether the tasks have predictions, and nobody has submitted or skipped one."""
    with files.open(name) as file, io.TextIOWrapper(file, encoding="utf-8-sig") as text:
        tasks = [(bool(x.get("predictions")), bool(x.get("annotations"))) for x in list_in(text)]
    return any(x for x, _ in tasks) and not any(x for _, x in tasks)


def _annotation(task: dict[str, Any]) -> dict[str, Any] | None:
    """The one annotation that was not cancelled; None if there is none. Raises ``ValueError`` for several."""
    found = [x for x in task.get("annotations") or [] if not x.get("was_cancelled")]
    if len(found) > 1:
        raise ValueError(f"the task {shown(task.get('id'))} has {len(found)} annotations: keep the right one")
    return found[0] if found else None


def _image(number: int, task: dict[str, Any]) -> ListedImage:
    data = task["data"]
    image = data.get("image")
    if not isinstance(image, str):
        raise ValueError(f"the task {shown(task.get('id'))} has no image")
    path = unquote(image.rpartition(LOCAL_FILES)[2]).partition("?")[0]
    folder, stem = split_name(path)
    if LOCAL_FILES not in image:  # an uploaded one, whose folder is that of the project
        folder, stem = "", _UPLOADED.sub("", stem, count=1)
    if isinstance(data.get("video"), str):
        folder = data["video"]
    frame = data.get("frame")
    annotation = _annotation(task)
    assert annotation is not None
    sizes = {size_text(x.get("original_width"), x.get("original_height")) for x in _regions(annotation)} - {""}
    if len(sizes) > 1:
        raise ValueError(f"the task {shown(task.get('id'))} has regions of pictures of several sizes")
    return ListedImage(
        str(task.get("id", f"number {number}")),
        folder,
        stem,
        frame if type(frame) is int and 0 <= frame < 2**63 else None,
        next(iter(sizes), ""),
    )


def _regions(annotation: dict[str, Any]) -> list[dict[str, Any]]:
    found = annotation["result"]
    if not isinstance(found, list) or not all(isinstance(x, dict) for x in found):
        raise ValueError("an annotation has no list of regions")
    return [x for x in found if x.get("type") not in _SILENT]


def _read_regions(files: Files, name: str, index: Index) -> None:
    where, room = files.where(name), Room(index.run, files.where(name))
    for number, task in _tasks(files, name):
        _, frame = index.listed_frame(str(task.get("id", f"number {number}")))
        annotation = _annotation(task)
        if frame is None or annotation is None:
            continue  # of another video
        regions = _regions(annotation)
        if frame < 0 and regions:
            raise ValueError(f"the task {shown(task.get('id'))} is of a frame that the run does not have")
        for x in regions:
            room.take()
            label = _label(x)
            origin = f"{where}: {one_line(label)} in frame {frame} (region {shown(x.get('id'))})"
            with reading(origin):
                counts, bordered = _mask(x, (index.run.height, index.run.width))
            track = _track(x)
            # What is drawn in several strokes comes as several regions.
            index.add_shape(frame, Shape(label, track, f"{label} {track}", counts, bordered, origin))


def _label(region: dict[str, Any]) -> str:
    value = region.get("value")
    labels = value.get(region.get("type")) if isinstance(value, dict) else None
    if not isinstance(labels, list) or len(labels) != 1 or not isinstance(labels[0], str):
        raise ValueError(f"the region {shown(region.get('id'))} does not have one label")
    return labels[0]


def _track(region: dict[str, Any]) -> int | None:
    meta = region.get("meta")
    texts = meta.get("text") if isinstance(meta, dict) else None
    for text in texts if isinstance(texts, list) else ():
        if isinstance(text, str) and text.startswith(f"{TRACK} "):
            return id_of(text.removeprefix(f"{TRACK} "))
    return None


def _mask(region: dict[str, Any], shape: tuple[int, int]) -> tuple[str, str]:
    """The compressed RLE of a region, and of a polygon, that with its border. Raises ``ValueError``."""
    height, width = shape
    value, kind = region["value"], region["type"]
    if region.get("image_rotation"):
        raise ValueError("the picture was turned: turn it back")
    if kind == "brushlabels":
        if not isinstance(value.get("rle"), list):
            raise ValueError("has no mask")
        return encoded(decode_brush(value["rle"], height, width)), ""
    if kind == "polygonlabels":
        ring = [
            float(x) * side / 100 for point in value["points"] for x, side in zip(point, (width, height), strict=True)
        ]
        return outline_counts([ring], shape)
    raise ValueError(f"is of the kind {shown(kind)}, which does not say which pixels it means: use brush or polygon")
