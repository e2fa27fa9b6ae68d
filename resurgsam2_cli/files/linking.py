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
    _link(source, target, "", leave_out)


def _link(source: Path, target: Path, below: str, leave_out: set[str]) -> None:
    there = {x.name for x in os.scandir(target)}
    for entry in os.scandir(source):
        if below + entry.name in leave_out:
            continue
        if entry.is_dir(follow_symlinks=False):
            (target / entry.name).mkdir(exist_ok=True)
            _link(source / entry.name, target / entry.name, f"{below}{entry.name}/", leave_out)
        elif entry.name not in there:
            _link_file(Path(entry.path), target / entry.name)


def _link_file(source: Path, target: Path) -> None:
    if source.is_symlink():
        target.symlink_to(os.readlink(source))
        return
    try:
        os.link(source, target)
    except OSError:  # a file system without links, or with too many of this file
        shutil.copy2(source, target)
