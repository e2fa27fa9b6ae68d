"""The program ``resurgsam2``, also ``python -m resurgsam2_cli``."""

from __future__ import annotations

import errno
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress

from resurgsam2_cli.errors import INTERRUPTED, MORE_ROOM, Causes, DeviceError, InputError, OutputError, UserError
from resurgsam2_cli.files.text import readable
from resurgsam2_cli.process.interruption import HardEnd, Interrupted, interruptible, leave, stop_all
from resurgsam2_cli.process.tuning import prepare_environment


def main() -> None:
    """Run the command line; its exit code is one of those in :mod:`resurgsam2_cli.errors`."""
    prepare_environment()
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of images that can be read all the same
    Causes.shown = False
    last_words = _once(_say_interrupted)
    try:
        hard_end = HardEnd(INTERRUPTED, last_words=last_words, also_exit=True)
        with interruptible(signal.SIGINT, signal.SIGTERM, hard_end=hard_end):
            try:
                from resurgsam2_cli.app import app

                app()
            except (OSError, MemoryError, ImportError, RuntimeError) as error:
                if (known := _of_the_system(error)) is None:
                    raise
                raise known from error
    except UserError as error:
        if Causes.shown:
            traceback.print_exception(error)
        print(f"resurgsam2: {readable(error.message)}", file=sys.stderr)
        if error.hint:
            print(f"  {readable(error.hint)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Interrupted:
        stop_all()
        last_words()
        with suppress(OSError):
            sys.stdout.flush()
        leave(INTERRUPTED)


_NO_ROOM = ("failed to map segment", "annot allocate memory", "can't allocate lock", "can't start new thread")
"""In messages of the system's loader, and of Python, about memory or threads that a process does not get."""


def _of_the_system(error: Exception) -> UserError | None:
    """What a user is to know of an error that no bug makes: a place that may not be read, an output that is closed."""
    text = str(error)
    if isinstance(error, MemoryError) or (any(x in text for x in _NO_ROOM) and "not permitted" not in text):
        return DeviceError("this machine has not enough memory for that", MORE_ROOM)
    if not isinstance(error, OSError):
        return None
    if isinstance(error, PermissionError) and error.filename is not None:
        return InputError(f"{error.filename}: {error.strerror}", "get the right to read it, or leave it out")
    if error.filename is None and error.errno in (errno.ENOSPC, errno.EPIPE, errno.EIO):
        return OutputError(
            f"standard output: cannot be written ({error.strerror})", "make room there, or send it elsewhere"
        )
    return None


def _once(say: Callable[[], None]) -> Callable[[], None]:
    """A function that says it the first time alone: the guard may speak while this thread is about to."""
    first = threading.Lock()

    def words() -> None:
        if first.acquire(blocking=False):
            say()

    return words


def _say_interrupted() -> None:
    # A live table that did not get to its end stands for standard error: it draws itself below what is printed, and has
    # hidden the cursor.
    stream = sys.__stderr__ or sys.stderr
    if sys.stderr is not stream and stream.isatty():
        stream.write("\n\x1b[?25h")
    print("resurgsam2: interrupted; nothing unfinished was left under a final name", file=stream, flush=True)


if __name__ == "__main__":
    main()
