"""The three scans of a mixer in C, for inference on a CPU: convolution, selective scan and gate.

``cpu_mixer.c`` is compiled when the package is installed, where there is a C compiler; without, PyTorch does the same
(:mod:`model.selective_scan`). Each number of a state is made in a register and used there, where PyTorch makes a tensor
of it a time step; and the orders of the three scans are followed rather than copied.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

_BLOCK, _MAX_STATE = 64, 64  # as in cpu_mixer.c
_INT, _LONG, _FLOAT, _POINTER = ctypes.c_int, ctypes.c_long, ctypes.c_float, ctypes.c_void_p


class ScanWeights(NamedTuple):
    """The weights of one scan; all but those of ``x_proj`` are used in float32."""

    conv_weight: Tensor
    """(inner, 1, taps)"""
    conv_bias: Tensor
    x_proj: Callable[[Tensor], Tensor]
    """inner to rank + 2 * state: dt, B, C"""
    dt_weight: Tensor
    """(inner, rank)"""
    dt_bias: Tensor
    A_log: Tensor
    """(inner, state)"""
    D: Tensor


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    """The compiled functions, or None where there are none."""
    spec = find_spec("model._cpu_mixer")
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
    except OSError:  # built for another machine
        return None
    library.convolve.argtypes = [_INT, *[_LONG] * 5, _POINTER, _LONG, *[_POINTER] * 4]
    library.scan.argtypes = [_INT, _INT, *[_LONG] * 6, *[_POINTER] * 8]
    library.gate.argtypes = [_INT, *[_LONG] * 3, _FLOAT, _POINTER, _POINTER, _LONG, _POINTER]
    for function in (library.convolve, library.scan, library.gate):
        function.restype = None
    return library


def available() -> bool:
    """Whether the functions were compiled and load."""
    return _library() is not None


def supports(x: Tensor, state: int) -> bool:
    """Whether :func:`mix` can take ``x``, (batch, L, 2 * inner): on a CPU, without gradients."""
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.shape[2] % (2 * _BLOCK) == 0
        and state <= _MAX_STATE
        and available()
    )


@lru_cache(maxsize=1)
def _helpers() -> ThreadPoolExecutor:
    """Threads come into being when there is work for them."""
    return ThreadPoolExecutor(os.cpu_count(), "mixer")


def _share(function: Any, tasks: int, before: tuple, after: tuple) -> None:
    """Call ``function(*before, first, last, *after)`` over all tasks, on as many threads as PyTorch uses."""
    number = min(torch.get_num_threads(), tasks)
    ends = [tasks * i // number for i in range(number + 1)]
    arguments = [x.data_ptr() if isinstance(x, Tensor) else x for x in after]

    def work(first: int, last: int) -> None:
        function(*before, first, last, *arguments)

    others = _helpers().map(work, ends[1:-1], ends[2:]) if number > 1 else ()
    work(0, ends[1])  # this thread would have nothing else to do
    list(others)


def mix(x: Tensor, scans: Sequence[ScanWeights], orders: Sequence[Tensor]) -> Tensor:
    """(batch, L, 2 * inner), sequence and gate, to the mean of the scans times SiLU(gate), (batch, L, inner).

    ``orders`` has the rows of the sequence in the order of each scan, int32.
    """
    library = _library()
    assert library is not None
    x = x.contiguous()
    batch, length, stride = x.shape
    inner = stride // 2
    half = int(x.dtype == torch.bfloat16)
    ready = []
    for scan, order in zip(scans, orders, strict=True):
        u = x.new_empty(batch, length, inner)
        weight = scan.conv_weight[:, 0].T.float().contiguous()
        _share(
            library.convolve, batch * length,
            (half,), (length, inner, len(weight), x, stride, order, weight, scan.conv_bias.float(), u),
        )  # fmt: skip
        rate = (scan.A_log.float().exp() * -math.log2(math.e)).T.contiguous()
        dt_weight = scan.dt_weight.T.float().contiguous()
        inputs = scan.x_proj(u).float().contiguous()
        ready.append(
            (len(rate), len(dt_weight), u, inputs, dt_weight, scan.dt_bias.float(), rate, scan.D.float(), order)
        )
    y = x.new_empty(batch, length, inner, dtype=torch.float32)  # which the library writes, whatever is the default
    for i, arguments in enumerate(ready):
        _share(library.scan, batch * inner // _BLOCK, (half, int(i == 0)), (length, inner, *arguments, y))
    mixed = x.new_empty(batch, length, inner)
    _share(library.gate, batch * length, (half,), (inner, 1 / len(ready), y, x[..., inner:], stride, mixed))
    return mixed
