"""Ctrl-C and SIGTERM as an exception that unwinds everything, so that each part cleans up after itself."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """The user, or the system, wants the program to end."""


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise Interrupted


@contextmanager
def interruptible(*kinds: signal.Signals) -> Iterator[None]:
    """Signals of these kinds raise :class:`Interrupted` in the block, which runs in the main thread."""
    before = {kind: signal.signal(kind, _interrupt) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
