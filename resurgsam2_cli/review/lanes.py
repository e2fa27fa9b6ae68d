"""A lane per object: in which frames it is there, at which stage, how sure the network was, and what a person kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.refining.signals import KEPT
from resurgsam2_cli.runs.reading import read_states
from resurgsam2_cli.runs.record import Run

STAGES = ("absent", "detect", "track", *sorted(KEPT - {"absent"}), "said absent")
"""What a cell of a lane says, by its number. The last ones are a person's words."""

_KEPT = STAGES.index("confirmed")
_SAID_ABSENT = STAGES.index("said absent")

MOST_CELLS = 4096


@dataclass(frozen=True)
class Lanes:
    """All frames of a run, a row for each object."""

    stages: NDArray[np.uint8]
    """(objects, frames), numbers of :data:`STAGES`"""
    scores: NDArray[np.uint8]
    """(objects, frames): predicted IoU in percent"""
    passes: NDArray[np.uint16]
    """(objects, frames): the version that made the mask"""

    @classmethod
    def of_run(cls, run: Run) -> Lanes:
        """Read all frames. Raises :class:`~resurgsam2_cli.errors.InputError`."""
        shape = (len(run.objects), run.frames)
        lanes = cls(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8), np.zeros(shape, np.uint16))
        for step, (*_, states) in enumerate(read_states(run)):
            for row, state in enumerate(states):
                lanes.stages[row, step] = _code(state)
                lanes.scores[row, step] = round(100 * min(1.0, max(0.0, state["predicted_iou"])))
                version = state.get("pass", 0)
                lanes.passes[row, step] = min(version, 2**16 - 1) if type(version) is int and version >= 0 else 0
        return lanes

    def cells(self, first: int, end: int, count: int) -> dict[str, Any]:
        """The frames from ``first`` up to ``end`` in ``count`` cells, or one for each frame if these are fewer.

        A cell of several frames shows what a person said in one of them, else whether the object is there in one, and
        the lowest score of those in which it is. Raises :class:`UsageError` for frames that the run has not.
        """
        frames = self.stages.shape[1]
        if not (0 <= first < end <= frames and 0 < count <= MOST_CELLS):
            raise UsageError(f"the frames {first} to {end} of {frames}, in {count} cells", "ask for others")
        count = min(count, end - first)
        borders = np.linspace(first, end, count + 1).astype(np.intp)
        starts, window = borders[:-1] - first, slice(first, end)
        stages, scores = self.stages[:, window], self.scores[:, window]
        there = (stages > 0) & (stages != _SAID_ABSENT)
        return {
            "borders": borders.tolist(),
            # Numbers of stages rise with what is to be seen: nothing, the network's, a person's.
            "stages": np.maximum.reduceat(stages, starts, axis=1).tolist(),
            "scores": np.minimum.reduceat(np.where(there, scores, 255), starts, axis=1).tolist(),
            "passes": np.maximum.reduceat(self.passes[:, window], starts, axis=1).tolist(),
        }

    def looks(self, apart: int) -> int:
        """At how many places a person said what is true; frames that are ``apart`` or less are one place."""
        found = 0
        for stages in self.stages:
            steps = np.flatnonzero(stages >= _KEPT)
            found += len(steps) and 1 + int(np.count_nonzero(np.diff(steps) > apart))
        return found

    def next_change(self, row: int, step: int, direction: int, what: str) -> int | None:
        """The next step where an object appears ("appearance"), or that a person kept ("kept"); None if there is none.

        ``direction`` is 1 or -1.
        """
        stages = self.stages[row]
        if what == "kept":
            found = stages >= _KEPT
        else:
            there = (stages > 0) & (stages != _SAID_ABSENT)
            found = there & ~np.concatenate(([False], there[:-1]))
        steps = np.flatnonzero(found)
        steps = steps[steps > step] if direction > 0 else steps[steps < step]
        return None if not len(steps) else int(steps[0] if direction > 0 else steps[-1])


def _code(state: dict[str, Any]) -> int:
    stage = state["stage"]
    if stage in KEPT:
        return _SAID_ABSENT if stage == "absent" or not state["present"] else STAGES.index(stage)
    if not state["present"]:
        return 0
    return STAGES.index("detect") if stage == "detect" else STAGES.index("track")
