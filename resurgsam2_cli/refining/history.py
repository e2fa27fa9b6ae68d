"""Whether a run has everything that it takes to go back to the version before the present one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.runs.record import (
    ANNOTATIONS,
    FRAMES,
    HISTORY,
    MARKS,
    MASKS,
    OBJECTS,
    RECORD,
    as_written,
    is_record,
    raw_marks,
    raw_record,
)
from resurgsam2_cli.runs.sums import TreeSum, images_below

OVERLAY = "overlay.mp4"

LARGE = (FRAMES, ANNOTATIONS, OVERLAY)
"""Files of which a version keeps the difference to the one before."""

DELTA = ".delta"


def history_of(folder: Path, number: int) -> Path:
    """What it takes to go back from a version."""
    return folder / HISTORY / f"{number:04d}"


def check_history(folder: Path, number: int, *, edited: bool) -> None:
    """Raise :class:`InputError` unless the version before the present one can be made again, to the byte.

    ``number`` is that of the present version. Its own images must be as they were written, unless some were ``edited``
    since: then those that the version before has other images of.
    """
    back = history_of(folder, number)
    record, before = raw_record(folder), raw_record(back)
    for name in (FRAMES, ANNOTATIONS):
        _require(back / f"{name}{DELTA}")
        _require(folder / name)
    if (folder / OVERLAY).exists() and not (back / f"{OVERLAY}{DELTA}").exists():
        raise InputError(
            f"{back / f'{OVERLAY}{DELTA}'}: is missing, and undo needs it",
            f"put it back from a copy of the run, or move {OVERLAY} away",
        )
    if not is_record(before) or before.get("versions", []) != record["versions"][:-1]:
        _require(back / RECORD)
        raise _changed(back / RECORD)
    with as_written(back / RECORD):
        added = added_objects(record, before)
        said = int(record["versions"][-1]["marks"])
    if len(raw_marks(folder / MARKS)) > said:
        _require(back / MARKS)
    _check_images(folder, back, added, (record, before), edited=edited)


def added_objects(record: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """The folders of the objects that a version was the first to have."""
    return [f"{OBJECTS}/{x + 1:03d}" for x in range(len(before["objects"]), len(record["objects"]))]


def _check_images(
    folder: Path, back: Path, added: Sequence[str], records: tuple[dict[str, Any], dict[str, Any]], *, edited: bool
) -> None:
    """Compare sums: that of a folder now, with the images that go back, must be that of the version before."""
    record, before = (x.get("sums", {}) for x in records)
    entry = records[0]["versions"][-1]
    taken = entry.get("edited", {})
    marks = raw_marks(folder / MARKS)[-entry["marks"] :] if entry["marks"] else []
    if not edited and not taken and any(x.get("imported") for x in marks):
        return  # older versions do not say what the images were that they were edited to
    for name in (MASKS, OBJECTS):
        expected = taken.get(name, before.get(name))
        if expected is None or name not in record or not ((folder / name).is_dir() or (back / name).is_dir()):
            continue
        total = TreeSum(record[name])
        replaced = dict(images_below(os.fspath(back / name))) if (back / name).is_dir() else {}
        leaving = tuple(f"{x.removeprefix(f'{name}/')}/" for x in added) if name == OBJECTS else ()
        try:
            if edited and not all((folder / name / x).exists() for x in replaced):
                # Somebody deleted edited images: then all others must be those of the version before.
                total = TreeSum()
                for own, path in images_below(os.fspath(folder / name)):
                    if own not in replaced and not own.startswith(leaving):
                        total.add(own, Path(path).read_bytes())
                for own, path in replaced.items():
                    total.add(own, Path(path).read_bytes())
            else:
                for own, path in replaced.items():
                    total.replace(own, (folder / name / own).read_bytes(), Path(path).read_bytes())
                for gone in leaving:
                    for own, path in images_below(os.fspath(folder / name / gone), gone):
                        total.remove(own, Path(path).read_bytes())
        except OSError as error:
            raise _changed(back / name) from error
        if total.value() != expected:
            raise _changed(back / name)


def _require(path: Path) -> None:
    if not path.exists():
        raise InputError(f"{path}: is missing, and undo needs it", "put it back from a copy of the run")


def _changed(path: Path) -> InputError:
    return InputError(
        f"{path}: does not have what it takes to go back to the version before",
        "put it back from a copy of the run; the run stays as it is",
    )
