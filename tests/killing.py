"""Stops a piece of work at every step that it takes on the disk, as a kill would: nothing tidies up."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_STEPS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "fcntl.flock"}
_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def contents(root: Path) -> dict[str, bytes | None]:
    """All files below ``root`` with what is in them, and all folders (None)."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))
    }


def killed_at(step: int, work: Callable[[], Any], root: Path) -> bool:
    """Do ``work`` in a process of its own that is killed before its ``step``-th change below ``root``.

    Returns whether the work came that far; if not, it was done.
    """
    child = os.fork()
    if child == 0:
        _Killer(step, str(root)).install()
        code = 0
        try:
            work()
        except BaseException as error:  # the parent sees what went wrong
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            code = 1
        os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the work failed by itself"
    return False


def every_kill(
    prepare: Callable[[Path], Any], work: Callable[[Path], Any], root: Path, most: int = 400
) -> Iterator[Path]:
    """Folders in which ``work`` was killed, one for each step that it takes."""
    for step in range(1, most):
        folder = root / f"step{step:03d}"
        folder.mkdir(parents=True)
        prepare(folder)
        if not killed_at(step, lambda folder=folder: work(folder), folder):  # type: ignore[misc]
            return
        yield folder
    raise AssertionError("it takes more steps than expected")


class _Killer:
    def __init__(self, step: int, root: str) -> None:
        self._left, self._root = step, root

    def install(self) -> None:
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "fcntl.flock":
            concerned = True
        elif event == "open":
            path, mode, flags = arguments
            concerned = self._is_below(path) and bool((flags or 0) & _WRITE or set(mode or "") & set("wax+"))
        else:
            concerned = event in _STEPS and self._is_below(arguments[0])
        if concerned:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def _is_below(self, path: Any) -> bool:
        # Only shutil.rmtree names files relative to an open folder, and it only works below our roots.
        return not isinstance(path, (str, bytes, os.PathLike)) or (
            os.fsdecode(path).startswith(self._root) or not os.path.isabs(os.fsdecode(path))
        )
