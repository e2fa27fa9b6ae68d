"""SAM 2.1's own networks on this machine: seconds for a click, and for each frame that is tracked after it.

    python -m benchmarks.sam21 [--model tiny] [--frames 16] [--precision fp32] [--public FOLDER ...]

The weights are random, which takes as long. ``--public`` names folders that hold the public implementation (the package
``sam2``, and what it imports): both then have the same weights, see the same pictures, and their masks are compared.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from model import ReSurgSAM2, Session, resize_masks
from model.config import CONFIGURATIONS
from model.executor import Executor
from model.prompt_tokens import Clicks
from model.training.scenes import Scene
from model.training.trainer import initialize
from weights.key_map import published_network

HEIGHT, WIDTH = 720, 1280
POINT = (640.0, 360.0)
_FILES = {"tiny": "t", "small": "s", "base-plus": "b+", "large": "l"}


def pictures(folder: Path, count: int) -> None:
    """Frames of a rendered scene, as JPEG: the public implementation reads no other."""
    scene = Scene(1000, height=HEIGHT, width=WIDTH, frames=count)
    for t in range(count):
        Image.fromarray(scene.render(t)[0]).save(folder / f"{t:05d}.jpg", quality=95)


def public(model: str, frames: Path, weights: Path, where: list[str]) -> tuple[list[float], np.ndarray, float]:
    """Of the public implementation: seconds of the click and of each tracked frame, masks, and peak memory in MB."""
    sys.path[:0] = where
    from sam2.build_sam import build_sam2_video_predictor

    torch.manual_seed(0)
    predictor = build_sam2_video_predictor(f"configs/sam2.1/sam2.1_hiera_{_FILES[model]}.yaml", device="cpu")
    torch.save({"model": predictor.state_dict()}, weights)
    with torch.inference_mode():
        state = predictor.init_state(str(frames))
        state["cached_features"].clear()  # the first frame is encoded with the click, as here
        begin = time.perf_counter()
        predictor.add_new_points_or_box(state, 0, 1, points=np.array([POINT], np.float32), labels=np.array([1]))
        seconds, masks = [time.perf_counter() - begin], []
        begin = time.perf_counter()
        for _, _, logits in predictor.propagate_in_video(state):
            seconds.append(time.perf_counter() - begin)
            masks.append((logits[0, 0] > 0).numpy())
            begin = time.perf_counter()
    return seconds, np.stack(masks), _peak()


def ours(model: str, frames: Path, weights: Path, precision: str) -> tuple[list[float], np.ndarray, float]:
    """The same of this program."""
    config = CONFIGURATIONS[f"sam2.1-hiera-{model}"]
    network = ReSurgSAM2(config)
    initialize(network)
    if weights.exists():
        network.load_state_dict(published_network(torch.load(weights, weights_only=True)["model"]))
    executor = Executor(network.eval().requires_grad_(False), torch.device("cpu"), precision)
    rgb = [np.asarray(Image.open(x)) for x in sorted(frames.iterdir())]
    click = Clicks(torch.tensor([[POINT]]) / torch.tensor([WIDTH, HEIGHT]), torch.tensor([[1]]))
    session = Session(executor, clip_length=len(rgb))
    session.add()
    with executor.context():
        begin = time.perf_counter()
        features = executor.encode([rgb[0]])
        found = session.point(0, 0, features, click)
        seconds = [time.perf_counter() - begin]
        session.begin()
        masks = []
        for t, x in enumerate(rgb):
            begin = time.perf_counter()
            found = session.step(t, executor.encode([x]))
            masks.append((resize_masks(found.mask_logits, HEIGHT, WIDTH)[0] > 0).numpy())
            seconds.append(time.perf_counter() - begin)
    return seconds, np.stack(masks), _peak()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(_FILES), default="tiny")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--public", nargs="*", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, weights = Path(temporary) / "frames", Path(temporary) / "weights.pt"
        folder.mkdir()
        pictures(folder, options.frames)
        masks = {}
        for name in (["public"] if options.public else []) + ["ours"]:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                if name == "public":
                    work = process.submit(public, options.model, folder, weights, options.public)
                else:
                    work = process.submit(ours, options.model, folder, weights, options.precision)
                seconds, masks[name], memory = work.result()
            click, tracked = seconds[0], float(np.median(seconds[len(seconds) // 2 :]))
            precision = options.precision if name == "ours" else "fp32"
            print(
                f"{name} ({precision}): click {click:.2f} s, tracked frame {tracked:.2f} s, peak memory {memory:.0f} MB"
            )
        if len(masks) == 2:
            both = (masks["ours"] & masks["public"]).sum()
            either = (masks["ours"] | masks["public"]).sum()
            print(f"IoU of all masks {both / max(either, 1):.6f}, of {masks['ours'].sum()} pixels")


if __name__ == "__main__":
    main()
