"""Seconds per stage, and peak memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from model.replay import free_cache
from resurgsam2_cli.process.usage import StageTimes, peak_mb


class Timing(StageTimes):
    """Seconds per stage since it was made, also of what a GPU does."""

    def __init__(self) -> None:
        super().__init__()
        self._begin = time.perf_counter()
        self._pending: deque[tuple[str, int, torch.cuda.Event, torch.cuda.Event]] = deque()
        self._spare: deque[torch.cuda.Event] = deque()

    @contextmanager
    def measure(self, stage: str, frames: int = 1, device: torch.device | None = None) -> Iterator[None]:
        """Add the time of the block, which does this many frames, to ``stage``.

        On a CUDA ``device``, it is the device's time on the stream that is current: that of launching says little.
        """
        if device is None or device.type != "cuda":
            with super().measure(stage, frames):
                yield
            return
        begin, end = self._event(), self._event()
        stream = torch.cuda.current_stream(device)
        begin.record(stream)
        yield
        end.record(stream)
        self._pending.append((stage, frames, begin, end))
        self._collect()

    def _event(self) -> torch.cuda.Event:
        try:
            return self._spare.popleft()
        except IndexError:
            return torch.cuda.Event(enable_timing=True)

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
            self.add(stage, frames, begin.elapsed_time(end) / 1000)
            self._spare += (begin, end)

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


def peak_memory_mb(device: torch.device, others_mb: int = 0) -> dict[str, int | None]:
    """Peak memory, of this process so far (unknown on Windows) with others, and of the device since the last video.

    That of a device is what PyTorch has taken of it; CUDA itself takes some hundred megabytes more.
    """
    own = peak_mb()
    peak: dict[str, int | None] = {"host": None if own is None else own + others_mb}
    if device.type == "cuda":
        peak["device"] = round(torch.cuda.max_memory_reserved(device) / 2**20)
    return peak


def forget_peak(device: torch.device) -> None:
    """Measure the device's peak memory from now on, without what PyTorch keeps of earlier work."""
    if device.type == "cuda":
        free_cache()
        torch.cuda.reset_peak_memory_stats(device)
