"""What cutting a video into pieces costs in quality, on rendered scenes that training never saw.

    python -m benchmarks.splitting [--weights demo] [--scenes 3] [--frames 300] [--piece 100] [--overlap 1]

Each scene is written as a folder of images and segmented by its words twice, as the program does: in one, and in pieces
that each search for themselves and are joined. The figures are J&F of the joined masks against those in one, J&F of
both against the truth, and what the cuts say. A thing loses its identity if its joined mask is that of another thing in
some frame (IoU with its truth at least 0.5, and larger than with its own), and the mask of the run in one is not.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.refining import FIRST_SEED, Video, masks_of
from model import Rules
from resurgsam2_cli.joining.join import join, options_of_piece
from resurgsam2_cli.joining.pieces import Split, cut
from resurgsam2_cli.measuring.metrics import contour_accuracy, region_similarity
from resurgsam2_cli.prompts.prompt import parse_prompts
from resurgsam2_cli.runs.folder import RunFolder, Wanted
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.runs.record import Run, read_run
from resurgsam2_cli.segmenting.engine import build_engine
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.pipeline import segment
from resurgsam2_cli.video.source import open_source, source_path

TARGET = 95.0
"""J&F of the joined run against the one in one, in percent."""

NEAR = 12
"""Frames around a cut."""


@dataclass
class Scores:
    """The results on one scene. J&F is in percent, a mean over frames, then things."""

    seed: int
    frames: int
    pieces: int
    texts: list[str]
    like_whole: list[float]
    """J&F of the joined run against the run in one, for each thing."""
    whole: list[float]
    """J&F of the run in one against the truth."""
    joined: list[float]
    """J&F of the joined run against the truth."""
    strangers: list[int]
    """Frames in which the joined mask of each thing is that of another one, and the mask of the run in one is not."""
    cuts: list[dict[str, Any]] = field(default_factory=list)
    """As in run.json."""
    jumps: list[float] = field(default_factory=list)
    """The loss of J against the truth of each thing around each cut, compared with the run in one."""


def measure(seed: int, weights: str, frames: int, split: Split) -> Scores:
    """All figures of one scene, on one core."""
    torch.set_num_threads(1)
    engine = build_engine(weights)
    options = SegmentOptions(rules=Rules(**engine.weights.rules), overlay=False)
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        video = Video(seed, frames, out)
        prompts = parse_prompts(video.texts)
        with open_source(str(video.path)) as source:

            def claimed(place: str) -> RunFolder:
                wanted = Wanted(out / place, source.name, source_path(source), source.identity())
                return wanted.claim(overwrite=False)

            def segmented(place: str, chosen: SegmentOptions) -> Path:
                with claimed(place) as folder:
                    return segment(engine, source, prompts, chosen, folder, lambda result: None).folder

            parts = cut(source, options.part, split)
            pieces = [segmented(f"pieces/{i}", options_of_piece(options, x)) for i, x in enumerate(parts)]
            with claimed("joined") as folder:
                joined = join(pieces, source, prompts, options, split, folder).folder
            whole = segmented("whole", options)
        return _scores(seed, video, read_run(whole), read_run(joined), len(parts))


def _scores(seed: int, video: Video, whole: Run, joined: Run, pieces: int) -> Scores:
    frames, things = video.truth.shape[:2]
    like, ours, theirs = (np.zeros((frames, things)) for _ in range(3))
    strange = np.zeros((frames, things), bool)
    loss = np.zeros((frames, things))
    with RunIndex(whole) as one, RunIndex(joined) as many:
        for t in range(frames):
            first, second, truth = masks_of(one, t), masks_of(many, t), video.truth[t]
            for k in range(things):
                like[t, k] = j_and_f(second[k], first[k])
                ours[t, k], theirs[t, k] = j_and_f(second[k], truth[k]), j_and_f(first[k], truth[k])
                strange[t, k] = is_stranger(second[k], truth, k) and not is_stranger(first[k], truth, k)
                loss[t, k] = region_similarity(first[k], truth[k]) - region_similarity(second[k], truth[k])
    like_whole, truth_whole, truth_joined = ((100 * x.mean(axis=0)).tolist() for x in (like, theirs, ours))
    around = [loss[max(0, x.frame - NEAR) : x.frame + NEAR].mean(axis=0) for x in joined.cuts]
    return Scores(
        seed,
        frames,
        pieces,
        video.texts,
        like_whole,
        truth_whole,
        truth_joined,
        strange.sum(axis=0).tolist(),
        [x.to_json() for x in joined.cuts],
        [100 * float(y) for x in around for y in x],
    )


def j_and_f(mask: np.ndarray, truth: np.ndarray) -> float:
    """The mean of J and F; 1 if both are empty."""
    if not mask.any() and not truth.any():
        return 1.0
    return (region_similarity(mask, truth) + contour_accuracy(mask, truth)) / 2


def is_stranger(mask: np.ndarray, truth: np.ndarray, k: int) -> bool:
    """Whether a mask is that of another thing than the ``k``-th of the truth (things, height, width) bool."""
    overlaps = [region_similarity(mask, x) if x.any() else 0.0 for x in truth]
    best = int(np.argmax(overlaps))
    return best != k and overlaps[best] >= 0.5


def main() -> None:
    """Print one line per thing, then the figures of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="demo")
    parser.add_argument("--scenes", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--piece", type=int, default=100, help="frames of a piece, at 25 per second")
    parser.add_argument("--overlap", type=float, default=1.0, help="seconds")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    split = Split(options.piece / 25 / 60, options.overlap)
    run = partial(measure, weights=options.weights, frames=options.frames, split=split)
    scores: list[Scores] = []
    with ProcessPoolExecutor(options.workers) as pool:
        for x in pool.map(run, range(options.first_seed, options.first_seed + options.scenes)):
            scores.append(x)
            for k, text in enumerate(x.texts):
                print(
                    f"scene {x.seed}, {x.pieces} pieces: {text:30} like in one {x.like_whole[k]:5.1f}, "
                    f"truth: in one {x.whole[k]:5.1f}, joined {x.joined[k]:5.1f}, of another thing {x.strangers[k]}",
                    flush=True,
                )
    figures = summary(scores)
    print(json.dumps(figures, indent=1))
    if options.json:
        record = {"weights": options.weights, "split": split.record(), **figures, "scenes": [asdict(x) for x in scores]}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


def summary(scores: list[Scores]) -> dict[str, Any]:
    """The figures of all scenes; means over things."""

    def mean(name: str) -> float:
        return round(float(np.mean([y for x in scores for y in getattr(x, name)])), 2)

    met = [y for x in scores for z in x.cuts for y in z["objects"]]
    strangers = [y for x in scores for y in x.strangers]
    return {
        "J&F of joined against in one": mean("like_whole"),
        "target": TARGET,
        "J&F of in one against the truth": mean("whole"),
        "J&F of joined against the truth": mean("joined"),
        "things": len(strangers),
        "things that were another one in some frame": sum(x > 0 for x in strangers),
        "objects at cuts": len(met),
        "agree": sum(x["differs"] is None and x["iou"] is not None for x in met),
        "not there on either side": sum(x["iou"] is None for x in met),
        "differ": sum(x["differs"] is not None for x in met),
        "exchanged": sum(x["id"] != x["was"] for x in met),
        "loss of J within 12 frames of a cut": mean("jumps"),
    }


if __name__ == "__main__":
    main()
