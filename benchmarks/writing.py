"""What writing outputs costs the thread that launches a GPU's work: in threads, and in a process of their own.

    python -m benchmarks.writing [--frames 300] [--objects 1 16] [--launches 300] [--wait 2] [--no-overlay] [--json F]

There is no GPU in it: a thread makes as many small calls to PyTorch per frame as launching takes, each of which gives
Python's lock up and gets it back, and then waits some milliseconds, as for a device. Results like those of a GPU (720p,
masks as bits) go to the default outputs. What counts is how long the calls of a frame take beside that.

With few cores, the encoder of the overlay takes what there is: leave it out to see the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import ellipses
from model.preprocess import bits_and_labels, split_bits_and_labels
from resurgsam2_cli.outputs import Clip, FrameResult, ObjectResult
from resurgsam2_cli.outputs.base import PackedMasks
from resurgsam2_cli.outputs.own_process import SinksApart
from resurgsam2_cli.outputs.sinks import Sinks, behind
from resurgsam2_cli.process.threads import Lane
from resurgsam2_cli.process.tuning import keep_memory, prepare_environment
from resurgsam2_cli.process.usage import StageTimes
from resurgsam2_cli.segmenting.bench import some_prompts
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.video.frames import Frame

_HEIGHT, _WIDTH = 720, 1280
_RATE = Fraction(25)
_ROUNDS = 3


def results(objects: int, frames: int) -> Iterator[FrameResult]:
    """Frames with an ellipse for each object, as they come from a GPU."""
    row = bits_and_labels(ellipses(objects, 128, torch.device("cpu")), _HEIGHT, _WIDTH, 0.0).numpy()
    bits, labels = split_bits_and_labels(row, _HEIGHT, _WIDTH)
    blocks = np.random.default_rng(0).integers(0, 256, (_HEIGHT // 20, _WIDTH // 20, 3), np.uint8)
    rgb = np.ascontiguousarray(blocks.repeat(20, axis=0).repeat(20, axis=1))
    found = [ObjectResult(i, "track", True, 2.0, 0.9, 0.8, (0,), (1, 2, 3)) for i in range(1, objects + 1)]
    for i in range(frames):
        x = Frame(i, f"{i:05d}", i / _RATE, rgb)
        yield FrameResult(x.number, x.name, x.time, x.rgb, PackedMasks(bits, _WIDTH), labels, found)


@contextmanager
def opened(way: str, clip: Clip, names: list[str]) -> Iterator[Sinks | SinksApart | None]:
    """The outputs, written in one of the ways; their files go again."""
    with tempfile.TemporaryDirectory() as folder:
        if way == "threads":
            yield Sinks(Path(folder), clip, names, StageTimes(), lanes=True)
        elif way == "process":
            yield SinksApart(Path(folder), clip, names, StageTimes())
        else:
            yield None


def measured(way: str, objects: int, options: argparse.Namespace) -> tuple[float, float]:
    """Milliseconds per frame, of the calls alone and in all."""
    names = [x for x in SegmentOptions().sinks if x != "overlay" or options.overlay]
    clip = Clip("clip", _HEIGHT, _WIDTH, _RATE, Fraction(0), None, None, some_prompts(objects))
    tensor, launching = torch.zeros(16), 0.0
    with opened(way, clip, names) as sinks:
        lane: Lane[FrameResult] = Lane((lambda x: None) if sinks is None else sinks.write, behind(clip))
        begin = time.perf_counter()
        for result in results(objects, options.frames):
            started = time.perf_counter()
            for _ in range(options.launches):
                tensor.add_(1.0)
            launching += time.perf_counter() - started
            time.sleep(options.wait / 1000)
            lane.put(result)
        lane.finish()
        if sinks is not None:
            sinks.finish()
        whole = time.perf_counter() - begin
    return 1000 * launching / options.frames, 1000 * whole / options.frames


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--launches", type=int, default=300, help="calls per frame")
    parser.add_argument("--wait", type=float, default=2.0, help="milliseconds per frame, as for a device")
    parser.add_argument("--no-overlay", dest="overlay", action="store_false")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    prepare_environment()
    keep_memory()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for count in options.objects:
        taken: dict[str, list[tuple[float, float]]] = {}
        for way in islice(cycle(("nothing", "threads", "process")), 3 * _ROUNDS):
            taken.setdefault(way, []).append(measured(way, count, options))
        for way, times in taken.items():
            launching, whole = (median(x) for x in zip(*times, strict=True))
            rows.append({"objects": count, "writing": way, "launching_ms": launching, "frame_ms": whole})
            print(
                f"{count:>3} objects, {way:8}: {launching:6.2f} ms of a frame's {whole:6.2f} to launch "
                f"({1000 / whole:.0f} frames/s)",
                flush=True,
            )
    if options.json:
        record = {"cores": os.cpu_count(), "overlay": options.overlay, "launches": options.launches, "rows": rows}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
