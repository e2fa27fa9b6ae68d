"""Frames on their way from the host to a CUDA device."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.streams import reached


class Uploads:
    """Takes frames to a CUDA device through a little pinned memory, so that nothing waits for the copy."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned: list[Tensor] = [torch.empty(0, dtype=torch.uint8)] * 2
        self._sent: list[torch.cuda.Event | None] = [None, None]
        self._next = 0
        self._lock = threading.Lock()

    def send(self, frames: list[Any]) -> Tensor:
        """Frames (height, width, 3) uint8, on the host or the device, as one tensor on the device."""
        # PyTorch warns of an array that is not to be written to, as PIL makes them, and takes none that is reversed.
        tensors = [
            x if isinstance(x, Tensor) else torch.from_numpy(np.require(x, requirements=("C", "W"))) for x in frames
        ]
        if all(x.device == self._device for x in tensors):
            return torch.stack(tensors)
        into = torch.empty(len(tensors), *tensors[0].shape, dtype=torch.uint8, device=self._device)
        for x, place in zip(tensors, into, strict=True):
            self._send(x, place)
        return into

    def _send(self, frame: Tensor, into: Tensor) -> None:
        with self._lock:  # videos side by side share the pinned memory
            self._send_next(frame, into)

    def _send_next(self, frame: Tensor, into: Tensor) -> None:
        self._next = (self._next + 1) % len(self._pinned)
        sent = self._sent[self._next]
        if sent is not None:
            sent.synchronize()
        if self._pinned[self._next].shape != frame.shape:
            self._pinned[self._next] = torch.empty(frame.shape, dtype=torch.uint8, pin_memory=True)
        into.copy_(self._pinned[self._next].copy_(frame), non_blocking=True)
        self._sent[self._next] = reached(self._device, sent)
