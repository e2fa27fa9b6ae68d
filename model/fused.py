"""What is one operation in the network and many kernels in PyTorch, done in few where the device has a way.

Each function has the plain form beside the fast one. The fast ones are for inference on a CUDA device with Triton;
an :class:`~model.executor.Executor` does without the kinds that are not for its device (:func:`without`).
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention, can_use_flash_attention

from model.positions import rotate, rotate_in_place
from model.room import what_it_says

Kind = Literal["mamba-ssm scan", "triton scan", "triton layers", "attention in parts", "recordings"]
"""The scans are :mod:`model.selective_scan`, the last is :mod:`model.replay`."""

KINDS: tuple[Kind, ...] = get_args(Kind)
NEED_TRITON: tuple[Kind, ...] = ("triton scan", "triton layers", "attention in parts")

_of_thread = threading.local()


@contextmanager
def without(kinds: Collection[Kind]) -> Iterator[None]:
    """Use the plain form of these kinds of operations, and the fast form of all others, in this thread."""
    before = getattr(_of_thread, "off", ())
    _of_thread.off = kinds
    try:
        yield
    finally:
        _of_thread.off = before


def allowed(kind: Kind) -> bool:
    """Whether this thread may use it."""
    return kind not in getattr(_of_thread, "off", ())


@lru_cache
def triton_missing(device: torch.device) -> str:
    """Why Triton's kernels do not run on ``device``: another platform, no C compiler, a card that it does not know."""
    try:
        from model import triton_layers as kernels

        x = torch.ones(1, 1, 16, dtype=torch.float32, device=device)
        kernels.normalize(x, x[0, 0], x[0, 0], 1e-6, torch.float32)
    except Exception as error:
        return what_it_says(error)
    return ""


def _kernels(x: Tensor) -> ModuleType | None:
    if x.device.type != "cuda" or torch.is_grad_enabled() or not allowed("triton layers"):
        return None
    if triton_missing(x.device):
        return None
    from model import triton_layers

    return triton_layers


