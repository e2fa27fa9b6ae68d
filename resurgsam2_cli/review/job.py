"""A version that is on its way: in a thread of its own, with progress, and an end at any time."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from resurgsam2_cli.errors import UsageError, UserError
from resurgsam2_cli.outputs import FrameResult
from resurgsam2_cli.refining.tracking import Reach
from resurgsam2_cli.refining.versions import Placing
from resurgsam2_cli.segmenting.session import Watch


class _Cancelled(Exception):
    """The person wants no more of it."""


Work = Callable[[Watch, Placing], str]
"""Makes the version, and says what it is; it is given what to call with each frame, and what to enter at the end."""


class Job:
    """Makes another version of a run. ``placing`` is entered while the version takes its place."""

    def __init__(self, what: str, work: Work, placing: Placing) -> None:
        """``what`` says in a word or more what is being done."""
        self.what = what
        self._work, self._placing = work, placing
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="correction", daemon=True)
        self._frames = 0
        self._at: int | None = None
        self._stage, self._said = "running", ""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._stage == "running"

    def state(self) -> dict[str, Any]:
        """What the page shows of it."""
        return {"what": self.what, "stage": self._stage, "frames": self._frames, "at": self._at, "said": self._said}

    def cancel(self) -> None:
        """Have it end soon, and change nothing."""
        self._cancelled.set()

    def join(self) -> None:
        """Wait for its end."""
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._said = self._work(self._watch, self._place)
            self._stage = "done"
        except _Cancelled:
            self._said, self._stage = "cancelled; the run is as it was", "cancelled"
        except UserError as error:
            self._said = error.sentences
            self._stage = "failed"
        except BaseException as error:
            traceback.print_exception(error)
            self._said, self._stage = "this is a bug: the terminal shows where", "failed"

    def _place(self) -> AbstractContextManager[None]:
        if self._cancelled.is_set():
            raise _Cancelled
        return self._placing()

    def _watch(self, result: FrameResult) -> None:
        self._frames, self._at = self._frames + 1, result.number
        if self._cancelled.is_set():
            raise _Cancelled


def reach_of(options: dict[str, Any]) -> Reach:
    """How far a correction is followed, as the page asks. Raises :class:`UsageError`."""
    frames, whole = options.get("frames"), options.get("whole", False)
    if not (frames is None or (type(frames) is int and frames >= 0)) or type(whole) is not bool:
        raise UsageError("the reach is no number of frames", "give a whole number, or none")
    return Reach(agreed=0 if whole else Reach().agreed, frames=frames)
