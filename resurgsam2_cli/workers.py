"""The videos of a batch, on one device or on several at once.

One device is used by this process itself. Several get a process each, which builds the network once and is handed one
video after the other; a process that dies takes its video with it and nothing else.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from resurgsam2_cli.batching import Item, Job, Outcome, Progress
from resurgsam2_cli.errors import DeviceError, UserError
from resurgsam2_cli.interrupts import Interrupted, interruptible

if TYPE_CHECKING:
    from resurgsam2_cli.engine import Engine

_PATIENCE = 20.0
"""Seconds that a process is given to tidy up, when the batch is over early."""


class View(Protocol):
    """What sees a batch happen."""

    def begin(self, device: str, item: Item) -> None:
        """A video starts."""

    def advance(self, device: str, progress: Progress) -> None:
        """A video gets on."""

    def finish(self, device: str, outcome: Outcome) -> None:
        """A video is over."""


@dataclass(frozen=True)
class EngineRequest:
    """The arguments of :func:`~resurgsam2_cli.engine.build_engine` but the device."""

    weights: str
    clip_weights: Path | None
    precision: str

    def build(self, device: str) -> Engine:
        """Raises a :class:`~resurgsam2_cli.errors.UserError`."""
        from resurgsam2_cli.engine import build_engine

        return build_engine(self.weights, self.clip_weights, device, self.precision)


class _Limit:
    """At most so many videos, of which those that were complete already do not count."""

    def __init__(self, most: int | None) -> None:
        self._left = most

    def allows(self, running: int = 0) -> bool:
        return self._left is None or running < self._left

    def count(self, outcome: Outcome) -> None:
        if self._left is not None and outcome.state != "skipped":
            self._left -= 1


def segment_here(job: Job, items: Iterable[Item], engine: Engine, view: View, most: int | None) -> Iterator[Outcome]:
    """One video after the other, in this process."""
    limit, device = _Limit(most), str(engine.device)
    for item in items:
        if not limit.allows():
            return
        view.begin(device, item)
        outcome = job.run(item, engine, lambda progress: view.advance(device, progress))
        limit.count(outcome)
        view.finish(device, outcome)
        yield outcome


def segment_on(
    job: Job,
    items: Iterable[Item],
    request: EngineRequest,
    devices: list[str],
    view: View,
    most: int | None,
    warn: Callable[[str], None],
) -> Iterator[Outcome]:
    """As many videos at once as there are devices, in the order in which they are over.

    Raises the :class:`~resurgsam2_cli.errors.UserError` of a device or weights that cannot be used.
    """
    waiting, limit = deque(items), _Limit(most)
    names = [device if devices.count(device) == 1 else f"{device} #{i}" for i, device in enumerate(devices, start=1)]
    workers = [_Worker(name, device, len(devices), request, job) for name, device in zip(names, devices, strict=True)]
    try:
        for worker in workers:
            warning = worker.ready()
            if worker is workers[0]:
                warn(warning)
        while True:
            for worker in workers:
                busy = [x.item for x in workers if x.item]
                item = _next(waiting, busy)
                if worker.item is None and item is not None and limit.allows(len(busy)):
                    waiting.remove(item)
                    view.begin(worker.name, item)
                    worker.give(item)
            running = {x.connection: x for x in workers if x.item}
            if not running:
                return
            for connection in wait(list(running)):
                worker = running[connection]  # type: ignore[index]
                message = worker.receive()
                if isinstance(message, Progress):
                    view.advance(worker.name, message)
                    continue
                limit.count(message)
                view.finish(worker.name, message)
                yield message
    finally:
        for worker in workers:
            worker.connection.close()  # which ends it, at the latest after the frame that it is at
        for worker in workers:
            worker.stop()


def _next(waiting: deque[Item], busy: list[Item]) -> Item | None:
    """The first that would not get the place of one that is being done."""
    places = {x.place for x in busy}
    return next((x for x in waiting if x.place not in places), None)


class _Worker:
    """A process with the network on its device, and the video that it has in hand."""

    def __init__(self, name: str, device: str, share: int, request: EngineRequest, job: Job) -> None:
        self.name = name
        self.item: Item | None = None
        self._device, self._share, self._request, self._job = device, share, request, job
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a forked process could not use CUDA
        self.connection, other = context.Pipe()
        arguments = (other, self._device, self._share, self._request, self._job)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        other.close()

    def ready(self) -> str:
        """Wait until the network is there; gives its warning. Raises :class:`~resurgsam2_cli.errors.UserError`."""
        try:
            message = self.connection.recv()
        except EOFError as error:
            raise DeviceError(f"{self._ended()} before it was ready", "try this device alone") from error
        if isinstance(message, UserError):
            raise message
        return str(message)

    def give(self, item: Item) -> None:
        """Hand it a video."""
        self.item = item
        with contextlib.suppress(OSError):  # that it is dead is seen when its answer is read
            self.connection.send(item)

    def receive(self) -> Progress | Outcome:
        """What it says of its video; where it has died, a new one takes its place."""
        assert self.item is not None
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            message = Outcome(self.item.key, "failed", error=self._ended(), note="it may have run out of memory")
            self.connection.close()
            self._start()
            self.ready()
        if isinstance(message, Outcome):
            self.item = None
        return message

    def _ended(self) -> str:
        self._process.join(_PATIENCE)
        code = self._process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return f"the process on {self.name} ended ({how})"

    def stop(self) -> None:
        """Wait for its end, which comes when the connection is closed; then insist."""
        for insist in (self._process.terminate, self._process.kill):
            self._process.join(_PATIENCE)
            if self._process.is_alive():
                insist()
        self._process.join()


def _serve(connection: Connection, device: str, share: int, request: EngineRequest, job: Job) -> None:
    """What a process does: says that it is ready, then segments what it is given until nothing more comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the first process, which closes the connection

    def tell(message: object) -> None:
        try:
            connection.send(message)
        except OSError as error:
            raise Interrupted from error

    def hear() -> Item:
        try:
            return connection.recv()
        except (EOFError, OSError) as error:
            raise Interrupted from error

    with contextlib.suppress(Interrupted), interruptible(signal.SIGTERM):
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // share))
        try:
            engine = request.build(device)
        except UserError as error:
            tell(error)
            return
        tell(engine.warning)
        while True:
            tell(job.run(hear(), engine, tell))
