"""Runs behind a URL: found by listing and by their records, and uploaded as a whole, the record last."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resurgsam2_cli.files.urls import file_system, reading_from, writing_to
from resurgsam2_cli.runs.record import MARKS, RECORD

_TOGETHER = 500
"""Files that are handed to the file system at once, which may send them side by side."""


class RunStore:
    """The runs in one folder behind a URL. Raises a :class:`~resurgsam2_cli.errors.UserError`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._system, self._path = file_system(self.url)

    def mirror(self, name: str, folder: Path) -> None:
        """Fetch the records of the runs ``name``, ``name-2`` and so on, and what people said of them, into a folder."""
        with reading_from(self.url):
            for found in self._folders():
                if re.fullmatch(rf"{re.escape(name)}(-\d+)?", found, re.IGNORECASE) and not (folder / found).exists():
                    for file in (MARKS, RECORD):
                        if self._system.isfile(f"{self._path}/{found}/{file}"):
                            (folder / found).mkdir(parents=True, exist_ok=True)
                            self._system.get_file(f"{self._path}/{found}/{file}", str(folder / found / file))

    def _folders(self) -> Iterator[str]:
        self._system.invalidate_cache()
        if self._system.isdir(self._path):
            for x in self._system.ls(self._path, detail=True):
                if x["type"] == "directory":
                    yield x["name"].rstrip("/").rpartition("/")[2]

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
            for old in sorted(before - set(files)):
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
