"""The frames of a run that a person drew, confirmed or called absent: nothing is ever computed over them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.prompts.marks import Mark, objects_of, read_marks
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.runs.record import MARKS, Run


def prompts_of(run: Run) -> tuple[Prompt, ...]:
    """What a run was asked for."""
    return tuple(Prompt(x.text, x.label, x.words) for x in run.objects)


class Kept:
    """For each object, stretches of steps that are kept. They may overlap."""

    def __init__(self) -> None:
        self._stretches: dict[int, list[tuple[int, int]]] = {}
        self._clicks: dict[tuple[int, int], list[Mark]] = {}

    @classmethod
    def of_run(cls, index: RunIndex) -> Kept:
        """What marks.json of a run says. Raises a :class:`~resurgsam2_cli.errors.UserError`."""
        kept, path = cls(), index.run.folder / MARKS
        if not path.exists():
            return kept
        marks, prompts = read_marks(path), prompts_of(index.run)
        _, rows = objects_of(marks, prompts)
        for mark, row in zip(marks, rows, strict=True):
            first = None if mark.position.frame is None else index.step(mark.position.frame)
            last = first if mark.end is None else index.step(mark.end.frame or 0)
            if first is None or last is None or row >= len(prompts):
                raise InputError(
                    f"{mark}: the run has no such object or frame", f"restore {MARKS}, or move it away to start over"
                )
            kept.add(row, first, last)
            if mark.box or mark.mask is not None or not mark.points:  # a new start
                kept._clicks.pop((row, first), None)
            if mark.mask is None and (mark.box or mark.points):
                kept._clicks.setdefault((row, first), []).append(mark)
        return kept

    def clicks(self, row: int, step: int) -> list[Mark]:
        """The clicks in a frame since the last box or mask that was given there, with that box."""
        return self._clicks.get((row, step), [])

    def add(self, row: int, first: int, last: int) -> None:
        """Keep the steps from ``first`` to ``last``."""
        insort(self._stretches.setdefault(row, []), (first, last))

    def before(self, row: int, step: int) -> int:
        """The last kept step below ``step``; -1 if there is none."""
        found = [min(last, step - 1) for first, last in self._stretches.get(row, ()) if first < step]
        return max(found, default=-1)

    def after(self, row: int, step: int, end: int) -> int:
        """The first kept step above ``step``; ``end`` if there is none."""
        found = [max(first, step + 1) for first, last in self._stretches.get(row, ()) if last > step]
        return min(found, default=end)

    def nearest(self, row: int, step: int, most: int) -> list[int]:
        """Up to ``most`` kept steps around ``step`` to remember, in order: of a long stretch, its ends."""
        ends: Sequence[int] = sorted({x for stretch in self._stretches.get(row, ()) for x in stretch} - {step})
        at = bisect_left(ends, step)
        near = sorted(ends[max(0, at - most) : bisect_right(ends, step) + most], key=lambda x: abs(x - step))
        return sorted(near[:most])
