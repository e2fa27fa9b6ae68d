"""Measures masks against a data set: J, F, J&F and Dice of each object, video, group, and overall."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.measuring.masks import Reader, frames_in, objects_in, run_reader, tree_reader
from resurgsam2_cli.measuring.matching import Pair, Task, Truth, match
from resurgsam2_cli.measuring.metrics import contour_accuracy, dice, region_similarity
from resurgsam2_cli.measuring.scores import Evaluation, FrameScore, Score, score_of

_TOOLS = tuple(range(1, 11))
GROUPS: dict[str, dict[str, tuple[int, ...]]] = {
    "ref-endovis17": {"tools": _TOOLS},
    "ref-endovis18": {"tools": _TOOLS, "tissue": (11, 12, 17)},
}
"""Object ids of the groups of the published figures, by data set."""


def evaluate(
    predictions: Path,
    truth: Path,
    *,
    groups: dict[str, tuple[int, ...]] | None = None,
    all_frames: bool | None = None,
    skip_missing: bool = False,
    workers: int | None = None,
    watch: Callable[[str], None] = lambda video: None,
) -> Evaluation:
    """Measure ``predictions`` against ``truth``.

    ``all_frames`` counts a frame in which an object has not yet been seen, in truth or prediction, as 1, as the
    published evaluation of Ref-EndoVis does; without it, an object counts from the first frame that shows it, as in
    ``vos-benchmark``. It defaults to true only for data sets with expressions. Several prompts for one object count
    as their mean. Raises :class:`InputError`.
    """
    found = Truth.find(truth)
    all_frames = bool(found.expressions) if all_frames is None else all_frames
    tasks = match(predictions, found, all_frames=all_frames, skip_missing=skip_missing)
    scores: list[Score] = []
    for task, part in zip(tasks, _spread(tasks, workers), strict=True):
        scores += part
        watch(task.video)
    if not scores:
        raise InputError(f"{truth}: has no object in any frame", "check the annotations")
    return Evaluation.of(scores, groups or {}, all_frames=all_frames)


def _spread(tasks: list[Task], workers: int | None) -> Iterator[list[Score]]:
    """The scores of each task, in order."""
    workers = min(len(tasks), workers or os.cpu_count() or 1)
    if workers == 1:
        yield from map(_measure, tasks)
        return
    with ProcessPoolExecutor(workers, initializer=_ignore_interrupts) as pool:
        try:
            yield from pool.map(_measure, tasks, chunksize=1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _ignore_interrupts() -> None:
    """Ctrl-C reaches the first process, which ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _measure(task: Task) -> list[Score]:
    """The scores of one video's objects."""
    names = frames_in(task.truth)
    if not names:
        raise InputError(f"{task.truth}: holds no PNG image", "give the folder of the annotations")
    folder = task.prediction.folder
    predicted = run_reader(folder) if task.prediction.is_run else tree_reader(folder)
    pairs = task.pairs
    if pairs is None:
        pairs = tuple(Pair(i, i, "") for i in objects_in(task.truth, names))
    frames = _compare(task, names, pairs, predicted)
    return [
        score_of(task.video, pair.true, pair.text, scores) for pair, scores in zip(pairs, frames, strict=True) if scores
    ]


def _compare(task: Task, names: dict[str, str], pairs: tuple[Pair, ...], predicted: Reader) -> list[list[FrameScore]]:
    """Walk through the frames of the truth (names by key); return the scores that count, for each pair."""
    true = tree_reader(task.truth)
    scores: list[list[FrameScore]] = [[] for _ in pairs]
    missing = []
    for key, name in names.items():
        for pair, counted in zip(pairs, scores, strict=True):
            mask, truth = predicted(key, pair.predicted), true(key, pair.true)
            if mask is None or truth is None:
                missing.append(name)
                break
            score = _score(task, name, mask, truth)
            if counted or task.all_frames or score.predicted or score.there:
                counted.append(score)
    if missing and not task.skip_missing:
        raise InputError(
            f"{task.prediction.folder}: {len(missing)} of {len(names)} frames of the truth are missing, such as "
            f"{missing[0]}",
            "predict every frame, or add --skip-missing",
        )
    return scores


def _score(task: Task, name: str, mask: np.ndarray, truth: np.ndarray) -> FrameScore:
    if mask.shape != truth.shape:
        raise InputError(
            f"{task.prediction.folder}: frame {name} is {mask.shape[1]} x {mask.shape[0]}, its truth "
            f"{truth.shape[1]} x {truth.shape[0]}",
            "measure masks of the data set's own frames",
        )
    return FrameScore(
        region_similarity(mask, truth),
        contour_accuracy(mask, truth),
        dice(mask, truth),
        bool(mask.any()),
        bool(truth.any()),
    )
