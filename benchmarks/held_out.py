"""How well a release does on rendered scenes that training never saw.

    python benchmarks/held_out.py [--weights auto] [--scenes 40] [--frames 150] [--first-seed 1000]

For every thing in a scene: J and F of DAVIS, averaged over frames, then things; and how many of the frames in which it
is not to be seen are empty. For every scene: a sentence for something that is not there, and how many of its frames
are empty. For scenes with two of a kind: whether the two sentences gave two different things.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from model import ReSurgSAM2, Segmenter, preprocess, resize_masks
from model.training.scenes import Scene
from resurgsam2_cli.metrics import contour_accuracy, region_similarity
from weights.loader import load_network
from weights.store import resolve


def segmented(network: ReSurgSAM2, scene: Scene, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Masks (frames, texts, height, width) and the scene's label images (frames, height, width)."""
    masks, labels = [], []
    with torch.inference_mode():
        segmenter = Segmenter(network, network.encode_text(texts))
        for t in range(scene.frames):
            frame, label = scene.render(t)
            step = segmenter.step(network.encode_image(preprocess([frame], network.config, network.device)))
            masks.append((resize_masks(step.mask_logits, scene.height, scene.width) > 0).cpu().numpy())
            labels.append(label)
    return np.stack(masks), np.stack(labels)


def main() -> None:
    """Print a line a scene, then the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--clip-weights", type=Path)
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--first-seed", type=int, default=1000)
    options = parser.parse_args()
    _, path, clip_path = resolve(options.weights, options.clip_weights)
    network, _ = load_network(path, clip_path)

    things: list[tuple[float, float]] = []
    unseen: list[float] = []
    absent: list[float] = []
    pairs: list[bool] = []
    for seed in range(options.first_seed, options.first_seed + options.scenes):
        scene = Scene(seed, frames=options.frames)
        named = [(target, scene.sentences(target)[0]) for target in scene.targets if scene.sentences(target)]
        texts = [text for _, text in named] + scene.absent_sentences(np.random.default_rng(seed), 1)
        masks, labels = segmented(network, scene, texts)
        best: dict[int, int] = {}
        for k, (target, _) in enumerate(named):
            truth = labels == target.id
            there = truth.any(axis=(1, 2))
            frames = range(len(truth))
            j = float(np.mean([region_similarity(masks[t, k], truth[t]) for t in frames]))
            f = float(np.mean([contour_accuracy(masks[t, k], truth[t]) for t in frames]))
            things.append((j, f))
            unseen += [float(not masks[t, k].any()) for t in frames if not there[t]]
            overlaps = {x.id: int((masks[:, k] & (labels == x.id)).sum()) for x in scene.targets}
            best[target.id] = max(overlaps, key=lambda i: overlaps[i]) if any(overlaps.values()) else 0
            print(f"scene {seed}: {texts[k]:40} J {100 * j:5.1f}  F {100 * f:5.1f}", flush=True)
        absent += [float(not mask.any()) for mask in masks[:, -1]]
        kinds = [target.category for target, _ in named]
        for kind in {x for x in kinds if kinds.count(x) > 1}:
            pairs.append(all(best[target.id] == target.id for target, _ in named if target.category == kind))
    j, f = 100 * np.mean(things, axis=0)
    print(f"{options.scenes} scenes, {len(things)} things: J {j:.1f}, F {f:.1f}, J&F {(j + f) / 2:.1f}")
    if unseen:
        print(f"empty where the thing is out of sight: {100 * np.mean(unseen):.1f} % of {len(unseen)} frames")
    print(f"empty for a thing that is not there: {100 * np.mean(absent):.1f} % of {len(absent)} frames")
    if pairs:
        print(f"two of a kind told apart: {sum(pairs)} of {len(pairs)} scenes")


if __name__ == "__main__":
    main()
