"""Finished runs without a network: the sinks that every run writes with, fed with drawn masks.

Each has an object with a hole, one that is absent at first, comes, goes and comes back, two that overlap, a label with
characters beyond ASCII, and odd sizes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resurgsam2_cli.files.palette import color_of
from resurgsam2_cli.outputs import SINKS, FrameResult, ObjectResult, Sink
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.pipeline import clip_of
from resurgsam2_cli.segmenting.summary import ObjectSummary, source_record
from resurgsam2_cli.video.frames import Frame
from resurgsam2_cli.video.positions import Part
from resurgsam2_cli.video.source import open_source

PROMPTS = (
    Prompt("left grasper", "Greifer für Gewebe"),
    Prompt("kidney", "kidney"),
    Prompt("right forceps", "鉗子"),
)
ABSENT = {1: (0, 1, 2, 6, 7)}
"""Positions at which the objects (from 0) are absent."""


@dataclass(frozen=True)
class FinishedRun:
    """What a run must be read back as."""

    folder: Path
    prompts: tuple[Prompt, ...]
    numbers: list[int]
    names: list[str]
    """The names of the frames' images."""
    masks: np.ndarray
    """(frames, objects, height, width) bool"""
    labels: np.ndarray
    """(frames, height, width) uint8"""
    scores: np.ndarray
    """(frames, objects)"""
    pictures: list[np.ndarray]


def draw_masks(position: int, height: int, width: int) -> np.ndarray:
    """(3, height, width) bool: a ring with a speck beside it, a disc that comes and goes, a bar over the ring."""
    y, x = np.mgrid[:height, :width]
    shift = 2 * position
    distance = np.hypot(y - height * 0.45, x - 20 - shift)
    ring = (distance < 15) & (distance > 6)
    ring[height - 3 : height - 1, 2:5] = True
    disc = np.hypot(y - height * 0.7, x - width * 0.75) < 12
    bar = (abs(y - height * 0.4) < 5) & (x > shift) & (x < width - 10)
    masks = np.stack((ring, disc, bar))
    for k, positions in ABSENT.items():
        if position in positions:
            masks[k] = False
    return masks


def finished_run(
    folder: Path, source: Path | str, part: Part | None = None, prompts: tuple[Prompt, ...] = PROMPTS, **options: Any
) -> FinishedRun:
    """Write a run of ``source`` as the pipeline does."""
    chosen = SegmentOptions(part=part or Part(), **options)
    folder.mkdir(parents=True)
    masks, labels, scores, frames = [], [], [], []
    summaries = [
        ObjectSummary(i, p.text, p.label, "#{:02x}{:02x}{:02x}".format(*color_of(i))) for i, p in enumerate(prompts, 1)
    ]
    with open_source(str(source)) as video:
        sinks: list[Sink] = []
        for position, frame in enumerate(video.frames(chosen.part)):
            if not sinks:
                clip = clip_of(folder.name, video, frame, prompts, chosen)
                sinks = [SINKS[name](folder, clip) for name in chosen.sinks]
            result = _result(position, frame, len(prompts))
            for sink in sinks:
                sink.write(result)
            for summary, x in zip(summaries, result.objects, strict=True):
                summary.add(frame.number, x)
            masks.append(result.masks)
            labels.append(result.labels)
            scores.append([round(x.score, 6) for x in result.objects])
            frames.append(frame)
        for sink in sinks:
            sink.finish()
        record = {
            "format": 1,
            "complete": True,
            "source": source_record(video, clip, len(frames), frames[-1].time - clip.start),
            "objects": [asdict(x) for x in summaries],
            "settings": chosen.record(),
            "sums": {name: x for sink in sinks for name, x in sink.sums.items()},
        }
    (folder / "run.json").write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    return FinishedRun(
        folder,
        prompts,
        [x.number for x in frames],
        [x.name for x in frames],
        np.array(masks),
        np.array(labels),
        np.array(scores),
        [x.rgb for x in frames],
    )


def _result(position: int, frame: Frame, count: int) -> FrameResult:
    height, width = frame.rgb.shape[:2]
    masks = draw_masks(position, height, width)[:count]
    labels = np.zeros((height, width), np.uint8)
    left = np.arange(width) < width // 3
    for k in range(count):  # where objects overlap, the last wins on the left, the first elsewhere
        labels[masks[k] & (left | (labels == 0))] = k + 1
    objects = [
        ObjectResult(
            id=k + 1,
            stage="track" if position > 5 else "detect",
            present=bool(masks[k].any()),
            object_score=2.0 + k - 0.1 * position,
            predicted_iou=0.9,
            presence=1 / (1 + float(np.exp(-(2.0 + k - 0.1 * position)))),
            conditioning_frames=(),
            long_term_frames=(),
        )
        for k in range(count)
    ]
    return FrameResult(frame.number, frame.name, frame.time, frame.rgb, masks, labels, objects)
