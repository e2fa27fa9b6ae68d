"""What can go wrong for a user, and the exit code of each kind.

::

    UserError            1  something of a batch failed
    ├── UsageError       2  wrong usage
    ├── InputError       3  the input cannot be read
    ├── WeightsProblem   4  weights missing, damaged or not fitting
    ├── DeviceError      5  device or memory
    └── OutputError      6  the output cannot be written
    (interrupted)      130

The command line catches these alone and prints one line with the cause and one with what to do. Anything else is
a bug and keeps its traceback.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from weights.errors import WeightsError

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")
_LONGEST = 2000  # characters of a line: names and values from a file may have any length


def _line(text: str) -> str:
    """One line that a terminal shows as it stands."""
    line = " ".join(_CONTROLS.sub(" ", text).split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"


class UserError(Exception):
    """``message`` names the file and the cause, ``hint`` says what to do; each is one line."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = _line(message)
        self.hint = _line(hint)

    @property
    def sentences(self) -> str:
        """The message and the hint, one after the other."""
        return ". ".join(x for x in (self.message, self.hint[:1].upper() + self.hint[1:]) if x)

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str]]:
        """Keep the hint when the error comes from another process."""
        return type(self), (self.message, self.hint)


class UsageError(UserError):
    """The options make no sense."""

    exit_code = 2


class InputError(UserError):
    """The input cannot be read."""

    exit_code = 3


class WeightsProblem(UserError):
    """Weights are missing, damaged or do not fit."""

    exit_code = 4


MORE_ROOM = "close other programs, or raise the limit that is set for this one"
"""The hint where memory of the machine runs out."""


class DeviceError(UserError):
    """The device is missing or out of memory."""

    exit_code = 5


class OutputError(UserError):
    """The output cannot be written."""

    exit_code = 6


INTERRUPTED = 130


class Causes:
    """Whether errors are shown with their causes, as ``--verbose`` asks."""

    shown = False


@contextmanager
def weights_errors() -> Iterator[None]:
    """Turn errors of the package ``weights`` into those of the command line."""
    try:
        yield
    except WeightsError as error:
        raise WeightsProblem(str(error), error.hint) from error
