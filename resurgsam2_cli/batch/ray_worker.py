"""A worker of a batch on a Ray cluster, of which Ray makes an actor. To be imported only where Ray is wanted."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import ray

from resurgsam2_cli import __version__
from resurgsam2_cli.batch.executor import EngineRequest, PutOff, Spent, done
from resurgsam2_cli.batch.items import Cut, Item, Outcome, Progress
from resurgsam2_cli.batch.job import Job
from resurgsam2_cli.errors import DeviceError, UserError
from resurgsam2_cli.files.atomic import replacing, writing
from resurgsam2_cli.files.filling import Busy, naming
from resurgsam2_cli.process.interruption import Interrupted
from resurgsam2_cli.process.tuning import prepare_environment

if TYPE_CHECKING:
    from resurgsam2_cli.segmenting.engine import Engine


WATCH = "watch"
"""The methods that run beside the work."""


@dataclass(frozen=True)
class Sent:
    """A weight file as it reaches every machine once."""

    path: Path
    """Where it is on the machine that sends it."""
    sha256: str
    content: list[Any]
    """One reference to its bytes. In a list, so that Ray fetches them only where they are asked for."""

    def placed(self) -> Path:
        """The file on this machine: the same path if that has the same content, else a copy in the cache."""
        from weights.store import home, known_sum

        if self.path.is_file() and known_sum(self.path) == self.sha256:
            return self.path
        folder = home() / "sent"
        copy = folder / f"{self.path.stem}-{self.sha256[:16]}{self.path.suffix}"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with naming(folder):
                if not copy.is_file() or known_sum(copy) != self.sha256:
                    with replacing(copy) as partial:
                        partial.write_bytes(ray.get(self.content[0]))
        return copy


@dataclass(frozen=True)
class Work:
    """What all workers of a batch are to know."""

    job: Job
    request: EngineRequest
    device: str
    name: str
    """Of the weights."""
    weights: Sent
    clip: Sent | None
    folder: str
    """The present folder, from which relative paths count."""
    version: str


class Started(NamedTuple):
    """A worker has built its network."""

    warnings: tuple[str, ...]


class RayWorker:
    """Builds the network once, and does the videos that it is given. Errors come back as what they are, not raised.

    It is told its work each time: a worker that Ray has started in place of a lost one knows nothing.
    """

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._progress: Progress | None = None
        self._stopped = False

    def start(self, work: Work) -> Started | UserError:
        """Build the network."""
        try:
            return Started(self._built(work).warnings)
        except UserError as error:
            return error

    def run(self, work: Work, item: Item) -> Outcome | Cut | PutOff | Spent | UserError | None:
        """Do a video; None if the worker was told to stop."""
        self._progress = None
        try:
            return done(work.job, item, self._built(work), self._tell)
        except Busy:
            return PutOff()
        except UserError as error:  # of a network that a worker in place of a lost one cannot build
            return error
        except Interrupted:
            return None

    @ray.method(concurrency_group=WATCH)
    def progress(self) -> Progress | None:
        """How far the present video is."""
        return self._progress

    @ray.method(concurrency_group=WATCH)
    def stop(self) -> None:
        """End the present video at its next frame, and tidy up."""
        self._stopped = True

    def _tell(self, progress: Progress) -> None:
        self._progress = progress
        if self._stopped:
            raise Interrupted

    def _built(self, work: Work) -> Engine:
        if self._engine is None:
            self._engine = self._build(work)
        return self._engine

    def _build(self, work: Work) -> Engine:
        if work.version != __version__:
            raise DeviceError(
                f"{socket.gethostname()} has resurgsam2 {__version__}, and the batch is of {work.version}",
                "install the same on all machines",
            )
        try:
            os.chdir(work.folder)
        except OSError as error:
            raise DeviceError(
                f"{socket.gethostname()} has no folder {work.folder}",
                "the folders of a batch must be there on all machines, under the same paths",
            ) from error
        prepare_environment()
        clip = None if work.clip is None else work.clip.placed()
        request = replace(work.request, found=(work.name, work.weights.placed(), clip))
        return request.build(work.device)
