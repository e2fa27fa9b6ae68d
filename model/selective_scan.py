"""The selective scan of Mamba-1 (Gu & Dao 2023), with a choice of backends.

Symbols, as in the paper: u input, delta step size, A state matrix (diagonal, negative), B and C input and output
matrices, D skip, h state. For each channel, with state size N::

    h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t          y_t = C_t . h_t + D u_t

Several scans run at once as *groups*: each has its own channels and parameters and shares nothing.

Backends: ``torch`` runs anywhere; ``mamba-ssm`` is the CUDA kernel of that package, used when it is installed
(``pip install 'resurgsam2[mamba]'``) and the tensors are on a CUDA device.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 32
"""Steps in one chunk: all chunks go through their steps side by side, so the loop has this many rounds."""


@lru_cache(maxsize=1)
def _mamba_kernel() -> Any:
    """``selective_scan_fn`` of mamba-ssm, or None where the package or its compiled kernel is missing."""
    try:
        import selective_scan_cuda  # noqa: F401  (the kernel itself: mamba-ssm imports without it)
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except Exception:  # a kernel built for another torch fails in many ways, and none may stop the program
        return None
    return selective_scan_fn


def backend_for(device: torch.device) -> str:
    """The name of the backend that :func:`selective_scan` uses on ``device``: "mamba-ssm" or "torch"."""
    return "mamba-ssm" if device.type == "cuda" and _mamba_kernel() is not None else "torch"


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """Scan along L, in float32 whatever the inputs are.

    Shapes, with G groups of E channels: ``u`` and ``delta`` (batch, G, L, E), ``A`` (G, E, N), ``B`` and ``C``
    (batch, G, L, N), ``D`` and ``delta_bias`` (G, E). The step size is softplus(delta + delta_bias).
    Returns y, (batch, G, L, E).
    """
    with torch.autocast(u.device.type, enabled=False):
        tensors = (x.float() for x in (u, delta, A, B, C, D, delta_bias))
        return (_scan_mamba if backend_for(u.device) == "mamba-ssm" else _scan_torch)(*tensors)


def _scan_mamba(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    groups = u.shape[1]
    channels_first = [x.transpose(2, 3).flatten(1, 2).contiguous() for x in (u, delta)]
    y = _mamba_kernel()(
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
    batch, groups, length, _ = u.shape
    chunks = -(-length // _CHUNK)
    # exp(x) = 2^(x log2 e): exp2 is about three times as fast as exp in PyTorch on a CPU.
    rate = A.transpose(1, 2).contiguous() * math.log2(math.e)  # (G, N, E)
    y = torch.empty_like(u)

    def split(x: Tensor) -> Tensor:
        """(L, ...) to (T, chunks, ...): what the chunks read in one round lies together.

        Padding steps have delta 0: they keep the state and add nothing.
        """
        missing = chunks * _CHUNK - length
        x = F.pad(x, (0, 0, 0, missing)) if missing else x
        return x.unflatten(0, (chunks, _CHUNK)).transpose(0, 1).contiguous()

    for row in range(batch):
        for group in range(groups):
            at = row, group
            step = F.softplus(delta[at] + delta_bias[group])
            out = _scan_chunks(split(step), split(step * u[at]), rate[group], split(B[at]), split(C[at]))
            torch.addcmul(out.transpose(0, 1).flatten(0, 1)[:length], u[at], D[group], out=y[at])
    return y


def _scan_chunks(delta: Tensor, du: Tensor, rate: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """One scan. ``delta``, ``du`` (T, chunks, E), ``rate`` (N, E), ``B``, ``C`` (T, chunks, N) to (T, chunks, E)."""
    h = delta.new_zeros(delta.shape[1], *rate.shape)
    decay = torch.empty_like(h)
    y = torch.empty_like(du)
    for t in range(_CHUNK):
        torch.mul(delta[t, :, None], rate, out=decay).exp2_()
        h.mul_(decay).addcmul_(B[t, :, :, None], du[t, :, None])
        torch.bmm(C[t, :, None], h, out=y[t, :, None])

    torch.mul(delta.sum(0)[:, None], rate, out=decay).exp2_()
    carried = torch.zeros_like(h[0])
    for c in range(len(h)):  # h[c] becomes the state with which chunk c starts
        end = torch.addcmul(h[c], decay[c], carried)
        h[c] = carried
        carried = end
    elapsed = torch.zeros_like(delta[0])
    for t in range(_CHUNK):
        torch.mul(elapsed.add_(delta[t])[:, None], rate, out=decay).exp2_().mul_(h)
        y[t, :, None].baddbmm_(C[t, :, None], decay)
    return y
