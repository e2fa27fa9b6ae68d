from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_weights import reference_tensor
from torch import Tensor

from model import ReSurgSAM2
from weights.loader import load_network

DATA = Path(__file__).parent / "data"


def published_state(head_edits: dict[str, list[float]] | None = None) -> dict[str, Tensor]:
    """The made-up weights under the published names, text tower included."""
    shapes: dict[str, list[int]] = json.loads((DATA / "checkpoint_keys.json").read_text())
    state = {key: torch.from_numpy(reference_tensor(key, tuple(shape))) for key, shape in shapes.items()}
    for head, (scale, shift) in (head_edits or {}).items():
        last = f"sam_mask_decoder.{head}.layers.2"
        state[f"{last}.weight"] = state[f"{last}.weight"] * scale
        state[f"{last}.bias"] = state[f"{last}.bias"] * scale + shift
    return state


class Scenario:
    """One of the recorded runs of the published implementation."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.record: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
        arrays = np.load(DATA / f"{name}.npz")
        self.frames: np.ndarray = arrays["frames"]
        self.low_res_logits: np.ndarray = arrays["low_res_logits"].astype(np.float32)
        width = self.record["width"]
        self.masks: np.ndarray = np.unpackbits(arrays["masks"], axis=-1)[..., :width].astype(bool)
        self.texts: list[str] = self.record["texts"]
        self.trace: list[dict[str, Any]] = self.record["trace"]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoint files in the published layout, by scenario; "modules" has no head edits."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {}
    for name in ("modules", "detection", "tracking"):
        edits = json.loads((DATA / f"{name}.json").read_text()).get("head_edits")
        paths[name] = folder / f"{name}.pth"
        torch.save({"model": published_state(edits)}, paths[name])
    return paths


@pytest.fixture(scope="session")
def scenarios() -> dict[str, Scenario]:
    return {name: Scenario(name) for name in ("detection", "tracking")}


@pytest.fixture(scope="session")
def network(checkpoints: dict[str, Path]) -> ReSurgSAM2:
    """The full-size network with the made-up weights."""
    return load_network(checkpoints["modules"])[0]


os.environ.setdefault("TQDM_DISABLE", "1")
