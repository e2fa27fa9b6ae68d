"""CVAT for images 1.1: XML with masks as row-major runs relative to their box."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from resurgsam2_cli.exports.base import MADE_BY, Dataset, Exporter, ExportFrame, Video
from resurgsam2_cli.files.text import xml_text

_ATTRIBUTES = (("track_id", "number"), ("score", "text"))


class CvatExport(Exporter):
    """``annotations.xml``, and pictures in ``images/<video>/``.

    With splits, ``<split>.xml`` and ``images/<split>/<video>/``: readers take the file's name for the subset.
    """

    file_suffix = ".xml"

    @classmethod
    def contents(cls, dataset: Dataset) -> set[str]:
        """A file for each split, and the pictures."""
        return {"images", *(f"{split or 'annotations'}.xml" for split in dataset.splits or ("",))}

    def __init__(self, root: Path, dataset: Dataset) -> None:
        super().__init__(root, dataset)
        self._files = {
            split: (root / f"{split or 'annotations'}.xml").open("w", encoding="utf-8")
            for split in dataset.splits or ("",)
        }
        for file in self._files.values():
            file.write(self._head())
        self._images = 0

    def _head(self) -> str:
        attributes = "".join(
            f"<attribute><name>{name}</name><mutable>False</mutable><input_type>{kind}</input_type>"
            f"<default_value></default_value><values>{'1;100000;1' if kind == 'number' else ''}</values></attribute>"
            for name, kind in _ATTRIBUTES
        )
        labels = "".join(
            f"<label><name>{escape(xml_text(x.name))}</name><type>mask</type><attributes>{attributes}</attributes></label>"
            for x in self.dataset.categories
        )
        return (
            f'<?xml version="1.0" encoding="utf-8"?>\n<!-- {MADE_BY} -->\n<annotations>\n<version>1.1</version>\n'
            f"<meta><task><mode>annotation</mode><labels>{labels}</labels></task></meta>\n"
        )

    def add(self, video: Video, frames: Iterator[ExportFrame]) -> None:
        """Write the images of a video."""
        file, run = self._files[video.split], video.run
        # A single video may be imported into a task that was made from it, so the id is the frame's number there.
        alone = len(self.dataset.videos) == 1
        subset = f" subset={quoteattr(video.split)}" if video.split else ""
        for frame in frames:
            name = quoteattr(xml_text(f"{video.name}/{frame.file_name}"))
            number = frame.number if alone else self._images
            self._images += 1
            masks = (
                [
                    f"<mask label={quoteattr(xml_text(mask.object.category.name))}"
                    f' source="auto" occluded="0" {mask_attributes(decoded, mask.box)} z_order="{z}">'
                    f'<attribute name="track_id">{mask.object.track_id}</attribute>'
                    f'<attribute name="score">{mask.score}</attribute></mask>\n'
                    for z, (mask, decoded) in enumerate(zip(frame.masks, frame.decoded(), strict=True))
                ]
                if frame.masks
                else []
            )
            file.write(
                f'<image id="{number}" name={name}{subset} width="{run.width}" height="{run.height}">\n'
                f"{''.join(masks)}</image>\n"
            )

    def picture_path(self, video: Video, file_name: str) -> str:
        """``images/train/video/00000.jpg``."""
        folder = f"{video.split}/" if video.split else ""
        return f"images/{folder}{video.name}/{file_name}"

    def single_file(self) -> str:
        """The only file."""
        return "annotations.xml"

    def finish(self) -> None:
        """Complete the files."""
        for file in self._files.values():
            file.write("</annotations>\n")
            file.close()

    def abort(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()


def mask_attributes(mask: np.ndarray, box: list[float]) -> str:
    """The ``rle``, ``left``, ``top``, ``width`` and ``height`` of a mask (height, width) with its box.

    Runs go along the rows of the box, background first. They are not COCO's, which go down the image's columns.
    """
    left, top, width, height = (int(x) for x in box)
    inside = mask[top : top + height, left : left + width].ravel() > 0
    changes = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    runs = np.diff(changes, prepend=0, append=inside.size).tolist()
    rle = ", ".join(map(str, [0, *runs] if inside[0] else runs))
    return f'rle="{rle}" left="{left}" top="{top}" width="{width}" height="{height}"'
