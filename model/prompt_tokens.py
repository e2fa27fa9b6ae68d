"""Prompt tokens: what stands in SAM's prompt encoder when the prompt is a text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.config import NetworkConfig
from model.layers import MLP
from model.positions import fourier_2d


class PromptTokens(nn.Module):
    """The tokens and maps that the mask decoder reads beside the image.

    The published model also passes an empty click with its padding: two copies of the "not a point" embedding.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dim = config.dim
        self.not_a_point = nn.Parameter(torch.zeros(1, dim))
        self.no_mask = nn.Parameter(torch.zeros(1, dim))
        self.position_matrix = nn.Parameter(torch.randn(2, dim // 2), requires_grad=False)
        self.text_mlp = MLP(dim, config.decoder.prompt_hidden, dim, 3)

    def forward(self, summary: Tensor, class_token: Tensor | None = None) -> Tensor:
        """Text summary (objects, 1, dim) and, in detection, class token (objects, 1, dim) to prompt tokens.

        Returns (objects, 3 or 4, dim).
        """
        clicks = self.not_a_point.expand(len(summary), 2, -1)
        tokens = [clicks, self.text_mlp(summary)]
        return torch.cat(tokens if class_token is None else [*tokens, class_token], dim=1)

    def dense(self) -> Tensor:
        """The dense prompt, the same for each pixel of the map: (1, dim, 1, 1)."""
        return self.no_mask[:, :, None, None]

    def dense_position(self, size: int) -> Tensor:
        """The position encoding of the image in the decoder: (1, dim, size, size)."""
        return fourier_2d(self.position_matrix, size)[None]
