"""Batches on Ray against those in local processes, and the memory of the machine that starts them.

    python -m benchmarks.on_ray [--videos 8] [--frames 150] [--rounds 3] [--small 10000] [--json FILE]

A cluster of one node with two cores is started on this machine. Both engines do the same videos with the bundled
network in turns, two workers each. Seconds are those of the whole command, with starting Python and building the
networks. Then as many small tasks as ``--small`` says, which do nothing, go through the same executor.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).parents[1]
_PORT = 7379


@dataclass(frozen=True)
class NoEngine:
    """A network that is not built."""

    warnings: tuple[str, ...] = ()


def main() -> None:
    """Print what was measured, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    os.environ.update(PYTHONPATH=str(ROOT), RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")
    with tempfile.TemporaryDirectory() as place:
        node = _node(Path(place))
        try:
            found: dict[str, Any] = {}
            if options.rounds:
                found["batch"] = _batches(Path(place), options.videos, options.frames, options.rounds)
            if options.small:
                found["small"] = _small(options.small)
        finally:
            node.terminate()
            node.wait()
    print(json.dumps(found, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _node(place: Path) -> subprocess.Popen[bytes]:
    ray = Path(sys.executable).parent / "ray"
    command = [str(ray), "start", "--head", "--block", f"--port={_PORT}", "--num-cpus=2", "--num-gpus=0"]
    command += ["--node-ip-address=127.0.0.1", "--include-dashboard=false", "--object-store-memory=200000000"]
    command += [f"--temp-dir={place / 'ray'}"]
    with (place / "node.log").open("wb") as log:
        node = subprocess.Popen(command, stdout=log, stderr=log)
    while b"Ray runtime started" not in (place / "node.log").read_bytes():
        assert node.poll() is None, (place / "node.log").read_text()
        time.sleep(0.2)
    return node


def _batches(place: Path, videos: int, frames: int, rounds: int) -> dict[str, Any]:
    program = [sys.executable, "-m", "resurgsam2_cli"]
    source = place / "videos"
    for i in range(videos):
        scene = ["--seed", str(i), "--count-frames", str(frames)]
        subprocess.run([*program, "render", str(source / f"{i}.mp4"), *scene], check=True, capture_output=True)
    ways = {
        "local": ["--device", "cpu,cpu"],
        "ray": ["--engine", "ray", "--address", f"127.0.0.1:{_PORT}", "--cpus-per-worker", "1"],
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for i in range(rounds):
        for way, options in ways.items():
            command = [*program, "batch", str(source), "-t", "kidney", "--weights", "demo", "-q", *options]
            begin = time.perf_counter()
            subprocess.run([*command, "-o", str(place / f"{way}{i}")], check=True)
            seconds[way].append(round(time.perf_counter() - begin, 2))
    best = {way: min(x) for way, x in seconds.items()}
    return {
        "videos": videos,
        "frames": frames,
        "seconds": seconds,
        "speed of ray over local": round(best["local"] / best["ray"], 3),
    }


def _small(count: int) -> dict[str, Any]:
    """Driver memory on the way through many videos whose work is nothing."""
    from resurgsam2_cli.batch.executor import EngineRequest
    from resurgsam2_cli.batch.items import Item, Outcome, Progress
    from resurgsam2_cli.batch.job import Job
    from resurgsam2_cli.batch.on_ray import Cluster, OnRay
    from resurgsam2_cli.batch.standing import Asked
    from resurgsam2_cli.segmenting.options import SegmentOptions
    from resurgsam2_cli.terminal.batch_table import BatchTable

    class Request(EngineRequest):
        def build(self, device: str) -> Any:
            return NoEngine()

    class Nothing(Job):
        def run(self, item: Item, engine: Any, tell: Callable[[Progress], None]) -> Outcome:
            return Outcome(item.key, "done", str(self.out / item.stem), 100, 1.0)

    asked = Asked({}, {"name": "demo", "sha256": ""}, None, None)
    job = Nothing(Path("nowhere"), SegmentOptions(), asked)
    items = [Item(f"/videos/{i:05d}.mp4", PurePosixPath(f"{i:05d}.mp4")) for i in range(count)]
    executor = OnRay(Request("demo", None, "auto"), "cpu", Cluster(f"127.0.0.1:{_PORT}", cpus=1))
    megabytes: dict[int, float] = {}
    begin = time.perf_counter()
    for done, _ in enumerate(executor.run(job, items, BatchTable(count, quiet=True), None, lambda _: None), start=1):
        if done in (count // 10, count):
            megabytes[done] = round(_resident(), 1)
    return {
        "videos": count,
        "driver MB after": megabytes,
        "peak MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "seconds": round(time.perf_counter() - begin, 1),
    }


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
