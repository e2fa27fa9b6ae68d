"""CSTMamba, the cross-modal spatial-temporal Mamba: text-referred detection over the last few frames.

The text (with a learned class token in front) and an image sequence of the current and earlier frames look at
each other. Out come the current frame's map, in which the text has left its mark, and the class token.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import cpu_mixer
from model.config import FusionConfig, NetworkConfig
from model.fused import normalize
from model.layers import Attention, TwoWayBlock, per_object
from model.positions import sine_2d
from model.selective_scan import selective_scan


class _Scan(nn.Module):
    """The weights of one of the three scans: its own convolution, step size, matrices and skip."""

    def __init__(self, inner: int, config: FusionConfig) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inner, inner, config.conv, groups=inner)
        self.x_proj = nn.Linear(inner, config.dt_rank + 2 * config.state, bias=False)
        self.dt_proj = nn.Linear(config.dt_rank, inner)
        rates = torch.tensor([math.log(i) for i in range(1, config.state + 1)])
        self.A_log = nn.Parameter(rates.expand(inner, -1).contiguous())
        self.D = nn.Parameter(torch.ones(inner))

    def inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(batch, L, inner) to u and delta (batch, L, inner), B and C (batch, L, state)."""
        taps = self.conv.kernel_size[0]
        x = F.pad(x.transpose(1, 2), (taps - 1, 0))  # causal: only earlier tokens
        u = F.silu(self.conv(x)).transpose(1, 2)
        state = self.A_log.shape[1]
        dt, B, C = self.x_proj(u).split((self.dt_proj.in_features, state, state), dim=-1)
        return u, F.linear(dt, self.dt_proj.weight), B, C

    def weights(self) -> cpu_mixer.ScanWeights:
        """For inference on a CPU."""
        assert self.conv.bias is not None
        return cpu_mixer.ScanWeights(
            self.conv.weight, self.conv.bias, self.x_proj, self.dt_proj.weight, self.dt_proj.bias, self.A_log, self.D
        )


@lru_cache
def _orders(length: int, frames: int) -> list[Tensor]:
    """The rows that each of the three scans goes through: forward, backward, and frame-interleaved."""
    ahead = torch.arange(length, dtype=torch.int32)
    return [ahead, ahead.flip(0), ahead.view(frames, -1).T.flatten()]


class SpatialTemporalMixer(nn.Module):
    """A Mamba-1 mixer with three scans: forward, backward, and frame-interleaved.

    They share the projections in and out; the interleaved one sees the same place in all frames in a row, and so
    carries state through time.
    """

    def __init__(self, dim: int, config: FusionConfig) -> None:
        super().__init__()
        inner = config.expand * dim
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self.forward_scan = _Scan(inner, config)
        self.backward_scan = _Scan(inner, config)
        self.interleaved_scan = _Scan(inner, config)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """(batch, frames * tokens, dim) to the same shape; the sequence lies frame by frame."""
        projected = self.in_proj(x)
        scans = (self.forward_scan, self.backward_scan, self.interleaved_scan)
        if cpu_mixer.supports(projected, scans[0].A_log.shape[1]):
            return self.out_proj(cpu_mixer.mix(projected, [s.weights() for s in scans], _orders(x.shape[1], frames)))
        x, gate = projected.chunk(2, dim=-1)
        by_place = x.unflatten(1, (frames, -1)).transpose(1, 2).flatten(1, 2)
        inputs = [scan.inputs(s) for scan, s in zip(scans, (x, x.flip(1), by_place), strict=True)]
        u, delta, B, C = (torch.stack(group, dim=1) for group in zip(*inputs, strict=True))
        y = selective_scan(
            u,
            delta,
            -torch.stack([scan.A_log for scan in scans]).float().exp(),
            B,
            C,
            torch.stack([scan.D for scan in scans]),
            torch.stack([scan.dt_proj.bias for scan in scans]),
        )
        ahead, back, interleaved = y.unbind(1)
        interleaved = interleaved.unflatten(1, (-1, frames)).transpose(1, 2).flatten(1, 2)
        # The published code gates each scan with the same SiLU(z); gating their mean is the same.
        mean = (ahead + back.flip(1) + interleaved) / 3
        return self.out_proj(mean.to(gate.dtype) * F.silu(gate))


