"""Dense supervision, in training alone: every pixel says what it shows, and every sentence where it fits.

Masks of single sentences teach a network that starts from nothing slowly. Where all things in a frame are known, as
in rendered scenes, the image encoder learns faster from linear read-outs of its own maps; they are thrown away
afterwards, and change nothing of the network.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import NetworkConfig
from model.image_encoder import ImageFeatures
from model.layers import per_object

_BACKGROUND = 0.25
"""Weight of pixels that show nothing that can be named: most do."""


class DenseHead(nn.Module):
    """Linear read-outs: kind and side of each pixel, and how well each token of the main map fits a sentence."""

    def __init__(self, config: NetworkConfig, kinds: int, sides: int) -> None:
        super().__init__()
        self._classes = (kinds + 1, sides + 1)
        outputs = sum(self._classes)
        self.main = nn.Conv2d(config.dim, outputs, 1)
        self.stride8 = nn.Conv2d(config.dim // 4, outputs, 1)
        self.stride4 = nn.Conv2d(config.dim // 8, outputs, 1)
        self.image = nn.Conv2d(config.dim, config.dim, 1)
        self.text = nn.Linear(config.dim, config.dim)
        self.offset = nn.Parameter(torch.tensor(-2.0))

    def pixel_loss(self, features: ImageFeatures, kinds: Tensor, sides: Tensor) -> Tensor:
        """Cross-entropy of what each place of the stride-4 map shows.

        ``kinds`` and ``sides`` are (frames, height, width), 0 for nothing. A place that shows several has a share
        of each as its target.
        """
        size = (features.stride4.shape[-2], features.stride4.shape[-1])
        logits = self.stride4(features.stride4)
        for read_out, x in ((self.stride8, features.stride8), (self.main, features.main)):
            logits = logits + F.interpolate(read_out(x).float(), size=size, mode="bilinear", align_corners=False)
        total = logits.new_zeros(())
        for part, labels, count in zip(logits.split(self._classes, dim=1), (kinds, sides), self._classes, strict=True):
            one_hot = F.one_hot(labels.long(), count).permute(0, 3, 1, 2).float()
            share = F.adaptive_avg_pool2d(one_hot, size)
            weight = share.clone()
            weight[:, 0] *= _BACKGROUND
            total = total - (weight * part.log_softmax(dim=1)).sum() / weight.sum()
        return total

    def sentence_loss(self, main: Tensor, summary: Tensor, truth: Tensor) -> Tensor:
        """Cross-entropy of where in the main map (videos, dim, s, s) what each sentence names lies.

        ``summary`` is (objects, 1, dim) and ``truth`` (objects, height, width), 1 inside the object.
        """
        image = self.image(main).flatten(2)  # (videos, dim, places)
        fit = self.text(summary) @ per_object(image, len(summary)) / image.shape[1] ** 0.5
        share = F.adaptive_avg_pool2d(truth[:, None], (main.shape[-2], main.shape[-1])).flatten(2)
        return F.binary_cross_entropy_with_logits(fit.float() + self.offset, share)
