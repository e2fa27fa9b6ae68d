"""What one click does to the mask of its frame, on rendered scenes that training never saw.

    python -m benchmarks.clicking [--weights demo] [--scenes 20] [--json FILE]

Each scene is segmented by its words. Then a click is made in the middle of the worst error of masks that are wrong: as
they are, and, in other frames, after something else was put in their place (another thing, another thing with them,
half of them, nothing). Printed are the IoU before and after, and how often the click made the mask worse or better by
more than 0.02.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.refining import FIRST_SEED, RIGHT, Video, masks_of, truth_of
from model import Rules
from resurgsam2_cli.api import segment_video
from resurgsam2_cli.files.rle import encoded
from resurgsam2_cli.measuring.metrics import region_similarity
from resurgsam2_cli.refining.changes import Changes
from resurgsam2_cli.refining.clicking import clicked
from resurgsam2_cli.refining.correction import Correction
from resurgsam2_cli.refining.kept import Kept, prompts_of
from resurgsam2_cli.refining.known import Known
from resurgsam2_cli.refining.refine import options_of
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.runs.record import read_run
from resurgsam2_cli.runs.source import opened_source
from resurgsam2_cli.segmenting.engine import build_engine
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.placing import Placed
from resurgsam2_cli.segmenting.summary import Undertaking
from resurgsam2_cli.segmenting.timing import Timing

KINDS = ("as it is", "another thing", "with another thing", "half of it", "nothing")
EACH = 3
"""Clicks of each kind for each thing."""

CLEAR = 300
"""Pixels of a thing that is looked at."""

FRAMES = 200

Click = tuple[str, float, float]
"""What was wrong, and the IoU before and after."""


def measure(seed: int, weights: str) -> list[Click]:
    """All clicks on one scene, on one core."""
    torch.set_num_threads(1)
    engine, found, rng = build_engine(weights), list[Click](), np.random.default_rng(seed)
    options = SegmentOptions(rules=Rules(**engine.weights.rules), overlay=False)
    with tempfile.TemporaryDirectory() as folder:
        video = Video(seed, FRAMES, Path(folder))
        if not video.things:
            return found
        run = read_run(
            segment_video(video.path, video.texts, Path(folder) / "run", engine=engine, options=options).folder
        )
        with RunIndex(run) as index, opened_source(run) as source, Changes() as changes:
            undertaking = Undertaking(engine, source, prompts_of(run), options_of(run), Timing())
            known = Known(undertaking, index, Kept.of_run(index), changes)
            for k in range(len(video.things)):
                for kind, t, mask in _wrong(index, video, k, rng):
                    true = video.truth[t, k]
                    mark = truth_of(mask, true, str(k + 1), t)
                    if mark.points:
                        known.read_around(t)
                        x = Correction(k, t, t, "point", encoded(mask), (Placed(k, t, mark),))
                        if kind == KINDS[0]:
                            x = Correction(k, t, t, "point", None, x.clicks)
                        after, _ = clicked(known, x)
                        found.append((kind, region_similarity(mask, true), region_similarity(after, true)))
    return found


def _wrong(index: RunIndex, video: Video, k: int, rng: np.random.Generator) -> Iterator[tuple[str, int, np.ndarray]]:
    """Wrong masks of a thing: what is wrong, the frame, and the mask."""
    left = dict.fromkeys(KINDS, EACH)
    for t in map(int, rng.permutation(len(index))):
        true, masks = video.truth[t, k], masks_of(index, t)
        others = [x for i, x in enumerate(masks) if i != k and x.sum() >= CLEAR]
        kinds = [x for x in KINDS if left[x] and (others or "another" not in x)]
        if true.sum() < CLEAR or not kinds:
            continue
        kind = kinds[int(rng.integers(len(kinds)))]
        other = others[int(rng.integers(len(others)))] if others else masks[k]
        mask = {
            KINDS[0]: masks[k],
            KINDS[1]: other,
            KINDS[2]: masks[k] | other,
            KINDS[3]: _half(masks[k]),
            KINDS[4]: np.zeros_like(true),
        }[kind]
        if region_similarity(mask, true) < RIGHT:
            left[kind] -= 1
            yield kind, t, mask


def _half(mask: np.ndarray) -> np.ndarray:
    """A mask without what lies beyond the middle of its longer side."""
    rows, columns = np.nonzero(mask)
    half = mask.copy()
    if not len(rows):
        return half
    if np.ptp(columns) > np.ptp(rows):
        half[:, int(np.median(columns)) :] = False
    else:
        half[int(np.median(rows)) :] = False
    return half


def main() -> None:
    """Print a line per kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="demo")
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.scenes)
    with ProcessPoolExecutor(options.workers) as pool:
        clicks = [x for found in pool.map(partial(measure, weights=options.weights), seeds) for x in found]
    for kind in KINDS:
        own = np.array([x[1:] for x in clicks if x[0] == kind])
        if len(own):
            gain = own[:, 1] - own[:, 0]
            print(
                f"{kind:20} {len(own):4} clicks, IoU {own[:, 0].mean():.3f} to {own[:, 1].mean():.3f}, worse"
                f" {100 * (gain < -0.02).mean():.0f} %, better {100 * (gain > 0.02).mean():.0f} %"
            )
    if options.json:
        options.json.write_text(json.dumps(clicks) + "\n")


if __name__ == "__main__":
    main()
