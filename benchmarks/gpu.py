"""Everything there is to know about a CUDA device, in one command.

    python -m benchmarks.gpu [--device cuda] [--objects 1 4 16] [--frames 1000] [--repeats 50] [--json FILE]

1. The selective scan of the full-size network: PyTorch, Triton, and mamba-ssm if it is installed.
2. The full-size network: a detected and a tracked frame, launched kernel by kernel and replayed as CUDA graphs. What
   the graphs save is the share of launch overhead.
3. File to files: a rendered 1280 x 720 H.264 file, the full-size network, all default outputs; all objects tracked with
   full memories, then one searched for in every frame. The first time also records; the third time, threads write in
   place of a process. Weights are random, which does not change the network's work. Random masks would be noise, which
   takes outputs far longer, so ellipses replace them.
4. The same masks: the bundled network on rendered scenes, on the device in float32 and in the precision that `auto`
   takes, against float32 on the CPU.

Times are wall time, including the wait for the device.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.full_size import full_memory, seconds
from benchmarks.precision import compare
from model import HIERA_SMALL, ReSurgSAM2, preprocess
from model.fused import triton_missing
from model.precision import PRECISIONS, lower_weights
from model.selective_scan import _scan_mamba, _scan_torch, mamba_kernel
from resurgsam2_cli.errors import UserError
from resurgsam2_cli.runs.folder import Wanted
from resurgsam2_cli.segmenting.bench import SEARCHING, TRACKING, make_video, some_prompts
from resurgsam2_cli.segmenting.engine import Engine, build_engine, choose_device, make_engine
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.pipeline import segment
from resurgsam2_cli.video.source import open_source
from weights.loader import WeightsInfo

_HEIGHT, _WIDTH = 720, 1280


def per_call(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median seconds of a call, after a few calls that do not count."""
    for _ in range(4):
        work()
    return median(seconds(work, device) for _ in range(repeats))


def scans(device: torch.device, objects: list[int], repeats: int) -> list[dict[str, Any]]:
    """Three scans per object, as a block of CSTMamba does them."""
    fusion = HIERA_SMALL.fusion
    length, inner = fusion.frames * HIERA_SMALL.map_size**2, fusion.expand * HIERA_SMALL.dim
    kernels: dict[str, Callable[..., Tensor]] = {"torch": _scan_torch}
    if device.type == "cuda" and not triton_missing(device):
        from model.triton_scan import scan_triton

        kernels["triton"] = scan_triton
    if mamba_kernel() is not None:
        kernels["mamba-ssm"] = _scan_mamba
    rows = []
    for count in objects:
        u, delta = torch.randn(2, count, 3, length, inner, device=device)
        B, C = torch.randn(2, count, 3, length, fusion.state, device=device)
        A = -torch.rand(3, inner, fusion.state, device=device)
        D, bias = torch.randn(2, 3, inner, device=device)
        for name, scan in kernels.items():
            taken = per_call(partial(scan, u, delta, A, B, C, D, bias), device, repeats)
            rows.append({"scan": name, "objects": count, "ms": 1000 * taken})
            print(f"scan {name:10} {count:>3} objects {1000 * taken:8.2f} ms", flush=True)
    return rows


def random_engine(device: torch.device) -> Engine:
    """The full-size network with random weights, as the product runs it."""
    torch.manual_seed(0)
    return make_engine(ReSurgSAM2(HIERA_SMALL).eval(), WeightsInfo("random", Path(), ""), device)


