"""Finding again what tracking lost: its words are searched for beside tracking, and CIFS's rule decides as at first.

The published code never looks again. This is off by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from model.config import Rules
from model.initial_frame import Candidate, Evidence, InitialFrameSelector


@dataclass(frozen=True)
class FindAgain:
    """When to look."""

    after: int = 10
    """Frames in a row in which tracking says that the object is absent."""
    every: int = 5
    """Look in every so many frames; in each one while the object is credible."""
    agreement: float = 0.5
    """What tracking takes for the object, after it was absent for so long, must have this IoU with what the words find.
    0 believes tracking."""

    def __post_init__(self) -> None:
        if self.after < 1 or self.every < 1:
            raise ValueError(f"after and every must be at least 1, not {self.after} and {self.every}")


@dataclass
class _Lost:
    since: int
    absent: int = 0


class Finder(Generic[Evidence]):
    """Which objects are lost, and whether they are credible again. Pure decisions on numbers."""

    def __init__(self, when: FindAgain, rules: Rules) -> None:
        self.when = when
        self._rules = rules
        self._lost: dict[int, _Lost] = {}
        self._selectors: dict[int, InitialFrameSelector[Evidence]] = {}

    def begin(self) -> None:
        """A pass begins."""
        self._lost.clear()
        self._selectors.clear()

    def due(self, frame: int, present: dict[int, bool]) -> list[int]:
        """Of objects that tracking says are ``present`` or not, those to look for in this frame."""
        rows = []
        for row, there in present.items():
            if there and row not in self._lost:
                continue
            lost = self._lost.setdefault(row, _Lost(frame))
            long = lost.absent >= self.when.after
            if there and not long:
                self.found(row)
                continue
            lost.absent += not there
            selector = self._selectors.get(row)
            credible = selector is not None and bool(selector.run) and selector.run[-1].frame == frame - 1
            if long and (there or credible or frame % self.when.every == 0):
                rows.append(row)
        return rows

    def observe(
        self, row: int, frame: int, object_score: float, predicted_iou: float, evidence: Evidence
    ) -> list[Candidate[Evidence]]:
        """Show what the words found; returns the credible frames once they are enough, the chosen one first."""
        selector = self._selectors.setdefault(row, InitialFrameSelector(self._rules))
        chosen = selector.observe(frame, object_score, predicted_iou, evidence)
        if chosen is None:
            return []
        run = [x for x in selector.run if x.frame > chosen.frame]
        self.found(row)
        return [chosen, *run]

    def since(self, row: int) -> int:
        """The first frame in which an object was lost that :meth:`due` named."""
        return self._lost[row].since

    def found(self, row: int) -> None:
        """The object is there."""
        self._lost.pop(row, None)
        self._selectors.pop(row, None)
