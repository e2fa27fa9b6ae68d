"""Files that get their final name when they are complete, and errors of the file system as a user reads them."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from resurgsam2_cli.errors import OutputError
from resurgsam2_cli.files.kinds import check_folder, partial_name

ELSEWHERE = "write elsewhere with -o"
"""What else can be done if something cannot be written."""


@contextmanager
def writing(path: Path, elsewhere: str = ELSEWHERE) -> Iterator[None]:
    """Turn errors of the file system into :class:`OutputError`, with ``elsewhere`` as what else can be done."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            check_folder(Path(error.filename or path))
        full = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), f"make room, or {elsewhere}")
        closed = f"{elsewhere}, or get the right to write there"
        hints = full | dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), closed)
        hints[errno.ENAMETOOLONG] = f"rename the video, or {elsewhere}"
        raise OutputError(
            f"{error.filename or path}: cannot be written ({error.strerror or error})",
            hints.get(error.errno or 0, elsewhere),
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write; it becomes ``path`` when the block completes, and is deleted if the block fails.

    For files in a folder that only this process writes to. Raises ``OSError``.
    """
    partial = path.with_name(partial_name(path.name))
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Yield a path for a file that is of use only while ``path`` is made: it is deleted when the block ends.

    For folders as those of :func:`replacing`. What a kill leaves has a name of unfinished files.
    """
    piece = path.with_name(partial_name(f"{path.name}.scratch"))
    try:
        yield piece
    finally:
        with suppress(OSError):
            piece.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a small file whole. Raises ``OSError``."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a small JSON file whole. Raises ``OSError``."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
