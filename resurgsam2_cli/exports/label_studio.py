"""Label Studio: a task for each frame, with the masks as predictions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from resurgsam2_cli.exports.base import MADE_BY, Dataset, Exporter, ExportFrame, Video
from resurgsam2_cli.files.brush import encode_brush
from resurgsam2_cli.files.json_list import JsonList
from resurgsam2_cli.files.palette import color_of
from resurgsam2_cli.files.text import xml_text
from resurgsam2_cli.runs.record import color_text

LOCAL_FILES = "/data/local-files/?d="
"""How Label Studio names files below its document root."""

TRACK = "track_id"
"""What the text of a region says before the number of its object."""


class LabelStudioExport(Exporter):
    """``tasks.json``, ``labels.xml`` (the labelling interface), and pictures in ``images/<video>/``.

    With splits, ``<split>.json``. The address of a picture is that of a file below Label Studio's document root.
    """

    file_suffix = ""

    @classmethod
    def contents(cls, dataset: Dataset) -> set[str]:
        """The labels, tasks for each split, and the pictures."""
        splits = [split or "tasks" for split in dataset.splits or ("",)]
        return {"labels.xml", "images", *(f"{x}{end}" for x in splits for end in (".json", ".tasks"))}

    def __init__(self, root: Path, dataset: Dataset) -> None:
        super().__init__(root, dataset)
        self._tasks = {split: JsonList(root / f"{split or 'tasks'}.tasks") for split in dataset.splits or ("",)}

    def add(self, video: Video, frames: Iterator[ExportFrame]) -> None:
        """Write the tasks of a video."""
        for frame in frames:
            masks = zip(frame.masks, frame.decoded(), strict=True) if frame.masks else ()
            result = [
                {
                    "id": f"{frame.number}-{mask.object.track_id}",
                    "type": "brushlabels",
                    "from_name": "label",
                    "to_name": "image",
                    "original_width": video.run.width,
                    "original_height": video.run.height,
                    "image_rotation": 0,
                    "score": mask.score,
                    "meta": {"text": [f"{TRACK} {mask.object.track_id}"]},
                    "value": {
                        "format": "rle",
                        "rle": encode_brush(decoded > 0),
                        "brushlabels": [mask.object.category.name],
                    },
                }
                for mask, decoded in masks
            ]
            self._tasks[video.split].add(self._task(video, frame, result))

    def _task(self, video: Video, frame: ExportFrame, result: list[dict[str, Any]]) -> dict[str, Any]:
        path = self.picture_path(video, frame.file_name)
        made_by = f"{MADE_BY} (demo weights)" if video.run.demo_weights else MADE_BY
        scores = [x["score"] for x in result]
        prediction = {"model_version": made_by, "score": min(scores, default=0.0), "result": result}
        data = {"image": LOCAL_FILES + quote(path), "video": video.name, "frame": frame.number}
        return {"data": data, "predictions": [prediction]}

    def picture_path(self, video: Video, file_name: str) -> str:
        """``images/train/video/00000.jpg``."""
        folder = f"{video.split}/" if video.split else ""
        return f"images/{folder}{video.name}/{file_name}"

    def finish(self) -> None:
        """Complete the files."""
        labels = "".join(
            f"    <Label value={quoteattr(xml_text(x.name))} background={quoteattr(color_text(color_of(i)))}/>\n"
            for i, x in enumerate(self.dataset.categories, start=1)
        )
        (self.root / "labels.xml").write_text(
            f'<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
            f'  <BrushLabels name="label" toName="image">\n{labels}  </BrushLabels>\n</View>\n',
            encoding="utf-8",
        )
        for split, tasks in self._tasks.items():
            with (self.root / f"{split or 'tasks'}.json").open(
                "w", encoding="utf-8", errors="backslashreplace"
            ) as file:
                tasks.move_into(file)

    def abort(self) -> None:
        """Close the parts."""
        for tasks in self._tasks.values():
            tasks.close()
