"""A CUDA device that is none: tensors that say they are on one, computed on the CPU, and all rules of a real one.

Where a real device would raise, this one raises: tensors of the CPU and of the device in one operation, a CUDA tensor
that NumPy is to see, a read during a recording. What a real device does silently wrong is found, too: work that
another stream has not waited for, memory that is freed while another stream still uses it, pinned memory that is read
before its copy has arrived or written before it has left. And every wait of the host for the device is counted.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from model.positions import rotary_table, sine_2d
from model.preprocess import _channels, _places, _taps
from model.streams import stream_for

_ROOT = str(Path(__file__).parents[1])
DEVICE, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)
aten = torch.ops.aten

_READS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten._unique2.default}
"""Operations that wait until the device is done, as their results go to the host or have a shape of their own."""

_TAKES_HOST_INDICES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class Stream:
    """A stream of the device. It knows how far the others are that it has waited for."""

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.device = device or gpu().device
        self.done = 0
        self.seen: dict[Stream, int] = {}
        self.time, self.cost = 0.0, 1.0
        """Milliseconds that have passed when its work is done, and those that an operation takes."""

    def wait_event(self, event: Event) -> None:
        _merge(self.seen, event.seen)
        self.time = max(self.time, event.time)

    def wait_stream(self, other: Stream) -> None:
        event = Event()
        event.record(other)
        self.wait_event(event)

    def synchronize(self) -> None:
        event = Event()
        event.record(self)
        event.synchronize()


class Event:
    """A point in a stream, and the copies between host and device that are on their way before it."""

    def __init__(self, enable_timing: bool = False, **_: Any) -> None:
        self.seen: dict[Stream, int] = {}
        self.time = 0.0
        self._waiting: list[_Copy] = []

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or gpu().current_stream()
        self.seen, self.time = {**stream.seen, stream: stream.done}, stream.time
        with gpu().lock:
            self._waiting = [x for x in gpu().copies if x.at <= self.seen.get(x.stream, 0)]

    def synchronize(self) -> None:
        gpu().waits["event"] += 1
        _merge(gpu().host, self.seen)
        for x in self._waiting:
            x.arrive()
        self._waiting = []

    def query(self) -> bool:
        return all(gpu().host.get(stream, 0) >= done for stream, done in self.seen.items())

    def elapsed_time(self, other: Event) -> float:
        return other.time - self.time


@dataclass(eq=False)
class _Copy:
    """A copy from or to pinned memory that the host has not waited for."""

    stream: Stream
    at: int
    into: Tensor | None
    """Where a copy to the host arrives; None for one to the device."""
    source: Tensor
    value: Tensor

    def arrive(self) -> None:
        with gpu().lock:
            if self not in gpu().copies:
                return
            gpu().copies.remove(self)
        if self.into is not None:
            with torch.inference_mode():
                self.into.copy_(self.value)
        elif not torch.equal(self.source, self.value):
            gpu().problems.append("pinned memory was written while it was on its way to the device")


def _place() -> str:
    """Which lines of the program are at work."""
    lines: list[str] = []
    frame = sys._getframe(1)
    while len(lines) < 4 and frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_filename.startswith(_ROOT) and frame.f_code.co_filename != __file__:
            lines.append(f"{frame.f_code.co_filename.removeprefix(_ROOT)}:{frame.f_lineno}")
    return " < ".join(lines)


class _Memory:
    """What happened to a piece of the device's memory, which tensors share that are views of one another."""

    def __init__(self, stream: Stream) -> None:
        self.owner, self.place, self.gpu = stream, _place(), _gpu
        self.written = (stream, 0)
        self.read: dict[Stream, int] = {}
        self.recorded: set[Stream] = set()

    def __del__(self) -> None:
        if _gpu is None or self.gpu is not _gpu:  # an error that was kept holds memory longer than its device is there
            return
        for stream, at in (self.written, *self.read.items()):
            if stream is not self.owner and stream not in self.recorded and not _knows(self.owner, stream, at):
                _gpu.problems.append(f"memory was freed while another stream may still use it: {self.place}")


class OnDevice(Tensor):
    """A tensor of the device."""

    elem: Tensor
    memory: _Memory
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, elem: Tensor, memory: _Memory) -> OnDevice:
        with torch.inference_mode(False):  # a view of another kind than its base cannot be made in Python
            made = Tensor._make_wrapper_subclass(
                cls,
                elem.size(),
                strides=elem.stride(),
                storage_offset=elem.storage_offset(),
                dtype=elem.dtype,
                device=gpu().device,
                requires_grad=False,
            )
        made.elem, made.memory = elem, memory
        return made

    def data_ptr(self) -> int:
        return self.elem.data_ptr()  # what is held by a recording is known by its place

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return gpu().run(function, args, kwargs or {})


