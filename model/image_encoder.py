"""Image encoder: the Hiera backbone and its feature pyramid, as in SAM 2.1.

Maps inside Hiera are channels-last, (batch, height, width, channels).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import HieraConfig, NetworkConfig
from model.fused import normalize
from model.layers import attend
from model.streams import made


class ImageFeatures(NamedTuple):
    """What the rest of the network sees of a batch of frames."""

    main: Tensor
    """Stride 16, (frames, dim, size / 16, size / 16): the raw map of detection, tracking and memory."""
    stride8: Tensor
    """(frames, dim / 4, size / 8, size / 8), for the mask decoder."""
    stride4: Tensor
    """(frames, dim / 8, size / 4, size / 4), for the mask decoder."""

    def frame(self, index: int) -> ImageFeatures:
        """One frame of the batch, still with a batch axis."""
        return ImageFeatures(*(x[index : index + 1] for x in self))


def _split_windows(x: Tensor, window: int) -> Tensor:
    """Cut a map into windows, (batch * windows, window, window, channels)."""
    rows, columns = x.shape[1] // window, x.shape[2] // window
    x = x.unflatten(2, (columns, window)).unflatten(1, (rows, window))
    return x.transpose(2, 3).flatten(0, 2)


def _join_windows(x: Tensor, rows: int, columns: int) -> Tensor:
    """Undo :func:`_split_windows`: back to (batch, rows * window, columns * window, channels)."""
    x = x.unflatten(0, (-1, rows, columns)).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)


def _pool(x: Tensor) -> Tensor:
    """Max-pool a channels-last map 2 x 2."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


