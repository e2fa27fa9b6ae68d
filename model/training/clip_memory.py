"""What the objects of a clip remember while a network learns from it: by the rules of inference, with gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from model.config import Rules
from model.memory import Buffers, Recalled, RecallTable, as_rows
from model.memory_bank import MemoryBank


class ClipMemory:
    """The memory of objects from the first conditioning frame ``frame`` on.

    A clip is short, so nothing is forgotten. ``remembered`` are memory features (objects, memory dim, s, s) and
    ``pointers`` object pointers (objects, dim), here as in all methods.
    """

    def __init__(self, rules: Rules, frame: int, remembered: Tensor, pointers: Tensor) -> None:
        self._features: list[Tensor] = []
        self._pointers: list[Tensor] = []
        self._banks = [MemoryBank(rules, frame) for _ in pointers]
        self._rows: list[dict[int, int]] = [{} for _ in pointers]
        self._write(frame, remembered, pointers)

    def recall(self, frame: int) -> Recalled:
        """What to track ``frame`` with."""
        recalls = [bank.recall(frame) for bank in self._banks]
        return RecallTable.make(recalls, self._rows, self._pointers[0].device).read(self._buffers())

    def remember(self, frame: int, remembered: Tensor, pointers: Tensor, predicted_iou: Tensor) -> None:
        """Take a tracked frame into memory."""
        self._write(frame, remembered, pointers)
        for own, bank, iou in zip(self._rows, self._banks, predicted_iou.tolist(), strict=True):
            promotion = bank.remember(frame, iou)
            if promotion is not None:
                bank.promote(promotion.candidates[int(self._buffers().least_alike([own], [promotion]))])

    def condition(self, frame: int, remembered: Tensor, pointers: Tensor) -> None:
        """Take a frame that was prompted into memory."""
        self._write(frame, remembered, pointers)
        for bank in self._banks:
            bank.condition(frame)

    def _write(self, frame: int, remembered: Tensor, pointers: Tensor) -> None:
        for k, own in enumerate(self._rows):
            own[frame] = len(self._features) + k
        self._features += as_rows(remembered)
        self._pointers += pointers

    def _buffers(self) -> Buffers:
        return Buffers(torch.stack(self._features), torch.stack(self._pointers))
