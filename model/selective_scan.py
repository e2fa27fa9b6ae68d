"""The selective scan of Mamba-1 (Gu & Dao 2023), with a choice of backends.

Symbols, as in the paper: u input, delta step size, A state matrix (diagonal, negative), B and C input and output
matrices, D skip, h state. For each channel, with state size N::

    h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t          y_t = C_t . h_t + D u_t

Several scans run at once as *groups*: each has its own channels and parameters and shares nothing.

Backends: ``torch`` runs anywhere. A CUDA device uses ``mamba-ssm``, the kernel of that package, if it is installed
(``pip install 'resurgsam2[mamba]'``); otherwise it uses ``triton``, unless gradients are wanted. For inference on a CPU
the mixer has a function of its own, :func:`model.cpu_mixer.mix`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model import cpu_mixer
from model.fused import allowed, triton_missing

_CHUNK = 32
"""Steps in one chunk: all chunks go through their steps side by side, so the loop has this many rounds."""

_CACHED_ROUNDS = 16
"""Rounds whose softplus is computed at a time: few, so that its temporaries stay in the cache."""

_TOGETHER = 2**20
"""How many numbers the states of the scans that run side by side on a CPU may have: few, so that they stay in the
cache. On a GPU all run side by side: what counts there is the number of launches."""


@lru_cache(maxsize=1)
def mamba_kernel() -> Any:
    """``selective_scan_fn`` of mamba-ssm, or None if the package or its compiled kernel is missing."""
    try:
        import selective_scan_cuda  # noqa: F401  (the kernel itself: mamba-ssm imports without it)
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except Exception:  # a kernel built for another torch fails in many ways; none of them may stop the program
        return None
    return selective_scan_fn


def backend_for(device: torch.device) -> str:
    """The backend for inference on ``device``: "mamba-ssm", "triton", "c" (:mod:`model.cpu_mixer`) or "torch"."""
    if device.type == "cpu" and cpu_mixer.available():
        return "c"
    if device.type != "cuda":
        return "torch"
    if mamba_kernel() is not None and allowed("mamba-ssm scan"):
        return "mamba-ssm"
    return "triton" if allowed("triton scan") and not triton_missing(device) else "torch"


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """Scan along L. The arithmetic is float32 for inputs of any precision.

    Shapes, with G groups of E channels: ``u`` and ``delta`` (batch, G, L, E), ``A`` (G, E, N), ``B`` and ``C``
    (batch, G, L, N), ``D`` and ``delta_bias`` (G, E). The step size is softplus(delta + delta_bias).
    Returns y, (batch, G, L, E).
    """
    with torch.autocast(u.device.type, enabled=False):
        tensors = [x.float() for x in (u, delta, A, B, C, D, delta_bias)]
        backend = backend_for(u.device)
        if backend == "triton" and torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            backend = "torch"
        if backend == "triton":
            from model.triton_scan import scan_triton

            return scan_triton(*tensors)
        return (_scan_mamba if backend == "mamba-ssm" else _scan_torch)(*tensors)


def _scan_mamba(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    groups = u.shape[1]
    channels_first = [x.transpose(2, 3).flatten(1, 2).contiguous() for x in (u, delta)]
    y = mamba_kernel()(
        *channels_first,
        A.flatten(0, 1).contiguous(),
        *(x.transpose(2, 3).contiguous() for x in (B, C)),
        D.flatten(),
        delta_bias=delta_bias.flatten(),
        delta_softplus=True,
    )
    return y.unflatten(1, (groups, -1)).transpose(2, 3)


def _scan_torch(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """Chunked scan: a loop of ``_CHUNK`` rounds instead of L steps, on temporaries that stay in the cache.

    1. Every chunk runs from a zero state, all chunks side by side. 2. The states at the chunks' ends are
    carried from chunk to chunk. 3. Each step's output gains what the carried state, decayed up to that step,
    adds to it. States lie as (..., N, E), so that the inner loops run over channels.
    """
    batch, groups, length, channels = u.shape
    state = A.shape[-1]
    chunks = -(-length // _CHUNK)

    def split(x: Tensor, padding: float = 0.0) -> Tensor:
        """(batch, G, L, ...) to (T, scans, chunks, ...), so that what one round reads lies together."""
        missing = chunks * _CHUNK - length
        x = F.pad(x, (0, 0, 0, missing), value=padding) if missing else x
        return x.flatten(0, 1).unflatten(1, (chunks, _CHUNK)).movedim(2, 0).contiguous()

    # exp(x) = 2^(x log2 e): exp2 is about three times as fast as exp in PyTorch on a CPU.
    rate = (A.transpose(1, 2) * math.log2(math.e)).repeat(batch, 1, 1)[:, None]  # (scans, 1, N, E)
    # Padding steps have delta 0: they keep the state and add nothing.
    delta = _Softplus.apply(split(delta + delta_bias[:, None], padding=-math.inf))
    inputs = [delta, delta * split(u), split(B), split(C)]
    scans = batch * groups
    together = max(1, _TOGETHER // (chunks * state * channels)) if u.device.type == "cpu" else scans
    parts = [
        _ChunkedScan.apply(
            *(x[:, at : at + together].contiguous() for x in inputs), rate[at : at + together].contiguous()
        )
        for at in range(0, scans, together)
    ]
    y = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    y = y.movedim(0, 2).flatten(1, 2)[:, :length]
    return torch.addcmul(y.unflatten(0, (batch, groups)), u, D[:, None])


class _Softplus(torch.autograd.Function):
    """log(1 + e^x), mostly in place: on a CPU, PyTorch's own would take a quarter of the time of the whole scan."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        y = torch.empty_like(x)
        rounds = _CACHED_ROUNDS if x.device.type == "cpu" else len(x)
        for part, into in zip(x.split(rounds), y.split(rounds), strict=True):
            e = part.abs().neg_().exp_()
            w = e + 1
            # Kahan's log1p: the rounding of 1 + e falls out of the quotient.
            rounded = w - 1
            torch.where(rounded > 0, w.log_().mul_(e).div_(rounded), e, out=into).add_(part.clamp(min=0))
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0].sigmoid()


