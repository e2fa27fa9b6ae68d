"""Memory does not grow with the length of the video."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from clips import ffmpeg


@pytest.mark.slow
def test_peak_memory_of_a_long_video(small_weights: Path, tmp_path: Path) -> None:
    """1600 frames need no more than 5 % above what 200 frames need, all outputs written."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    peaks = {}
    for frames in (200, 1600):
        source = tmp_path / f"{frames}.mp4"
        ffmpeg("-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25", "-frames:v", str(frames), source)
        run = ["segment", str(source), "-t", "left grasper", "-t", "kidney", "--weights", str(small_weights)]
        # Every object is tracked, and long-term memory is in use.
        run += ["--json", "--min-presence", "0", "--min-iou", "0", "--long-term-min-iou", "0"]
        done = subprocess.run(
            [sys.executable, "-m", "resurgsam2_cli", *run],
            capture_output=True,
            cwd=tmp_path,
            env=environment,
            check=True,
        )
        record = json.loads(done.stdout)
        assert record["source"]["frames"] == frames
        assert all(len(x["long_term_frames"]) == 3 for x in record["objects"])
        peaks[frames] = record["peak_memory_mb"]["host"]
    assert peaks[1600] <= 1.05 * peaks[200], peaks
