"""The two-stage algorithm: all objects of one video, each searched for or tracked, one frame per step.

An object is searched for (CSTMamba) until CIFS has chosen a credible frame. From the next frame to the end it is
tracked (memory attention over DLM). Objects in the same stage share one call of the network.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from model.config import NetworkConfig, Rules
from model.image_encoder import ImageFeatures
from model.initial_frame import Candidate, InitialFrameSelector
from model.layers import to_device
from model.memory import Buffers, Memory, RecallTable
from model.memory_bank import MemoryBank
from model.network import Prediction
from model.text_encoder import Prompts

Stage = Literal["detect", "track"]


@dataclass(frozen=True)
class ObjectState:
    """What is known of one object after a frame. Frame numbers count the segmenter's steps from 0."""

    stage: Stage
    """The stage that made this frame's mask."""
    object_score: float
    """Logit: above 0 the object is present."""
    predicted_iou: float
    conditioning_frames: tuple[int, ...]
    """Those chosen by the end of this frame; empty while the object is searched for."""
    long_term_frames: tuple[int, ...]
    """Those held when this frame was tracked, before the frame itself was remembered."""
    long_term_candidates: tuple[int, ...]
    """The pool at that time."""

    @property
    def present(self) -> bool:
        """Whether the object is in this frame."""
        return self.object_score > 0


class Step(NamedTuple):
    """The result of one frame."""

    mask_logits: Tensor
    """(objects, size / 4, size / 4) in float32, on the network's device"""
    objects: list[ObjectState]


class _Evidence(NamedTuple):
    """What a detected frame needs to become a memory later, as the stream does not go back."""

    main: Tensor
    mask_logits: Tensor
    object_score: Tensor
    pointer: Tensor


class Verbs(Protocol):
    """What a segmenter asks of the network, or of the :class:`~model.executor.Executor` that runs it."""

    @property
    def config(self) -> NetworkConfig:
        """The sizes of the network."""
        ...

    def detect(self, features: ImageFeatures, earlier: list[Tensor], prompts: Prompts) -> Prediction:
        """As :meth:`.ReSurgSAM2.detect`."""
        ...

    def follow(self, features: ImageFeatures, buffers: Buffers, table: RecallTable, prompts: Prompts) -> Prediction:
        """As :meth:`.ReSurgSAM2.follow`."""
        ...

    def memorize(self, main: Tensor, mask_logits: Tensor, object_score: Tensor) -> Tensor:
        """As :meth:`.ReSurgSAM2.memorize`."""
        ...

    def memory(self, objects: int, rules: Rules) -> Memory:
        """As :meth:`.ReSurgSAM2.memory`."""
        ...


