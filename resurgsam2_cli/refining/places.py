"""What is worth a look: places in a finished run where the masks are likely wrong, the most urgent first.

Everything is read from the run's own files. It takes one pass over the frames, and no network.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from resurgsam2_cli.files.regions import count_regions
from resurgsam2_cli.files.text import one_line
from resurgsam2_cli.refining.joins import Joins
from resurgsam2_cli.refining.signals import KEPT, Appearances, Evidence, Jumps, Seen
from resurgsam2_cli.refining.weaknesses import Holes, NearThreshold, OnAnother, Pieces, PoorMask, TextAndTrack, Weakness
from resurgsam2_cli.runs.cuts import Cut
from resurgsam2_cli.runs.reading import RunFrame, RunMask, check_files, read_frames
from resurgsam2_cli.runs.record import Run, RunObject

WEIGHTS = {
    "near_threshold": 0.1,
    "poor_mask": 0.1,
    "overlap": 0.1,
    "pieces": 0.1,
    "holes": 0.1,
    "text_and_track": 0.1,
    "iou_fall": 0.05,
    "place_jump": 0.1,
    "area_jump": 0.05,
    "flicker": 0.15,
    "found_again": 0.1,
    "reentry": 0.1,
    "seam": 0.05,
    "cut": 0.5,
    "first": 0.03,
    "last": 0.03,
}
"""How much evidence of each kind counts beside the doubt about the frames around it. Chosen on rendered scenes; at a
cut where two pieces differ, the masks of one of them are wrong for certain."""

AROUND = 12
"""Frames before and after a place whose masks are doubted with it."""

SEEN = 12
"""Processed frames around one that a person corrected or confirmed, which were looked at with it."""

APART = 25
"""Processed frames between two places of an object: nearer ones are seen in one look."""

EVERY = 3
"""Pieces, holes and overlaps are looked for in one of so many frames: they last, and cost more than all else."""

_TOGETHER = 128
"""Masks that are looked at at once."""

_MOST_CANDIDATES = 256
"""Evidence that is kept of each object."""


@dataclass(frozen=True)
class Place:
    """Some frames of an object that a person should look at."""

    frame: int
    """The frame to look at, by its number in the source."""
    object_id: int
    span: tuple[int, int]
    """First and last frame of the stretch that it speaks of."""
    kind: str
    """The strongest evidence, by its short name."""
    score: float
    """From 0 to 1; higher is more urgent."""
    reason: str
    """One sentence."""
    reviewed: bool
    """Whether a person said what is true at it, or up to :data:`SEEN` frames from it."""

    def to_json(self) -> dict[str, Any]:
        """As an object of JSON."""
        return {**asdict(self), "span": list(self.span), "score": round(self.score, 4)}


def worth_a_look(run: Run, most: int | None = None) -> list[Place]:
    """The places of a run, the most urgent first and those that were reviewed last; ``most`` of them, or all.

    Raises :class:`InputError`.
    """
    check_files(run)
    watches = {x.id: _Watch(run.cuts, x) for x in run.objects}
    for object_id, seen in _seen(run):
        watches[object_id].step(seen)
    places = [place for object_id, watch in watches.items() for place in watch.places(object_id)]
    places.sort(key=lambda x: (x.reviewed, -x.score, x.frame, x.object_id))
    return places[:most]


def _seen(run: Run) -> Iterator[tuple[int, Seen]]:
    """Each object in each frame, in order, by its id."""
    labels = {x.id: x.label for x in run.objects}
    shapes: dict[int, _Shape] = {}  # the last known of each object that is there
    frames = enumerate(read_frames(run))
    while some := list(_some(frames)):
        looked = [frame for position, frame in some if position % EVERY == 0]
        rles = [mask.rle["counts"] for frame in looked for mask in frame.masks]
        regions = count_regions(rles, run.height, run.width)
        numbers = iter(zip(regions.pieces, regions.holes, strict=True))
        for position, frame in some:
            there = {mask.object_id: mask for mask in frame.masks}
            if position % EVERY == 0:
                covers = _covers(frame.masks)
                shapes = {ident: _Shape(*next(numbers), *covers.get(ident, (0.0, ident))) for ident in there}
            else:
                shapes = {ident: shapes.get(ident, _Shape(1, 0, 0.0, ident)) for ident in there}
            for state in frame.states:
                ident = state["id"]
                if ident in there:
                    mask, shape = there[ident], shapes[ident]
                    measured = (shape.pieces, shape.holes, shape.covered, labels[shape.cover])
                    yield ident, Seen(position, frame.number, state, mask.area, tuple(mask.box), *measured)
                else:
                    yield ident, Seen(position, frame.number, state, 0.0, (0.0, 0.0, 0.0, 0.0), 0, 0, 0.0, "")


@dataclass(frozen=True, slots=True)
class _Shape:
    """What takes long to find out of a mask."""

    pieces: int
    holes: int
    covered: float
    """The largest share of it that another mask covers."""
    cover: int
    """The id of the object whose mask that is."""


def _some(frames: Iterator[tuple[int, RunFrame]]) -> Iterator[tuple[int, RunFrame]]:
    """The next frames, until they have enough masks."""
    masks = 0
    for position, frame in itertools.islice(frames, _TOGETHER):
        yield position, frame
        masks += len(frame.masks)
        if masks >= _TOGETHER:
            return


def _covers(masks: list[RunMask]) -> dict[int, tuple[float, int]]:
    """For each mask that another may lie on: the largest share of it that another covers, and whose that is."""
    if len(masks) < 2:
        return {}
    boxes, areas = np.array([x.box for x in masks]), np.array([x.area for x in masks])
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    both = np.clip(np.minimum(high[:, None], high) - np.maximum(low[:, None], low), 0, None).prod(axis=2)
    np.fill_diagonal(both, 0)
    # What the boxes have in common bounds what the masks have. Most masks are far from all others.
    near = np.flatnonzero((both > OnAnother.FREE * np.minimum(areas[:, None], areas)).any(axis=1)).tolist()
    if not near:
        return {}
    rles = [masks[i].rle for i in near]
    shares = coco_mask.iou(rles, rles, [1] * len(rles))  # with a crowd, it is the share of the first in the second
    np.fill_diagonal(shares, 0)
    others = shares.argmax(axis=1).tolist()
    return {
        masks[i].object_id: (float(shares[row, other]), masks[near[other]].object_id)
        for row, (i, other) in enumerate(zip(near, others, strict=True))
    }


class _Watch:
    """One object: the doubt about its last frames, and all evidence, as far as it is among the strongest."""

    def __init__(self, cuts: Sequence[Cut], known: RunObject) -> None:
        weaknesses = (NearThreshold, PoorMask, OnAnother, Pieces, Holes, TextAndTrack)
        changes = (Jumps(frozenset(x.frame for x in cuts)), Joins(cuts, known.id, known.label), Appearances())
        self._signals = (*(x() for x in weaknesses), *changes)
        # The doubt about all frames up to each, for the last frames: evidence comes late by a stretch at most.
        self._sums: deque[float] = deque([0.0] * 2 * AROUND, maxlen=4 * AROUND + Weakness.LONGEST)
        self._position = -1
        self._kept: list[list[int]] = []
        """First and last position of each stretch that a person corrected or confirmed."""
        self._waiting: list[Evidence] = []
        self._heap: list[tuple[float, int, Evidence]] = []
        self._count = itertools.count()

    def step(self, now: Seen) -> None:
        """Take the next frame."""
        if now.state["stage"] in KEPT:
            if self._kept and self._kept[-1][1] == now.position - 1:
                self._kept[-1][1] = now.position
            else:
                self._kept.append([now.position, now.position])
        certain = 1.0
        for signal in self._signals:
            self._waiting += signal.step(now)
            certain *= 1 - signal.doubt
        self._add(1 - certain)

    def _add(self, doubt: float) -> None:
        """Add the doubt about a frame; evidence whose surroundings are complete gets its score."""
        self._sums.append(self._sums[-1] + doubt)
        self._position += 1
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for x in waiting:
                if x.position + AROUND <= self._position:
                    self._take(x)
                else:
                    self._waiting.append(x)

    def _take(self, evidence: Evidence) -> None:
        after = len(self._sums) - 1 - (self._position - evidence.position - AROUND)
        before = after - 2 * AROUND - 1
        doubt = (self._sums[after] - self._sums[before]) / (2 * AROUND + 1) if before >= 0 else 0.0
        score = 1 - (1 - doubt) * (1 - WEIGHTS[evidence.kind] * evidence.strength)
        item = (score, -next(self._count), evidence)
        if len(self._heap) < _MOST_CANDIDATES:
            heapq.heappush(self._heap, item)
        else:
            heapq.heappushpop(self._heap, item)

    def places(self, object_id: int) -> Iterator[Place]:
        """The strongest evidence, each with what is near it. Nothing more comes."""
        for signal in self._signals:
            self._waiting += signal.finish()
        for _ in range(AROUND):
            self._add(0.0)
        groups: list[tuple[bool, list[tuple[float, Evidence]]]] = []
        for score, _, evidence in sorted(self._heap, reverse=True):
            seen = self._was_seen(evidence.position)  # what was reviewed is no part of what was not
            alike = (x for reviewed, x in groups if reviewed is seen)
            group = next((x for x in alike if abs(x[0][1].position - evidence.position) < APART), None)
            if group is None:
                groups.append((seen, [(score, evidence)]))
            else:
                group.append((score, evidence))
        return (_place(object_id, group, reviewed=reviewed) for reviewed, group in groups)

    def _was_seen(self, position: int) -> bool:
        at = bisect_right(self._kept, [position, position])
        near = [x for x in self._kept[max(0, at - 1) : at + 1] if x[0] - SEEN <= position <= x[1] + SEEN]
        return bool(near)


def _place(object_id: int, group: list[tuple[float, Evidence]], *, reviewed: bool) -> Place:
    """One place from evidence that is near, the strongest first."""
    score, best = group[0]
    causes = [best, *(x for _, x in group if x.kind != best.kind)][:2]
    words = one_line(", and ".join(x.clause for x in causes))
    span = (min(x.span[0] for x in causes), max(x.span[1] for x in causes))
    return Place(best.frame, object_id, span, best.kind, score, f"{words[0].upper()}{words[1:]}.", reviewed)
