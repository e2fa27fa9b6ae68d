"""CUDA graphs without a GPU: what is recorded when, with a stand-in for the graph, and that the network allows it."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, small_state
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from model import ReSurgSAM2, Rules, Segmenter, Step, preprocess
from model.replay import ReplayedFunction, replay


class Again:
    """Acts like a graph: it does nothing before the first replay, and its results are always in the same place."""

    made = 0

    def __init__(self, work: Callable[[], Any], device: torch.device) -> None:
        type(self).made += 1
        self._work = work
        self.outputs = tree_map_only(Tensor, torch.zeros_like, work())

    def replay(self) -> None:
        for kept, new in zip(tree_leaves(self.outputs), tree_leaves(self._work()), strict=True):
            if isinstance(kept, Tensor):
                kept.copy_(new)


@pytest.fixture(autouse=True)
def _count() -> None:
    Again.made = 0


def test_recorded_when_shapes_repeat() -> None:
    calls = []

    def double(x: Tensor, by: int) -> tuple[Tensor, int]:
        calls.append(x.shape)
        return x * by, by

    function = ReplayedFunction(double, Again)
    values = [torch.full((3,), float(i)) for i in range(5)]
    results = [function(x, 2) for x in values]
    assert [float(y[0]) for y, _ in results] == [0, 2, 4, 6, 8]  # each result is its own memory
    assert Again.made == 1
    for _ in range(3):  # never twice in a row
        function(torch.ones(1), 2)
        function(torch.ones(2), 2)
    assert Again.made == 1
    assert function(torch.ones(3), 3)[0].tolist() == [3.0] * 3  # another number means another function
    before = len(calls)
    assert function(torch.ones(3), 2)[0].tolist() == [2.0] * 3  # still recorded
    assert len(calls) == before + 1  # only the stand-in called it


def test_the_oldest_is_forgotten() -> None:
    function = ReplayedFunction(lambda x: x + 1, Again)
    for size in range(1, 12):
        for _ in range(4):
            assert torch.equal(function(torch.zeros(size)), torch.ones(size))
    assert Again.made == 11
    assert len(function._recordings) == 8
    function(torch.zeros(11))
    assert Again.made == 11


REFUSAL = "operation not permitted when stream is capturing"


def test_what_cannot_be_recorded_is_called() -> None:
    def refuse(work: Callable[[], Any], device: torch.device) -> Again:
        raise RuntimeError(REFUSAL)

    function = ReplayedFunction(lambda x: x + 1, refuse)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert [function(torch.zeros(1)).item() for _ in range(9)] == [1] * 9
    assert [str(x.message) for x in caught] == [f"CUDA graphs are not used: {REFUSAL}"]


def segmented(network: ReSurgSAM2, frames: list[np.ndarray], rules: Rules) -> list[Step]:
    segmenter = Segmenter(network, network.encode_text(["left grasper", "kidney", "thread"]), rules)
    return [segmenter.step(network.encode_image(preprocess([f], SMALL))) for f in frames]


@torch.inference_mode()
def test_a_video_replayed_is_the_same() -> None:
    """Replay is the same bit by bit, from detection to full memories, with objects found at different frames."""
    rng = np.random.default_rng(0)
    frames = list(rng.integers(0, 256, (34, 60, 80, 3), dtype=np.uint8))
    network = ReSurgSAM2(SMALL).eval()
    network.load_state_dict(small_state(score_bias=4.0))
    searched = segmented(network, frames, Rules(min_iou=1))
    ious = torch.tensor([[x.predicted_iou for x in step.objects] for step in searched])
    best = ious.unfold(0, 3, 1).amin(2).amax(0).sort().values  # an object is found when three in a row are above
    threshold = float(best[:2].mean())
    rules = Rules(min_presence=0, min_iou=threshold, window=3, pool=2, long_term_min_iou=0)
    plain = segmented(network, frames, rules)
    replay(network, Again)
    replayed = segmented(network, frames, rules)
    assert Again.made >= 4
    assert {x.stage for step in plain for x in step.objects} == {"detect", "track"}
    for a, b in zip(plain, replayed, strict=True):
        assert a.objects == b.objects
        assert torch.equal(a.mask_logits, b.mask_logits)


LOOP = """
import numpy as np
import torch
from contextlib import ExitStack
from unittest.mock import patch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from conftest import SMALL
from model import ReSurgSAM2, Rules, Segmenter
from model.text_encoder import Prompts

copies = []

class Copies(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if "copy" in str(function):
            devices = {x.device.type for x in (*arguments, result) if isinstance(x, torch.Tensor)}
            if len(devices) > 1:
                copies.append(str(function))
        return result

def to_device(numbers, device):
    array = np.array(numbers)
    return torch.empty(array.shape, dtype=torch.float32 if array.dtype.kind == "f" else torch.int64, device=device)

seen = []

def numbers(prediction):
    assert prediction.object_score.is_cuda
    seen.append(len(prediction.object_score))
    found = len(seen) > 4  # all but the first are credible after a while
    return [(5.0, 0.99 * (found and k > 0)) for k in range(len(prediction.object_score))]

with ExitStack() as stack:
    for context in (
        torch.inference_mode(),
        FakeTensorMode(),
        torch.device("cuda"),
        torch.autocast("cuda", torch.bfloat16, cache_enabled=False),
        patch("model.memory_attention.to_device", to_device),
        patch("model.segmenter.to_device", to_device),
        patch("model.segmenter._numbers", numbers),
        patch("model.memory_bank.frame_similarity", lambda features, anchor: np.zeros(1)),
    ):
        stack.enter_context(context)
    network = ReSurgSAM2(SMALL).eval()
    tokens = torch.empty(3, 6, SMALL.dim)
    prompts = Prompts(tokens, torch.empty(3, 6, dtype=torch.bool), tokens[:, :1])
    segmenter = Segmenter(network, prompts, Rules(min_presence=0, window=2, long_term_min_iou=0, pool=3))
    side = SMALL.image_size
    # Constants are built once, in the first round. That torch.tensor copies to the device is seen by no mode.
    for allowed in (patch("torch.tensor", torch.tensor), patch("torch.tensor", side_effect=AssertionError)):
        copies.clear()
        with allowed, Copies():
            for t in range(12):
                features = network.encode_image(torch.empty(1, 3, side, side))
                step = segmenter.step(features)
                assert step.mask_logits.is_cuda
print(seen[-2:], [x.stage for x in step.objects], copies)
"""


def test_the_loop_waits_for_nothing() -> None:
    """The loop runs on a CUDA device without contents: every read of a number, every copy from or to the host
    that is not `to_device`, and every tensor on the wrong device would be an error."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", LOOP], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[1, 2] ['detect', 'track', 'track'] []\n"
