"""Prompt tokens: SAM's prompt encoder, for texts, clicks and boxes, and masks that are fed back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.config import NetworkConfig
from model.layers import MLP, LayerNorm2d
from model.positions import fourier, fourier_2d

NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT = range(4)
"""What a point says: beside the object, on it, or a corner of a box around it."""


class Clicks(NamedTuple):
    """Points of one frame, as many for each object. A box is two points, its corners, before all clicks."""

    points: Tensor
    """(objects, n, 2) float32: x and y from the top left corner, as shares of the frame's width and height"""
    labels: Tensor
    """(objects, n) int64: :data:`NEGATIVE`, :data:`POSITIVE`, :data:`TOP_LEFT`, :data:`BOTTOM_RIGHT`"""

    @classmethod
    def at(
        cls, points: Sequence[Sequence[float]], labels: Sequence[int], width: int, height: int, device: torch.device
    ) -> Clicks:
        """Those of one object, (1, n): ``points`` are (x, y) in pixels of a frame of this size, ``labels`` as above."""
        size = torch.tensor([width, height], dtype=torch.float32, device="cpu")
        shares = torch.tensor([points], dtype=torch.float32, device="cpu") / size
        return cls(shares.to(device), torch.tensor([labels], dtype=torch.int64, device=device))


class PromptTokens(nn.Module):
    """The tokens and maps that the mask decoder reads beside the image.

    One "not a point" token follows the last click. Without clicks there are two of them, as in the published code.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dim = config.dim
        self.not_a_point = nn.Parameter(torch.zeros(1, dim))
        self.no_mask = nn.Parameter(torch.zeros(1, dim))
        self.position_matrix = nn.Parameter(torch.randn(2, dim // 2), requires_grad=False)
        if config.words:
            self.text_mlp = MLP(dim, config.decoder.prompt_hidden, dim, 3)
        if config.pointing:
            self.point_embeddings = nn.ParameterList(torch.zeros(1, dim) for _ in range(4))
            self.mask_encoder = nn.Sequential(
                nn.Conv2d(1, 4, 2, stride=2),
                LayerNorm2d(4),
                nn.GELU(),
                nn.Conv2d(4, 16, 2, stride=2),
                LayerNorm2d(16),
                nn.GELU(),
                nn.Conv2d(16, dim, 1),
            )

    def forward(
        self,
        objects: int,
        summary: Tensor | None = None,
        class_token: Tensor | None = None,
        clicks: Clicks | None = None,
    ) -> Tensor:
        """Tokens (objects, n, dim) from what there is of clicks, text summary and class token, in this order.

        Summary and class token are (objects, 1, dim); the latter comes with detection.
        """
        nothing = self.not_a_point.expand(objects, 1, -1)
        tokens = [nothing, nothing] if clicks is None else [self._encoded(clicks), nothing]
        if summary is not None:
            tokens.append(self.text_mlp(summary))
        if class_token is not None:
            tokens.append(class_token)
        return torch.cat(tokens, dim=1)

    def _encoded(self, clicks: Clicks) -> Tensor:
        """Clicks as tokens (objects, n, dim)."""
        embeddings = torch.cat(list(self.point_embeddings))
        return fourier(self.position_matrix, clicks.points) + embeddings[clicks.labels]

    def dense(self, mask: Tensor | None = None) -> Tensor:
        """The dense prompt (objects, dim, s, s) of a mask (objects, 1, size / 4, size / 4), else (1, dim, 1, 1)."""
        return self.no_mask[:, :, None, None] if mask is None else self.mask_encoder(mask)

    def dense_position(self, size: int) -> Tensor:
        """The position encoding of the image in the decoder: (1, dim, size, size)."""
        return fourier_2d(self.position_matrix, size)[None]
