"""Where marks lie in a video: everything about them that can be wrong is found before the network is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from resurgsam2_cli.errors import InputError, UsageError, UserError
from resurgsam2_cli.files.rle import encoded
from resurgsam2_cli.prompts.marks import Mark, objects_of
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.video.frames import EmptyPart, Frame
from resurgsam2_cli.video.positions import Part, Position
from resurgsam2_cli.video.source import Source

_BACK = 1.0
"""Seconds before a time, in which the frame must begin that is shown then."""

_ROUNDING = 1e-6
"""Seconds by which a time may be off as it is written."""


@dataclass(frozen=True)
class Placed:
    """A mark in its place."""

    row: int
    frame: int
    """Of the source."""
    mark: Mark
    mask: np.ndarray | None = field(default=None, repr=False)
    """(height, width) bool"""
    end: int | None = None
    """The last frame that the mark is about, if not the only one."""


@dataclass(frozen=True)
class Grid:
    """Which frames of a source are segmented: every ``stride``-th from ``first`` on."""

    first: int
    stride: int
    height: int
    width: int
    end: Position | None
    last: int | None = None
    """The last frame, if they are those of a finished run."""

    def step(self, frame: int) -> int:
        """The place of a frame among those. Raises :class:`UsageError` if it is none."""
        step, off = divmod(frame - self.first, self.stride)
        if self.last is not None and (off or not self.first <= frame <= self.last):
            near = min(max(self.frame(step), self.first), self.last)
            raise UsageError(f"frame {frame} is not segmented: the run has {self._named()}", f"mark frame {near}, say")
        if step < 0 or off or (self.end is not None and self.end.frame is not None and frame >= self.end.frame):
            raise UsageError(
                f"frame {frame} is not segmented: the part has {self._named()}",
                "mark one of these; --start, --end and --stride say which are segmented",
            )
        return step

    def _named(self) -> str:
        """All of them, in words."""
        last = self.last
        if last is None and self.end is not None and self.end.frame is not None:
            last = self.end.frame - 1
        every = f", one in {self.stride}" if self.stride > 1 else ""
        return f"the frames from {self.first} {'on' if last is None else f'to {last}'}{every}"

    def frame(self, step: int) -> int:
        """The frame at a place."""
        return self.first + step * self.stride

    def part(self, first: int, end: int | None = None) -> Part:
        """The frames from one step up to another."""
        stop = self.end if end is None else Position(frame=self.frame(end))
        return Part(Position(frame=self.frame(first)), stop, self.stride)


def grid_of(source: Source, part: Part) -> Grid:
    """Read the first frame of a part. Raises :class:`InputError`."""
    with closing(source.frames(part)) as frames:
        first = next(frames)
    height, width, _ = first.rgb.shape
    return Grid(first.number, part.stride, height, width, part.end)


def grid_of_run(index: RunIndex) -> Grid:
    """The frames that a finished run has."""
    run = index.run
    last = index.number(len(index) - 1)
    return Grid(index.number(0), run.part.stride, run.height, run.width, run.part.end, last)


def with_marks(
    source: Source, part: Part, prompts: tuple[Prompt, ...], marks: Sequence[Mark]
) -> tuple[tuple[Prompt, ...], tuple[Placed, ...]]:
    """All objects of a run, and where they are pointed at. Raises a :class:`~resurgsam2_cli.errors.UserError`."""
    if not marks:
        return prompts, ()
    check_first(marks)
    objects, rows = objects_of(marks, prompts)
    return objects, tuple(placed(source, grid_of(source, part), marks, rows))


def check_first(marks: Iterable[Mark]) -> None:
    """Raise :class:`UsageError` for a mark that only corrects a finished run."""
    for mark in marks:
        if mark.confirmed or mark.end is not None:
            raise UsageError(
                f"{mark}: is about the masks of a finished run", "correct that: resurgsam2 refine RUN --mark ..."
            )


def placed(source: Source, grid: Grid, marks: Sequence[Mark], rows: Sequence[int]) -> list[Placed]:
    """Marks in their places, with everything about them checked that can be without the network.

    Raises a :class:`~resurgsam2_cli.errors.UserError` that names the mark.
    """
    found = []
    nothing = np.zeros((grid.height, grid.width), bool)  # one for all: ten thousand of them would take gigabytes
    for mark, row in zip(marks, rows, strict=True):
        mark.check_inside(grid.width, grid.height)
        mask = None if mark.mask is None else mark.read_mask(grid.width, grid.height)
        if mark.absent:
            mask = nothing
        found.append((row, mark, mask))
    frames = _frames_of(source, grid, [*marks, *(replace(x, position=x.end) for x in marks if x.end is not None)])
    result = [
        Placed(row, frames[mark.position], mark, mask, None if mark.end is None else frames[mark.end])
        for row, mark, mask in found
    ]
    for x in result:
        if x.end is not None and x.end < x.frame:
            raise UsageError(f"{x.mark}: ends before it begins", "write the first frame first")
        try:
            for frame in (x.frame, x.frame if x.end is None else x.end):
                grid.step(frame)
        except UsageError as error:
            raise UsageError(f"{x.mark}: {error.message}", error.hint) from error
    result = _last_words(result)
    _check_together(result)
    return result


def _last_words(marks: list[Placed]) -> list[Placed]:
    """Marks without those that a later one took back, in files that say when each was made, as marks.json does."""
    dropped: set[int] = set()
    for group in grouped(marks).values():
        if all(x.mark.when for x in group):
            changes = [i for i, x in enumerate(group) if i and x.mark.absent != group[i - 1].mark.absent]
            dropped |= {id(x) for x in group[: changes[-1] if changes else 0]}
    return [x for x in marks if id(x) not in dropped]


def _frames_of(source: Source, grid: Grid, marks: Sequence[Mark]) -> dict[Position, int]:
    """The frame numbers that positions mean: a time means the frame of the part that is shown then."""
    known: dict[Position, int] = {}
    last = -1
    # The last frame first: where that one is, so are those before it.
    for mark in sorted(marks, key=lambda x: -(x.position.frame or 0)):
        position = mark.position
        if position in known:
            continue
        if position.frame is not None and position.frame < max(last, grid.first):
            known[position] = position.frame
            continue
        try:
            number = _shown_at(source, grid, position)
        except (InputError, UsageError) as error:
            hint = "change the mark" if grid.end is None or grid.last is not None else "change the mark, or --end"
            raise InputError(f"{mark}: there is no frame {position} ({_beyond(error, grid)})", hint) from error
        last = max(last, number)
        if position.frame is None and number > grid.first:
            number -= (number - grid.first) % grid.stride
        known[position] = number
    return known


def _beyond(error: UserError, grid: Grid) -> str:
    """Why there is no frame at a position."""
    if isinstance(error, EmptyPart) and error.frames is not None:
        return f"the last one is {error.frames - 1}"
    if isinstance(error, EmptyPart | UsageError):
        if grid.last is not None:
            return f"the last one is {grid.last}"
        return "it lies beyond the last one" if grid.end is None else f"it lies beyond --end {grid.end}"
    return error.message


def _shown_at(source: Source, grid: Grid, position: Position) -> int:
    """The frame with a number, or the one that is shown at a time. Raises :class:`InputError`, :class:`UsageError`."""
    if position.frame is not None:
        with closing(source.frames(Part(position, grid.end))) as frames:
            return next(frames).number
    time = position.seconds or 0.0
    shown: Frame | None = None
    with closing(source.frames(Part(Position(seconds=max(0.0, time - _BACK)), grid.end))) as frames:
        for frame in frames:
            if frame.time > time + _ROUNDING:
                return frame.number if shown is None else shown.number
            shown = frame
    assert shown is not None
    over = shown.time + 1 / source.rate
    if float(over) <= time:
        if grid.end is not None and grid.end.reached(shown.number + 1, float(over)):
            raise InputError(f"it lies beyond --end {grid.end}", "name an earlier time")
        raise InputError(f"the last one is shown at {float(shown.time):.3f}s", "name an earlier time")
    return shown.number


def _check_together(marks: Sequence[Placed]) -> None:
    """Raise :class:`UsageError` for marks that contradict one another."""
    for (row, frame), group in grouped(marks).items():
        kinds = [x.mark.absent for x in group]
        if any(kinds) and not all(kinds):
            other = next(x for x in group if not x.mark.absent)
            raise UsageError(
                f"{other.mark}: another mark says that the object is absent in this frame", "leave one of them out"
            )
        if sum(x.mark.box is not None for x in group) > 1:
            raise UsageError(f"{group[-1].mark}: frame {frame} has two boxes of object {row + 1}", "leave one out")


def grouped(marks: Iterable[Placed]) -> dict[tuple[int, int], list[Placed]]:
    """Marks by object and frame, each group in the order in which they were made."""
    groups: dict[tuple[int, int], list[Placed]] = {}
    for x in marks:
        groups.setdefault((x.row, x.frame), []).append(x)
    return groups


def marks_record(marks: Sequence[Placed], prompts: Sequence[Prompt]) -> dict[str, Any]:
    """The content of marks.json: what was pointed at, and when; ``--marks`` takes it again."""
    return {"marks": [mark_entry(x, prompts) for x in marks]}


def mark_entry(x: Placed, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """An item of marks.json."""
    labels = [y.label for y in prompts]
    label = labels[x.row]
    entry: dict[str, Any] = {"object": label if labels.count(label) == 1 else x.row + 1, "frame": x.frame}
    if x.end is not None:
        entry["end"] = x.end
    if x.mark.points:
        entry["points"] = [[px, py, int(on)] for px, py, on in x.mark.points]
    if x.mark.box is not None:
        entry["box"] = list(x.mark.box)
    for name in ("absent", "confirmed", "imported"):
        if getattr(x.mark, name):
            entry[name] = True
    if not x.mark.absent and x.mask is not None:
        entry["mask"] = {"size": list(x.mask.shape), "counts": encoded(x.mask)}
    return {**entry, "when": x.mark.when or datetime.now(UTC).isoformat(timespec="seconds")}
