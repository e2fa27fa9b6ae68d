"""Decoded frames to network input, and mask logits to masks in the size of the video."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from model.config import NetworkConfig
from model.fused import resample


def preprocess(frames: list[Any], config: NetworkConfig, device: torch.device | str = "cpu") -> Tensor:
    """RGB frames, arrays or tensors (height, width, 3) uint8, to (frames, 3, size, size) float32 on ``device``.

    The aspect ratio is ignored. The published code resizes the uint8 image with PIL's default filter (bicubic,
    antialiased); another filter, or resizing floats, changes the masks. Frames travel to the device as uint8, and a
    CUDA device resizes them itself. Frames that :func:`shrunk` gave need no more of it.
    """
    size = (config.image_size, config.image_size)
    if torch.device(device).type == "cuda":
        # Nothing waits here for frames in pinned memory.
        images = torch.stack([torch.as_tensor(frame).to(device, non_blocking=True) for frame in frames])
        images = resized(images, *size)
    else:
        images = torch.from_numpy(np.stack([shrunk(np.asarray(frame), config) for frame in frames])).to(device)
    return normalized(images, config)


def normalized(images: Tensor, config: NetworkConfig) -> Tensor:
    """Images (frames, size, size, 3) uint8 to what the network gets, (frames, 3, size, size) float32."""
    # By a tensor: CUDA divides by a number as a product with its reciprocal, and half of the values differ then.
    images = images.permute(0, 3, 1, 2) / _channels((255.0,), images.device)
    return (images - _channels(config.image_mean, images.device)) / _channels(config.image_std, images.device)


@cache  # recordings (model.replay) read them where they lie
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


def shrunk(frame: np.ndarray, config: NetworkConfig) -> np.ndarray:
    """A frame (height, width, 3) uint8 in the size of the network's input, by PIL."""
    size = config.image_size
    if frame.shape[:2] == (size, size):
        return frame
    # The columns first: from version 13 on, PIL would choose the order by the size, and round otherwise.
    image = Image.fromarray(frame)
    return np.asarray(image.resize((size, image.height)).resize((size, size)))


_FRACTION = 22  # bits of PIL's fixed-point weights


def resized(images: Tensor, height: int, width: int) -> Tensor:
    """(frames, h, w, 3) uint8 to (frames, height, width, 3) uint8 on the same device, bit by bit as PIL does it.

    Source: ``Resample.c`` of Pillow. First the columns, then the rows, each rounded to uint8.
    """
    for axis, size in ((2, width), (1, height)):
        if images.shape[axis] != size:
            images = resample(images, axis, *_taps(images.shape[axis], size, images.device), _FRACTION)
    return images


@cache  # recordings (model.replay) read them where they lie
def _taps(size: int, new: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of PIL's bicubic filter along an axis: which pixels a new one is made of, and their weights; (taps, new)."""
    scale = size / new
    stretch = max(scale, 1.0)
    support = 2 * stretch
    taps = math.ceil(support) * 2 + 1
    at, weights = np.zeros((2, taps, new), np.int64)
    for i in range(new):
        center = (i + 0.5) * scale
        first = max(0, int(center - support + 0.5))
        last = min(size, int(center + support + 0.5))
        parts = [_bicubic((x - center + 0.5) * (1 / stretch)) for x in range(first, last)]
        total = sum(parts)
        for k, part in enumerate(parts):
            scaled = part / total * (1 << _FRACTION)
            at[k, i], weights[k, i] = first + k, int(scaled + 0.5 if scaled >= 0 else scaled - 0.5)
    return torch.from_numpy(at).to(device), torch.from_numpy(weights.astype(np.int32)).to(device)


def _bicubic(x: float) -> float:
    x, a = abs(x), -0.5
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def given_masks(masks: Any, config: NetworkConfig, device: torch.device | str = "cpu") -> Tensor:
    """Masks (objects, height, width) bool, array or tensor, in the size of the network's input: float32, 0 or 1."""
    masks = torch.as_tensor(masks).to(device)[:, None].float()
    size = (config.image_size, config.image_size)
    if masks.shape[-2:] != size:
        masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=False, antialias=True)
    return (masks[:, 0] >= 0.5).float()


