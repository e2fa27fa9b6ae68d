"""How fast the program is beside other programs that take all the processor they can get.

    python benchmarks/shared_machine.py [--hogs 0 2 8] [--frames 300] [--rounds 3] [--size 1280 720] [--json FILE]

The whole command runs on a rendered scene with the bundled network, alone and beside some processes that only count.
All runs are made in turn, several rounds. A *share* is the median of the frames per second, start-up not counted,
divided by that of the runs alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from resurgsam2_cli.segmenting.bench import make_video, some_prompts

_COUNT = "while True: pass"


def run(video: Path, prompts: int, hogs: int, folder: Path) -> float:
    """Frames per second beside ``hogs`` processes."""
    others = [subprocess.Popen([sys.executable, "-c", _COUNT]) for _ in range(hogs)]
    texts = [x for prompt in some_prompts(prompts) for x in ("--text", f"{prompt.text}={prompt.label}")]
    command = [sys.executable, "-m", "resurgsam2_cli", "segment", str(video), *texts, "--weights", "demo"]
    try:
        done = subprocess.run([*command, "-o", str(folder), "--overwrite", "--json"], capture_output=True, check=True)
    finally:
        for other in others:
            other.kill()
            other.wait()
    timing: dict[str, Any] = json.loads(done.stdout)["timing"]
    return float(timing["frames_per_second"])


def main() -> None:
    """Print the shares, and write all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hogs", type=int, nargs="+", default=[0, 2, 8])
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=[1280, 720], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    width, height = options.size
    speeds: dict[int, list[float]] = {hogs: [] for hogs in options.hogs}
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "scene.mp4"
        make_video(video, height, width, options.frames)
        for number in range(options.rounds):
            for hogs, found in speeds.items():
                found.append(run(video, options.prompts, hogs, Path(folder) / "runs"))
                print(f"round {number + 1}, beside {hogs} processes: {found[-1]:6.1f} frames/s", flush=True)
    alone = median(speeds[min(speeds)])
    for hogs, found in speeds.items():
        print(f"beside {hogs} processes: {median(found):6.1f} frames/s, a share of {median(found) / alone:.2f}")
    if options.json:
        options.json.write_text(json.dumps(speeds, indent=1) + "\n")


if __name__ == "__main__":
    main()
