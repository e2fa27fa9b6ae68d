"""The selective scan as Triton kernels: for CUDA without ``mamba-ssm``, and without a compiler.

In chunks, as in :mod:`model.selective_scan`: every chunk runs from a zero state; the states at the chunks' ends are
carried from chunk to chunk; every chunk runs again from its true start and gives its outputs. The steps of a chunk
follow one another, all chunks, channels and scans run side by side, and states stay in registers.

``TRITON_INTERPRET=1`` runs the same kernels on a CPU, slowly.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_CHUNK = 64
_BLOCK = 32
"""Channels of a program."""


@triton.jit
def _softplus(x):  # type: ignore[no-untyped-def]
    """log(1 + e^x); the rounding of 1 + e falls out of the quotient (Kahan's log1p)."""
    e = tl.exp(-tl.abs(x))
    w = 1 + e
    rounded = w - 1
    return tl.maximum(x, 0.0) + tl.where(rounded > 0, tl.log(w) * e / tl.where(rounded > 0, rounded, 1.0), e)


@triton.jit
def _chunk(  # type: ignore[no-untyped-def]
    u, delta, A, B, C, D, bias, states, elapsed, y,
    groups, length, channels, chunks, state,
    LAST: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """A chunk of a scan: from zero to ``states`` and ``elapsed``; or (LAST) from ``states`` to ``y``."""
    chunk, scan = tl.program_id(0), tl.program_id(2)
    e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, STATE)
    here, real = e < channels, n < state
    both = here[:, None] & real[None, :]
    own = (scan % groups) * channels + e
    rate = tl.load(A + own[:, None] * state + n[None, :], mask=both, other=0.0) * 1.4426950408889634  # log2 e
    shift = tl.load(bias + own, mask=here, other=0.0)
    place = ((scan * chunks + chunk) * channels + e)[:, None] * state + n[None, :]
    h = tl.zeros((BLOCK, STATE), tl.float32)
    skip = tl.zeros((BLOCK,), tl.float32)
    if LAST:
        h = tl.load(states + place, mask=both, other=0.0)
        skip = tl.load(D + own, mask=here, other=0.0)
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(CHUNK):
        t = chunk * CHUNK + i
        inside = t < length
        row = (scan * length + t).to(tl.int64)
        x = tl.load(u + row * channels + e, mask=here & inside, other=0.0)
        step = _softplus(tl.load(delta + row * channels + e, mask=here & inside, other=0.0) + shift)
        step = tl.where(inside, step, 0.0)  # which keeps the state
        b = tl.load(B + row * state + n, mask=real & inside, other=0.0)
        h = h * tl.exp2(step[:, None] * rate) + (step * x)[:, None] * b[None, :]
        if LAST:
            c = tl.load(C + row * state + n, mask=real & inside, other=0.0)
            tl.store(y + row * channels + e, tl.sum(h * c[None, :], axis=1) + skip * x, mask=here & inside)
        total += step
    if not LAST:
        tl.store(states + place, h, mask=both)
        tl.store(elapsed + (scan * chunks + chunk) * channels + e, total, mask=here)


@triton.jit
def _carry(  # type: ignore[no-untyped-def]
    A, states, elapsed, groups, channels, chunks, state, BLOCK: tl.constexpr, STATE: tl.constexpr
):
    """States at the chunks' ends, each from zero, to the true states at the chunks' starts."""
    scan = tl.program_id(1)
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, STATE)
    here = e < channels
    both = here[:, None] & (n < state)[None, :]
    own = (scan % groups) * channels + e
    rate = tl.load(A + own[:, None] * state + n[None, :], mask=both, other=0.0) * 1.4426950408889634
    carried = tl.zeros((BLOCK, STATE), tl.float32)
    for chunk in range(chunks):
        row = (scan * chunks + chunk) * channels + e
        place = row[:, None] * state + n[None, :]
        end = tl.load(states + place, mask=both, other=0.0)
        decay = tl.exp2(tl.load(elapsed + row, mask=here, other=0.0)[:, None] * rate)
        tl.store(states + place, carried, mask=both)
        carried = end + decay * carried


def scan_triton(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """As :func:`~model.selective_scan.selective_scan`, float32 in and out, without gradients."""
    batch, groups, length, channels = u.shape
    state = A.shape[-1]
    scans, chunks = batch * groups, triton.cdiv(length, _CHUNK)
    u, delta, A, B, C, D, delta_bias = (x.contiguous() for x in (u, delta, A, B, C, D, delta_bias))
    states = u.new_empty(scans, chunks, channels, state)
    elapsed = u.new_empty(scans, chunks, channels)
    y = torch.empty_like(u)
    blocks = triton.cdiv(channels, _BLOCK)
    sizes = {"BLOCK": _BLOCK, "STATE": triton.next_power_of_2(state)}
    arguments = (u, delta, A, B, C, D, delta_bias, states, elapsed, y, groups, length, channels, chunks, state)
    with torch.cuda.device_of(u):  # Triton launches on the current device; nothing on a CPU
        _chunk[(chunks, blocks, scans)](*arguments, LAST=False, CHUNK=_CHUNK, **sizes)
        _carry[(blocks, scans)](A, states, elapsed, groups, channels, chunks, state, **sizes)
        _chunk[(chunks, blocks, scans)](*arguments, LAST=True, CHUNK=_CHUNK, **sizes)
    return y
