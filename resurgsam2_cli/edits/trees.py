"""Edited PNG masks: label images (pixel = object id), and images of one object each."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
from PIL import Image

from resurgsam2_cli.edits.files import Files, is_picture, reading
from resurgsam2_cli.edits.index import Index
from resurgsam2_cli.edits.masks import ChangedMasks, OwnMasks, label_changes
from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.label_images import Labels
from resurgsam2_cli.files.palette import davis_palette
from resurgsam2_cli.runs.reading import RunFrame
from resurgsam2_cli.runs.record import Run

_HINT = "save it as a palette or grey PNG in the size of the video, or leave it out"

_MODES = ("P", "L", "1", "I", "I;16")

ALL = 0
"""Stands for all objects where an image shows more than one."""


class TreeEdits:
    """What a tree of PNGs shows of a run.

    An image that is not there says nothing: neither a frame without one, nor an object without a folder, was touched.
    An image without any pixel of an object says that the object is absent.
    """

    def __init__(self, files: Files, index: Index, images: Iterable[tuple[int, str]]) -> None:
        """``images`` has the id of an object, 0 for label images, with each file. Raises :class:`InputError`."""
        self._files, self._index, self._run = files, index, index.run
        self.not_listed: set[int] = set()  # files of images list no labels
        for object_id, name in images:
            self._add(object_id, name)

    def _add(self, object_id: int, name: str) -> None:
        run, where = self._run, self._files.where(name)
        file = name.rpartition("/")[2]
        if is_picture(file):
            raise InputError(f"{where}: is not a PNG, and other formats do not keep masks exactly", _HINT)
        frame = self._index.frame_named(file.rpartition(".")[0])
        if frame is None:
            raise InputError(
                f"{where}: {run.name} has no frame with this name",
                f"name images as the run does, such as {self._index.any_name()}.png, or leave this one out",
            )
        if object_id != ALL and object_id not in (x.id for x in run.objects):
            raise InputError(f"{where}: {run.name} has no object {object_id}", _ids(run))
        if taken := self._index.add_image(frame, object_id, name):
            raise InputError(f"{where}: is the same frame as {self._files.where(taken)}", "keep one of them")

    def at(self, frame: RunFrame, own: OwnMasks) -> ChangedMasks:
        """The masks in a frame that differ from the run's. Raises :class:`InputError`."""
        changes: ChangedMasks = {}
        for object_id, name in self._index.images(frame.number):
            where = self._files.where(name)
            values = self._values(name, where, is_label=object_id == ALL)
            if object_id == ALL:
                changes = label_changes(values, own)
                continue
            stated = own.changes({object_id: _binary(values, where)})
            for x, mask in stated.items():
                if x in changes and not np.array_equal(mask, changes[x]):
                    raise InputError(
                        f"{where}: was changed, and so was object {x} in the label image of frame {frame.number},"
                        " in another way",
                        "keep the change in one of them",
                    )
            changes |= stated
        return changes

    def _values(self, name: str, where: str, *, is_label: bool) -> Labels:
        run = self._run
        with reading(where, _HINT), self._files.open(name) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # its size is looked at anyway
            try:
                # Never another decoder: some start other programs, whatever the name of the file is.
                image = Image.open(file, formats=("PNG",))
            except Image.DecompressionBombError as error:
                raise ValueError("is far larger than the video") from error
            if image.size != (run.width, run.height):
                width, height = image.size
                raise ValueError(f"is {width} x {height} pixels, and {run.name} is {run.width} x {run.height}")
            if image.mode not in _MODES:
                raise ValueError(f"is an image in {image.mode}, whose pixels are not ids of objects")
            if getattr(image, "n_frames", 1) != 1:
                raise ValueError("has several pictures")
            try:
                image.load()
            except SyntaxError as error:
                raise ValueError(f"is damaged ({error})") from error
            values: Labels = np.array(image)
            palette = image.getpalette() if image.mode == "P" else None
        if is_label:
            self._check_labels(values, palette, where)
        return values

    def _check_labels(self, values: Labels, palette: list[int] | None, where: str) -> None:
        run, count = self._run, len(self._run.objects)
        values = values.astype(np.uint8) if values.dtype == bool else values
        if not 0 <= values.min() <= values.max() <= count:
            wrong = int(values.max() if values.max() > count else values.min())
            raise InputError(f"{where}: has pixels of object {wrong}, and {run.name} has no such object", _ids(run))
        # Programs that make PNGs smaller may number the colours anew: then the picture looks right, and is not.
        colors = {davis_palette()[3 * x : 3 * x + 3]: x for x in range(count + 1)}
        for value in np.unique(values).tolist() if palette else ():
            meant = colors.get(bytes((palette or [])[3 * value : 3 * value + 3]), value)
            if meant != value:
                raise InputError(
                    f"{where}: its pixels say object {value} where their colour is that of {meant}",
                    "its palette was changed: save it with that of the run's label images",
                )


def _binary(values: Labels, where: str) -> np.ndarray:
    """The mask of an image with 0 and one other value, as bool. Raises :class:`InputError`."""
    mask: np.ndarray = values != 0
    inside = values[mask]
    if len(inside) and inside.min() != inside.max():
        raise InputError(
            f"{where}: has more than two values, and the mask of one object has 0 and another one",
            "draw without smoothing, or give label images in the layout of DAVIS",
        )
    return mask


def _ids(run: Run) -> str:
    return f"the objects are {', '.join(f'{x.id} ({x.label})' for x in run.objects)}; 0 is the background"
