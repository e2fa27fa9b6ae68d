"""Seconds per stage, and peak memory."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
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
        self._pending: deque[tuple[str, int, torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def measure(self, stage: str, frames: int = 1, device: torch.device | None = None) -> Iterator[None]:
        """Add the time of the block, which does this many frames, to ``stage``.

        On a CUDA ``device``, it is the device's time on the stream that is current: that of launching says little.
        """
        if device is not None and device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            stream = torch.cuda.current_stream(device)
            begin.record(stream)
            yield
            end.record(stream)
            self._pending.append((stage, frames, begin, end))
            self._collect()
            return
        started = time.perf_counter()
        yield
        self._add(stage, frames, time.perf_counter() - started)

    def _add(self, stage: str, frames: int, seconds: float) -> None:
        with self._lock:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
            self.frames[stage] = self.frames.get(stage, 0) + frames

    def _collect(self, *, wait: bool = False) -> None:
        """Add what the device is done with."""
        for _ in range(len(self._pending)):
            try:
                stage, frames, begin, end = waiting = self._pending.popleft()
            except IndexError:  # another thread was here
                return
            if wait:
                end.synchronize()
            elif not end.query():
                self._pending.appendleft(waiting)
                return
            self._add(stage, frames, begin.elapsed_time(end) / 1000)

    def record(self, frames: int) -> dict[str, Any]:
        """The ``timing`` of run.json."""
        self._collect(wait=True)
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
    """Peak memory, of this process so far (unknown on Windows) and of the device since the last video.

    That of a device is what PyTorch has taken of it; CUDA itself takes some hundred megabytes more.
    """
    peak: dict[str, int | None] = {"host": None}
    if sys.platform != "win32":
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes here
        peak["host"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
    if device.type == "cuda":
        peak["device"] = round(torch.cuda.max_memory_reserved(device) / 2**20)
    return peak


def forget_peak(device: torch.device) -> None:
    """Measure the device's peak memory from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
