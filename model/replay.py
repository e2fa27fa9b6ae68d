"""CUDA graphs: calls of the network that are recorded once and from then on launched as one.

A tracked frame is several hundred small kernels: launching them one by one takes a processor longer than they take a
large card. A recording holds for one set of shapes, so it pays for what comes again and again: a frame tracked with
full memories, not the dozen frames before, each of which recalls more than the last.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from model.network import ReSurgSAM2

_IN_A_ROW = 3
"""Calls with the same shapes, one after the other, of which the last is recorded. The first two also build constants
and compile kernels, which must not happen in a recording."""

_KEPT = 8
"""Recordings of a function: the shapes of tracking come back, as long-term frames become more or a video follows."""


class Recording(Protocol):
    """Work on tensors that stay where they are."""

    outputs: Any
    """Made anew by :meth:`replay`, in the same place."""

    def replay(self) -> None:
        """Do the work."""
        ...


Record = Callable[[Callable[[], Any], torch.device], Recording]
"""Records work that uses a device. Raises ``RuntimeError`` for work that cannot be."""

_one_at_a_time = threading.Lock()
"""CUDA records one graph of a process at a time; and from the copy of a call's inputs to that of its results no other
may come between, also of another function, as they share memory. The device is not waited for meanwhile."""


class CudaGraph:
    """Work as a CUDA graph; nothing of it is done before the first :meth:`replay`.

    Graphs with the same ``pool`` and recording ``stream`` share memory: they are to be replayed on one stream, and
    what one made is to be copied before the next. Raises ``RuntimeError`` for work that waits for the device.
    """

    def __init__(self, work: Callable[[], Any], device: torch.device, pool: Any, stream: torch.cuda.Stream) -> None:
        self._graph = torch.cuda.CUDAGraph()
        # Other threads use the device at the same time: only this one must keep to what a recording allows.
        recording = torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local")
        # The stream is also set here, as after a failure torch.cuda.graph does not set the one before again.
        with torch.cuda.device(device), torch.cuda.stream(stream), recording:
            self.outputs = work()

    def replay(self) -> None:
        """Launch it on the current stream."""
        self._graph.replay()


class ReplayedFunction:
    """A function of tensors (also in tuples and lists) whose calls are recorded and replayed where that pays.

    The function must depend on nothing else that changes, and must not wait for the device. Where a recording fails,
    a warning says so, and the function is called as before. Threads may share it, on one stream.
    """

    def __init__(self, function: Callable[..., Any], record: Record) -> None:
        self._function, self._record = function, record
        self._recordings: OrderedDict[Hashable, tuple[list[Tensor], Recording]] = OrderedDict()
        self._last: Hashable = None
        self._in_a_row = 0
        self._works = True

    def __call__(self, *arguments: Any) -> Any:
        """The function's result, in memory that is the caller's own."""
        leaves, structure = tree_flatten(arguments)
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        key = (structure, *((x.shape, x.dtype, x.device) if isinstance(x, Tensor) else x for x in leaves))
        with _one_at_a_time:
            self._in_a_row = self._in_a_row + 1 if key == self._last else 1
            self._last = key
            if key in self._recordings or (self._works and self._in_a_row >= _IN_A_ROW and self._add(key, arguments)):
                self._recordings.move_to_end(key)
                inputs, recording = self._recordings[key]
                torch._foreach_copy_(inputs, tensors)
                recording.replay()
                return tree_map_only(Tensor, torch.clone, recording.outputs)
        return self._function(*arguments)

    def _add(self, key: Hashable, arguments: tuple[Any, ...]) -> bool:
        """Record a call; False where that fails."""
        own = tree_map_only(Tensor, torch.clone, arguments)
        inputs = [x for x in tree_flatten(own)[0] if isinstance(x, Tensor)]
        try:
            recording = self._record(lambda: self._function(*own), inputs[0].device)
        except RuntimeError as error:
            self._works = False
            self._recordings.clear()
            warnings.warn(f"CUDA graphs are not used: {error}", RuntimeWarning, stacklevel=2)
            return False
        self._recordings[key] = (inputs, recording)
        if len(self._recordings) > _KEPT:
            self._recordings.popitem(last=False)
        return True


def replay(network: ReSurgSAM2, record: Record | None = None) -> None:
    """Have a network replay its verbs. From here on, its weights must stay where they are."""
    if record is None:
        record = partial(CudaGraph, pool=torch.cuda.graph_pool_handle(), stream=torch.cuda.Stream(network.device))
    for verb in ("encode_image", "detect", "track", "memorize"):
        setattr(network, verb, ReplayedFunction(getattr(network, verb), record))
