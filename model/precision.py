"""The precision of what the network computes: of its weights, and of products."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

PRECISIONS: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def lower_weights(network: nn.Module, dtype: torch.dtype, device: torch.device | None = None) -> None:
    """Keep the weights and biases of matrix products and convolutions in ``dtype``.

    Autocast would convert them the same way, but again for every frame: on a CPU that costs as much as a tenth of the
    network, on CUDA hundreds of kernels. The few weights that make the inputs of a scan stay in float32, as
    :mod:`model.cpu_mixer` uses them.
    """
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    if device is not None and device.type == "cuda":
        kinds += (nn.Conv1d,)
    for name, module in network.named_modules():
        if isinstance(module, kinds) and not name.endswith("dt_proj"):
            for own in ("weight", "bias"):
                tensor = getattr(module, own)
                if tensor is not None:
                    tensor.data = tensor.data.to(dtype)


_products = torch.backends.cuda.matmul
_SETTINGS: tuple[tuple[Any, str], ...] = (
    (torch.backends.cudnn, "allow_tf32"),
    (_products, "allow_tf32"),
    (_products, "allow_bf16_reduced_precision_reduction"),
    (_products, "allow_fp16_reduced_precision_reduction"),
)
_exact_lock = threading.Lock()
_exact: list[list[Any]] = []
"""What the settings were before, once for each thread that is inside."""


@contextmanager
def exact_products() -> Iterator[None]:
    """Have CUDA compute products of float32 in float32, and sum those of half precision in float32.

    By default, convolutions round their inputs to ten bits (TF32): float32 would give other masks than on a CPU. The
    settings are those of the process: the last thread that leaves restores them.
    """
    with _exact_lock:
        if not _exact:  # to set them takes longer than all else that a context does
            before = [getattr(owner, name) for owner, name in _SETTINGS]
            for owner, name in _SETTINGS:
                setattr(owner, name, False)
        else:
            before = _exact[0]
        _exact.append(before)
    try:
        yield
    finally:
        with _exact_lock:
            _exact.pop()
            if not _exact:
                for (owner, name), value in zip(_SETTINGS, before, strict=True):
                    setattr(owner, name, value)


@contextmanager
def half_products(device_type: str, dtype: torch.dtype) -> Iterator[None]:
    """As ``torch.autocast`` without its cache of weights.

    The weights that matter are lowered already, and a recording must not use copies of the others, which end with the
    context. For CUDA, ``torch.autocast`` looks at the device first each time, which takes a tenth of the time that a
    tracked frame takes the host.
    """
    before = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
    caching = torch.is_autocast_cache_enabled()
    torch.set_autocast_enabled(device_type, True)
    torch.set_autocast_dtype(device_type, dtype)
    torch.set_autocast_cache_enabled(False)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(device_type, before[0])
        torch.set_autocast_dtype(device_type, before[1])
        torch.set_autocast_cache_enabled(caching)
