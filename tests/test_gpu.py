"""On a CUDA device: the same results as on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Scenario
from test_parity import IOU_TOLERANCE, run
from test_scan import inputs, relative_error

from benchmarks.full_size import sequential_scan
from model import HIERA_SMALL, preprocess
from model.selective_scan import _scan_torch, backend_for, selective_scan
from model.triton_scan import scan_triton
from weights.loader import load_network

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_scan() -> None:
    x = inputs(2, 3, 300, 32, 16)
    on_device = [tensor.cuda() for tensor in x]
    assert backend_for(on_device[0].device) in ("triton", "mamba-ssm")
    assert relative_error(selective_scan(*on_device).cpu(), sequential_scan(*x)) < 1e-4


def test_preprocess() -> None:
    frames = [np.random.default_rng(i).integers(0, 256, (720, 1280, 3), dtype=np.uint8) for i in range(2)]
    assert torch.equal(preprocess(frames, HIERA_SMALL, "cuda").cpu(), preprocess(frames, HIERA_SMALL))


def test_triton_scan() -> None:
    """Also where mamba-ssm is installed."""
    for shape in ((2, 3, 300, 32, 16), (1, 1, 1, 1, 1), (4, 3, 3072, 256, 16)):
        x = [tensor.cuda() for tensor in inputs(*shape)]
        assert relative_error(scan_triton(*x), _scan_torch(*x)) < 1e-4


@pytest.mark.parametrize("name", ["detection", "tracking"])
def test_scenario(name: str, scenarios: dict[str, Scenario], checkpoints: dict[str, Path]) -> None:
    """The recorded decisions in float32, without TensorFloat-32."""
    scenario = scenarios[name]
    network, _ = load_network(checkpoints[name])
    network.cuda()
    steps = run(network, scenario.frames, scenario.texts, len(scenario.frames))
    for step, row in zip(steps, scenario.trace, strict=True):
        for state, expected in zip(step.objects, row["objects"], strict=True):
            assert state.stage == expected["stage"]
            assert list(state.conditioning_frames) == expected["conditioning_frames"]
            assert list(state.long_term_frames) == expected["long_term_frames"]
            assert abs(state.predicted_iou - expected["predicted_iou"]) <= 10 * IOU_TOLERANCE
