"""What executors of a batch have in common: the network that they build, who watches them, and what comes next.

A batch is done by one of three: in this process (:mod:`~resurgsam2_cli.batch.here`), in several
(:mod:`~resurgsam2_cli.batch.processes`), or on a cluster (:mod:`~resurgsam2_cli.batch.on_ray`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from resurgsam2_cli.batch.items import Cut, Item, Outcome, Progress
from resurgsam2_cli.batch.job import Job

if TYPE_CHECKING:
    from resurgsam2_cli.segmenting.engine import Engine

_LATER = 1.0
"""Seconds before a video that another program works on is tried again."""


class View(Protocol):
    """Watches a batch."""

    def begin(self, device: str, item: Item) -> None:
        """A video starts."""

    def advance(self, device: str, progress: Progress) -> None:
        """A video gets further."""

    def finish(self, device: str, outcome: Outcome | None) -> None:
        """A video ends; without an outcome, it is put off."""


Warn = Callable[[Iterable[str]], None]
"""Takes lines for the user to see before results."""


class Executor(Protocol):
    """Does the videos of a batch somewhere."""

    def run(self, job: Job, items: Iterable[Item], view: View, most: int | None, warn: Warn) -> Iterator[Outcome]:
        """Do the videos, at most ``most``; yield their outcomes in the order in which they end.

        Raises the :class:`~resurgsam2_cli.errors.UserError` of a device or weights that cannot be used at the start.
        """
        ...


class PutOff:
    """In place of an outcome: another program works on the video."""


@dataclass(frozen=True)
class Spent:
    """The last outcome of a process: its device has failed for good, and is for another process to use."""

    outcome: Outcome


def done(job: Job, item: Item, engine: Engine, tell: Callable[[Progress], None]) -> Outcome | Cut | Spent:
    """As :meth:`.Job.run`, with a look at the device of a video that failed."""
    outcome = job.run(item, engine, tell)
    from model.room import computes

    if isinstance(outcome, Outcome) and outcome.state == "failed" and not computes(engine.device):
        return Spent(outcome)
    return outcome


@dataclass(frozen=True)
class EngineRequest:
    """The arguments of :func:`~resurgsam2_cli.segmenting.engine.build_engine` without the device."""

    weights: str
    clip_weights: Path | None
    precision: str
    found: tuple[str, Path, Path | None] | None = None
    """What :func:`weights.store.resolve` gives, on this machine; None to ask it."""

    def build(self, device: str) -> Engine:
        """Build the engine. Raises a :class:`~resurgsam2_cli.errors.UserError`."""
        from resurgsam2_cli.segmenting.engine import build_engine

        return build_engine(self.weights, self.clip_weights, device, self.precision, found=self.found)


class Queue:
    """The videos that wait. At most ``most`` of them are done; those that are complete already do not count."""

    def __init__(self, items: Iterable[Item], most: int | None) -> None:
        self._waiting: list[tuple[float, Item]] = [(0.0, item) for item in items]
        self._left = most
        self._in_pieces: dict[str, _InPieces] = {}
        """Videos of which pieces wait or are being done, by their sources."""

    def take(self, busy: Iterable[Item] = ()) -> Item | None:
        """The next video, or piece of one, that can be started beside the ``busy`` ones; None if there is none now."""
        running = list(busy)
        full = self._left is not None and len({x.key for x in running} | set(self._in_pieces)) >= self._left
        places, now = {x.place for x in running}, time.monotonic()
        for i, (not_before, item) in enumerate(self._waiting):
            if full and item.key not in self._in_pieces:
                continue
            if item.place not in places and not_before <= now:
                del self._waiting[i]
                return item
        return None

    def put_off(self, item: Item) -> None:
        """Try a video again later, after all others, as another program works on it."""
        self._waiting.append((time.monotonic() + _LATER, item))

    def put_back(self, item: Item) -> None:
        """Do a video before all others: whoever worked on it was lost."""
        self._waiting.insert(0, (0.0, item))

    def settle(self, item: Item, result: Outcome | Cut) -> Outcome | None:
        """Take in what became of an item; returns the outcome of its video, if that has ended."""
        whole = self._in_pieces.get(item.key)
        if isinstance(result, Cut):
            self._in_pieces[item.key] = _InPieces(item, len(result.items))
            self._waiting[:0] = [(0.0, x) for x in result.items]
            return None
        if whole is not None and item.piece is not None:
            whole.take(item.piece.name, result)
            if whole.missing:
                return None
            if whole.failed is None:
                self._waiting.insert(0, (0.0, whole.to_join()))
                return None
            result = whole.failed
        if whole is not None:
            del self._in_pieces[item.key]
            if result.seconds is not None:
                result = replace(result, seconds=round(result.seconds + whole.seconds, 3))
        if self._left is not None and result.state in ("done", "failed"):
            self._left -= 1
        return result

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        if self._in_pieces:
            return False
        return not self._waiting or (self._left is not None and self._left <= 0)

    @property
    def most(self) -> int | None:
        """How many more are to be done, at most."""
        return self._left

    def drop(self) -> list[Item]:
        """Take out all that is left, a video once."""
        left = {item.key: item for _, item in self._waiting} | {x.item.key: x.item for x in self._in_pieces.values()}
        self._waiting, self._in_pieces = [], {}
        return list(left.values())


class _InPieces:
    """A video whose pieces are being done."""

    def __init__(self, item: Item, count: int) -> None:
        self.item, self.missing = item, count
        self.seconds = 0.0
        """What its pieces took."""
        self.failed: Outcome | None = None
        """The outcome of the first piece that failed."""
        self._names: list[str] = []

    def take(self, name: str, outcome: Outcome) -> None:
        """Take in a piece that has ended."""
        self.missing -= 1
        self.seconds += outcome.seconds or 0.0
        if not outcome.is_there:
            self.failed = self.failed or outcome
        elif outcome.folder is not None:  # else it lies beyond the end
            self._names.append(name)

    def to_join(self) -> Item:
        """What is left to do when all pieces are done."""
        return replace(self.item, pieces=tuple(sorted(self._names)))
