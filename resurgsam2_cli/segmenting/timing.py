"""Seconds per stage, and peak memory."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Timing:
    """Seconds per stage, those of several threads added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.frames: dict[str, int] = {}
        self._begin, self._lock = time.perf_counter(), threading.Lock()

    @contextmanager
    def measure(self, stage: str, frames: int = 1) -> Iterator[None]:
        """Add the time of the block, which does this many frames, to ``stage``."""
        begin = time.perf_counter()
        yield
        with self._lock:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begin
            self.frames[stage] = self.frames.get(stage, 0) + frames

    def record(self, frames: int) -> dict[str, Any]:
        """The ``timing`` of run.json."""
        total = time.perf_counter() - self._begin
        return {
            "seconds": round(total, 3),
            "frames_per_second": round(frames / total, 3),
            "stages": {
                stage: {
                    "seconds": round(seconds, 3),
                    "frames_per_second": round(self.frames[stage] / seconds, 3) if seconds else None,
                }
                for stage, seconds in self.seconds.items()
            },
        }


def peak_memory_mb(device: torch.device) -> dict[str, int | None]:
    """Peak memory so far, of this process (unknown on Windows) and of the device."""
    peak: dict[str, int | None] = {"host": None}
    if sys.platform != "win32":
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes here
        peak["host"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
    if device.type == "cuda":
        peak["device"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return peak
