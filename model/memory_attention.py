"""SAM 2's memory attention: the current frame's map attends to itself and to what is remembered."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import NetworkConfig
from model.fused import attend_in_parts, can_attend_in_parts, for_products, normalize, rotate_first
from model.layers import attend, per_object
from model.memory import Recalled
from model.positions import rotary_table, sine_1d, sine_2d


class MemorySequence(NamedTuple):
    """What each object attends to: memory frames first, then object pointers, each part padded on its own."""

    tokens: Tensor
    """(objects, frame tokens + pointer tokens, memory dim)"""
    positions: Tensor
    """The same shape; added to the keys."""
    pointer_tokens: int
    """How many tokens at the end belong to pointers: they get no rotary encoding."""
    valid: Tensor | None
    """(objects, tokens) bool, False for padding; None if nothing is padded."""

    @classmethod
    def pack(cls, recalled: Recalled, slot_position: Tensor, pointer_position: nn.Linear) -> MemorySequence:
        """Put what the objects recall into one sequence.

        ``slot_position`` and ``pointer_position`` are the network's: the encodings of the temporal slots,
        (slots, 1, 1, memory dim), and the layer from encoded distances of pointers to the memory dim.

        This replaces the middle of ``SAM2Base._prepare_memory_conditioned_features`` in the published code
        (``sam2/modeling/sam2_base.py``), which packs one object's memories. That function first selects them, which
        is :meth:`~model.memory_bank.MemoryBank.recall` here, and in the end attends to them: :class:`MemoryAttention`.
        """
        memory_dim, dtype, device = slot_position.shape[-1], slot_position.dtype, slot_position.device

        places = recalled.frames.shape[2]
        sine = sine_2d(math.isqrt(places), memory_dim, device).flatten(1).T  # (places, c)
        frame_tokens = recalled.frames.flatten(1, 2).to(dtype)
        frame_positions = (sine + slot_position[recalled.slots].squeeze(2)).flatten(1, 2)

        pieces = recalled.pointers.shape[-1] // memory_dim  # a pointer is cut into tokens of the memory's width
        pointer_tokens = recalled.pointers.unflatten(2, (pieces, memory_dim)).flatten(1, 2).to(dtype)
        distances = sine_1d(recalled.distances, recalled.pointers.shape[-1])
        pointer_positions = pointer_position(distances).repeat_interleave(pieces, dim=1)

        valid = None
        if recalled.lengths is not None:
            # Frames and pointers are padded apart, so each part has an end of its own.
            counts = recalled.lengths.split(1, dim=1)
            parts = [
                torch.arange(x.shape[1], device=device).expand(len(count), -1) < count
                for x, count in zip((recalled.frames, recalled.pointers), counts, strict=True)
            ]
            repeats = (places, pieces)
            valid = torch.cat([x.repeat_interleave(r, dim=1) for x, r in zip(parts, repeats, strict=True)], dim=1)
        return cls(
            torch.cat((frame_tokens, pointer_tokens), dim=1),
            torch.cat((frame_positions, pointer_positions), dim=1),
            pointer_tokens.shape[1],
            valid,
        )


class _RotaryAttention(nn.Module):
    """Attention with one head over the full width, and axial rotary encoding of queries and keys."""

    def __init__(self, dim: int, key_dim: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(key_dim, dim)
        self.v_proj = nn.Linear(key_dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, size: int, unplaced: int = 0, valid: Tensor | None = None
    ) -> Tensor:
        """The last ``unplaced`` keys have no place on the map and are not rotated."""
        q, k, v = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        table = rotary_table(size, q.shape[-1], q.device)
        places, placed = len(table), k.shape[1] - unplaced
        q = per_object(rotate_first(q, table, places), len(k))
        k = rotate_first(k, table, placed)
        if unplaced and can_attend_in_parts(q):
            return self.out_proj(attend_in_parts(q, k, v, placed // places, valid))
        mask = None if valid is None else valid[:, None, None, :]
        return self.out_proj(attend(q[:, None], k[:, None], v[:, None], mask)[:, 0])


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
        y = normalize(self.norm1, x)
        x = x + self.self_attn(y, y, y, size)
        y = normalize(self.norm2, x)
        y = self.cross_attn(y, keys, memory.tokens, size, memory.pointer_tokens, memory.valid)
        x = per_object(x, len(y)) + y
        return x + self.linear2(F.relu(self.linear1(normalize(self.norm3, x))))


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
        """Take a frame's stride-16 map (videos, dim, s, s) and its objects' memories to (objects, dim, s, s)."""
        size = image.shape[-1]
        x = image + 0.1 * sine_2d(size, image.shape[1], image.device)
        x = x.flatten(2).transpose(1, 2)
        keys = for_products(memory.tokens + memory.positions)
        memory = memory._replace(tokens=for_products(memory.tokens))
        for layer in self.layers:
            x = layer(x, memory, keys, size)
        return self.norm(x).transpose(1, 2).unflatten(2, (size, size))
