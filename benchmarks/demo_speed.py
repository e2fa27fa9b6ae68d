"""Frames per second of the whole command with the bundled network, from the bundled MP4 to all default outputs.

    python benchmarks/demo_speed.py [--runs 3] [--prompts 1]

Start-up (importing, loading weights) is left out: run.json counts from the first frame that is read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

CLIP = Path(__file__).parents[1] / "examples" / "scene.mp4"
TEXTS = ["left ultrasound probe", "right bipolar forceps"]


def main() -> None:
    """Print one line per run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--prompts", type=int, choices=(1, 2), default=1)
    options = parser.parse_args()
    prompts = [x for text in TEXTS[: options.prompts] for x in ("--text", text)]
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "resurgsam2_cli", "segment", str(CLIP), *prompts, "-o", folder, "--json"]
            done = subprocess.run([*command, "--weights", "demo"], check=True, capture_output=True, text=True)
        timing = json.loads(done.stdout)["timing"]
        stages = ", ".join(f"{name} {x['seconds']:.2f} s" for name, x in timing["stages"].items())
        print(f"{timing['frames_per_second']:.1f} frames/s ({stages})", flush=True)


if __name__ == "__main__":
    main()
