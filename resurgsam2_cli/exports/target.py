"""Where an export goes: complete under its final name, or not there. It never replaces anything but an export."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.files.atomic import UNFINISHED, Filling, fill, write_json, writing
from resurgsam2_cli.files.kinds import Kind, check_free, file_that_holds, never
from resurgsam2_cli.runs.find import EXPORT_RECORD, MADE_BY, read_export_record
from resurgsam2_cli.runs.record import Run

_ELSEWHERE = "choose another path with -o"


def _is_export(folder: Path) -> bool:
    return folder.is_dir() and bool(read_export_record(folder))


def _contents(folder: Path) -> set[str]:
    """The names that an export gave in its folder."""
    contents = read_export_record(folder).get("contents", [])
    return {EXPORT_RECORD, *(x for x in contents if isinstance(x, str))} if isinstance(contents, list) else set()


_FOLDER = Kind("an export", _is_export, _is_export, _ELSEWHERE, _contents)
_FILE = Kind("an export", file_that_holds(MADE_BY), never, _ELSEWHERE)


class Target:
    """A folder, or a file if ``suffix`` is that of the path.

    Raises :class:`~resurgsam2_cli.errors.OutputError` if something is there already that may not be replaced.
    """

    def __init__(self, path: Path, suffix: str, *, overwrite: bool) -> None:
        self.path = Path(os.path.realpath(path))
        self.is_file = bool(suffix) and self.path.suffix.lower() == suffix
        self._overwrite = overwrite
        self._kind = _FILE if self.is_file else _FOLDER
        with writing(path):
            check_free(self.path, self._kind, overwrite=overwrite)

    def keep_out_of(self, runs: list[Run]) -> None:
        """Raise :class:`UsageError` if the export would lie inside a run, or over one."""
        for run in runs:
            if run.folder in (self.path, *self.path.parents):
                raise UsageError(f"{self.path}: lies inside the run {run.folder}", _ELSEWHERE)

    def filling(self) -> Filling:
        """Claim the path. Raises :class:`~resurgsam2_cli.errors.OutputError`."""
        return fill(self.path, self._kind, overwrite=self._overwrite)

    def complete(self, filling: Filling, single_file: str, record: dict[str, Any]) -> None:
        """Give the export its final name. ``single_file`` is its only file, if the path is that of a file."""
        if self.is_file:
            filling.complete(single_file)
            return
        contents = sorted(x.name for x in filling.partial.iterdir() if x.name != UNFINISHED)
        write_json(filling.partial / EXPORT_RECORD, {"made_by": MADE_BY, "contents": contents, **record})
        filling.complete()
