"""CUDA graphs: a call of the network is recorded once, and launched as a whole from then on.

A tracked frame is several hundred small kernels. To launch them one by one takes the processor longer than a large
card takes to run them. A recording is for one set of shapes, so it pays for shapes that come again and again.
"""

from __future__ import annotations

import gc
import threading
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import torch
from torch import Tensor

from model.room import out_of_memory
from model.streams import each_tensor, stream_for, tensors_of

_SEEN = 3
"""The third call with the same shapes is recorded. The first two also build constants and compile kernels, which must
not happen in a recording."""

_KEPT = 24
"""How many recordings are kept. Shapes change as objects are found, and return with the next video."""


class Recording(Protocol):
    """Work on tensors that stay where they are."""

    outputs: Any
    """What the work returned; :meth:`replay` writes new values to the same place."""

    def replay(self) -> None:
        """Do the work."""
        ...


class Recordings(Protocol):
    """What makes recordings."""

    def record(self, work: Callable[[], Any]) -> Recording:
        """Record work that uses a device. Raises ``RuntimeError`` for work that cannot be recorded."""
        ...

    def renew(self) -> None:
        """All recordings are gone: their memory is let go, and the next one starts anew."""
        ...


_one_at_a_time = threading.Lock()
"""CUDA records one graph of a process at a time, and no thread may wait for all of the device meanwhile. Who holds the
lock of a recorder may ask for this one, never the other way round."""


def free_cache() -> None:
    """Give back to CUDA what PyTorch keeps of memory that nobody uses, at a time when nothing is recorded."""
    with _one_at_a_time:
        torch.cuda.empty_cache()


class CudaGraphs:
    """Makes CUDA graphs that share memory: replay them on one stream, one after the other.

    What is ``urgent`` goes before other work, wherever it is replayed: kernels keep the priority of the stream on which
    they were recorded.
    """

    def __init__(self, device: torch.device, *, urgent: bool = False) -> None:
        stream = stream_for("recording", device, urgent=urgent)
        assert stream is not None
        self._stream = stream
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], Any]) -> CudaGraph:
        """Record work; nothing is done before it is replayed."""
        return CudaGraph(work, self._pool, self._stream)

    def renew(self) -> None:
        """Take another pool: one whose graphs are all gone cannot be used again."""
        self._pool = torch.cuda.graph_pool_handle()


class CudaGraph:
    """Work as a CUDA graph. Nothing is done before the first :meth:`replay`.

    Graphs with the same ``pool`` and recording ``stream`` share memory: copy the outputs of one before you replay the
    next. Raises ``RuntimeError`` for work that waits for the device; the pool is useless then.
    """

    def __init__(self, work: Callable[[], Any], pool: Any, stream: torch.cuda.Stream) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(stream.device), torch.cuda.stream(stream), _collecting_nothing():
            torch.cuda.synchronize(stream.device)
            # What PyTorch keeps of the calls before is not given back during a recording, which has memory of its own.
            torch.cuda.empty_cache()
            # Other threads use the device at the same time, and only this one must keep to what a recording allows.
            self._graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                self.outputs = work()
            except BaseException:
                with suppress(RuntimeError):
                    self._end(pool, stream.device)
                raise
            self._end(pool, stream.device)

    def _end(self, pool: Any, device: torch.device) -> None:
        try:
            self._graph.capture_end()
        except RuntimeError:
            # PyTorch leaves its allocator as if the recording went on: later ones would fail, and memory would not be
            # freed to try again.
            with suppress(AttributeError, RuntimeError):
                torch._C._cuda_endAllocateToPool(device.index or 0, pool)
            raise

    def replay(self) -> None:
        """Launch the graph on the current stream."""
        self._graph.replay()


@contextmanager
def _collecting_nothing() -> Iterator[None]:
    """During a recording, nothing on the device may be destroyed that was there before."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class Recorder:
    """Calls of functions of tensors, recorded and replayed if their shapes repeat.

    The functions must depend on nothing else that changes, and must not wait for the device. If a recording fails, a
    warning says so, and the functions are called from then on; for want of memory, only that one is. Threads may share
    it, on one stream.
    """

    def __init__(self, recordings: Recordings) -> None:
        self._make = recordings
        # Copy-in, replay and copy-out must not interleave with those of another call: recordings share memory. Nobody
        # who holds the lock waits for the device, unless to record, or to drop what may be running.
        self._lock = threading.RLock()
        self._recordings: OrderedDict[Hashable, tuple[list[Tensor], Recording]] = OrderedDict()
        self._seen: Counter[Hashable] = Counter()
        self._refused: set[Hashable] = set()
        """What there was no room to record."""
        self._works = True

    def call(self, name: str, function: Callable[..., Any], *moving: Any, held: tuple[Any, ...] = ()) -> Any:
        """Return ``function(*moving, *held)``, in memory of the caller's own. Functions are told apart by ``name``.

        Tensors in ``moving`` (also in tuples and lists) are copied to where the recording reads them. Those in ``held``
        are read, and may be written, where they lie.
        """
        if not self._works:
            return function(*moving, *held)
        places = tuple((x.data_ptr(), x.shape, x.dtype) for x in tensors_of(held))
        key = (name, places, *_described(moving))
        with self._lock:
            if key not in self._recordings and not self._add(key, function, moving, held):
                return function(*moving, *held)
            self._recordings.move_to_end(key)
            inputs, recording = self._recordings[key]
            torch._foreach_copy_(inputs, list(tensors_of(moving)))
            recording.replay()
            return each_tensor(torch.clone, recording.outputs)

    def drop(self, wait: Callable[[], None] = lambda: None) -> bool:
        """Forget all recordings, and the memory that they keep; returns whether there were any.

        ``wait`` is to wait for the device: nobody may replay one between that and its end.
        """
        with self._lock:
            with _one_at_a_time:
                wait()
            any_kept = bool(self._recordings)
            self._recordings.clear()
            self._seen.clear()
            self._refused.clear()
            if any_kept:
                self._make.renew()
            return any_kept

    def try_again(self) -> None:
        """Record also what there was no room for: there may be now."""
        with self._lock:
            self._refused.clear()

    def _add(self, key: Hashable, function: Callable[..., Any], moving: tuple[Any, ...], held: tuple[Any, ...]) -> bool:
        """Record a call that comes often enough. Returns False if it does not, or if that fails."""
        self._seen[key] += 1
        if self._seen[key] < _SEEN or not self._works or key in self._refused:
            return False
        own = each_tensor(torch.clone, moving)
        try:
            with _one_at_a_time:
                recording = self._make.record(lambda: function(*own, *held))
        except BaseException as error:
            if not self._recordings:
                self._make.renew()  # a pool without any graph cannot be used again
            if out_of_memory(error):
                self._refused.add(key)
                return False
            if not isinstance(error, RuntimeError):
                raise
            self._works = False
            self._recordings.clear()
            warnings.warn(f"CUDA graphs are not used: {error}", RuntimeWarning, stacklevel=3)
            return False
        self._recordings[key] = (list(tensors_of(own)), recording)
        if len(self._recordings) > _KEPT:
            forgotten, _ = self._recordings.popitem(last=False)
            del self._seen[forgotten]
        return True


def _described(tree: Any) -> Iterator[Hashable]:
    """What tells one call from another: what its arguments are made of, and all but the numbers in tensors."""
    if isinstance(tree, Tensor):
        yield tree.shape, tree.dtype
    elif isinstance(tree, (tuple, list)):
        yield type(tree), len(tree)
        for x in tree:
            yield from _described(x)
    else:
        yield type(tree), tree
