"""Seconds that the preview of a click takes on the review page: with the bundled network, and with a full-size one.

    python -m benchmarks.preview [--precision bf16] [--clicks 8] [--json FILE]

A rendered scene is segmented by its words with the bundled network. Then clicks are made in three frames, on an object
and beside it in turn, at random places where the mask is wrong (if it is nowhere: where it has to change), each with
all clicks before it, as the page makes them. The first click in a
frame reads and encodes the frames around it, and what is remembered of the object in them; later ones need memory
attention and the decoder alone.

The full-size network has random weights, which do not change the work of one look. A mask that does not do what the
clicks say is looked at in other ways, too, so a click may take several looks: the longest one is printed as well.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from resurgsam2_cli.process.tuning import prepare_environment

prepare_environment()  # before torch is loaded

import numpy as np
import torch

from benchmarks.refining import FIRST_SEED, Video, masks_of
from model import HIERA_SMALL, ReSurgSAM2
from resurgsam2_cli.api import segment_video
from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.files.rle import decoded
from resurgsam2_cli.prompts.marks import Mark
from resurgsam2_cli.review.preview import Preview
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.runs.record import Run, read_run
from resurgsam2_cli.segmenting.engine import Engine, build_engine, make_engine
from resurgsam2_cli.video.positions import Position
from weights.loader import WeightsInfo

FRAMES = 60


def full_size(precision: str) -> Engine:
    """The published configuration, with random weights."""
    torch.manual_seed(0)
    info = WeightsInfo("full-size", Path(), "")
    return make_engine(ReSurgSAM2(HIERA_SMALL).eval(), info, torch.device("cpu"), precision)


def measure(run: Run, video: Video, build: Callable[[], Engine], clicks: int) -> tuple[list[float], list[float]]:
    """Seconds of first clicks in a frame, and of those that follow."""
    preview, rng = Preview(run, lambda words: build(), None), np.random.default_rng(0)
    first, later = list[float](), list[float]()
    seen = np.array(video.truth.any(axis=(2, 3)))
    k = int(seen.sum(axis=0).argmax())
    steps = np.flatnonzero(seen[:, k]).tolist()
    for t in (steps[len(steps) * n // 6] for n in (3, 5, 1)):
        said: list[Mark] = []
        with RunIndex(run) as index:
            mask = masks_of(index, t)[k]
        for number in range(clicks):
            on = number % 2 == 0
            wrong = (video.truth[t, k] == on) & (mask != on)
            y, x = rng.choice(np.argwhere(wrong if wrong.any() else mask != on))
            said.append(Mark(str(k + 1), Position(frame=t), ((float(x) + 0.5, float(y) + 0.5, on),)))
            begin = time.perf_counter()
            try:
                mask = decoded(preview.clicked([], said, None)["counts"], mask.shape)
            except UsageError:  # the network finds nothing there: it has looked all the same
                said.pop()
            (first if number == 0 else later).append(time.perf_counter() - begin)
    preview.close()
    return first, later


def main() -> None:
    """Print a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--clicks", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        video = Video(FIRST_SEED, FRAMES, Path(folder))
        done = segment_video(video.path, video.texts, Path(folder) / "run", engine=build_engine("demo"))
        run = read_run(done.folder)
        for name, build in (
            ("bundled", lambda: build_engine("demo")),
            ("full size", lambda: full_size(options.precision)),
        ):
            first, later = measure(run, video, build, options.clicks)
            figures[name] = {"first": median(first), "later": median(later), "longest later": max(later)}
            print(
                f"{name}: the first click in a frame {median(first):.2f} s, each after it {median(later):.2f} s,"
                f" at most {max(later):.2f} s ({len(later)} clicks)"
            )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
