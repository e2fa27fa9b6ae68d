"""Where the memory of a video's objects lies: buffers of one shape, written in place.

Which frames an object remembers and recalls is decided by :mod:`model.memory_bank`. Here, each of these frames has a
slot, and what the network needs for a tracked frame is a table of slots and distances: one small tensor, always of the
same shape if the buffers are ``fixed``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import NetworkConfig, Rules
from model.layers import to_device
from model.memory_bank import Promotion, Recall, most_frames, most_kept, most_pointers

_COMPARED = 16
"""Objects whose features are compared at a time, in float32."""


class Buffers(NamedTuple):
    """What the network has remembered, a row for each frame of an object."""

    features: Tensor
    """(rows, places, memory dim), bfloat16: one row of features per place of the stride-16 map"""
    pointers: Tensor
    """(rows, dim), float32: the object pointers"""

    @classmethod
    def empty(cls, objects: int, rules: Rules, config: NetworkConfig, device: torch.device) -> Buffers:
        """Buffers of zeros, for as much as these objects may recall with one conditioning frame each.

        What is not remembered yet is masked, which takes numbers that are finite.
        """
        rows, places = objects * most_kept(rules), config.map_size**2
        return cls(
            torch.zeros(rows, places, config.memory.dim, dtype=torch.bfloat16, device=device),
            torch.zeros(rows, config.dim, dtype=torch.float32, device=device),
        )

    def write(self, rows: Tensor, features: Tensor, pointers: Tensor) -> None:
        """Put memory features (objects, memory dim, s, s) and pointers (objects, dim) into ``rows``."""
        self.features.index_copy_(0, rows, as_rows(features).to(self.features.dtype))
        self.pointers.index_copy_(0, rows, pointers.to(self.pointers.dtype))

    def least_alike(self, rows: Sequence[Mapping[int, int]], promotions: Sequence[Promotion]) -> Tensor:
        """For each promotion, which of its candidates is least like the anchor; the first wins a tie.

        ``rows`` tell where the frames of each object lie. Returns (promotions,) int64.
        """
        wanted = [[own[x] for x in (p.anchor, *p.candidates)] for own, p in zip(rows, promotions, strict=True)]
        side = math.isqrt(self.features.shape[1])
        found = []
        for part in to_device(wanted, self.features.device).split(_COMPARED):
            maps = _rows(self.features, part).unflatten(2, (side, side))
            found.append(frame_similarity(maps[:, 1:], maps[:, :1]).argmin(dim=1))
        return torch.cat(found)


class Recalled(NamedTuple):
    """What each object recalls, side by side: the shorter ones are padded."""

    frames: Tensor
    """(objects, n, places, memory dim)"""
    slots: Tensor
    """(objects, n), int64: temporal slots"""
    pointers: Tensor
    """(objects, m, dim)"""
    distances: Tensor
    """(objects, m), float32"""
    lengths: Tensor | None
    """(objects, 2): how many frames and pointers are not padding; None if all"""

    def part(self, first: int, last: int) -> Recalled:
        """What some of the objects recall."""
        return Recalled(*(None if x is None else x[first:last] for x in self))  # type: ignore[arg-type]


class RecallTable(NamedTuple):
    """Which rows of :class:`Buffers` each object recalls, and where its new frame goes."""

    numbers: Tensor
    """(objects, 2 n + 2 m + 3) float32: rows and temporal slots of frames, rows and distances of pointers, how many of
    both there are, and the row to write"""
    frames: int
    """n"""
    pointers: int
    """m"""
    padded: bool
    """Whether an object has fewer than n frames or m pointers."""

    @classmethod
    def make(
        cls,
        recalls: Sequence[Recall],
        rows: Sequence[Mapping[int, int]],
        device: torch.device,
        *,
        written: Sequence[int] | None = None,
        most: tuple[int, int] | None = None,
    ) -> RecallTable:
        """A table of what objects recall, whose frames lie in ``rows``. With ``most``, n and m are always the same."""
        lengths = [(len(r.frames), len(r.pointers)) for r in recalls]
        n, m = most or (max(x) for x in zip(*lengths, strict=True))
        numbers = [
            [
                *_padded([own[x] for x, _ in recall.frames], n),
                *_padded([slot for _, slot in recall.frames], n),
                *_padded([own[x] for x, _ in recall.pointers], m),
                *_padded([distance for _, distance in recall.pointers], m),
                *length,
                float(new),
            ]
            for recall, own, length, new in zip(recalls, rows, lengths, written or [0] * len(rows), strict=True)
        ]
        return cls(to_device(numbers, device, torch.float32), n, m, padded=most is not None or len(set(lengths)) > 1)

    def read(self, buffers: Buffers) -> Recalled:
        """Gather what is recalled."""
        n, m = self.frames, self.pointers
        rows, slots, pointer_rows, distances, lengths, _ = self.numbers.split((n, n, m, m, 2, 1), dim=1)
        return Recalled(
            _rows(buffers.features, rows),
            slots.long(),
            _rows(buffers.pointers, pointer_rows),
            distances,
            lengths if self.padded else None,
        )

    @property
    def written(self) -> Tensor:
        """(objects,) int64: the row that the frame itself goes to."""
        return self.numbers[:, -1].long()

    def part(self, first: int, last: int) -> RecallTable:
        """The table of some of the objects."""
        return self._replace(numbers=self.numbers[first:last])


def _rows(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of ``x`` by a table of row numbers."""
    return x.index_select(0, rows.flatten().long()).unflatten(0, rows.shape)


