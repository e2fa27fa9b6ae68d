"""A run that is open on the page: what it holds now, what is said of it, and the correction that is on its way."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from resurgsam2_cli.errors import InputError, UsageError, UserError
from resurgsam2_cli.files.kinds import partial_name
from resurgsam2_cli.files.locks import Lock
from resurgsam2_cli.files.text import counted, one_line
from resurgsam2_cli.prompts.marks import mark_of
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.refining.refine import BuildEngine, Given, refine
from resurgsam2_cli.refining.versions import Placing, undo, versions_of
from resurgsam2_cli.review.content import Content
from resurgsam2_cli.review.draft import Draft
from resurgsam2_cli.review.job import Job, Work, reach_of
from resurgsam2_cli.review.preview import Preview, click
from resurgsam2_cli.review.said import base_of, entry_of, on_top, same_frame
from resurgsam2_cli.runs.record import MARKS, RECORD, Run, read_run
from resurgsam2_cli.segmenting.session import Watch

_AWAY = 150.0
"""Seconds after which a window that says nothing counts as closed: browsers slow down those in the background."""


_ANSWERS = itertools.count(1)
"""Numbers of what the page is told, so that it can tell which of two answers is newer, in whatever order they come."""


class Stale(UsageError):
    """What a window asks for does not fit what the run holds now; it looks again."""


class OpenRun:
    """One run of the page. Its methods may be called by any thread. Raises a ``UserError``.

    ``build`` makes the engine; None if nothing is to be changed.
    """

    def __init__(self, run: Run, build: BuildEngine | None, sources: Path | None) -> None:
        self.name, self.folder = run.name, run.folder
        self._build, self._sources = build, sources
        self._lock = threading.RLock()
        self._lasting: Lock | None = None
        self._content: Content | None = None
        self._before: Content | None = None
        """The version before, which a request may still read."""
        self._draft: Draft | None = None
        self._compared: Draft | None = None
        """The draft whose "confirmed" were compared with the masks of this version."""
        self._preview: tuple[str, Preview] | None = None
        self._saying_one = threading.Lock()
        self._job: Job | None = None
        self._taken: int | None = 0
        """How many entries of the draft the job has; None if it takes a version back, and nothing is said meanwhile."""
        self._counted: tuple[tuple[int, int], dict[str, int]] | None = None
        self._window, self._seen = "", 0.0
        """The window that may write, and when it last said something."""
        self.closed_to_writing = "" if build is not None else "this page is for looking only (--read-only)"

    # What the run holds

    @property
    def content(self) -> Content:
        """What the run holds now, read again if it has another version."""
        with self._lock:
            stamp = _stamp(self.folder)
            if self._content is None or self._content.stamp != stamp:
                new = Content(read_run(self.folder, self.name), stamp, self._sources)
                self._draft = Draft(self.folder, () if self._draft is None else self._draft.undone)
                if self._before is not None:
                    self._before.close()
                self._before, self._content = self._content, new
            return self._content

    @property
    def draft(self) -> Draft:
        """What was said and not followed yet, without what was confirmed of masks that are others now."""
        with self._lock:
            content = self.content
            assert self._draft is not None
            if self._draft.is_stale:
                self._draft = Draft(self.folder)
            if self._lasting is not None and self._compared is not self._draft:  # else it is not ours to write
                self._draft.lapse(content.still_right)
                self._compared = self._draft
            return self._draft

    def state(self, window: str) -> dict[str, Any]:
        """What may change at any time, for one window of the page."""
        with self._lock:
            content, job = self.content, self._job
            closed = self.closed_to_writing or self._whose(window)  # who may write drops what does not hold any more
            return {
                "version": content.version,
                "stamp": content.key,
                "draft": self.draft.entries,
                "may_write": closed,
                "job": None if job is None else job.state(),
                "answer": next(_ANSWERS),
            }

    def summary(self) -> dict[str, Any]:
        """What the list of runs says of this one, without opening it."""
        try:
            run, draft = read_run(self.folder, self.name), Draft(self.folder)
            version = versions_of(self.folder)[-1].number
        except UserError as error:
            return {"name": self.name, "error": error.sentences}
        return {
            "name": self.name,
            "frames": run.frames,
            "objects": [x.label for x in run.objects],
            "version": version,
            "said": len(draft.entries),
        }

    def counted(self) -> dict[str, int]:
        """As :meth:`Content.counted`; a run that is not open is read and closed."""
        with self._lock:
            stamp, is_open = _stamp(self.folder), self._content is not None
            if self._counted is None or self._counted[0] != stamp:
                content = self.content if is_open else Content(read_run(self.folder), stamp, None)
                try:
                    found = content.counted()
                finally:
                    if not is_open:
                        content.close()
                self._counted = stamp, found
            return self._counted[1]

    # Who writes

    def _whose(self, window: str) -> str:
        """Why a window may not write; empty if it may. The first that looks is the one."""
        if not window:
            return "this window has no name"
        now = time.monotonic()
        if self._window in ("", window) or now - self._seen > _AWAY:
            why = self._hold()
            if why:
                return why
            self._window, self._seen = window, now
            return ""
        return "this run is being corrected in another window"

    def _hold(self) -> str:
        """Keep other programs' pages from correcting this run; returns why that is not possible."""
        if self._lasting is not None:
            return ""
        lock = Lock(self.folder.with_name(partial_name(f"{self.folder.name}.review")))
        try:
            if not lock.acquire():
                return "this run is being corrected by another program: resurgsam2 review, somewhere else"
        except OSError as error:
            return f"the folder of this run cannot be written to ({error.strerror})"
        self._lasting = lock
        return ""

    def take_over(self, window: str) -> None:
        """Let a window write in place of another one of this page."""
        with self._lock:
            self._window = ""
            if why := self.closed_to_writing or self._whose(window):
                raise UsageError(why, "close it there first")

    def leave(self, window: str) -> None:
        """A window is closed."""
        with self._lock:
            if self._window == window:
                self._window = ""

    @contextmanager
    def _saying(self, window: str, stamp: str) -> Iterator[Content]:
        """A change by a window that knows the run as it is now."""
        with self._lock:
            if why := self.closed_to_writing or self._whose(window):
                raise UsageError(why, "look here, and correct it there")
            if self.is_busy and self._taken is None:
                raise UsageError("a version is being taken back", "wait for it, or cancel it")
            content = self.content
            if content.key != stamp:
                raise _stale()
            yield content

    # What a person says

    def say(self, window: str, stamp: str, said: dict[str, Any]) -> None:
        """Take what a person said of one object and frame, or several frames; clicks get a mask first."""
        with self._saying_one:
            with self._saying(window, stamp) as content:
                draft = self.draft
                entry = entry_of(said, content, draft)
                if entry.get("confirmed"):
                    entry["seen"] = content.seen(entry)
                if "points" not in entry and "box" not in entry:
                    draft.add(entry)
                    return
                at = draft.at(entry["object"], entry["frame"])
                others = [x for x in draft.resolved(content.run.part.stride) if not same_frame(x, entry)]
                marks = [mark_of(x, draft.path, i) for i, x in enumerate(others, start=1)]
            clicked, base = on_top(entry, at), base_of(at, content, entry)
            point = click(entry["object"], entry["frame"], clicked["points"], clicked.get("box"))
            mask = self._previewing(content).clicked(marks, [point], base)
            with self._saying(window, stamp):
                self.draft.add({**clicked, "mask": mask})

    def _previewing(self, content: Content) -> Preview:
        """Previews for the present version; the first time, the network is loaded."""
        if self._preview is None or self._preview[0] != content.key:
            self._close_preview()
            assert self._build is not None
            self._preview = content.key, Preview(content.run, self._build, self._sources)
        preview = self._preview[1]
        if preview.engine.device.type != "cpu" and self.is_busy:
            raise UsageError("the network is tracking", "draw meanwhile, or wait for it")
        return preview

    def undo(self, window: str, stamp: str) -> None:
        """Take back what was said last; if nothing is left of that, the present version, whose marks are said again."""
        with self._saying(window, stamp) as content:
            if not (self.is_busy and len(self.draft.entries) <= (self._taken or 0)) and self.draft.undo():
                return
            self._check_idle()
            if not content.version:
                raise UsageError("there is nothing to undo", "say something first")
            self._begin(
                f"taking back version {content.version}",
                lambda _, placing: f"back at version {undo(self.folder, placing)}",
                partial(self._undoing, stamp),
                taken=None,
            )

    @contextmanager
    def _undoing(self, stamp: str) -> Iterator[None]:
        """While the version before takes its place, what the present one was made from becomes the draft."""
        with self._lock:
            content, draft = self.content, self.draft
            if content.key != stamp:
                raise _stale()
            draft.put_back(content.marks_with_masks(self.folder / MARKS, versions_of(self.folder)[-1].marks))
            try:
                yield
            except BaseException:
                self._draft = Draft(self.folder, draft.undone)  # without what the version still has
                self._draft.save()
                raise

    def redo(self, window: str, stamp: str) -> None:
        """Say again what was taken back last."""
        with self._saying(window, stamp) as content:
            undone = self.draft.undone
            if undone and undone[-1]["object"] > len(content.run.objects):
                raise UsageError("the object that was meant is not there any more", "add it again first")
            if undone and undone[-1].get("confirmed") and not content.still_right(undone[-1]):
                undone.pop()
                raise UsageError(
                    "the mask that was confirmed is another one now", "look at it, and confirm it again if it is right"
                )
            if not self.draft.redo():
                raise UsageError("there is nothing to redo", "undo something first")

    # What follows

    def follow(self, window: str, stamp: str, options: dict[str, Any]) -> None:
        """Begin to make the next version from what was said."""
        with self._saying(window, stamp) as content:
            draft = self.draft
            marks = draft.marks(content.run.part.stride)
            if not marks:
                raise UsageError("nothing was said yet", "click on an object, draw, or confirm a mask first")
            self._refine(content.run, Given(marks, reach=reach_of(options)), len(draft.entries))

    def add(self, window: str, stamp: str, said: dict[str, Any]) -> None:
        """Begin to make a version with a new object: searched for by ``words``, or only named, to be clicked on."""
        text, words = one_line(str(said.get("text", ""))), said.get("words") is True
        prompt = Prompt.parse(text) if words else Prompt(text, text, words=False)
        if not text or prompt.label.isdecimal():
            raise UsageError("the new object has no name", "give it one")
        with self._saying(window, stamp) as content:
            self._refine(content.run, Given(added=[prompt]), 0)

    def _refine(self, run: Run, given: Given, taken: int) -> None:
        assert self._build is not None
        build = self._build

        def work(watch: Watch, placing: Placing) -> str:
            done = refine(run.folder, given, build, sources=self._sources, watch=watch, placing=placing)
            return f"version {done.version}: {counted(done.frames, 'frame')} changed"

        self._begin("tracking", work, self._following, taken)

    def _begin(self, what: str, work: Work, placing: Placing, taken: int | None) -> None:
        self._check_idle()
        self._taken = taken
        self._job = Job(what, work, placing)
        self._job.start()

    @contextmanager
    def _following(self) -> Iterator[None]:
        """While a version takes its place nobody says anything; then the draft is what was said since it began."""
        with self._lock:
            yield
            Draft(self.folder).save()

    def cancel(self, window: str) -> None:
        """Stop the correction that is on its way; the run stays as it is."""
        with self._lock:
            if why := self.closed_to_writing or self._whose(window):
                raise UsageError(why, "cancel it there")
            if self._job is not None:
                self._job.cancel()

    @property
    def is_busy(self) -> bool:
        """Whether a correction is on its way."""
        return self._job is not None and self._job.is_running

    def _check_idle(self) -> None:
        if self.is_busy:
            raise UsageError("a correction is on its way", "wait for it, or cancel it")

    # The end

    def close(self) -> None:
        """End what is on its way, and give everything back."""
        if self._job is not None:
            self._job.cancel()
            self._job.join()
        with self._saying_one, self._lock:
            self._close_preview()
            for content in (self._content, self._before):
                if content is not None:
                    content.close()
            self._content = self._before = None
            if self._lasting is not None:
                self._lasting.release()
                self._lasting = None

    def _close_preview(self) -> None:
        if self._preview is not None:
            self._preview[1].close()
            self._preview = None


def _stale() -> Stale:
    return Stale("the run has another version since", "look again")


def _stamp(folder: Path) -> tuple[int, int]:
    """Tells versions of a run apart."""
    try:
        found = (folder / RECORD).stat()
    except OSError as error:
        raise InputError(
            f"{folder}: the run is not there any more ({error.strerror})",
            "if it was moved, start review again with its new path",
        ) from error
    return found.st_mtime_ns, found.st_ino
