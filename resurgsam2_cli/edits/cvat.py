"""Edited XML of CVAT 1.1: for images with a list of shapes in each, or for video with a track of each object.

For images, as in COCO: an image that the file does not list is untouched, and in one that it lists, an object without
a shape is absent. For video, the file lists the frames where a track has a shape or goes out of view (``outside``).
CVAT writes every frame; where a file lists fewer, the frames between are untouched, rather than interpolated. In the
frames of the task that its head names, an object that no track has in view is absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from resurgsam2_cli.edits.files import Files, reading
from resurgsam2_cli.edits.index import Index, ListedImage, Shape
from resurgsam2_cli.edits.masks import outline_counts
from resurgsam2_cli.edits.shapes import Room, ShapeEdits, id_of, place_images, size_text, split_name
from resurgsam2_cli.edits.xml import Element, elements
from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.rle import compressed, mask_runs
from resurgsam2_cli.files.text import one_line, shown
from resurgsam2_cli.runs.reading import RunFrame

_NOT_MASKS = ("box", "polyline", "points", "ellipse", "cuboid", "skeleton")

_MOST_LABELS = 2**12

_HINT = "export it again as 'CVAT for images 1.1' or 'CVAT for video 1.1'"


@dataclass
class _Task:
    """What the head of a file says of the frames in it."""

    texts: dict[str, str] = field(default_factory=dict)
    labels: set[str] | None = None
    """The names of its labels; None if the head does not say."""

    def size(self) -> str:
        """Of its pictures; empty for a task of pictures."""
        return size_text(id_of(self.texts.get("width")), id_of(self.texts.get("height")))

    def frames(self) -> tuple[int, int, int] | None:
        """First and last frame in the source, and the step between them; None if the head does not say."""
        first, last = (id_of(self.texts.get(x)) for x in ("start_frame", "stop_frame"))
        step = re.fullmatch(r"\s*(?:step\s*=\s*(\d{1,9}))?\s*", self.texts.get("frame_filter", ""))
        if first is None or last is None or step is None:
            return None
        return first, last, max(1, int(step[1] or 1))


def cvat_edits(files: Files, name: str, index: Index) -> ShapeEdits:
    """Read an XML file of CVAT. Raises :class:`InputError`."""
    where = files.where(name)
    with reading(where, _HINT):
        task, has_tracks = _read_images(files, name, index)
        if not has_tracks:
            folder = place_images(index, where)
            _read_shapes(files, name, index)
            return ShapeEdits(index, where, several=index.folders() != [folder], labels=task.labels)
        run = index.run
        if index.folders():
            raise ValueError("it has both images and tracks")
        if task.size() not in ("", size_text(run.width, run.height)):
            raise ValueError(f"its video is {task.size()} pixels, and {run.name} is {run.width} x {run.height}")
        if (frames := task.frames()) is not None:
            index.cover_range(*frames)
        _read_shapes(files, name, index)
    return _TrackEdits(index, where, task.labels)


def _read_images(files: Files, name: str, index: Index) -> tuple[_Task, bool]:
    """Put the images into the index; returns the head of the file, and whether it has tracks."""
    task, has_tracks, tasks = _Task(), False, 0
    with files.open(name) as file:
        for x in elements(file):
            path = x.path
            if path[0] != "annotations":
                raise ValueError(f"its root is {shown(path[0])}, not annotations")
            if x.is_start and path[1:] == ("image",):
                if not index.list_image(_image(x)):
                    raise ValueError(f"it has the image {shown(x.attributes.get('name'))} twice")
            elif x.is_start and path[1:] == ("track",):
                has_tracks = True
            elif path[1:2] == ("meta",) and not x.is_start:
                tasks += path[-1] == "task"
                # A job counts its frames in its task, and a project has several tasks: neither says which it covers.
                if path[2:-1] == ("task",) or path[-2:-1] == ("original_size",):
                    task.texts[path[-1]] = x.text.strip()
                elif path[-3:] == ("labels", "label", "name"):
                    task.labels = (task.labels or set()) | {x.text}
                    if len(task.labels) > _MOST_LABELS:
                        raise ValueError("it has far too many labels")
    if has_tracks and tasks > 1:
        raise ValueError("it has the tracks of several tasks, which count their frames apart: export one of them")
    if not has_tracks and not index.folders():
        raise ValueError("it has neither images nor tracks")
    return task, has_tracks


def _image(x: Element) -> ListedImage:
    image = x.attributes
    size = size_text(id_of(image.get("width")), id_of(image.get("height")))
    # Ids count the images of a task: they are the numbers of frames only if the task was made of the whole video.
    return ListedImage(image["name"], *split_name(image["name"]), None, size)


def _read_shapes(files: Files, name: str, index: Index) -> None:
    """Put the shapes of the run's frames into the index."""
    where, room = files.where(name), Room(index.run, files.where(name))
    track = -1
    with files.open(name) as file:
        for shape, owner in _shapes(elements(file)):
            is_track = owner.path[-1] == "track"
            label = (owner if is_track else shape).attributes["label"]
            if is_track:
                track += shape.is_first
                frame = id_of(shape.attributes["frame"])
                if frame is None:
                    raise ValueError(f"a shape in the frame {shown(shape.attributes['frame'])}")
            else:
                frame = index.listed_frame(owner.attributes["name"])[1]
                if frame is None:
                    continue  # of another video
                if frame < 0:
                    image = one_line(owner.attributes["name"])
                    raise ValueError(f"{image} shows {one_line(label)}, and {index.run.name} has no such frame")
            origin = f"{where}: {one_line(label)} in frame {frame} ({shape.tag})"
            object_track = id_of(shape.texts.get("track_id", "").strip())
            room.take()
            is_visible = not (is_track and shape.attributes.get("outside") == "1")
            if is_track:
                index.add_span(frame, track, label, object_track, visible=is_visible)
            if not is_visible:
                continue  # CVAT also lists the first frame without, which may be behind the end of the video
            if index.frame_numbered(frame) is None:
                raise InputError(f"{origin}: {index.run.name} has no frame {frame}", "numbers are those of the video")
            with reading(origin):
                if shape.tag in _NOT_MASKS:
                    raise ValueError("does not say which pixels it means: draw a mask or a polygon")
                counts = _mask(shape.attributes, (index.run.height, index.run.width))
            group = shape.attributes.get("group_id") or owner.attributes.get("group_id") or ""
            joined = "" if group.strip() in ("", "0") else f"group {group}"
            index.add_shape(frame, Shape(label, object_track, joined, *counts, origin))