class _SpatialMLP(nn.Module):
    """The MLP of a Mamba layer: depthwise convolution per frame, then a linear pair with GRN between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.grn_gamma = nn.Parameter(torch.zeros(1, 1, hidden))
        self.grn_beta = nn.Parameter(torch.zeros(1, 1, hidden))
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, size: tuple[int, int, int]) -> Tensor:
        """(batch, frames * height * width, dim), with ``size`` (frames, height, width), to the same shape."""
        batch = len(x)
        maps = x.unflatten(1, size).flatten(0, 1).permute(0, 3, 1, 2)
        x = self.conv(maps).permute(0, 2, 3, 1).reshape(batch, -1, x.shape[-1])
        x = F.gelu(self.fc1(normalize(self.norm, x)))
        # The published GRN takes the norm over tokens and channels together and divides it by its own mean,
        # which is itself: n is 1 to within rounding, and the checkpoints were trained so.
        norm = torch.linalg.vector_norm(x.flatten(1), dim=1, dtype=torch.float32)[:, None, None]
        n = norm / (norm + 1e-6)
        return self.fc2(torch.addcmul(x + self.grn_beta.to(x.dtype), x, (self.grn_gamma * n).to(x.dtype)))


class MambaLayer(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, dim: int, config: FusionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.mixer = SpatialTemporalMixer(dim, config)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _SpatialMLP(dim, config.mamba_mlp_hidden)

    def forward(self, x: Tensor, size: tuple[int, int, int]) -> Tensor:
        """(batch, frames * height * width, dim), with ``size`` (frames, height, width), to the same shape."""
        x = x + self.mixer(normalize(self.norm1, x), size[0])
        return x + self.mlp(normalize(self.norm2, x), size)


class _FusionBlock(TwoWayBlock):
    """A two-way block whose image passes through Mamba layers first."""

    def __init__(self, dim: int, config: FusionConfig, *, first: bool) -> None:
        super().__init__(dim, config.heads, config.mlp_hidden, first=first)
        self.mamba_layers = nn.ModuleList(MambaLayer(dim, config) for _ in range(config.mamba_layers))

    def scan(self, image: Tensor, size: tuple[int, int, int]) -> Tensor:
        """The Mamba layers: no position term is added here, and no text is seen."""
        for layer in self.mamba_layers:
            image = layer(image, size)
        return image


class Fused(NamedTuple):
    """What detection hands to the mask decoder, one row an object."""

    image: Tensor
    """(objects, dim, size, size): the current frame's map, in which the text has left its mark."""
    class_token: Tensor
    """(objects, 1, dim)"""


class CrossModalMamba(nn.Module):
    """CSTMamba: two fusion blocks, then one more look of the tokens at the image."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dim, fusion = config.dim, config.fusion
        self.frames = fusion.frames
        self.class_token = nn.Parameter(torch.zeros(1, dim))
        self.temporal_position = nn.Parameter(torch.zeros(1, fusion.frames, dim))
        self.blocks = nn.ModuleList(_FusionBlock(dim, fusion, first=i == 0) for i in range(fusion.blocks))
        self.final_attn_token_to_image = Attention(dim, fusion.heads, narrow=2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def _sequence(self, current: Tensor, earlier: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The image sequence (videos, frames * tokens, dim) and its positions, with a batch of 1.

        Current frame first, then the pads, then the earlier frames. A missing frame is padded with a copy of
        the current one. The temporal index counts pads and earlier frames separately, each from 1.
        """
        pads = self.frames - 1 - len(earlier)
        maps = [current] * (1 + pads) + earlier
        times = [0, *range(1, pads + 1), *range(1, len(earlier) + 1)]
        image = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
        sine = sine_2d(current.shape[-1], current.shape[1], current.device).flatten(1).T
        position = torch.cat([sine + self.temporal_position[0, time] for time in times])
        return image, position[None]

    def forward(self, current: Tensor, earlier: list[Tensor], tokens: Tensor, valid: Tensor) -> Fused:
        """Fuse texts with frames of a video (or several, see :func:`~model.layers.per_object`).

        ``current`` and each of ``earlier`` (newest first, at most ``frames`` - 1 of them) are stride-16 maps
        (videos, dim, size, size); ``tokens`` (objects, N, dim) and ``valid`` (objects, N) are the encoded texts.
        """
        objects, size = len(tokens), current.shape[-1]
        image, image_position = self._sequence(current, earlier)
        tokens = torch.cat((self.class_token.expand(objects, 1, -1), tokens), dim=1)
        token_position = tokens
        valid = F.pad(valid, (1, 0), value=True)
        for block in self.blocks:
            # In the first block no text has touched the image yet: its Mamba layers run once for all objects.
            assert isinstance(block, _FusionBlock)
            image = per_object(block.scan(image, (self.frames, size, size)), objects)
            tokens, image = block(tokens, image, token_position, image_position, valid)
        attended = self.final_attn_token_to_image(tokens + token_position, image + image_position, image)
        tokens = self.norm_final_attn(tokens + attended)
        fused = image[:, : size * size].transpose(1, 2).unflatten(2, (size, size))
        return Fused(fused, tokens[:, :1])
