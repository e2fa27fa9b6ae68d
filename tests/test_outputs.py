"""What outputs make from masks."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from model import label_image
from resurgsam2_cli.outputs.base import FrameResult

pictures = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)


def frame(masks: np.ndarray) -> FrameResult:
    blank = np.zeros((*masks.shape[1:], 3), np.uint8)
    return FrameResult(0, "00000", 0, blank, masks, blank[..., 0], [])  # type: ignore[arg-type]


@given(pictures.flatmap(lambda shape: arrays(bool, (2, *shape))))
def test_rle_is_that_of_pycocotools(masks: np.ndarray) -> None:
    result = frame(masks)
    for mask, rle, area, box in zip(masks, result.rle, result.areas, result.boxes, strict=True):
        expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert rle == {"size": list(mask.shape), "counts": expected["counts"].decode("ascii")}
        assert area == coco_mask.area(expected)
        assert (box or [0, 0, 0, 0]) == coco_mask.toBbox(expected).tolist()


def test_rle_of_a_large_picture() -> None:
    """Some runs take more than a few characters of the code, and some continue in the next column."""
    mask = np.zeros((1, 1080, 1920), bool)
    mask[0, :, 700:900] = True
    mask[0, 500:, 1000:1001] = True
    (rle,) = frame(mask).rle
    assert np.array_equal(coco_mask.decode(rle), mask[0])
    assert rle["counts"] == coco_mask.encode(np.asfortranarray(mask[0].view(np.uint8)))["counts"].decode("ascii")


@given(pictures.flatmap(lambda shape: arrays(np.int8, (3, *shape), elements=st.integers(-2, 2))))
def test_labels_are_of_the_highest_logit(logits: np.ndarray) -> None:
    expected = np.where(logits.max(0) > 0, logits.argmax(0) + 1, 0)
    assert np.array_equal(label_image(torch.from_numpy(logits.astype(np.float32))).numpy(), expected)
