"""Finished runs in folders, with names that keep them apart."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.filling import TRASH
from resurgsam2_cli.files.kinds import PARTIAL, UNFINISHED
from resurgsam2_cli.files.text import parse_json, read_text, readable
from resurgsam2_cli.runs.record import ANNOTATIONS, DRAFT, FRAMES, MARKS, RECORD, Run, as_written, is_run, read_run
from resurgsam2_cli.video.image_folder import IMAGE_SUFFIXES
from resurgsam2_cli.video.marks import EXPORTED
from resurgsam2_cli.video.source import VIDEO_SUFFIXES

EXPORT_RECORD = "export.json"
UNFINISHED_EXPORT = "unfinished"
"""A member of that record until the export is complete."""
"""The file in an export's folder that says what it holds, and that it is ours."""

TAKE_RUNS = "the commands for runs are review, refine, export and evaluate"
"""What to do with a run where a video is expected."""

PIECES = f".pieces{PARTIAL}"
"""How the folders end in which pieces of a long video wait to be joined."""


def pieces_of(run: Path) -> Path:
    """Where the pieces of a run wait."""
    return run.with_name(f"{run.name}{PIECES}")


_FILES = {RECORD, FRAMES, ANNOTATIONS, MARKS, DRAFT}
"""Files of a run that nobody takes for a video."""

MADE_BY = EXPORTED
"""Stands in every file that an export writes and that may stand alone: by it an export recognises its own."""


def read_export_record(folder: Path) -> dict[str, Any]:
    """The record of an export of this program; empty if ``folder`` is not one, or not a complete one."""
    record = raw_export_record(folder)
    return {} if UNFINISHED_EXPORT in record else record


def raw_export_record(folder: Path) -> dict[str, Any]:
    """The same, also of an export that was not finished: what it was going to write."""
    try:
        record = parse_json(read_text(folder / EXPORT_RECORD))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and record.get("made_by") == MADE_BY else {}


def find_runs(paths: list[Path]) -> tuple[list[Run], int]:
    """The finished runs in ``paths``, in order, and how many unfinished ones were left out.

    A path is a run's folder, or a folder that holds runs at any depth. A run is named by its path below the given one;
    if two would share a name, all are named by their path below the common parent. Raises :class:`InputError` if a
    path holds none.
    """
    found: dict[Path, str] = {}
    unfinished = 0
    for path in paths:
        if not os.path.exists(path):
            raise InputError(f"{path}: no such folder", "name the folder of a run, or one that holds runs")
        if not path.is_dir():
            hint = f"name its folder: {path.parent}" if is_run(path.parent) else "name the folder of a run, or of runs"
            raise InputError(f"{path}: is not a folder", hint)
        folders, left_out = _walk(path)
        unfinished += left_out
        if not folders:
            why = f"the {left_out} there did not finish" if left_out else "no run.json in it or below"
            raise InputError(f"{path}: holds no finished run ({why})", "make one: resurgsam2 segment ... -o FOLDER")
        for folder in folders:
            whole = folder.resolve()
            name = whole.name if folder == path else _named(folder.relative_to(path))
            found.setdefault(whole, readable(name))
    if max(Counter(found.values()).values()) > 1:
        parent = Path(os.path.commonpath([folder.parent for folder in found]))
        found = {folder: readable(_named(folder.relative_to(parent))) for folder in found}
    return [read_run(folder, name) for folder, name in found.items()], unfinished


def check_no_run(source: str) -> None:
    """Raise :class:`InputError` for a finished run, or something in one, where a video is expected."""
    path = Path(source)
    if not os.path.isdir(path):
        if path.name in _FILES and is_run(path.parent):
            raise InputError(f"{source}: is a file of a finished run, not a video", f"{TAKE_RUNS}: name {path.parent}")
        return
    for folder in (path, path.absolute().parent):
        if is_run(folder):
            where = "is a finished run" if folder is path else "lies in a finished run"
            raise InputError(f"{source}: {where}, so it is no video", f"{TAKE_RUNS}: name {folder}")
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    if any(x.suffix.lower() in suffixes for x in path.iterdir()):
        return  # it may be the output folder, too
    if inside := next(_runs_near(path), None):
        raise InputError(f"{source}: holds finished runs, not a video", f"{TAKE_RUNS}: name {source} or {inside}")


def check_run(folder: Path) -> None:
    """Raise :class:`InputError` if this is not the folder of a finished run."""
    if is_run(folder):
        return
    if folder.is_dir() and (inside := next(_runs_near(folder), None)):
        raise InputError(f"{folder}: holds runs, and is none itself", f"name one of them, such as {inside}")
    hint = "name the folder that holds its run.json"
    raise InputError(f"{folder}: is not a finished run", f"{hint}: {folder.parent}" if is_run(folder.parent) else hint)


def _runs_near(folder: Path) -> Iterator[Path]:
    """Finished runs one or two levels below a folder."""
    for pattern in (f"*/{RECORD}", f"*/*/{RECORD}"):
        yield from (x.parent for x in sorted(folder.glob(pattern)) if is_run(x.parent))


def _named(path: Path) -> str:
    """The name of a run; one that was killed on its last steps still has the name of its partial folder."""
    return path.as_posix().removesuffix(PARTIAL)


def _walk(top: Path) -> tuple[list[Path], int]:
    """Folders of finished runs at and below ``top`` in order of their names, and the number of unfinished ones."""
    folders, unfinished = [], 0
    for here, below, files in os.walk(top, onerror=_refuse):
        folder = Path(here)
        if {RECORD, FRAMES, UNFINISHED} & set(files):
            below.clear()
            if is_run(folder) and _is_in_place(folder):
                folders.append(folder)
            elif RECORD in files or FRAMES in files:
                _check_unfinished(folder)
                unfinished += 1
        elif EXPORT_RECORD in files:
            below.clear()  # an export among the runs: many files, none of them a run
        unfinished += sum(x.endswith(PIECES) for x in below)
        below[:] = sorted(x for x in below if x != TRASH and not x.endswith(PIECES))
    return folders, unfinished


def _check_unfinished(folder: Path) -> None:
    """Raise :class:`InputError` for a run whose record is damaged, or of another version: it may be finished."""
    path = folder / RECORD
    if (folder / UNFINISHED).exists() or not (folder / FRAMES).exists():
        return
    why = f"has {FRAMES}, but no {RECORD}"
    if path.exists():
        with as_written(path):
            record = parse_json(read_text(path))
            if not isinstance(record, dict):
                raise ValueError("it is not a JSON object")
        if record.get("complete") is False:
            return
        why = f"{RECORD} is damaged, or of another version of this program"
    raise InputError(f"{folder}: {why}", "bring it back from a copy, segment the video again, or move it away")


def _refuse(error: OSError) -> None:
    raise InputError(
        f"{error.filename}: cannot be read ({error.strerror})", "leave it out, or get the right to read it"
    )


def _is_in_place(folder: Path) -> bool:
    """Whether this is the run itself, rather than a new version of one that is still there under its final name."""
    return not (folder.name.endswith(PARTIAL) and folder.with_name(folder.name.removesuffix(PARTIAL)).exists())


def has_runs(folder: Path) -> bool:
    """Whether there is a finished run at or below ``folder``."""
    return bool(_walk(folder)[0])
