"""What a user sees while videos run: a bar or a table in a terminal, a plain line every so often elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from resurgsam2_cli.batching import Item, Outcome, Progress
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
        self._bar: Bars | None = None
        self._task = TaskID(0)
        console = Console(stderr=True)
        if not quiet and console.is_terminal:
            self._bar = Bars(
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
            self._bar.update(self._task, completed=self._frames, rate=rate, stages=stages(self._prompts, result))
        elif not self._quiet and now - self._last_line >= _PLAIN_INTERVAL:
            self._last_line = now
            of = f" of about {self._total}" if self._total else ""
            line = f"{self._name}: {self._frames}{of} frames, {rate}, {stages(self._prompts, result)}"
            print(line, file=sys.stderr, flush=True)


def stages(prompts: tuple[Prompt, ...], result: FrameResult) -> str:
    """What is being done with each object; counted, where there are many."""
    states = [x.stage if x.present else f"{x.stage} (absent)" for x in result.objects]
    if len(states) <= _SHOWN:
        return ", ".join(f"{p.label}: {s}" for p, s in zip(prompts, states, strict=True))
    return ", ".join(f"{n} {state}" for state, n in Counter(states).most_common())


class VideosBar:
    """How many videos are done, on standard error: for what is quick for each of them."""

    def __init__(self, name: str, total: int, *, quiet: bool) -> None:
        self._name, self._total, self._quiet, self._done = name, total, quiet, 0
        self._last_line = time.monotonic()
        self._bar: Bars | None = None
        self._task = TaskID(0)
        console = Console(stderr=True)
        if not quiet and console.is_terminal:
            self._bar = Bars(
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


@dataclass
class _Running:
    """A video that is being done."""

    device: str
    source: str
    begin: float = field(default_factory=time.monotonic)
    progress: Progress = field(default_factory=lambda: Progress(0, None, ""))

    def rate(self, now: float) -> str:
        return f"{self.progress.frames / (now - self.begin):.1f}" if self.progress.frames else ""

    def frames(self) -> str:
        frames, total, _ = self.progress
        return f"{frames} of about {total}" if total else str(frames)


class BatchTable:
    """The videos of a batch, on standard error: those being done and the last ones that are over."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self._total, self._quiet = total, quiet
        self._running: dict[str, _Running] = {}
        self._over: deque[Outcome] = deque(maxlen=8)
        self._counts: Counter[str] = Counter()
        self._last_line = time.monotonic()
        console = Console(stderr=True)
        self._live: Live | None = None
        if not quiet and console.is_terminal:
            self._live = Live(get_renderable=self._render, console=console, transient=True)

    def __enter__(self) -> BatchTable:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def begin(self, device: str, item: Item) -> None:
        """A video starts."""
        self._running[device] = _Running(device, item.source)

    def advance(self, device: str, progress: Progress) -> None:
        """A video gets on."""
        self._running[device].progress = progress
        now = time.monotonic()
        if not self._quiet and not self._live and now - self._last_line >= _PLAIN_INTERVAL:
            self._last_line = now
            for x in self._running.values():
                line = f"{x.source}: {x.frames()} frames, {x.rate(now)} frames/s, {x.progress.stages}"
                print(line, file=sys.stderr, flush=True)

    def finish(self, device: str, outcome: Outcome) -> None:
        """A video is over."""
        source = self._running.pop(device).source
        self._over.append(outcome)
        self._counts[outcome.state] += 1
        if not self._quiet and not self._live:
            done = f"{self._counts.total()} of {self._total}"
            print(f"{done}: {source}: {outcome.state} ({_detail(outcome)})", file=sys.stderr, flush=True)

    def _render(self) -> Group:
        now = time.monotonic()
        table = outcome_table(self._over)
        for x in self._running.values():
            row = (x.source, f"on {x.device}", x.frames(), x.rate(now), x.progress.stages)
            table.add_row(*map(Text, row), style="bold")
        counts = ", ".join(f"{n} {state}" for state, n in self._counts.items())
        return Group(table, Text(f"{self._counts.total()} of {self._total} videos" + (f": {counts}" if counts else "")))


def outcome_table(outcomes: Iterable[Outcome]) -> Table:
    """A row a video: its state, frames, frames/s, and what there is to say."""
    table = Table("video", "state", "frames", "frames/s", "what", box=None, pad_edge=False)
    for x in outcomes:
        color = {"done": "green", "failed": "red"}.get(x.state, "")
        rate = f"{x.frames_per_second:.1f}" if x.frames_per_second else ""
        what = x.error or x.note or ""
        table.add_row(Text(x.source), Text(x.state, color), Text(str(x.frames or "")), Text(rate), Text(what))
    return table


def _detail(outcome: Outcome) -> str:
    detail = outcome.error or outcome.note or ""
    if outcome.frames_per_second:
        detail = f"{outcome.frames} frames, {outcome.frames_per_second:.1f} frames/s {detail}".rstrip()
    return detail
