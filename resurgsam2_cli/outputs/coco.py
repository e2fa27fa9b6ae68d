"""``annotations.json``: COCO with compressed RLE, and the extra fields of video annotation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from resurgsam2_cli import __version__
from resurgsam2_cli.outputs.base import Clip, FrameResult, Sink


def categories_of(labels: Iterable[str]) -> dict[str, int]:
    """Category ids from 1, one per label, in order of appearance (0 breaks CVAT and datumaro)."""
    return {label: i for i, label in enumerate(dict.fromkeys(labels), start=1)}


class CocoJson(Sink):
    """Frames where an object is absent have no annotation of it: an empty one costs AP and breaks CVAT.

    COCO is one JSON object with two long lists. Each grows in a file of its own, so that memory does not.
    """

    def __init__(self, folder: Path, clip: Clip) -> None:
        super().__init__(folder, clip)
        self._categories = categories_of(prompt.label for prompt in clip.prompts)
        self._images = _JsonList(folder / "annotations.json.images")
        self._annotations = _JsonList(folder / "annotations.json.annotations")

    def write(self, result: FrameResult) -> None:
        """Add the frame and its annotations."""
        clip = self.clip
        image_id = self._images.count + 1
        self._images.add(
            {
                "id": image_id,
                "file_name": f"{clip.name}/{result.file_name}",
                "width": clip.width,
                "height": clip.height,
                "video_id": 1,
                "frame_index": result.number,
            }
        )
        for i, x in enumerate(result.objects):
            box = result.boxes[i]
            if box is None:
                continue
            extra = {"track_id": x.id, "score": round(x.score, 6)}
            self._annotations.add(
                {
                    "id": self._annotations.count + 1,
                    "image_id": image_id,
                    "category_id": self._categories[clip.prompts[i].label],
                    "segmentation": result.rle[i],
                    "area": float(result.areas[i]),
                    "bbox": box,
                    "iscrowd": 0,
                    **extra,
                    "attributes": extra,  # datumaro drops unknown fields of the top level
                }
            )

    def finish(self) -> Iterable[str]:
        """Join the parts."""
        clip = self.clip
        head = {
            "info": {
                "description": f"{clip.name}: masks of {', '.join(p.text for p in clip.prompts)}",
                "version": __version__,
                "contributor": f"resurgsam2 {__version__}",
            },
            "licenses": [],
            "videos": [
                {
                    "id": 1,
                    "name": clip.name,
                    "width": clip.width,
                    "height": clip.height,
                    "length": self._images.count,
                }
            ],
            "categories": [{"id": i, "name": label, "supercategory": ""} for label, i in self._categories.items()],
        }
        with (self.folder / "annotations.json").open("w", encoding="utf-8") as file:
            file.write(json.dumps(head, ensure_ascii=False)[:-1])
            for name, part in (("images", self._images), ("annotations", self._annotations)):
                file.write(f', "{name}": ')
                part.move_into(file)
            file.write("}\n")
        return ["annotations.json"]

    def abort(self) -> None:
        """Close the parts."""
        self._images.close()
        self._annotations.close()


class _JsonList:
    """A JSON list that grows in a file."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path
        self._file = path.open("w+", encoding="utf-8")

    def add(self, item: dict[str, Any]) -> None:
        self._file.write((",\n" if self.count else "") + json.dumps(item, ensure_ascii=False))
        self.count += 1

    def move_into(self, file: IO[str]) -> None:
        """Write the list into ``file`` and remove its own."""
        self._file.seek(0)
        file.write("[")
        shutil.copyfileobj(self._file, file)
        file.write("]")
        self.close()
        self._path.unlink()

    def close(self) -> None:
        self._file.close()
