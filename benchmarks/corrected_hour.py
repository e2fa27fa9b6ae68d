"""What it costs to correct a long run: seconds beside the network's own, and whether they grow with the length.

    python -m benchmarks.corrected_hour [--frames 9000 90000] [--reach 150] [--json FILE]

A run is made of masks that no network saw (discs that move, and are away at times), as 90,000 frames of the bundled
network would take an hour. Everything after that is the product: the list of what is worth a look, one drawn mask that
is tracked from in both directions to its reach, undo, and what the review page does when it opens the run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from resurgsam2_cli.process.tuning import prepare_environment

prepare_environment()  # before torch is loaded

import numpy as np
import torch

from model.streams import Handed
from resurgsam2_cli.api import segment_video
from resurgsam2_cli.files.rle import encoded
from resurgsam2_cli.outputs import ObjectResult
from resurgsam2_cli.prompts.marks import Mark
from resurgsam2_cli.refining.places import worth_a_look
from resurgsam2_cli.refining.refine import Given, refine
from resurgsam2_cli.refining.tracking import Reach
from resurgsam2_cli.refining.versions import undo
from resurgsam2_cli.review.content import Content
from resurgsam2_cli.runs.record import read_run
from resurgsam2_cli.segmenting import pipeline
from resurgsam2_cli.segmenting.bench import make_video
from resurgsam2_cli.segmenting.engine import build_engine
from resurgsam2_cli.segmenting.reading import Read
from resurgsam2_cli.segmenting.rendering import Prediction
from resurgsam2_cli.segmenting.summary import Undertaking
from resurgsam2_cli.video.positions import Position

HEIGHT, WIDTH = 96, 160
LABELS = ("grasper", "scissors", "kidney")
AWAY = 0.2
"""The share of the time that each object is out of sight."""


def discs(run: Undertaking, frames: Iterator[Read], _: int | None) -> Generator[Prediction, None, None]:
    """Discs in place of what the network would see."""
    size = run.engine.config.mask_size
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    for frame in (z.frame for z in frames):
        logits, objects = torch.full((len(LABELS), size, size), -10.0), []
        for k in range(len(LABELS)):
            turn = frame.number / (300 + 100 * k)
            there = turn % 1 >= AWAY
            if there:
                middle = size * (0.5 + 0.3 * np.sin(6.28 * turn)), size * (0.3 + 0.2 * k)
                logits[k] = 10.0 * (8 - torch.hypot(y - middle[0], x - middle[1])).clamp(-1, 1)
            score, share = (6.0, 0.9975) if there else (-6.0, 0.0025)
            objects.append(ObjectResult(k + 1, "track", there, score, 0.9, share, (0,), ()))
        yield Prediction(frame, Handed(logits), objects)


def measure(frames: int, reach: int, folder: Path) -> dict[str, float]:
    """Seconds of everything, for a run of so many frames."""
    seconds: dict[str, float] = {}

    def timed(what: str, work: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        found = work()
        seconds[what] = round(time.perf_counter() - begin, 2)
        return found

    engine, video = build_engine("demo"), folder / f"{frames}.mp4"
    make_video(video, HEIGHT, WIDTH, frames)
    with patch.object(pipeline, "predict", discs):
        path = segment_video(video, list(LABELS), folder / "runs", engine=engine).folder
    run = read_run(path)
    seconds["files of the run, MB"] = sum(x.stat().st_size for x in path.rglob("*") if x.is_file()) // 2**20
    timed("list what is worth a look", lambda: worth_a_look(run))
    stat = (path / "run.json").stat()
    content = timed("page: open", lambda: Content(run, (stat.st_mtime_ns, stat.st_ino), None))
    timed("page: lanes", lambda: content.lanes.cells(0, frames, 1000))
    timed("page: picture far away", lambda: content.pictures.jpeg(frames * 2 // 3, WIDTH))
    content.close()
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[30:60, 40:90] = True
    at = frames // 600 * 300 + 100  # where the object is there
    drawn = Mark("1", Position(frame=at), mask={"size": [HEIGHT, WIDTH], "counts": encoded(mask)}, by_id=True)
    given = Given([replace(drawn, origin="the mark")], reach=Reach(agreed=0, frames=reach))
    done = timed("correct", lambda: refine(path, given, lambda words: engine))
    assert done.frames > reach // 2, "the correction was not followed"
    network = sum(done.timing.seconds.get(x, 0.0) for x in ("decode", "prepare", "encode", "point", "segment"))
    seconds["correct, of which reading and network"] = round(network, 2)
    timed("undo", lambda: undo(path))
    return seconds


def main() -> None:
    """Print a table with a column for each length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[9000, 90000])
    parser.add_argument("--reach", type=int, default=150)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for frames in options.frames:
            found[frames] = measure(frames, options.reach, Path(folder))
            print(f"{frames} frames: {json.dumps(found[frames])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"reach": options.reach, "seconds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