class _Rules(TorchDispatchMode):
    """For what makes tensors from none, or from those of the CPU."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # PyTorch would import its compiler at the first operation, in whichever threads come first

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return gpu().run(function, args, kwargs or {})


@dataclass
class Gpu:
    """The device. If it is not the first one, the first one is there, and has nothing to do."""

    device: torch.device = DEVICE
    problems: list[str] = field(default_factory=list)
    waits: Counter[str] = field(default_factory=Counter)
    """How often the host waited for the device, by what for."""
    launches: int = 0
    copies: list[_Copy] = field(default_factory=list)
    host: dict[Stream, int] = field(default_factory=dict)
    refuse: Callable[[Any], bool] = lambda function: False
    """Operations for which there is no memory."""

    def __post_init__(self) -> None:
        self._recordings = 0
        self._usual, self._of_thread, self.lock = Stream(self.device), threading.local(), threading.RLock()

    @property
    def stream(self) -> Stream:
        return getattr(self._of_thread, "stream", self._usual)

    @property
    def recording(self) -> bool:
        """Whether this thread makes a recording: the others may do what they like."""
        return getattr(self._of_thread, "recording", False)

    @recording.setter
    def recording(self, value: bool) -> None:
        self._of_thread.recording = value
        self._recordings += 1 if value else -1

    def synchronize(self) -> None:
        """Wait for all that was asked of it, which no thread may do while one makes a recording."""
        if self._recordings:
            raise torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing")
        self._wait("device")

    def pins(self) -> None:
        """Pinned memory is that of the current device."""
        if getattr(self._of_thread, "device", DEVICE) != self.device:
            self.problems.append(f"memory is pinned for another device: {_place()}")

    @contextmanager
    def current(self, device: torch.device) -> Iterator[None]:
        """Make a device the current one of this thread."""
        before = getattr(self._of_thread, "device", DEVICE)
        self._of_thread.device = device
        try:
            yield
        finally:
            self._of_thread.device = before

    def current_stream(self, device: torch.device | None = None) -> Stream:
        """That of the current device, if none is named."""
        if (device or getattr(self._of_thread, "device", DEVICE)) == self.device:
            return self.stream
        self.problems.append(f"another device is asked: {_place()}")
        return Stream(DEVICE)

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before = self.stream
        self._of_thread.stream = stream
        try:
            with self.current(stream.device):
                yield
        finally:
            self._of_thread.stream = before

    def run(self, function: Any, args: Any, kwargs: Any) -> Any:
        with self.lock:
            return self._run(function, args, dict(kwargs))

    def _run(self, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        own = [x for x in given if isinstance(x, OnDevice)]
        wanted = kwargs.get("device")
        pinned = kwargs.pop("pin_memory", False)
        if wanted is not None:
            kwargs["device"] = torch.device("cpu")
        to_device = wanted is not None and torch.device(wanted).type == "cuda"
        if not own and not to_device:
            made = function(*args, **kwargs)
            if pinned:
                self.pins()
                made._pinned = True
            return made
        if torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd"):
            with _Rules():  # type: ignore[no-untyped-call]
                return function.decompose(*args, **({**kwargs, "device": wanted} if wanted is not None else kwargs))
        if self.refuse(function):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if function in (aten._to_copy.default, aten.copy_.default):
            return self._copied(function, args, kwargs, to_device or (wanted is None and isinstance(args[0], OnDevice)))
        self._check_devices(function, given, args)
        if function in _READS or (function is aten.index.Tensor and _has_mask(args[1])):
            self._wait("read")
        return self._computed(function, args, kwargs, own)

    def _check_devices(self, function: Any, given: list[Tensor], args: Any) -> None:
        there = [x for x in given if not isinstance(x, OnDevice) and x.dim() > 0]
        if not there or len(there) == len(given):
            return
        if function in _TAKES_HOST_INDICES and isinstance(args[0], OnDevice):
            self._wait("copy of indices")
            return
        raise RuntimeError(f"Expected all tensors to be on the same device, but got cuda:0 and cpu: {function}")

    def _wait(self, what: str) -> None:
        if self.recording:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({what})")
        self.waits[what] += 1
        _merge(self.host, {**self.stream.seen, self.stream: self.stream.done})
        for x in [x for x in self.copies if x.at <= self.host.get(x.stream, 0)]:
            x.arrive()

    def _copied(self, function: Any, args: Any, kwargs: dict[str, Any], to_device: bool) -> Any:
        """Copies between host and device, and on the device."""
        source = args[1] if function is aten.copy_.default else args[0]
        non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        into = args[0] if function is aten.copy_.default else None
        if isinstance(source, OnDevice) and to_device:
            return self._computed(function, args, kwargs, [x for x in args if isinstance(x, OnDevice)])
        if to_device:
            pinned = getattr(source, "_pinned", False)
            found = self._computed(function, args, kwargs, [] if into is None else [into])
            if source.dim() == 0 and into is not None:
                return found  # a number, which goes with the launch
            if non_blocking and pinned:
                self.copies.append(_Copy(self.stream, self.stream.done, None, source, source.clone()))
            else:
                self._wait("copy to the device")
            return found
        self._touch([source], [])
        if into is None:
            self._wait("copy to the host")
            return aten._to_copy.default(source.elem, **kwargs)
        if non_blocking and getattr(into, "_pinned", False):
            value = source.elem.clone()
            into.fill_(float("nan") if into.is_floating_point() else 77)  # it is not there yet
            self.copies.append(_Copy(self.stream, self.stream.done, into, into, value))
        else:
            self._wait("copy to the host")
            into.copy_(source.elem)
        return into

    def _computed(self, function: Any, args: Any, kwargs: dict[str, Any], own: list[Any]) -> Any:
        plain_args, plain_kwargs = tree_map(lambda x: x.elem if isinstance(x, OnDevice) else x, (args, kwargs))
        result = _done(function, plain_args, plain_kwargs)
        changed = [
            x
            for i, argument in enumerate(function._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
            for x in tree_leaves(args[i] if i < len(args) else kwargs.get(argument.name))
            if isinstance(x, OnDevice)
        ]
        known = {id(x.elem): x for x in own}
        places = {x.elem.untyped_storage().data_ptr(): x.memory for x in own if x.elem.numel()}
        made: list[OnDevice] = []

        def wrapped(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            if id(x) in known:
                return known[id(x)]
            memory = places.get(x.untyped_storage().data_ptr()) if x.numel() else None
            found = OnDevice(x, memory or _Memory(self.stream))
            if memory is None:
                made.append(found)
            return found

        found = tree_map(wrapped, result)
        if made or changed or not isinstance(result, (Tensor, tuple, list)):
            self._touch([x for x in own if not any(x is y for y in changed)], [*changed, *made])
        return found

    def _touch(self, reads: list[Any], writes: list[Any]) -> None:
        """An operation on the current stream."""
        stream = self.stream
        self.launches += 1
        stream.done += 1
        stream.time += stream.cost
        for x in (*reads, *writes):
            if not _knows(stream, *x.memory.written):
                self.problems.append(
                    f"work begins before another stream has made what it reads: {_place()}, {x.memory.place}"
                )
        for x in writes:
            if any(not _knows(stream, other, at) for other, at in x.memory.read.items()):
                self.problems.append(
                    f"work overwrites what another stream may still read: {_place()}, {x.memory.place}"
                )
        for x in reads:
            x.memory.read[stream] = stream.done
        for x in writes:
            x.memory.written, x.memory.read = (stream, stream.done), {}


_gpu: Gpu | None = None


def gpu() -> Gpu:
    assert _gpu is not None, "no device is there"
    return _gpu


def _knows(stream: Stream, other: Stream, at: int) -> bool:
    return stream is other or max(stream.seen.get(other, 0), gpu().host.get(other, 0)) >= at


def _merge(into: dict[Stream, int], seen: dict[Stream, int]) -> None:
    for stream, done in seen.items():
        into[stream] = max(into.get(stream, 0), done)


def _has_mask(indices: Any) -> bool:
    return any(isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in indices)


def _done(function: Any, args: Any, kwargs: Any) -> Any:
    """An operation on the CPU; those that it lacks in float16 are done in float32."""
    try:
        return function(*args, **kwargs)
    except (RuntimeError, NotImplementedError) as error:
        if "not implemented for 'Half'" not in str(error):
            raise

    def changed(x: Any, one: torch.dtype, other: torch.dtype) -> Any:
        return x.to(other) if isinstance(x, Tensor) and x.dtype == one else x

    half, whole = torch.float16, torch.float32
    wide = tree_map(lambda x: changed(x, half, whole), (args, kwargs))
    return tree_map(lambda x: changed(x, whole, half), function(*wide[0], **wide[1]))


class _Current:
    """``torch.cuda.device``."""

    def __init__(self, device: torch.device) -> None:
        self._there = gpu().current(device)

    def __enter__(self) -> None:
        self._there.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._there.__exit__(*error)


class Graphs:
    """Makes recordings whose replays do the work again, in memory that keeps its place."""

    def __init__(self, device: Any = None, *, urgent: bool = False) -> None:
        pass

    def record(self, work: Callable[[], Any]) -> Graph:
        return Graph(work)

    def renew(self) -> None:
        pass


class Graph:
    def __init__(self, work: Callable[[], Any]) -> None:
        gpu().recording = True
        try:
            self.outputs = work()
        finally:
            gpu().recording = False
        self._work = work

    def replay(self) -> None:
        for kept, new in zip(tree_leaves(self.outputs), tree_leaves(self._work()), strict=True):
            if isinstance(kept, Tensor):
                kept.copy_(new)


def _moved(network: nn.Module, device: torch.device) -> nn.Module:
    """``network.to(device)``."""
    if torch.device(device).type == "cuda":
        for module in network.modules():
            for key, x in module._parameters.items():
                if x is not None:
                    module._parameters[key] = nn.Parameter(x.detach().to(device), requires_grad=False)
            for key, y in module._buffers.items():
                if y is not None:
                    module._buffers[key] = y.to(device)
    return network


@contextmanager
def pretended(device: torch.device = DEVICE) -> Iterator[Gpu]:
    """A process with such a device, in all its threads."""
    global _gpu
    torch._C._ensureCUDADeviceGuardSet()  # PyTorch is not to ask the driver which device is current
    whole_run, whole_tensor, whole_list = threading.Thread.run, torch.tensor, Tensor.tolist
    _gpu = Gpu(device)

    def run(thread: threading.Thread) -> None:
        with _Rules():  # type: ignore[no-untyped-call]
            whole_run(thread)

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        # torch.tensor sends its numbers past all modes.
        made = whole_tensor(data, **options)
        return made if device is None else made.to(device)

    def pin_memory(x: Tensor) -> Tensor:
        assert not isinstance(x, OnDevice)
        gpu().pins()
        y: Any = x.clone()
        y._pinned = True
        return y

    def record_stream(x: Any, stream: Stream) -> None:
        x.memory.recorded.add(stream)

    def no_kernels(*arguments: Any) -> str:
        return "no kernels here"

    def tolist(x: Tensor) -> Any:
        return whole_list(x.cpu() if isinstance(x, OnDevice) else x)

    with pytest.MonkeyPatch.context() as patch, _Rules():  # type: ignore[no-untyped-call]
        for name, value in {
            "is_available": lambda: True,
            "device_count": lambda: device.index + 1,
            "_lazy_init": lambda: None,
            "is_bf16_supported": lambda *_, **__: True,
            "get_device_capability": lambda *_: (8, 0),
            "get_device_name": lambda *_: "a stand-in",
            "mem_get_info": lambda *_: (2**34, 2**34),
            "current_stream": lambda device=None: gpu().current_stream(device),
            "device": _Current,
            "stream": lambda stream: gpu().on(stream),
            "synchronize": lambda *_: gpu().synchronize(),
            "empty_cache": lambda: None,
            "memory_reserved": lambda *_: 0,
            "memory_allocated": lambda *_: 0,
            "reset_peak_memory_stats": lambda *_: None,
            "max_memory_reserved": lambda *_: 0,
            "Stream": Stream,
            "Event": Event,
        }.items():
            patch.setattr(f"torch.cuda.{name}", value)
        patch.setattr(threading.Thread, "run", run)
        patch.setattr(torch, "tensor", tensor)
        patch.setattr(Tensor, "pin_memory", pin_memory)
        patch.setattr(Tensor, "tolist", tolist)
        patch.setattr(Tensor, "record_stream", record_stream)
        patch.setattr("model.executor.CudaGraphs", Graphs)
        patch.setattr("model.executor.ReSurgSAM2.to", _moved)
        for module in ("fused", "selective_scan", "self_check"):
            patch.setattr(f"model.{module}.triton_missing", no_kernels)
        patch.setattr("resurgsam2_cli.segmenting.checked.triton_missing", no_kernels)
        _forget_constants()
        try:
            yield _gpu
        finally:
            _forget_constants()
            _gpu = None


def _forget_constants() -> None:
    """Those of a process, which lie on the device for good."""
    kept: tuple[Any, ...] = (sine_2d, rotary_table, _channels, _taps, _places, stream_for)
    for x in kept:
        x.cache_clear()
