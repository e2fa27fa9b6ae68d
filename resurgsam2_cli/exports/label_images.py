"""DAVIS and SA-V: trees of PNGs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.exports.base import Dataset, Exporter, ExportFrame, Video
from resurgsam2_cli.files.label_images import labels_png, read_labels
from resurgsam2_cli.files.text import counted
from resurgsam2_cli.runs.record import MASKS


class _Tree(Exporter):
    """``<video>/`` at the root; with pictures or splits ``Annotations/<video>/`` beside ``JPEGImages/<video>/``."""

    @classmethod
    def contents(cls, dataset: Dataset) -> set[str]:
        """Splits, two folders, or videos."""
        videos = {x.flat_name for x in dataset.videos}
        return set(dataset.splits) or ({"Annotations", "JPEGImages"} if dataset.options.frames else videos)

    def folder_of(self, video: Video) -> Path:
        """The folder of the video's masks."""
        folder = self.root / video.split
        if self.dataset.splits or self.dataset.options.frames:
            folder = folder / "Annotations"
        return folder / video.flat_name

    def picture_path(self, video: Video, file_name: str) -> str:
        """``train/JPEGImages/video/00000.jpg``."""
        folder = f"{video.split}/" if video.split else ""
        return f"{folder}JPEGImages/{video.flat_name}/{file_name}"


class DavisExport(_Tree):
    """``<video>/00000.png``: palette images, pixel = object id."""

    def __init__(self, root: Path, dataset: Dataset) -> None:
        super().__init__(root, dataset)
        self._frames = self._pixels = 0

    def add(self, video: Video, frames: Iterator[ExportFrame]) -> None:
        """Write the label images of a video."""
        folder = self.folder_of(video)
        folder.mkdir(parents=True)
        for frame in frames:
            (folder / f"{frame.name}.png").write_bytes(labels_png(self._labels(video, frame)))

    def _labels(self, video: Video, frame: ExportFrame) -> np.ndarray:
        """(height, width) uint8. Where masks overlap, take the object in the run's own label image, else the best one.

        That image, if the run has one, was made from the logits, which say to which object a pixel belongs most.
        """
        labels = np.zeros((video.run.height, video.run.width), np.uint8)
        if not frame.masks:
            return labels
        masks = frame.decoded()
        for i in sorted(range(len(masks)), key=lambda i: (frame.masks[i].score, -frame.masks[i].object.id)):
            labels[masks[i] > 0] = frame.masks[i].object.id
        shared = masks.sum(axis=0, dtype=np.uint8) > 1 if len(masks) > 1 else None
        if shared is not None and shared.any():
            self._frames += 1
            self._pixels += int(shared.sum())
            shown = _run_labels(video, frame)
            if shown is not None:
                for mask, x in zip(masks, frame.masks, strict=True):
                    labels[shared & (mask > 0) & (shown == x.object.id)] = x.object.id
        return labels

    def losses(self) -> list[str]:
        """Report pixels that belong to several objects."""
        if not self._pixels:
            return []
        pixels, frames = counted(self._pixels, "pixel"), counted(self._frames, "frame")
        return [f"{pixels} in {frames} belong to several objects: a label image holds one of them (sav holds all)"]


def _run_labels(video: Video, frame: ExportFrame) -> np.ndarray | None:
    path = video.run.folder / MASKS / f"{frame.name}.png"
    if not path.exists():
        return None
    labels = read_labels(path, "segment the video again")
    if labels.shape != (video.run.height, video.run.width):
        raise InputError(f"{path}: has another size than its video", "segment the video again")
    return labels


class SavExport(_Tree):
    """``<video>/001/00000.png``: an image of 0 and 1 per object and frame; objects may overlap.

    They are as SAM 2 writes them: 1, not 255, in the DAVIS palette, even where the object is absent.
    """

    def add(self, video: Video, frames: Iterator[ExportFrame]) -> None:
        """Write the images of all objects of a video."""
        folders = {x: self.folder_of(video) / f"{x:03d}" for x in video.objects}
        for folder in folders.values():
            folder.mkdir(parents=True)
        empty = np.zeros((video.run.height, video.run.width), np.uint8)
        for frame in frames:
            found = dict(zip((x.object.id for x in frame.masks), frame.decoded() if frame.masks else (), strict=True))
            for object_id, folder in folders.items():
                (folder / f"{frame.name}.png").write_bytes(labels_png(found.get(object_id, empty)))