def resize_masks(mask_logits: Tensor, height: int, width: int) -> Tensor:
    """Mask logits (objects, s, s) to the size of the video, (objects, height, width), bilinearly."""
    return F.interpolate(mask_logits[:, None], size=(height, width), mode="bilinear", align_corners=False)[:, 0]


Region = tuple[slice, slice]
"""Rows and columns of a picture."""


def label_image(mask_logits: Tensor, threshold: float = 0.0, regions: list[Region] | None = None) -> Tensor:
    """One image of all objects: (objects, height, width) logits to (height, width) uint8.

    Each pixel belongs to the object with the highest logit there, 1 for the first, if that is above
    ``threshold``; else it is 0. The first object wins a tie. Given ``regions``, outside of which no logit of an object
    is above the threshold, a CPU looks at nothing else.
    """
    if len(mask_logits) == 1:
        return (mask_logits[0] > threshold).to(torch.uint8)
    labels = torch.zeros(mask_logits.shape[1:], dtype=torch.uint8, device=mask_logits.device)
    draw_labels(mask_logits, 1, labels, torch.full_like(mask_logits[0], threshold), regions)
    return labels


def draw_labels(
    mask_logits: Tensor, first: int, labels: Tensor, highest: Tensor, regions: list[Region] | None = None
) -> None:
    """Draw objects with the labels ``first``, ``first`` + 1, ... over those that are there already.

    ``highest`` has the logits of what is there, and takes those of what is drawn.
    """
    for i, logits in enumerate(mask_logits):  # on a CPU a third of the time of a maximum with its index
        region = regions[i] if regions else (slice(None), slice(None))
        before, found = highest[region], logits[region]
        labels[region].masked_fill_(found > before, first + i)
        torch.maximum(before, found, out=before)


RENDERED_TOGETHER = 16
"""Objects whose masks are in the size of the video at the same time."""


def masks_of(mask_logits: Tensor, height: int, width: int, threshold: float = 0.0) -> np.ndarray:
    """Masks (objects, height, width) bool on the host, from mask logits (objects, s, s) on any device."""
    masks = np.empty((len(mask_logits), height, width), bool)
    for first in range(0, len(mask_logits), RENDERED_TOGETHER):
        few = slice(first, first + RENDERED_TOGETHER)
        masks[few] = (resize_masks(mask_logits[few], height, width) > threshold).cpu().numpy()
    return masks


def bits_and_labels(
    mask_logits: Tensor, height: int, width: int, threshold: float = 0.0, together: int = RENDERED_TOGETHER
) -> Tensor:
    """Masks (:func:`packed`) and :func:`label_image` in the size of the video, from mask logits (objects, s, s).

    Both come in one row of uint8, which :func:`split_bits_and_labels` takes apart on the host. For a GPU: as many
    kernels for many objects as for one, memory for those of them that go ``together``, and one copy.
    """
    bits = []
    highest = mask_logits.new_full((height, width), threshold)
    labels = torch.zeros((height, width), dtype=torch.int64, device=mask_logits.device)
    for first in range(0, len(mask_logits), together):
        full = resize_masks(mask_logits[first : first + together], height, width)
        bits.append(packed(full > threshold))
        best, index = full.max(dim=0)  # the first of equal ones
        labels = torch.where(best > highest, index + (first + 1), labels)
        highest = torch.maximum(best, highest)
    return torch.cat([*(x.flatten() for x in bits), labels.to(torch.uint8).flatten()])


def split_bits_and_labels(row: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks (objects, height, width / 8), rounded up, and label image (height, width), both uint8."""
    masks = len(row) - height * width
    return row[:masks].reshape(-1, height, -(-width // 8)), row[masks:].reshape(height, width)


def packed(masks: Tensor) -> Tensor:
    """(..., width) bool to (..., width / 8) uint8, rounded up, as ``numpy.packbits`` does it."""
    bits, missing = masks.view(torch.uint8), -masks.shape[-1] % 8
    if missing:
        bits = F.pad(bits, (0, missing))
    return (bits.unflatten(-1, (-1, 8)) << _places(masks.device)).sum(dim=-1, dtype=torch.uint8)


@cache
def _places(device: torch.device) -> Tensor:
    return torch.arange(7, -1, -1, dtype=torch.uint8, device=device)
