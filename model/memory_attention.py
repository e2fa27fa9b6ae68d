"""Memory attention of SAM 2: the current frame's map attends to itself and to what is remembered."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import NetworkConfig
from model.layers import attend, per_object
from model.positions import rotary_tables, rotate, sine_2d


class MemorySequence(NamedTuple):
    """What each object attends to: memory frames first, then object pointers, each part padded on its own."""

    tokens: Tensor
    """(objects, frame tokens + pointer tokens, memory dim)"""
    positions: Tensor
    """The same shape: added to the keys."""
    pointer_tokens: int
    """How many tokens at the end belong to pointers: they get no rotary encoding."""
    valid: Tensor | None
    """(objects, tokens) bool, False for padding; None where nothing is padded."""


class _RotaryAttention(nn.Module):
    """One head over the full width, with axial rotary encoding of queries and keys."""

    def __init__(self, dim: int, key_dim: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(key_dim, dim)
        self.v_proj = nn.Linear(key_dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, size: int, unplaced: int = 0, valid: Tensor | None = None
    ) -> Tensor:
        """``unplaced`` keys at the end have no place on the map and are not rotated."""
        q, k, v = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        tables = rotary_tables(size, q.shape[-1], q.device)
        q = per_object(rotate(q, *tables), len(k))
        placed = k.shape[1] - unplaced
        k = torch.cat((rotate(k[:, :placed], *tables), k[:, placed:]), dim=1)
        mask = None if valid is None else valid[:, None, None, :]
        x = attend(q[:, None], k[:, None], v[:, None], mask)
        return self.out_proj(x[:, 0])


class _MemoryAttentionLayer(nn.Module):
    """Pre-norm: self-attention, cross-attention to the memory, MLP."""

    def __init__(self, dim: int, memory_dim: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.self_attn = _RotaryAttention(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attn = _RotaryAttention(dim, memory_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, memory: MemorySequence, keys: Tensor, size: int) -> Tensor:
        y = self.norm1(x)
        x = x + self.self_attn(y, y, y, size)
        y = self.cross_attn(self.norm2(x), keys, memory.tokens, size, memory.pointer_tokens, memory.valid)
        x = per_object(x, len(y)) + y
        return x + self.linear2(F.relu(self.linear1(self.norm3(x))))


class MemoryAttention(nn.Module):
    """Conditions the current frame on the memory of each object."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        memory = config.memory
        self.layers = nn.ModuleList(
            _MemoryAttentionLayer(config.dim, memory.dim, memory.mlp_hidden) for _ in range(memory.layers)
        )
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, image: Tensor, memory: MemorySequence) -> Tensor:
        """Stride-16 map of a frame (videos, dim, s, s) and its objects' memories to (objects, dim, s, s)."""
        size = image.shape[-1]
        x = image + 0.1 * sine_2d(size, image.shape[1], image.device)
        x = x.flatten(2).transpose(1, 2)
        keys = memory.tokens + memory.positions
        for layer in self.layers:
            x = layer(x, memory, keys, size)
        return self.norm(x).transpose(1, 2).unflatten(2, (size, size))
