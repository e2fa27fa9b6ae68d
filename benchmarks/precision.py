"""How far masks in bfloat16 are from those in float32, on rendered scenes that training never saw.

    python benchmarks/precision.py [--weights demo] [--device cpu] [--scenes 40] [--frames 100] [--precision bf16]

For each thing of a scene: the intersection over union of both masks, summed over all frames (1 if both are empty),
and whether both took the same decisions: the stage, the conditioning frame and the long-term frames of every frame.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch

from model import Segmenter, resize_masks
from model.segmenter import Stage
from model.training.scenes import Scene
from resurgsam2_cli.segmenting.engine import Engine, build_engine

FIRST_SEED = 1000


@dataclass(frozen=True)
class Masks:
    """The results on one scene."""

    inside: np.ndarray
    """(frames, texts, height, width) bool"""
    decisions: list[list[tuple[Stage, tuple[int, ...], tuple[int, ...]]]]
    """By frame and text."""


def segment(engine: Engine, frames: list[np.ndarray], texts: list[str]) -> Masks:
    """Segment all frames of a scene."""
    executor = engine.executor
    inside, decisions = [], []
    with engine.context():
        segmenter = Segmenter(executor, executor.encode_text(texts))
        for rgb in frames:
            step = segmenter.step(executor.encode([rgb]))
            inside.append((resize_masks(step.mask_logits, *rgb.shape[:2]) > 0).cpu().numpy())
            decisions.append([(x.stage, x.conditioning_frames, x.long_term_frames) for x in step.objects])
    return Masks(np.stack(inside), decisions)


def compare(exact: Engine, other: Engine, scenes: int, frames: int) -> dict[str, float]:
    """Print one line per thing; return the summary."""
    overlaps, same = [], []
    for seed in range(FIRST_SEED, FIRST_SEED + scenes):
        scene = Scene(seed, frames=frames)
        pictures = [scene.render(t)[0] for t in range(scene.frames)]
        texts = [scene.sentences(x)[0] for x in scene.targets if scene.sentences(x)]
        a, b = (segment(engine, pictures, texts) for engine in (exact, other))
        for k, text in enumerate(texts):
            union = (a.inside[:, k] | b.inside[:, k]).sum()
            overlaps.append(float((a.inside[:, k] & b.inside[:, k]).sum() / union) if union else 1.0)
            same.append([x[k] for x in a.decisions] == [x[k] for x in b.decisions])
            print(
                f"scene {seed}: {text:30} IoU {overlaps[-1]:.4f}, {'same' if same[-1] else 'other'} decisions",
                flush=True,
            )
    return {
        "things": len(overlaps),
        "mean_iou": float(np.mean(overlaps)),
        "median_iou": float(np.median(overlaps)),
        "same_decisions": sum(same),
        "mean_iou_of_the_same": float(np.mean([x for x, equal in zip(overlaps, same, strict=True) if equal])),
    }


def main() -> None:
    """Print one line per thing, then a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--frames", type=int, default=100)
    options = parser.parse_args()
    torch.manual_seed(0)
    exact, other = (build_engine(options.weights, None, options.device, x) for x in ("fp32", options.precision))
    found = compare(exact, other, options.scenes, options.frames)
    print(
        f"{found['things']} things: mean IoU {found['mean_iou']:.4f}, median {found['median_iou']:.4f}; same decisions "
        f"for {found['same_decisions']}, of which the mean IoU is {found['mean_iou_of_the_same']:.4f}"
    )


if __name__ == "__main__":
    main()
