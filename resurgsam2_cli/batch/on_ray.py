"""A batch on a Ray cluster: each worker is an actor that builds the network once and takes one video after the other.

Where workers run, whether they and their machines are alive, and what becomes of their logs is Ray's work. A lost
worker is replaced, wherever there is room, and its video is done again by whoever is free. The machines have this
program, and the folders of the batch under the same paths.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resurgsam2_cli import __version__
from resurgsam2_cli.batch.executor import EngineRequest, PutOff, Queue, Spent, View, Warn
from resurgsam2_cli.batch.items import Cut, Item, Outcome
from resurgsam2_cli.batch.job import Job
from resurgsam2_cli.batch.ray_connection import connected, knock, ray_module
from resurgsam2_cli.errors import DeviceError, UsageError, UserError, weights_errors
from resurgsam2_cli.process.interruption import uninterrupted

if TYPE_CHECKING:
    from types import ModuleType

    from resurgsam2_cli.batch.ray_worker import Work

_LOSSES = 3
"""How many workers a video may cost, or a start, before it counts as failed."""

_PAUSE = 0.2  # seconds between looks at the queue
_GROW = 5.0  # seconds between looks for machines that have come
_LOOK = 1.0  # seconds between looks at how far workers are
_PATIENCE = 0.8
"""Seconds that workers have to tidy up when the batch ends early; the program itself has little more."""

_SOON = 10.0
"""Seconds without any worker after which it is said that the cluster has no room."""


@dataclass(frozen=True)
class Cluster:
    """Which cluster, and how much of it."""

    address: str = "auto"
    """``host:port``, ``ray://host:port``, ``auto`` for the one that this machine is in, or ``local`` for this machine
    alone."""
    workers: int | None = None
    """None for as many as there is room for."""
    cpus: float = 2.0
    """Cores for each worker."""
    gpus: float | None = None
    """GPUs for each worker; None for one if the cluster has any."""


@dataclass(frozen=True)
class OnRay:
    """An executor: see :class:`~resurgsam2_cli.batch.executor.Executor`."""

    request: EngineRequest
    device: str
    cluster: Cluster

    def run(self, job: Job, items: Iterable[Item], view: View, most: int | None, warn: Warn) -> Iterator[Outcome]:
        """Start workers, and do one video per worker at a time."""
        if self.device not in ("auto", "cpu", "cuda"):
            raise UsageError(
                f"--device {self.device} is of one machine, and Ray chooses them", "use --device auto, cpu or cuda"
            )
        queue = Queue(items, most)
        knock(self.cluster.address)
        ray = ray_module()
        with connected(ray, self.cluster.address, verbose=job.verbose):
            with uninterrupted():
                crew = _Crew(ray, self.cluster, self._work(ray, job))
                crew.grow(len(queue))
            try:
                yield from _Batch(crew, queue, view, warn).outcomes()
            finally:
                crew.stop()

    def _work(self, ray: ModuleType, job: Job) -> Work:
        from resurgsam2_cli.batch.ray_worker import Sent, Work
        from weights.store import known_sum, resolve

        def sent(path: Path) -> Sent:
            return Sent(path, known_sum(path), [ray.put(path.read_bytes())])

        with weights_errors():
            name, path, clip = resolve(self.request.weights, self.request.clip_weights)
            weights = sent(path), None if clip is None else sent(clip)
        return Work(job, self.request, self.device, name, *weights, folder=os.getcwd(), version=__version__)


class _Worker:
    """An actor, and what it does now."""

    def __init__(self, ray: ModuleType, name: str, actor: Any, work: Work) -> None:
        self.name, self.actor = name, actor
        self.item: Item | None = None
        self.answer: Any = actor.start.remote(work)
        """What is awaited of it: first that it has started, then the outcome of its video."""
        self.started = False
        self._ray, self._work = ray, work
        self._progress: Any = None

    def give(self, item: Item) -> None:
        """Hand it a video."""
        self.item, self.answer = item, self.actor.run.remote(self._work, item)
        self._progress = None  # what is under way is about the video before

    def look(self, view: View) -> None:
        """Show how far it is, as far as it has said."""
        if self._progress is not None and self._ray.wait([self._progress], timeout=0)[0]:
            answer, self._progress = self._progress, None
            with suppress(self._ray.exceptions.RayError):  # it may just have been lost
                progress = self._ray.get(answer)
                if progress is not None and self.item is not None:
                    view.advance(self.name, progress)
        if self._progress is None and self.item is not None:
            self._progress = self.actor.progress.remote()


class _Crew:
    """The workers. Raises :class:`DeviceError` if the cluster has no room for any."""

    def __init__(self, ray: ModuleType, cluster: Cluster, work: Work) -> None:
        from resurgsam2_cli.batch.ray_worker import WATCH, RayWorker

        self.ray, self.workers = ray, list[_Worker]()
        self._cluster = cluster
        self._work = work  # held here, so that Ray keeps the weights
        has_gpus = work.device != "cpu" and ray.cluster_resources().get("GPU")
        self._gpus = cluster.gpus if cluster.gpus is not None else 1.0 if has_gpus else 0.0
        self._actor = ray.remote(
            num_cpus=cluster.cpus,
            num_gpus=self._gpus,
            concurrency_groups={WATCH: 1},
        )(RayWorker)
        self._count = 0
        self.refused = 0
        """Workers that could not build the network where they were started; it is not tried again."""
        if not cluster.workers and not self._room():
            gpu = f", GPU: {self._gpus:g}" if self._gpus else ""
            raise DeviceError(
                f"no machine of the cluster has room for a worker (cores: {cluster.cpus:g}{gpu})",
                "give it less: --cpus-per-worker, --gpus-per-worker",
            )

    def grow(self, videos: int) -> None:
        """Start workers as far as there is room, and ``videos`` for them: machines may have come, or workers gone."""
        idle = sum(x.item is None for x in self.workers)
        room = (self._cluster.workers or self._room()) - self.refused
        for _ in range(min(room - len(self.workers), videos - idle)):
            self._count += 1
            self.workers.append(_Worker(self.ray, f"worker {self._count}", self._actor.remote(), self._work))

    def _room(self) -> int:
        """For how many workers the cluster has room when nothing else runs."""
        room = 0
        for node in self.ray.nodes():
            if node["Alive"]:
                there = node["Resources"]
                shares = [(there.get("CPU", 0.0), self._cluster.cpus), (there.get("GPU", 0.0), self._gpus)]
                room += min(math.floor(has / takes + 1e-6) for has, takes in shares if takes)
        return room

    def let_go(self, worker: _Worker) -> None:
        """End a worker that is lost, or of no use."""
        self.workers.remove(worker)
        self.ray.kill(worker.actor)

    def stop(self) -> None:
        """End all, after a moment in which they tidy up what is not finished."""
        with suppress(self.ray.exceptions.RayError):
            busy = [x for x in self.workers if x.item is not None]
            for worker in busy:
                worker.actor.stop.remote()
            if busy:
                self.ray.wait([x.answer for x in busy], num_returns=len(busy), timeout=_PATIENCE)
            for worker in self.workers:
                self.ray.kill(worker.actor)


@dataclass(frozen=True)
class _Lost:
    """In place of an answer: the worker, or its machine, is gone."""

    error: DeviceError
    """What is said if that happens too often."""


class _Batch:
    """The videos on their way through the workers."""

    def __init__(self, crew: _Crew, queue: Queue, view: View, warn: Warn) -> None:
        self._crew, self._queue, self._view, self._warn = crew, queue, view, warn
        self._ray, self._workers = crew.ray, crew.workers
        self._told: set[str] = set()
        self._begun = self._grown = time.monotonic()
        self._losses: Counter[tuple[Path, str]] = Counter()
        """Workers that were lost over an item, by its place."""
        self._lost_starts = 0
        self._looked = 0.0

    def outcomes(self) -> Iterator[Outcome]:
        """Hand out the videos; yield their outcomes. Raises the error of a cluster on which no worker starts."""
        while not self._queue.is_over or any(x.item for x in self._workers):
            with uninterrupted():  # Ray's own code does not pass our exceptions on
                outcomes = self._next()
            yield from outcomes

    def _next(self) -> list[Outcome]:
        """Hand out what can be, and take what has ended, after a wait for it."""
        if time.monotonic() - self._grown >= _GROW:
            self._grown = time.monotonic()
            self._crew.grow(len(self._queue))
        self._hand_out()
        self._say_if_it_waits()
        awaited = {x.answer: x for x in self._workers if x.answer is not None}
        if not awaited:
            time.sleep(_PAUSE)  # another program works on what is left
            return []
        ended = self._ray.wait(list(awaited), timeout=_PAUSE)[0]
        outcomes = [self._take(awaited[x]) for x in ended]
        if time.monotonic() - self._looked >= _LOOK:
            self._looked = time.monotonic()
            for worker in self._workers:
                worker.look(self._view)
        return [x for x in outcomes if x is not None]

    def _hand_out(self) -> None:
        for worker in list(self._workers):
            if worker.answer is not None:
                continue
            item = self._queue.take(x.item for x in self._workers if x.item)
            if item is not None:
                self._view.begin(worker.name, item)
                worker.give(item)

    def _say_if_it_waits(self) -> None:
        if time.monotonic() - self._begun > _SOON and not any(x.started for x in self._workers):
            self._say("the cluster has no room for a worker now: waiting for it")

    def _say(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._warn([line])

    def _take(self, worker: _Worker) -> Outcome | None:
        """Take in what a worker answers."""
        answer, worker.answer = worker.answer, None
        item, worker.item = worker.item, None
        message = self._got(answer)
        if item is None:
            self._take_start(worker, message)
            return None
        if isinstance(message, _Lost):
            self._crew.let_go(worker)
            self._losses[item.place] += 1
            if self._losses[item.place] < _LOSSES:
                self._view.finish(worker.name, None)
                self._say(f"{worker.name} was lost: what it did is done again")
                self._queue.put_back(item)
                self._crew.grow(len(self._queue))
                return None
            message = message.error
        if isinstance(message, PutOff):
            self._view.finish(worker.name, None)
            self._queue.put_off(item)
            return None
        if isinstance(message, UserError):
            message = Outcome(item.key, "failed", error=message.message, note=message.hint or None)
        assert isinstance(message, Outcome | Cut)
        ended = self._queue.settle(item, message)
        self._view.finish(worker.name, ended)
        return ended

    def _take_start(self, worker: _Worker, message: Any) -> None:
        if isinstance(message, _Lost):
            self._crew.let_go(worker)
            self._lost_starts += 1
            if self._lost_starts >= _LOSSES and not self._workers:
                raise message.error  # none can start
            self._crew.grow(len(self._queue))
            return
        if not isinstance(message, UserError):
            worker.started, self._lost_starts = True, 0
            for line in message.warnings:
                self._say(line)
            return
        if len(self._workers) == 1:
            raise message
        self._crew.refused += 1
        self._crew.let_go(worker)
        self._say(f"a worker less: {message.message}")

    def _got(self, answer: Any) -> Any:
        """An answer, or an error that says what happened to the worker."""
        try:
            message = self._ray.get(answer)
            if isinstance(message, Spent):
                return _Lost(DeviceError(message.outcome.error or "", message.outcome.note or ""))
            return message
        except self._ray.exceptions.RayError as error:
            text = str(error)
            if "No module named 'resurgsam2_cli" in text:
                return DeviceError(
                    "a machine of the cluster does not have resurgsam2", "install it on all, in the Python of Ray"
                )
            if isinstance(error, self._ray.exceptions.RayTaskError):  # a bug
                return UserError(str(error.cause), "it is in the log of the worker (--verbose shows it)")
            return _Lost(
                DeviceError(
                    f"a worker was lost {_LOSSES} times over this",
                    "if the cluster is well, it ran out of memory: fewer workers (--cpus-per-worker), or fewer prompts",
                )
            )
