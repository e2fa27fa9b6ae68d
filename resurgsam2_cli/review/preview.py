"""What clicks would make of an object in a frame, at once: the same code, and the same mask, as a correction."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.files.rle import decoded, encoded
from resurgsam2_cli.outputs import ObjectResult
from resurgsam2_cli.prompts.marks import Mark
from resurgsam2_cli.refining.changes import Changed, Changes
from resurgsam2_cli.refining.clicking import clicked
from resurgsam2_cli.refining.correction import SURE, Correction
from resurgsam2_cli.refining.kept import Kept, prompts_of
from resurgsam2_cli.refining.known import Known
from resurgsam2_cli.refining.refine import BuildEngine, continued, corrections_of, options_of
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.runs.record import Run
from resurgsam2_cli.runs.source import opened_source
from resurgsam2_cli.segmenting.placing import Placed
from resurgsam2_cli.segmenting.summary import Undertaking
from resurgsam2_cli.segmenting.timing import Timing
from resurgsam2_cli.video.positions import Position

_NEAR = 32
"""Frames around a click of which the network may want to know."""


class Preview:
    """Previews for one version of a run. Holds the features of the frames around the last one."""

    def __init__(self, run: Run, build: BuildEngine, sources: Path | None) -> None:
        self._lock = threading.Lock()
        with ExitStack() as opened:
            index = opened.enter_context(RunIndex(run))
            source = opened.enter_context(opened_source(run, sources))
            prompts = prompts_of(run)
            self.engine = build(any(x.words for x in prompts))
            self.engine.check_pointing("start the page with other weights: --weights NAME (resurgsam2 weights list)")
            undertaking = Undertaking(self.engine, source, prompts, options_of(run), Timing())
            self._index = index
            self._changes = opened.enter_context(Changes())
            self._known = Known(undertaking, index, Kept(), self._changes)
            self._open = opened.pop_all()

    def close(self) -> None:
        """Give back the video, and the room."""
        with self._lock:
            self._open.close()

    def clicked(self, draft: Sequence[Mark], clicks: Sequence[Mark], base: np.ndarray | None) -> dict[str, Any]:
        """COCO's RLE of the mask that ``clicks``, all of one object and frame, make.

        They count on the mask ``base``, (height, width) bool, or, if that is None, on what is there. ``draft`` is what
        was said of other objects and frames. Raises a :class:`~resurgsam2_cli.errors.UserError`.
        """
        with self._lock:
            self.engine.executor.begin()
            index, known = self._index, self._known
            kept = known.kept = Kept.of_run(index)
            row, step = int(clicks[0].name) - 1, index.step(clicks[0].position.frame or 0)
            assert step is not None
            self._take(draft, kept, step)
            placed = tuple(Placed(row, index.number(step), x) for x in clicks)
            counts = None if base is None else encoded(base)
            known.read_around(step)
            mask, _ = clicked(known, continued(Correction(row, step, step, "point", counts, placed), kept))
        if not mask.any():
            raise UsageError(
                "the network finds nothing there", "click elsewhere, draw the mask, or say that it is absent"
            )
        return {"size": list(mask.shape), "counts": encoded(mask)}

    def _take(self, draft: Sequence[Mark], kept: Kept, near: int) -> None:
        """Let the network know what was said elsewhere, as it will when the draft is followed."""
        self._changes.clear()
        run = self._index.run
        for x in corrections_of([_placed(mark, self._index) for mark in draft], self._index):
            kept.add(x.row, x.step, x.last)
            if x.stage == "confirmed":
                continue
            there, mask = x.counts is not None, decoded(x.counts, (run.height, run.width))
            result = ObjectResult(x.row + 1, x.stage, there, SURE if there else -SURE, 1.0, float(there), (), ())
            changed = Changed.of_mask(mask, result, 0)
            # Of a long stretch, the network gets to know its ends, and what is near.
            for step in {x.step, x.last, *range(max(x.step, near - _NEAR), min(x.last, near + _NEAR) + 1)}:
                self._changes.put(step, x.row, changed)


def _placed(mark: Mark, index: RunIndex) -> Placed:
    """A mark of a draft in its place."""
    run, frame = index.run, mark.position.frame or 0
    mask = None if mark.mask is None else mark.read_mask(run.width, run.height)
    if mark.absent:
        mask = np.zeros((run.height, run.width), bool)
    return Placed(int(mark.name) - 1, frame, mark, mask, None if mark.end is None else mark.end.frame)


def click(object_id: int, frame: int, points: Sequence[Any], box: Any) -> Mark:
    """Clicks of the page as a mark."""
    found = tuple((float(x), float(y), bool(on)) for x, y, on in points)
    return Mark(str(object_id), Position(frame=frame), found, None if box is None else tuple(box), by_id=True)
