"""A video whose objects are named or pointed at, followed in both directions, and corrected: in Python, and under
``segment`` with marks.

Frames are counted as in the source. Between the passes, results lie in a file (:mod:`.store`), so memory does not grow
with the length of the video.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import get_args

import numpy as np
import torch

from model import ImageFeatures, Rules
from model.memory_bank import Direction, Keep
from model.network import ABSENT_LOGIT
from model.preprocess import given_masks, masks_of
from model.prompt_tokens import BOTTOM_RIGHT, NEGATIVE, POSITIVE, TOP_LEFT, Clicks
from model.session import Session
from model.states import ObjectState, Step, overlap
from resurgsam2_cli.errors import InputError, UsageError
from resurgsam2_cli.files.rle import decoded, encoded, run_lengths
from resurgsam2_cli.outputs import FrameResult
from resurgsam2_cli.prompts.marks import Mark, objects_of, parse_mark
from resurgsam2_cli.prompts.prompt import Prompt, check_different
from resurgsam2_cli.segmenting.engine import Engine, device_errors
from resurgsam2_cli.segmenting.options import SegmentOptions, Way, check_way
from resurgsam2_cli.segmenting.placing import Grid, Placed, check_first, grid_of, grouped, placed
from resurgsam2_cli.segmenting.reading import encode_prompts, network_image, read, read_backwards, with_features
from resurgsam2_cli.segmenting.rendering import passed
from resurgsam2_cli.segmenting.store import Store, Stored, absent
from resurgsam2_cli.segmenting.summary import Undertaking
from resurgsam2_cli.segmenting.timing import Timing
from resurgsam2_cli.video.frames import EmptyPart, Frame
from resurgsam2_cli.video.source import Source

_NEAR = 32
"""Up to so many frames between two marked ones are decoded rather than skipped."""

_AGREED, _ALIKE = 10, 0.98
"""A pass that fills a gap stops when so many frames in a row have this IoU with what is there."""

Watch = Callable[[FrameResult], None]
"""Called with each frame of a pass, and the objects that it went over, without their masks."""


@dataclass
class _Span:
    """Frames of an object that a pass backwards goes over: ``first`` up to ``end``, in steps."""

    row: int
    first: int
    end: int
    until_agreed: bool = False
    agreed: int = 0

    def holds(self, step: int) -> bool:
        return self.first <= step < self.end and self.agreed < _AGREED


class VideoSession:
    """The objects of one video, to be pointed at, followed, looked at and corrected, in any order.

    ``engine`` is that of :func:`~resurgsam2_cli.build_engine`, ``source`` that of :func:`~resurgsam2_cli.open_source`.
    ``prompts`` are texts, or :class:`Prompt`; objects without words come from :meth:`mark`. ``keep`` is as in
    :class:`model.session.Session`: with "all", any frame can be corrected after a pass. Use it as a context manager:
    what is found lies in a temporary folder until the block ends. Raises a
    :class:`~resurgsam2_cli.errors.UserError`.
    """

    def __init__(
        self,
        engine: Engine,
        source: Source,
        prompts: Sequence[Prompt | str] = (),
        options: SegmentOptions | None = None,
        keep: Keep = "all",
        folder: Path | None = None,
        timing: Timing | None = None,
    ) -> None:
        if isinstance(prompts, str) or not all(isinstance(x, str | Prompt) for x in prompts):
            raise UsageError(f"the prompts are {prompts!r}", 'give a list of texts, such as ["left grasper"]')
        if keep not in get_args(Keep):
            raise UsageError(f"keep is {keep!r}", f"use {', '.join(get_args(Keep))}")
        self.objects = [x if isinstance(x, Prompt) else Prompt.parse(x) for x in prompts]
        check_different(self.objects)
        self._engine, self._source = engine, source
        self._options = options or SegmentOptions(rules=Rules(**engine.weights.rules))
        self._grid = grid_of(source, self._options.part)
        words = tuple(x for x in self.objects if x.words)
        self._run = Undertaking(engine, source, tuple(self.objects), self._options, timing or Timing())
        if timing is None:  # else it is a part of a run
            engine.executor.begin()
        with device_errors(), engine.context():
            self._session = Session(
                engine.executor,
                encode_prompts(engine, words) if words else None,
                self._options.rules,
                self._short_length(),
                keep=keep,
                find_again=self._options.find_again if words else None,
            )
        for _ in self.objects[len(words) :]:
            self._session.add()
        self._words = len(words)
        self._gaps: list[_Span] = []
        self._given: dict[int, dict[int, str]] = {}
        self.store = Store(folder, engine.config.mask_size, self._options.threshold)

    def __enter__(self) -> VideoSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete what was found from the disk; the session is over."""
        self.store.close()

    def _short_length(self) -> int | None:
        """The number of frames if it is small: only then it matters."""
        longest = self._options.rules.pointers
        with closing(self._source.frames(self._grid.part(0))) as frames:
            try:
                count = sum(1 for _ in itertools.islice(frames, longest))
            except InputError:  # whoever reads on will hear of it
                return None
        return count if count < longest else None

    def mark(self, *marks: Mark | str) -> list[np.ndarray]:
        """Point at objects, as ``--mark`` does; returns the mask (height, width) that each mark made.

        If that fails, the session has no new object. Raises a :class:`~resurgsam2_cli.errors.UserError`.
        """
        parsed = [parse_mark(x) if isinstance(x, str) else x for x in marks]
        check_first(parsed)
        objects, rows = objects_of(parsed, self.objects)
        where = placed(self._source, self._grid, parsed, rows)
        before = len(self.objects)
        for x in objects[before:]:
            self._session.add()
            self.objects.append(x)
        try:
            self.prompt(where)
        except BaseException:
            # An object that no mark reached would stop every later pass.
            while len(self.objects) > before:
                self.objects.pop()
                self._session.drop()
            self.store.drop(before)
            for given in self._given.values():
                for row in [x for x in given if x >= before]:
                    del given[row]
            raise
        return [self.masks(x.frame)[x.row] for x in where]

    def prompt(self, marks: Sequence[Placed]) -> None:
        """Take marks that have a place."""
        self._engine.check_pointing("use other weights (resurgsam2 weights list), or leave out --mark and --marks")
        by_frame: dict[int, list[list[Placed]]] = {}
        for (_, frame), group in grouped(marks).items():
            by_frame.setdefault(frame, []).append(group)
        for x in self._marked(sorted(by_frame)):
            step = self._grid.step(x.number)
            with device_errors(), self._engine.context(), self._run.timing.measure("point", device=self._engine.device):
                features = self._engine.executor.encode([network_image(self._engine, x)])
                for group in by_frame[x.number]:
                    self._prompt(step, features, group)
        self.store.flush()

    def _prompt(self, step: int, features: ImageFeatures, group: list[Placed]) -> None:
        """All marks of an object in a frame: the last mask that was given, and the clicks after it."""
        row, session = group[0].row, self._session
        drawn = [i for i, x in enumerate(group) if x.mask is not None]
        found: Step | None = None
        self._given.get(step, {}).pop(row, None)
        if drawn:
            mask = group[drawn[-1]].mask
            assert mask is not None
            given = given_masks(mask[None], self._engine.config, self._engine.device)[0]
            found = session.adopt(row, step, features, given)
            group = group[drawn[-1] + 1 :]
            if not group:
                self._given.setdefault(step, {})[row] = encoded(mask)
        if group:
            found = session.point(row, step, features, clicks_of(group, self._grid, self._engine.device))
        assert found is not None
        self.store.put(step, [row], found.mask_logits, self._stated(step, [row], found.objects))

    def _stated(self, step: int, rows: Sequence[int], states: Sequence[ObjectState]) -> list[ObjectState]:
        """States as the outputs have them: what a person drew is there, even if it is too small for the network."""
        given = self._given.get(step, {})
        return [
            replace(x, stage="drawn", object_score=abs(x.object_score)) if _has_pixels(given.get(row)) else x
            for row, x in zip(rows, states, strict=True)
        ]

    def _marked(self, numbers: list[int]) -> Iterator[Frame]:
        """These frames of the source, in order."""
        while numbers:
            few = numbers[:1]
            for a, b in itertools.pairwise(numbers):
                if b - a > _NEAR * self._grid.stride:
                    break
                few.append(b)
            numbers = numbers[len(few) :]
            first, last = self._grid.step(few[0]), self._grid.step(few[-1])
            wanted = set(few)
            with closing(self._source.frames(self._grid.part(first, last + 1))) as frames:
                yield from (x for x in frames if x.number in wanted)

    def run(self, direction: Way = "both", start: int | None = None, watch: Watch = lambda *_: None) -> None:
        """Follow all objects through the video, or from the frame ``start`` on.

        Without ``start``, each object is followed forwards from its first mark, or from where its words found it, and
        with "both" backwards from there; what was marked is followed backwards in any case.
        """
        check_way(direction)
        broken: InputError | None = None
        if not self.objects:
            raise UsageError("the session has no object", "name one, or mark one, first")
        if direction != "backward":
            try:
                self._forwards(0 if start is None else self._grid.step(start), start is not None, watch)
            except InputError as error:
                if isinstance(error, EmptyPart) and start is not None:
                    said = "" if error.frames is None else f", which has {error.frames} frames"
                    raise UsageError(f"frame {start} is not in the video{said}", "start at one that is") from error
                broken = error  # what is before it can be had all the same
        spans, self._gaps = self._gaps, []
        for row in range(len(self.objects)):
            frames = self._session.conditioning_frames(row)
            marked = self._session.is_marked(row)
            if frames and (direction != "forward" or (marked and start is None)):
                end = min(frames) if start is None else self._grid.step(start) + 1
                spans.append(_Span(row, 0, end))
        self._backwards(spans, watch)
        self.store.flush()
        if broken is not None:
            raise broken

    def _forwards(self, start: int, everything: bool, watch: Watch) -> None:
        """A pass to the end. If not ``everything`` of an object is wanted, begin at its first mark."""
        begins = {
            row: min(frames) if (frames := self._session.conditioning_frames(row)) and not everything else start
            for row in range(len(self.objects))
            if row < self._words or self._session.conditioning_frames(row)
        }
        if not begins:
            return
        self._begin(1)
        first = max(start, min(begins.values()))
        images = read(self._engine, self._source, self._grid.part(first), self._run.timing)
        with closing(with_features(self._run, self._grid, images)) as ready:
            for step, frame, features in ready:
                rows = [row for row, begin in begins.items() if begin <= step]
                if rows:
                    self._step(step, frame, features, rows, watch)

    def _begin(self, direction: Direction) -> None:
        with device_errors(), self._engine.context():
            self._session.begin(direction)

    def _backwards(self, spans: list[_Span], watch: Watch) -> None:
        """A pass that fills spans, from their ends to their beginnings."""
        spans = [x for x in spans if x.first < x.end]
        if spans:
            self._begin(-1)
        while spans:
            done = max(x.end for x in spans)
            images = read_backwards(self._run, self._grid, _bottom(spans), done)
            with closing(with_features(self._run, self._grid, images)) as ready:
                for step, frame, features in ready:
                    active = [x for x in spans if x.holds(step)]
                    if not active:
                        break
                    there = self.store.get(step) if any(x.until_agreed for x in active) else {}
                    rows = sorted({x.row for x in active})
                    found = self._step(step, frame, features, rows, watch)
                    for x in active:
                        if x.until_agreed:
                            old, new = there.get(x.row), found.mask_logits[rows.index(x.row)]
                            x.agreed = x.agreed + 1 if old is not None and _alike(new, old.mask_logits) else 0
                    done = step
            spans = [replace(x, end=min(x.end, done)) for x in spans if x.first < done and x.agreed < _AGREED]

    def _step(self, step: int, frame: Frame, features: ImageFeatures, rows: list[int], watch: Watch) -> Step:
        with device_errors(), self._engine.context(), self._run.timing.measure("segment", device=self._engine.device):
            found = self._session.step(step, features, rows)
            found = found._replace(mask_logits=found.mask_logits.cpu())  # once, for all that look at them
        states = self._stated(step, rows, found.objects)
        self.store.put(step, rows, found.mask_logits, states)
        for again in self._session.found_again:
            for other, (logits, state) in again.results.items():
                self.store.put(other, [again.row], logits[None], [state])
            self._gaps.append(_Span(again.row, again.since, min(again.results), until_agreed=True))
        watch(passed(frame, rows, states))
        return found

    def results(self, step: int) -> tuple[torch.Tensor, list[Stored]]:
        """Mask logits (objects, size / 4, size / 4) of a frame, and what is known of each object.

        An object of which nothing is known is absent.
        """
        return self._filled(self.store.get(step))

    def _filled(self, found: dict[int, Stored]) -> tuple[torch.Tensor, list[Stored]]:
        side = self._engine.config.mask_size
        nothing = Stored(ObjectState("track", ABSENT_LOGIT, 0.0, (), (), ()), absent(side))
        objects = [found.get(row, nothing) for row in range(len(self.objects))]
        return torch.stack([x.mask_logits for x in objects]), objects

    def given(self, step: int) -> dict[int, str]:
        """The masks that a person gave in a frame, by row, as compressed RLE; an empty one says absent.

        They stand as they are, in place of what the network makes of them.
        """
        return dict(self._given.get(step, {}))

    def source_frame(self, step: int) -> int:
        """The number in the source of the frame at a place."""
        return self._grid.frame(step)

    def masks(self, frame: int) -> list[np.ndarray]:
        """The mask (height, width) bool of each object in a frame; empty if nothing is known of it there.

        Raises :class:`UsageError` for a frame of which nothing is known at all.
        """
        step = self._grid.step(frame)
        logits, _ = self._filled(self._found(frame))
        size = self._grid.height, self._grid.width
        with device_errors():
            masks = list(masks_of(logits, *size, self._options.threshold))
        for row, counts in self.given(step).items():
            masks[row] = decoded(counts, size)
        return masks

    def states(self, frame: int) -> list[ObjectState | None]:
        """What is known of each object in a frame; None for one of which nothing is known there.

        Raises :class:`UsageError` for a frame of which nothing is known at all.
        """
        found = self._found(frame)
        return [found[row].state if row in found else None for row in range(len(self.objects))]

    def _found(self, frame: int) -> dict[int, Stored]:
        found = self.store.get(self._grid.step(frame))
        if not found:
            raise UsageError(f"nothing is known of frame {frame} yet", "mark something in it, or run a pass over it")
        return found


def _has_pixels(counts: str | None) -> bool:
    return counts is not None and len(run_lengths(counts)) > 1


def clicks_of(group: Sequence[Placed], grid: Grid, device: torch.device) -> Clicks:
    """The clicks of marks of an object in a frame: a box first, then clicks in their order."""
    points: list[tuple[float, float]] = []
    labels: list[int] = []
    for x in group:
        if x.mark.box is not None:
            left, top, width, height = x.mark.box
            points, labels = [(left, top), (left + width, top + height)], [TOP_LEFT, BOTTOM_RIGHT]
    for x in group:
        points += [(px, py) for px, py, _ in x.mark.points]
        labels += [POSITIVE if on else NEGATIVE for *_, on in x.mark.points]
    return Clicks.at(points, labels, grid.width, grid.height, device)


def _bottom(spans: list[_Span]) -> int:
    """The first frame of the last stretch of frames that spans cover together."""
    first = max(x.end for x in spans)
    for x in sorted(spans, key=lambda x: -x.end):
        if x.end < first:
            break
        first = min(first, x.first)
    return first


def _alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two masks, given their logits, agree."""
    both, either = overlap(a, b)
    return both >= _ALIKE * either
