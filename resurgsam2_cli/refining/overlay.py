"""The overlay of a next version: only the groups of pictures that hold changed frames are encoded anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.outputs import Clip, FrameResult
from resurgsam2_cli.outputs.overlay import OverlayVideo, Style, draw_overlay
from resurgsam2_cli.refining.kept import prompts_of
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.segmenting.known import known_result
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.pipeline import clip_of
from resurgsam2_cli.segmenting.placing import grid_of_run
from resurgsam2_cli.video.source import Source
from resurgsam2_cli.video.splicing import NotSpliceable, groups_of, splice


class OverlayOf:
    """Draws the overlay of a run from its masks and its video."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def redraw(self, index: RunIndex, old: Path, new: Path, changed: list[int]) -> None:
        """Write the overlay ``new`` of a version that differs in the steps ``changed`` from that of ``old``.

        Raises :class:`InputError` and ``OSError``.
        """
        try:
            groups = groups_of(old)
            if len(groups.pts) != len(index):
                raise NotSpliceable(f"{old}: has {len(groups.pts)} frames, not {len(index)}", "")
            clip, style = self._clip(index)
            spans = groups.around(changed)
            parts = ((span, self._pictures(index, span, clip, style)) for span in spans)
            splice(groups, new, parts, clip.rate)
        except NotSpliceable:
            self._whole(index, new)

    def _whole(self, index: RunIndex, new: Path) -> None:
        clip, style = self._clip(index)
        sink = OverlayVideo(new.parent, clip, style, new.name)
        try:
            for result in self._results(index, range(len(index))):
                sink.write(result)
            sink.finish()
        except BaseException:
            sink.abort()
            raise

    def _pictures(self, index: RunIndex, span: range, clip: Clip, style: Style) -> Iterator[np.ndarray]:
        for result in self._results(index, span):
            yield draw_overlay(result, clip, style)

    def _results(self, index: RunIndex, span: range) -> Iterator[FrameResult]:
        with closing(self._source.frames(grid_of_run(index).part(span.start, span.stop))) as frames:
            step = span.start
            for step, frame in enumerate(frames, span.start):
                if frame.number != index.number(step):
                    break
                yield known_result(index.run, index.frame(step), frame)
            if step != span.stop - 1:
                raise InputError(f"{self._source.path}: gives fewer frames than the run has", "segment it again")

    def _clip(self, index: RunIndex) -> tuple[Clip, Style]:
        run, source = index.run, self._source
        with closing(source.frames(grid_of_run(index).part(0, 1))) as frames:
            clip = clip_of(run.name, source, next(frames), prompts_of(run), SegmentOptions(part=run.part))
        clip = replace(clip, legend=run.legend, demo_weights=run.demo_weights)
        return clip, Style([x.color for x in run.objects])
