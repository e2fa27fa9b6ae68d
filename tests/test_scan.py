"""The selective scan against a literal oracle, step by step."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.full_size import sequential_scan
from model import cpu_mixer
from model.fused import without
from model.selective_scan import backend_for, selective_scan

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def inputs(batch: int, groups: int, length: int, channels: int, state: int, seed: int = 0) -> Inputs:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    return (
        normal(batch, groups, length, channels),
        normal(batch, groups, length, channels),
        -torch.arange(1, state + 1) * normal(groups, channels, state).mul(0.1).exp(),
        normal(batch, groups, length, state),
        normal(batch, groups, length, state),
        normal(groups, channels),
        normal(groups, channels) - 3,
    )


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 2),
    groups=st.integers(1, 3),
    length=st.integers(1, 100),
    channels=st.integers(1, 9),
    state=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_any_shape(batch: int, groups: int, length: int, channels: int, state: int, seed: int) -> None:
    x = inputs(batch, groups, length, channels, state, seed)
    assert relative_error(selective_scan(*x), sequential_scan(*x)) < 1e-5


def test_gradients() -> None:
    """Every input's gradient equals the oracle's, by automatic differentiation; the length has padding and chunks."""
    x = [tensor.requires_grad_() for tensor in inputs(2, 2, 75, 6, 3)]
    weight = torch.randn(2, 2, 75, 6, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad((sequential_scan(*x) * weight).sum(), x)
    actual = torch.autograd.grad((selective_scan(*x) * weight).sum(), x)
    for ours, theirs in zip(actual, expected, strict=True):
        assert relative_error(ours, theirs) < 1e-5


def test_extreme_steps_stay_finite() -> None:
    u, delta, A, B, C, D, bias = inputs(1, 1, 200, 8, 4)
    for shift in (-60.0, 60.0):
        x = (u, delta + shift, A, B, C, D, bias)
        actual = selective_scan(*x)
        assert actual.isfinite().all()
        assert relative_error(actual, sequential_scan(*x)) < 1e-5


def test_half_precision_inputs_are_scanned_in_float32() -> None:
    u, delta, A, B, C, D, bias = inputs(1, 1, 50, 8, 4)
    half = (u.bfloat16(), delta.bfloat16(), A, B.bfloat16(), C.bfloat16(), D, bias)
    actual = selective_scan(*half)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, sequential_scan(*(x.float() for x in half)), atol=1e-5, rtol=1e-5)


def test_backend_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend_for(torch.device("cpu")) == ("c" if cpu_mixer.available() else "torch")
    monkeypatch.setattr("model.cpu_mixer._library", lambda: None)
    assert backend_for(torch.device("cpu")) == "torch"


def test_layout_of_themamba_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in has the signature of mamba-ssm's ``selective_scan_fn``, whose arrays are (batch, channels, L)."""

    def selective_scan_fn(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        delta_bias: Tensor,
        delta_softplus: bool,
    ) -> Tensor:
        assert delta_softplus
        assert all(x.is_contiguous() for x in (u, delta, A, B, C))
        groups = B.shape[1]  # (batch, groups, state, L): channels belong to groups in order
        ys = []
        for part, g in zip(torch.arange(u.shape[1]).chunk(groups), range(groups), strict=True):
            x, step = (t[:, part].transpose(1, 2)[:, None] for t in (u, delta))
            b, c = (m[:, g].transpose(1, 2)[:, None] for m in (B, C))
            ys.append(sequential_scan(x, step, A[part][None], b, c, D[part][None], delta_bias[part][None])[:, 0])
        return torch.cat(ys, dim=2).transpose(1, 2)

    monkeypatch.setattr("model.selective_scan.mamba_kernel", lambda: selective_scan_fn)
    monkeypatch.setattr("model.selective_scan.backend_for", lambda device: "mamba-ssm")
    x = inputs(2, 3, 40, 6, 4)
    assert relative_error(selective_scan(*x), sequential_scan(*x)) < 1e-6


TRITON = """
import torch
from test_scan import inputs, relative_error, sequential_scan
from model.triton_scan import scan_triton
for shape in ((1, 3, 150, 40, 8), (2, 1, 64, 32, 16), (1, 2, 5, 7, 3), (1, 1, 1, 1, 1), (1, 3, 129, 33, 5)):
    tensors = inputs(*shape)
    assert relative_error(scan_triton(*tensors), sequential_scan(*tensors)) < 1e-5, shape
"""


def test_triton_kernels() -> None:
    """Triton's interpreter runs the kernels on the CPU."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", TRITON], env=environment, check=True)


def test_triton_is_chosen_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr("model.selective_scan.mamba_kernel", lambda: None)
    monkeypatch.setattr("model.selective_scan.triton_missing", lambda device: "")
    assert backend_for(cuda) == "triton"
    with without(["triton scan"]):
        assert backend_for(cuda) == "torch"
    monkeypatch.setattr("model.selective_scan.mamba_kernel", lambda: print)
    assert backend_for(cuda) == "mamba-ssm"
    with without(["mamba-ssm scan"]):
        assert backend_for(cuda) == "triton"
    monkeypatch.setattr("model.selective_scan.mamba_kernel", lambda: None)
    monkeypatch.setattr("model.selective_scan.triton_missing", lambda device: "no C compiler")
    assert backend_for(cuda) == "torch"
    monkeypatch.setattr("model.selective_scan.backend_for", lambda device: "triton")
    monkeypatch.setattr("model.triton_scan.scan_triton", lambda *tensors: tensors[0] + 1)
    tensors = inputs(1, 1, 4, 2, 3)
    assert torch.equal(selective_scan(*tensors), tensors[0] + 1)
    tensors[0].requires_grad_()
    selective_scan(*tensors).sum().backward()  # which the kernels do not have
    assert tensors[0].grad is not None


class CountedOperations(TorchDispatchMode):
    """Counts the operations of PyTorch, whose overhead is what a scan by steps costs."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def test_speed_at_full_size() -> None:
    """The scan of (1, 512, 3072) with state 16 is no loop over its steps, and faster than one, with the same result."""
    x = inputs(1, 1, 3072, 512, 16)
    ratios: list[float] = []
    with torch.inference_mode():
        expected = sequential_scan(*x)
        with CountedOperations() as operations:  # type: ignore[no-untyped-call]
            assert relative_error(selective_scan(*x), expected) < 1e-4
        assert operations.count < 3072 / 4
        while len(ratios) < 20 and max(ratios, default=0) < 2:  # the machine may be noisy: the best pair counts
            begin = time.perf_counter()
            sequential_scan(*x)
            middle = time.perf_counter()
            selective_scan(*x)
            ratios.append((middle - begin) / (time.perf_counter() - middle))
    assert max(ratios) >= 1.5, ratios


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_memory_at_full_size() -> None:
    """The scan takes under 600 MB more than its inputs, in a process of its own."""
    code = """
import re, torch
from test_scan import inputs
from model.selective_scan import selective_scan
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
x = inputs(1, 1, 3072, 512, 16)
selective_scan(*inputs(1, 1, 64, 8, 4))
before = peak()
with torch.inference_mode():
    selective_scan(*x)
print(peak() - before)
"""
    folders = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 600
