"""Frames of a finished run as the outputs got them when it was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from model.initial_frame import presence
from resurgsam2_cli.files.rle import decoded
from resurgsam2_cli.outputs import FrameResult, ObjectResult
from resurgsam2_cli.outputs.base import Searched
from resurgsam2_cli.runs.reading import RunFrame, RunMask
from resurgsam2_cli.runs.record import FRAMES, Run, as_written
from resurgsam2_cli.video.frames import Frame

_NO_LABELS = np.zeros(0, np.uint8)


def known_result(
    run: Run,
    known: RunFrame,
    frame: Frame,
    ids: Mapping[int, int] | None = None,
    labels: np.ndarray = _NO_LABELS,
) -> FrameResult:
    """What a run says of a frame, with the picture that ``frame`` has.

    ``ids`` gives the objects other ids: a permutation of those that they have in the run. ``labels`` is the label image
    (height, width) uint8 with the new ids, which label outputs need: what objects have in common cannot be known from
    their masks. Raises :class:`~resurgsam2_cli.errors.InputError`.
    """
    names = ids or {x.id: x.id for x in run.objects}
    masks = np.zeros((len(names), run.height, run.width), bool)
    boxes: list[list[float] | None] = [None] * len(names)
    there = {names[x.object_id]: x for x in known.masks}
    for i, x in there.items():
        masks[i - 1], boxes[i - 1] = decoded(x.rle["counts"], (run.height, run.width)), x.box
    with as_written(run.folder / FRAMES):
        objects = [_object(x, names[x["id"]], there.get(names[x["id"]])) for x in known.states]
    objects.sort(key=lambda x: x.id)
    return FrameResult(known.number, known.name, frame.time, frame.rgb, masks, labels, objects, boxes)


def _object(state: dict[str, Any], ident: int, mask: RunMask | None) -> ObjectResult:
    iou, search = state["predicted_iou"], state.get("search")
    # The run has rounded numbers: the score that it has of the mask is exact, their product is not.
    exact = mask.score / iou if mask is not None and iou > 0 else presence(state["object_score"])
    return ObjectResult(
        ident,
        state["stage"],
        state["present"],
        state["object_score"],
        iou,
        exact,
        tuple(state.get("conditioning_frames", ())),
        tuple(state.get("long_term_frames", ())),
        state.get("direction", 1),
        None if search is None else Searched(search["present"], search["object_score"], search["predicted_iou"]),
    )
