"""The body of the training loop: one step over a few clips. The caller reads clips, writes files and logs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import Rules
from model.image_encoder import ImageFeatures
from model.layers import per_object
from model.network import Prediction, ReSurgSAM2
from model.preprocess import preprocess
from model.text_encoder import Prompts
from model.training.clip_memory import ClipMemory
from model.training.clips import KINDS, SIDES, Clip
from model.training.dense import DenseHead
from model.training.losses import Losses
from model.training.pointing import locating_loss, pointing_losses, prediction_losses


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the published recipe, for a start from SAM 2.1 weights."""

    steps: int
    learning_rate: float = 5e-5
    fusion_learning_rate: float = 3e-4
    """The rate for what SAM 2.1 does not have: the text projection and CSTMamba."""
    layer_decay: float = 0.9
    """The backbone's rate is multiplied by this for each block from the last to the first."""
    warm_up: float = 0.3
    """The learning rates rise over this share of the steps."""
    end: float = 0.1
    """The learning rates fall by cosine to this share (a third of it for the fusion's)."""
    weight_decay: float = 0.1
    """Biases and normalisation layers have none."""
    gradient_clip: float = 0.1
    train_text: bool = False
    """Whether CLIP's text tower learns as well."""
    true_conditioning: float = 0.0
    """How often tracking starts from the true mask instead of the detected one: a help while detection is poor."""
    dense: float = 0.0
    """The weight of the dense supervision (:mod:`model.training.dense`), for clips in which everything is known."""


Lesson = Literal["words", "places", "pointing"]
"""What a step teaches: the published recipe, where a click is, or pointing at things."""

_LEAST = 20
"""Pixels of the network's input that can be pointed at."""

_WITH_WORDS = 0.3
"""The share of what is pointed at that has words as well; without them, memory must do all of the work."""

DETECTION_FRAMES = 3
"""This many frames of a clip are for detection; the frames after them are tracked."""


def parameter_groups(network: ReSurgSAM2, recipe: Recipe) -> list[dict[str, Any]]:
    """Group the parameters by learning rate, by the share that it falls to, and by weight decay."""
    groups: dict[tuple[float, float, float], list[nn.Parameter]] = {}
    blocks = len(network.image_encoder.trunk.blocks)
    for name, parameter in network.named_parameters():
        if name == "prompt_tokens.position_matrix" or (
            name.startswith("text_encoder.tower.") and not recipe.train_text
        ):
            parameter.requires_grad_(False)
            continue
        parameter.requires_grad_(True)
        rate, end = recipe.learning_rate, recipe.end
        if name.startswith(("fusion.", "text_encoder.")):
            rate, end = recipe.fusion_learning_rate, recipe.end / 3
        elif name.startswith("image_encoder.trunk."):
            part = name.split(".")
            block = int(part[3]) + 1 if part[2] == "blocks" else 0
            rate *= recipe.layer_decay ** (blocks - block)
        decay = 0.0 if parameter.ndim < 2 or name.endswith("bias") else recipe.weight_decay
        groups.setdefault((rate, end, decay), []).append(parameter)
    return [_group(parameters, *key) for key, parameters in groups.items()]


def _group(parameters: list[nn.Parameter], rate: float, end: float, decay: float) -> dict[str, Any]:
    return {"params": parameters, "lr": rate, "top": rate, "end": end, "weight_decay": decay}


Average = Callable[[list[nn.Parameter]], None]
"""Replaces gradients with their mean over several processes."""


