"""The sinks of a run in a process of their own.

Python runs one thread at a time. Beside a GPU, threads that draw, compress and write would hold up the one that
launches the network, as each call into numpy gives the lock up and has to wait for it. What they need of a frame goes
through memory that both processes see::

    this process                              the other
    Task(folder, clip, sinks) ──────────────► opens the sinks
              ◄────────────────────────────── ready
    pixels into a slot, and where they are ─► copies them, and feeds the sinks
              ◄────────────────────────────── the slot is free
    None: no more frames ───────────────────► completes the files
              ◄────────────────────────────── Done, or the error

The process waits for another run afterwards, until this one ends.
"""

from __future__ import annotations

import atexit
import json
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.spawn import get_executable
from pathlib import Path

import numpy as np

from resurgsam2_cli.errors import OutputError
from resurgsam2_cli.outputs.base import Clip, FrameResult
from resurgsam2_cli.outputs.sinks import Sinks, bytes_of
from resurgsam2_cli.process import interruption
from resurgsam2_cli.process.tuning import keep_memory, prepare_environment
from resurgsam2_cli.process.usage import StageTimes, peak_mb

POSSIBLE = sys.platform == "linux"
"""Whether there is memory of this kind."""

_READY = "ready"

_PATIENCE = 60.0
"""Seconds until the other process is ready, on a machine that is busy."""

_SLOTS = 3
"""Frames on their way to the other process."""

_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[2]); "
    "from resurgsam2_cli.outputs.own_process import serve; serve(int(sys.argv[1]))"
)


@dataclass(frozen=True)
class _Task:
    """What the other process is to write."""

    folder: Path
    clip: Clip
    names: tuple[str, ...]
    slot_bytes: int


@dataclass(frozen=True)
class _Sent:
    """A frame: its arrays lie one behind the other in a slot."""

    slot: int
    sizes: tuple[int, ...]
    rest: bytes


@dataclass(frozen=True)
class _Done:
    """What the other process says at the end."""

    files: list[str]
    sums: dict[str, str]
    seconds: dict[str, float]
    frames: dict[str, int]
    peak_mb: int | None


class CannotStart(Exception):
    """There is no other process: outputs have to be written in this one."""


