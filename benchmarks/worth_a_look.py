"""How much of what is wrong the list of places that are worth a look finds, on rendered scenes with exact truth.

    python -m benchmarks.worth_a_look [--weights demo] [--scenes 20] [--json FILE]

Each scene is written as a folder of images and segmented by its words, as the program does. The error of an object in a
frame is 1 - J. The figures are the share of a run's whole error that lies within 12 frames of the first 1, 2, 5 and 10
places of the list, of as many places evenly spaced over objects and frames, of as many places at random, and of the
best places there are: each the one that finds most of what is left, knowing the truth.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from model import Rules
from model.training.scenes import Scene
from resurgsam2_cli.api import segment_video
from resurgsam2_cli.measuring.metrics import region_similarity
from resurgsam2_cli.refining.places import AROUND, Place, worth_a_look
from resurgsam2_cli.runs.reading import read_frames
from resurgsam2_cli.runs.record import Run, read_run
from resurgsam2_cli.segmenting.engine import build_engine
from resurgsam2_cli.segmenting.options import SegmentOptions

FIRST_SEED = 1000
"""The list was tuned on scenes below."""
FRAMES = 600
LOOKS = (1, 2, 5, 10)
DRAWS = 20
"""Lists at random."""

Spot = tuple[int, int]
"""A frame and an object, both from 0."""


@dataclass(frozen=True)
class Scores:
    """The results on one scene: for each way of choosing, a share for each number of looks."""

    seed: int
    objects: int
    error: float
    """Of all objects and frames, summed."""
    shares: dict[str, list[float]]
    kinds: dict[str, list[float]]
    """For each kind of place in the list, the mean error of the frames around each."""
    seconds: tuple[float, float]
    """Processor time of reading the run, and of making the list, which reads it too."""


def score(seed: int, weights: str, frames: int) -> Scores | None:
    """Segment a scene, make the list, compare; None for a scene of which nothing can be named, or nothing is wrong."""
    torch.set_num_threads(1)
    scene = Scene(seed, frames=frames)
    things = [x for x in scene.targets if scene.sentences(x)]
    if not things:
        return None
    with tempfile.TemporaryDirectory() as folder:
        images, truth = Path(folder) / f"scene{seed}", []
        images.mkdir()
        for t in range(frames):
            rgb, labels = scene.render(t)
            Image.fromarray(rgb).save(images / f"{t:05d}.png", compress_level=1)
            truth.append(labels)
        engine = build_engine(weights)
        options = SegmentOptions(rules=Rules(**engine.weights.rules), png=False, overlay=False)
        texts = [scene.sentences(x)[0] for x in things]
        run = read_run(segment_video(images, texts, Path(folder) / "runs", engine=engine, options=options).folder)
        errors = errors_of(run, truth, [x.id for x in things])
        begin = process_time()
        for _ in read_frames(run):
            pass
        middle = process_time()
        places = worth_a_look(run)
        seconds = (middle - begin, process_time() - middle)
    return _compared(seed, errors, places, seconds) if errors.any() else None


def errors_of(run: Run, truth: Sequence[np.ndarray], ids: Sequence[int]) -> np.ndarray:
    """1 - J as (frames, objects), given the true labels of each frame and the objects' ids in them."""
    errors = np.zeros((len(truth), len(ids)))
    for t, (frame, labels) in enumerate(zip(read_frames(run), truth, strict=True)):
        masks = {x.object_id: coco_mask.decode(x.rle).astype(bool) for x in frame.masks}
        for k, ident in enumerate(ids):
            true = labels == ident
            errors[t, k] = 1 - region_similarity(masks.get(k + 1, np.zeros_like(true)), true)
    return errors