def launches(engine: Engine, objects: list[int], repeats: int) -> list[dict[str, Any]]:
    """Time the verbs launched by kernels and by graphs, in the engine's precision."""
    device = engine.device
    network = ReSurgSAM2(HIERA_SMALL).eval().to(device)
    lower_weights(network, PRECISIONS[engine.executor.precision], device)
    frame = np.random.default_rng(0).integers(0, 256, (_HEIGHT, _WIDTH, 3), dtype=np.uint8)
    rows: list[dict[str, Any]] = []

    def measure(verb: str, count: int, kernels: Callable[[], Any], graphs: Callable[[], Any], share: int = 1) -> None:
        by_kernels, by_graphs = (1000 * per_call(work, device, repeats) / share for work in (kernels, graphs))
        rows.append({"verb": verb, "objects": count, "kernels_ms": by_kernels, "graphs_ms": by_graphs})
        print(f"{verb:7} {count:>3} objects: {by_kernels:8.2f} ms by kernels, {by_graphs:8.2f} by graphs", flush=True)

    with engine.context():
        executor = engine.executor
        together = [frame] * executor.frames_together
        images = preprocess(together, HIERA_SMALL, device)
        measure("encode", 1, lambda: network.encode_image(images), lambda: executor.encode(together), len(together))
        features = executor.encode(together).frame(0)
        earlier = [features.main, features.main]
        for count in objects:
            prompts = executor.encode_text(["left grasper"] * count)
            measure(
                "detect",
                count,
                partial(network.detect, features, earlier, prompts),
                partial(executor.detect, features, earlier, prompts),
            )
            by_kernels, by_graphs = (
                partial(x.follow, features, *full_memory(x, count), prompts) for x in (network, executor)
            )
            measure("follow", count, by_kernels, by_graphs)
    return rows


@cache
def ellipses(count: int, size: int, device: torch.device) -> Tensor:
    """Mask logits (count, size, size): each about a thirtieth of the picture, side by side."""
    line = torch.arange(size, device=device) / size
    center = (torch.arange(count, device=device) + 0.5) / count
    x = (line[None, None, :] - center[:, None, None]) / 0.07
    y = (line[None, :, None] - 0.5) / 0.15
    return 10 * (1 - x**2 - y**2)


def file_to_files(engine: Engine, objects: list[int], frames: int) -> list[dict[str, Any]]:
    """Frames per second from file to files, with the seconds of each stage."""
    executor, rows = engine.executor, []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        video = Path(folder) / "scene.mp4"
        make_video(video, _HEIGHT, _WIDTH, frames)
        for verb in ("detect", "follow"):
            own = getattr(executor, verb)

            def shown(*arguments: Any, own: Any = own) -> Any:
                found = own(*arguments)
                masks = ellipses(len(found.mask_logits), HIERA_SMALL.mask_size, engine.device)
                return found._replace(mask_logits=masks)

            stack.enter_context(patch.object(executor, verb, shown))
        runs = [("track", count, TRACKING) for count in objects] + [("detect", 1, SEARCHING)]
        attempts = [("first", engine), ("second", engine)]  # the first also records graphs and fills caches
        if engine.writes_apart:
            attempts.append(("threads", replace(engine, writes_apart=False)))
        for (attempt, used), (stage, count, rules) in product(attempts, runs):
            wanted = Wanted(Path(folder), f"{attempt}-{stage}-{count}", str(video), {})
            gc.collect()  # what earlier runs left behind is not this one's
            with open_source(str(video)) as source, wanted.claim(overwrite=False) as place:
                options = SegmentOptions(rules=rules)
                record = segment(used, source, some_prompts(count), options, place, lambda result: None).record
            row = {"stage": stage, "objects": count, "attempt": attempt, **record["timing"]}
            row["peak_memory_mb"] = record["peak_memory_mb"]
            rows.append(row)
            parts = ", ".join(f"{name} {x['seconds']:.2f}" for name, x in row["stages"].items())
            print(
                f"file to files, {stage} {count:>3} objects ({attempt}): "
                f"{row['frames_per_second']:7.1f} frames/s (seconds: {parts})",
                flush=True,
            )
    return rows


def main() -> None:
    """Print everything, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    try:
        device = choose_device(options.device)
    except UserError as error:
        parser.error(f"{error.message}; {error.hint}")
    engine = random_engine(device)
    backend = engine.record()
    print(", ".join(f"{name} {value}" for name, value in backend.items()))
    figures: dict[str, Any] = {"backend": backend}
    with torch.inference_mode():
        figures["scan"] = scans(device, options.objects, options.repeats)
    figures["file_to_files"] = file_to_files(engine, options.objects, options.frames)
    if device.type == "cuda":
        figures["network"] = launches(engine, options.objects, options.repeats)
    figures["parity"] = {}
    exact = build_engine("demo", None, "cpu", "fp32")
    for precision in ("fp32", "auto"):
        found = compare(exact, build_engine("demo", None, options.device, precision), options.scenes, frames=100)
        figures["parity"][precision] = found
        print(f"{precision} against the CPU's fp32: {found}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
