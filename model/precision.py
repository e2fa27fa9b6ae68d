"""The precision of what the network computes: of its weights, and of products."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, NamedTuple

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


class _Setting(NamedTuple):
    """Something that the process has set for products."""

    get: Callable[[], Any]
    set: Callable[[Any], object]
    exact: Any


def _of_sums(kind: str) -> _Setting:
    """In which precision a type's products are summed; since PyTorch 2.10, this is set together with another thing."""
    owner, name = torch.backends.cuda.matmul, f"allow_{kind}_reduced_precision_reduction"
    names = [x for x in (name, f"{name}_split_k") if hasattr(owner, x)]

    def get() -> Any:
        values = tuple(getattr(owner, x) for x in names)
        return values if len(values) > 1 else values[0]

    return _Setting(get, lambda value: setattr(owner, name, value), False)


def _of_operation(owner: Any) -> _Setting:
    """How an operation rounds float32, which may be left to a setting for more operations than one."""

    def put(value: str) -> None:
        owner.fp32_precision = "none"
        if owner.fp32_precision != value:
            owner.fp32_precision = value

    return _Setting(lambda: owner.fp32_precision, put, "ieee")


_backends = torch.backends
_SETTINGS: tuple[_Setting, ...] = (
    _Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
    _Setting(lambda: _backends.cudnn.allow_tf32, lambda value: setattr(_backends.cudnn, "allow_tf32", value), False),
    _of_sums("bf16"),
    _of_sums("fp16"),
    # Since PyTorch 2.9, each operation has a setting of its own as well. They go last, as the first two change some.
    *(
        _of_operation(owner)
        for owner in (
            _backends.cuda.matmul,
            *(getattr(_backends.cudnn, name, None) for name in ("conv", "rnn")),
            *(getattr(_backends.mkldnn, name, None) for name in ("matmul", "conv")),
        )
        if hasattr(owner, "fp32_precision")
    ),
)
_exact_lock = threading.Lock()
_exact: list[list[tuple[_Setting, Any, Any]]] = []
"""What the settings were before, and are since, once for each thread that is inside."""


def _made_exact() -> list[tuple[_Setting, Any, Any]]:
    """Change the settings, and return what they were, and what PyTorch says that they are now."""
    before = []
    for x in _SETTINGS:
        with suppress(RuntimeError):  # PyTorch does not tell an old setting that contradicts the new ones
            before.append((x, x.get()))
    for x, _ in before:
        x.set(x.exact)
    return [(x, value, x.get()) for x, value in before]


def _restore(settings: list[tuple[_Setting, Any, Any]]) -> None:
    """Set them as before; those that somebody has changed meanwhile, as they are now."""
    wanted = []
    for x, before, since in settings:
        value = before
        with suppress(RuntimeError):  # of an old setting, where one of the new ones has changed: that goes last
            now = x.get()
            value = before if now == since else now
        wanted.append((x, value))
    for x, value in wanted:
        x.set(value)


@contextmanager
def exact_products() -> Iterator[None]:
    """Have products of float32 computed in float32, and those of half precision summed in it.

    By default, convolutions on CUDA round their inputs to ten bits (TF32): float32 would give other masks than on a
    CPU. The settings are those of the process: the last thread that leaves restores them, but for those that a caller
    has changed meanwhile.
    """
    with _exact_lock:  # to set them takes longer than all else that a context does
        before = _exact[0] if _exact else _made_exact()
        _exact.append(before)
    try:
        yield
    finally:
        with _exact_lock:
            _exact.pop()
            if not _exact:
                _restore(before)


def full_products(device_type: str) -> AbstractContextManager[Any]:
    """Products in the type of what is multiplied, also for a caller under ``torch.autocast``."""
    return torch.autocast(device_type, enabled=False) if torch.is_autocast_enabled(device_type) else nullcontext()


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
