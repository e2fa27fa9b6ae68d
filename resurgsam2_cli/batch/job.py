"""What a batch does with each of its videos."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resurgsam2_cli.batch.items import Cut, Item, Outcome, Progress
from resurgsam2_cli.batch.standing import Asked, difference
from resurgsam2_cli.errors import InputError, UserError
from resurgsam2_cli.files.atomic import writing
from resurgsam2_cli.files.filling import Busy, naming, partial_of, throw_away
from resurgsam2_cli.files.kinds import check_free
from resurgsam2_cli.files.urls import is_url
from resurgsam2_cli.prompts.prompt import checked
from resurgsam2_cli.runs.find import pieces_of
from resurgsam2_cli.runs.folder import RUN, Wanted
from resurgsam2_cli.runs.record import MARKS, raw_record
from resurgsam2_cli.runs.sums import corrections, missing
from resurgsam2_cli.video.frames import Reading, empty_part
from resurgsam2_cli.video.remote import RemoteSource
from resurgsam2_cli.video.source import Source, has_images, open_source, source_path

if TYPE_CHECKING:
    from resurgsam2_cli.outputs import FrameResult
    from resurgsam2_cli.segmenting.engine import Engine
    from resurgsam2_cli.segmenting.options import SegmentOptions
    from resurgsam2_cli.segmenting.summary import Summary
    from resurgsam2_cli.segmenting.writing import Watcher

_TELL_EVERY = 0.2  # seconds


@dataclass(frozen=True)
class Plan:
    """What :meth:`Job.run` would do with a video."""

    state: str
    """"new", "skipped", "changed" or "replace"."""
    frames: int | None
    """An estimate; None if it is unknown."""
    note: str | None = None


@dataclass(frozen=True)
class Job:
    """The work of a batch."""

    out: Path
    options: SegmentOptions
    asked: Asked
    reading: Reading = field(default_factory=Reading)
    overwrite: bool = False
    """Replace runs that differ from what is asked for now."""
    verbose: bool = False
    """Print errors with their causes."""

    def plan(self, item: Item) -> Plan:
        """What :meth:`run` would do; changes nothing. Raises a :class:`~resurgsam2_cli.errors.UserError`."""
        if is_url(item.source):
            self._check(item)
            return self._plan(item, RemoteSource(item.source), None)  # not fetched: how long it is, is not known
        with self._source(item) as source:
            self._check(item)
            frames = source.expected(self.options.part)
            if frames == 0:
                raise empty_part(Path(item.source), None)
            return self._plan(item, source, frames)

    def _plan(self, item: Item, source: Source | RemoteSource, frames: int | None) -> Plan:
        wanted = self._wanted(item, source)
        path, record = wanted.find()
        if record is None:
            check_free(path, RUN, overwrite=False)
            return Plan("new", frames)
        reason = self._difference(path, record, item, wanted)
        if not reason:
            return Plan("skipped", frames, "complete already")
        words = self._differs(path, reason, hint=not self.overwrite)
        return Plan("replace" if self.overwrite else "changed", frames, words)

    def run(self, item: Item, engine: Engine, tell: Callable[[Progress], None]) -> Outcome | Cut:
        """Segment one video, or skip it if that is done already; a :class:`UserError` becomes an outcome.

        A video that is to be done in pieces gives these instead.

        ``tell`` is told how far it is, a few times per second. Raises :class:`Busy` while another program works on it.
        """
        begin = time.perf_counter()
        try:
            outcome = self._run(item, engine, tell)
        except Busy:
            raise
        except UserError as error:
            if self.verbose:
                traceback.print_exc()
            return Outcome(item.key, "failed", error=error.message, note=error.hint or None)
        except Exception as error:  # a bug: keep its traceback, and do the other videos all the same
            traceback.print_exc()
            return Outcome(item.key, "failed", error=f"{type(error).__name__}: {error}")
        if isinstance(outcome, Cut):
            return outcome
        if outcome.is_there and outcome.folder is not None and (pieces := pieces_of(Path(outcome.folder))).exists():
            with suppress(OSError):
                throw_away(pieces)  # the run is there, however it was made
        if not outcome.frames:
            return outcome
        return replace(outcome, seconds=round(time.perf_counter() - begin, 3))

    def _run(self, item: Item, engine: Engine, tell: Callable[[Progress], None]) -> Outcome | Cut:
        if is_url(item.source):
            self._check(item)
            if (known := self._known(item)) is not None:
                return known
        with self._source(item) as source:
            self._check(item)
            wanted = self._wanted(item, source)
            path, record = wanted.find()
            if record is None or partial_of(path).exists():
                with naming(self.out / item.parent), writing(self.out):
                    path, record = wanted.settle()
            note = None
            if record is not None:
                reason = self._difference(path, record, item, wanted)
                if not reason:
                    return Outcome(item.key, "skipped", str(path), note="complete already")
                if not self.overwrite:
                    return Outcome(item.key, "changed", str(path), note=self._differs(path, reason))
                note = f"replaced: {self._differs(path, reason, hint=False)}"
            summary = self._made(item, source, wanted, record, engine, tell)
            if isinstance(summary, Cut):
                return summary
            missing = ", ".join(x["label"] for x in summary.record["objects"] if x["first_present"] is None)
            notes = [*([note] if note else []), *([f"not found: {missing}"] if missing else [])]
            note = "; ".join([*notes, *summary.record["warnings"]]) or None
            return Outcome(item.key, "done", str(summary.folder), summary.record["source"]["frames"], note=note)

    def _made(
        self,
        item: Item,
        source: Source,
        wanted: Wanted,
        record: dict[str, Any] | None,
        engine: Engine,
        tell: Callable[[Progress], None],
    ) -> Summary | Cut:
        """The run, in place of the one with the ``record``, if there is one."""
        from resurgsam2_cli.segmenting.pipeline import segment

        with wanted.claim_instead_of(record) as folder:
            total = None if self.options.in_passes else source.expected(self.options.part)
            watch = watcher(item, total, tell)
            return segment(engine, source, item.prompts, self.options, folder, watch, watch)

    def _known(self, item: Item) -> Outcome | None:
        """The outcome of a source that need not be fetched."""
        wanted = self._wanted(item, RemoteSource(item.source))
        path, record = wanted.find()
        if record is None or self._difference(path, record, item, wanted):
            return None
        return Outcome(item.key, "skipped", str(path), note="complete already")

    def _difference(self, path: Path, record: dict[str, Any], item: Item, wanted: Wanted) -> str:
        """How a finished run differs from what is asked; also if some of it was deleted."""
        reasons = [difference(record, self.asked, item.prompts, wanted.identity)]
        reasons += [f"{name} is missing" for name in self._missing(path)]
        return "; ".join(x for x in reasons if x)

    def _missing(self, path: Path) -> list[str]:
        return missing(path)

    def _check(self, item: Item) -> None:
        if not item.prompts:
            raise InputError(
                f"{item.source}: the prompt file has nothing for {item.stem!r}", "add a row for it, or leave it out"
            )
        checked(item.prompts)

    def _source(self, item: Item) -> Any:
        has_rate = not item.is_folder and not has_images(item.source)
        return open_source(item.source, replace(self.reading, frame_rate=None) if has_rate else self.reading)

    def _wanted(self, item: Item, source: Source | RemoteSource) -> Wanted:
        return Wanted(self.out / item.parent, source.name, source_path(source), source.identity(), item.beside)

    def _differs(self, path: Path, reason: str, *, hint: bool = True) -> str:
        """The reason, and what the user would lose."""
        by_hand = corrections(path)
        what = "pointed at" if by_hand == [MARKS] and "versions" not in raw_record(path) else "corrected"
        words = f"{reason}; {what} by hand: {', '.join(by_hand)}" if by_hand else reason
        return f"{words} (--overwrite does it again)" if hint else words


def watcher(item: Item, total: int | None, tell: Callable[[Progress], None]) -> Watcher:
    """Tells of each frame, a few times per second."""
    from resurgsam2_cli.outputs.stages import stages

    frames, last = 0, time.monotonic()

    def watch(result: FrameResult) -> None:
        nonlocal frames, last
        frames += 1
        now = time.monotonic()
        if now - last >= _TELL_EVERY:
            last = now
            tell(Progress(frames, total, stages(item.prompts, result)))

    return watch
