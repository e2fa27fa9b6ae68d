"""SAM 2's memory attention: the current frame's map attends to itself and to what is remembered."""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import NetworkConfig
from model.layers import attend, per_object, to_device
from model.memory_bank import Recall
from model.positions import rotary_table, rotate, sine_1d, sine_2d


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
    def pack(cls, recalls: list[Recall], slot_position: Tensor, pointer_position: nn.Linear) -> MemorySequence:
        """Pack what the objects recall, padding the shorter ones.

        ``slot_position`` and ``pointer_position`` are the network's: the encodings of the temporal slots,
        (slots, 1, 1, memory dim), and the layer from encoded distances of pointers to the memory dim.

        This replaces the middle of ``SAM2Base._prepare_memory_conditioned_features`` in the published code
        (``sam2/modeling/sam2_base.py``), which packs one object's memories. That function first selects them, which
        is :meth:`~model.memory_bank.MemoryBank.recall` here, and in the end attends to them: :class:`MemoryAttention`.
        """
        memory_dim, dtype, device = slot_position.shape[-1], slot_position.dtype, slot_position.device

        frames = _stacked([[features for features, _ in r.frames] for r in recalls], dtype)  # (objects, n, c, s, s)
        slots = to_device(_padded([[slot for _, slot in r.frames] for r in recalls], 0), device)
        sine = sine_2d(frames.shape[-1], memory_dim, device).flatten(1).T  # (places, c)
        frame_tokens = frames.flatten(3).transpose(2, 3).flatten(1, 2)
        frame_positions = (sine + slot_position[slots].squeeze(2)).flatten(1, 2)

        pointers = _stacked([[pointer for pointer, _ in r.pointers] for r in recalls], dtype)  # (objects, n, dim)
        distances = to_device(_padded([[distance for _, distance in r.pointers] for r in recalls], 0.0), device)
        pieces = pointers.shape[-1] // memory_dim  # a pointer is cut into tokens of the memory's width
        pointer_tokens = pointers.unflatten(2, (pieces, memory_dim)).flatten(1, 2)
        pointer_positions = pointer_position(sine_1d(distances, pointers.shape[-1])).repeat_interleave(pieces, dim=1)

        lengths = [(len(r.frames) * len(sine), len(r.pointers) * pieces) for r in recalls]
        valid = None
        if len(set(lengths)) > 1:
            # Frames and pointers are padded apart, so each part has an end of its own.
            frame_ends, pointer_ends = to_device(lengths, device).split(1, dim=1)
            frame_places, pointer_places = (
                torch.arange(x.shape[1], device=device) for x in (frame_tokens, pointer_tokens)
            )
            valid = torch.cat((frame_places < frame_ends, pointer_places < pointer_ends), dim=1)
        return cls(
            torch.cat((frame_tokens, pointer_tokens), dim=1),
            torch.cat((frame_positions, pointer_positions), dim=1),
            pointer_tokens.shape[1],
            valid,
        )


def _padded(rows: list[list[Any]], blank: Any) -> list[list[Any]]:
    """Extend all rows to the length of the longest."""
    longest = max(len(row) for row in rows)
    return [row + [blank] * (longest - len(row)) for row in rows]


def _stacked(rows: list[list[Tensor]], dtype: torch.dtype) -> Tensor:
    """Stack rows of tensors, padded with zeros, to (rows, longest row, ...)."""
    rows = _padded(rows, torch.zeros_like(rows[0][0]))
    return torch.stack(list(chain(*rows))).unflatten(0, (len(rows), -1)).to(dtype)


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
        q = per_object(rotate(q, table), len(k))
        placed = k.shape[1] - unplaced
        k = torch.cat((rotate(k[:, :placed], table), k[:, placed:]), dim=1)
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
        """Take a frame's stride-16 map (videos, dim, s, s) and its objects' memories to (objects, dim, s, s)."""
        size = image.shape[-1]
        x = image + 0.1 * sine_2d(size, image.shape[1], image.device)
        x = x.flatten(2).transpose(1, 2)
        keys = memory.tokens + memory.positions
        for layer in self.layers:
            x = layer(x, memory, keys, size)
        return self.norm(x).transpose(1, 2).unflatten(2, (size, size))
