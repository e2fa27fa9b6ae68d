"""Mask logits to masks in the size of the video."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch

from model import resize_masks
from model.initial_frame import presence
from model.network import ABSENT_LOGIT
from model.preprocess import RENDERED_TOGETHER, bits_and_labels, draw_labels, split_bits_and_labels
from model.states import ObjectState
from model.streams import Arriving, Handed
from resurgsam2_cli.files.rle import decoded
from resurgsam2_cli.outputs import FrameResult, ObjectResult
from resurgsam2_cli.outputs.base import NO_PIXELS, PackedMasks, boxes_around, region_of
from resurgsam2_cli.video.frames import Frame


@dataclass(frozen=True)
class Prediction:
    """What the network says about a frame."""

    frame: Frame
    mask_logits: Handed[torch.Tensor]
    """(objects, size / 4, size / 4) float32, on the device"""
    objects: list[ObjectResult]
    given: Mapping[int, str] = field(default_factory=dict)
    """Masks that a person gave, by row, as compressed RLE in the size of the frame: they stand as they are"""


def rendering(
    prediction: Prediction, threshold: float, render: Callable[..., torch.Tensor] = bits_and_labels
) -> Callable[[], FrameResult]:
    """Start to render a frame; the function that comes back waits for a GPU, and gives the result.

    ``render`` may be the executor's, which records it.
    """
    frame = prediction.frame
    height, width = frame.rgb.shape[:2]
    mask_logits = prediction.mask_logits.take()
    if prediction.given:  # the label image is first that of the other objects
        mask_logits = mask_logits.clone()
        for given in prediction.given:  # by a list of them, a GPU would wait for the list
            mask_logits[given] = ABSENT_LOGIT

    def result(
        made: np.ndarray | PackedMasks, labels: np.ndarray, boxes: list[list[float] | None] | None = None
    ) -> FrameResult:
        found = FrameResult(frame.number, frame.name, frame.time, frame.rgb, made, labels, prediction.objects, boxes)
        return _with_given(found, prediction.given) if prediction.given else found

    if mask_logits.device.type == "cpu":
        return partial(result, *_rendered_here(mask_logits, height, width, threshold))

    # The masks come back as bits, which is an eighth of their bytes.
    row = Arriving(render(mask_logits, height, width, threshold))

    def wait() -> FrameResult:
        bits, labels = split_bits_and_labels(row.wait().numpy(), height, width)
        return result(PackedMasks(bits, width), labels)

    return wait


def _with_given(result: FrameResult, given: Mapping[int, str]) -> FrameResult:
    """A frame with masks that a person gave, which lie on top in the label image, the last object's uppermost."""
    masks, boxes, labels = result.masks.copy(), list(result.boxes), result.labels.copy()
    for row, counts in sorted(given.items()):
        masks[row] = decoded(counts, labels.shape)
        (boxes[row],) = boxes_around(masks[row : row + 1])
        labels[masks[row]] = row + 1
    return replace(result, made=masks, labels=labels, known_boxes=boxes)


def _rendered_here(
    mask_logits: torch.Tensor, height: int, width: int, threshold: float
) -> tuple[np.ndarray, np.ndarray, list[list[float] | None]]:
    """Masks, label image and boxes on a CPU, a few objects at a time."""
    masks = np.empty((len(mask_logits), height, width), bool)
    boxes: list[list[float] | None] = []
    labels = torch.zeros((height, width), dtype=torch.uint8)
    highest = mask_logits.new_full((height, width), threshold)
    for first in range(0, len(mask_logits), RENDERED_TOGETHER):
        full = resize_masks(mask_logits[first : first + RENDERED_TOGETHER], height, width)
        few = masks[first : first + RENDERED_TOGETHER]
        torch.gt(full, threshold, out=torch.from_numpy(few))
        found = boxes_around(few)
        boxes += found
        if len(masks) > 1:
            draw_labels(full, first + 1, labels, highest, [region_of(box) for box in found])
    return masks, masks[0].astype(np.uint8) if len(masks) == 1 else labels.numpy(), boxes


def passed(frame: Frame, rows: Sequence[int], states: Sequence[ObjectState]) -> FrameResult:
    """A frame that a pass went over, and these objects in it, without their masks."""
    objects = [
        ObjectResult(row + 1, x.stage, x.present, x.object_score, x.predicted_iou, presence(x.object_score), (), ())
        for row, x in zip(rows, states, strict=True)
    ]
    return FrameResult(frame.number, frame.name, frame.time, NO_PIXELS, NO_PIXELS, NO_PIXELS, objects)