def product_dtype(x: Tensor) -> torch.dtype:
    """The type in which products take ``x``: that of autocast if it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def for_products(x: Tensor) -> Tensor:
    """``x`` as products take it. Autocast would convert it again for each of them."""
    return x.to(product_dtype(x))


def normalize(norm: nn.LayerNorm, x: Tensor, *, gelu: bool = False) -> Tensor:
    """LayerNorm of (..., channels), then GELU if wanted, of which only products are made."""
    kernels = _kernels(x)
    if kernels is None:
        y = norm(x)
        return F.gelu(y) if gelu else y
    flat = x.flatten(1, -2) if x.dim() > 3 else x
    return kernels.normalize(flat, norm.weight, norm.bias, norm.eps, product_dtype(x), gelu=gelu).view(x.shape)


def normalize_map(norm: nn.LayerNorm, x: Tensor, *, gelu: bool = False) -> Tensor:
    """The same over the channels of maps (batch, channels, height, width); ``norm`` takes maps."""
    if _kernels(x) is not None:
        return normalize(norm, x.permute(0, 2, 3, 1), gelu=gelu).permute(0, 3, 1, 2)
    y = norm(x)
    return F.gelu(y) if gelu else y


def rotate_first(x: Tensor, table: Tensor, tokens: int) -> Tensor:
    """Rotary encoding (:func:`~model.positions.rotate`) of the first tokens of (batch, tokens, channels).

    It may overwrite ``x``.
    """
    kernels = _kernels(x)
    if kernels is not None:
        kernels.rotate_in_place(x, table, tokens)
        return x
    if x.device.type == "cpu" and not torch.is_grad_enabled():
        rotate_in_place(x, table, tokens)
        return x
    if tokens == x.shape[1]:
        return rotate(x, table)
    return torch.cat((rotate(x[:, :tokens], table), x[:, tokens:]), dim=1)


def resample(images: Tensor, axis: int, at: Tensor, weights: Tensor, fraction: int) -> Tensor:
    """Images (frames, height, width, 3) uint8 in another size along an axis: weighted sums of pixels, rounded to uint8.

    ``at`` and ``weights`` (taps, new size), int64 and int32, tell which pixels a new one is made of; weights have so
    many bits of ``fraction``.
    """
    kernels = _kernels(images)
    if kernels is not None:
        resampled: Tensor = kernels.resample(images, axis, at, weights, fraction)
        return resampled
    shape = [-1 if i == axis else 1 for i in range(4)]
    total = torch.full((), 1 << (fraction - 1), dtype=torch.int32, device=images.device)
    for index, weight in zip(at, weights, strict=True):
        total = torch.addcmul(total, images.index_select(axis, index).int(), weight.view(shape))
    return (total >> fraction).clamp(0, 255).to(torch.uint8)


def can_attend_in_parts(q: Tensor) -> bool:
    """Whether :func:`attend_in_parts` is for this device."""
    return q.shape[-1] % 8 == 0 and allowed("attention in parts") and _kernels(q) is not None


def attend_in_parts(q: Tensor, k: Tensor, v: Tensor, parts: int, valid: Tensor | None) -> Tensor:
    """Attention of (batch, queries, channels) to parts of the keys, (batch, tokens, channels), then the sum of all.

    The first keys are ``parts`` of the same length, as many as there are queries; the others are the last part. Parts
    run side by side, where attention of one object to all keys would leave most of a large card idle. And a part that
    is not ``valid`` (batch, tokens) only drops out of the sum: no mask is needed.
    """
    kernels = _kernels(q)
    assert kernels is not None
    placed = parts * q.shape[1]
    if valid is None:
        valid = torch.ones(k.shape[:2], dtype=torch.bool, device=k.device)
    sides = (q[:, None].expand(-1, parts, -1, -1), *(x[:, :placed].unflatten(1, (parts, -1)) for x in (k, v)))
    outputs, logsumexp = _attend_with_sums(*sides)
    last, last_logsumexp = _attend_to_few(q, k[:, placed:], v[:, placed:], valid[:, placed:])
    each = valid[:, : placed : q.shape[1]].contiguous()
    whole: Tensor = kernels.sum_parts(outputs, logsumexp, each, last, last_logsumexp)
    return whole


_FEW = 256
"""Keys that a kernel attends to at once: all object pointers by the published rules. More would not fit each card."""

_NEVER = -1e30
"""A score as good as minus infinity, with which an object without pointers has no weight instead of none that is a
number."""


def _attend_to_few(q: Tensor, k: Tensor, v: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Attention (batch, queries, channels) to object pointers, and the logarithms of its sums, both in float32."""
    kernels = _kernels(q)
    if kernels is not None and k.shape[1] <= _FEW:
        found: tuple[Tensor, Tensor] = kernels.attend_to_few(q, k, v, valid, _NEVER)
        return found
    with torch.autocast(q.device.type, enabled=False):
        scores = (q.float() * q.shape[-1] ** -0.5) @ k.float().transpose(1, 2)
        scores = scores.masked_fill(~valid[:, None], _NEVER)
        return scores.softmax(dim=-1) @ v.float(), scores.logsumexp(dim=-1)


def _attend_with_sums(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention (batch, heads, tokens, channels) by PyTorch's kernels, and the logarithms of its sums, float32."""
    queries, operations = q.shape[2], torch.ops.aten
    way = SDPAParams(q, k, v, None, 0.0, False, False)
    if torch.cuda.get_device_capability(q.device) >= (9, 0) and can_use_cudnn_attention(way):
        found = operations._scaled_dot_product_cudnn_attention(q, k, v, None, True)
    elif can_use_flash_attention(way):
        found = operations._scaled_dot_product_flash_attention(q, k, v)
    else:
        found = operations._scaled_dot_product_efficient_attention(q, k, v, None, True)
    return found[0], found[1].flatten(2)[:, :, :queries]
