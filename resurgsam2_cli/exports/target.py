"""Where an export goes: complete under its final name, or not there. It never replaces anything but an export."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.files.atomic import write_json, writing
from resurgsam2_cli.files.filling import Filling, fill
from resurgsam2_cli.files.kinds import (
    OF_SYSTEMS,
    UNFINISHED,
    Kind,
    changed_files,
    check_folder,
    check_free,
    file_that_holds,
    is_partial_name,
    never,
    tree_state,
)
from resurgsam2_cli.runs.find import EXPORT_RECORD, MADE_BY, UNFINISHED_EXPORT, raw_export_record, read_export_record
from resurgsam2_cli.runs.folder import ensure_outside_runs
from resurgsam2_cli.video.image_folder import IMAGE_SUFFIXES
from resurgsam2_cli.video.source import VIDEO_SUFFIXES

_ELSEWHERE = "choose another path with -o"


def _is_export(folder: Path) -> bool:
    return folder.is_dir() and bool(read_export_record(folder))


def _foreign(folder: Path) -> list[str]:
    """What was added, changed or removed in the folder of an export since it was written, or its process was killed."""
    if not folder.is_dir():
        return []
    record = read_export_record(folder)
    if not record and (folder / UNFINISHED).exists():
        return _foreign_in_unfinished(folder)
    contents = record.get("contents", [])
    ours = {EXPORT_RECORD, UNFINISHED, *(x for x in contents if isinstance(x, str))} | OF_SYSTEMS
    added = sorted({x.name for x in folder.iterdir()} - ours) if record else []
    if added or not isinstance(state := record.get("state"), str):
        return added
    return changed_files(folder, EXPORT_RECORD, state)


def _foreign_in_unfinished(folder: Path) -> list[str]:
    """Files that an export which was not finished did not write, as far as their names tell."""
    record = raw_export_record(folder)
    names, suffixes = (
        {x for x in record.get(key, ()) if isinstance(x, str)} for key in ("contents", UNFINISHED_EXPORT)
    )
    found = []
    for path in folder.rglob("*"):
        below = path.relative_to(folder)
        if (path.is_dir() and not path.is_symlink()) or path.name in OF_SYSTEMS or is_partial_name(path.name):
            continue
        if len(below.parts) == 1:
            ours = path.name in {EXPORT_RECORD, UNFINISHED, *names}
        else:
            ours = below.parts[0] in names and path.suffix.lower() in IMAGE_SUFFIXES | suffixes
        if not ours:
            found.append(below.as_posix())
    return sorted(found)


_FOLDER = Kind("an export", _is_export, _is_export, _ELSEWHERE, _foreign)
_FILE = Kind("an export", file_that_holds(MADE_BY), never, _ELSEWHERE, _foreign)


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

    def begin(self, filling: Filling, contents: Iterable[str], suffixes: Iterable[str]) -> None:
        """Record what will be written at the top, and with which suffixes below it: it is known again after a kill."""
        record = {"made_by": MADE_BY, UNFINISHED_EXPORT: sorted(suffixes), "contents": sorted(contents)}
        write_json(filling.partial / EXPORT_RECORD, record)

    def complete(self, filling: Filling, single_file: str, record: dict[str, Any]) -> None:
        """Give the export its final name. ``single_file`` is its only file, if the path is that of a file."""
        if self.is_file:
            filling.complete(single_file)
            return
        contents = sorted(x.name for x in filling.partial.iterdir() if x.name not in (UNFINISHED, EXPORT_RECORD))
        state = tree_state(filling.partial, UNFINISHED, EXPORT_RECORD)
        record = {"made_by": MADE_BY, "contents": contents, "state": state, **record}
        write_json(filling.partial / EXPORT_RECORD, record)
        filling.complete()
