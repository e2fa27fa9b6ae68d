"""From a finished run and what a person says of it to the next version of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from model import Rules
from resurgsam2_cli.edits.corrections import Correction as Edit
from resurgsam2_cli.edits.corrections import read_corrections
from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.files.rle import encoded
from resurgsam2_cli.files.text import did_you_mean
from resurgsam2_cli.outputs.cleaning import Cleaning
from resurgsam2_cli.prompts.marks import Mark, objects_of
from resurgsam2_cli.prompts.prompt import Prompt, check_different, checked
from resurgsam2_cli.refining.changes import Changes
from resurgsam2_cli.refining.correction import Correction
from resurgsam2_cli.refining.kept import Kept, prompts_of
from resurgsam2_cli.refining.overlay import OverlayOf
from resurgsam2_cli.refining.seen import check_seen
from resurgsam2_cli.refining.tracking import Follower, Reach
from resurgsam2_cli.refining.versions import NextVersion, Placing, Said
from resurgsam2_cli.refining.widening import indexed
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.runs.record import MARKS, RECORD, Run, as_written, raw_marks, raw_record, read_run
from resurgsam2_cli.runs.source import opened_source
from resurgsam2_cli.segmenting.engine import Engine
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.placing import Placed, grid_of_run, grouped, mark_entry, placed
from resurgsam2_cli.segmenting.session import Watch
from resurgsam2_cli.segmenting.summary import Undertaking, weights_record
from resurgsam2_cli.segmenting.timing import Timing
from resurgsam2_cli.video.positions import Position
from resurgsam2_cli.video.source import Source

BuildEngine = Callable[[bool], Engine]
"""Makes the engine, with or without what only texts need."""


@dataclass(frozen=True)
class Given:
    """What a person gives for the next version of a run."""

    marks: Sequence[Mark] = ()
    added: Sequence[Prompt] = ()
    """New objects: searched for by their words, if they have any, and followed from their marks to both ends."""
    edited: Path | None = None
    """What was corrected elsewhere, or the run itself, if its images were."""
    reach: Reach = field(default_factory=Reach)


@dataclass(frozen=True)
class Refined:
    """The end of a correction."""

    folder: Path
    version: int
    frames: int
    """How many frames changed."""
    masks: int
    """How many masks were taken from elsewhere."""
    timing: Timing
    replaced: int = 0
    """How many of these masks take the place of what earlier corrections had made."""
    not_listed: frozenset[int] = frozenset()
    """The objects whose labels the files from elsewhere do not list, so that these say nothing of them."""


def refine(
    folder: Path,
    given: Given,
    build: BuildEngine,
    *,
    sources: Path | None = None,
    watch: Watch = lambda *_: None,
    placing: Placing = nullcontext,
) -> Refined:
    """Correct a finished run by what a person has ``given``.

    The next version takes the run's place as a whole, or the run stays as it was, which it also does if nothing is to
    be changed. ``sources`` is the folder where the videos are now; ``placing`` is entered while the version takes its
    place. Raises a :class:`~resurgsam2_cli.errors.UserError`.
    """
    edited = given.edited
    with NextVersion(folder) as version:
        run, timing = read_run(folder), Timing()
        version.check(run)
        for x in given.added:
            if not x.words and x.label in (y.label for y in run.objects):
                raise UsageError(f"{run.name} has an object {x.label!r} already", "give the new one another name")
        check_different(given.added, prompts_of(run))
        with indexed(run, given.added, version.partial) as index, opened_source(run, sources) as source:
            prompts, options, kept = checked(prompts_of(index.run)), options_of(run), Kept.of_run(index)
            where = _placed(source, index, given.marks)
            corrections = [continued(x, kept) for x in corrections_of(where, index)]
            entries = [mark_entry(x, prompts) for x in where]
            taken: list[Correction] = []
            not_listed: set[int] = set()
            if edited is not None:
                found = read_corrections(edited, run, not_listed.update)
                taken = _take_edits(found, index, corrections, entries)
                corrections += taken
                for row, x in enumerate(given.added, start=len(run.objects)):
                    if not x.words and row not in (y.row for y in corrections):
                        raise UsageError(
                            f"{x.label}: neither a mark nor {edited} shows this new object",
                            "draw it there under this label, or point at it with a mark",
                        )
            if not corrections and not given.added:
                return Refined(version.folder, version.number - 1, 0, 0, timing, not_listed=frozenset(not_listed))
            replaced = 0
            for step, group in groupby(taken, key=lambda x: x.step):  # edits come in the order of the frames
                states = index.frame(step).states
                replaced += sum(states[x.row].get("pass", 0) > 0 for x in group)
            new = range(len(run.objects), len(prompts))
            engine = _engine_for(corrections, new, prompts, build)
            engine.executor.begin()
            undertaking = Undertaking(engine, source, prompts, options, timing)
            with Changes(version.partial) as changes:
                follower = Follower(undertaking, index, kept, changes, given.reach, version.number, new)
                follower.search([row for row in new if prompts[row].words], watch)
                follower.follow(corrections, watch)
                in_place = edited is not None and run.folder.resolve() in (edited.resolve(), *edited.resolve().parents)
                said = Said([*raw_marks(run.folder / MARKS), *entries], len(entries), in_place, weights_record(engine))
                record = version.write(index, changes, said, OverlayOf(source).redraw)
        with placing():
            version.complete(record)
    frames = record["versions"][-1]["frames"]
    return Refined(version.folder, version.number, frames, len(taken), timing, replaced, frozenset(not_listed))


def _take_edits(
    edits: Iterable[Edit], index: RunIndex, corrections: Sequence[Correction], entries: list[dict[str, Any]]
) -> list[Correction]:
    """What was edited, beside the ``corrections`` by marks; it is added to what marks.json says."""
    taken: list[Correction] = []
    prompts, known = prompts_of(index.run), {(x.row, x.step) for x in corrections}
    for x in edits:
        row, step, there = x.object_id - 1, index.step(x.frame), bool(x.mask.any())
        assert step is not None
        if (row, step) in known:
            raise UsageError(
                f"object {x.object_id} in frame {x.frame}: a mark and what was edited both say what it is",
                "leave one of them out",
            )
        mark = Mark(str(x.object_id), Position(frame=x.frame), absent=not there, imported=True, by_id=True)
        stage, counts = ("imported", encoded(x.mask)) if there else ("absent", None)
        taken.append(Correction(row, step, step, stage, counts, denies=not there))
        entries.append(mark_entry(Placed(row, x.frame, mark, x.mask), prompts))
    return taken


def _engine_for(
    corrections: Sequence[Correction], new: Sequence[int], prompts: Sequence[Prompt], build: BuildEngine
) -> Engine:
    """The engine that corrections and new objects need.

    Raises :class:`WeightsProblem` for one that cannot be pointed at.
    """
    rows = {x.row for x in corrections if x.spreads}
    engine = build(any(prompts[row].words for row in (*rows, *new)))
    if rows:
        engine.check_pointing("use other weights: --weights NAME (resurgsam2 weights list)")
    return engine


def _placed(source: Source, index: RunIndex, marks: Sequence[Mark]) -> list[Placed]:
    """Marks in their places, everything about them checked that can be without the network."""
    run = index.run
    prompts = prompts_of(index.run)
    objects, rows = objects_of(marks, prompts)
    if len(objects) > len(prompts):
        known = ", ".join(repr(x.label) for x in prompts)
        unknown = next(m for m, row in zip(marks, rows, strict=True) if row >= len(prompts))
        near = did_you_mean(unknown.name, [x.label for x in prompts])
        raise UsageError(
            f"{unknown}: {run.name} has no object {unknown.name!r}",
            f"{near}its objects are {known}; for a new one: --new {unknown.name!r}",
        )
    where = placed(source, grid_of_run(index), marks, rows)
    for x in where:
        for number in (x.frame, x.frame if x.end is None else x.end):
            if index.step(number) is None:
                raise UsageError(
                    f"{x.mark}: {run.name} has no frame {number}",
                    f"its frames are {index.number(0)} to {index.number(len(index) - 1)}",
                )
    check_seen(where, index)
    return where


def corrections_of(where: Sequence[Placed], index: RunIndex) -> Iterator[Correction]:
    """What marks say, for each object and frame together."""
    for (row, frame), group in grouped(where).items():
        first, last = index.step(frame), index.step(group[-1].end or frame)
        assert first is not None
        assert last is not None
        kinds = {_stage(x) for x in group}
        if len(kinds & {"confirmed", "absent"}) and len(kinds) > 1:
            raise UsageError(f"{group[-1].mark}: another mark of this frame says something else", "leave one out")
        drawn = max((i for i, x in enumerate(group) if x.mask is not None), default=-1)
        mask = group[drawn].mask if drawn >= 0 else None
        counts = None if mask is None or not mask.any() else encoded(mask)
        clicks = tuple(x for x in group[drawn + 1 :] if x.mark.points or x.mark.box)  # those before made the mask
        denies = all(x.mark.absent or (x.mark.points and _denies(x.mark)) for x in group)
        yield Correction(row, first, last, "point" if clicks else _stage(group[-1]), counts, clicks, denies)


def _denies(mark: Mark) -> bool:
    """Whether all clicks of a mark are beside the object."""
    return mark.box is None and not any(on for *_, on in mark.points)


def continued(x: Correction, kept: Kept) -> Correction:
    """Clicks come after the earlier ones of their frame, unless a box or a mask makes a new start."""
    if not x.clicks or x.counts is not None or any(y.mark.box is not None for y in x.clicks):
        return x
    first = x.clicks[0]
    earlier = tuple(Placed(x.row, first.frame, mark) for mark in kept.clicks(x.row, x.step))
    return replace(x, clicks=(*earlier, *x.clicks), denies=x.denies and all(map(_denies, kept.clicks(x.row, x.step))))


def _stage(x: Placed) -> str:
    mark = x.mark
    if mark.confirmed:
        return "confirmed"
    if mark.absent:
        return "absent"
    if x.mask is None or x.mark.points or x.mark.box:
        return "point"
    return "imported" if mark.imported else "drawn"


def options_of(run: Run) -> SegmentOptions:
    """How a run was segmented. Raises :class:`InputError`."""
    with as_written(run.folder / RECORD):
        settings = raw_record(run.folder)["settings"]
        rules = Rules(**{x.name: settings[x.name] for x in fields(Rules)})
        cleaning = Cleaning(**{x.name: int(settings.get(x.name, x.default)) for x in fields(Cleaning)})
        return SegmentOptions(part=run.part, rules=rules, threshold=float(settings["threshold"]), cleaning=cleaning)
