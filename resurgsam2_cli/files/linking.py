"""Folders that share files with others: a name more for the same content, where the file system can do that."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def link_missing(source: Path, target: Path, leave_out: set[str]) -> None:
    """Give everything below ``source`` that ``target`` lacks a place there, too; files are linked, else copied.

    ``leave_out`` has paths below ``source``, with slashes, of files and folders that do not go along. Files that are
    linked must be replaced from then on, not written into. Raises ``OSError``.
    """
    _link(os.fspath(source), os.fspath(target), "", leave_out)


def _link(source: str, target: str, below: str, leave_out: set[str]) -> None:
    with os.scandir(target) as entries:
        there = {x.name for x in entries}
    with os.scandir(source) as entries:
        for entry in entries:
            if below + entry.name in leave_out:
                continue
            into = os.path.join(target, entry.name)
            # A linked folder of which the target has a part must become whole there; else the link itself goes along.
            if entry.is_dir(follow_symlinks=entry.name in there):
                os.makedirs(into, exist_ok=True)
                _link(entry.path, into, f"{below}{entry.name}/", leave_out)
            elif entry.name not in there:
                _link_file(entry, into)


def _link_file(source: os.DirEntry[str], target: str) -> None:
    if source.is_symlink():
        os.symlink(os.readlink(source.path), target)
        return
    try:
        os.link(source.path, target)
    except OSError:  # a file system without links, or with too many of this file
        shutil.copy2(source.path, target)
