"""What a user sees while a video runs: a bar in a terminal, a plain line every so often elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from resurgsam2_cli.outputs import FrameResult
from resurgsam2_cli.prompts import Prompt

_PLAIN_INTERVAL = 10.0  # seconds between plain lines
_SHOWN = 4  # objects named one by one


class ProgressBar:
    """Frames, frames/s, time left and the stage of each object, on standard error."""

    def __init__(self, name: str, prompts: tuple[Prompt, ...], total: int | None, *, quiet: bool) -> None:
        self._name, self._prompts, self._total = name, prompts, total
        self._quiet, self._frames = quiet, 0
        self._begin = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        console = Console(stderr=True)
        if not quiet and console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[stages]}", markup=False),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(name, total=total, rate="", stages="")

    def __enter__(self) -> ProgressBar:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, result: FrameResult) -> None:
        """Show a finished frame."""
        self._frames += 1
        now = time.monotonic()
        rate = f"{self._frames / max(now - self._begin, 1e-9):.1f} frames/s"
        if self._bar:
            self._bar.update(self._task, completed=self._frames, rate=rate, stages=self._stages(result))
        elif not self._quiet and now - self._last_line >= _PLAIN_INTERVAL:
            self._last_line = now
            of = f" of about {self._total}" if self._total else ""
            line = f"{self._name}: {self._frames}{of} frames, {rate}, {self._stages(result)}"
            print(line, file=sys.stderr, flush=True)

    def _stages(self, result: FrameResult) -> str:
        states = [x.stage if x.present else f"{x.stage} (absent)" for x in result.objects]
        if len(states) <= _SHOWN:
            return ", ".join(f"{p.label}: {s}" for p, s in zip(self._prompts, states, strict=True))
        return ", ".join(f"{n} {state}" for state, n in Counter(states).most_common())


class VideosBar:
    """How many videos are done, on standard error: for what is quick for each of them."""

    def __init__(self, name: str, total: int, *, quiet: bool) -> None:
        self._name, self._total, self._quiet, self._done = name, total, quiet, 0
        self._last_line = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        console = Console(stderr=True)
        if not quiet and console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[video]}", markup=False),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(name, total=total, video="")

    def __enter__(self) -> VideosBar:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, video: str) -> None:
        """Show a finished video."""
        self._done += 1
        now = time.monotonic()
        if self._bar:
            self._bar.update(self._task, completed=self._done, video=video)
        elif not self._quiet and now - self._last_line >= _PLAIN_INTERVAL:
            self._last_line = now
            print(f"{self._name}: {self._done} of {self._total} videos", file=sys.stderr, flush=True)
