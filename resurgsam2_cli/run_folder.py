"""The output folder of one video: complete under its final name, or not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

from resurgsam2_cli.errors import OutputError

RECORD = "run.json"
"""Its presence means complete."""


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a finished run; None where ``folder`` is no such thing."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("complete") is True else None


class RunFolder:
    """Chooses the folder for a source, and fills it beside its final name until it is complete.

    ``source`` is the source's path as it is recorded. Another source of the same stem gets ``<stem>-2`` and so on.
    Raises :class:`OutputError` where the folder is taken and may not be overwritten.
    """

    def __init__(self, out: Path, stem: str, source: str, *, overwrite: bool) -> None:
        self.path = self._choose(out, stem, source)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self._replaced = self.path.with_name(self.path.name + ".replaced")
        self._keep = False
        if self._replaced.exists() and not self.path.exists():
            self._replaced.rename(self.path)  # a replacement was interrupted between its two renames
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
            record = read_record(path)
            if record is None or record.get("source", {}).get("path") == source:
                return path
            number += 1

    def keep(self) -> None:
        """Leave the partial folder in place: what it has is of use, though not complete."""
        self._keep = True

    def __enter__(self) -> RunFolder:
        if self.partial.exists():
            shutil.rmtree(self.partial)
        self.partial.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not self._keep:
            shutil.rmtree(self.partial, ignore_errors=True)

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
        self.partial.rename(self.path)
        shutil.rmtree(self._replaced, ignore_errors=True)
