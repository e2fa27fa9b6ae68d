"""The overlay of a finished run, made afterwards: other colours, another opacity, side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from resurgsam2_cli.exports.base import MADE_BY, Dataset, Exporter, ExportFrame, Video
from resurgsam2_cli.outputs import Clip, FrameResult, ObjectResult
from resurgsam2_cli.outputs.overlay import OverlayVideo, Style
from resurgsam2_cli.prompts.prompt import Prompt


class OverlayExport(Exporter):
    """``<video>.mp4``, with the sound of the source."""

    file_suffix = ".mp4"
    has_pictures = False
    needs_pictures = True
    inner_suffixes = frozenset({".mp4"})

    @classmethod
    def contents(cls, dataset: Dataset) -> set[str]:
        """Videos, in the folders of their names."""
        return {f"{x.name}.mp4".partition("/")[0] for x in dataset.videos}

    def __init__(self, root: Path, dataset: Dataset) -> None:
        super().__init__(root, dataset)
        self._colors = dict(dataset.options.colors)
        self._sink: OverlayVideo | None = None

    def add(self, video: Video, frames: Iterator[ExportFrame]) -> None:
        """Draw and encode a video."""
        path = self.root / f"{video.name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        clip: Clip | None = None
        for frame in frames:
            assert frame.picture is not None
            if clip is None:
                clip = self._clip(video, frame)
                self._sink = OverlayVideo(path.parent, clip, self._style(video), path.name, MADE_BY)
            assert self._sink is not None
            self._sink.write(_result(video, frame))
        if self._sink is not None:
            self._sink.finish()
            self._sink = None

    def _style(self, video: Video) -> Style:
        options = self.dataset.options
        colors = [self._colors.get(x.category.name, x.color) for x in video.objects.values()]
        return Style(colors, options.opacity, options.side_by_side)

    def _clip(self, video: Video, first: ExportFrame) -> Clip:
        run, options = video.run, self.dataset.options
        assert first.picture is not None
        assert first.source is not None
        return Clip(
            name=video.name,
            height=run.height,
            width=run.width,
            rate=first.source.rate / (run.part.stride * options.every),
            start=first.picture.time,
            length=run.part.duration(first.picture.time, first.source.rate),
            audio=first.source.audio,
            pixel_aspect=first.source.pixel_aspect,
            prompts=tuple(Prompt(x.text, x.category.name) for x in video.objects.values()),
            legend=options.legend,
            demo_weights=run.demo_weights,
        )

    def single_file(self) -> str:
        """The file of the only run."""
        return f"{self.dataset.videos[0].name}.mp4"

    def abort(self) -> None:
        """Stop the encoder."""
        if self._sink is not None:
            self._sink.abort()


def _result(video: Video, frame: ExportFrame) -> FrameResult:
    """The frame as the run's own overlay got it, less what was left out."""
    assert frame.picture is not None
    masks = np.zeros((len(video.objects), video.run.height, video.run.width), bool)
    places = {x: i for i, x in enumerate(video.objects)}
    if frame.masks:
        for x, mask in zip(frame.masks, frame.decoded(), strict=True):
            masks[places[x.object.id]] = mask
    objects = [
        ObjectResult(
            id=x["id"],
            stage=x["stage"],
            present=x["present"],
            object_score=x["object_score"],
            predicted_iou=x["predicted_iou"],
            presence=_presence(x["object_score"]),
            conditioning_frames=(),
            long_term_frames=(),
        )
        for x in frame.states
        if x["id"] in places
    ]
    picture = frame.picture
    return FrameResult(frame.number, frame.name, picture.time, picture.rgb, masks, np.zeros(0, np.uint8), objects)


def _presence(object_score: float) -> float:
    """The sigmoid, as in ``model.initial_frame.presence``, whose package needs torch."""
    return 0.5 * (1 + math.tanh(object_score / 2))
