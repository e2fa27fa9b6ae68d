"""On a CUDA device: the same results as on the CPU."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, Scenario, small_state
from test_parity import IOU_TOLERANCE, run
from test_scan import inputs, relative_error

from benchmarks.full_size import sequential_scan
from model import HIERA_SMALL, ReSurgSAM2, Rules, Segmenter, preprocess
from model.replay import ReplayedFunction
from model.selective_scan import _scan_torch, backend_for, selective_scan
from model.triton_scan import scan_triton
from resurgsam2_cli.segmenting.engine import make_engine
from weights.loader import WeightsInfo, load_network

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
    """Triton is tested even if mamba-ssm is installed."""
    for shape in ((2, 3, 300, 32, 16), (1, 1, 1, 1, 1), (4, 3, 3072, 256, 16)):
        x = [tensor.cuda() for tensor in inputs(*shape)]
        assert relative_error(scan_triton(*x), _scan_torch(*x)) < 1e-4


@pytest.mark.parametrize("name", ["detection", "tracking"])
def test_scenario(name: str, scenarios: dict[str, Scenario], checkpoints: dict[str, Path]) -> None:
    """The recorded decisions repeat in float32, without TensorFloat-32."""
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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_video_replayed_is_the_same(precision: str) -> None:
    """CUDA graphs give the decisions and masks that kernels give, while another thread uses the device."""
    rng = np.random.default_rng(0)
    frames = list(rng.integers(0, 256, (40, 60, 80, 3), dtype=np.uint8))
    rules = Rules(min_presence=0, min_iou=0, window=3, pool=2, long_term_min_iou=0)
    over = threading.Event()

    def disturb() -> None:
        while not over.is_set():
            torch.ones(1000, device="cuda").sum().item()

    other = threading.Thread(target=disturb)
    other.start()
    runs, recordings = [], 0
    try:
        for replayed in (False, True):
            network = ReSurgSAM2(SMALL).eval()
            network.load_state_dict(small_state(score_bias=4.0))
            engine = make_engine(network, WeightsInfo("made up", Path(), ""), torch.device("cuda"), precision)
            verbs = [x for x in vars(network).values() if isinstance(x, ReplayedFunction)]
            if not replayed:
                for verb in verbs:
                    verb._works = False
            with engine.context():
                segmenter = Segmenter(network, network.encode_text(["left grasper", "kidney"]), rules)
                images = [preprocess([x], SMALL, "cuda") for x in frames]
                runs.append([segmenter.step(network.encode_image(x)) for x in images])
            recordings += sum(len(verb._recordings) for verb in verbs)
            assert all(verb._works is replayed for verb in verbs)
    finally:
        over.set()
        other.join()
    assert recordings >= 3
    for a, b in zip(*runs, strict=True):
        assert [(x.stage, x.conditioning_frames, x.long_term_frames) for x in a.objects] == [
            (x.stage, x.conditioning_frames, x.long_term_frames) for x in b.objects
        ]
        torch.testing.assert_close(a.mask_logits, b.mask_logits, rtol=1e-3, atol=1e-3 if precision == "fp32" else 0.1)
