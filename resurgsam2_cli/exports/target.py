"""Where an export goes: complete under its final name, or not there. It never replaces anything but an export."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.files.atomic import UNFINISHED, Filling, fill, write_json, writing
from resurgsam2_cli.files.kinds import (
    OF_SYSTEMS,
    Kind,
    changed_files,
    check_folder,
    check_free,
    file_that_holds,
    never,
    tree_state,
)
from resurgsam2_cli.runs.find import EXPORT_RECORD, MADE_BY, read_export_record
from resurgsam2_cli.runs.folder import ensure_outside_runs
from resurgsam2_cli.video.image_folder import IMAGE_SUFFIXES
from resurgsam2_cli.video.source import VIDEO_SUFFIXES

_ELSEWHERE = "choose another path with -o"


def _is_export(folder: Path) -> bool:
    return folder.is_dir() and bool(read_export_record(folder))


def _foreign(folder: Path) -> list[str]:
    """What was added, changed or removed in the folder of an export since it was written."""
    record = read_export_record(folder)
    contents = record.get("contents", [])
    ours = {EXPORT_RECORD, UNFINISHED, *(x for x in contents if isinstance(x, str))} | OF_SYSTEMS
    added = sorted({x.name for x in folder.iterdir()} - ours) if record else []
    if added or not isinstance(state := record.get("state"), str):
        return added
    return changed_files(folder, EXPORT_RECORD, state)


_FOLDER = Kind("an export", _is_export, _is_export, _ELSEWHERE, _foreign)
_FILE = Kind("an export", file_that_holds(MADE_BY), never, _ELSEWHERE)


_DATA = (
    "7z bz2 csv gz h5 hdf5 htm html json jsonl md mat npy npz parquet pdf pickle pkl pt pth rar safetensors tar tgz"
    " toml tsv txt xls xlsx xml xz yaml yml zip zst"
)
_KNOWN = frozenset(map(".{}".format, _DATA.split())) | IMAGE_SUFFIXES | VIDEO_SUFFIXES


def check_suffix(path: Path, format_name: str, suffix: str) -> None:
    """Raise :class:`UsageError` for a path that asks for a file which the format does not have.

    ``suffix`` is that of the format's single file; empty if it has none. The suffixes of videos, images and common
    files of data ask for a file. Anything else behind a dot belongs to the name of a folder, as in ``day.1``, and so
    does everything in the name of a folder that is there already.
    """
    given = path.suffix.lower()
    if given in _KNOWN and given != suffix and not path.is_dir():
        takes = f"a file that ends in {suffix}, or a folder" if suffix else "a folder: it has many files"
        raise UsageError(f"{path}: {format_name} is not written as {given}", f"name {takes}")


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
            ensure_outside_runs(self.path.parent)
            if not self.is_file:
                check_folder(path)
            check_free(self.path, self._kind, overwrite=overwrite)

    def filling(self) -> Filling:
        """Claim the path. Raises :class:`~resurgsam2_cli.errors.OutputError`."""
        return fill(self.path, self._kind, overwrite=self._overwrite)

    def complete(self, filling: Filling, single_file: str, record: dict[str, Any]) -> None:
        """Give the export its final name. ``single_file`` is its only file, if the path is that of a file."""
        if self.is_file:
            filling.complete(single_file)
            return
        contents = sorted(x.name for x in filling.partial.iterdir() if x.name != UNFINISHED)
        state = tree_state(filling.partial, UNFINISHED)
        record = {"made_by": MADE_BY, "contents": contents, "state": state, **record}
        write_json(filling.partial / EXPORT_RECORD, record)
        filling.complete()
