"""Ctrl-C and SIGTERM: an exception that unwinds everything, and a guard that ends what does not unwind in time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

PATIENCE = 1.5
"""Seconds that unwinding may take. After a hard end, the next start tidies up what was left half done."""

_QUIET = "ignore::UserWarning:multiprocessing.resource_tracker"

_programs: weakref.WeakSet[subprocess.Popen[bytes]] = weakref.WeakSet()


class _Groups:
    """Whether programs get a process group of their own."""

    own = sys.platform != "win32"


def stay_in_group() -> None:
    """From now on, start programs in the group of this process: whoever ends that with its group ends them, too."""
    _Groups.own = False


class Interrupted(BaseException):
    """The user, or the system, wants the program to end."""


class _Deferred:
    """Whether the main thread is doing something that must not be interrupted, and was to be."""

    depth = 0
    wanted = False


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put :class:`Interrupted` off until the end of the block; for moments. Other threads do not get it anyway."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Deferred.depth += 1
    try:
        yield
    finally:
        _Deferred.depth -= 1
        if not _Deferred.depth and _Deferred.wanted:
            _Deferred.wanted = False
            raise Interrupted


def start_process(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own, where Ctrl-C does not reach it; :func:`stop_all` ends it."""
    if _Groups.own:
        options.setdefault("process_group", 0)
    with uninterrupted():  # a program that nobody knows of could not be ended
        process = subprocess.Popen(command, **options)
        _programs.add(process)
    return process


@contextmanager
def starting_workers() -> Iterator[None]:
    """Start processes in the block in which Ctrl-C is not heard: they end when this one says so."""
    if sys.platform == "win32":
        yield
        return
    from multiprocessing import resource_tracker

    with uninterrupted():  # a process that nobody knows of could not be ended
        # It starts with the first process otherwise, and lets Ctrl-C through again. That it tidies up after a hard end
        # is no news to anybody.
        sys.warnoptions.append(_QUIET)
        try:
            resource_tracker.ensure_running()
        finally:
            sys.warnoptions.remove(_QUIET)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which children inherit
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """Kill a program that :func:`start_process` started, with what that started in turn; harmless if it has ended."""
    if process.poll() is not None:
        return
    with suppress(OSError):
        if sys.platform != "win32" and _Groups.own:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def stop_all() -> None:
    """Kill the programs and worker processes of this process."""
    for process in list(_programs):
        stop_process(process)
    for child in multiprocessing.active_children():
        with suppress(OSError, ValueError):
            child.kill()


def leave(code: int) -> NoReturn:
    """End the process at once, from any thread; what it has said on standard error gets out.

    Not by ``sys.exit``, which takes the interpreter apart first: a thread that is in PyTorch then, or that prints,
    aborts the whole process with SIGABRT in place of its exit code.
    """
    sys.stderr.flush()
    os._exit(code)


@dataclass(frozen=True)
class HardEnd:
    """What happens to a process that does not end in time after a signal."""

    code: int
    patience: float = PATIENCE
    last_words: Callable[[], None] = lambda: None
    also_exit: bool = False
    """Keep the guard on after the block, so that the rest of the process ends in time, too."""


@contextmanager
def interruptible(*kinds: signal.Signals, hard_end: HardEnd | None = None) -> Iterator[None]:
    """Signals of these kinds raise :class:`Interrupted` in the block, which runs in the main thread.

    Only the first signal does, so that nothing interrupts tidying up. With ``hard_end``, a process that has not left
    the block some time after a signal, whatever it is waiting for, kills its children and exits.
    """
    raised = False

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        nonlocal raised
        if not raised:
            raised = True
            if _Deferred.depth:
                _Deferred.wanted = True
            else:
                raise Interrupted

    before = {kind: signal.signal(kind, interrupt) for kind in kinds}
    try:
        with _Guard(set(kinds), hard_end) if hard_end else nullcontext():
            yield
    finally:
        ends = raised and hard_end is not None and hard_end.also_exit
        for kind, handler in before.items():
            signal.signal(kind, signal.SIG_IGN if ends else handler)


class _Guard:
    """Receives signals at once, in a thread of its own: the main thread may be busy in a library for seconds."""

    def __init__(self, kinds: set[signal.Signals], hard_end: HardEnd) -> None:
        self._kinds, self._hard_end = kinds, hard_end
        self._over = threading.Event()
        self._ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)

    def __enter__(self) -> None:
        self._before = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="guard", daemon=True)
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        signal.set_wakeup_fd(self._before)
        if isinstance(error, Interrupted) and self._hard_end.also_exit:
            return
        self._over.set()
        self._theirs.close()
        self._thread.join()
        self._ours.close()

    def _listen(self) -> None:
        while heard := self._ours.recv(1):
            if heard[0] in self._kinds:
                break
        else:
            return
        if not self._over.wait(self._hard_end.patience):
            stop_all()
            self._hard_end.last_words()
            leave(self._hard_end.code)
