"""Triton kernels for what PyTorch launches many small kernels for, in inference on a CUDA device.

Normalisation with the rounding that follows it, rotary encoding in place, and the sum of attention over parts, each
computed in float32 and rounded once, as the operations that it replaces; and the resizing of images, in integers.
Callers are in :mod:`model.fused`.

``TRITON_INTERPRET=1`` runs the same kernels on a CPU, slowly.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

_NUMBERS = 4096
"""Numbers of a program: enough to keep memory busy, few enough for registers."""

_QUERIES = 16
"""Queries of a program: the fewest that a product of matrices takes, as there are few programs for one object."""


@triton.jit
def _normalize(  # type: ignore[no-untyped-def]
    x, weight, bias, y, pixels, channels, batch_stride, pixel_stride, channel_stride, eps,
    GELU: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """LayerNorm over channels, of maps with any strides, to rows of channels."""
    batch = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, WIDTH)
    scale = tl.load(weight + c, mask=c < channels, other=0.0).to(tl.float32)
    shift = tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    if TRANSPOSED:  # neighbouring threads read neighbouring numbers
        both = (c < channels)[:, None] & (p < pixels)[None, :]
        place = c[:, None] * channel_stride + p[None, :] * pixel_stride
        values = tl.load(x + batch * batch_stride + place, mask=both, other=0.0).to(tl.float32)
        mean = tl.sum(values, axis=0) / channels
        values = tl.where(both, values - mean[None, :], 0.0)
        inverse = 1.0 / tl.sqrt(tl.sum(values * values, axis=0) / channels + eps)
        values = values * inverse[None, :] * scale[:, None] + shift[:, None]
        into = p[None, :] * channels + c[:, None]
    else:
        both = (p < pixels)[:, None] & (c < channels)[None, :]
        place = p[:, None] * pixel_stride + c[None, :] * channel_stride
        values = tl.load(x + batch * batch_stride + place, mask=both, other=0.0).to(tl.float32)
        mean = tl.sum(values, axis=1) / channels
        values = tl.where(both, values - mean[:, None], 0.0)
        inverse = 1.0 / tl.sqrt(tl.sum(values * values, axis=1) / channels + eps)
        values = values * inverse[:, None] * scale[None, :] + shift[None, :]
        into = p[:, None] * channels + c[None, :]
    if GELU:
        values = 0.5 * values * (1.0 + tl.erf(values * 0.7071067811865476))
    tl.store(y + batch * pixels * channels + into, values.to(y.dtype.element_ty), mask=both)


def normalize(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype, *, gelu: bool = False) -> Tensor:
    """LayerNorm of (batch, pixels, channels) with any strides, and GELU if wanted, to contiguous ``dtype``."""
    batch, pixels, channels = x.shape
    width = triton.next_power_of_2(channels)
    rows = max(1, _NUMBERS // width)
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    with torch.cuda.device_of(x):  # Triton launches on the current device; nothing on a CPU
        _normalize[(triton.cdiv(pixels, rows), batch)](
            x, weight, bias, y, pixels, channels, *(x.stride(i) for i in range(3)), eps,
            GELU=gelu, ROWS=rows, WIDTH=width, TRANSPOSED=x.stride(1) < x.stride(2),
        )  # fmt: skip
    return y


@triton.jit
def _rotate(  # type: ignore[no-untyped-def]
    x, table, tokens, places, pairs, batch_stride, token_stride, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """Turn the channel pairs of tokens in place."""
    t = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, WIDTH)
    both = (t < tokens)[:, None] & (c < 2 * pairs)[None, :]
    angles = tl.load(table + (t % places)[:, None] * (2 * pairs) + c[None, :], mask=both, other=0.0)
    cosine, sine = tl.split(tl.reshape(angles, (ROWS, WIDTH // 2, 2)))
    place = x + tl.program_id(1).to(tl.int64) * batch_stride + t[:, None] * token_stride + c[None, :]
    values = tl.load(place, mask=both, other=0.0).to(tl.float32)
    real, imaginary = tl.split(tl.reshape(values, (ROWS, WIDTH // 2, 2)))
    turned = tl.join(real * cosine - imaginary * sine, real * sine + imaginary * cosine)
    tl.store(place, tl.reshape(turned, (ROWS, WIDTH)).to(x.dtype.element_ty), mask=both)


def rotate_in_place(x: Tensor, table: Tensor, tokens: int) -> None:
    """Turn the first ``tokens`` of (batch, all tokens, channels); the table (places, pairs) repeats."""
    places, pairs = table.shape
    width = triton.next_power_of_2(2 * pairs)
    rows = max(1, _NUMBERS // width)
    assert x.stride(2) == 1
    with torch.cuda.device_of(x):
        _rotate[(triton.cdiv(tokens, rows), len(x))](
            x, torch.view_as_real(table), tokens, places, pairs, x.stride(0), x.stride(1), ROWS=rows, WIDTH=width
        )


@triton.jit
def _sum_parts(  # type: ignore[no-untyped-def]
    outputs, logsumexp, valid, last, last_logsumexp, y, queries, channels, parts,
    output_batch, output_part, output_query, sum_batch, sum_part, last_batch, last_query, last_sum_batch,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """What attention to all keys gives, from attention to parts of them."""
    batch = tl.program_id(1).to(tl.int64)
    q = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, WIDTH)
    k = tl.arange(0, PARTS)
    inside = q < queries
    both = inside[:, None] & (c < channels)[None, :]
    there = (k < parts) & (tl.load(valid + batch * parts + k, mask=k < parts, other=0) != 0)
    sums = tl.load(
        logsumexp + batch * sum_batch + k[None, :] * sum_part + q[:, None],
        mask=inside[:, None] & there[None, :], other=-float("inf"),
    )  # fmt: skip
    own = tl.load(last_logsumexp + batch * last_sum_batch + q, mask=inside, other=0.0)
    highest = tl.maximum(tl.max(sums, axis=1), own)
    weight = tl.exp(own - highest)
    total = weight + tl.sum(tl.exp(sums - highest[:, None]), axis=1)
    own_place = last + batch * last_batch + q[:, None] * last_query + c[None, :]
    values = weight[:, None] * tl.load(own_place, mask=both, other=0.0).to(tl.float32)
    for part in range(parts):
        # A part that is not valid is not read.
        inside_part = inside & (tl.load(valid + batch * parts + part) != 0)
        share = tl.load(
            logsumexp + batch * sum_batch + part * sum_part + q, mask=inside_part, other=-float("inf")
        )  # fmt: skip
        place = outputs + batch * output_batch + part * output_part + q[:, None] * output_query + c[None, :]
        part_values = tl.load(place, mask=both & inside_part[:, None], other=0.0).to(tl.float32)
        values += tl.exp(share - highest)[:, None] * part_values
    into = y + (batch * queries + q[:, None]) * channels + c[None, :]
    tl.store(into, (values / total[:, None]).to(y.dtype.element_ty), mask=both)


@triton.jit
def _attend_to_few(  # type: ignore[no-untyped-def]
    q, k, v, valid, y, logsumexp, queries, channels, tokens, scale, never,
    q_batch, q_query, k_batch, k_token, v_batch, v_token, valid_batch,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Attention to a few keys, all at once, and the logarithms of its sums."""
    batch = tl.program_id(1).to(tl.int64)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    t = tl.arange(0, TOKENS)
    c = tl.arange(0, BLOCK)
    scores = tl.zeros((ROWS, TOKENS), tl.float32)
    for first in range(0, channels, BLOCK):
        inside = (first + c < channels)[None, :]
        place = batch * q_batch + r[:, None] * q_query + (first + c)[None, :]
        rows = tl.load(q + place, mask=(r < queries)[:, None] & inside, other=0.0).to(tl.float32)
        place = batch * k_batch + t[:, None] * k_token + (first + c)[None, :]
        keys = tl.load(k + place, mask=(t < tokens)[:, None] & inside, other=0.0).to(tl.float32)
        scores += tl.dot(rows * scale, tl.trans(keys), input_precision="ieee")
    counts = tl.load(valid + batch * valid_batch + t, mask=t < tokens, other=0) != 0
    scores = tl.where(counts[None, :], scores, never)
    scores = tl.where((t < tokens)[None, :], scores, -float("inf"))
    highest = tl.max(scores, axis=1)
    weights = tl.exp(scores - highest[:, None])
    total = tl.sum(weights, axis=1)
    weights = weights / total[:, None]
    for first in range(0, channels, BLOCK):
        inside = (first + c < channels)[None, :]
        place = batch * v_batch + t[:, None] * v_token + (first + c)[None, :]
        values = tl.load(v + place, mask=(t < tokens)[:, None] & inside, other=0.0).to(tl.float32)
        into = y + (batch * queries + r[:, None]) * channels + (first + c)[None, :]
        tl.store(into, tl.dot(weights, values, input_precision="ieee"), mask=(r < queries)[:, None] & inside)
    tl.store(logsumexp + batch * queries + r, highest + tl.log(total), mask=r < queries)


