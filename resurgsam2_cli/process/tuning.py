"""How the process uses the machine. Imports no torch, as some settings must be made before torch is loaded."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

_SWITCH = 0.0001
"""Seconds until a thread that computes gives Python's lock to one that waits. By default it is fifty times as long, and
the thread that feeds the network would wait so for each of the others."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from malloc.h


def prepare_environment() -> None:
    """Set how threads take turns, and what PyTorch and OpenMP read when they start unless the user has set it.

    Threads of GNU's OpenMP keep a core busy for about a millisecond while they wait for more work. The mixer's own
    threads (see :mod:`model.cpu_mixer`), ffmpeg's and those of other processes need that core: a tenth of the time is
    enough. With large pages, new memory takes fewer faults.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    sys.setswitchinterval(_SWITCH)


def keep_memory() -> None:
    """Have the C library keep the memory of freed large tensors, rather than return it to the system and ask again.

    Every page from the system costs a fault and is filled with zeros first: in the detection of a few objects on a
    CPU, that took more time than the arithmetic. Only glibc has this setting.
    """
    with suppress(AttributeError, OSError, TypeError):
        for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            ctypes.CDLL(None).mallopt(parameter, 2**30)