class _Writer:
    """The other process, seen from this one. Raises :class:`CannotStart`."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._connection = Connection(os.dup(self._socket.fileno()))
        self._process: subprocess.Popen[bytes] | None = None
        try:
            with theirs:
                command = [get_executable(), "-P", "-c", _START, str(theirs.fileno()), json.dumps(sys.path)]
                self._process = interruption.start_process(
                    command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL
                )
            if not self._connection.poll(_PATIENCE):
                raise TimeoutError
            self.receive()
        except BaseException as error:
            self.kill()
            self.close()
            if isinstance(error, (OSError, OutputError)):
                raise CannotStart from error
            raise

    @property
    def is_alive(self) -> bool:
        """Whether it can take a task."""
        return self._process is not None and self._process.poll() is None

    def begin(self, task: _Task, files: Sequence[int]) -> None:
        """Give it a task, and files of this process. Raises the error of a sink that cannot begin."""
        self.send(task)
        try:
            socket.send_fds(self._socket, [b"."], files)
        except OSError:
            self.fail()
        self.receive()

    def send(self, message: object) -> None:
        """Send something. Raises the error that the process has sent before it ended."""
        try:
            self._connection.send(message)
        except OSError:
            self.fail()

    def receive(self) -> object:
        """Wait for something. Raises the error that the process has sent."""
        try:
            message: object = self._connection.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if isinstance(message, BaseException):
            raise message
        return message

    def fail(self) -> None:
        """Raise the last thing that it said, an error."""
        while True:
            self.receive()

    def _died(self) -> OutputError:
        assert self._process is not None
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return OutputError(f"the process that writes the outputs ended ({how})", "it may have run out of memory")

    def kill(self) -> None:
        """End it with its encoders, whatever it waits for; from any thread."""
        if self._process is not None:
            interruption.stop_process(self._process)

    def close(self) -> None:
        """Wait until it has ended, which it does now if it was not killed."""
        self._connection.close()
        self._socket.close()
        if self._process is not None:
            self._process.wait()


_free: list[_Writer] = []
"""Processes that wait for another run: starting one takes as long as a short clip."""


@atexit.register
def _close_free() -> None:
    while _free:
        _free.pop().close()


def _writer() -> _Writer:
    with suppress(IndexError):
        while True:
            writer = _free.pop()
            if writer.is_alive:
                return writer
            writer.close()
    return _Writer()


class SinksApart:
    """As :class:`~resurgsam2_cli.outputs.sinks.Sinks`, in another process.

    ``lock`` is the file that this process has locked as long as it fills ``folder``. The other one holds it, too, so
    that nobody takes the folder anew before both have ended. Raises :class:`CannotStart`.
    """

    def __init__(
        self, folder: Path, clip: Clip, names: Sequence[str], times: StageTimes, lock: int | None = None
    ) -> None:
        self.files: list[str] = []
        """The names of what was written, after :meth:`finish`."""
        self.sums: dict[str, str] = {}
        """The checksums of those that people may correct."""
        self._times = times
        slot_bytes = bytes_of(clip)
        try:
            memory = os.memfd_create("frames")
        except OSError as error:
            raise CannotStart from error
        try:
            os.ftruncate(memory, _SLOTS * slot_bytes)
            self._slots = _slots(memory, slot_bytes)
            self._free_slots = list(range(_SLOTS))
            self._writer = _writer()
            try:
                task = _Task(folder, clip, tuple(names), slot_bytes)
                self._writer.begin(task, [memory] if lock is None else [memory, lock])
            except BaseException:
                self.halt()
                self.abort()
                raise
        finally:
            os.close(memory)

    def write(self, result: FrameResult) -> None:
        """Hand over a frame. Raises the error of an earlier one."""
        while not self._free_slots:
            self._free_slots.append(self._writer.receive())  # type: ignore[arg-type]
        buffers: list[pickle.PickleBuffer] = []
        rest = pickle.dumps(result, protocol=5, buffer_callback=buffers.append)
        arrays = [np.frombuffer(x.raw(), np.uint8) for x in buffers]
        slot, begin = self._free_slots.pop(), 0
        for array in arrays:
            np.copyto(self._slots[slot, begin : begin + array.size], array)
            begin += array.size
        self._writer.send(_Sent(slot, tuple(x.size for x in arrays), rest))

    def finish(self) -> None:
        """Complete the files. Raises the error of a frame."""
        self._writer.send(None)
        while not isinstance(done := self._writer.receive(), _Done):
            pass
        self.files, self.sums = done.files, done.sums
        self._times.others_mb = done.peak_mb or 0
        for stage, seconds in done.seconds.items():
            self._times.add(stage, done.frames[stage], seconds)
        _free.append(self._writer)

    def halt(self) -> None:
        """Write nothing more, in any thread."""
        self._writer.kill()

    def abort(self) -> None:
        """Wait until the process has ended, after :meth:`halt`."""
        self._writer.close()


def _slots(memory: int, slot_bytes: int) -> np.ndarray:
    """The memory of a file, (slots, bytes) uint8."""
    return np.frombuffer(mmap.mmap(memory, _SLOTS * slot_bytes), np.uint8).reshape(_SLOTS, slot_bytes)


def serve(descriptor: int) -> None:
    """What the process does: write one run after the other, until nobody is there who wants one."""
    interruption.stay_in_group()
    prepare_environment()
    keep_memory()
    with socket.socket(fileno=descriptor) as theirs, Connection(os.dup(descriptor)) as connection:
        connection.send(_READY)
        while True:
            try:
                task = connection.recv()
            except (EOFError, OSError):
                return
            _, files, _, _ = socket.recv_fds(theirs, 1, 2)
            try:
                answer: _Done | BaseException = _written(task, files[0], connection)
            except (EOFError, ConnectionError):  # whoever wanted the run has gone
                return
            except Exception as error:
                answer = error
            finally:
                for file in files:
                    os.close(file)
            _answer(connection, answer)
            if isinstance(answer, BaseException):
                return


def _answer(connection: Connection, answer: _Done | BaseException) -> None:
    """Send it; of an error that cannot be sent, its words."""
    if isinstance(answer, BaseException):
        answer.add_note("".join(traceback.format_tb(answer.__traceback__)))
        try:
            pickle.loads(pickle.dumps(answer))
        except Exception:
            answer = RuntimeError("".join(traceback.format_exception(answer)))
    with suppress(ConnectionError):
        connection.send(answer)


def _written(task: _Task, memory: int, connection: Connection) -> _Done:
    """Write a run."""
    slots, times = _slots(memory, task.slot_bytes), StageTimes()
    sinks = Sinks(task.folder, task.clip, task.names, times, lanes=True)
    try:
        connection.send(_READY)
        while (sent := connection.recv()) is not None:
            copies = [np.empty(size, np.uint8) for size in sent.sizes]
            begin = 0
            for copy in copies:
                np.copyto(copy, slots[sent.slot, begin : begin + copy.size])
                begin += copy.size
            connection.send(sent.slot)
            sinks.write(pickle.loads(sent.rest, buffers=copies))
        sinks.finish()
    except BaseException:
        sinks.halt()
        sinks.abort()
        raise
    return _Done(sinks.files, sinks.sums, times.seconds, times.frames, peak_mb())