def attend_to_few(q: Tensor, k: Tensor, v: Tensor, valid: Tensor, never: float) -> tuple[Tensor, Tensor]:
    """Attention of (batch, queries, channels) to a few keys (batch, tokens, channels), and the logarithms of its sums.

    Computed in float32: (batch, queries, channels) and (batch, queries). Keys that are not ``valid`` (batch, tokens)
    have the score ``never``.
    """
    batch, queries, channels = q.shape
    tokens = k.shape[1]
    y = torch.empty(batch, queries, channels, dtype=torch.float32, device=q.device)
    logsumexp = torch.empty(batch, queries, dtype=torch.float32, device=q.device)
    assert q.stride(2) == k.stride(2) == v.stride(2) == valid.stride(1) == 1
    with torch.cuda.device_of(q):
        _attend_to_few[(triton.cdiv(queries, _QUERIES), batch)](
            q, k, v, valid.view(torch.uint8), y, logsumexp, queries, channels, tokens, channels**-0.5, never,
            *(x.stride(i) for x in (q, k, v) for i in range(2)), valid.stride(0),
            ROWS=_QUERIES, TOKENS=max(16, triton.next_power_of_2(tokens)), BLOCK=32,
        )  # fmt: skip
    return y, logsumexp


def sum_parts(outputs: Tensor, logsumexp: Tensor, valid: Tensor, last: Tensor, last_logsumexp: Tensor) -> Tensor:
    """Join attention to parts of the keys: see :func:`model.fused.attend_in_parts`.

    ``outputs`` (batch, parts, queries, channels), ``logsumexp`` (batch, parts, queries) float32 and ``valid``
    (batch, parts) bool are of the parts; ``last`` (batch, queries, channels) and ``last_logsumexp`` (batch, queries) of
    one more part, that is always valid.
    """
    batch, parts, queries, channels = outputs.shape
    width = triton.next_power_of_2(channels)
    rows = max(1, _NUMBERS // width)
    y = torch.empty(batch, queries, channels, dtype=outputs.dtype, device=outputs.device)
    assert outputs.stride(3) == last.stride(2) == logsumexp.stride(2) == last_logsumexp.stride(1) == 1
    with torch.cuda.device_of(outputs):
        _sum_parts[(triton.cdiv(queries, rows), batch)](
            outputs, logsumexp, valid.to(torch.uint8), last, last_logsumexp, y, queries, channels, parts,
            *(outputs.stride(i) for i in range(3)), *(logsumexp.stride(i) for i in range(2)),
            *(last.stride(i) for i in range(2)), last_logsumexp.stride(0),
            ROWS=rows, WIDTH=width, PARTS=triton.next_power_of_2(parts),
        )  # fmt: skip
    return y


@triton.jit
def _resample(  # type: ignore[no-untyped-def]
    x, at, weights, y, size, new, inside, taps, numbers, FRACTION: tl.constexpr, BLOCK: tl.constexpr
):
    """Weighted sums along the second axis of (batch, outer, size, inside), in fixed point."""
    batch = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = n < numbers
    place = n // inside
    to = place % new
    first = (place // new) * size
    total = tl.full((BLOCK,), 1 << (FRACTION - 1), tl.int32)
    for tap in range(taps):
        source = tl.load(at + tap * new + to, mask=there, other=0).to(tl.int32)
        weight = tl.load(weights + tap * new + to, mask=there, other=0)
        pixel = x + batch * (numbers // new * size) + (first + source) * inside + n % inside
        total += weight * tl.load(pixel, mask=there, other=0).to(tl.int32)
    total = tl.minimum(tl.maximum(total >> FRACTION, 0), 255)
    tl.store(y + batch * numbers + n, total.to(tl.uint8), mask=there)


def resample(images: Tensor, axis: int, at: Tensor, weights: Tensor, fraction: int) -> Tensor:
    """Weighted sums along an axis of (frames, height, width, 3) uint8: see :func:`model.fused.resample`."""
    images = images.contiguous()
    taps, new = at.shape
    shape = (*images.shape[:axis], new, *images.shape[axis + 1 :])
    y = torch.empty(shape, dtype=torch.uint8, device=images.device)
    numbers = y[0].numel()
    with torch.cuda.device_of(images):
        _resample[(triton.cdiv(numbers, _NUMBERS), len(images))](
            images, at, weights, y, images.shape[axis], new, math.prod(shape[axis + 1 :]), taps, numbers,
            FRACTION=fraction, BLOCK=_NUMBERS,
        )  # fmt: skip
    return y
