"""The mixer in C against a literal one in float64, step by step."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scan import relative_error
from torch import Tensor

from benchmarks.full_size import sequential_scan
from model import HIERA_SMALL, cpu_mixer
from model.config import FusionConfig
from model.cross_modal_mamba import SpatialTemporalMixer

needs_c = pytest.mark.skipif(not cpu_mixer.available(), reason="the package was installed without a C compiler")


def mixer(dim: int, config: FusionConfig, seed: int = 0) -> SpatialTemporalMixer:
    """A mixer with steps from small to large, as a trained one has."""
    torch.manual_seed(seed)
    made = SpatialTemporalMixer(dim, config).eval().requires_grad_(False)
    for scan in (made.forward_scan, made.backward_scan, made.interleaved_scan):
        scan.dt_proj.bias.copy_(torch.randn_like(scan.dt_proj.bias) * 2 - 3)
        scan.A_log.add_(torch.randn_like(scan.A_log) * 0.3)
        scan.D.copy_(torch.randn_like(scan.D))
    return made


def literal(made: SpatialTemporalMixer, x: Tensor, frames: int) -> Tensor:
    """The mixer as the paper defines it, in float64."""
    x, z = F.linear(x.double(), made.in_proj.weight.double()).chunk(2, dim=-1)
    length = x.shape[1]
    ahead = torch.arange(length)
    total = torch.zeros_like(x)
    orders = (ahead, ahead.flip(0), ahead.view(frames, -1).T.flatten())
    for scan, order in zip((made.forward_scan, made.backward_scan, made.interleaved_scan), orders, strict=True):
        s = x[:, order]
        taps = scan.conv.weight.shape[-1]
        padded = F.pad(s, (0, 0, taps - 1, 0))
        assert scan.conv.bias is not None
        convolved = sum(padded[:, k : k + length] * scan.conv.weight[:, 0, k].double() for k in range(taps))
        u = F.silu(convolved + scan.conv.bias.double())
        rank, state = scan.dt_proj.weight.shape[1], scan.A_log.shape[1]
        dt, B, C = F.linear(u, scan.x_proj.weight.double()).split((rank, state, state), dim=-1)
        delta = F.linear(dt, scan.dt_proj.weight.double())
        weights = (-scan.A_log.double().exp(), scan.D.double(), scan.dt_proj.bias.double())
        A, D, bias = (w[None] for w in weights)  # one group
        u, delta, B, C = (s[:, None] for s in (u, delta, B, C))
        total[:, order] += sequential_scan(u, delta, A, B, C, D, bias)[:, 0]
    return F.linear(total / 3 * F.silu(z), made.out_proj.weight.double())


@pytest.mark.skipif(sys.platform == "win32", reason="its usual compiler has no vector types")
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_it_is_compiled_where_there_is_a_compiler() -> None:
    assert cpu_mixer.available()


@needs_c
@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    frames=st.integers(1, 3),
    places=st.integers(1, 20),
    blocks=st.integers(1, 3),
    state=st.integers(1, 20),
    rank=st.integers(1, 5),
    taps=st.integers(1, 5),
    threads=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_any_shape(
    batch: int, frames: int, places: int, blocks: int, state: int, rank: int, taps: int, threads: int, seed: int
) -> None:
    made = mixer(32 * blocks, FusionConfig(state=state, dt_rank=rank, conv=taps, expand=2), seed)
    x = torch.randn(batch, frames * places, 32 * blocks)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            assert cpu_mixer.supports(made.in_proj(x), state)
            assert relative_error(made(x, frames).double(), literal(made, x, frames)) < 1e-5
    finally:
        torch.set_num_threads(before)


@needs_c
@pytest.mark.slow
def test_full_size_in_both_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 it is as exact as PyTorch's own; in bfloat16, where it rounds less often, no worse."""
    made = mixer(HIERA_SMALL.dim, HIERA_SMALL.fusion)
    x = torch.randn(1, 3 * 1024, HIERA_SMALL.dim)
    expected = literal(made, x, 3)
    with torch.inference_mode():
        ours = relative_error(made(x, 3).double(), expected)
        with torch.autocast("cpu", torch.bfloat16):
            ours_half = relative_error(made(x, 3).double(), expected)
        monkeypatch.setattr("model.cpu_mixer._library", lambda: None)
        theirs = relative_error(made(x, 3).double(), expected)
        with torch.autocast("cpu", torch.bfloat16):
            theirs_half = relative_error(made(x, 3).double(), expected)
    assert theirs < 1e-5
    assert ours < max(2 * theirs, 1e-6)
    assert ours_half < 1.2 * theirs_half


@needs_c
@pytest.mark.parametrize("shift", [-80.0, 30.0, 1e4])
def test_extreme_steps(shift: float) -> None:
    """Steps of zero keep the state, and very large ones forget everything."""
    made = mixer(64, FusionConfig(state=4, dt_rank=3))
    for scan in (made.forward_scan, made.backward_scan, made.interleaved_scan):
        scan.dt_proj.bias.add_(shift)
    x = torch.randn(2, 3 * 30, 64)
    with torch.inference_mode():
        assert relative_error(made(x, 3).double(), literal(made, x, 3)) < 1e-5


def test_what_it_cannot_do_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch does gradients, widths that are not whole blocks, very large states, and all without a compiler."""
    x = torch.randn(1, 6, 128)
    assert not cpu_mixer.supports(x, 16)  # gradients may be wanted
    with torch.inference_mode():
        assert cpu_mixer.supports(x, 16) == cpu_mixer.available()
        assert not cpu_mixer.supports(torch.randn(1, 6, 96), 16)
        assert not cpu_mixer.supports(x, 65)
        assert not cpu_mixer.supports(x.half(), 16)
        monkeypatch.setattr("model.cpu_mixer._library", lambda: None)
        assert not cpu_mixer.supports(x, 16)
        made = mixer(64, FusionConfig(state=4, dt_rank=3))
        frames = torch.randn(1, 30, 64)
        assert relative_error(made(frames, 3).double(), literal(made, frames, 3)) < 1e-5
