"""Position encodings. They hold no weights: each is a function of sizes, computed once per device and kept."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from model.streams import made

_TEMPERATURE = 10000.0


def _constant(function):  # type: ignore[no-untyped-def]
    """Cache a tensor that depends on its (hashable) arguments alone.

    Built outside inference mode, so that training may use what inference made first, and kept for good: the addresses
    are part of recordings (:mod:`model.replay`). There are few: sizes of networks on devices.
    """

    def build(*args, **kwargs):  # type: ignore[no-untyped-def]
        with torch.inference_mode(False), torch.no_grad():
            return made(function(*args, **kwargs))

    return lru_cache(maxsize=None)(build)


@_constant
def sine_2d(size: int, channels: int, device: torch.device) -> Tensor:
    """Sine encoding of a square map, (channels, size, size) in float32: y in the first half, x in the second.

    Positions count from 1 and are normalised to 2 pi; within a half, channel i has the frequency
    10000^(-2 floor(i/2) / half), sine on even and cosine on odd channels (SAM 2, Carion et al. 2020).
    """
    half = channels // 2
    position = torch.arange(1, size + 1, dtype=torch.float32, device=device)
    position = position / (position[-1:] + 1e-6) * (2 * math.pi)
    channel = torch.arange(half, dtype=torch.float32, device=device)
    period = _TEMPERATURE ** (2 * torch.div(channel, 2, rounding_mode="floor") / half)
    angle = position[:, None] / period
    line = torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)  # (size, half)
    y = line[:, None, :].expand(size, size, half)
    x = line[None, :, :].expand(size, size, half)
    return torch.cat((y, x), dim=2).permute(2, 0, 1).contiguous()


def sine_1d(positions: Tensor, channels: int) -> Tensor:
    """Sine encoding of scalars, (...,) to (..., channels): sines in the first half, cosines in the second.

    Each frequency is used twice in a row and there is no factor 2 pi (SAM 2's encoding of pointer distances).
    """
    half = channels // 2
    channel = torch.arange(half, dtype=torch.float32, device=positions.device)
    period = _TEMPERATURE ** (2 * torch.div(channel, 2, rounding_mode="floor") / half)
    angle = positions[..., None] / period
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


def fourier_2d(matrix: Tensor, size: int) -> Tensor:
    """Random-Fourier encoding of the pixel centres of a square map, (2 * n, size, size) from a (2, n) matrix."""
    centre = (torch.arange(size, dtype=torch.float32, device=matrix.device) + 0.5) / size
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    return fourier(matrix, torch.stack((x, y), dim=-1)).permute(2, 0, 1)


def fourier(matrix: Tensor, places: Tensor) -> Tensor:
    """Random-Fourier encoding of places (..., 2), x and y from 0 to 1, by a (2, n) matrix: (..., 2 * n)."""
    angle = 2 * math.pi * ((2 * places - 1) @ matrix.float())
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


@_constant
def rotary_table(size: int, channels: int, device: torch.device) -> Tensor:
    """The axial rotary encoding of a square map: unit numbers (size * size, channels / 2), complex64.

    Adjacent channels are a pair, the real and the imaginary part of a number; the first half of the pairs turns with x,
    the second with y, at 10000^(-4i / channels).
    """
    pairs = channels // 4
    frequency = _TEMPERATURE ** (-torch.arange(0, channels, 4, device=device)[:pairs].float() / channels)
    token = torch.arange(size * size, device=device)
    x, y = (token % size).float(), torch.div(token, size, rounding_mode="floor").float()
    angle = torch.cat((torch.outer(x, frequency), torch.outer(y, frequency)), dim=1)
    return torch.complex(angle.cos(), angle.sin())


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn adjacent channel pairs of ``x`` (..., tokens, channels) by the angles of :func:`rotary_table`.

    ``x`` may have a multiple of the table's tokens: the table then repeats, as for several memory frames.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2))).unflatten(-2, (-1, table.shape[0]))
    return torch.view_as_real(pairs * table).flatten(-2).flatten(-3, -2).to(x.dtype)


def rotate_in_place(x: Tensor, table: Tensor, tokens: int) -> None:
    """:func:`rotate` the first ``tokens`` of (batch, all tokens, channels), map by map, as one stays in the cache."""
    for row in x[:, :tokens]:
        for part in row.split(len(table)):
            pairs = torch.view_as_complex(part.float().unflatten(-1, (-1, 2))).mul_(table)
            if part.dtype != torch.float32:  # else it was changed itself
                part.copy_(torch.view_as_real(pairs).flatten(-2))
