"""ReSurgSAM2 as verbs without state: the caller keeps what was seen before."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.config import NetworkConfig, Rules
from model.cross_modal_mamba import CrossModalMamba
from model.image_encoder import ImageEncoder, ImageFeatures
from model.layers import MLP
from model.mask_decoder import DecodedMasks, MaskDecoder
from model.memory import Buffers, Memory, RecallTable
from model.memory_attention import MemoryAttention, MemorySequence
from model.memory_encoder import MemoryEncoder
from model.prompt_tokens import PromptTokens
from model.text_encoder import Prompts, TextEncoder

ABSENT_LOGIT = -1024.0
"""Every mask logit of an object that is absent."""


class Prediction(NamedTuple):
    """What the network says of one frame, one row per object."""

    mask_logits: Tensor
    """(objects, size / 4, size / 4) in float32: above 0 is the object; all -1024 if it is absent"""
    predicted_iou: Tensor
    """(objects,): that of the best of the three masks"""
    object_score: Tensor
    """(objects,), logit: above 0 the object is present"""
    pointer: Tensor
    """(objects, dim): the object pointer"""
    decoded: DecodedMasks | None = None
    """All three masks, before the best is chosen and before the absence rule; training looks at these"""


class ReSurgSAM2(nn.Module):
    """The network. Everything is batched over objects, and a frame's features serve all objects of its video.

    Inference has one video, so features have batch 1. Training may have more: see :func:`~model.layers.per_object`.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        dim, memory_dim = config.dim, config.memory.dim
        self.image_encoder = ImageEncoder(config)
        self.text_encoder = TextEncoder(config)
        self.fusion = CrossModalMamba(config)
        self.prompt_tokens = PromptTokens(config)
        self.mask_decoder = MaskDecoder(config)
        self.memory_encoder = MemoryEncoder(config)
        self.memory_attention = MemoryAttention(config)
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
        return self._decode(image, features, self.prompt_tokens(prompts.summary, fused.class_token))

    def track(self, features: ImageFeatures, memory: MemorySequence, prompts: Prompts) -> Prediction:
        """Follow the objects into a frame, given what they recall, packed by :meth:`.MemorySequence.pack`."""
        image = self.memory_attention(features.main, memory)
        return self._decode(image, features, self.prompt_tokens(prompts.summary))

    def follow(self, features: ImageFeatures, buffers: Buffers, table: RecallTable, prompts: Prompts) -> Prediction:
        """Track the objects by what ``table`` says that they recall, and write the frame into ``buffers``.

        A frame without the object is remembered, too, as published: its memory says that the object is absent.
        """
        memory = MemorySequence.pack(table.read(buffers), self.slot_position, self.pointer_position)
        prediction = self.track(features, memory, prompts)
        remembered = self.memorize(features.main, prediction.mask_logits, prediction.object_score)
        buffers.write(table.written, remembered, prediction.pointer)
        return prediction

    def memory(self, objects: int, rules: Rules) -> Memory:
        """Empty memory for the objects of a video."""
        buffers = Buffers.empty(objects, rules, self.config, self.device)
        return Memory(buffers, objects, rules, self.config, fixed=False)

    def memorize(self, main: Tensor, mask_logits: Tensor, object_score: Tensor) -> Tensor:
        """Encode frames and their masks into memory features (objects, memory dim, s, s).

        ``main`` is the raw stride-16 map: of one frame that all objects share, (1, dim, s, s), or of a frame per
        object. ``mask_logits`` and ``object_score`` are those of :class:`Prediction`. The features are bfloat16 in
        every precision, as published.
        """
        memory = self.memory_encoder(main, mask_logits)
        absent = (object_score <= 0)[:, None, None, None]
        return (memory + absent * self.no_object_memory[:, :, None, None]).bfloat16()

    def _decode(self, image: Tensor, features: ImageFeatures, prompt_tokens: Tensor) -> Prediction:
        """Decode a conditioned map into masks. Of three, the one with the highest predicted IoU wins."""
        decoded = self.mask_decoder(
            image + self.prompt_tokens.dense(),
            self.prompt_tokens.dense_position(image.shape[-1]),
            prompt_tokens,
            features.stride8,
            features.stride4,
        )
        predicted_iou, best = decoded.predicted_iou.max(dim=1)
        rows = torch.arange(len(best), device=best.device)
        present = decoded.object_score > 0
        mask_logits = decoded.mask_logits[rows, best].float()
        pointer = self.pointer_mlp(decoded.mask_tokens[rows, best])
        return Prediction(
            torch.where(present[:, None, None], mask_logits, ABSENT_LOGIT),
            predicted_iou.float(),
            decoded.object_score.float(),
            torch.where(present[:, None], pointer, self.no_object_pointer).float(),
            decoded,
        )
