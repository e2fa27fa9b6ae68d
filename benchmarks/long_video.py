"""Peak memory of the whole command over videos of different lengths, and frames per second.

    python benchmarks/long_video.py [--frames 1000 20000] [--size 64x64] [--weights demo] [--device auto]

The pictures are small, to keep the wait short: what could grow with the length does not depend on the size.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from resurgsam2_cli.segmenting.bench import make_video, some_prompts


def main() -> None:
    """Print one line per length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[1000, 20000])
    parser.add_argument("--size", default="64x64", help="width x height")
    parser.add_argument("--weights", default="demo")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    width, height = (int(x) for x in options.size.split("x"))
    for frames in options.frames:
        with tempfile.TemporaryDirectory() as folder:
            video = Path(folder) / "video.mp4"
            make_video(video, height, width, frames)
            command = [sys.executable, "-m", "resurgsam2_cli", "segment", str(video), "-o", folder, "--json"]
            command += ["-t", some_prompts(1)[0].text, "--weights", options.weights, "--device", options.device]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        record = json.loads(done.stdout)
        peak = ", ".join(f"{value} MB ({where})" for where, value in record["peak_memory_mb"].items() if value)
        print(f"{frames} frames: peak {peak}, {record['timing']['frames_per_second']} frames/s", flush=True)


if __name__ == "__main__":
    main()
