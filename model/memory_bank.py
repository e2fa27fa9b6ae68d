"""DLM, the diversity-driven long-term memory: what one tracked object remembers and what it recalls.

Three kinds of frames: the conditioning frame that CIFS chose, the most recent tracked frames, and a few
long-term frames, each promoted from a pool of confident frames because it is the one least like the newest
long-term frame. Remembering writes, recalling reads. All sets are bounded, so a stream of any length runs in
constant memory: a frame that can no longer be recalled is forgotten.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import Rules


@dataclass(frozen=True)
class FrameMemory:
    """What is kept of one frame."""

    frame: int
    features: Tensor
    """(memory dim, s, s), bfloat16"""
    pointer: Tensor
    """(dim,): the object pointer"""


@dataclass(frozen=True)
class Recall:
    """What the tracker attends to for one object at one frame."""

    frames: list[tuple[Tensor, int]]
    """Memory features and their temporal slot. Slot d - 1 is the frame d steps back; the last slot, -1, is shared
    by the conditioning and the long-term frames."""
    pointers: list[tuple[Tensor, float]]
    """Object pointers and their distance in time, as a share of the longest one that counts."""


def frame_similarity(features: Tensor, anchor: Tensor) -> Tensor:
    """How alike memory features (n, c, h, w) and ``anchor`` (c, h, w) are, (n,) in float32.

    The published code takes the cosine along the *width* axis, and sums it over channels and rows.
    """
    return F.cosine_similarity(features.float(), anchor.float()[None], dim=-1).sum(dim=(1, 2))


class MemoryBank:
    """The memory of one object from its conditioning frame on.

    ``clip_length`` is the number of frames of the clip where it is known. It matters only in clips shorter than
    ``rules.pointers`` frames, where the published code scales pointer distances by it.
    """

    def __init__(self, rules: Rules, conditioning: FrameMemory, clip_length: int | None = None) -> None:
        self._rules = rules
        self._conditioning = conditioning
        # Frames t-6..t-1 are recalled with their features, t-15..t-1 with their pointers.
        self._recent: deque[FrameMemory] = deque(maxlen=max(rules.recent, rules.pointers - 1))
        self._long_term: deque[FrameMemory] = deque(maxlen=rules.long_term)
        self._pool: list[FrameMemory] = []
        longest = rules.pointers if clip_length is None else min(clip_length, rules.pointers)
        self._pointer_span = max(longest - 1, 1)

    @property
    def conditioning_frame(self) -> int:
        """The frame that tracking started from."""
        return self._conditioning.frame

    @property
    def long_term_frames(self) -> tuple[int, ...]:
        """The long-term frames, oldest choice first."""
        return tuple(m.frame for m in self._long_term)

    @property
    def long_term_candidates(self) -> tuple[int, ...]:
        """The pool of confident frames that the next long-term frame is chosen from."""
        return tuple(m.frame for m in self._pool)

    def recall(self, frame: int) -> Recall:
        """What to attend to when ``frame`` is tracked, in the order that the network expects."""
        rules = self._rules
        frames = [(self._conditioning.features, -1)]
        recent = [m for m in self._recent if frame - m.frame <= rules.recent]
        frames += [(m.features, frame - m.frame - 1) for m in recent]
        recalled = {m.frame for m in recent}
        frames += [(m.features, -1) for m in self._long_term if m.frame not in recalled]

        newest_first = [m for m in reversed(self._recent) if frame - m.frame < rules.pointers]
        pointers = [(m.pointer, (frame - m.frame) / self._pointer_span) for m in (self._conditioning, *newest_first)]
        return Recall(frames, pointers)

    def remember(self, memory: FrameMemory, predicted_iou: float) -> None:
        """Take a tracked frame into memory; a confident one joins the pool, also when the object is absent."""
        rules = self._rules
        self._recent.append(memory)
        if rules.long_term and predicted_iou > rules.long_term_min_iou:
            self._pool.append(memory)
        if len(self._pool) == rules.pool:
            anchor = self._long_term[-1] if self._long_term else self._conditioning
            features = torch.stack([m.features for m in self._pool])
            least_alike = int(frame_similarity(features, anchor.features).argmin())  # first wins a tie
            self._long_term.append(self._pool[least_alike])
            self._pool.clear()
