"""A correction that is on its way: in a thread of its own, with progress, and an end at any time."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from resurgsam2_cli.errors import UsageError, UserError
from resurgsam2_cli.outputs import FrameResult
from resurgsam2_cli.refining.refine import BuildEngine, Given, refine
from resurgsam2_cli.refining.tracking import Reach
from resurgsam2_cli.runs.record import Run


class _Cancelled(Exception):
    """The person wants no more of it."""


class Job:
    """Makes the next version of a run. ``placing`` is entered while the version takes its place."""

    def __init__(
        self,
        run: Run,
        given: Given,
        build: BuildEngine,
        sources: Path | None,
        placing: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._run, self._given, self._build, self._sources = run, given, build, sources
        self._placing = placing
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._work, name="correction", daemon=True)
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
        return {"stage": self._stage, "frames": self._frames, "at": self._at, "said": self._said}

    def cancel(self) -> None:
        """Have it end soon, and change nothing."""
        self._cancelled.set()

    def join(self) -> None:
        """Wait for its end."""
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            done = refine(
                self._run.folder,
                self._given,
                self._build,
                sources=self._sources,
                watch=self._watch,
                placing=self._place,
            )
            self._said = f"version {done.version}: {done.frames} frame{'s' * (done.frames != 1)} changed"
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
