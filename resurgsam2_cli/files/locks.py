"""Locks between processes, as files that exist while a lock is held."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

_WITHOUT_FLOCK = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EOPNOTSUPP}
_POLL = 0.05  # seconds
_VANISHES = 40
"""How often a folder may be gone again before it is locked: then it is one that cannot be made."""


class Lock:
    """An exclusive lock. The system releases it when its holder dies, however that happens.

    Unlike filelock's own, the file may be removed on release: whoever opened it before that notices and tries again.
    File systems without ``flock`` get filelock's soft lock, which recognises a dead holder on the same machine.
    """

    def __init__(self, path: Path, made: Sequence[Path] = ()) -> None:
        self._path = path
        self._held: BaseFileLock | None = None
        self.made = made
        """Folders that were made for the lock, the innermost first: on release, those that are empty go again."""
        self._makes_folder = False
        self._vanished = 0
        self._file: int | None = None

    @property
    def file(self) -> int | None:
        """What is locked: unless it is released, it stays so as long as any process has this file open.

        None if the lock is not held, or not by ``flock``.
        """
        return None if self._held is None else self._file

    @classmethod
    def inside(cls, folder: Path, name: str) -> Lock:
        """A lock in a folder, which :meth:`acquire` makes if it is missing."""
        lock = cls(folder / name, list(takewhile(lambda x: not os.path.lexists(x), (folder, *folder.parents))))
        lock._makes_folder = True
        return lock

    def acquire(self, timeout: float = 0.0) -> bool:
        """Try for ``timeout`` seconds; return whether the lock is ours. Raises ``OSError`` if it cannot be made."""
        deadline = time.monotonic() + timeout
        while not self._try():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        return True

    def _try(self) -> bool:
        if not self._makes_folder:
            return self._try_there()
        folder = self._path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return self._try_there()
        except (FileNotFoundError, FileExistsError):  # somebody has removed the folder just now, or it cannot be made
            self._vanished += 1
            if self._vanished > _VANISHES or (os.path.lexists(folder) and not os.path.isdir(folder)):
                raise
            return False

    def _try_there(self) -> bool:
        descriptors: list[int] = []
        lock: BaseFileLock = FileLock(self._path, timeout=0, thread_local=False, on_acquired=descriptors.append)
        try:
            lock.acquire()
        except Timeout:
            self._check_possible()
            return False
        except (OSError, NotImplementedError) as error:
            if isinstance(error, PermissionError) and self._path.exists():
                return False  # the file of another user, who holds the lock for a moment
            if isinstance(error, OSError) and error.errno not in _WITHOUT_FLOCK:
                raise
            lock = SoftFileLock(self._path, timeout=0, thread_local=False)
            try:
                lock.acquire()
            except Timeout:
                return False
        if descriptors and not self._is_at_its_path(descriptors[-1]):
            lock.release()
            return False
        self._held, self._file = lock, descriptors[-1] if descriptors else None
        return True

    def _check_possible(self) -> None:
        """Raise ``OSError`` if nobody holds the lock, but its file cannot be made: filelock would keep waiting."""
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR))

    def _is_at_its_path(self, descriptor: int) -> bool:
        """Whether the locked file still has its name: its last holder may have removed it since we opened it."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False

    def release(self, *, remove: bool = True) -> None:
        """Release the lock, and with ``remove`` delete its file. Harmless if the lock is not held."""
        if self._held is None:
            return
        held, self._held = self._held, None
        if remove:
            # Delete while holding the lock, so that nobody locks a vanishing file. Windows refuses: there, after.
            with suppress(OSError):
                self._path.unlink()
        held.release()
        if remove and os.name == "nt":
            with suppress(OSError):
                self._path.unlink()
        remove_empty(self.made)


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those folders in which nothing is, in this order."""
    for folder in folders:
        with suppress(OSError):  # the system refuses it for a folder that holds something
            folder.rmdir()
