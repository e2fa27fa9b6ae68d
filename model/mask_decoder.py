"""Mask decoder of SAM 2: a two-way transformer between a few tokens and the image, then upscaling to masks."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import NetworkConfig
from model.fused import normalize_map
from model.layers import MLP, Attention, LayerNorm2d, TwoWayBlock, per_object

_MASKS = 4  # SAM 2's mask tokens; the first is for prompts that leave no doubt, and only pointing uses it


class DecodedMasks(NamedTuple):
    """The masks of each object: three, or four if the first one was asked for."""

    mask_logits: Tensor
    """(objects, masks, size, size) at stride 4"""
    predicted_iou: Tensor
    """(objects, masks)"""
    mask_tokens: Tensor
    """(objects, masks, dim)"""
    object_score: Tensor
    """(objects,), logit: above 0 the object is present"""


class MaskDecoder(nn.Module):
    """Image and prompt tokens to masks, their predicted IoU, and whether the object is there at all."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dim, decoder = config.dim, config.decoder
        self.object_score_token = nn.Parameter(torch.zeros(1, dim))
        self.iou_token = nn.Parameter(torch.zeros(1, dim))
        self.mask_tokens = nn.Parameter(torch.zeros(_MASKS, dim))
        self.blocks = nn.ModuleList(
            TwoWayBlock(dim, decoder.heads, decoder.mlp_hidden, first=i == 0) for i in range(decoder.depth)
        )
        self.final_attn_token_to_image = Attention(dim, decoder.heads, narrow=2)
        self.norm_final_attn = nn.LayerNorm(dim)
        self.upscale8 = nn.ConvTranspose2d(dim, dim // 4, 2, stride=2)
        self.upscale_norm = LayerNorm2d(dim // 4)
        self.upscale4 = nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2)
        if config.pointing:
            self.first_mask_mlp = MLP(dim, dim, dim // 8, 3)
        self.mask_mlps = nn.ModuleList(MLP(dim, dim, dim // 8, 3) for _ in range(_MASKS - 1))
        self.iou_head = MLP(dim, dim, _MASKS, 3)
        self.object_score_head = MLP(dim, dim, 1, 3)

    def forward(
        self,
        image: Tensor,
        image_position: Tensor,
        prompt_tokens: Tensor,
        stride8: Tensor,
        stride4: Tensor,
        *,
        first: bool = False,
    ) -> DecodedMasks:
        """Decode all objects of a frame, into the ``first`` mask as well if that is asked for.

        ``image`` (objects, dim, size, size), the dense prompt added; ``image_position`` (1, dim, size, size);
        ``prompt_tokens`` (objects, n, dim); the fine maps have one row a video.
        """
        size = image.shape[-2:]
        learned = torch.cat((self.object_score_token, self.iou_token, self.mask_tokens))
        tokens = torch.cat((learned.expand(len(image), -1, -1), prompt_tokens), dim=1)
        token_position = tokens
        image, image_position = (x.flatten(2).transpose(1, 2) for x in (image, image_position))
        for block in self.blocks:
            tokens, image = block(tokens, image, token_position, image_position)
        attended = self.final_attn_token_to_image(tokens + token_position, image + image_position, image)
        tokens = self.norm_final_attn(tokens + attended)

        x = image.transpose(1, 2).unflatten(2, size)
        x = normalize_map(self.upscale_norm, self.upscale8(x) + per_object(stride8, len(x)), gelu=True)
        x = F.gelu(self.upscale4(x) + per_object(stride4, len(x)))
        left_out = 0 if first else 1
        mask_tokens = tokens[:, 2 + left_out : 2 + _MASKS]
        mlps = [self.first_mask_mlp, *self.mask_mlps] if first else self.mask_mlps
        weights = [mlp(mask_tokens[:, i]) for i, mlp in enumerate(mlps)]
        mask_logits = torch.stack(weights, dim=1) @ x.flatten(2)
        return DecodedMasks(
            mask_logits.unflatten(2, x.shape[-2:]),
            self.iou_head(tokens[:, 1])[:, left_out:].sigmoid(),
            mask_tokens,
            self.object_score_head(tokens[:, 0])[:, 0],
        )
