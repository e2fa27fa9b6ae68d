"""Edited COCO JSON, as this program writes it and as other tools write it back.

An image that the file does not list is untouched; in one that it lists, an object without an annotation is absent.
"""

from __future__ import annotations

import io
from typing import Any

from resurgsam2_cli.edits.files import Files, reading
from resurgsam2_cli.edits.index import Index, ListedImage, Shape
from resurgsam2_cli.edits.masks import counts_of_runs, outline_counts
from resurgsam2_cli.edits.shapes import Room, ShapeEdits, id_of, place_images, rings_of, size_text, split_name
from resurgsam2_cli.files.json_list import lists_in
from resurgsam2_cli.files.rle import check_rle
from resurgsam2_cli.files.text import one_line, shown

_MOST_CATEGORIES = 2**16


def coco_edits(files: Files, name: str, index: Index) -> ShapeEdits:
    """Read a COCO file: its images and categories, then its annotations, as lists come in any order.

    Raises :class:`InputError`.
    """
    where = files.where(name)
    with reading(where):
        categories = _read_images(files, name, index)
        folder = place_images(index, where)
        _read_annotations(files, name, index, categories)
    return ShapeEdits(index, where, several=index.folders() != [folder], labels=categories.values())


def _items(files: Files, name: str, wanted: set[str]) -> Any:
    with files.open(name) as file, io.TextIOWrapper(file, encoding="utf-8-sig") as text:
        for key, item in lists_in(text):
            if key in wanted:
                if not isinstance(item, dict):
                    raise ValueError(f"{shown(item)} in {key} is not an object")
                yield key, item


def _read_images(files: Files, name: str, index: Index) -> dict[int, str]:
    """Put the images into the index; returns the names of the categories by their ids."""
    categories: dict[int, str] = {}
    count = 0
    for key, item in _items(files, name, {"images", "categories"}):
        if key == "images":
            count += 1
            if not index.list_image(_image(item)):
                raise ValueError(f"two images have the id {shown(item['id'])}")
            continue
        ident = _whole(item["id"])
        if type(ident) is not int or not isinstance(item["name"], str) or ident in categories:
            raise ValueError(f"{shown(item)} is not a category with an id of its own and a name")
        categories[ident] = item["name"]
        if len(categories) > _MOST_CATEGORIES:
            raise ValueError("it has far too many categories")
    if not count:
        raise ValueError("it lists no images")
    return categories


def _whole(ident: Any) -> Any:
    """An id, which other programs may have turned into a fraction: 1.0 is 1."""
    return int(ident) if isinstance(ident, float) and ident.is_integer() else ident


def _image(item: dict[str, Any]) -> ListedImage:
    ident = _whole(item["id"])
    if type(ident) not in (int, str) or not isinstance(item["file_name"], str):
        raise ValueError(f"{shown(item)} is not an image with an id and a file_name")
    number = _whole(item.get("frame_index"))
    return ListedImage(
        str(ident),
        *split_name(item["file_name"]),
        number if type(number) is int and 0 <= number < 2**63 else None,
        size_text(item.get("width"), item.get("height")),
    )


def _read_annotations(files: Files, name: str, index: Index, categories: dict[int, str]) -> None:
    """Put the masks of the run's frames into the index."""
    where, room = files.where(name), Room(index.run, files.where(name))
    for _, item in _items(files, name, {"annotations"}):
        image, category = _whole(item["image_id"]), _whole(item["category_id"])
        is_listed, frame = index.listed_frame(str(image))
        if not is_listed:
            raise ValueError(f"an annotation is of the image {shown(image)}, which the file does not list")
        if frame is None:
            continue  # of another video
        if frame < 0:
            raise ValueError(f"an annotation is of the image {shown(image)}, of a frame that the run does not have")
        if type(category) is not int or category not in categories:
            raise ValueError(f"an annotation has the category {shown(category)}, which the file does not list")
        label = categories[category]
        origin = f"{where}: {one_line(label)} in frame {frame} (annotation {shown(item.get('id'))})"
        room.take()
        with reading(origin):
            counts, bordered = _mask(item.get("segmentation"), (index.run.height, index.run.width))
        index.add_shape(frame, Shape(label, _track(item), "", counts, bordered, origin))


def _track(item: dict[str, Any]) -> int | None:
    attributes = item.get("attributes")
    track = id_of(item.get("track_id"))
    return id_of(attributes.get("track_id")) if track is None and isinstance(attributes, dict) else track


def _mask(segmentation: Any, shape: tuple[int, int]) -> tuple[str, str]:
    """The compressed RLE of a segmentation, and of polygons, that with their borders. Raises ``ValueError``."""
    if isinstance(segmentation, list) and segmentation:
        return outline_counts(rings_of(segmentation), shape)
    if not isinstance(segmentation, dict):
        raise ValueError("has no mask: a box alone does not say which pixels it means")
    counts = segmentation.get("counts")
    if isinstance(counts, list):
        if segmentation.get("size") != list(shape):
            raise ValueError(f"a mask of size {shown(segmentation.get('size'))}, not {list(shape)}")
        return counts_of_runs(counts, shape), ""
    check_rle(segmentation, *shape)
    return str(counts), ""
