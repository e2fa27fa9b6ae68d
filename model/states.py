"""What is known of the objects of a video: what a frame says of each, and what a session keeps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from model.image_encoder import ImageFeatures
from model.initial_frame import InitialFrameSelector
from model.memory_bank import Direction, MemoryBank
from model.network import Prediction, numbers
from model.prompt_tokens import Clicks

Stage = Literal["detect", "track", "point", "drawn", "absent"]
"""What made a mask: a verb of the network, or a person who drew it, or said that there is nothing to draw."""


RestoredKind = Literal["conditioning", "recent", "long-term"]
"""As what a frame of an earlier session is taken into memory."""


@dataclass(frozen=True)
class ObjectState:
    """What is known of one object after a frame."""

    stage: Stage
    """The stage that made this frame's mask."""
    object_score: float
    """Logit: above 0 the object is present."""
    predicted_iou: float
    conditioning_frames: tuple[int, ...]
    """Those that the mask was made with, or is; empty while the object is searched for."""
    long_term_frames: tuple[int, ...]
    """Those held when this frame was tracked, before the frame itself was remembered."""
    long_term_candidates: tuple[int, ...]
    """The pool at that time."""
    direction: Direction = 1
    """Of the pass that made the mask."""

    @property
    def present(self) -> bool:
        """Whether the object is in this frame."""
        return self.object_score > 0


class Step(NamedTuple):
    """The result of one frame."""

    mask_logits: Tensor
    """(objects, size / 4, size / 4) in float32, on the network's device"""
    objects: list[ObjectState]


class FoundAgain(NamedTuple):
    """An object that was lost, and that its words found again: frames that got other masks, the chosen one first."""

    row: int
    since: int
    """The first frame in which it was lost."""
    results: dict[int, tuple[Tensor, ObjectState]]


class Evidence(NamedTuple):
    """What a detected frame needs to become a memory later, as a stream does not go back."""

    main: Tensor
    mask_logits: Tensor
    object_score: Tensor
    pointer: Tensor
    score: float


T = TypeVar("T")

Result = tuple[Tensor, ObjectState]
"""Mask logits and state of one object in one frame."""


class Prompted(NamedTuple):
    """A prompted frame that the next pass takes into memory."""

    features: Tensor
    pointer: Tensor
    result: Result


@dataclass
class SessionObject:
    """One object."""

    selector: InitialFrameSelector[Evidence] | None
    """None for an object without words."""
    bank: MemoryBank | None = None
    marked: bool = False
    """Whether a person ever pointed at it."""
    clicks: dict[int, Clicks] = field(default_factory=dict)
    prompted: dict[int, Prompted] = field(default_factory=dict)
    """Frames prompted since the last pass, in the order of their first prompts."""
    results: dict[int, Result] = field(default_factory=dict)
    """Of conditioning frames, and of all tracked ones if the session keeps them."""

    @property
    def conditioning_frames(self) -> tuple[int, ...]:
        """Those of which there is memory; without any, the object is searched for."""
        return () if self.bank is None else self.bank.conditioning_frames

    @property
    def memory(self) -> MemoryBank:
        """What is remembered of the object, which a pass has begun for."""
        assert self.bank is not None
        return self.bank

    def has_mask(self, frame: int) -> Tensor | None:
        """The mask logits that the object has in a frame."""
        prompted = self.prompted.get(frame)
        result = self.results.get(frame) if prompted is None else prompted.result
        return None if result is None else result[0]


def evidence_of(features: ImageFeatures, prediction: Prediction, k: int, score: float) -> Evidence:
    """What the memory of a detected frame is made of.

    A later frame may make this one the conditioning frame, and the stream does not go back. Selectors keep a few.
    """
    return Evidence(features.main, prediction.mask_logits[k], prediction.object_score[k], prediction.pointer[k], score)


def overlap(a: Tensor, b: Tensor) -> tuple[int, int]:
    """How many pixels two masks share, and how many either has, given their logits (height, width)."""
    both, either = torch.stack((((a > 0) & (b > 0)).sum(), ((a > 0) | (b > 0)).sum())).tolist()
    return both, either


def numbers_of(prediction: Prediction) -> list[tuple[float, float]]:
    """Object score and predicted IoU of each object. The decisions need this one read from the device and no other."""
    return scores_of(numbers(prediction).tolist())


def scores_of(rows: list[list[float]]) -> list[tuple[float, float]]:
    """Object score and predicted IoU, given the rows of :func:`~model.network.numbers`.

    The score is not a number if a logit of the mask is not finite.
    """
    return [(score if math.isfinite(total) else math.nan, iou) for score, iou, total in rows]


def finite(numbers: list[tuple[float, float]], rows: list[int], verb: str) -> list[tuple[float, float]]:
    """Raise ``FloatingPointError`` for a number that is not finite: no comparison could decide by it."""
    for row, (score, iou) in zip(rows, numbers, strict=True):
        if not (math.isfinite(score) and math.isfinite(iou)):
            raise FloatingPointError(f"{verb} gives object {row + 1} a score of {score} and a predicted IoU of {iou}")
    return numbers


def in_order(rows: Sequence[Sequence[int]], items: Sequence[Iterable[T]]) -> list[T]:
    """The items of all objects by the number of the object, given which rows each part is about."""
    found = {row: x for few, own in zip(rows, items, strict=True) for row, x in zip(few, own, strict=True)}
    return [found[row] for row in sorted(found)]