class Segmenter:
    """Steps all objects of one video through its frames, in memory that does not grow.

    ``clip_length`` is the number of frames to come, if it is known. It matters in short clips only: see
    :class:`~model.memory_bank.MemoryBank`.
    """

    def __init__(
        self,
        network: Verbs,
        prompts: Prompts,
        rules: Rules | None = None,
        clip_length: int | None = None,
    ) -> None:
        self._network = network
        self._prompts = prompts
        self._rules = rules or Rules()
        if self._rules.recent >= network.config.memory.slots:
            raise ValueError(f"recent must be below {network.config.memory.slots}, the network's temporal slots")
        if self._rules.context >= network.config.fusion.frames:
            raise ValueError(f"context must be below {network.config.fusion.frames}, the network's frames in detection")
        self._clip_length = clip_length
        self._frame = 0
        self._earlier: deque[Tensor] = deque(maxlen=self._rules.context)
        objects = len(prompts.summary)
        self._selectors = [InitialFrameSelector[_Evidence](self._rules) for _ in range(objects)]
        self._banks: dict[int, MemoryBank] = {}
        self._memory: Memory | None = None
        self._selected: tuple[list[int], Prompts] = (list(range(objects)), prompts)

    def step(self, features: ImageFeatures) -> Step:
        """Segment the next frame. ``features`` is one frame of ``network.encode_image``, batch axis kept."""
        # Stages are settled before anything runs: an object found in this frame is tracked from the next one on.
        rows = range(len(self._selectors))
        searching = [row for row in rows if row not in self._banks]
        tracking = [row for row in rows if row in self._banks]
        if not tracking:
            step = self._search(features, searching)
        elif not searching:
            step = self._track(features, tracking)
        else:
            step = _joined((searching, self._search(features, searching)), (tracking, self._track(features, tracking)))
        # Only the search looks at earlier frames: once all objects are tracked, no more are kept.
        if searching:
            self._earlier.appendleft(features.main)
        self._frame += 1
        return step

    def _search(self, features: ImageFeatures, rows: list[int]) -> Step:
        """Detect the objects in ``rows``, and start the memory of those whose conditioning frame is now settled."""
        prediction = self._network.detect(features, list(self._earlier), self._select(rows))
        numbers = _finite(_numbers(prediction), rows, "detection")
        found: dict[int, Candidate[_Evidence]] = {}
        for k, (row, (score, iou)) in enumerate(zip(rows, numbers, strict=True)):
            # A later frame may make this one the conditioning frame, and the stream does not go back. So the selector
            # gets everything that the memory of this frame is made of; it keeps `window` frames at most.
            evidence = _Evidence(
                features.main, prediction.mask_logits[k], prediction.object_score[k], prediction.pointer[k]
            )
            candidate = self._selectors[row].observe(self._frame, score, iou, evidence)
            if candidate is not None:
                found[row] = candidate
        if found:
            self._start(found)
        objects = [
            ObjectState("detect", score, iou, (found[row].frame,) if row in found else (), (), ())
            for row, (score, iou) in zip(rows, numbers, strict=True)
        ]
        return Step(prediction.mask_logits, objects)

    def _start(self, found: dict[int, Candidate[_Evidence]]) -> None:
        """Start the memory of objects with their conditioning frames.

        The chosen frame may lie before this one. The frames from there to here keep their detected masks and never
        become memories, as published.
        """
        if self._memory is None:
            self._memory = self._network.memory(len(self._selectors), self._rules)
        main, mask_logits, object_score, pointers = zip(*(x.evidence for x in found.values()), strict=True)
        features = self._network.memorize(torch.cat(main), torch.stack(mask_logits), torch.stack(object_score))
        places = [self._memory.take(row, candidate.frame) for row, candidate in found.items()]
        self._memory.buffers.write(to_device(places, features.device), features, torch.stack(pointers))
        for row, candidate in found.items():
            self._banks[row] = MemoryBank(self._rules, candidate.frame, self._clip_length)

    def _track(self, features: ImageFeatures, rows: list[int]) -> Step:
        """Track the objects in ``rows``, and remember this frame for each of them."""
        memory = self._memory
        assert memory is not None
        banks = [self._banks[row] for row in rows]
        table = memory.table(rows, [bank.recall(self._frame) for bank in banks], self._frame)
        prediction = self._network.follow(features, memory.buffers, table, self._select(rows))
        numbers = _finite(_numbers(prediction), rows, "tracking")
        # The states tell which frames the masks were made from, so they are read first: to remember the frame may
        # promote a long-term one.
        objects = [
            ObjectState("track", score, iou, (x.conditioning_frame,), x.long_term_frames, x.long_term_candidates)
            for x, (score, iou) in zip(banks, numbers, strict=True)
        ]
        remembered = [bank.remember(self._frame, iou) for bank, (_, iou) in zip(banks, numbers, strict=True)]
        promotions = {row: x for row, x in zip(rows, remembered, strict=True) if x is not None}
        if promotions:
            memory.promote(self._banks, promotions)
        for row, bank in zip(rows, banks, strict=True):
            memory.keep(row, bank.frames)
        return Step(prediction.mask_logits, objects)

    def _select(self, rows: list[int]) -> Prompts:
        """The prompts of these objects; the last selection is kept."""
        if len(rows) == len(self._selectors):
            return self._prompts
        if self._selected[0] != rows:
            self._selected = rows, self._prompts.select(to_device(rows, self._prompts.valid.device))
        return self._selected[1]


def _numbers(prediction: Prediction) -> list[tuple[float, float]]:
    """Object score and predicted IoU of each object. The decisions need this one read from the device and no other.

    The score is not a number if a logit of the mask is not finite.
    """
    total = prediction.mask_logits.sum(dim=(1, 2))
    rows = torch.stack((prediction.object_score, prediction.predicted_iou, total), dim=1).tolist()
    return [(score if math.isfinite(total) else math.nan, iou) for score, iou, total in rows]


def _finite(numbers: list[tuple[float, float]], rows: list[int], verb: str) -> list[tuple[float, float]]:
    """Raise ``FloatingPointError`` for a number that is not finite: no comparison could decide by it."""
    for row, (score, iou) in zip(rows, numbers, strict=True):
        if not (math.isfinite(score) and math.isfinite(iou)):
            raise FloatingPointError(f"{verb} gives object {row + 1} a score of {score} and a predicted IoU of {iou}")
    return numbers


def _joined(*parts: tuple[list[int], Step]) -> Step:
    """One step of all objects, in order, from steps of some rows each."""
    outcomes: dict[int, tuple[Tensor, ObjectState]] = {}
    for rows, step in parts:
        outcomes.update(zip(rows, zip(step.mask_logits, step.objects, strict=True), strict=True))
    mask_logits, objects = zip(*(outcomes[row] for row in range(len(outcomes))), strict=True)
    return Step(torch.stack(mask_logits), list(objects))
