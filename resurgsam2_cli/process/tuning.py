"""How the process uses the machine. Imports no torch, as some settings must be made before torch is loaded."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from malloc.h


def prepare_environment() -> None:
    """Set what PyTorch and OpenMP read when they start, unless the user has set it.

    Threads of GNU's OpenMP keep a core busy for about a millisecond while they wait for more work. The mixer's own
    threads (see :mod:`model.cpu_mixer`), ffmpeg's and those of other processes need that core: a tenth of the time is
    enough. With large pages, new memory takes fewer faults.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_memory() -> None:
    """Have the C library keep the memory of freed large tensors, rather than return it to the system and ask again.

    Every page from the system costs a fault and is filled with zeros first: in the detection of a few objects on a
    CPU, that took more time than the arithmetic. Only glibc has this setting.
    """
    with suppress(AttributeError, OSError, TypeError):
        for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            ctypes.CDLL(None).mallopt(parameter, 2**30)
