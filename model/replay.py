"""CUDA graphs: a call of the network is recorded once, and launched as a whole from then on.

A tracked frame is several hundred small kernels. To launch them one by one takes the processor longer than a large
card takes to run them. A recording is for one set of shapes, so it pays for shapes that come again and again: those of
frames tracked with full memories, not of the dozen frames before, each of which recalls more than the last.
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
"""The third call in a row with the same shapes is recorded. The first two also build constants and compile kernels,
which must not happen in a recording."""

_KEPT = 8
"""How many recordings of a function are kept. Shapes change as long-term frames are added, and return with the next
video."""


class Recording(Protocol):
    """Work on tensors that stay where they are."""

    outputs: Any
    """What the work returned; :meth:`replay` writes new values to the same place."""

    def replay(self) -> None:
        """Do the work."""
        ...


Record = Callable[[Callable[[], Any], torch.device], Recording]
"""Records work that uses a device. Raises ``RuntimeError`` for work that cannot be recorded."""

_one_at_a_time = threading.Lock()
"""CUDA records one graph of a process at a time. And copy-in, replay and copy-out must not interleave with those of
another call, even of another function: graphs share memory. Nobody who holds the lock waits for the device."""


class CudaGraph:
    """Work as a CUDA graph. Nothing is done before the first :meth:`replay`.

    Graphs with the same ``pool`` and recording ``stream`` share memory: replay them on one stream, and copy the outputs
    of one before you replay the next. Raises ``RuntimeError`` for work that waits for the device.
    """

    def __init__(self, work: Callable[[], Any], device: torch.device, pool: Any, stream: torch.cuda.Stream) -> None:
        self._graph = torch.cuda.CUDAGraph()
        # Other threads use the device at the same time, and only this one must keep to what a recording allows.
        recording = torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local")
        # The stream is also set here, because after a failure torch.cuda.graph does not restore the previous one.
        with torch.cuda.device(device), torch.cuda.stream(stream), recording:
            self.outputs = work()

    def replay(self) -> None:
        """Launch the graph on the current stream."""
        self._graph.replay()


class ReplayedFunction:
    """A function of tensors, also in tuples and lists, whose calls are recorded and replayed if their shapes repeat.

    The function must depend on nothing else that changes, and must not wait for the device. If a recording fails, a
    warning says so, and the function itself is called from then on. Threads may share it, on one stream.
    """

    def __init__(self, function: Callable[..., Any], record: Record) -> None:
        self._function, self._record = function, record
        self._recordings: OrderedDict[Hashable, tuple[list[Tensor], Recording]] = OrderedDict()
        self._last: Hashable = None
        self._in_a_row = 0
        self._works = True

    def __call__(self, *arguments: Any) -> Any:
        """Return the function's result, in memory of the caller's own."""
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
        """Record a call. Returns False if that fails."""
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
    """Make a network replay its verbs. From then on, its weights must stay where they are in memory."""
    if record is None:
        record = partial(CudaGraph, pool=torch.cuda.graph_pool_handle(), stream=torch.cuda.Stream(network.device))
    for verb in ("encode_image", "detect", "track", "memorize"):
        setattr(network, verb, ReplayedFunction(getattr(network, verb), record))