class Trainer:
    """Trains a network clip by clip. Its whole state can be saved and loaded.

    If several processes train together, each has a ``seed`` of its own, and ``average`` joins their gradients.
    ``before_change`` is called before a step changes the weights: until the step has returned, nothing must interrupt
    it. At any other time the state is that of the last step that was done.
    """

    def __init__(
        self,
        network: ReSurgSAM2,
        recipe: Recipe,
        *,
        seed: int = 0,
        autocast: torch.dtype | None = None,
        average: Average | None = None,
        before_change: Callable[[], object] = lambda: None,
    ) -> None:
        self.network, self.recipe = network.train(), recipe
        self.dense = DenseHead(network.config, len(KINDS), len(SIDES)).to(network.device)
        self.step = 0
        self._seed, self._autocast, self._average, self._before_change = seed, autocast, average, before_change
        self._rng = np.random.default_rng()
        self._optimizer = torch.optim.AdamW(
            [
                *parameter_groups(network, recipe),
                _group(list(self.dense.parameters()), recipe.fusion_learning_rate, recipe.end, recipe.weight_decay),
            ],
            fused=True,
        )
        self._learn = {name for name, x in network.named_parameters() if x.requires_grad}

    def state_dict(self) -> dict[str, Any]:
        """Everything that :meth:`load_state_dict` needs to resume as if training had never stopped."""
        return {
            "network": self.network.state_dict(),
            "dense": self.dense.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a saved state."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.dense.load_state_dict(state["dense"])
        self.step = state["step"]

    def learning_rate_factor(self) -> tuple[float, float]:
        """(rise, fall) of the current step: a rate is top * rise * (end + (1 - end) * fall)."""
        warm = max(1, round(self.recipe.warm_up * self.recipe.steps))
        if self.step < warm:
            return (self.step + 1) / warm, 1.0
        along = (self.step - warm) / max(1, self.recipe.steps - warm)
        return 1.0, 0.5 * (1 + math.cos(math.pi * min(1.0, along)))

    def learn_only(self, prefixes: tuple[str, ...]) -> None:
        """Let parameters learn whose names begin so, or all that the recipe trains; the others stay as they are."""
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name in self._learn and name.startswith(prefixes or ("",)))

    def train_step(self, clips: list[Clip], stills: Sequence[Clip] = (), lesson: Lesson = "words") -> dict[str, float]:
        """Learn from clips with the same number of frames and texts. Returns the mean of each loss.

        ``stills`` are clips without texts. They serve the dense supervision of the image encoder alone.
        """
        self._rng = np.random.default_rng((self._seed, self.step))
        rise, fall = self.learning_rate_factor()
        for group in self._optimizer.param_groups:
            group["lr"] = group["top"] * rise * (group["end"] + (1 - group["end"]) * fall)
        self._optimizer.zero_grad(set_to_none=True)
        with self._context():
            zero = torch.zeros((), device=self.network.device)
            dense, losses = zero, Losses(zero, zero, zero, zero)
            if clips:
                dense, losses = self._losses(clips) if lesson == "words" else (zero, self._pointing(clips, lesson))
            if stills:
                dense = dense + self._pixel_loss(stills, self._encode(stills))
        means = losses._asdict()
        total = losses.total + self.recipe.dense * dense
        total.backward()
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        if lesson != "words":  # drawn prompts do not need all of it, and processes must agree on what has a gradient
            for p in parameters:
                if p.requires_grad and p.grad is None:
                    p.grad = torch.zeros_like(p)
        if self._average is not None:
            self._average(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.recipe.gradient_clip)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient is not finite at step {self.step}")
        self._before_change()
        self._optimizer.step()
        self.step += 1
        return {"loss": total.item(), **{name: x.item() for name, x in means.items()}, "dense": dense.item()}

    def _context(self) -> AbstractContextManager[Any]:
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(self.network.device.type, self._autocast)

    def _losses(self, clips: list[Clip]) -> tuple[Tensor, Losses]:
        """The dense loss, and the mean over frames of the others. As in a video, tracking follows detection."""
        network, length = self.network, len(clips[0].frames)
        encoded = self._encode(clips)
        dense = self._pixel_loss(clips, encoded)
        truth = torch.cat([self._truth(clip) for clip in clips], dim=1)  # (frames, objects, size, size)
        frames = [ImageFeatures(*(x[t::length] for x in encoded)) for t in range(length)]
        prompts = network.encode_text([text for clip in clips for text in clip.texts])
        last = min(DETECTION_FRAMES, length) - 1
        known = int(self._rng.integers(0, last + 1))  # a video's first frames have fewer before them
        earlier = [frames[t].main for t in range(last - 1, last - 1 - known, -1)]
        if self.recipe.dense:
            dense = dense + self.dense.sentence_loss(frames[last].main, prompts.summary, truth[last])
        prediction = network.detect(frames[last], earlier, prompts)
        losses = [prediction_losses(prediction, truth[last])]
        if length > last + 1:
            losses += self._track(frames, prediction, prompts, truth, last)
        return dense, Losses(*(torch.stack(x).mean() for x in zip(*losses, strict=True)))

    def _pointing(self, clips: list[Clip], lesson: Lesson) -> Losses:
        """The mean over frames of the losses of what is pointed at; some of the time, it has words as well."""
        network, length = self.network, len(clips[0].frames)
        losses: list[Losses] = []
        encoded = self._encode(clips)
        for i, clip in enumerate(clips):
            frames = [ImageFeatures(*(x[t : t + 1] for x in encoded)) for t in range(i * length, (i + 1) * length)]
            if lesson == "places":
                losses += [locating_loss(network, frame, self._rng) for frame in frames]
                continue
            truth = self._truth(clip)
            prompts = network.encode_text(clip.texts)
            # What the decoder knows of words must not be forgotten while it learns to see clicks.
            earlier = [x.main for x in frames[:-1][::-1]][: DETECTION_FRAMES - 1]
            losses.append(prediction_losses(network.detect(frames[-1], earlier, prompts), truth[-1]))
            there = truth[0].flatten(1).sum(dim=1) > _LEAST
            if there.any():
                words = prompts.select(there) if self._rng.random() < _WITH_WORDS else None
                losses += pointing_losses(network, frames, truth[:, there], words, self._rng)
        return Losses(*(torch.stack(x).mean() for x in zip(*losses, strict=True)))

    def _encode(self, clips: Sequence[Clip]) -> ImageFeatures:
        network = self.network
        frames = [frame for clip in clips for frame in clip.frames]
        return network.encode_image(preprocess(frames, network.config, network.device))

    def _pixel_loss(self, clips: Sequence[Clip], encoded: ImageFeatures) -> Tensor:
        """The dense loss; 0 if the recipe has none or not everything in the clips is known."""
        if not self.recipe.dense or any(clip.kinds is None or clip.sides is None for clip in clips):
            return encoded.main.new_zeros(())
        kinds, sides = (
            torch.from_numpy(np.concatenate([getattr(clip, name) for clip in clips])).to(self.network.device)
            for name in ("kinds", "sides")
        )
        return self.dense.pixel_loss(encoded, kinds, sides)

    def _truth(self, clip: Clip) -> Tensor:
        """The true masks in the size of the network's input, (frames, texts, size, size)."""
        size = self.network.config.image_size
        masks = torch.from_numpy(np.ascontiguousarray(clip.masks)).to(self.network.device).float()
        return (F.interpolate(masks, size=(size, size), mode="area") >= 0.5).float()

    def _track(
        self, frames: list[ImageFeatures], prediction: Prediction, prompts: Prompts, truth: Tensor, first: int
    ) -> Iterator[Losses]:
        network = self.network
        mask_logits, score = prediction.mask_logits, prediction.object_score
        if self._rng.random() < self.recipe.true_conditioning:
            side = network.config.mask_size
            share = F.interpolate(truth[first][:, None], size=(side, side), mode="area")[:, 0]
            mask_logits = (share - 0.5) * 20
            score = (share.flatten(1).amax(dim=1) > 0).float() * 20 - 10
        memories = network.memorize(per_object(frames[first].main, len(score)), mask_logits, score)
        # Poor masks join the pool as well, so that long-term memory is trained early.
        memory = ClipMemory(Rules(long_term_min_iou=0.0, pool=3), first, memories, prediction.pointer)
        for t in range(first + 1, len(frames)):
            prediction = network.track(frames[t], memory.recall(t), prompts)
            yield prediction_losses(prediction, truth[t])
            memories = network.memorize(frames[t].main, prediction.mask_logits, prediction.object_score)
            memory.remember(t, memories, prediction.pointer, prediction.predicted_iou)


def initialize(network: ReSurgSAM2, seed: int = 0) -> None:
    """Initialise for training from scratch whatever the layers do not initialise themselves."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            leaf = name.rsplit(".", 1)[-1]
            if leaf == "position_matrix":
                parameter.normal_(generator=generator)
            elif leaf == "bias" and "dt_proj" in name:
                # Steps between 1e-3 and 1e-1, evenly on a logarithmic scale (Gu & Dao 2023); the inverse of softplus.
                dt = torch.exp(
                    torch.empty_like(parameter).uniform_(math.log(1e-3), math.log(1e-1), generator=generator)
                )
                parameter.copy_(dt + torch.log(-torch.expm1(-dt)))
            elif not parameter.any() and leaf not in ("bias", "grn_gamma", "grn_beta"):
                parameter.normal_(std=0.02, generator=generator)  # learned embeddings and tokens
            elif leaf == "scale":
                parameter.fill_(0.1)
