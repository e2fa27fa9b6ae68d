"""The loss of ReSurgSAM2, as SAM 2 trains: only the best of three masks learns its shape.

Weights: focal 20, dice 1, L1 on the predicted IoU 1, cross-entropy on the object score 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.mask_decoder import DecodedMasks

_ALPHA, _GAMMA = 0.25, 2.0
_FOCAL, _DICE, _IOU, _SCORE = 20.0, 1.0, 1.0, 1.0


class Losses(NamedTuple):
    """Means over the objects of a frame; mask terms over those that are present."""

    focal: Tensor
    dice: Tensor
    iou: Tensor
    score: Tensor

    @property
    def total(self) -> Tensor:
        """The weighted sum, which is what is minimised."""
        return _FOCAL * self.focal + _DICE * self.dice + _IOU * self.iou + _SCORE * self.score


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Sigmoid focal loss (Lin et al. 2017), the mean over the last two axes."""
    error = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    right = probability * target + (1 - probability) * (1 - target)
    weight = _ALPHA * target + (1 - _ALPHA) * (1 - target)
    return (weight * (1 - right) ** _GAMMA * error).mean(dim=(-2, -1))


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the soft Dice of the last two axes, smoothed by one pixel."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * target).sum(dim=(-2, -1))
    return 1 - (overlap + 1) / (probability.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1)) + 1)


def frame_losses(decoded: DecodedMasks, truth: Tensor) -> Losses:
    """The losses of one frame.

    ``truth`` is (objects, height, width), 1 inside the object; the mask logits are resized to it. An object
    without a pixel is absent: its masks and IoUs teach nothing then, only its object score does.
    """
    present = (truth.flatten(1).amax(dim=1) > 0).float()
    logits = F.interpolate(decoded.mask_logits.float(), size=truth.shape[-2:], mode="bilinear", align_corners=False)
    target = truth[:, None].expand_as(logits)
    focal, dice = focal_loss(logits, target), dice_loss(logits, target)  # (objects, 3)
    best = (_FOCAL * focal + _DICE * dice).argmin(dim=1, keepdim=True)
    with torch.no_grad():
        inside = logits > 0
        union = (inside | (target > 0)).sum(dim=(-2, -1)).clamp(min=1)
        actual_iou = (inside & (target > 0)).sum(dim=(-2, -1)) / union
    iou = (decoded.predicted_iou.float() - actual_iou).abs().mean(dim=1)
    count = present.sum().clamp(min=1)
    return Losses(
        (focal.gather(1, best)[:, 0] * present).sum() / count,
        (dice.gather(1, best)[:, 0] * present).sum() / count,
        (iou * present).sum() / count,
        F.binary_cross_entropy_with_logits(decoded.object_score.float(), present),
    )
