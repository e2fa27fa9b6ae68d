"""Frames per second of the Python API next to the command, from the bundled clip to masks, with the bundled network.

    python benchmarks/python_api.py [--rounds 5] [--prompts 1] [--hogs 0 1] [--json FILE]

All ways do the same work: decode the clip, find and track, make masks in the size of the video. None writes masks
(``--no-png --no-coco --no-overlay``; the command and ``segment_video`` still write a line of scores per frame).
Each run is a process of its own, which sets nothing; loading weights is left out. The ways take turns, in an order that
changes from round to round, so that other work on the machine meets all of them alike. A *ratio* is the median over the
rounds of the frames per second divided by those of the command in the same round. Where others use the machine, rounds
differ a lot, and the best round of each way, which was disturbed least, says more.

- ``segment_video``, ``segment_frames``: the functions of these names;
- ``Segmenter``: one frame at a time, which has its masks before the next one is taken.

Before that, the masks of each way are compared with those that the command writes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np

CLIP = Path(__file__).parents[1] / "examples" / "scene.mp4"
TEXTS = ["left ultrasound probe=probe", "right bipolar forceps=forceps"]
WAYS = ["segment_video", "segment_frames", "Segmenter"]
_COUNT = "while True: pass"

Take = Callable[[np.ndarray], None]
"""Called with the masks of each frame, (objects, height, width) bool."""


def by_function(texts: list[str], folder: Path, take: Take) -> float:
    """Frames per second of ``segment_video``."""
    from resurgsam2_cli import build_engine, segment_video

    run = segment_video(
        CLIP,
        texts,
        folder,
        engine=build_engine("demo"),
        watch=lambda x: take(x.masks),
        png=False,
        coco=False,
        overlay=False,
    )
    return float(run.record["timing"]["frames_per_second"])


def by_frames(texts: list[str], folder: Path, take: Take) -> float:
    """Frames per second of ``segment_frames``."""
    from resurgsam2_cli import build_engine, open_source, segment_frames

    engine = build_engine("demo")
    with open_source(CLIP) as video:
        begin, count = time.perf_counter(), 0
        for result in segment_frames(video.frames(), texts, engine=engine):
            take(result.masks)
            count += 1
        return count / (time.perf_counter() - begin)


def by_steps(texts: list[str], folder: Path, take: Take) -> float:
    """Frames per second of the model's ``Segmenter``, on the engine's threads."""
    from model import Rules, Segmenter, resize_masks
    from resurgsam2_cli import build_engine, open_source

    engine = build_engine("demo")
    words = [x.partition("=")[0] for x in texts]
    with open_source(CLIP) as video, engine.context():
        begin, count = time.perf_counter(), 0
        segmenter = Segmenter(engine.executor, engine.executor.encode_text(words), Rules(**engine.weights.rules))
        for frame in video.frames():
            mask_logits, _ = segmenter.step(engine.executor.encode([frame.rgb]))
            take((resize_masks(mask_logits, *frame.rgb.shape[:2]) > 0).numpy())
            count += 1
        return count / (time.perf_counter() - begin)


def measure_here(way: str, texts: list[str], digest: bool) -> None:
    """Run one way in this process, and print its frames per second and, if asked for, a sum of its masks."""
    masks = hashlib.sha256()
    take: Take = (lambda x: masks.update(x.tobytes())) if digest else (lambda x: None)
    run = {"segment_video": by_function, "segment_frames": by_frames, "Segmenter": by_steps}[way]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        speed = run(texts, Path(folder), take)
    print(json.dumps({"frames_per_second": speed, "masks": masks.hexdigest()}))


def measured(way: str, prompts: int, *, digest: bool = False) -> dict[str, float | str]:
    """Run one way in a process of its own."""
    command = [sys.executable, __file__, "--prompts", str(prompts), "--way", way, *(["--digest"] if digest else [])]
    done = subprocess.run(command, capture_output=True, check=True, env=surroundings())
    found: dict[str, float | str] = json.loads(done.stdout.splitlines()[-1])
    return found


def surroundings() -> dict[str, str]:
    """The environment without what a caller set about threads: the program is to find its own way."""
    own = {key: x for key, x in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "MKL_"))}
    return {**own, "PYTHONPATH": os.pathsep.join([str(CLIP.parents[1]), own.get("PYTHONPATH", "")])}


def by_command(prompts: int, folder: Path, *outputs: str) -> float:
    """Frames per second of the command."""
    texts = [x for text in TEXTS[:prompts] for x in ("--text", text)]
    command = [sys.executable, "-m", "resurgsam2_cli", "segment", str(CLIP), *texts, "--weights", "demo", "--json"]
    done = subprocess.run(
        [*command, "-o", str(folder), "--overwrite", *outputs], capture_output=True, check=True, env=surroundings()
    )
    return float(json.loads(done.stdout)["timing"]["frames_per_second"])


def masks_of_command(prompts: int, folder: Path) -> str:
    """The sum of the masks in the command's files."""
    from resurgsam2_cli import open_run

    by_command(prompts, folder, "--no-overlay")
    masks = hashlib.sha256()
    with open_run(folder / CLIP.stem) as run:
        for frame in run.frames():
            masks.update(np.stack([run.mask(frame.number, x.id) for x in run.objects]).tobytes())
    return masks.hexdigest()


@contextmanager
def beside(hogs: int) -> Iterator[None]:
    """Some processes that only count."""
    others = [subprocess.Popen([sys.executable, "-c", _COUNT]) for _ in range(hogs)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    """Print whether the masks are the same, and the ratios; write all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, choices=(1, 2), default=1)
    parser.add_argument("--hogs", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--digest", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        measure_here(options.way, TEXTS[: options.prompts], options.digest)
        return
    speeds = {hogs: {way: list[float]() for way in ("command", *WAYS)} for hogs in options.hogs}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        expected = masks_of_command(options.prompts, folder)
        same = {way: measured(way, options.prompts, digest=True)["masks"] == expected for way in WAYS}
        print("the masks of the command:", ", ".join(f"{way} {'yes' if x else 'NO'}" for way, x in same.items()))
        for number in range(options.rounds):
            for hogs, found in speeds.items():
                ways = [*found]
                for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                    with beside(hogs):
                        if way == "command":
                            speed = by_command(options.prompts, folder, "--no-png", "--no-coco", "--no-overlay")
                        else:
                            speed = float(measured(way, options.prompts)["frames_per_second"])
                    found[way].append(speed)
                line = ", ".join(f"{way} {x[-1]:.1f}" for way, x in found.items())
                print(f"round {number + 1}, beside {hogs} processes, frames/s: {line}", flush=True)
    ratios = {
        hogs: {way: median(a / b for a, b in zip(found[way], found["command"], strict=True)) for way in WAYS}
        for hogs, found in speeds.items()
    }
    best = {hogs: {way: max(found[way]) / max(found["command"]) for way in WAYS} for hogs, found in speeds.items()}
    for hogs, found in speeds.items():
        for way in WAYS:
            print(
                f"beside {hogs} processes: {way:14s} {median(found[way]):6.1f} frames/s, "
                f"{ratios[hogs][way]:.2f} of the command's {median(found['command']):.1f}; "
                f"at best {max(found[way]):.1f}, {best[hogs][way]:.2f} of its {max(found['command']):.1f}"
            )
    if options.json:
        options.json.write_text(
            json.dumps({"same_masks": same, "speeds": speeds, "ratios": ratios, "of_best": best}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
