"""Progress of one video, or of many quick ones: a bar in a terminal, elsewhere a plain line every so often."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from resurgsam2_cli.outputs import FrameResult
from resurgsam2_cli.outputs.stages import stages
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.terminal.console import console

PLAIN_INTERVAL = 10.0  # seconds between plain lines


class _Bar:
    """A bar on standard error, shown only in a terminal."""

    def __init__(self, name: str, total: int | None, fields: dict[str, Any], *, quiet: bool) -> None:
        self._quiet = quiet
        self._last_line = time.monotonic()
        self._bar: Bars | None = None
        self._task = TaskID(0)
        screen = console(stderr=True)
        if not quiet and screen.is_terminal:
            columns: list[ProgressColumn] = [TextColumn(f"{{task.fields[{x}]}}", markup=False) for x in fields]
            self._bar = Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                *columns[:-1],
                TimeRemainingColumn(compact=True),
                *columns[-1:],
                console=screen,
                transient=True,
            )
            self._task = self._bar.add_task(name, total=total, **fields)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, completed: int, line: str, **fields: Any) -> None:
        """Move the bar, or print the line if it is time for one."""
        now = time.monotonic()
        if self._bar:
            self._bar.update(self._task, completed=completed, **fields)
        elif not self._quiet and now - self._last_line >= PLAIN_INTERVAL:
            self._last_line = now
            print(line, file=sys.stderr, flush=True)


class FramesBar(_Bar):
    """Frames, frames/s, time left and the stage of each object."""

    def __init__(self, name: str, prompts: tuple[Prompt, ...], total: int | None, *, quiet: bool) -> None:
        super().__init__(name, total, {"rate": "", "stages": ""}, quiet=quiet)
        self._name, self._prompts, self._total = name, prompts, total
        self._frames, self._begin = 0, time.monotonic()

    def __call__(self, result: FrameResult) -> None:
        """Show a finished frame."""
        self._frames += 1
        rate = f"{self._frames / max(time.monotonic() - self._begin, 1e-9):.1f} frames/s"
        of = f" of about {self._total}" if self._total else ""
        words = stages(self._prompts, result)
        line = f"{self._name}: {self._frames}{of} frames, {rate}, {words}"
        self.show(self._frames, line, rate=rate, stages=words)


class VideosBar(_Bar):
    """How many videos are done, for work that is quick on each of them."""

    def __init__(self, name: str, total: int, *, quiet: bool) -> None:
        super().__init__(name, total, {"video": ""}, quiet=quiet)
        self._name, self._total, self._done = name, total, 0

    def __call__(self, video: str) -> None:
        """Show a finished video."""
        self._done += 1
        self.show(self._done, f"{self._name}: {self._done} of {self._total} videos", video=video)
