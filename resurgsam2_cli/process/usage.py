"""What a process has used: seconds per stage of its work, and memory."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class StageTimes:
    """Seconds per stage, those of several threads added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.frames: dict[str, int] = {}
        self.others_mb = 0
        """The peak memory of processes that did some of it, in MiB."""
        self._lock = threading.Lock()

    @contextmanager
    def measure(self, stage: str, frames: int = 1) -> Iterator[None]:
        """Add the time of the block, which does this many frames, to ``stage``."""
        started = time.perf_counter()
        yield
        self.add(stage, frames, time.perf_counter() - started)

    def add(self, stage: str, frames: int, seconds: float) -> None:
        """Add seconds that were measured elsewhere."""
        with self._lock:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
            self.frames[stage] = self.frames.get(stage, 0) + frames


def peak_mb() -> int | None:
    """The peak memory of this process so far, in MiB; unknown on Windows."""
    if sys.platform == "win32":
        return None
    # On Linux, what getrusage gives is at least what the process that started this one had taken then.
    with suppress(OSError, StopIteration), open("/proc/self/status", "rb") as status:
        return round(int(next(x for x in status if x.startswith(b"VmHWM:")).split()[1]) / 2**10)
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes here
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
