"""Decoded frames to network input."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from model.config import NetworkConfig


def preprocess(frames: list[np.ndarray], config: NetworkConfig, device: torch.device | str = "cpu") -> Tensor:
    """RGB frames, each (height, width, 3) uint8, to (frames, 3, size, size) float32 on ``device``.

    The aspect ratio is ignored. The published code resizes the uint8 image with PIL's default filter (bicubic,
    antialiased); another filter, or resizing floats, changes the masks. Frames travel to the device as uint8.
    """
    size = (config.image_size, config.image_size)
    resized = [np.asarray(Image.fromarray(frame).resize(size)) for frame in frames]
    images = torch.from_numpy(np.stack(resized)).to(device).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(x, device=device)[:, None, None] for x in (config.image_mean, config.image_std))
    return (images - mean) / std


def resize_masks(mask_logits: Tensor, height: int, width: int) -> Tensor:
    """Mask logits (objects, s, s) to the size of the video, (objects, height, width), bilinearly."""
    return F.interpolate(mask_logits[:, None], size=(height, width), mode="bilinear", align_corners=False)[:, 0]


def label_image(mask_logits: Tensor, threshold: float = 0.0) -> Tensor:
    """One image of all objects: (objects, height, width) logits to (height, width) uint8.

    Each pixel belongs to the object with the highest logit there, 1 for the first, if that is above
    ``threshold``; else it is 0.
    """
    highest, owner = mask_logits.max(dim=0)
    return torch.where(highest > threshold, owner + 1, 0).to(torch.uint8)
