"""Tensors that one thread hands to another, each with a CUDA stream of its own; on other devices, nothing to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")


def reached(device: torch.device, event: torch.cuda.Event | None = None) -> torch.cuda.Event:
    """An event, perhaps a new one, at the end of what this thread has asked of ``device`` so far.

    Without a stream, PyTorch would record it on that of the *current* device, which is the first one for most threads.
    """
    event = event or torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


class Handed(Generic[T]):
    """Tensors (in tuples, too) that are being made on the stream that is current now."""

    def __init__(self, tensors: T) -> None:
        self._tensors = tensors
        self._ready = next((reached(x.device) for x in tensors_of(tensors) if x.is_cuda), None)

    def take(self) -> T:
        """The tensors: what is done with them on the stream that is current then comes after they are made."""
        if self._ready is not None:
            own = list(tensors_of(self._tensors))
            stream = torch.cuda.current_stream(own[0].device)
            stream.wait_event(self._ready)
            for x in own:
                x.record_stream(stream)
        return self._tensors


class Arriving:
    """A tensor on its way to the host, as the stream that is current now makes it; later work does not delay it."""

    def __init__(self, x: torch.Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        if x.is_cuda:
            self._x = torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
            self._done = reached(x.device)
        else:
            self._x = x.cpu()

    def wait(self) -> torch.Tensor:
        """The tensor, on the host."""
        if self._done is not None:
            self._done.synchronize()
        return self._x


def made(x: torch.Tensor) -> torch.Tensor:
    """A constant that is there for good: threads with other streams will read it, and wait for nothing."""
    if x.is_cuda:
        torch.cuda.current_stream(x.device).synchronize()
    return x


def tensors_of(tree: Any) -> Iterator[torch.Tensor]:
    """The tensors in a tensor, or in nested tuples and lists."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for x in tree:
            yield from tensors_of(x)


def each_tensor(change: Callable[[torch.Tensor], torch.Tensor], tree: Any) -> Any:
    """The same nested tuples and lists with each tensor changed. PyTorch's ``tree_map`` takes ten times as long."""
    if isinstance(tree, torch.Tensor):
        return change(tree)
    if not isinstance(tree, (tuple, list)):
        return tree
    items = [each_tensor(change, x) for x in tree]
    return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)


@cache
def stream_for(purpose: str, device: torch.device, *, urgent: bool = False) -> torch.cuda.Stream | None:
    """The process's stream for a purpose, if the device has streams; what is ``urgent`` goes before other work.

    There is one of each: cuBLAS keeps up to 32 MiB for every stream that it ever worked on.
    """
    return torch.cuda.Stream(device, priority=-1 if urgent else 0) if device.type == "cuda" else None


def on(stream: torch.cuda.Stream | None) -> AbstractContextManager[Any]:
    """Work of this thread goes to ``stream``."""
    return nullcontext() if stream is None else torch.cuda.stream(stream)
