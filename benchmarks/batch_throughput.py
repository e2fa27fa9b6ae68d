"""Frames per second of ``batch`` over many short clips, next to one long clip of the same frames.

    python benchmarks/batch_throughput.py [--clips 20] [--frames 75] [--weights demo] [--device cpu] [--repeats 3]

Both go through ``batch`` with all default outputs, in turn. The time counts from opening the first video to recording
the last one. Start-up (importing, loading weights) is left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from statistics import median

from model.training.scenes import Scene
from resurgsam2_cli.video.writer import VideoWriter

TEXTS = ("grasper", "kidney")


def write(path: Path, scene: Scene, frames: range) -> None:
    """Write a part of a scene as a video."""
    writer = VideoWriter(path, scene.height, scene.width, Fraction(scene.fps))
    for i, t in enumerate(frames):
        writer.write(scene.render(t)[0], Fraction(i, scene.fps))
    writer.close()


def rate(videos: Path, out: Path, options: argparse.Namespace) -> float:
    """Frames per second over all videos of a folder."""
    command = [sys.executable, "-m", "resurgsam2_cli", "batch", str(videos), "-o", str(out), "--quiet"]
    command += ["--weights", options.weights, "--device", options.device, *(x for t in TEXTS for x in ("-t", t))]
    subprocess.run(command, check=True)
    rows = json.loads((out / "batch.json").read_text())["videos"]
    return float(sum(x["frames"] for x in rows) / sum(x["seconds"] for x in rows))


def main() -> None:
    """Print one line per repeat, and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--frames", type=int, default=75)
    parser.add_argument("--weights", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = Scene(2002, frames=options.clips * options.frames, height=384, width=480)
        for part in ("short", "long"):
            (folder / part).mkdir()
        write(folder / "long" / "long.mp4", scene, range(scene.frames))
        for i in range(options.clips):
            write(folder / "short" / f"{i:03d}.mp4", scene, range(i * options.frames, (i + 1) * options.frames))
        ratios = []
        for i in range(options.repeats):
            short, long = (rate(folder / part, folder / f"{part}{i}", options) for part in ("short", "long"))
            ratios.append(short / long)
            print(f"short clips {short:.1f} frames/s, one long clip {long:.1f}: {short / long:.3f}", flush=True)
        print(f"median {median(ratios):.3f}")


if __name__ == "__main__":
    main()
