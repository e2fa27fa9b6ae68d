"""``frames.jsonl``: what was decided in each frame."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resurgsam2_cli.outputs.base import Clip, FrameResult, ObjectResult, Searched, Sink
from resurgsam2_cli.runs.record import FRAMES
from resurgsam2_cli.runs.sums import file_sum


def _said(x: ObjectResult | Searched) -> dict[str, Any]:
    return {
        "present": x.present,
        "object_score": round(x.object_score, 5),
        "predicted_iou": round(x.predicted_iou, 6),
    }


def state_entry(x: ObjectResult, area: int, box: list[float] | None, made_by: int = 0) -> dict[str, Any]:
    """What a frame's line says of an object; ``made_by`` is the number of the version that made the mask."""
    return {
        "id": x.id,
        "stage": x.stage,
        **_said(x),
        "area": area,
        "bbox": box,
        "conditioning_frames": list(x.conditioning_frames),
        "long_term_frames": list(x.long_term_frames),
        "pass": made_by,
        "direction": x.direction,
        **({} if x.search is None else {"search": _said(x.search)}),
    }


def frame_line(number: int, name: str, time: float, states: list[dict[str, Any]]) -> str:
    """The line of a frame, without its end."""
    line = {"frame": number, "name": name, "time": time, "objects": states}
    return json.dumps(line, ensure_ascii=False)


class FramesJsonl(Sink):
    """One line per frame."""

    def __init__(self, folder: Path, clip: Clip) -> None:
        super().__init__(folder, clip)
        self._file = (folder / FRAMES).open("w", encoding="utf-8")

    def add(self, result: FrameResult) -> None:
        """Add the frame's line."""
        states = [
            state_entry(x, area, box) for x, area, box in zip(result.objects, result.areas, result.boxes, strict=True)
        ]
        line = frame_line(result.number, result.name, round(float(result.time), 6), states)
        self._file.write(line + "\n")

    def finish(self) -> Iterable[str]:
        """Close the file."""
        self._file.close()
        self.sums = {FRAMES: file_sum(self.folder / FRAMES)}
        return [FRAMES]

    def abort(self) -> None:
        """Close the file."""
        self._file.close()
