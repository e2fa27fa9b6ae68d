"""COCO of many videos: unique ids, one list of categories, the layout of COCO, datumaro and CVAT."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resurgsam2_cli.exports.base import MADE_BY, Dataset, Exporter, ExportFrame, Video
from resurgsam2_cli.files.json_list import JsonList, write_object
from resurgsam2_cli.outputs.coco import (
    MaskEntry,
    annotation_entry,
    category_entry,
    coco_head,
    image_entry,
    video_entry,
)


class CocoExport(Exporter):
    """``annotations/instances_<split>.json``, and pictures in ``images/<split>/<video>/``."""

    file_suffix = ".json"
    inner_suffixes = frozenset({".json", ".images", ".annotations"})

    @classmethod
    def contents(cls, dataset: Dataset) -> set[str]:
        """Two folders."""
        return {"annotations", "images"}

    def __init__(self, root: Path, dataset: Dataset) -> None:
        super().__init__(root, dataset)
        (root / "annotations").mkdir()
        self._parts = {split: _Part(root / "annotations", split) for split in dataset.splits or ("default",)}
        self._images = self._annotations = 0

    def add(self, video: Video, frames: Iterator[ExportFrame]) -> None:
        """Add the images and annotations of a video."""
        part, run = self._parts[video.split or "default"], video.run
        count = 0
        for frame in frames:
            count += 1
            self._images += 1
            file_name = f"{video.name}/{frame.file_name}"
            part.images.add(image_entry(self._images, file_name, run.height, run.width, video.id, frame.number))
            for mask in frame.masks:
                self._annotations += 1
                entry = MaskEntry(mask.rle, mask.area, mask.box, mask.object.track_id, mask.score)
                part.annotations.add(annotation_entry(self._annotations, self._images, mask.object.category.id, entry))
        if run.demo_weights:
            part.demo_videos.append(video.name)
        part.videos.append(video_entry(video.id, video.name, run.height, run.width, count))

    def picture_path(self, video: Video, file_name: str) -> str:
        """``images/train/video/00000.jpg``."""
        return f"images/{video.split or 'default'}/{video.name}/{file_name}"

    def single_file(self) -> str:
        """The only file."""
        return "annotations/instances_default.json"

    def finish(self) -> None:
        """Join the parts of each file."""
        categories = [category_entry(x.id, x.name, x.supercategory) for x in self.dataset.categories]
        for part in self._parts.values():
            head = coco_head(f"{part.title}, {MADE_BY}", part.videos, categories, part.demo_videos)
            write_object(part.path, head, {"images": part.images, "annotations": part.annotations})

    def abort(self) -> None:
        """Close the parts."""
        for part in self._parts.values():
            part.images.close()
            part.annotations.close()


class _Part:
    """The file of a split."""

    def __init__(self, folder: Path, split: str) -> None:
        self.title = f"Masks of instruments and tissue ({split})"
        self.path = folder / f"instances_{split}.json"
        self.videos: list[dict[str, Any]] = []
        self.demo_videos: list[str] = []
        self.images = JsonList(folder / f"{split}.images")
        self.annotations = JsonList(folder / f"{split}.annotations")
