"""The output folder of one video: complete under its final name, or not there."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from resurgsam2_cli.errors import OutputError

RECORD = "run.json"
"""Its presence means complete."""

UNFINISHED = ".unfinished"
"""Marks a partial folder as ours; locked while a run is writing."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the file system into :class:`OutputError`."""
    try:
        yield
    except OSError as error:
        hints = {
            errno.ENOSPC: "make room, or write elsewhere with -o",
            errno.EACCES: "write elsewhere with -o, or get the right to write there",
            errno.ENAMETOOLONG: "rename the video, or write elsewhere with -o",
        }
        raise OutputError(
            f"{error.filename or path}: cannot be written ({error.strerror or error})",
            hints.get(error.errno or 0, "write elsewhere with -o"),
        ) from error


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a finished run; None where ``folder`` is no such thing."""
    record = _record(folder)
    return record if record.get("complete") is True else None


def lock(partial: Path, final: Path) -> IO[str]:
    """Mark a partial folder as ours and lock it; the system gives the lock back however the program ends.

    Raises :class:`OutputError` where another process is writing it.
    """
    file = (partial / UNFINISHED).open("w")
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise OutputError(
                f"{final}: another run is writing it", "wait for it, or choose another folder with -o"
            ) from error
    return file


class RunFolder:
    """Chooses the folder for a source, and fills it beside its final name until it is complete.

    ``source`` is the source's path as it is recorded. Another source of the same stem gets ``<stem>-2`` and so on.
    Raises :class:`OutputError` where the folder is taken and may not be overwritten, or another run is filling it.
    """

    def __init__(self, out: Path, stem: str, source: str, *, overwrite: bool) -> None:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            self.path = self._choose(out, stem, source)
            self.partial = _partial(self.path)
            self._replaced = self.path.with_name(self.path.name + ".replaced")
            self._keep = False
            self._lock: IO[str] | None = None
            if self._replaced.exists() and not self.path.exists() and read_record(self._replaced) is not None:
                self._replaced.rename(self.path)  # a replacement was interrupted between its two renames
            for mine in (self.partial, self._replaced):
                if mine.exists() and not (mine / UNFINISHED).exists() and read_record(mine) is None:
                    raise OutputError(f"{mine}: is in the way", "rename it, or choose another folder with -o")
            if (self.partial / RECORD).exists() and not (self.partial / UNFINISHED).exists():
                raise OutputError(f"{self.partial}: is a finished run and in the way", "choose another folder with -o")
            if self.path.exists():
                if not overwrite:
                    raise OutputError(
                        f"{self.path}: is already there",
                        "add --overwrite to replace it, or choose another folder with -o",
                    )
                if read_record(self.path) is None and any(self.path.iterdir()):
                    raise OutputError(
                        f"{self.path}: is not a run of this program, so it is not replaced",
                        "choose another folder with -o",
                    )

    @staticmethod
    def _choose(out: Path, stem: str, source: str) -> Path:
        number = 1
        while True:
            path = out / (stem if number == 1 else f"{stem}-{number}")
            if path.exists() and not path.is_dir():
                raise OutputError(f"{path}: is a file where a folder is to be", "choose another folder with -o")
            kept = (_record(folder) for folder in (path, _partial(path)))
            if all(x.get("source", {}).get("path", source) == source for x in kept):
                return path
            number += 1

    def keep(self) -> None:
        """Leave the partial folder in place: what it has is of use, though not complete."""
        self._keep = True

    def __enter__(self) -> RunFolder:
        self.partial.mkdir(exist_ok=True)
        self._lock = lock(self.partial, self.path)
        for old in self.partial.iterdir():
            if old.name != UNFINISHED:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not self._keep:
            shutil.rmtree(self.partial, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    def write_record(self, record: dict[str, Any]) -> None:
        """Write run.json into the partial folder."""
        text = json.dumps(record, indent=1, ensure_ascii=False)
        (self.partial / RECORD).write_text(text + "\n", encoding="utf-8")

    def complete(self, record: dict[str, Any]) -> None:
        """Write the record and give the folder its final name."""
        self.write_record(record)
        if self.path.exists():
            if self._replaced.exists():
                shutil.rmtree(self._replaced)
            self.path.rename(self._replaced)
        (self.partial / UNFINISHED).unlink()
        self.partial.rename(self.path)
        shutil.rmtree(self._replaced, ignore_errors=True)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")
