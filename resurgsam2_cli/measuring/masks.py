"""Masks by frame and object, from PNG trees and from runs; frames are known by their names, never by position."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.label_images import Labels, read_labels
from resurgsam2_cli.runs.reading import read_frames
from resurgsam2_cli.runs.record import ANNOTATIONS, MASKS, read_run
from resurgsam2_cli.video.frames import frame_key, natural_order

Masks = NDArray[np.bool_]

Reader = Callable[[str, int], Masks | None]
"""Maps the key of a frame's name and an object's id to a mask (height, width); None if the frame is missing."""


def images_in(folder: Path) -> dict[str, Path]:
    """The PNG images of a folder by the keys of their names. Raises :class:`InputError` if two names share a key."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.png")):
        if path.name.startswith("._"):
            continue
        other = found.setdefault(frame_key(path.stem), path)
        if other != path:
            raise InputError(f"{path}: is the same frame as {other.name}", "keep one of them")
    return found


def object_folders(folder: Path) -> dict[int, Path]:
    """The folders of objects in the layout of SA-V; empty for that of DAVIS."""
    return {int(x.name): x for x in sorted(folder.iterdir()) if x.is_dir() and x.name.isdecimal()}


def frames_in(folder: Path) -> dict[str, str]:
    """The names of all frames of a PNG tree by their keys, in order."""
    per_object = object_folders(folder)
    names: dict[str, str] = {}
    for part in per_object.values() or [folder]:
        names |= {key: path.stem for key, path in images_in(part).items()}
    return dict(sorted(names.items(), key=lambda x: natural_order(x[1])))


def tree_reader(folder: Path) -> Reader:
    """The masks of a PNG tree in either layout."""
    per_object = {ident: images_in(x) for ident, x in object_folders(folder).items()}
    images = {} if per_object else images_in(folder)
    last: tuple[str, Labels | None] = ("", None)

    def read(key: str, ident: int) -> Masks | None:
        nonlocal last
        if per_object:
            path = per_object.get(ident, {}).get(key)
            if path is not None:
                return read_labels(path) > 0
            # An object without a folder is absent, if others have the frame.
            other = next((x[key] for x in per_object.values() if key in x), None)
            return None if other is None else np.zeros_like(read_labels(other), dtype=bool)
        if last[0] != key:
            last = (key, read_labels(images[key]) if key in images else None)
        return None if last[1] is None else last[1] == ident

    return read


def run_reader(folder: Path) -> Reader:
    """The masks of a run's annotations.json, where objects may overlap; else those of its label images."""
    if not (folder / ANNOTATIONS).exists():
        if not (folder / MASKS).is_dir():
            raise InputError(f"{folder}: has neither {ANNOTATIONS} nor {MASKS}", "segment it again with --coco")
        return tree_reader(folder / MASKS)
    run = read_run(folder)
    counts = {frame_key(x.name): {m.object_id: m.rle["counts"] for m in x.masks} for x in read_frames(run)}

    def read(key: str, ident: int) -> Masks | None:
        if key not in counts:
            return None
        if ident not in counts[key]:
            return np.zeros((run.height, run.width), dtype=bool)
        return coco_mask.decode({"size": [run.height, run.width], "counts": counts[key][ident]}).astype(bool)

    return read


def objects_in(folder: Path, keys: Iterable[str]) -> list[int]:
    """The ids that a truth has in any frame."""
    ids = set(object_folders(folder))
    if not ids:
        images = images_in(folder)
        for key in keys:
            ids.update(np.unique(read_labels(images[key])).tolist())
    return sorted(ids - {0})
