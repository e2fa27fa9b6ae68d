"""Seconds per frame of the full-size network on this machine, the share of each module, and the floor.

    python benchmarks/full_size.py [--device cpu] [--objects 1 4] [--precisions plain fp32 bf16] [--repeats 5]
                                   [--json FILE]

A *detected* frame is encoded and searched with two earlier frames; a *tracked* frame is encoded, conditioned on a
full memory (10 frames, 16 pointers), decoded and memorised. The weights are random: they do not change the work.

The floor is the time that the same floating-point operations (matrix products, convolutions, attention; nothing
else counts) take at the rate of a large matrix product of the same precision, measured in the same run, in turn with
the frames. Both figures are medians.

*plain* is float32 with the selective scan as a loop over its steps, and memory as the system gives it, as in a
straightforward implementation.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from resurgsam2_cli.process.tuning import keep_memory, prepare_environment

prepare_environment()  # before torch is loaded

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model import HIERA_SMALL, ReSurgSAM2, Rules
from model.memory import Buffers, RecallTable
from model.memory_bank import MemoryBank, most_frames
from model.precision import lower_weights
from model.segmenter import Verbs
from model.selective_scan import backend_for

PRECISIONS = {"plain": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PARTS = ("image_encoder", "fusion", "memory_attention", "prompt_tokens", "mask_decoder", "memory_encoder")


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """How long one call takes."""
    synchronize(device)
    begin = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - begin


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """Operations per second of a large matrix product."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    return 2 * size**3 / median([seconds(lambda: a @ b, device) for _ in range(3)])


def full_memory(verbs: Verbs, objects: int) -> tuple[Buffers, RecallTable]:
    """Memories with all their slots taken, filled with random numbers."""
    rules = Rules()
    memory, banks = verbs.memory(objects, rules), [MemoryBank(rules, 0) for _ in range(objects)]
    for item in range(objects):
        memory.take(item, 0)
    frame, recalls = 1, [bank.recall(1) for bank in banks]
    while len(recalls[0].frames) < most_frames(rules) or len(recalls[0].pointers) < rules.pointers:
        memory.table(range(objects), recalls, frame)
        for item, bank in enumerate(banks):
            promotion = bank.remember(frame, 1.0)
            if promotion is not None:
                bank.promote(promotion.candidates[0])
            memory.keep(item, bank.frames)
        frame += 1
        recalls = [bank.recall(frame) for bank in banks]
    memory.buffers.features.normal_()
    memory.buffers.pointers.normal_()
    return memory.buffers, memory.table(range(objects), recalls, frame)


def sequential_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """Compute :func:`~model.selective_scan.selective_scan` step by step."""
    delta = F.softplus(delta + delta_bias[:, None])
    h = u.new_zeros(*u.shape[:2], u.shape[3], A.shape[-1])
    outputs = []
    for t in range(u.shape[2]):
        step = delta[:, :, t, :, None]
        h = torch.exp(step * A) * h + step * u[:, :, t, :, None] * B[:, :, t, None]
        outputs.append((h * C[:, :, t, None]).sum(-1))
    return torch.stack(outputs, dim=2) + u * D[:, None]


class Shares:
    """Time spent in each part of the network, measured by hooks."""

    def __init__(self, network: ReSurgSAM2, device: torch.device) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._begin: dict[str, float] = {}
        for name in PARTS:
            part: nn.Module = getattr(network, name)
            part.register_forward_pre_hook(lambda *_, name=name: self._start(name, device))
            part.register_forward_hook(lambda *_, name=name: self._stop(name, device))

    def _start(self, name: str, device: torch.device) -> None:
        synchronize(device)
        self._begin[name] = time.perf_counter()

    def _stop(self, name: str, device: torch.device) -> None:
        synchronize(device)
        self.seconds[name] += time.perf_counter() - self._begin[name]


def measure(
    network: ReSurgSAM2, shares: Shares, stage: str, objects: int, precision: str, repeats: int
) -> dict[str, Any]:
    """Measure one row of the table."""
    device, dtype = network.device, PRECISIONS[precision]
    autocast = nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
    lower_weights(network, dtype)
    image = torch.randn(1, 3, HIERA_SMALL.image_size, HIERA_SMALL.image_size, device=device)
    buffers, table = full_memory(network, objects)

    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(autocast)
        if precision == "plain":
            stack.enter_context(patch("model.cross_modal_mamba.selective_scan", sequential_scan))
            stack.enter_context(patch("model.cpu_mixer.supports", lambda *_: False))
        else:
            keep_memory()  # cannot be undone, so plain comes first
        prompts = network.encode_text(["left grasper"] * objects)

        def frame() -> None:
            features = network.encode_image(image)
            if stage == "track":
                network.follow(features, buffers, table, prompts)
            else:
                network.detect(features, [features.main, features.main], prompts)

        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            frame()  # also warms up; attention is counted as the matrix products that it is
        frame()
        shares.seconds = dict.fromkeys(PARTS, 0.0)
        rates, times = [], []
        for _ in range(repeats):
            rates.append(matrix_rate(device, dtype))
            times.append(seconds(frame, device))
    operations = counter.get_total_flops()
    floor = operations / median(rates)
    return {
        "stage": stage,
        "objects": objects,
        "precision": precision,
        "seconds": median(times),
        "least_seconds": min(times),
        "gflop": operations / 1e9,
        "matrix_gflops": median(rates) / 1e9,
        "floor_seconds": floor,
        "times_floor": median(times) / floor,
        "shares": {name: value / sum(times) for name, value in shares.seconds.items()},
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), default=["plain", "fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()

    torch.manual_seed(0)
    network = ReSurgSAM2(HIERA_SMALL).eval().to(options.device)
    shares = Shares(network, network.device)
    print(
        f"device {options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"scan {backend_for(network.device)}"
    )
    parts = "  ".join(f"{name:>16}" for name in PARTS)
    print(f"stage   objects  prec   s/frame   least  GFLOP  floor s  x floor  speed-up  {parts}")
    rows: list[dict[str, Any]] = []
    for precision in sorted(options.precisions, key=list(PRECISIONS).index):
        for stage in ("detect", "track"):
            for objects in options.objects:
                row = measure(network, shares, stage, objects, precision, options.repeats)
                alike = (x for x in (*rows, row) if (x["stage"], x["objects"]) == (stage, objects))
                row["speed_up"] = next(alike)["seconds"] / row["seconds"]  # over the first precision
                rows.append(row)
                split = "  ".join(f"{row['shares'][name]:>15.0%} " for name in PARTS)
                print(
                    f"{stage:7} {objects:>7}  {precision:5}  {row['seconds']:8.3f}  {row['least_seconds']:6.3f}"
                    f"  {row['gflop']:5.0f}  {row['floor_seconds']:7.3f}  {row['times_floor']:7.2f}"
                    f"  {row['speed_up']:8.2f}  {split}",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
