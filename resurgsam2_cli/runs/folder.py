"""Finds the output folder of one video, and fills it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from resurgsam2_cli.errors import OutputError, UsageError
from resurgsam2_cli.files.atomic import write_json, writing
from resurgsam2_cli.files.filling import Busy, Filling, discard_leftovers, empty_trash, fill, naming, partial_of, settle
from resurgsam2_cli.files.kinds import PARTIAL, SUCCEEDS, Kind
from resurgsam2_cli.files.urls import is_url
from resurgsam2_cli.runs.record import DRAFT, FORMAT, MARKS, RECORD, is_record, is_run, raw_record
from resurgsam2_cli.runs.sums import corrections, file_sum, foreign


def _is_next(folder: Path) -> bool:
    """Whether a folder is to be the next version of the run beside it: all that it holds is there, too."""
    return (folder / SUCCEEDS).exists()


def _foreign(folder: Path) -> list[str]:
    return [] if _is_next(folder) else foreign(folder)


def _touched(folder: Path) -> bool:
    return not _is_next(folder) and bool(corrections(folder))


def _succeeds(partial: Path, path: Path) -> bool:
    """Whether a complete folder was made from the run in its place, and nobody has changed that since."""
    try:
        follows = (partial / SUCCEEDS).read_text(encoding="utf-8") == file_sum(path / RECORD)
    except (OSError, ValueError):
        return False
    if not follows or not set(corrections(path)) <= {MARKS, DRAFT} or not set(foreign(path)) <= set(foreign(partial)):
        return False
    draft = path / DRAFT
    return not draft.exists() or ((partial / DRAFT).exists() and file_sum(draft) == file_sum(partial / DRAFT))


RUN = Kind("a run", is_run, is_run, foreign=_foreign, touched=_touched, succeeds=_succeeds)
NEXT_ELSEWHERE = "correct a copy of the run"
"""What else can be done if a next version cannot be written."""

_NEXT = replace(
    RUN,
    elsewhere=NEXT_ELSEWHERE,
    foreign=lambda folder: _foreign(folder) if folder.name.endswith(PARTIAL) else [],
)
"""What a run holds that is not its own goes along with it."""


@dataclass(frozen=True)
class Wanted:
    """The run that someone wants: where, under which name, and of which source."""

    out: Path
    name: str
    """The folder's name, unless another source has it: then ``<name>-2``, and so on."""
    source: str
    """The source's path as ``run.json`` has it."""
    identity: dict[str, Any]
    """``size``, ``sum`` and, for a folder, ``files`` of the source."""
    others: frozenset[str] = frozenset()
    """Names, in lower case, that folders of other videos will have in ``out``."""

    def __post_init__(self) -> None:
        """Raise :class:`UsageError` for a place inside a run, which would then hold what is not its own."""
        ensure_outside_runs(self.out)

    def find(self) -> tuple[Path, dict[str, Any] | None]:
        """The folder, and the record of the finished run in it, if there is one; changes nothing.

        It is the folder of the same source path, else that of a source with the same content which was moved: its path
        is gone.
        """
        moved: Path | None = None
        for number in count(1):
            path = self.out / (self.name if number == 1 else f"{self.name}-{number}")
            if path.name.lower() in self.others:
                continue
            sources = [raw_record(x).get("source") for x in (path, partial_of(path))]
            known = [x for x in sources if isinstance(x, dict) and isinstance(x.get("path"), str)]
            if not known or any(self._is_same_file(x) for x in known):
                return self._with_record(path if known or moved is None else moved)
            if moved is None and all(self._was_moved(x) for x in known):
                moved = path
        raise AssertionError("unreachable")

    def _with_record(self, path: Path) -> tuple[Path, dict[str, Any] | None]:
        records = (raw_record(x) for x in (path, partial_of(path)))
        return path, next((x for x in records if is_record(x)), None)

    def _is_same_file(self, source: dict[str, Any]) -> bool:
        recorded = source["path"]
        if recorded == self.source or "-" in (recorded, self.source):
            # Of names with bytes that are not text, several are recorded as one.
            return recorded == self.source and ("\ufffd" not in recorded or same_content(source, self.identity))
        try:
            return os.path.samefile(recorded, self.source)
        except (OSError, ValueError):
            return False

    def _was_moved(self, recorded: dict[str, Any]) -> bool:
        gone = recorded["path"] != "-" and not is_url(recorded["path"]) and not os.path.exists(recorded["path"])
        return gone and same_content(recorded, self.identity)

    def settle(self) -> tuple[Path, dict[str, Any] | None]:
        """Finish what a killed process left, then do as :meth:`find`; call it under ``naming(out)``."""
        while True:
            path, record = self.find()
            with writing(path):
                settle(path, RUN)
                if record is not None and "objects" not in raw_record(partial_of(path)):  # nothing was kept of it
                    discard_leftovers(path, RUN)
            again = self.find()
            if again[0] == path:
                return again

    def claim(self, *, overwrite: bool) -> RunFolder:
        """Take the folder for filling. Raises :class:`OutputError`, :class:`Busy` while another program fills it."""
        try:
            with naming(self.out) as made, writing(self.out):
                return self._claim(self.settle()[0], made, overwrite=overwrite)
        finally:
            empty_trash(self.out)

    def claim_instead_of(self, seen: dict[str, Any] | None) -> RunFolder:
        """Take the folder for a run that replaces the finished one with the record ``seen``, or none.

        If another run has taken its place, raise :class:`Busy`, too, as if its writer were still at work.
        """
        try:
            with naming(self.out) as made, writing(self.out):
                path, record = self.settle()
                if record != seen:
                    raise Busy(f"{path}: another program has just written it", "run the same command again")
                return self._claim(path, made, overwrite=seen is not None)
        finally:
            empty_trash(self.out)

    def _claim(self, path: Path, made: Sequence[Path], *, overwrite: bool) -> RunFolder:
        path = Path(os.path.abspath(path))
        if path in (here := Path.cwd(), *here.parents):
            raise OutputError(f"{path}: is the present folder, or one around it", "go elsewhere first")
        filling = Filling(path, RUN, overwrite=overwrite, made=made)
        filling.begin()
        folder = RunFolder(filling)
        try:
            folder.write_record({"format": FORMAT, "complete": False, "source": {"path": self.source, **self.identity}})
        except BaseException:
            filling.abandon_now()
            raise
        return folder


