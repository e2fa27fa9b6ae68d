"""Building blocks that several parts of the network share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.fused import for_products


def per_object(x: Tensor, objects: int) -> Tensor:
    """Repeat rows of videos for their objects, (videos, ...) to (objects, ...).

    The features of a frame serve all its objects. In training, several videos go through the network side by side.
    All have the same number of objects, and those lie video by video. With one video, nothing is copied.
    """
    return x[:, None].expand(-1, objects // len(x), *x.shape[1:]).flatten(0, 1)


def to_device(numbers: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """Send a few numbers to ``device``. Unlike ``torch.tensor``, this does not wait for the work of a GPU."""
    tensor = torch.tensor(numbers, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


_SCORES = 2**23
"""Attention scores computed at a time: enough for all cores, few enough to stay in their caches."""

_MANY_SCORES = 2**20
"""A head with more is computed alone, and its softmax in place: the scores of all heads would be too much memory to
go through."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, (batch, heads, tokens, channels); ``mask`` (..., key tokens) is False for padding.

    On a CPU, PyTorch's fused attention is no faster in bfloat16 than in float32. Plain matrix products with a softmax
    between them take a third of the time, and round the scores: they are twice as far from exact.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    with torch.autocast("cpu", enabled=False):  # autocast would run the softmax in float32
        q, k, v = q * q.shape[-1] ** -0.5, k.to(q.dtype), v.to(q.dtype)
        scores_of_a_head = q.shape[2] * k.shape[2]
        if scores_of_a_head >= _MANY_SCORES and not torch.is_grad_enabled():
            return _attend_by_head(q, k, v, mask)
        parts = []
        together = max(1, _SCORES // (q.shape[1] * scores_of_a_head))
        for at in range(0, len(q), together):
            rows = slice(at, at + together)
            scores = q[rows] @ k[rows].transpose(2, 3)
            if mask is not None:
                scores = scores.masked_fill(~mask[rows], -torch.inf)
            parts.append(scores.softmax(dim=-1) @ v[rows])
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _attend_by_head(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """:func:`attend` with scaled queries, a head at a time."""
    into = q.new_empty(*q.shape[:3], v.shape[3])
    for i, j in product(range(q.shape[0]), range(q.shape[1])):
        scores = F.linear(q[i, j], k[i, j])
        if mask is not None:
            scores.masked_fill_(~mask[i, 0], -torch.inf)
        torch.softmax(scores, dim=-1, out=scores)
        torch.mm(scores, v[i, j], out=into[i, j])
    return into


class MLP(nn.Module):
    """Linear layers with ReLU between them, (..., inputs) to (..., outputs)."""

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * (layers - 1), outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        return last(x)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a (batch, channels, height, width) map."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Multi-head attention with four projections, as in SAM. It may be narrower inside than outside.

    Arguments are (batch, tokens, dim); ``key_valid`` (batch, key tokens) is False if a key is padding.
    """

    def __init__(self, dim: int, heads: int, *, narrow: int = 1) -> None:
        super().__init__()
        inner = dim // narrow
        self.heads = heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_valid: Tensor | None = None) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        mask = None if key_valid is None else key_valid[:, None, None, :]
        x = attend(q, k, v, mask)
        return self.out_proj(x.transpose(1, 2).flatten(2))


class TwoWayBlock(nn.Module):
    """SAM's two-way block: tokens attend to themselves and the image, then the image attends to the tokens.

    Positions are added to queries and keys, never to values.
    """

    def __init__(self, dim: int, heads: int, mlp_hidden: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, heads, narrow=2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, mlp_hidden, dim, 2)
        self.norm3 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, heads, narrow=2)
        self.norm4 = nn.LayerNorm(dim)

    def forward(
        self,
        tokens: Tensor,
        image: Tensor,
        token_position: Tensor,
        image_position: Tensor,
        token_valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Update tokens (batch, n, dim) and image (batch, pixels, dim). ``token_valid`` is False for padding."""
        if self.first:  # no position term, and no residual
            tokens = self.self_attn(tokens, tokens, tokens, token_valid)
        else:
            q = for_products(tokens + token_position)
            tokens = tokens + self.self_attn(q, q, tokens, token_valid)
        tokens = self.norm1(tokens)
        keys = for_products(image + image_position)
        attended = self.cross_attn_token_to_image(tokens + token_position, keys, image)
        tokens = self.norm2(tokens + attended)
        tokens = self.norm3(tokens + self.mlp(tokens))
        attended = self.cross_attn_image_to_token(keys, tokens + token_position, tokens, token_valid)
        return tokens, self.norm4(image + attended)
