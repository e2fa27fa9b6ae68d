"""The two-stage algorithm: all objects of one video, each searching or tracking, one frame a step.

An object is searched for (CSTMamba) until CIFS has chosen a credible frame; from the next frame on it is tracked
(memory attention over DLM), for good. Objects in the same stage share one call of the network.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from model.config import Rules
from model.image_encoder import ImageFeatures
from model.initial_frame import InitialFrameSelector
from model.layers import sent
from model.memory_bank import FrameMemory, MemoryBank
from model.network import Prediction, ReSurgSAM2
from model.text_encoder import Prompts

Stage = Literal["detect", "track"]


@dataclass(frozen=True)
class ObjectState:
    """What is known of one object after a frame. Frames are counted from 0 in steps of the segmenter."""

    stage: Stage
    """The stage that made this frame's mask."""
    object_score: float
    """Logit: above 0 the object is present."""
    predicted_iou: float
    conditioning_frames: tuple[int, ...]
    """Chosen up to and including this frame; empty while searching."""
    long_term_frames: tuple[int, ...]
    """Held when this frame was tracked, before the frame itself was remembered."""
    long_term_candidates: tuple[int, ...]
    """The pool, likewise."""

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
    """What makes a detected frame a memory later: the stream itself does not go back."""

    main: Tensor
    mask_logits: Tensor
    object_score: Tensor
    pointer: Tensor


class Segmenter:
    """Steps all objects of one video through its frames, in memory that does not grow.

    ``clip_length`` is the number of frames that will come, where it is known to be small: see
    :class:`~model.memory_bank.MemoryBank`.
    """

    def __init__(
        self,
        network: ReSurgSAM2,
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
        self._banks: list[MemoryBank | None] = [None] * objects

    def step(self, features: ImageFeatures) -> Step:
        """Segment the next frame. ``features`` is one frame of ``network.encode_image``, batch axis kept."""
        searching = [i for i, bank in enumerate(self._banks) if bank is None]
        tracking = [i for i, bank in enumerate(self._banks) if bank is not None]
        parts: list[Tensor] = []
        states: dict[int, ObjectState] = {}
        for rows, advance in ((searching, self._search), (tracking, self._track)):
            if rows:
                prediction, new = advance(features, rows)
                parts.append(prediction.mask_logits)
                states.update(zip(rows, new, strict=True))
        mask_logits = parts[0]
        if len(parts) > 1:
            places = {row: place for place, row in enumerate(states)}
            order = [places[row] for row in range(len(places))]
            mask_logits = torch.cat(parts)[sent(order, mask_logits.device)]
        if searching:  # nobody looks back once all objects are tracked
            self._earlier.appendleft(features.main)
        self._frame += 1
        return Step(mask_logits, [states[i] for i in range(len(self._banks))])

    def _search(self, features: ImageFeatures, rows: list[int]) -> tuple[Prediction, list[ObjectState]]:
        prediction = self._network.detect(features, list(self._earlier), self._select(rows))
        numbers = _numbers(prediction)
        chosen = []
        for k, (row, (score, iou)) in enumerate(zip(rows, numbers, strict=True)):
            evidence = _Evidence(
                features.main, prediction.mask_logits[k], prediction.object_score[k], prediction.pointer[k]
            )
            candidate = self._selectors[row].observe(self._frame, score, iou, evidence)
            if candidate is not None:
                chosen.append((row, candidate))
        if chosen:
            main, mask_logits, object_score, _ = zip(*(c.evidence for _, c in chosen), strict=True)
            memories = self._network.memorize(torch.cat(main), torch.stack(mask_logits), torch.stack(object_score))
            for (row, candidate), memory in zip(chosen, memories, strict=True):
                conditioning = FrameMemory(candidate.frame, memory, candidate.evidence.pointer)
                self._banks[row] = MemoryBank(self._rules, conditioning, self._clip_length)
        found = {row: (candidate.frame,) for row, candidate in chosen}
        return prediction, [
            ObjectState("detect", score, iou, found.get(row, ()), (), ())
            for row, (score, iou) in zip(rows, numbers, strict=True)
        ]

    def _track(self, features: ImageFeatures, rows: list[int]) -> tuple[Prediction, list[ObjectState]]:
        banks = [bank for bank in (self._banks[row] for row in rows) if bank is not None]
        memory = self._network.recalled([bank.recall(self._frame) for bank in banks])
        prediction = self._network.track(features, memory, self._select(rows))
        memories = self._network.memorize(features.main, prediction.mask_logits, prediction.object_score)
        states = []
        for k, (bank, (score, iou)) in enumerate(zip(banks, _numbers(prediction), strict=True)):
            states.append(
                ObjectState(
                    "track",
                    score,
                    iou,
                    (bank.conditioning_frame,),
                    bank.long_term_frames,
                    bank.long_term_candidates,
                )
            )
            # Cloned, so that keeping one object's row does not keep the whole batch alive.
            bank.remember(FrameMemory(self._frame, memories[k].clone(), prediction.pointer[k].clone()), iou)
        return prediction, states

    def _select(self, rows: list[int]) -> Prompts:
        if len(rows) == len(self._banks):
            return self._prompts
        return self._prompts.select(sent(rows, self._prompts.valid.device))


def _numbers(prediction: Prediction) -> list[tuple[float, float]]:
    """Object score and predicted IoU of each object: the one read from the device that decisions need."""
    rows = torch.stack((prediction.object_score, prediction.predicted_iou), dim=1).tolist()
    return [(score, iou) for score, iou in rows]
