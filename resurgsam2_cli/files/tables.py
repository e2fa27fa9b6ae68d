"""Temporary tables of SQLite: what the disk under them can do is an error of the user's, not a bug."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resurgsam2_cli.errors import OutputError
from resurgsam2_cli.files.atomic import ELSEWHERE

_OF_THE_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)


@contextmanager
def table_errors(folder: Path | None, hint: str = f"make room, or {ELSEWHERE}") -> Iterator[None]:
    """Turn errors of the disk into :class:`OutputError`; ``folder`` holds the table, None the system's for such files.

    ``hint`` says what to do about the former. All other errors are left as they are.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        # The lowest byte of a code is its kind.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _OF_THE_DISK:
            raise
        if folder is None:
            place, hint = tempfile.gettempdir(), "make room there, or name another folder: TMPDIR=FOLDER"
        else:
            place = str(folder)
        raise OutputError(f"{place}: cannot be written ({error})", hint) from error
