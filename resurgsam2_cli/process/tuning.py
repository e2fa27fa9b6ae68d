"""How the process uses the machine; imports no torch, as some of it must be said before torch is loaded."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def prepare_environment() -> None:
    """Set what PyTorch and OpenMP read when they start, unless the user has set it.

    The threads of GNU's OpenMP wait for more work on a busy core for about a millisecond. The mixer's own threads (see
    :mod:`model.cpu_mixer`), ffmpeg's and those of other processes need that core: a tenth of it is enough. Large pages
    need fewer faults when memory is new.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_memory() -> None:
    """Have the C library keep what large tensors gave back, rather than return it to the system and ask again.

    Every page that comes from the system costs a fault and is filled with zeros first: in the detection of a few
    objects on a CPU that took more time than the arithmetic. Only glibc can be told so.
    """
    with suppress(AttributeError, OSError, TypeError):
        for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            ctypes.CDLL(None).mallopt(parameter, 2**30)
