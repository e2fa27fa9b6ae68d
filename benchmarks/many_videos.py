"""What a batch of many videos costs besides segmenting them: planning a thousand, and recording ten thousand.

    python benchmarks/many_videos.py [--videos 1000] [--records 10000]

*Planning* is ``batch --dry-run`` as a process, next to opening the same files alone; half of the videos have a finished
run. *Recording* is the time to write the outcome of one video, at the beginning and at the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from resurgsam2_cli.batch.items import Outcome
from resurgsam2_cli.batch.record import Record
from resurgsam2_cli.video.ffmpeg import executable
from resurgsam2_cli.video.source import open_source

_WINDOW = 100
"""Records that are averaged."""


def make_videos(folder: Path, count: int) -> list[Path]:
    """Make copies of a tiny video."""
    folder.mkdir()
    first = folder / "v00000.mp4"
    picture = ("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25", "-frames:v", "6", "-pix_fmt", "yuv420p")
    subprocess.run([executable(), "-loglevel", "error", *picture, str(first)], check=True)
    return [first, *(Path(shutil.copy(first, folder / f"v{i:05d}.mp4")) for i in range(1, count))]


def planning(folder: Path, count: int) -> tuple[float, float]:
    """Seconds of the whole command, and of opening the files alone."""
    videos = make_videos(folder / "videos", count)
    options = ["batch", str(folder / "videos"), "-t", "kidney", "--weights", "demo", "-o", str(folder / "out")]
    program = [sys.executable, "-m", "resurgsam2_cli", *options, "--no-overlay", "-q"]
    subprocess.run([*program, "--limit", "1"], check=True)
    done = folder / "out" / "v00000"
    for i in range(1, count // 2):
        copy = Path(shutil.copytree(done, folder / "out" / f"v{i:05d}"))
        record = json.loads((copy / "run.json").read_text())
        record["source"]["path"] = str(videos[i])
        (copy / "run.json").write_text(json.dumps(record))
    begin = time.perf_counter()
    said = subprocess.run([*program, "--dry-run", "--json"], check=True, capture_output=True, text=True).stdout
    whole = time.perf_counter() - begin
    states = [x["state"] for x in json.loads(said)["videos"]]
    assert (states.count("skipped"), states.count("new")) == (count // 2, count - count // 2)
    begin = time.perf_counter()
    for video in videos:
        with open_source(str(video)) as source:
            source.identity()
    return whole, time.perf_counter() - begin


def recording(folder: Path, count: int) -> tuple[float, float]:
    """Milliseconds per record, among the first and among the last."""
    record = Record(folder)
    means = []
    for done, begin in ((0, 0), (_WINDOW, count - _WINDOW)):
        list(record.add(outcome(i) for i in range(done, begin)))
        start = time.perf_counter()
        list(record.add(outcome(i) for i in range(begin, begin + _WINDOW)))
        means.append(1000 * (time.perf_counter() - start) / _WINDOW)
    return means[0], means[1]


def outcome(number: int) -> Outcome:
    """The outcome of some video."""
    return Outcome(f"/videos/day{number % 30}/op{number:05d}.mp4", "done", f"/runs/op{number:05d}", 90_000, 3000.0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--records", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, opening = planning(Path(folder), arguments.videos)
        print(f"batch --dry-run of {arguments.videos} videos: {whole:.1f} s, of which opening them {opening:.1f} s")
    with tempfile.TemporaryDirectory() as folder:
        first, last = recording(Path(folder), arguments.records)
        print(f"recording a video: {first:.2f} ms at the first, {last:.2f} ms at the {arguments.records}th")


if __name__ == "__main__":
    main()
