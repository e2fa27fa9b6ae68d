"""On a CUDA device: the same results as on the CPU."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conftest import SMALL, Scenario, small_state
from test_on_device import USES, engine_on, short_video
from test_parity import IOU_TOLERANCE
from test_scan import inputs, relative_error
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.full_size import sequential_scan
from model import HIERA_SMALL, ReSurgSAM2, Rules, Segmenter, Step, preprocess, triton_layers
from model.executor import Executor
from model.fused import KINDS, attend_in_parts
from model.positions import rotary_table, rotate
from model.precision import PRECISIONS, exact_products
from model.preprocess import bits_and_labels
from model.replay import CudaGraphs, Recorder, Recording
from model.selective_scan import _scan_torch, backend_for, selective_scan
from model.streams import Arriving, on, stream_for
from model.triton_scan import scan_triton
from resurgsam2_cli import segment_video
from resurgsam2_cli.outputs.own_process import POSSIBLE
from resurgsam2_cli.segmenting.engine import make_engine
from resurgsam2_cli.segmenting.options import SegmentOptions
from weights.loader import load_network

DEVICE = torch.device("cuda", 0)

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
    """The recorded decisions repeat in float32."""
    scenario = scenarios[name]
    executor = Executor(load_network(checkpoints[name])[0], DEVICE, "fp32")
    with executor.context():
        segmenter = Segmenter(executor, executor.encode_text(scenario.texts), clip_length=len(scenario.frames))
        steps = [segmenter.step(executor.encode([frame])) for frame in scenario.frames]
    for step, row in zip(steps, scenario.trace, strict=True):
        for state, expected in zip(step.objects, row["objects"], strict=True):
            assert state.stage == expected["stage"]
            assert list(state.conditioning_frames) == expected["conditioning_frames"]
            assert list(state.long_term_frames) == expected["long_term_frames"]
            assert abs(state.predicted_iou - expected["predicted_iou"]) <= 10 * IOU_TOLERANCE


def small_network() -> ReSurgSAM2:
    network = ReSurgSAM2(SMALL).eval()
    network.load_state_dict(small_state(score_bias=4.0))
    return network


FRAMES = list(np.random.default_rng(0).integers(0, 256, (40, 60, 80, 3), dtype=np.uint8))
RULES = Rules(min_presence=0, min_iou=0, window=3, pool=2, long_term_min_iou=0)
TEXTS = ["left grasper", "kidney", "thread"]


def segmented(executor: Executor, together: int = 1, *, ahead: bool = False) -> list[Step]:
    with executor.context():
        segmenter = Segmenter(executor, executor.encode_text(TEXTS), RULES)
        groups = [executor.encode(FRAMES[at : at + together]) for at in range(0, len(FRAMES), together)]
        features = [group.frame(i) for group in groups for i in range(len(group.main))]
        if not ahead:
            return [segmenter.step(x) for x in features]
        started = [segmenter.start(features[0])]
        steps = []
        for x in features[1:]:
            started.append(segmenter.start(x))
            steps.append(started[-2].step())
        return [*steps, started[-1].step()]


def assert_same(one: list[Step], other: list[Step], tolerance: float) -> None:
    for a, b in zip(one, other, strict=True):
        assert [(x.stage, x.conditioning_frames, x.long_term_frames) for x in a.objects] == [
            (x.stage, x.conditioning_frames, x.long_term_frames) for x in b.objects
        ]
        torch.testing.assert_close(a.mask_logits, b.mask_logits, rtol=1e-3, atol=tolerance)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_second_card() -> None:
    """Decides as the first one does, while the thread's current device is the first; and takes nothing of that."""
    expected = segmented(Executor(small_network(), DEVICE, "fp32"), ahead=True)
    taken = torch.cuda.memory_reserved(DEVICE)
    for _ in range(2):  # the second video is replayed
        found = segmented(Executor(small_network(), torch.device("cuda", 1), "fp32"), ahead=True)
        assert_same(expected, [x._replace(mask_logits=x.mask_logits.to(DEVICE)) for x in found], 1e-3)
    assert torch.cuda.current_device() == 0
    assert torch.cuda.memory_reserved(DEVICE) <= taken + 2**21  # the masks that were compared


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_video_replayed_is_the_same(precision: str) -> None:
    """CUDA graphs give the decisions and masks that kernels give, while another thread uses the device."""
    over = threading.Event()

    def disturb() -> None:
        while not over.is_set():
            torch.ones(1000, device="cuda").sum().item()

    other = threading.Thread(target=disturb)
    other.start()
    try:
        plain = Executor(small_network(), DEVICE, precision, recordings=Refused)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = segmented(plain)
        replayed = Executor(small_network(), DEVICE, precision, objects=2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for ahead in (False, True):  # the second video has the recordings and the buffers of the first
                found = segmented(replayed, ahead=ahead)
                assert_same(found, expected, 1e-3 if precision == "fp32" else 0.3)
    finally:
        over.set()
        other.join()
    assert len(replayed._recorders[0]._recordings) >= 3


class Refused:
    """Makes no recordings."""

    def record(self, work: object) -> Recording:
        raise RuntimeError("not wanted")

    def renew(self) -> None:
        pass


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_fast_ways_are_right(precision: str) -> None:
    """Kernels of our own, and attention in parts, give what PyTorch's operations give."""
    runs = []
    for kinds in ((), ("attention in parts",), KINDS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            executor = Executor(small_network(), DEVICE, precision, recordings=Refused, off=kinds)
            runs.append(segmented(executor))
    for run in runs[1:]:
        assert_same(runs[0], run, 1e-3 if precision == "fp32" else 0.3)


def test_layers() -> None:
    """Each kernel alone, on the sizes of the full network."""
    for shape, transposed in (((1, 16384, 96), False), ((2, 256, 768), False), ((3, 4096, 64), True)):
        x = torch.randn(shape, device="cuda")
        x = x.transpose(1, 2).contiguous().transpose(1, 2) if transposed else x
        weight, bias = torch.randn(2, shape[2], device="cuda")
        y = torch.nn.functional.layer_norm(x, shape[2:], weight, bias, 1e-6)
        torch.testing.assert_close(
            triton_layers.normalize(x, weight, bias, 1e-6, torch.float32), y, rtol=1e-5, atol=1e-5
        )
        for dtype in (torch.bfloat16, torch.float16):
            found = triton_layers.normalize(x, weight, bias, 1e-6, dtype, gelu=True)
            torch.testing.assert_close(found, torch.nn.functional.gelu(y).to(dtype), rtol=1e-2, atol=1e-2)
    table = rotary_table(32, 256, DEVICE)
    for dtype in (torch.float32, torch.bfloat16):
        k = torch.randn(2, 3 * 1024 + 8, 256, device="cuda").to(dtype)
        expected = torch.cat((rotate(k[:, :3072], table), k[:, 3072:]), dim=1)
        triton_layers.rotate_in_place(k, table, 3072)
        torch.testing.assert_close(k, expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("objects", [1, 3])
def test_attention_in_parts(precision: str, objects: int) -> None:
    dtype = PRECISIONS[precision]
    places, parts, pointers, dim = 1024, 10, 64, 256
    tokens = parts * places + pointers
    q, k, v = (torch.randn(objects, n, dim, device="cuda").to(dtype) for n in (places, tokens, tokens))
    counts = torch.tensor([[10, 64], [2, 8], [1, 4]], device="cuda")[:objects]
    valid = torch.cat(
        (
            (torch.arange(parts, device="cuda") < counts[:, :1]).repeat_interleave(places, dim=1),
            torch.arange(pointers, device="cuda") < counts[:, 1:],
        ),
        dim=1,
    )
    exact = scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=valid[:, None])
    with torch.inference_mode(), exact_products():
        found = attend_in_parts(q, k, v, parts, valid)
        usual = scaled_dot_product_attention(q, k, v, attn_mask=valid[:, None])
    error, usual_error = ((x.double() - exact).norm() / exact.norm() for x in (found, usual))
    print(f"relative error {error:.2e}, of one attention to all {usual_error:.2e}")
    assert error < 2 * usual_error + 1e-6  # each part is rounded, and then their sum


def test_a_recording_that_fails_at_its_end() -> None:
    """It leaves nothing behind: the next one works, and memory is freed and asked for again as before."""
    side, x = torch.cuda.Stream(), torch.ones(4, device="cuda")

    def unjoined() -> torch.Tensor:
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            return x + 1

    for _ in range(2):
        with pytest.raises(RuntimeError):
            CudaGraphs(DEVICE).record(unjoined)
        graph = CudaGraphs(DEVICE).record(lambda: x * 3)
        graph.replay()
        assert graph.outputs.tolist() == [3.0] * 4
    # The allocator gives back what it keeps, and asks again, only if it believes that no recording is under way.
    free = torch.cuda.mem_get_info()[0]
    kept = torch.empty(int(free * 0.6), dtype=torch.uint8, device="cuda")
    del kept
    kept = torch.empty(int(free * 0.7), dtype=torch.uint8, device="cuda")
    del kept
    torch.cuda.empty_cache()


def test_rendering() -> None:
    """Recorded from the third frame on, on a stream of its own; the same masks as on the CPU but at their borders."""
    executor = Executor(small_network(), DEVICE, "bf16")
    stream = stream_for("rendering", DEVICE, urgent=True)
    with torch.inference_mode(), on(stream):
        for i in range(5):
            logits = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(i))
            row = Arriving(executor.render(logits.cuda(), 90, 121, 0.0)).wait()
            assert (row != bits_and_labels(logits, 90, 121)).float().mean() < 1e-3
    assert len(executor._recorders[2]._recordings) == 1


def test_memory_that_runs_out() -> None:
    """With little memory, smaller groups give the same result."""
    executor = Executor(small_network(), DEVICE, "fp32", objects=3)
    expected = segmented(executor)
    executor = Executor(small_network(), DEVICE, "fp32", objects=3)
    calls = Counter[str]()
    whole = Recorder.call

    def refusing(self: Recorder, name: str, *arguments: Any, **keywords: Any) -> Any:
        calls[name] += 1
        if calls[name] in (6, 7):
            torch.empty(2**50, dtype=torch.uint8, device="cuda")
        return whole(self, name, *arguments, **keywords)

    with patch.object(Recorder, "call", refusing):
        assert_same(segmented(executor, 4), expected, 1e-3)
    assert executor.objects_together < 3
    assert executor.frames_together < 4


def test_a_dropped_executor_frees_its_memory() -> None:
    for _ in range(2):  # constants of the process come with the first
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        executor = Executor(ReSurgSAM2(SMALL).eval(), DEVICE, "bf16")
        segmented(executor)
        assert torch.cuda.memory_reserved() > before
        del executor
        torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before


@pytest.mark.parametrize("name", USES)
def test_whatever_uses_the_network(name: str, small_weights: Path, tmp_path: Path) -> None:
    """Runs, sessions, corrections, previews, CVAT's functions: what they do on the CPU."""
    results: list[list[Any]] = []
    for device in (torch.device("cpu"), DEVICE):
        (folder := tmp_path / str(len(results))).mkdir()
        results.append(USES[name](engine_on(device, small_weights), short_video(folder), folder))
    here, there = results
    assert len(here) == len(there) > 0
    assert np.mean([(a != b).mean() for a, b in zip(here, there, strict=True)]) < 0.01


def test_outputs_in_a_process_of_their_own(small_weights: Path, tmp_path: Path) -> None:
    """All files of a run are those that threads write."""
    engine = make_engine(*load_network(small_weights), DEVICE, "fp32")
    assert engine.writes_apart == POSSIBLE
    video, options = short_video(tmp_path), SegmentOptions(rules=RULES, object_png=True)
    files: list[dict[Path, bytes]] = []
    for apart in (POSSIBLE, False):
        out = tmp_path / str(len(files))
        segment_video(video, TEXTS, out, engine=replace(engine, writes_apart=apart), options=options)
        written = [x for x in out.rglob("*") if x.is_file() and x.name != "run.json"]
        files.append({x.relative_to(out): x.read_bytes() for x in written})
    assert files[0] == files[1]
    assert len(files[0]) > 20