def _compared(seed: int, errors: np.ndarray, places: list[Place], seconds: tuple[float, float]) -> Scores:
    frames, objects = errors.shape
    most, rng = max(LOOKS), np.random.default_rng(seed)
    listed = [(x.frame, x.object_id - 1) for x in places]  # in a folder of images, frames count from 0
    best = _best(errors, most)
    at_random = [
        [
            (int(t), int(k))
            for t, k in zip(rng.integers(frames, size=most), rng.integers(objects, size=most), strict=True)
        ]
        for _ in range(DRAWS)
    ]
    shares = {
        "list": _shares(errors, [listed[:n] for n in LOOKS]),
        "evenly spaced": _shares(errors, [_spaced(frames, objects, n) for n in LOOKS]),
        "at random": np.mean([_shares(errors, [x[:n] for n in LOOKS]) for x in at_random], axis=0).tolist(),
        "best": _shares(errors, [best[:n] for n in LOOKS]),
    }
    kinds: dict[str, list[float]] = {}
    for x in places:
        around = errors[max(0, x.frame - AROUND) : x.frame + AROUND + 1, x.object_id - 1]
        kinds.setdefault(x.kind, []).append(float(around.mean()))
    return Scores(seed, objects, float(errors.sum()), shares, kinds, seconds)


def _shares(errors: np.ndarray, lists: Iterable[Sequence[Spot]]) -> list[float]:
    """For each list, the share of the error that lies around its places; what lies around two counts once."""
    found = []
    for spots in lists:
        seen = np.zeros(errors.shape, bool)
        for t, k in spots:
            seen[max(0, t - AROUND) : t + AROUND + 1, k] = True
        found.append(float(errors[seen].sum() / errors.sum()))
    return found


def _spaced(frames: int, objects: int, count: int) -> list[Spot]:
    """So many places in the middle of equal stretches of all frames of the first object, the second, and so on."""
    at = ((np.arange(count) + 0.5) * frames * objects / count).astype(int)
    return [(int(x % frames), int(x // frames)) for x in at]


def _best(errors: np.ndarray, count: int) -> list[Spot]:
    """Places one after the other, each where most of the error is left."""
    left, spots = errors.copy(), []
    for _ in range(count):
        around = np.stack([np.convolve(x, np.ones(2 * AROUND + 1), "full")[AROUND:-AROUND] for x in left.T], axis=1)
        t, k = (int(x) for x in np.unravel_index(around.argmax(), around.shape))
        left[max(0, t - AROUND) : t + AROUND + 1, k] = 0
        spots.append((t, k))
    return spots


def summary(scores: list[Scores], frames: int) -> dict[str, Any]:
    """The figures of all scenes: means over scenes."""
    kinds: dict[str, list[float]] = {}
    for x in scores:
        for kind, values in x.kinds.items():
            kinds.setdefault(kind, []).extend(values)
    reading, all_of_it = np.sum([x.seconds for x in scores], axis=0)
    each = frames * sum(x.objects for x in scores)
    return {
        "scenes": len(scores),
        "objects": sum(x.objects for x in scores),
        "mean error": sum(x.error for x in scores) / each,
        "looks": list(LOOKS),
        "shares": {way: np.mean([x.shares[way] for x in scores], axis=0).tolist() for way in scores[0].shares},
        "places and mean error by kind": {x: [len(y), float(np.mean(y))] for x, y in sorted(kinds.items())},
        "microseconds per object and frame, beyond reading": 1e6 * (all_of_it - reading) / each,
        "microseconds per object and frame, reading": 1e6 * reading / each,
    }


def main() -> None:
    """Print a line per scene, then the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="demo")
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.scenes)
    scores = []
    with ProcessPoolExecutor(options.workers) as pool:
        for x in pool.map(partial(score, weights=options.weights, frames=options.frames), seeds):
            if x is not None:
                scores.append(x)
                shares = ", ".join(f"{way} {100 * y[-1]:.0f} %" for way, y in x.shares.items())
                print(f"scene {x.seed}: in {LOOKS[-1]} looks, {shares}", flush=True)
    table = summary(scores, options.frames)
    print("| looks | " + " | ".join(map(str, LOOKS)) + " |\n|" + " --- |" * (len(LOOKS) + 1))
    for way, row in table["shares"].items():
        print(f"| {way} | " + " | ".join(f"{100 * x:.1f} %" for x in row) + " |")
    for key, value in table.items():
        if key not in ("looks", "shares"):
            print(f"{key}: {round(value, 3) if isinstance(value, float) else value}")
    if options.json:
        record = {"weights": options.weights, **table, "per_scene": [asdict(x) for x in scores]}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
