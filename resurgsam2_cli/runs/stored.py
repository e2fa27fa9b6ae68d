"""Runs behind a URL: found by listing and by their records, and uploaded as a whole, the record last."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from resurgsam2_cli.files.urls import file_system, reading_from, writing_to
from resurgsam2_cli.runs.record import DRAFT, HISTORY, MARKS, RECORD
from resurgsam2_cli.runs.sums import OWN_NAMES, own_names

_TOGETHER = 500
"""Files that are handed to the file system at once, which may send them side by side."""


class RunStore:
    """The runs in one folder behind a URL. Raises a :class:`~resurgsam2_cli.errors.UserError`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._system, self._path = file_system(self.url)

    def mirror(self, name: str, folder: Path) -> None:
        """Make the folders of the runs ``name``, ``name-2`` and so on, as far as a decision about them needs it.

        They get their records, what people said of them, and an empty file in place of each thing that no run made.
        """
        with reading_from(self.url):
            self._system.invalidate_cache()
            for found in self._names(self._path):
                if re.fullmatch(rf"{re.escape(name)}(-\d+)?", found, re.IGNORECASE) and not (folder / found).exists():
                    self._mirror(f"{self._path}/{found}", folder / found)

    def _mirror(self, path: str, run: Path) -> None:
        there = self._names(path)
        if RECORD not in there:
            return
        run.mkdir(parents=True)
        for file in {RECORD, MARKS, DRAFT} & set(there):
            self._system.get_file(f"{path}/{file}", str(run / file))
        for other in set(there) - own_names(run):
            (run / other).touch()

    def _names(self, path: str) -> list[str]:
        """What a folder holds."""
        if not self._system.isdir(path):
            return []
        return [x.rstrip("/").rpartition("/")[2] for x in self._system.ls(path, detail=False)]

    def is_less(self, run: str, name: str, least: Any) -> bool:
        """Whether a file of a run is gone or empty, or a folder in it has fewer entries."""
        path = f"{self._path}/{run}/{name}"
        with reading_from(self.url):
            if self._system.isdir(path):
                return isinstance(least, int) and len(self._system.ls(path, detail=False)) < least
            return not self._system.isfile(path) or not self._system.info(path)["size"]

    def upload(self, folder: Path) -> str:
        """Put a run in the place of what is there under its name; returns its URL."""
        url, path = f"{self.url}/{folder.name}", f"{self._path}/{folder.name}"
        files = sorted(x.relative_to(folder).as_posix() for x in folder.rglob("*") if x.is_file())
        with writing_to(url):
            self._system.invalidate_cache()
            record = f"{path}/{RECORD}"
            if self._system.isfile(record):  # from here on it is not complete
                self._system.rm_file(record)
            before = {x[len(path) + 1 :] for x in self._system.find(path)} if self._system.isdir(path) else set()
            others = [x for x in files if x != RECORD]
            for first in range(0, len(others), _TOGETHER):
                few = others[first : first + _TOGETHER]
                self._system.put([str(folder / x) for x in few], [f"{path}/{x}" for x in few])
            for old in sorted(before - set(files)):  # of the run before; what people put there stays
                if old.partition("/")[0] in OWN_NAMES and (
                    old.endswith(".png") or "/" not in old or old.startswith(f"{HISTORY}/")
                ):
                    self._system.rm_file(f"{path}/{old}")
            if RECORD in files:
                self._system.put_file(str(folder / RECORD), record)
            self._system.invalidate_cache()
        return url

    def drop(self, name: str) -> None:
        """Take away a run that was kept unfinished, if there is one."""
        path = f"{self._path}/{name}"
        with writing_to(f"{self.url}/{name}"):
            if self._system.isdir(path):
                self._system.rm(path, recursive=True)
