"""The sinks of a run in processes of their own: one draws the overlay, one does all the rest.

Python runs one thread at a time. Beside a GPU, threads that draw, compress and write would hold up the one that
launches the network, and one another, as each call into numpy gives the lock up and has to wait for it. What they need
of a frame goes through memory that all processes see::

    this process                              another
    Task(folder, clip, sinks) ──────────────► opens the sinks
              ◄────────────────────────────── ready
    pixels into a slot, and where they are ─► copies them, and feeds the sinks
              ◄────────────────────────────── has done with the slot
    None: no more frames ───────────────────► completes the files
              ◄────────────────────────────── Done, or the error

The processes wait for another run afterwards, until this one ends.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import mmap
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.reduction import recv_handle, send_handle
from multiprocessing.spawn import get_executable
from pathlib import Path

import numpy as np

from resurgsam2_cli.errors import OutputError
from resurgsam2_cli.outputs.base import NO_PIXELS, Clip, FrameResult, PackedMasks
from resurgsam2_cli.outputs.sinks import Sinks, bytes_of, draw
from resurgsam2_cli.process import interruption
from resurgsam2_cli.process.tuning import keep_memory, prepare_environment
from resurgsam2_cli.process.usage import StageTimes, peak_mb

POSSIBLE = sys.platform == "linux" and not getattr(sys, "frozen", False)
"""Whether there is memory of this kind, and an executable that is Python and not a program packed with it."""

_READY = "ready"

_PATIENCE = 60.0
"""Seconds until the other process is ready, on a machine that is busy."""

_LAST_SECONDS = 5.0
"""For what is under way when the program that it writes for is gone."""

_SLOTS = 3
"""Frames on their way to the other processes."""

_ALONE = "overlay"
"""The output that takes about as long as all others together."""

_CLOSE_ON_EXEC = 1  # from linux/memfd.h

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
    files: int
    """How many files come along: the memory, and perhaps a lock."""


@dataclass(frozen=True)
class _Sent:
    """A frame: its arrays lie one behind the other in a slot."""

    slot: int
    sizes: tuple[int, ...]
    """Bytes."""
    rest: bytes

    def places(self, slots: np.ndarray) -> Iterator[np.ndarray]:
        """Where the arrays are in the ``slots`` (:func:`_slots`), each (bytes,) uint8."""
        begin = 0
        for size in self.sizes:
            yield slots[self.slot, begin : begin + size]
            begin += size


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
    """Another process, seen from this one. Raises ``OSError`` if it does not start."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        # Programs have put other things into the path, too, and one that Python is a part of may have no executable.
        path = json.dumps([x for x in sys.path if isinstance(x, str)])
        command = [get_executable() or "", "-P", "-c", _START, str(theirs.fileno()), path]
        with theirs:
            self._process = interruption.start_process(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
        self._ready = False

    @property
    def is_alive(self) -> bool:
        """Whether it can take a task."""
        return self._process.poll() is None

    def wait_until_ready(self) -> None:
        """Wait until it can take a task. Raises ``OSError`` or :class:`OutputError` if it never will."""
        if not self._ready:
            if not self.connection.poll(_PATIENCE):
                raise TimeoutError
            self.receive()
            self._ready = True

    def begin(self, task: _Task, files: Sequence[int]) -> None:
        """Give it a task, and files of this process. Raises the error of a sink that cannot begin."""
        self.send(task)
        try:
            for file in files:
                send_handle(self.connection, file, None)
        except ConnectionError:
            self.fail()
        self.receive()

    def send(self, message: object) -> None:
        """Send something. Raises the error that the process has sent before it ended."""
        try:
            self.connection.send(message)
        except ConnectionError:
            self.fail()

    def receive(self) -> object:
        """Wait for something. Raises the error that the process has sent."""
        try:
            message: object = self.connection.recv()
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
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return OutputError(f"the process that writes the outputs ended ({how})", "it may have run out of memory")

    def kill(self) -> None:
        """End it with its encoders, whatever it waits for; from any thread."""
        interruption.stop_process(self._process)

    def close(self) -> None:
        """End it, and wait until it has ended."""
        self.kill()  # without a connection, it does not end while a process that was forked off this one has that, too
        self.connection.close()
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
            writer = _free.pop(0)  # for what it did last time, it has the memory
            if writer.is_alive:
                return writer
            writer.close()
    return _Writer()


def _received(writers: Sequence[_Writer]) -> Iterator[tuple[_Writer, object]]:
    """What processes say next, of those that have something to say. Raises what :meth:`_Writer.receive` raises."""
    ready = wait([x.connection for x in writers])
    return ((x, x.receive()) for x in writers if x.connection in ready)


def _groups(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Which sinks share a process."""
    others = tuple(x for x in names if x != _ALONE)
    return [x for x in (others, (_ALONE,) * (_ALONE in names)) if x]


class SinksApart:
    """As :class:`~resurgsam2_cli.outputs.sinks.Sinks`, in other processes.

    ``lock`` is the file that this process has locked as long as it fills ``folder``. The others hold it, too, so that
    nobody takes the folder anew before all have ended. Raises :class:`CannotStart`.
    """

    def __init__(
        self, folder: Path, clip: Clip, names: Sequence[str], times: StageTimes, lock: int | None = None
    ) -> None:
        self.files: list[str] = []
        """The names of what was written, after :meth:`finish`."""
        self.sums: dict[str, str] = {}
        """The checksums of those that people may correct."""
        self._times, self._draw = times, draw(names)
        self._writers: list[_Writer] = []
        slot_bytes = bytes_of(clip)
        try:
            memory = _memory()
        except (AttributeError, OSError) as error:
            raise CannotStart from error
        files = [memory] if lock is None else [memory, lock]
        groups = _groups(names)
        try:
            try:
                os.ftruncate(memory, _SLOTS * slot_bytes)
                self._slots = _slots(memory, slot_bytes)
                for _ in groups:
                    self._writers.append(_writer())
                for writer in self._writers:
                    writer.wait_until_ready()
            except (OSError, OutputError) as error:
                raise CannotStart from error
            self._free_slots, self._readers = list(range(_SLOTS)), [0] * _SLOTS
            for writer, group in zip(self._writers, groups, strict=True):
                writer.begin(_Task(folder, clip, group, slot_bytes, len(files)), files)
        except BaseException:
            self.abort()
            raise
        finally:
            os.close(memory)

    def write(self, result: FrameResult) -> None:
        """Hand over a frame. Raises the error of an earlier one."""
        while not self._free_slots:
            for _, slot in _received(self._writers):
                self._done_with(slot)  # type: ignore[arg-type]
        buffers: list[pickle.PickleBuffer] = []
        seen = result if self._draw else replace(result, rgb=NO_PIXELS)
        rest = pickle.dumps(seen, protocol=5, buffer_callback=buffers.append)
        arrays = [np.frombuffer(x.raw(), np.uint8) for x in buffers]
        sent = _Sent(self._free_slots.pop(), tuple(x.size for x in arrays), rest)
        for place, array in zip(sent.places(self._slots), arrays, strict=True):
            np.copyto(place, array)
        self._readers[sent.slot] = len(self._writers)
        for writer in self._writers:
            writer.send(sent)

    def _done_with(self, slot: int) -> None:
        """A process has copied what it needs of a slot."""
        self._readers[slot] -= 1
        if not self._readers[slot]:
            self._free_slots.append(slot)

    def finish(self) -> None:
        """Complete the files. Raises the error of a frame."""
        for writer in self._writers:
            writer.send(None)
        found: dict[_Writer, _Done] = {}
        while len(found) < len(self._writers):
            said = _received([x for x in self._writers if x not in found])
            found |= {writer: done for writer, done in said if isinstance(done, _Done)}
        for done in (found[x] for x in self._writers):
            self.files += done.files
            self.sums |= done.sums
            self._times.others_mb += done.peak_mb or 0
            for stage, seconds in done.seconds.items():
                self._times.add(stage, done.frames[stage], seconds)
        _free.extend(self._writers)

    def halt(self) -> None:
        """Write nothing more, in any thread."""
        for writer in self._writers:
            writer.kill()

    def abort(self) -> None:
        """End the processes."""
        for writer in self._writers:
            writer.close()


def _memory() -> int:
    """An empty file in memory. Raises ``OSError``, and ``AttributeError`` if the system has none."""
    # Not os.memfd_create, which is missing from each Python that was built with a C library older than 2.27.
    memory: int = ctypes.CDLL(None, use_errno=True).memfd_create(b"frames", _CLOSE_ON_EXEC)
    if memory < 0:
        raise OSError(ctypes.get_errno(), "no file in memory")
    return memory


def _slots(memory: int, slot_bytes: int) -> np.ndarray:
    """The memory of a file, (slots, bytes) uint8."""
    return np.frombuffer(mmap.mmap(memory, _SLOTS * slot_bytes), np.uint8).reshape(_SLOTS, slot_bytes)


def serve(descriptor: int) -> None:
    """What the process does: write one run after the other, until nobody is there who wants one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the one that it writes for
    interruption.stay_in_group()
    threading.Thread(target=_end_after, args=(os.getppid(),), daemon=True).start()
    prepare_environment()
    keep_memory()
    with suppress(EOFError, OSError), Connection(descriptor) as connection:
        answer: object = _READY
        while not isinstance(answer, BaseException):
            connection.send(answer)
            answer = _answer(connection)
        connection.send(answer)


def _end_after(program: int) -> None:
    """End with the encoder if the program has ended: this process may wait for an encoder that hangs."""
    while os.getppid() == program:
        time.sleep(1)
    time.sleep(_LAST_SECONDS)
    os.killpg(os.getpid(), signal.SIGKILL)


def _answer(connection: Connection) -> _Done | Exception:
    """Do the next task."""
    task = connection.recv()
    files = [recv_handle(connection) for _ in range(task.files)]
    try:
        return _written(task, files[0], connection)
    except Exception as error:
        return _sendable(error)
    finally:
        for file in files:
            os.close(file)


def _sendable(error: Exception) -> Exception:
    """The error with where it was raised; one that cannot be sent as its words."""
    error.add_note("".join(traceback.format_tb(error.__traceback__)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def _written(task: _Task, memory: int, connection: Connection) -> _Done:
    """Write a run."""
    slots, times = _slots(memory, task.slot_bytes), StageTimes()
    sinks = Sinks(task.folder, task.clip, task.names, times, lanes=True)
    try:
        connection.send(_READY)
        while (sent := connection.recv()) is not None:
            result = _copied(pickle.loads(sent.rest, buffers=sent.places(slots)), picture=draw(task.names))
            connection.send(sent.slot)
            sinks.write(result)
        sinks.finish()
    except BaseException:
        sinks.halt()
        sinks.abort()
        raise
    return _Done(sinks.files, sinks.sums, times.seconds, times.frames, peak_mb())


def _copied(shared: FrameResult, *, picture: bool) -> FrameResult:
    """A frame in memory of this process, with its picture if that is wanted."""
    made = shared.made
    return replace(
        shared,
        rgb=shared.rgb.copy() if picture else NO_PIXELS,
        made=replace(made, bits=made.bits.copy()) if isinstance(made, PackedMasks) else made.copy(),
        labels=shared.labels.copy(),
    )
