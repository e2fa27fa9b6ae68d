"""Memory encoder of SAM 2: a frame and its mask become the features that later frames attend to."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import NetworkConfig
from model.fused import normalize_map
from model.layers import LayerNorm2d, per_object

_SCALE, _BIAS = 20.0, -10.0  # of the mask probability before it is encoded


class _FuserBlock(nn.Module):
    """ConvNeXt block with layer scale, on (batch, dim, height, width)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = LayerNorm2d(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.scale = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = normalize_map(self.norm, self.conv(x)).permute(0, 2, 3, 1)
        y = self.scale * self.fc2(F.gelu(self.fc1(y)))
        return x + y.permute(0, 3, 1, 2)


class MemoryEncoder(nn.Module):
    """Stride-16 map and mask to memory features of a quarter of the width."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dim, memory = config.dim, config.memory
        layers: list[nn.Module] = []
        channels = 1
        while channels < 4**4:  # stride 2 and four times the channels, four times
            layers += [
                nn.Conv2d(channels, channels * 4, 3, stride=2, padding=1),
                LayerNorm2d(channels * 4),
                nn.Identity(),  # GELU, which goes with the normalisation; numbers of layers are as published
            ]
            channels *= 4
        self.mask_encoder = nn.Sequential(*layers, nn.Conv2d(channels, dim, 1))
        self.image_proj = nn.Conv2d(dim, dim, 1)
        self.fuser = nn.Sequential(*(_FuserBlock(dim, memory.fuser_hidden) for _ in range(memory.fuser_layers)))
        self.out_proj = nn.Conv2d(dim, memory.dim, 1)

    def forward(self, image: Tensor, mask_logits: Tensor, *, binary: bool = False) -> Tensor:
        """Raw stride-16 maps (videos or objects, dim, s, s), mask logits (objects, h, w) to (objects, memory, s, s).

        The mask is taken as the probability that a pixel is of the object, or as ``binary``, which is 0 or 1.
        """
        size = [16 * side for side in image.shape[-2:]]  # that of the network's input
        mask = F.interpolate(mask_logits[:, None].float(), size=size, mode="bilinear", align_corners=False)
        mask = ((mask > 0).float() if binary else mask.sigmoid()) * _SCALE + _BIAS
        for layer in self.mask_encoder:
            mask = normalize_map(layer, mask, gelu=True) if isinstance(layer, LayerNorm2d) else layer(mask)
        return self.out_proj(self.fuser(per_object(self.image_proj(image), len(mask)) + mask))