class Memory:
    """The memory of the objects of one video.

    With ``fixed``, tables have the shape of a full memory from the start, for a device that replays recordings.
    Without, nothing is attended to that is not there yet. The buffers grow if more is to be kept than they were made
    for: objects, or frames that a person pointed at.
    """

    def __init__(self, buffers: Buffers, rules: Rules, *, fixed: bool) -> None:
        self.buffers = buffers
        self._rules, self._fixed = rules, fixed
        self._free = [*range(len(buffers.pointers))][::-1]
        self._rows: dict[int, dict[int, int]] = {}

    def take(self, item: int, frame: int) -> int:
        """A row of the buffers for a frame of an object: the one that it has, or a new one."""
        rows = self._rows.setdefault(item, {})
        if frame not in rows:
            if not self._free:
                self._grow()
            rows[frame] = self._free.pop()
        return rows[frame]

    def keep(self, item: int, frames: Set[int]) -> None:
        """Forget all frames of an object but these."""
        rows = self._rows[item]
        for frame in rows.keys() - frames:
            self._free.append(rows.pop(frame))

    def write(self, places: Mapping[int, int], features: Tensor, pointers: Tensor) -> None:
        """Remember a frame of each object: objects and frames, with one row of features and pointers each."""
        rows = [self.take(item, frame) for item, frame in places.items()]
        self.buffers.write(to_device(rows, features.device), features, pointers)

    def table(self, items: Sequence[int], recalls: Sequence[Recall], frame: int) -> RecallTable:
        """What these objects recall to track ``frame``, which they are to remember."""
        written = [self.take(item, frame) for item in items]
        return self._table(items, recalls, written)

    def recalled(self, item: int, recall: Recall) -> Recalled:
        """What one object recalls."""
        return self._table([item], [recall], None).read(self.buffers)

    def _table(self, items: Sequence[int], recalls: Sequence[Recall], written: Sequence[int] | None) -> RecallTable:
        most = None
        if self._fixed:
            conditioning = max(x.conditioning for x in recalls)
            most = (most_frames(self._rules, conditioning), most_pointers(self._rules, conditioning))
        rows = [self._rows[item] for item in items]
        return RecallTable.make(recalls, rows, self.buffers.features.device, written=written, most=most)

    def least_alike(self, promotions: Mapping[int, Promotion]) -> Tensor:
        """Which candidate each of these objects is to promote, by its place among them: (promotions,) int64."""
        return self.buffers.least_alike([self._rows[item] for item in promotions], list(promotions.values()))

    def _grow(self) -> None:
        """Double the buffers. What lies in them stays where it is, by number."""
        rows = len(self.buffers.pointers)
        self.buffers = Buffers(*(torch.cat((x, torch.zeros_like(x))) for x in self.buffers))
        self._free = [*range(rows, 2 * rows)][::-1]


def as_rows(features: Tensor) -> Tensor:
    """Memory features as the network gives them, (objects, memory dim, s, s), as :class:`Buffers` keep them."""
    return features.flatten(2).transpose(1, 2)


def _padded(row: Sequence[float], length: int) -> list[float]:
    """Row 0 of the buffers, and distance 0, stand for nothing: they are masked."""
    return [*row, *[0] * (length - len(row))]


def frame_similarity(maps: Tensor, anchor: Tensor) -> Tensor:
    """How alike memory features (..., height, width, channels) and ``anchor`` are, (...,) in float32.

    The published code takes the cosine along the *width* axis, and sums it over channels and rows.
    """
    return F.cosine_similarity(maps.float(), anchor.float(), dim=-2).sum(dim=(-2, -1))
