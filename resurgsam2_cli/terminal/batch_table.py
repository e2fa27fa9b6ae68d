"""The videos of a batch: those in progress, the last ones that finished, and a table of all at the end."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from resurgsam2_cli.batch.items import Item, Outcome, Progress
from resurgsam2_cli.files.text import readable
from resurgsam2_cli.terminal.bars import PLAIN_INTERVAL
from resurgsam2_cli.terminal.console import console


@dataclass
class _Running:
    """A video in progress."""

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
    """The videos of a batch, on standard error: those in progress and the last ones that finished."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self._total, self._quiet = total, quiet
        self._running: dict[str, _Running] = {}
        self._over: deque[Outcome] = deque(maxlen=8)
        self._counts: Counter[str] = Counter()
        self._last_line = time.monotonic()
        screen = console(stderr=True)
        self._live: Live | None = None
        if not quiet and screen.is_terminal:
            self._live = Live(get_renderable=self._render, console=screen, transient=True)

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
        self._running[device] = _Running(device, item.title)

    def advance(self, device: str, progress: Progress) -> None:
        """A video gets further."""
        self._running[device].progress = progress
        now = time.monotonic()
        if not self._quiet and not self._live and now - self._last_line >= PLAIN_INTERVAL:
            self._last_line = now
            for x in self._running.values():
                line = f"{readable(x.source)}: starting"
                if x.progress.frames:
                    line = f"{readable(x.source)}: {x.frames()} frames, {x.rate(now)} frames/s, {x.progress.stages}"
                print(line, file=sys.stderr, flush=True)

    def finish(self, device: str, outcome: Outcome | None) -> None:
        """A video ends; without an outcome, it is put off."""
        source = self._running.pop(device).source
        if outcome is None:
            return
        self._over.append(outcome)
        self._counts[outcome.state] += 1
        if not self._quiet and not self._live:
            done = f"{self._counts.total()} of {self._total}"
            print(f"{done}: {readable(source)}: {outcome.state} ({_detail(outcome)})", file=sys.stderr, flush=True)

    def _render(self) -> Group:
        now = time.monotonic()
        table = outcome_table(self._over)
        for x in self._running.values():
            row = (x.source, f"on {x.device}", x.frames(), x.rate(now), x.progress.stages)
            table.add_row(*map(Text, row), style="bold")
        counts = ", ".join(f"{n} {state}" for state, n in self._counts.items())
        return Group(table, Text(f"{self._counts.total()} of {self._total} videos" + (f": {counts}" if counts else "")))


def outcome_table(outcomes: Iterable[Outcome]) -> Table:
    """A row per video: its state, frames, frames/s, and any error or note."""
    table = Table("video", "state", "frames", "frames/s", "what", box=None, pad_edge=False)
    for x in outcomes:
        color = {"done": "green", "changed": "yellow", "failed": "red"}.get(x.state, "")
        rate = f"{x.frames_per_second:.1f}" if x.frames_per_second else ""
        what = _what(x)
        table.add_row(Text(x.source), Text(x.state, color), Text(str(x.frames or "")), Text(rate), Text(what))
    return table


def _what(outcome: Outcome) -> str:
    """What went wrong and what to do, or what else there is to say."""
    return "; ".join(filter(None, (outcome.error, outcome.note)))


def _detail(outcome: Outcome) -> str:
    detail = _what(outcome)
    if outcome.frames_per_second:
        detail = f"{outcome.frames} frames, {outcome.frames_per_second:.1f} frames/s {detail}".rstrip()
    return detail
