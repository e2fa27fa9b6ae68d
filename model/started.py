"""Frames on their way: the network works on the next one while the decisions of the last are read and taken.

A tracked frame recalls what the frames before it left in memory, and that they are there is known before what the
network says of them. Only a frame that may fill the pool of long-term memory must be read first: a GPU waits for the
host at these alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from model.memory import Memory
from model.memory_bank import Direction, MemoryBank, Promotion, Recall
from model.network import Followed
from model.states import ObjectState, Step, finite, in_order, scores_of
from model.streams import Arriving


class Tracked:
    """A frame in which some objects are tracked; the memory of it is made, and what it says is not read yet."""

    def __init__(
        self,
        memory: Memory,
        banks: Mapping[int, MemoryBank],
        recalls: Sequence[Recall],
        followed: Followed,
        frame: int,
        direction: Direction,
    ) -> None:
        self.mask_logits = followed.mask_logits
        self._memory, self._banks, self._recalls = memory, banks, recalls
        self._numbers = Arriving(followed.numbers)
        self._frame, self._direction = frame, direction
        self._states: list[ObjectState] | None = None
        self._foreseen: dict[int, Promotion] = {}
        for bank in banks.values():
            bank.track(frame)

    @property
    def decisive(self) -> bool:
        """Whether the next frame may recall something else, depending on what this one says."""
        return self._states is None and any(bank.decisive for bank in self._banks.values())

    def foresee(self) -> None:
        """Choose what to promote if the frame is a confident one, once those before it are settled.

        A GPU does that while it is not yet known what the frame says; the next one would wait for it.
        """
        if self._states is None and self.mask_logits.is_cuda:
            foreseen = {row: bank.promotion_with(self._frame) for row, bank in self._banks.items()}
            self._foreseen = {row: x for row, x in foreseen.items() if x is not None}
            if self._foreseen:
                self._choices = Arriving(self._memory.least_alike(self._foreseen))

    def settle(self) -> list[ObjectState]:
        """Read what the network says, and decide by it."""
        if self._states is None:
            self._states = self._settled()
        return self._states

    def _settled(self) -> list[ObjectState]:
        banks, frame = self._banks, self._frame
        rows = list(banks)
        numbers = finite(scores_of(self._numbers.wait().tolist()), rows, "tracking")
        # The states tell what the masks were made from: a promotion comes after.
        states = [
            ObjectState(
                "track", score, iou, y.conditioning_frames, x.long_term_frames, x.long_term_candidates, self._direction
            )
            for x, y, (score, iou) in zip(banks.values(), self._recalls, numbers, strict=True)
        ]
        judged = {row: banks[row].judge(frame, iou) for row, (_, iou) in zip(rows, numbers, strict=True)}
        self._promote({row: x for row, x in judged.items() if x is not None})
        for row, bank in banks.items():
            self._memory.keep(row, bank.frames)
        return states

    def _promote(self, promotions: dict[int, Promotion]) -> None:
        """Promote the candidate of each object that is least like what it has."""
        if not promotions:
            return
        if promotions.items() <= self._foreseen.items():
            choices = dict(zip(self._foreseen, self._choices.wait().tolist(), strict=True))
        else:
            choices = dict(zip(promotions, self._memory.least_alike(promotions).tolist(), strict=True))
        for row, promotion in promotions.items():
            self._banks[row].promote(promotion.candidates[choices[row]])


class Started:
    """A frame that a pass has gone on to: its mask logits are being made, its states are known when it is settled."""

    def __init__(self, parts: Sequence[tuple[Sequence[int], Step | Tracked]]) -> None:
        self._rows, self._parts = zip(*parts, strict=True)
        self.mask_logits = self._joined()
        """(objects, size / 4, size / 4) in float32, on the network's device"""
        self._next: Started | None = None

    def _joined(self) -> Tensor:
        logits = [x.mask_logits for x in self._parts]
        return logits[0] if len(logits) == 1 else torch.stack(in_order(self._rows, logits))

    @property
    def decisive(self) -> bool:
        """Whether the next frame must wait until this one is settled."""
        return any(isinstance(x, Tracked) and x.decisive for x in self._parts)

    def come_after(self, before: Sequence[Started]) -> None:
        """Have ready what may be decided by this frame, as soon as those before it are settled."""
        if before:
            before[-1]._next = self
        else:
            self._foresee()

    def _foresee(self) -> None:
        for x in self._parts:
            if isinstance(x, Tracked):
                x.foresee()

    def step(self) -> Step:
        """The result. Frames are settled in the order in which they were started."""
        states = [x.settle() if isinstance(x, Tracked) else x.objects for x in self._parts]
        if self._next is not None:
            self._next._foresee()
            self._next = None
        return Step(self.mask_logits, in_order(self._rows, states))
