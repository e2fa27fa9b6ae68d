"""What errors of devices say: in one line, whether there is no memory left, and whether the device still works."""

from __future__ import annotations

import torch

_NO_MEMORY = (
    "out of memory",
    "OUT_OF_MEMORY",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "CUBLAS_STATUS_NOT_INIT",
    "CUDNN_STATUS_NOT_INIT",
    "NVML_SUCCESS",
    "Invalid buffer size",
    "annot allocate memory",
    "can't start new thread",
)
"""In messages of CUDA, cuBLAS and cuDNN (whose handles need memory), MPS, the system, and PyTorch's allocators: that
for CUDA asks NVML, which not every machine has, how full the card is."""

_NO_PRIMITIVE = "could not create a primitive"
"""All that oneDNN says on a CPU; more words would be about something that it cannot do."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the host has no memory left."""
    text = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        text.endswith(_NO_PRIMITIVE) or any(x in text for x in _NO_MEMORY)
    )


def what_it_says(error: BaseException) -> str:
    """The words of an error in one line; the name of its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def computes(device: torch.device) -> bool:
    """Whether a device does anything: after some errors, such as a wrong address, CUDA fails until the process ends."""
    try:
        return bool(torch.ones(2, dtype=torch.float32, device=device).sum() == 2)
    except RuntimeError as error:
        return out_of_memory(error)