def next_version(folder: Path) -> Filling:
    """Take the folder of a finished run, to fill in the folder beside it what takes its place as a whole.

    A link leads to the run that is corrected, and stays a link. Raises :class:`OutputError`, and :class:`Busy` while
    another program does so.
    """
    folder = Path(os.path.realpath(folder))
    filling = fill(folder, _NEXT, overwrite=True)
    try:
        with writing(filling.partial, NEXT_ELSEWHERE):
            (filling.partial / SUCCEEDS).write_text(file_sum(folder / RECORD), encoding="utf-8")
    except BaseException:
        filling.abandon()
        raise
    return filling


def same_content(recorded: dict[str, Any], identity: dict[str, Any]) -> bool:
    """Whether a recorded source has the content that a source has now.

    Runs of older versions have no sum; their size must do.
    """
    keys = [key for key in identity if key in recorded]
    return "size" in keys and all(recorded[key] == identity[key] for key in keys)


class RunFolder:
    """A run that is being written. Its folder gets the final name when it is complete, or never."""

    def __init__(self, filling: Filling) -> None:
        self._filling = filling

    @property
    def path(self) -> Path:
        """The final name."""
        return self._filling.path

    @property
    def partial(self) -> Path:
        """Where files are written."""
        return self._filling.partial

    @property
    def lock_file(self) -> int | None:
        """What a process that writes here must have open, so that nobody takes the folder anew before it has ended."""
        return self._filling.lock.file

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._filling.__exit__(kind, error, trace)

    def write_record(self, record: dict[str, Any]) -> None:
        """Write ``run.json`` into the partial folder."""
        write_json(self.partial / RECORD, record)

    def keep(self, record: dict[str, Any]) -> None:
        """Leave the partial folder in place with a record of what it holds, which is useful though not complete."""
        self.write_record(record)
        self._filling.keep()

    def complete(self, record: dict[str, Any]) -> None:
        """Write the record and give the folder its final name. Raises :class:`OutputError`."""
        self.write_record(record)
        self._filling.complete()


def ensure_outside_runs(folder: Path) -> None:
    """Raise :class:`UsageError` if ``folder`` is a finished run, or lies inside one."""
    absolute = Path(os.path.realpath(folder))
    for path in (absolute, *absolute.parents):
        if is_run(path):
            raise UsageError(f"{folder}: lies inside the run {path}", "choose another folder with -o")