class _WindowAttention(nn.Module):
    """Multi-head attention in windows (0: over the whole map); ``pool`` halves the queries' resolution."""

    def __init__(self, dim: int, dim_out: int, heads: int, window: int, pool: bool) -> None:
        super().__init__()
        self.heads, self.window, self.pool = heads, window, pool
        self.qkv = nn.Linear(dim, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, dim) to the same, or half the size and ``dim_out``."""
        _, height, width, _ = x.shape
        window = self.window or max(height, width)
        rows, columns = -(-height // window), -(-width // window)
        if (rows * window, columns * window) == (height, width):
            qkv = self.qkv(_split_windows(x, window))  # before it becomes three to six times as wide
        else:
            qkv = _split_windows(self._padded_qkv(x, rows * window, columns * window), window)
        q, k, v = qkv.chunk(3, dim=-1)
        if self.pool:
            q, height, width = _pool(q), height // 2, width // 2
        size = q.shape[1:3]
        q, k, v = (t.flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        x = attend(q, k, v)
        x = _join_windows(x.transpose(1, 2).flatten(2).unflatten(1, size), rows, columns)
        # Of a slice, PyTorch would make one product per row, each with a copy of the weights.
        return self.proj(x[:, :height, :width].contiguous())

    def _padded_qkv(self, x: Tensor, height: int, width: int) -> Tensor:
        """Queries, keys and values, padded on the right and bottom to whole windows.

        SAM 2 pads the input with zeros and attends to the padding, too. Of a zero, the projection makes its bias:
        putting that in place saves projecting the padding (nearly half of the tokens with windows of 14).
        """
        qkv = self.qkv(x)
        padded = self.qkv.bias.to(qkv.dtype).expand(len(x), height, width, -1).clone()
        padded[:, : x.shape[1], : x.shape[2]] = qkv
        return padded


class _HieraBlock(nn.Module):
    """Pre-norm transformer block; the first block of a stage doubles the width and halves the resolution."""

    def __init__(self, dim: int, dim_out: int, heads: int, window: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.proj = nn.Linear(dim, dim_out) if dim != dim_out else None
        self.attn = _WindowAttention(dim, dim_out, heads, window, pool=self.proj is not None)
        self.norm2 = nn.LayerNorm(dim_out, eps=1e-6)
        self.mlp_in = nn.Linear(dim_out, 4 * dim_out)
        self.mlp_out = nn.Linear(4 * dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        shortcut, x = x, normalize(self.norm1, x)
        if self.proj is not None:  # the shortcut of a pooling block is made from the normalised input
            shortcut = _pool(self.proj(x))
        x = shortcut + self.attn(x)
        return x + self.mlp_out(F.gelu(self.mlp_in(normalize(self.norm2, x))))


class Hiera(nn.Module):
    """(batch, 3, size, size) to the four stage outputs (batch, channels, h, w), finest (stride 4) first."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        dim, heads = config.embed_dim, config.num_heads
        self.patch_embed = nn.Conv2d(3, dim, kernel_size=7, stride=4, padding=3)
        self.position_grid = nn.Parameter(torch.zeros(1, dim, *config.position_grid))
        self.position_window = nn.Parameter(torch.zeros(1, dim, config.windows[0], config.windows[0]))
        self.blocks = nn.ModuleList()
        self.stage_ends: list[int] = []
        self._positions: tuple[object, Tensor] = (None, torch.empty(0))
        window = config.windows[0]
        for stage, depth in enumerate(config.stages):
            for i in range(depth):
                dim_out = 2 * dim if stage and i == 0 else dim
                heads = 2 * heads if dim_out != dim else heads
                is_global = len(self.blocks) in config.global_blocks
                # The first block of a stage still has the window of the stage before it.
                self.blocks.append(_HieraBlock(dim, dim_out, heads, 0 if is_global else window))
                dim, window = dim_out, config.windows[stage]
            self.stage_ends.append(len(self.blocks) - 1)

    def positions(self, height: int, width: int) -> Tensor:
        """(1, height, width, channels): the resized background grid plus the tiled window grid.

        Inference keeps them as long as the weights are what they were.
        """
        if torch.is_grad_enabled():
            return self._make_positions(height, width)
        weights = [(x.data_ptr(), None if x.is_inference() else x._version) for x in self._grids()]
        key = (height, width, self.position_grid.device, self.position_grid.dtype, weights)
        if self._positions[0] != key:
            self._positions = (key, made(self._make_positions(height, width)))
        return self._positions[1]

    def _grids(self) -> tuple[Tensor, Tensor]:
        return self.position_grid, self.position_window

    def _make_positions(self, height: int, width: int) -> Tensor:
        grid, window = self._grids()
        side = window.shape[-1]
        resized = F.interpolate(grid, size=(height, width), mode="bicubic")
        return (resized + window.tile(1, 1, height // side, width // side)).permute(0, 2, 3, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.patch_embed(images).permute(0, 2, 3, 1)
        x = x + self.positions(x.shape[1], x.shape[2])
        outputs = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.stage_ends:
                outputs.append(x.permute(0, 3, 1, 2))
        return outputs


class ImageEncoder(nn.Module):
    """Frames to the maps that all objects of a video share; it knows neither objects nor time."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dim = config.dim
        self.trunk = Hiera(config.hiera)
        widths = [config.hiera.embed_dim * 2**stage for stage in range(len(config.hiera.stages))]
        self.lateral = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in widths)  # finest first
        self.fine4 = nn.Conv2d(dim, dim // 8, 1)
        self.fine8 = nn.Conv2d(dim, dim // 4, 1)

    def forward(self, images: Tensor) -> ImageFeatures:
        """(frames, 3, size, size), normalised, to :class:`ImageFeatures`."""
        stride4, stride8, stride16, stride32 = (
            lateral(x) for lateral, x in zip(self.lateral, self.trunk(images), strict=True)
        )
        # The only top-down path is from stride 32 to 16, added in float32 also under autocast.
        top_down = F.interpolate(stride32.float(), scale_factor=2.0, mode="nearest")
        return ImageFeatures(stride16 + top_down, self.fine8(stride8), self.fine4(stride4))
