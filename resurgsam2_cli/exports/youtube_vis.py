"""YouTube-VIS: one annotation per object and video, with a mask or null for each frame."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from resurgsam2_cli.exports.base import MADE_BY, Dataset, Exporter, ExportFrame, Video, VideoObject
from resurgsam2_cli.files.json_list import JsonList, write_object
from resurgsam2_cli.files.rle import check_rle, run_lengths
from resurgsam2_cli.outputs.coco import category_entry, coco_head


class YouTubeVisExport(Exporter):
    """``instances.json``, and pictures in ``JPEGImages/<video>/``; each split has a folder.

    With compressed masks also ``results.json``, the list of scored tracks that evaluators take as predictions.
    """

    file_suffix = ".json"
    inner_suffixes = frozenset({".json", ".videos", ".annotations", ".tracks"})

    @classmethod
    def contents(cls, dataset: Dataset) -> set[str]:
        """Splits, or files and the pictures."""
        files = ("instances.json", "results.json", "instances.videos", "instances.annotations", "results.tracks")
        return set(dataset.splits) or {"JPEGImages", *files}

    def __init__(self, root: Path, dataset: Dataset) -> None:
        super().__init__(root, dataset)
        self._compressed = dataset.options.rle == "compressed"
        self._parts = {split: _Part(root / split, self._compressed) for split in dataset.splits or ("",)}
        self._annotations = 0
        self._never_there = 0

    def add(self, video: Video, frames: Iterator[ExportFrame]) -> None:
        """Turn the masks of frames into those of objects, through a temporary file."""
        part = self._parts[video.split]
        if video.run.demo_weights:
            part.demo_videos.append(video.flat_name)
        names: list[str] = []
        with tempfile.TemporaryFile(dir=self.root) as file:
            lines = _Lines(file)
            tracks = {x.id: _Track(x, lines) for x in video.objects.values()}
            for frame in frames:
                for mask in frame.masks:
                    tracks[mask.object.id].add(len(names), self._rle(mask.rle), round(mask.area), mask.box, mask.score)
                names.append(f"{video.flat_name}/{frame.file_name}")
            for track in tracks.values():
                if not track.frames:
                    self._never_there += 1
                    continue
                self._annotations += 1
                self._write(part, video, track, len(names))
        size = {"width": video.run.width, "height": video.run.height}
        part.videos.add({"id": video.id, "name": video.name, **size, "length": len(names), "file_names": names})

    def _rle(self, rle: dict[str, Any]) -> dict[str, Any]:
        return rle if self._compressed else uncompressed(rle)

    def _write(self, part: _Part, video: Video, track: _Track, length: int) -> None:
        head = {
            "id": self._annotations,
            "video_id": video.id,
            "category_id": track.object.category.id,
            "track_id": track.object.track_id,
            "score": round(track.score_sum / track.frames, 6),
            "iscrowd": 0,
            "height": video.run.height,
            "width": video.run.width,
        }
        part.annotations.add_parts(head, {name: track.column(name, length) for name in _COLUMNS})
        if part.results is not None:
            head = {key: head[key] for key in ("video_id", "category_id", "score")}
            part.results.add_parts(head, {"segmentations": track.column("segmentations", length)})

    def picture_path(self, video: Video, file_name: str) -> str:
        """``train/JPEGImages/video/00000.jpg``."""
        folder = f"{video.split}/" if video.split else ""
        return f"{folder}JPEGImages/{video.flat_name}/{file_name}"

    def single_file(self) -> str:
        """The annotations, without the results."""
        return "instances.json"

    def finish(self) -> None:
        """Join the parts of each file."""
        categories = [category_entry(x.id, x.name, x.supercategory) for x in self.dataset.categories]
        for part in self._parts.values():
            head = coco_head(f"Masks of instruments and tissue, {MADE_BY}", [], categories, part.demo_videos)
            del head["videos"]
            lists = {"videos": part.videos, "annotations": part.annotations}
            write_object(part.folder / "instances.json", head, lists)
            if part.results is not None:
                with (part.folder / "results.json").open("w", encoding="utf-8") as file:
                    part.results.move_into(file)

    def abort(self) -> None:
        """Close the parts."""
        for part in self._parts.values():
            for items in (part.videos, part.annotations, part.results):
                if items is not None:
                    items.close()

    def losses(self) -> list[str]:
        """Report objects without any mask."""
        if not self._never_there:
            return []
        are = "is" if self._never_there == 1 else "are"
        return [f"{self._never_there} of the objects {are} in no exported frame: a track without masks is not written"]

    @property
    def suffix(self) -> str:
        """The pictures of YouTube-VIS are JPEG, so names say ``jpg`` if no pictures are exported."""
        return self.dataset.options.frames or "jpg"


_COLUMNS = ("segmentations", "areas", "bboxes")


class _Lines:
    """A temporary file whose lines are found again by their places."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._end = file, 0

    def add(self, line: str) -> int:
        """Append a line; return its place."""
        place = self._end
        self._end += self._file.write(line.encode("ascii") + b"\n")
        return place

    def at(self, place: int) -> str:
        """The line at a place."""
        self._file.seek(place)
        return self._file.readline().decode("ascii").rstrip("\n")


class _Track:
    """The masks of an object. They lie in a file; this keeps the places of their lines, eight bytes per frame."""

    def __init__(self, video_object: VideoObject, lines: _Lines) -> None:
        self.object, self.frames, self.score_sum = video_object, 0, 0.0
        self._lines = lines
        self._places = array("q")

    def add(self, position: int, rle: dict[str, Any], area: int, box: list[float], score: float) -> None:
        """Keep the mask of a frame; all frames are added before a column is read."""
        self._places.extend([-1] * (position - len(self._places)))
        self._places.append(self._lines.add("\t".join(json.dumps(x) for x in (rle, area, box))))
        self.frames += 1
        self.score_sum += score

    def column(self, name: str, length: int) -> Iterator[str]:
        """JSON of one of ``_COLUMNS`` for each frame."""
        at = _COLUMNS.index(name)
        for position in range(length):
            place = self._places[position] if position < len(self._places) else -1
            yield "null" if place < 0 else self._lines.at(place).split("\t")[at]


class _Part:
    """The files of a split."""

    def __init__(self, folder: Path, with_results: bool) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.demo_videos: list[str] = []
        self.videos = JsonList(folder / "instances.videos")
        self.annotations = JsonList(folder / "instances.annotations")
        self.results = JsonList(folder / "results.tracks") if with_results else None


def uncompressed(rle: dict[str, Any]) -> dict[str, Any]:
    """COCO's RLE with ``counts`` as a list of numbers, columns first, background first. Raises ``ValueError``."""
    height, width = rle["size"]
    check_rle(rle, height, width)
    return {"size": [height, width], "counts": run_lengths(rle["counts"]).tolist()}