class _ChunkedScan(torch.autograd.Function):
    """A few chunked scans, with gradients.

    Takes ``delta`` and ``du`` (T, scans, chunks, E), ``B`` and ``C`` (T, scans, chunks, N), and ``rate``
    (scans, 1, N, E), which is A log2 e. Gives (T, scans, chunks, E).
    """

    @staticmethod
    def forward(ctx: Any, delta: Tensor, du: Tensor, B: Tensor, C: Tensor, rate: Tensor) -> Tensor:
        h = delta.new_zeros(*delta.shape[1:3], *rate.shape[2:])
        decay = torch.empty_like(h)
        y = torch.empty_like(du)
        rounds = list(zip(C.flatten(1, 2)[:, :, None].unbind(), y.flatten(1, 2)[:, :, None].unbind(), strict=True))
        steps, added, entering = (x.unbind() for x in (delta[:, :, :, None], du[:, :, :, None], B[..., None]))
        for step, du_t, B_t, (C_t, y_t) in zip(steps, added, entering, rounds, strict=True):
            torch.mul(step, rate, out=decay).exp2_()
            h.mul_(decay).addcmul_(B_t, du_t)
            torch.bmm(C_t, _rows(h), out=y_t)

        torch.mul(delta.sum(0)[:, :, None], rate, out=decay).exp2_()
        carried = torch.zeros_like(h[:, 0])
        for h_c, decay_c in zip(h.unbind(1), decay.unbind(1), strict=True):
            # What was the decay of a chunk becomes the state after it.
            carried = torch.addcmul(h_c, decay_c, carried, out=decay_c)
        start = h  # the states with which the chunks start
        start[:, 0] = 0
        start[:, 1:] = decay[:, :-1]
        ctx.save_for_backward(delta, du, B, C, rate, start)
        elapsed = torch.zeros_like(steps[0])
        for step, (C_t, y_t) in zip(steps, rounds, strict=True):
            torch.mul(elapsed.add_(step), rate, out=decay).exp2_().mul_(start)
            y_t.baddbmm_(C_t, _rows(decay))
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, ...]:
        delta, du, B, C, rate, start = ctx.saved_tensors
        gy = gy.contiguous()
        # Compute the states again, now from their true starts; states[t] is the state before step t.
        states = start.new_empty(_CHUNK + 1, *start.shape)
        decays = torch.empty_like(states[1:])
        states[0] = start
        for t in range(_CHUNK):
            torch.mul(delta[t, :, :, None], rate, out=decays[t]).exp2_()
            torch.mul(states[t], decays[t], out=states[t + 1]).addcmul_(B[t, ..., None], du[t, :, :, None])

        # First the gradient of each chunk's start from its own outputs, then what is carried back from later chunks.
        g = torch.zeros_like(start)
        for t in reversed(range(_CHUNK)):
            g.addcmul_(C[t, ..., None], gy[t, :, :, None]).mul_(decays[t])
        whole = torch.exp2(delta.sum(0)[:, :, None] * rate)
        carried = torch.zeros_like(g[:, 0])
        for c in reversed(range(g.shape[1])):
            carried, g[:, c] = torch.addcmul(g[:, c], whole[:, c], carried), carried

        gdelta, gdu, gB, gC = (torch.empty_like(x) for x in (delta, du, B, C))
        grate = torch.zeros_like(rate)
        for t in reversed(range(_CHUNK)):
            g.addcmul_(C[t, ..., None], gy[t, :, :, None])  # the gradient of the state after step t
            torch.bmm(_rows(states[t + 1]), _rows(gy[t])[..., None], out=_rows(gC[t])[..., None])
            torch.bmm(_rows(g), _rows(du[t])[..., None], out=_rows(gB[t])[..., None])
            torch.bmm(_rows(B[t])[:, None], _rows(g), out=_rows(gdu[t])[:, None])
            g.mul_(decays[t])
            exponent = states[t].mul(g).mul_(math.log(2))  # the gradient of delta * rate
            torch.sum(exponent * rate, dim=2, out=gdelta[t])
            grate += exponent.mul_(delta[t, :, :, None]).sum(1, keepdim=True)
        return gdelta, gdu, gB, gC, grate


def _rows(x: Tensor) -> Tensor:
    """Merge scans and chunks into one batch, for matrix products."""
    return x.flatten(0, 1)
