"""Frames in and masks out: a device does what PIL and numpy do on a CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model.preprocess import masks_of, packed, resize_masks, resized

sizes = st.integers(1, 90)


@settings(max_examples=60, deadline=None)
@given(height=sizes, width=sizes, new_height=sizes, new_width=sizes, seed=st.integers(0, 99), hard=st.booleans())
def test_resizing_as_pil_does(height: int, width: int, new_height: int, new_width: int, seed: int, hard: bool) -> None:
    """Resizing equals PIL's bit by bit, even where weights overshoot at hard edges."""
    images = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    if hard:
        images = (images > 127).astype(np.uint8) * 255
    columns = [Image.fromarray(image).resize((new_width, height)) for image in images]
    expected = [np.asarray(image.resize((new_width, new_height))) for image in columns]
    assert np.array_equal(resized(torch.from_numpy(images), new_height, new_width).numpy(), np.stack(expected))


@pytest.mark.parametrize("size", [(720, 1280, 512), (1080, 1920, 256), (480, 854, 512)])
def test_resizing_videos(size: tuple[int, int, int]) -> None:
    height, width, new = size
    image = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image[0]).resize((new, new)))
    assert np.array_equal(resized(torch.from_numpy(image), new, new)[0].numpy(), expected)


@given(objects=st.integers(0, 3), height=st.integers(1, 9), width=st.integers(1, 33), seed=st.integers(0, 99))
def test_masks_as_bits(objects: int, height: int, width: int, seed: int) -> None:
    masks = np.random.default_rng(seed).random((objects, height, width)) > 0.5
    bits = packed(torch.from_numpy(masks)).numpy()
    assert bits.shape == (objects, height, -(-width // 8))
    assert np.array_equal(np.unpackbits(bits, axis=-1, count=width).view(bool), masks)


@pytest.mark.parametrize("objects", [0, 1, 16, 17, 40])
def test_masks_a_few_at_a_time(objects: int) -> None:
    """Each is the one that it would be alone, and in the order of the objects."""
    logits = torch.randn(objects, 8, 8, generator=torch.Generator().manual_seed(objects))
    masks = masks_of(logits, 13, 21, 0.1)
    assert masks.shape == (objects, 13, 21)
    for mask, own in zip(masks, logits, strict=True):
        assert np.array_equal(mask, (resize_masks(own[None], 13, 21)[0] > 0.1).numpy())
