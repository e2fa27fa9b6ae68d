"""Where an export goes: complete under its final name, or not there; and never in place of anything but an export."""

from __future__ import annotations

import json
import mmap
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from resurgsam2_cli.errors import OutputError, UsageError
from resurgsam2_cli.exports.base import MADE_BY
from resurgsam2_cli.exports.runs import EXPORT_RECORD, Run
from resurgsam2_cli.run_folder import UNFINISHED, lock, writing

_ELSEWHERE = "choose another path with -o"


class Target:
    """A folder, or a file where ``suffix`` is that of the path, filled in a folder beside until it is complete.

    Raises :class:`OutputError` where something is there already that may not be replaced.
    """

    def __init__(self, path: Path, suffix: str, *, overwrite: bool) -> None:
        self.path = Path(os.path.realpath(path))
        self.is_file = bool(suffix) and self.path.suffix.lower() == suffix
        self.partial = self.path.with_name(self.path.name + ".partial")
        self._replaced = self.path.with_name(self.path.name + ".replaced")
        self._lock: IO[str] | None = None
        with writing(path):
            if not self.path.exists() and _is_export_folder(self._replaced):
                self._replaced.rename(self.path)  # a replacement was interrupted between its two renames
            if self.partial.exists() and not (self.partial / UNFINISHED).exists():
                raise OutputError(f"{self.partial}: is in the way", f"rename it, or {_ELSEWHERE}")
            if self._replaced.exists() and not _is_export_folder(self._replaced):
                raise OutputError(f"{self._replaced}: is in the way", f"rename it, or {_ELSEWHERE}")
            if self.path.is_dir() and not any(self.path.iterdir()) and not self.is_file:
                return
            if self.path.exists():
                if not overwrite:
                    raise OutputError(f"{path}: is already there", f"add --overwrite to replace it, or {_ELSEWHERE}")
                self._check_replaceable(path)

    def _check_replaceable(self, path: Path) -> None:
        if self.path.is_dir() == self.is_file:
            kind = "folder" if self.path.is_dir() else "file"
            raise OutputError(f"{path}: is a {kind}, and would become something else", _ELSEWHERE)
        if not (_is_export_file(self.path) if self.is_file else _is_export_folder(self.path)):
            raise OutputError(f"{path}: is not an export of this program, so it is not replaced", _ELSEWHERE)
        if not self.is_file:
            ours = {*_contents(self.path), EXPORT_RECORD}
            foreign = sorted(x.name for x in self.path.iterdir() if x.name not in ours)
            if foreign:
                raise OutputError(
                    f"{path}: has something that the export did not make ({foreign[0]}), so it is not replaced",
                    f"move that away, or {_ELSEWHERE}",
                )

    def keep_out_of(self, runs: list[Run]) -> None:
        """Raises :class:`UsageError` where the export would lie inside a run, or over one."""
        for run in runs:
            if run.folder in (self.path, *self.path.parents):
                raise UsageError(f"{self.path}: lies inside the run {run.folder}", _ELSEWHERE)

    def __enter__(self) -> Target:
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.partial.mkdir(exist_ok=True)
            self._lock = lock(self.partial, self.path)
            for old in self.partial.iterdir():
                if old.name != UNFINISHED:
                    shutil.rmtree(old) if old.is_dir() else old.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            shutil.rmtree(self.partial, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    def complete(self, single_file: str, record: dict[str, Any]) -> None:
        """Give the export its final name. ``single_file`` is its only one, where the path is a file's."""
        if self.is_file:
            (self.partial / single_file).replace(self.path)
            shutil.rmtree(self.partial)
            return
        contents = sorted(x.name for x in self.partial.iterdir() if x.name != UNFINISHED)
        text = json.dumps({"made_by": MADE_BY, "contents": contents, **record}, indent=1, ensure_ascii=False)
        (self.partial / EXPORT_RECORD).write_text(text + "\n", encoding="utf-8")
        if self._replaced.exists():
            shutil.rmtree(self._replaced)
        if self.path.exists():
            self.path.rename(self._replaced)
        (self.partial / UNFINISHED).unlink()
        self.partial.rename(self.path)
        shutil.rmtree(self._replaced, ignore_errors=True)


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / EXPORT_RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and record.get("made_by") == MADE_BY else {}


def _is_export_folder(folder: Path) -> bool:
    return bool(_record(folder))


def _contents(folder: Path) -> list[str]:
    contents = _record(folder).get("contents", [])
    return contents if isinstance(contents, list) else []


def _is_export_file(path: Path) -> bool:
    """Whether a file says that it is ours; a video does so behind its index, which may be long."""
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(MADE_BY.encode()) >= 0
