"""Learning to be pointed at: prompts are drawn from the truth, then corrected where the masks are wrong.

The recipe is SAM 2's (Ravi et al. 2024, appendix D): a click, a box or the true mask on the first frame, a few clicks
more on what is wrong, the next frames tracked, and a click that corrects one of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import Rules
from model.image_encoder import ImageFeatures
from model.mask_decoder import DecodedMasks
from model.network import Prediction, ReSurgSAM2
from model.prompt_tokens import BOTTOM_RIGHT, NEGATIVE, POSITIVE, TOP_LEFT, Clicks
from model.text_encoder import Prompts
from model.training.clip_memory import ClipMemory
from model.training.losses import Losses, frame_losses

_CLICK, _BOX = 0.5, 0.25
"""Shares of the first prompts; the others are masks."""
_CORRECTIONS = 2
"""At most, on the first frame."""
_DISCS, _RADIUS = 24, 0.12
"""Clicks in a frame, and the radius of what they mean, as a share of its side."""
_BOX_NOISE = 0.1
"""Standard deviation of a box's edges, as a share of its sides."""


def locating_loss(network: ReSurgSAM2, frame: ImageFeatures, rng: np.random.Generator) -> Losses:
    """The losses of discs around clicks anywhere in a frame, (1, ...) features.

    A decoder that only ever read texts learns from masks of things alone that big things are a good guess wherever one
    clicks. Where a click is, it learns from this in a few hundred steps.
    """
    size = network.config.mask_size
    points = torch.from_numpy(rng.random((_DISCS, 2), dtype=np.float32)).to(network.device)
    place = (torch.arange(size, device=network.device) + 0.5) / size
    x, y = (points[:, i, None, None] for i in range(2))
    discs = (((place[None, None, :] - x) ** 2 + (place[None, :, None] - y) ** 2) < _RADIUS**2).float()
    clicks = Clicks(points[:, None], torch.full((_DISCS, 1), POSITIVE, device=network.device))
    return prediction_losses(network.point(frame, clicks), discs)


def pointing_losses(
    network: ReSurgSAM2,
    frames: list[ImageFeatures],
    truth: Tensor,
    prompts: Prompts | None,
    rng: np.random.Generator,
) -> Iterator[Losses]:
    """The losses of a clip whose objects are all in its first frame.

    ``frames`` have one row a video; ``truth`` is (frames, objects, size, size), 0 or 1.
    """
    first = truth[0]
    kind = rng.random() * (_CLICK + _BOX if len(frames) == 1 else 1)  # a mask shows what it taught in the next frame
    if kind < _CLICK + _BOX:
        clicks = _click_inside(first, rng) if kind < _CLICK else _box_around(first, rng)
        prediction = network.point(frames[0], clicks, prompts=prompts)
        yield prediction_losses(prediction, first, clicks)
        for _ in range(int(rng.integers(_CORRECTIONS + 1))):
            clicks = _with(clicks, _correcting(prediction, first, rng))
            prediction = network.point(frames[0], clicks, None, prediction.mask_logits.detach(), prompts)
            yield prediction_losses(prediction, first, clicks)
    else:
        prediction = network.adopt(frames[0], first, prompts)
    if len(frames) == 1:
        return
    remembered = network.memorize(frames[0].main, prediction.mask_logits, prediction.object_score, prompted=True)
    memory = ClipMemory(Rules(long_term=0), 0, remembered, prediction.pointer)
    corrected = int(rng.integers(1, len(frames)))
    for t in range(1, len(frames)):
        recalled = memory.recall(t)
        prediction = network.track(frames[t], recalled, prompts)
        yield prediction_losses(prediction, truth[t])
        if t == corrected:
            clicks = _correcting(prediction, truth[t], rng)
            prediction = network.point(frames[t], clicks, recalled, prediction.mask_logits.detach(), prompts)
            yield prediction_losses(prediction, truth[t], clicks)
        remembered = network.memorize(
            frames[t].main, prediction.mask_logits, prediction.object_score, prompted=t == corrected
        )
        if t == corrected:
            memory.condition(t, remembered, prediction.pointer)
        else:
            memory.remember(t, remembered, prediction.pointer, prediction.predicted_iou)


def prediction_losses(prediction: Prediction, truth: Tensor, clicks: Clicks | None = None) -> Losses:
    """The losses of all three masks of a frame, or of the first alone if ``clicks`` leave no doubt."""
    decoded = prediction.decoded
    assert decoded is not None
    if clicks is not None and clicks.labels.shape[1] > 1:
        decoded = DecodedMasks(
            decoded.mask_logits[:, :1], decoded.predicted_iou[:, :1], decoded.mask_tokens[:, :1], decoded.object_score
        )
    return frame_losses(decoded, truth)


def _click_inside(truth: Tensor, rng: np.random.Generator) -> Clicks:
    """A click on a pixel of each mask."""
    points = _pixels(truth > 0, rng)
    return Clicks(points[:, None], torch.full((len(truth), 1), POSITIVE, device=truth.device))


def _box_around(truth: Tensor, rng: np.random.Generator) -> Clicks:
    """A box around each mask, not quite exact."""
    size = truth.shape[-1]
    boxes = []
    for mask in (truth > 0).cpu().numpy():
        rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float32)
        sides = np.tile([box[2] - box[0], box[3] - box[1]], 2)
        boxes.append((box + rng.normal(0, _BOX_NOISE, 4) * sides).clip(0, size) / size)
    points = torch.from_numpy(np.stack(boxes).astype(np.float32)).to(truth.device).unflatten(1, (2, 2))
    labels = torch.tensor([TOP_LEFT, BOTTOM_RIGHT], device=truth.device).expand(len(truth), 2)
    return Clicks(points, labels)


def _correcting(prediction: Prediction, truth: Tensor, rng: np.random.Generator) -> Clicks:
    """A click on a wrong pixel of each mask; on any pixel of the object if there is none.

    Where the object is not there, it is one that says so.
    """
    logits = F.interpolate(
        prediction.mask_logits.detach()[:, None], size=truth.shape[-2:], mode="bilinear", align_corners=False
    )
    wrong = (logits[:, 0] > 0) != (truth > 0)
    none = ~wrong.flatten(1).any(dim=1)
    points = _pixels(torch.where(none[:, None, None], truth > 0, wrong), rng)
    size = truth.shape[-1]
    column, row = (points * size).long().clamp(max=size - 1).unbind(dim=1)
    inside = truth[torch.arange(len(truth), device=truth.device), row, column] > 0
    return Clicks(points[:, None], torch.where(inside, POSITIVE, NEGATIVE)[:, None])


def _pixels(masks: Tensor, rng: np.random.Generator) -> Tensor:
    """The middle of a pixel of each mask (objects, height, width), (objects, 2), as shares; the picture's if none."""
    height, width = masks.shape[-2:]
    points = []
    for mask in masks.cpu().numpy():
        places = np.flatnonzero(mask)
        at = int(rng.choice(places)) if len(places) else (height // 2) * width + width // 2
        points.append(((at % width + 0.5) / width, (at // width + 0.5) / height))
    return torch.tensor(points, dtype=torch.float32, device=masks.device)


def _with(clicks: Clicks, more: Clicks) -> Clicks:
    return Clicks(*(torch.cat(x, dim=1) for x in zip(clicks, more, strict=True)))
