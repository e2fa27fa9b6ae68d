"""How good a network is on annotated frames, in memory: for training while it runs, and for benchmarks after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model import ReSurgSAM2, Rules, Segmenter, preprocess
from model.image_encoder import ImageFeatures
from model.preprocess import masks_of
from model.training.scenes import Scene
from resurgsam2_cli.measuring.metrics import contour_accuracy, region_similarity
from resurgsam2_cli.training.data import AnnotatedVideo, annotated_videos

AnnotatedFrame = tuple[np.ndarray, np.ndarray]
"""(height, width, 3) RGB and (texts, height, width) bool."""


@dataclass(frozen=True)
class Example:
    """One video to validate on."""

    texts: list[str]
    frames: Callable[[], Iterable[AnnotatedFrame]]
    left_out: int = 0
    """Frames of a run whose label image was deleted."""


@dataclass(frozen=True)
class Found:
    """The results for one text: one number per frame."""

    j: np.ndarray
    f: np.ndarray
    truly_there: np.ndarray
    """bool"""
    predicted: np.ndarray
    """bool: any pixel"""


@dataclass(frozen=True)
class Measured:
    """One pass over a video."""

    found: list[Found]
    """One per text."""
    overlaps: list[np.ndarray]
    """For each text, how many pixels its masks share with the truth of every text, summed over frames."""


def measure(network: ReSurgSAM2, example: Example, *rules: Rules) -> list[Measured]:
    """Segment a video and compare, once for each of the ``rules`` (by default, the published ones)."""
    network.eval()
    with torch.inference_mode():
        prompts = network.encode_text(example.texts)
        passes = [_Pass(Segmenter(network, prompts, x), len(example.texts)) for x in rules or (Rules(),)]
        for rgb, truth in example.frames():
            features = network.encode_image(preprocess([rgb], network.config, network.device))
            for one in passes:
                one.step(features, truth)
    network.train()
    return [one.result() for one in passes]


class _Pass:
    def __init__(self, segmenter: Segmenter, texts: int) -> None:
        self._segmenter = segmenter
        self._rows: list[list[tuple[float, float, bool, bool]]] = [[] for _ in range(texts)]
        self._overlaps = np.zeros((texts, texts))

    def step(self, features: ImageFeatures, truth: np.ndarray) -> None:
        logits = self._segmenter.step(features).mask_logits
        masks = masks_of(logits, *truth.shape[1:])
        self._overlaps += np.einsum("ahw,bhw->ab", masks, truth, dtype=np.float32)
        for row, mask, true in zip(self._rows, masks, truth, strict=True):
            there, here = bool(true.any()), bool(mask.any())
            if there or here:
                row.append((region_similarity(mask, true), contour_accuracy(mask, true), there, here))
            else:
                row.append((1.0, 1.0, False, False))

    def result(self) -> Measured:
        found = [Found(*(np.array(column) for column in zip(*row, strict=True))) for row in self._rows]
        return Measured(found, list(self._overlaps))


def rendered(seeds: Iterable[int], frames: int) -> list[Example]:
    """Scenes that training never renders: one sentence per thing."""

    def example(seed: int) -> Example:
        scene = Scene(seed, frames=frames)
        named = [(x.id, scene.sentences(x)[0]) for x in scene.targets if scene.sentences(x)]
        ids = np.array([ident for ident, _ in named])[:, None, None]

        def render() -> Iterator[AnnotatedFrame]:
            for t in range(frames):
                rgb, labels = scene.render(t)
                yield rgb, labels == ids

        return Example([text for _, text in named], render)

    return [example(seed) for seed in seeds]


def annotated(path: Path, cache: Path, frames: int, sources: Path | None = None) -> list[Example]:
    """The first frames of each video of a data set or a folder of runs; the first sentence of each object.

    ``sources`` is the folder where the videos of runs are now. Raises :class:`~resurgsam2_cli.errors.InputError`.
    """

    def example(video: AnnotatedVideo) -> Example:
        first = {ident: text for text, ident in reversed(video.sentences)}
        ids = np.array(list(first))[:, None, None]

        def read() -> Iterator[AnnotatedFrame]:
            for i in range(min(frames, len(video.frames))):
                rgb, labels = video.read(i)
                yield rgb, labels == ids

        return Example(list(first.values()), read, video.left_out)

    return [example(video) for video in annotated_videos(path, cache, sources)]


def mean_scores(network: ReSurgSAM2, examples: Iterable[Example]) -> tuple[float, float]:
    """J and F from 0 to 100: means over frames, then over texts."""
    found = [x for example in examples for x in measure(network, example)[0].found]
    return float(100 * np.mean([x.j.mean() for x in found])), float(100 * np.mean([x.f.mean() for x in found]))
