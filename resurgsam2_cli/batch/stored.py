"""A batch into a folder behind a URL: each run is made on this machine's own disk, and uploaded when it is complete.

What was complete is found again by listing and by the records, without fetching masks. There are no locks behind a URL:
two batches at once may both do a video, and the last one counts.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from resurgsam2_cli.batch.items import Item, Outcome, Progress
from resurgsam2_cli.batch.job import Job, Plan
from resurgsam2_cli.batch.record import BATCH, Record
from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.filling import partial_of
from resurgsam2_cli.files.kinds import PARTIAL
from resurgsam2_cli.files.urls import file_system, reading_from, writing_to
from resurgsam2_cli.runs.folder import Wanted
from resurgsam2_cli.runs.record import RECORD
from resurgsam2_cli.runs.stored import RunStore
from resurgsam2_cli.runs.sums import missing
from resurgsam2_cli.video.remote import RemoteSource
from resurgsam2_cli.video.source import Source

if TYPE_CHECKING:
    from resurgsam2_cli.segmenting.engine import Engine

_UPLOAD_EVERY = 30.0  # seconds, for the record of the batch


@dataclass(frozen=True)
class StoredJob(Job):
    """The work of a batch whose runs go behind ``url``; ``out`` is not used."""

    url: str = ""

    def plan(self, item: Item) -> Plan:
        """What :meth:`run` would do; changes nothing. Raises a :class:`~resurgsam2_cli.errors.UserError`."""
        with tempfile.TemporaryDirectory(prefix="resurgsam2-") as place:
            return self._here(Path(place), item).plan(item)

    def _run(self, item: Item, engine: Engine, tell: Callable[[Progress], None]) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="resurgsam2-") as place:
            here = self._here(Path(place), item)
            try:
                outcome = here._run(item, engine, tell)
            except InputError as error:
                raise _kept(error, here) from error
            assert isinstance(outcome, Outcome)
            assert outcome.folder is not None
            folder = Path(outcome.folder)
            url = f"{here.store.url}/{folder.name}"
            if outcome.state == "done":
                here.store.upload(folder)
                here.store.drop(partial_of(folder).name)
            note = outcome.note and outcome.note.replace(str(folder), url)
            return replace(outcome, folder=url, note=note)

    def _here(self, place: Path, item: Item) -> _HereJob:
        """The same work in a folder of this machine."""
        given = {x.name: getattr(self, x.name) for x in fields(Job)}
        parent = "" if item.parent == Path() else f"/{item.parent.as_posix()}"
        return _HereJob(**{**given, "out": place}, store=RunStore(f"{self.url}{parent}"))


def _kept(error: InputError, here: _HereJob) -> InputError:
    """Upload what was kept of a video that broke off; the error that says where."""
    hint = error.hint
    for record in here.out.rglob(RECORD):
        partial = record.parent
        if partial.name.endswith(PARTIAL) and str(partial) in hint:
            hint = hint.replace(str(partial), here.store.upload(partial))
    return InputError(error.message, hint)


@dataclass(frozen=True, kw_only=True)
class _HereJob(Job):
    """Work in a folder that knows the records of the runs in a store."""

    store: RunStore

    def _wanted(self, item: Item, source: Source | RemoteSource) -> Wanted:
        self.store.mirror(source.name, self.out / item.parent)
        return super()._wanted(item, source)

    def _missing(self, path: Path) -> list[str]:
        return missing(path, lambda name, least: self.store.is_less(path.name, name, least))


class StoredRecord(Record):
    """The record of a batch behind a URL, which is written here, and uploaded from time to time."""

    def __init__(self, url: str, place: Path) -> None:
        """``place`` is a folder of this machine, for as long as the batch lasts."""
        self._system, path = file_system(url)
        self._url, self._remote, self._here = url, f"{path}/{BATCH}", place / BATCH
        self._uploaded = time.monotonic()
        with reading_from(url):
            if self._system.isfile(self._remote):
                self._system.get_file(self._remote, str(self._here))
        super().__init__(place)

    def add(self, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
        """Pass outcomes on, each once it is written here."""
        for outcome in super().add(outcomes):
            if time.monotonic() - self._uploaded > _UPLOAD_EVERY:
                self._upload()
            yield outcome

    def tidy(self) -> None:
        """Leave one entry per video, and upload the record."""
        super().tidy()
        self._upload()

    def _upload(self) -> None:
        self._uploaded = time.monotonic()
        if self._here.exists():
            with writing_to(self._url):
                self._system.put_file(str(self._here), self._remote)
