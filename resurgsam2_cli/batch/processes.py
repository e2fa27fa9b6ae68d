"""A batch on several devices, or several times on one: each has a process, which gets one video after the other.

Each process builds the network once. If it dies, only its video fails; another process takes its place, and if that
cannot start, the others continue without it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

from resurgsam2_cli.batch.executor import EngineRequest, PutOff, Queue, Spent, View, Warn, done
from resurgsam2_cli.batch.items import Cut, Item, Outcome, Progress
from resurgsam2_cli.batch.job import Job
from resurgsam2_cli.errors import INTERRUPTED, DeviceError, UserError
from resurgsam2_cli.files.filling import Busy
from resurgsam2_cli.process.interruption import HardEnd, Interrupted, interruptible, starting_workers

_PATIENCE = 1.0
"""Seconds that a process has to tidy up when the batch ends early."""

_LONG = 20.0
"""Seconds that a process has to end after its work."""

_PAUSE = 0.1  # seconds between looks at videos that another program works on


class Ready(NamedTuple):
    """A process has built its network."""

    warnings: tuple[str, ...]


class Died(DeviceError):
    """A process has ended without a word."""


Message = Ready | PutOff | Progress | Outcome | Cut | Spent | UserError


@dataclass(frozen=True)
class Assignment:
    """What a process does, and with which share of the machine."""

    name: str
    """The name of the process, for people."""
    device: str
    share: int
    """How many processes share the processor."""
    request: EngineRequest
    job: Job


@dataclass(frozen=True)
class Processes:
    """An executor, with a process for each of ``devices``: see :class:`~resurgsam2_cli.batch.executor.Executor`."""

    request: EngineRequest
    devices: list[str]

    def run(self, job: Job, items: Iterable[Item], view: View, most: int | None, warn: Warn) -> Iterator[Outcome]:
        """Do one video per device at a time."""
        queue, devices = Queue(items, most), self.devices
        names = [x if devices.count(x) == 1 else f"{x} #{i}" for i, x in enumerate(devices, start=1)]
        workers = [
            _Worker(Assignment(name, device, len(devices), self.request, job))
            for name, device in zip(names, devices, strict=True)
        ]
        over = False
        try:
            told: set[str] = set()
            for worker in list(workers):
                first = worker.receive()
                if isinstance(first, Died):
                    first = worker.again()
                if isinstance(first, Died) and len(workers) > 1:
                    workers.remove(worker)  # the others do its share
                elif isinstance(first, UserError):
                    raise first
                if isinstance(first, Ready):
                    warn([line for line in first.warnings if line not in told])
                    told.update(first.warnings)
            while workers:
                _hand_out(queue, workers, view)
                if queue.is_over and not any(x.item for x in workers):
                    break
                for worker in _with_news(workers):
                    item, message = worker.item, worker.receive()
                    if isinstance(message, UserError) and item is None:
                        workers.remove(worker)  # it cannot come back
                        worker.stop(time.monotonic() + _LONG)
                        continue
                    if isinstance(message, Spent):
                        message = message.outcome
                        if not worker.replace():
                            workers.remove(worker)
                    outcome = _told(worker, item, message, queue, view)
                    if outcome is not None:
                        yield outcome
            for item in queue.drop() if not workers else ():
                yield Outcome(
                    item.key, "failed", error="no process is left to do it", note="run the same command again"
                )
            over = True
        finally:
            for worker in workers:
                worker.end(at_once=not over)
            deadline = time.monotonic() + (_LONG if over else _PATIENCE)
            for worker in workers:
                worker.stop(deadline)


def _hand_out(queue: Queue, workers: list[_Worker], view: View) -> None:
    for worker in workers:
        if worker.is_free and (item := queue.take(x.item for x in workers if x.item)) is not None:
            view.begin(worker.name, item)
            worker.give(item)


def _with_news(workers: list[_Worker]) -> list[_Worker]:
    """The workers that have sent something, after a wait for the first."""
    by_connection = {x.connection: x for x in workers if x.item or not x.is_free}
    return [by_connection[x] for x in wait(list(by_connection), _PAUSE)]  # type: ignore[index]


def _told(worker: _Worker, item: Item | None, message: Message, queue: Queue, view: View) -> Outcome | None:
    """Take in what a process says about its video."""
    if isinstance(message, Progress):
        view.advance(worker.name, message)
    elif isinstance(message, PutOff) and item is not None:
        view.finish(worker.name, None)
        queue.put_off(item)
    elif isinstance(message, Outcome | Cut) and item is not None:
        ended = queue.settle(item, message)
        view.finish(worker.name, ended)
        return ended
    return None


class _Worker:
    """A process with the network on its device, and the video that it works on."""

    def __init__(self, assignment: Assignment) -> None:
        self.name = assignment.name
        self.item: Item | None = None
        self.is_free = False
        """Whether the process has built its network and has no video."""
        self._assignment = assignment
        self._lasted = True
        """Whether the process has done a video since it was started in place of one whose device failed."""
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a forked process could not use CUDA
        self.connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, self._assignment), daemon=True)
        with starting_workers():
            self._process.start()
        other.close()

    def give(self, item: Item) -> None:
        """Hand a video to the process."""
        self.item, self.is_free = item, False
        with contextlib.suppress(OSError):  # reading the answer notices a dead process
            self.connection.send(item)

    def receive(self) -> Message:
        """The next message. If the process died over a video, start another in its place; else return its error."""
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError):
            return self._replace()
        if isinstance(message, (Outcome, Cut, PutOff, Spent)):
            self.item = None
        self.is_free = not isinstance(message, (Progress, UserError, Spent))
        self._lasted |= isinstance(message, Outcome) and message.is_there
        return message

    def replace(self) -> bool:
        """Start another process in place of one whose device failed; returns False if that happened at once again."""
        self.connection.close()
        self.stop(time.monotonic() + _LONG)  # with such a device, it may hang while it ends
        lasted, self._lasted = self._lasted, False
        if lasted:
            self._start()
        return lasted

    def _replace(self) -> Message:
        error = Died(f"the process on {self.name} ended ({self._how_it_ended()})", "it may have run out of memory")
        self.connection.close()
        item, self.item, self.is_free = self.item, None, False
        if item is None:
            return error
        self._start()
        return Outcome(item.key, "failed", error=error.message, note=error.hint)

    def again(self) -> Message:
        """Start another process in place of one that died, and wait for what it says first."""
        self._start()
        return self.receive()

    def _how_it_ended(self) -> str:
        self._process.join(_LONG)
        code = self._process.exitcode
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"

    def end(self, *, at_once: bool) -> None:
        """Tell the process that nothing more comes; with ``at_once``, also stop what it is doing."""
        self.connection.close()
        if at_once and self._process.is_alive():
            self._process.terminate()

    def stop(self, deadline: float) -> None:
        """Wait for the process to end until a time of ``time.monotonic``; then kill it."""
        self._process.join(max(0.0, deadline - time.monotonic()))
        if self._process.is_alive():
            self._process.kill()
        self._process.join()


def _serve(connection: Connection, assignment: Assignment) -> None:
    """What a process does: build the network, then segment what it is given until nothing more comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the first process, which ends this one

    def tell(message: Message) -> None:
        try:
            connection.send(message)
        except OSError as error:
            raise Interrupted from error

    def hear() -> Item:
        try:
            return connection.recv()
        except (EOFError, OSError) as error:
            raise Interrupted from error

    hard_end = HardEnd(INTERRUPTED, patience=_PATIENCE * 0.8)
    with contextlib.suppress(Interrupted), interruptible(signal.SIGTERM, hard_end=hard_end):
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // assignment.share))
        try:
            engine = assignment.request.build(assignment.device)
        except UserError as error:
            tell(error)
            return
        tell(Ready(engine.warnings))
        while True:
            item = hear()
            try:
                outcome: Message = done(assignment.job, item, engine, tell)
            except Busy:
                outcome = PutOff()
            tell(outcome)
            if isinstance(outcome, Spent):
                return
