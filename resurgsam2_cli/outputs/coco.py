"""``annotations.json``: COCO with compressed RLE, and the extra fields of video annotation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resurgsam2_cli import __version__
from resurgsam2_cli.files.json_list import JsonList, write_object
from resurgsam2_cli.files.kinds import partial_name
from resurgsam2_cli.outputs.base import Clip, FrameResult, Sink
from resurgsam2_cli.runs.record import ANNOTATIONS
from resurgsam2_cli.runs.sums import file_sum


def categories_of(labels: Iterable[str]) -> dict[str, int]:
    """Category ids from 1, one per label, in order of appearance (0 breaks CVAT and datumaro)."""
    return {label: i for i, label in enumerate(dict.fromkeys(labels), start=1)}


@dataclass(frozen=True, slots=True)
class MaskEntry:
    """What COCO keeps of the mask of an object in a frame."""

    rle: dict[str, Any]
    """Compressed, ``counts`` as an ASCII string."""
    area: float
    """Pixels."""
    box: list[float]
    """[x, y, width, height]"""
    track_id: int
    score: float


def image_entry(image_id: int, file_name: str, height: int, width: int, video_id: int, number: int) -> dict[str, Any]:
    """An item of ``images``; ``number`` is the frame's in the source."""
    return {
        "id": image_id,
        "file_name": file_name,
        "width": width,
        "height": height,
        "video_id": video_id,
        "frame_index": number,
    }


def annotation_entry(annotation_id: int, image_id: int, category_id: int, mask: MaskEntry) -> dict[str, Any]:
    """An item of ``annotations``."""
    extra = {"track_id": mask.track_id, "score": mask.score}
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": mask.rle,
        "area": float(mask.area),
        "bbox": mask.box,
        "iscrowd": 0,
        **extra,
        "attributes": extra,  # datumaro drops unknown fields of the top level
    }


def video_entry(video_id: int, name: str, height: int, width: int, length: int) -> dict[str, Any]:
    """An item of ``videos``; ``length`` counts its frames in the file."""
    return {"id": video_id, "name": name, "width": width, "height": height, "length": length}


def category_entry(category_id: int, name: str, supercategory: str = "") -> dict[str, Any]:
    """An item of ``categories``."""
    return {"id": category_id, "name": name, "supercategory": supercategory}


def coco_head(
    description: str, videos: list[dict[str, Any]], categories: list[dict[str, Any]], demo_videos: Sequence[str] = ()
) -> dict[str, Any]:
    """All of a COCO file but its two long lists; ``demo_videos`` names those whose masks the demo network made."""
    info: dict[str, Any] = {"description": description}
    if demo_videos:
        info = {"description": f"{description} (demo weights)", "demo_weights": list(demo_videos)}
    info |= {"version": __version__, "contributor": f"resurgsam2 {__version__}"}
    return {"info": info, "licenses": [], "videos": videos, "categories": categories}


class CocoJson(Sink):
    """Frames where an object is absent have no annotation of it: an empty one costs AP and breaks CVAT.

    COCO is one JSON object with two long lists. Each grows in a file of its own, so that memory does not.
    """

    def __init__(self, folder: Path, clip: Clip) -> None:
        super().__init__(folder, clip)
        self._categories = categories_of(prompt.label for prompt in clip.prompts)
        self._images = JsonList(folder / partial_name("images"))
        self._annotations = JsonList(folder / partial_name("annotations"))

    def add(self, result: FrameResult) -> None:
        """Add the frame and its annotations."""
        clip = self.clip
        image_id = self._images.count + 1
        file_name = f"{clip.name}/{result.file_name}"
        self._images.add(image_entry(image_id, file_name, clip.height, clip.width, 1, result.number))
        for i, x in enumerate(result.objects):
            box = result.boxes[i]
            if box is None:
                continue
            category_id = self._categories[clip.prompts[i].label]
            mask = MaskEntry(result.rle[i], result.areas[i], box, x.id, round(x.score, 6))
            self._annotations.add(annotation_entry(self._annotations.count + 1, image_id, category_id, mask))

    def finish(self) -> Iterable[str]:
        """Join the parts."""
        clip = self.clip
        head = coco_head(
            f"{clip.name}: masks of {', '.join(p.text for p in clip.prompts)}",
            [video_entry(1, clip.name, clip.height, clip.width, self._images.count)],
            [category_entry(i, label) for label, i in self._categories.items()],
            [clip.name] if clip.demo_weights else [],
        )
        lists = {"images": self._images, "annotations": self._annotations}
        write_object(self.folder / ANNOTATIONS, head, lists)
        self.sums = {ANNOTATIONS: file_sum(self.folder / ANNOTATIONS)}
        return [ANNOTATIONS]

    def abort(self) -> None:
        """Close the parts."""
        self._images.close()
        self._annotations.close()