@dataclass
class _Shape:
    tag: str
    attributes: dict[str, str]
    is_first: bool
    """Whether it is the first of its track."""
    texts: dict[str, str] = field(default_factory=dict)
    """Its attributes in the words of CVAT: what a person fills in."""


def _shapes(every: Iterator[Element]) -> Iterator[tuple[_Shape, Element]]:
    """The shapes, each with its image or track, once all of it has been read."""
    owner: Element | None = None
    shape: _Shape | None = None
    is_first = False
    for x in every:
        if len(x.path) == 2:
            owner = x if x.is_start and x.path[1] in ("image", "track") else None
            is_first = True
        elif owner is None:
            continue
        elif len(x.path) == 3 and x.path[2] in ("mask", "polygon", *_NOT_MASKS):
            if x.is_start:
                shape = _Shape(x.path[2], x.attributes, is_first)
                is_first = False
            elif shape is not None:
                yield shape, owner
        elif len(x.path) == 4 and x.path[3] == "attribute" and shape is not None and not x.is_start:
            shape.texts[x.attributes.get("name", "")] = x.text


def _mask(shape: dict[str, str], picture: tuple[int, int]) -> tuple[str, str]:
    """The compressed RLE of a mask or polygon, and of a polygon, that with its border. Raises ``ValueError``."""
    if "points" in shape:
        corners = [x.split(",") for x in shape["points"].split(";")]
        if any(len(x) != 2 for x in corners):
            raise ValueError("a polygon whose corners are not x,y")
        return outline_counts([[float(x) for corner in corners for x in corner]], picture)
    left, top, width, height = (int(shape[x]) for x in ("left", "top", "width", "height"))
    if not (left >= 0 and top >= 0 and 0 < width <= picture[1] - left and 0 < height <= picture[0] - top):
        raise ValueError(f"a mask that leaves the picture, which is {picture[1]} x {picture[0]} pixels")
    try:
        runs = [int(x) for x in shape["rle"].split(",")]
    except ValueError:
        raise ValueError("the runs of a mask are not numbers") from None
    if not all(0 <= x <= width * height for x in runs) or sum(runs) != width * height:
        raise ValueError("the runs of a mask do not fill its box")
    mask = np.zeros(picture, bool)
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask[top : top + height, left : left + width] = inside.reshape(height, width)
    return compressed([mask_runs(mask, [left, top, width, height])])[0], ""


class _TrackEdits(ShapeEdits):
    """What the tracks of a video show."""

    def __init__(self, index: Index, where: str, labels: set[str] | None) -> None:
        super().__init__(index, where, several=False, labels=labels)
        self._last = -1
        """The frame up to which spans have been read."""
        self._open: dict[int, int] = {}
        """The objects of the tracks that are in view."""

    def _absent(self, frame: RunFrame) -> list[int]:
        """Objects that no track has in view; one that has says nothing about the frames that it does not list."""
        closed: list[int] = []
        for number, track, label, object_track, visible in self._index.spans(self._last, frame.number):
            if visible:
                self._open[track] = self.object_of(label, object_track, self._where)
                continue
            self._open.pop(track, None)
            if number == frame.number:
                closed.append(self.object_of(label, object_track, self._where))
        self._last = frame.number
        in_view = set(self._open.values())
        absent = super()._absent(frame) or closed
        return [x for x in absent if x not in in_view]
