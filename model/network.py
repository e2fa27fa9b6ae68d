"""ReSurgSAM2 as verbs without state: the caller keeps what was seen before."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import NetworkConfig, Rules
from model.cross_modal_mamba import CrossModalMamba
from model.image_encoder import ImageEncoder, ImageFeatures
from model.layers import MLP, per_object
from model.mask_decoder import DecodedMasks, MaskDecoder
from model.memory import Buffers, Memory, Recalled, RecallTable
from model.memory_attention import MemoryAttention, MemorySequence
from model.memory_encoder import MemoryEncoder
from model.prompt_tokens import Clicks, PromptTokens
from model.text_encoder import Prompts, TextEncoder

ABSENT_LOGIT = -1024.0
"""Every mask logit of an object that is absent."""

_GIVEN_LOGIT = 10.0
"""The mask logit inside of a given mask, and with the other sign outside; likewise the object score."""

_FED_BACK_LIMIT = 32.0
"""Mask logits that are fed back are between this, with a minus, and this."""

_STABLE, _MARGIN = 0.98, 0.05
"""The first mask is stable if, with a threshold that is higher by the margin, it keeps this share of the pixels that it
has with one that is lower by the margin."""


class Prediction(NamedTuple):
    """What the network says of one frame, one row per object."""

    mask_logits: Tensor
    """(objects, size / 4, size / 4) in float32: above 0 is the object; all -1024 if it is absent"""
    predicted_iou: Tensor
    """(objects,): that of the mask that was taken, of three or four"""
    object_score: Tensor
    """(objects,), logit: above 0 the object is present"""
    pointer: Tensor
    """(objects, dim): the object pointer"""
    decoded: DecodedMasks | None = None
    """All masks, before one is taken and before the absence rule; training looks at these"""


class Followed(NamedTuple):
    """What the network says of a frame in which it tracks objects, and that it remembers at once."""

    mask_logits: Tensor
    """As in :class:`Prediction`"""
    numbers: Tensor
    """(objects, 3) float32: see :func:`numbers`"""


def numbers(prediction: Prediction) -> Tensor:
    """What decisions are made from, side by side: object score, predicted IoU, and the sum of the mask logits.

    The sum is finite if all logits are: the only use of it.
    """
    total = prediction.mask_logits.sum(dim=(1, 2))
    return torch.stack((prediction.object_score, prediction.predicted_iou, total), dim=1)


class ReSurgSAM2(nn.Module):
    """The network. Everything is batched over objects, and a frame's features serve all objects of its video.

    Inference has one video, so features have batch 1. Training may have more: see :func:`~model.layers.per_object`.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        dim, memory_dim = config.dim, config.memory.dim
        self.image_encoder = ImageEncoder(config)
        if config.words:
            self.text_encoder = TextEncoder(config)
            self.fusion = CrossModalMamba(config)
        self.prompt_tokens = PromptTokens(config)
        self.mask_decoder = MaskDecoder(config)
        self.memory_encoder = MemoryEncoder(config)
        self.memory_attention = MemoryAttention(config)
        if config.pointing:
            self.mask_downsample = nn.Conv2d(1, 1, 4, stride=4)
        self.pointer_mlp = MLP(dim, dim, dim, 3)
        self.pointer_position = nn.Linear(dim, memory_dim)
        self.no_memory = nn.Parameter(torch.zeros(1, 1, dim))
        self.no_object_pointer = nn.Parameter(torch.zeros(1, dim))
        self.no_object_memory = nn.Parameter(torch.zeros(1, memory_dim))
        self.slot_position = nn.Parameter(torch.zeros(config.memory.slots, 1, 1, memory_dim))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.no_memory.device

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Encode normalised frames (frames, 3, size, size). Features depend neither on objects nor on time."""
        return self.image_encoder(images)

    def encode_text(self, texts: list[str]) -> Prompts:
        """Encode one text per object. Raises ``ValueError`` for a text longer than the tower reads (77 tokens)."""
        return self.text_encoder(texts)

    def detect(self, features: ImageFeatures, earlier: list[Tensor], prompts: Prompts) -> Prediction:
        """Find the objects in a frame, given the ``main`` maps of up to two frames before it, newest first."""
        fused = self.fusion(features.main, earlier, prompts.tokens, prompts.valid)
        image = fused.image + self.no_memory.view(1, -1, 1, 1)
        return self._decode(image, features, self.prompt_tokens(len(image), prompts.summary, fused.class_token))

    def track(self, features: ImageFeatures, recalled: Recalled, prompts: Prompts | None) -> Prediction:
        """Follow the objects into a frame, given what they recall. Objects without words have no ``prompts``."""
        image = self._conditioned(features, recalled)
        return self._decode(image, features, self.prompt_tokens(len(image), _summary(prompts)))

    def point(
        self,
        features: ImageFeatures,
        clicks: Clicks,
        recalled: Recalled | None = None,
        fed_back: Tensor | None = None,
        prompts: Prompts | None = None,
    ) -> Prediction:
        """Find what was clicked in a frame, or in a box.

        ``recalled`` is for a frame that was tracked before; ``fed_back`` are the mask logits that the clicks correct,
        (objects, size / 4, size / 4).
        """
        objects, points = clicks.labels.shape
        # The published code adds half a pixel of the network's input, whatever the size of the video.
        clicks = clicks._replace(points=clicks.points + 0.5 / self.config.image_size)
        if recalled is None:
            image = per_object(features.main + self.no_memory.view(1, -1, 1, 1), objects)
        else:
            image = self._conditioned(features, recalled)
        tokens = self.prompt_tokens(objects, _summary(prompts), clicks=clicks)
        if fed_back is not None:
            fed_back = fed_back[:, None].clamp(-_FED_BACK_LIMIT, _FED_BACK_LIMIT)
        # One click may mean a part or the whole, so three masks compete; more say what is meant.
        return self._decode(image, features, tokens, self.prompt_tokens.dense(fed_back), unambiguous=points > 1)

    def adopt(self, features: ImageFeatures, masks: Tensor, prompts: Prompts | None = None) -> Prediction:
        """Take masks (objects, size, size), 0 or 1 in the size of the network's input, as they are.

        An empty one says that the object is not there. The network only makes the pointers.
        """
        masks = masks[:, None].float()
        there = masks.flatten(1).amax(dim=1) > 0
        side = self.config.mask_size
        logits = F.interpolate(
            (2 * masks - 1) * _GIVEN_LOGIT, size=(side, side), mode="bilinear", align_corners=False, antialias=True
        )
        image = per_object(features.main, len(masks))
        tokens = self.prompt_tokens(len(masks), _summary(prompts))
        dense = self.prompt_tokens.dense(self.mask_downsample(masks))
        decoded = self._decoded(image, features, tokens, dense, first=True)
        seen = there & (decoded.object_score > 0)
        return Prediction(
            logits[:, 0],
            torch.ones_like(decoded.object_score).float(),
            (2 * there.float() - 1) * _GIVEN_LOGIT,
            self._pointer(decoded.mask_tokens[:, 0], seen),
            decoded,
        )

    def follow(
        self, features: ImageFeatures, buffers: Buffers, table: RecallTable, prompts: Prompts | None
    ) -> Followed:
        """Track the objects by what ``table`` says that they recall, and write the frame into ``buffers``.

        A frame without the object is remembered, too, as published: its memory says that the object is absent.
        """
        prediction = self.track(features, table.read(buffers), prompts)
        remembered = self.memorize(features.main, prediction.mask_logits, prediction.object_score)
        buffers.write(table.written, remembered, prediction.pointer)
        return Followed(prediction.mask_logits, numbers(prediction))

    def memory(self, objects: int, rules: Rules) -> Memory:
        """Empty memory for the objects of a video."""
        buffers = Buffers.empty(objects, rules, self.config, self.device)
        return Memory(buffers, rules, fixed=False)

    def memorize(self, main: Tensor, mask_logits: Tensor, object_score: Tensor, *, prompted: bool = False) -> Tensor:
        """Encode frames and their masks into memory features (objects, memory dim, s, s).

        ``main`` is the raw stride-16 map: of one frame that all objects share, (1, dim, s, s), or of a frame per
        object. ``mask_logits`` and ``object_score`` are those of :class:`Prediction`. The masks of ``prompted`` frames
        are remembered without their doubts. The features are bfloat16 in every precision, as published.
        """
        memory = self.memory_encoder(main, mask_logits, binary=prompted)
        absent = (object_score <= 0)[:, None, None, None]
        return (memory + absent * self.no_object_memory[:, :, None, None]).bfloat16()

    def _conditioned(self, features: ImageFeatures, recalled: Recalled) -> Tensor:
        """The stride-16 map as each object sees it that recalls something: (objects, dim, s, s)."""
        memory = MemorySequence.pack(recalled, self.slot_position, self.pointer_position)
        return self.memory_attention(features.main, memory)

    def _decode(
        self,
        image: Tensor,
        features: ImageFeatures,
        tokens: Tensor,
        dense: Tensor | None = None,
        *,
        unambiguous: bool = False,
    ) -> Prediction:
        """Decode a conditioned map into masks. Of three, the one with the highest predicted IoU wins.

        If the prompt is ``unambiguous``, the first mask goes before these three, unless it is unstable.
        """
        decoded = self._decoded(image, features, tokens, dense, first=unambiguous)
        predicted_iou, best = decoded.predicted_iou[:, int(unambiguous) :].max(dim=1)
        rows = torch.arange(len(best), device=best.device)
        pointing = best
        if unambiguous:
            stable = _stability(decoded.mask_logits[:, 0].float()) >= _STABLE
            best = torch.where(stable, 0, best + 1)
            predicted_iou = torch.where(stable, decoded.predicted_iou[:, 0], predicted_iou)
            pointing = torch.zeros_like(best)  # the first one in either case, as published
        present = decoded.object_score > 0
        mask_logits = decoded.mask_logits[rows, best].float()
        return Prediction(
            torch.where(present[:, None, None], mask_logits, ABSENT_LOGIT),
            predicted_iou.float(),
            decoded.object_score.float(),
            self._pointer(decoded.mask_tokens[rows, pointing], present),
            decoded,
        )

    def _decoded(
        self, image: Tensor, features: ImageFeatures, tokens: Tensor, dense: Tensor | None, *, first: bool
    ) -> DecodedMasks:
        return self.mask_decoder(
            image + (self.prompt_tokens.dense() if dense is None else dense),
            self.prompt_tokens.dense_position(image.shape[-1]),
            tokens,
            features.stride8,
            features.stride4,
            first=first,
        )

    def _pointer(self, mask_token: Tensor, present: Tensor) -> Tensor:
        """The object pointer (objects, dim), from the token of a mask."""
        return torch.where(present[:, None], self.pointer_mlp(mask_token), self.no_object_pointer).float()


def _summary(prompts: Prompts | None) -> Tensor | None:
    return None if prompts is None else prompts.summary


def _stability(mask_logits: Tensor) -> Tensor:
    """The share of a mask's pixels that it keeps with a higher threshold, (objects,)."""
    high, low = ((mask_logits > x).flatten(1).sum(dim=1).float() for x in (_MARGIN, -_MARGIN))
    return torch.where(low > 0, high / low, 1.0)
