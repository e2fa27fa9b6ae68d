"""Tensors that one thread hands to another, each with a CUDA stream of its own; on other devices, nothing to do."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

import torch
from torch.utils._pytree import tree_leaves

T = TypeVar("T")


class Handed(Generic[T]):
    """Tensors (in tuples, too) that are being made on the stream that is current now."""

    def __init__(self, tensors: T) -> None:
        self._tensors = tensors
        self._ready: torch.cuda.Event | None = None
        if any(x.is_cuda for x in _tensors(tensors)):
            self._ready = torch.cuda.Event()
            self._ready.record()

    def take(self) -> T:
        """The tensors: what is done with them on the stream that is current then comes after they are made."""
        if self._ready is not None:
            stream = torch.cuda.current_stream(_tensors(self._tensors)[0].device)
            stream.wait_event(self._ready)
            for x in _tensors(self._tensors):
                x.record_stream(stream)
        return self._tensors


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


def new_stream(device: torch.device, *, urgent: bool = False) -> torch.cuda.Stream | None:
    """A stream, if the device has streams; what is ``urgent`` goes before the work of other streams."""
    return torch.cuda.Stream(device, priority=-1 if urgent else 0) if device.type == "cuda" else None


def on(stream: torch.cuda.Stream | None) -> AbstractContextManager[Any]:
    """Work of this thread goes to ``stream``."""
    return nullcontext() if stream is None else torch.cuda.stream(stream)
