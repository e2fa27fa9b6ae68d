"""Render a scene as H.264, as the bundled clip was made.

python examples/render_scene.py SEED OUT.mp4 [--frames 200] [--height 384] [--width 480]
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

from model.training.scenes import Scene
from resurgsam2_cli.video.writer import VideoWriter


def main() -> None:
    """Render, and say what is to be seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--height", type=int, default=384)
    parser.add_argument("--width", type=int, default=480)
    options = parser.parse_args()
    scene = Scene(options.seed, height=options.height, width=options.width, frames=options.frames)
    writer = VideoWriter(options.out, options.height, options.width, Fraction(scene.fps))
    for t in range(options.frames):
        writer.write(scene.render(t)[0], Fraction(t, scene.fps))
    writer.close()
    for target in scene.targets:
        print(f"{target.id}: {target.side or ''} {target.category}".replace(":  ", ": "))


if __name__ == "__main__":
    main()
