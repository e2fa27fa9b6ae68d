"""The executor gives what the network gives: in groups of any size, and with memory that runs out at any verb."""

from __future__ import annotations

import copy
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, Cli, small_state
from stand_in_gpu import DEVICE, pretended

from model import ReSurgSAM2, Rules, Segmenter, Step, preprocess
from model.executor import Executor
from model.fused import KINDS, allowed
from model.memory import Buffers
from model.precision import exact_products
from resurgsam2_cli.errors import DeviceError
from resurgsam2_cli.segmenting import checked, engine
from resurgsam2_cli.segmenting.engine import device_errors

CPU = torch.device("cpu")
TEXTS = ["left grasper", "kidney", "thread", "suction", "needle"]
RULES = Rules(min_presence=0, min_iou=0, window=3, pool=2, long_term_min_iou=0)
FRAMES = list(np.random.default_rng(0).integers(0, 256, (14, 60, 80, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def network() -> ReSurgSAM2:
    network = ReSurgSAM2(SMALL).eval()
    network.load_state_dict(small_state(score_bias=4.0))
    return network


@pytest.fixture(autouse=True)
def cards_have_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that these tests speak of."""
    monkeypatch.setattr(checked, "triton_missing", lambda device: "")


def segmented(executor: Executor, together: int = 1) -> list[Step]:
    with executor.context():
        segmenter = Segmenter(executor, executor.encode_text(TEXTS), RULES)
        groups = [executor.encode(FRAMES[at : at + together]) for at in range(0, len(FRAMES), together)]
        return [segmenter.step(group.frame(i)) for group in groups for i in range(len(group.main))]


@pytest.fixture(scope="module")
def expected(network: ReSurgSAM2) -> list[Step]:
    with torch.inference_mode():
        segmenter = Segmenter(network, network.encode_text(TEXTS), RULES)
        return [segmenter.step(network.encode_image(preprocess([x], SMALL))) for x in FRAMES]


def assert_same(steps: list[Step], expected: list[Step]) -> None:
    for a, b in zip(steps, expected, strict=True):
        for one, other in zip(a.objects, b.objects, strict=True):
            assert one.stage == other.stage
            assert one.conditioning_frames == other.conditioning_frames
            assert one.long_term_frames == other.long_term_frames
            assert one.predicted_iou == pytest.approx(other.predicted_iou, abs=1e-5)
        torch.testing.assert_close(a.mask_logits, b.mask_logits, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("objects", [1, 2, 3, 4, 5])
def test_groups(objects: int, network: ReSurgSAM2, expected: list[Step]) -> None:
    sizes: list[int] = []
    whole = ReSurgSAM2.follow

    class Watched(ReSurgSAM2):
        def follow(self, *arguments: Any) -> Any:
            sizes.append(len(arguments[3].summary))
            return whole(self, *arguments)

    watched = copy.deepcopy(network)
    watched.__class__ = Watched
    assert_same(segmented(Executor(watched, CPU, objects=objects), 3), expected)
    assert max(sizes) <= objects
    assert max(sizes) - min(sizes) <= 1


class Refusing:
    """An allocator that refuses some calls of a verb, and all of more than ``most`` objects or frames."""

    def __init__(self, verb: str, most: int, error: Exception) -> None:
        self.verb, self.error = verb, error
        self.most: int | Callable[[], int] = most
        self.calls = Counter[str]()

    def patch(self, network: ReSurgSAM2) -> ReSurgSAM2:
        whole = getattr(network, self.verb)
        position = {"encode_image": 0, "detect": 2, "follow": 3, "memorize": 1}[self.verb]

        def refusing(*arguments: Any, **options: Any) -> Any:
            argument = arguments[position]
            count = len(argument if isinstance(argument, torch.Tensor) else argument.summary)
            self.calls[self.verb] += 1
            if count > (self.most if isinstance(self.most, int) else self.most()):
                raise self.error
            return whole(*arguments, **options)

        object.__setattr__(network, self.verb, refusing)
        return network


NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("could not create a primitive"),
    MemoryError(),
]


@pytest.mark.parametrize("verb", ["encode_image", "detect", "follow", "memorize"])
@pytest.mark.parametrize("error", NO_MEMORY, ids=["device", "host", "oneDNN", "python"])
def test_memory_that_runs_out(verb: str, error: Exception, network: ReSurgSAM2, expected: list[Step]) -> None:
    """Less is done at once, and the results are the same; if even one is too much, the error comes out."""
    executor = Executor(Refusing(verb, 2, error).patch(copy.deepcopy(network)), CPU)
    executor.frames_together = 4
    assert_same(segmented(executor, 4), expected)
    assert (executor.frames_together if verb == "encode_image" else executor.objects_together) <= 2
    executor = Executor(Refusing(verb, 0, error).patch(copy.deepcopy(network)), CPU)
    with pytest.raises(DeviceError, match="not enough memory"), device_errors():
        segmented(executor)


@pytest.mark.parametrize("kept", [0, 3, 6])
def test_an_engine_that_is_built_again(kept: int, network: ReSurgSAM2, monkeypatch: pytest.MonkeyPatch) -> None:
    """What PyTorch keeps of the one before, which nobody uses any more, counts as free."""
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: ((7 - kept) << 30, 8 << 30))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: (kept << 30) + 1)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 1)
    executor = Executor(copy.deepcopy(network), CPU)
    executor.device = torch.device("cuda", 0)
    monkeypatch.setattr("model.executor.bytes_per_object", lambda config: 2**28)
    assert executor._fitting() == 14


def test_memory_that_is_there_again(network: ReSurgSAM2) -> None:
    """What was given up comes back with the next videos, as whoever had the memory may be gone."""
    refusing = Refusing("detect", 1, NO_MEMORY[0])
    executor = Executor(refusing.patch(copy.deepcopy(network)), CPU)
    usual = executor.objects_together
    with executor.context():
        prompts, features = executor.encode_text(TEXTS * 4), executor.encode(FRAMES[:1])
        few = len(prompts.summary)
        assert executor.shortage == ""
        executor.detect(features, [], prompts)
        assert executor.objects_together == 1
        assert executor.shortage == (
            f"the memory of the device ran out, now or shortly before: 1 instead of {usual} objects at a time"
        )
        refusing.most = few
        found = []
        while executor.shortage:
            executor.begin()
            executor.detect(features, [], prompts)
            found.append(executor.objects_together)
    assert found == [2, 4, 8, 16][: len(found)]
    assert executor.objects_together == usual


def test_other_errors_come_out_at_once(network: ReSurgSAM2) -> None:
    refusing = Refusing("detect", 2, RuntimeError("shape mismatch"))
    executor = Executor(refusing.patch(copy.deepcopy(network)), CPU)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        segmented(executor)
    assert refusing.calls["detect"] == 1


def test_recordings_go_first(network: ReSurgSAM2, expected: list[Step]) -> None:
    """Before less is done at once, the memory of recordings is given up."""
    made: list[str] = []

    class Recordings:
        renewed = 0

        def record(self, work: Any) -> Any:
            made.append("recording")
            outputs = work()
            return type("R", (), {"outputs": outputs, "replay": lambda self: None})()

        def renew(self) -> None:
            Recordings.renewed += 1

    refusing = Refusing("detect", 16, torch.OutOfMemoryError("CUDA out of memory"))
    executor = Executor(refusing.patch(copy.deepcopy(network)), CPU, recordings=Recordings)
    groups = executor.objects_together
    with executor.context():
        prompts = executor.encode_text(TEXTS)
        for _ in range(3):
            features = executor.encode(FRAMES[:1])
        refusing.most = lambda: 16 if Recordings.renewed else 0  # as long as the recording of the encoder is there
        found = executor.detect(features, [], prompts)
    assert made == ["recording"]
    assert Recordings.renewed == 1
    assert executor.objects_together == groups
    torch.testing.assert_close(found.mask_logits, expected[0].mask_logits, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("texts", [1, 5, 40, 255])
def test_many_prompts(texts: int, network: ReSurgSAM2) -> None:
    """Texts are encoded a few at a time, and come out as if all were encoded at once."""
    words = [f"{'left ' * (i % 4)}grasper {i}" for i in range(texts)]
    executor = Executor(copy.deepcopy(network), CPU)
    with executor.context():
        found = executor.encode_text(words)
        expected = network.encode_text(words)
    assert torch.equal(found.valid, expected.valid)
    torch.testing.assert_close(found.summary, expected.summary, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.tokens[found.valid], expected.tokens[found.valid], rtol=1e-4, atol=1e-5)


def test_the_memory_of_a_group(network: ReSurgSAM2) -> None:
    """Any number of objects goes through the network a few at a time."""
    most = Counter[str]()

    class Watched(Executor):
        def _call(self, name: str, function: Any, *moving: Any, held: tuple[Any, ...] = ()) -> Any:
            if name != "encode":
                most[name] = max(most[name], len(moving[-1].summary))
            return super()._call(name, function, *moving, held=held)

    executor = Watched(copy.deepcopy(network), CPU)
    with executor.context():
        segmenter = Segmenter(executor, executor.encode_text([f"thing {i}" for i in range(40)]), RULES)
        for frame in FRAMES[:5]:
            step = segmenter.step(executor.encode([frame]))
    assert len(step.mask_logits) == 40
    assert {x.stage for x in step.objects} == {"track"}
    assert most == {"detect": 14, "follow": 14}  # 40 in groups of at most 16


def test_a_released_video_leaves_its_memory_to_the_next(network: ReSurgSAM2) -> None:
    executor = Executor(copy.deepcopy(network), CPU)
    with executor.context():
        memory = executor.memory(2, RULES)
        first = memory.buffers
        first.features.fill_(float("nan"))
        other = executor.memory(2, RULES)  # both at once are apart
        assert other.buffers.features.data_ptr() != first.features.data_ptr()
        del memory, other
        again = executor.memory(2, RULES).buffers
        assert again.features.isfinite().all()  # nothing is left in it
        assert isinstance(executor.memory(3, RULES).buffers, Buffers)


def test_a_dropped_executor_is_gone_at_once(network: ReSurgSAM2) -> None:
    class Nothing:
        def record(self, work: Any) -> Any:
            return type("R", (), {"outputs": work(), "replay": lambda self: None})()

        def renew(self) -> None:
            pass

    gc.disable()
    try:
        executor = Executor(copy.deepcopy(network), CPU, recordings=Nothing)
        segmented(executor)
        weights = weakref.ref(executor._network)
        del executor
        assert weights() is None
    finally:
        gc.enable()


def test_exact_products_of_several_threads() -> None:
    """The settings are those of the process: the one that leaves last restores them, in whatever order they leave."""
    before = torch.backends.cudnn.allow_tf32
    one, other = exact_products(), exact_products()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cudnn, "allow_tf32", True)
        one.__enter__()
        other.__enter__()
        one.__exit__(None, None, None)
        assert not torch.backends.cudnn.allow_tf32  # the other still computes
        other.__exit__(None, None, None)
        assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


def test_a_gpu_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outcome is remembered for this card, driver and version; what is off stays off, with one line."""
    tries: list[str] = []
    bad = {"recordings": "operation not permitted"}

    def check(device: torch.device, precision: str) -> dict[str, str]:
        tries.append(precision)
        return bad

    monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path))
    monkeypatch.setattr(checked, "self_check", check)
    monkeypatch.setattr(checked, "_key", lambda device, precision: f"card / {precision}")
    card = torch.device("cuda", 0)
    for _ in range(3):
        used = checked.usable(card, "bf16", asked="auto")
        assert (used.device, used.precision, set(used.off)) == (card, "bf16", {"recordings"})
        assert used.lines == (
            "every kernel is launched on its own, and frames are several times slower: operation not permitted "
            "(please report it with what this prints: resurgsam2 doctor --check)",
        )
    assert tries == ["bf16"]
    bad.clear()
    assert checked.usable(card, "fp32", asked="cuda") == checked.Usable(card, "fp32")
    assert checked.fitness(card, "bf16", again=True).ways == {}
    assert checked.usable(card, "bf16", asked="auto") == checked.Usable(card, "bf16")
    assert tries == ["bf16", "fp32", "bf16"]
    for damaged in ("", "[]", '{"card / bf16": 1}', '{"card / bf16": {"device": ""}}'):
        (tmp_path / "devices.json").write_text(damaged)
        assert checked.fitness(card, "bf16").ways == {}
    assert len(tries) == 7
    assert set(json.loads((tmp_path / "devices.json").read_text())) == {"card / bf16"}


def test_what_the_outcome_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler, headers or a package that somebody installs is tried the next time, and Triton that fails now."""
    tries, missing = list[str](), [""]

    def check(device: torch.device, precision: str) -> dict[str, str]:
        tries.append(precision)
        return {"triton layers": missing[0]} if missing[0] else {}

    monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path))
    monkeypatch.setattr(checked, "self_check", check)
    monkeypatch.setattr(checked, "triton_missing", lambda device: missing[0])
    card = SimpleNamespace(name="a card", major=8, minor=6)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: card)
    device = torch.device("cuda", 1)

    def times() -> int:
        tries.clear()
        for _ in range(2):
            assert checked.fitness(device, "bf16").ways.keys() == check(device, "bf16").keys()
        return len(tries) - 2

    assert times() == 1
    assert times() == 0
    for what, value in (
        ("_has_headers", lambda: False),
        ("_mamba", lambda: "mamba-ssm 2.3"),
        ("_can_cache", lambda: False),
        ("_compiler", lambda: ""),
    ):
        monkeypatch.setattr(checked, what, value)
        assert times() == 1, what
    for why, tried in (("[Errno 13] Permission denied: '/.triton'", 2), ("", 0)):
        missing[0] = why
        assert times() == tried  # what is so for one user today is not remembered for all
    missing[0] = "[Errno 13] Permission denied: '/.triton'"
    (line,) = checked.fitness(device, "bf16").lines()
    assert line.endswith("(set TRITON_CACHE_DIR to a folder that can be written to)")


def test_where_triton_keeps_its_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "a" / "b"))
    assert checked._can_cache()
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "b"))
    assert not checked._can_cache()
    monkeypatch.delenv("TRITON_CACHE_DIR")
    monkeypatch.setenv("TRITON_HOME", str(tmp_path / "file"))
    assert not checked._can_cache()


def lost(device: torch.device, precision: str, kinds: Any = None) -> dict[str, str]:
    """A check that loses the device, wherever its Triton kernels are used."""
    if kinds is None or "triton layers" in kinds:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    return dict.fromkeys({"recordings"} & set(kinds), "not permitted")


def test_a_way_that_loses_the_device(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is found by processes of their own, and left out from then on; this program cannot use the device any more."""
    monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path))
    monkeypatch.setattr(checked, "self_check", lost)
    works = [True]
    monkeypatch.setattr(checked, "computes", lambda device: bool(works) and works.pop())
    monkeypatch.setattr(checked, "_key", lambda device, precision: f"card / {precision}")
    monkeypatch.setattr("model.self_check.mamba_kernel", lambda: None)
    device = torch.device("cuda", 0)
    with pytest.raises(DeviceError, match=r"an illegal memory access.*lost for this program") as found:
        checked.usable(device, "bf16", asked="auto")
    assert "run the same command again" in found.value.hint
    used = checked.usable(device, "bf16", asked="auto")
    assert (used.device, set(used.off)) == (device, {"triton layers", "attention in parts", "recordings"})

    monkeypatch.setattr(checked, "_tried_apart", lambda device, precision: checked.Fitness(device="no kernel image"))
    assert checked.usable(device, "fp32", asked="auto").device == CPU


def test_processes_that_try_a_device() -> None:
    assert checked._tried_apart(CPU, "fp32") == checked.Fitness()
    found = checked._tried_apart(torch.device("meta"), "fp32")
    assert found.device


def test_a_gpu_on_which_only_float32_is_right(
    small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is used in float32, unless another precision was asked for by name: the hint says what would do."""

    def check(device: torch.device, precision: str) -> dict[str, str]:
        if precision != "fp32":
            raise FloatingPointError("detection gives object 1 a score of nan")
        return {"recordings": "not here"}

    monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path))
    monkeypatch.setattr(checked, "self_check", check)
    monkeypatch.setattr(checked, "_key", lambda device, precision: f"card / {precision}")
    with pretended():
        for device in ("auto", "cuda"):
            built = engine.build_engine(str(small_weights), device=device)
            assert (built.device, built.executor.precision) == (DEVICE, "fp32")
            line = "the network runs in float32, which bf16 is not right for on this device: detection gives object 1 a"
            assert built.warnings[0].startswith(line)
            assert built.warnings[1].startswith("every kernel is launched on its own")
        with pytest.raises(DeviceError, match="--device cuda: detection gives") as found:
            engine.build_engine(str(small_weights), device="cuda", precision="fp16")
        assert found.value.hint.startswith("use --precision fp32; ")
        on_cpu = engine.build_engine(str(small_weights), precision="bf16")
        assert (on_cpu.device, on_cpu.executor.precision) == (CPU, "bf16")
        assert on_cpu.warnings[0].endswith("(with --precision fp32, it can run on the GPU)")


def test_each_engine_does_without_what_is_wrong_for_it(
    small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of one process may be on different cards, or in different precisions; and a check may be under way."""
    wrong = {"fp16": {"attention in parts": "masks are off by 0.5"}, "bf16": {"triton layers": "masks are off by 0.2"}}
    monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path))
    monkeypatch.setattr(checked, "self_check", lambda device, precision: wrong[precision])
    monkeypatch.setattr(checked, "_key", lambda device, precision: f"card / {precision}")
    with pretended():
        engines = [engine.build_engine(str(small_weights), device="cuda", precision=x) for x in ("fp16", "bf16")]
        for _ in range(2):
            for one, off in zip(engines, ("attention in parts", "triton layers"), strict=True):
                with one.context():
                    assert [x for x in KINDS if not allowed(x)] == [off]
        with engines[0].context(), engines[1].context():
            assert not allowed("triton layers")
        assert all(map(allowed, KINDS))


def test_a_scan_that_was_built_for_another_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with the wrong kernels is not used; the card is."""

    def kernel(*arguments: Any, **keywords: Any) -> Any:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path))
    monkeypatch.setattr(checked, "_key", lambda device, precision: f"card / {precision}")
    for module in ("model.selective_scan", "model.self_check"):
        monkeypatch.setattr(f"{module}.mamba_kernel", lambda: kernel)
    with pretended():
        found = checked.fitness(DEVICE, "fp32", again=True)
        assert not found.device
        assert found.ways["mamba-ssm scan"].startswith("CUDA error: no kernel image")
        assert any(x.startswith("the selective scan does without mamba-ssm, which was built") for x in found.lines())


@pytest.mark.parametrize(
    "error",
    [
        ArithmeticError("masks are off by 0.5"),
        RuntimeError("no kernel image\nmore"),
        TypeError("Cannot convert a MPS Tensor to float64 dtype"),
        FloatingPointError("tracking gives object 1 a score of nan"),
    ],
)
def test_a_gpu_that_cannot_be_used(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With auto the CPU is used, with a line; asked for by name, it is an error. It is tried again the next time."""

    def check(device: torch.device, precision: str) -> dict[str, str]:
        raise error

    monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path))
    monkeypatch.setattr(checked, "self_check", check)
    monkeypatch.setattr(checked, "_key", lambda device, precision: "card")
    card, reason = torch.device("cuda", 0), str(error).splitlines()[0]
    used = checked.usable(card, "bf16", asked="auto")
    assert (used.device.type, len(used.off)) == ("cpu", 0)
    assert len(used.lines) == 1
    assert used.lines[0].startswith(f"the network runs on the CPU: {reason} (")
    with pytest.raises(DeviceError, match=f"--device cuda: {reason}"):
        checked.usable(card, "bf16", asked="cuda")
    assert not (tmp_path / "devices.json").exists()


def test_no_place_to_remember_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card is tried again where nothing can be kept, and what somebody else keeps is kept with it."""
    tries = Counter[str]()

    def check(device: torch.device, precision: str) -> dict[str, str]:
        tries[precision] += 1
        return {"recordings": "not\npermitted"}

    monkeypatch.setattr(checked, "self_check", check)
    monkeypatch.setattr(checked, "_key", lambda device, precision: precision)
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder" / "devices.json").mkdir(parents=True)
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling" / "devices.json").symlink_to(tmp_path / "nowhere" / "x")
    card = torch.device("cuda", 0)
    for home in ("file", "file/below", "folder", "/proc/nothing/here"):
        monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path / home))
        for _ in range(2):
            assert set(checked.fitness(card, "bf16").ways) == {"recordings"}
    assert tries["bf16"] == 8
    monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path / "dangling"))
    together = [threading.Thread(target=checked.fitness, args=(card, str(i))) for i in range(8)]
    for x in together:
        x.start()
    for x in together:
        x.join()
    assert set(json.loads((tmp_path / "dangling" / "devices.json").read_text())) == {str(i) for i in range(8)}
    (line,) = checked.fitness(card, "3").lines()
    assert "\n" not in line


def test_a_run_goes_on_without_the_gpu(
    cli: Cli, video: Path, small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card whose kernels are missing: a line, and the CPU, never a traceback."""

    def check(device: torch.device, precision: str) -> dict[str, str]:
        raise torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(checked, "self_check", check)
    monkeypatch.setattr(checked, "_key", lambda device, precision: "card")
    whole = engine.choose_device
    monkeypatch.setattr(engine, "choose_device", lambda x: torch.device("cuda", 0) if x == "auto" else whole(x))
    monkeypatch.setattr(engine, "choose_precision", lambda text, device, large=False: "fp32")
    done = cli("segment", video, "-t", "x", "--weights", small_weights, "--end", "2")
    assert done.code == 0, done.err
    assert "resurgsam2: the network runs on the CPU: CUDA error: no kernel image is available" in done.err


DRIVER = """
#include <string.h>

static int nothing(void) { return 999; }
int cuInit(unsigned flags) { return CODE; }
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long long flags, void *status)
{
    *found = (void *)nothing;
    if (!strcmp(name, "cuInit")) *found = (void *)cuInit;
    if (!strcmp(name, "cuDriverGetVersion")) *found = (void *)cuDriverGetVersion;
    if (!strcmp(name, "cuDeviceGetCount")) *found = (void *)cuDeviceGetCount;
    if (!strcmp(name, "cuGetProcAddress")) *found = (void *)cuGetProcAddress_v2;
    return 0;
}
int cuGetProcAddress(const char *name, void **found, int version, unsigned long long flags)
{
    return cuGetProcAddress_v2(name, found, version, flags, 0);
}
"""
"""A library of a driver that does as little as it says."""


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("gcc"), reason="needs a C compiler on Linux")
@pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch is without CUDA")
@pytest.mark.parametrize(
    ("code", "version", "said"),
    [(0, 11040, "driver on your system is too old (found version 11040)"), (999, 13000, "CUDA unknown error")],
)
def test_a_driver_that_cannot_be_used(
    code: int, version: int, said: str, video: Path, small_weights: Path, tmp_path: Path
) -> None:
    """It is said in a line of ours, wherever somebody may look, and not in a warning of PyTorch's."""
    (tmp_path / "driver.c").write_text(DRIVER)
    how = [f"-DCODE={code}", f"-DVERSION={version}", "-shared", "-fPIC", "-w"]
    subprocess.run(["gcc", *how, "-o", tmp_path / "libcuda.so.1", tmp_path / "driver.c"], check=True)
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "resurgsam2_cli", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    segment = ["segment", video, "-t", "x", "--weights", small_weights, "--end", "2", "-o", tmp_path / "out"]
    done = run(*segment)
    assert done.returncode == 0, done.stderr
    assert f"resurgsam2: the network runs on the CPU: {'The NVIDIA ' * (code == 0)}{said}" in done.stderr
    assert "UserWarning" not in done.stderr
    assert "UserWarning" not in run(*segment, "--overwrite", "--quiet").stderr
    asked = run(*segment, "--overwrite", "--device", "cuda")
    assert asked.returncode == 5
    assert said in asked.stderr
    found = run("doctor")
    assert found.returncode == 0, found.stderr
    assert re.search(f"GPU +cannot be used: .*{re.escape(said)}", found.stdout)
    assert "UserWarning" not in found.stderr


def test_a_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is wrong with it."""
    assert torch.cuda.is_available() or checked.cuda_problem() == ""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", None)
    assert checked.cuda_problem() == ""


def broken_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that is there, and does nothing that it is asked for."""

    def fails(*arguments: Any, **keywords: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    for name in ("get_device_capability", "get_device_properties", "get_device_name", "mem_get_info"):
        monkeypatch.setattr(f"torch.cuda.{name}", fails)


@pytest.mark.parametrize("more", [[], ["--check"], ["--json"]])
def test_doctor_of_a_card_that_does_nothing(more: list[str], cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_card(monkeypatch)
    done = cli("doctor", *more)
    assert done.code == 0, done.err
    assert "cannot be used: CUDA error: CUDA-capable device(s) is/are busy or unavailable" in done.out


def test_a_card_that_does_nothing(cli: Cli, video: Path, small_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_card(monkeypatch)
    done = cli("segment", video, "-t", "x", "--weights", small_weights, "--end", "2", "--device", "cuda")
    assert done.code == 5
    done = cli("segment", video, "-t", "x", "--weights", small_weights, "--end", "2")
    assert done.code == 0, done.err
    assert "resurgsam2: the network runs on the CPU: " in done.err


def test_passing_trouble_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that another program has filled is tried again the next time."""
    ways = {"recordings": "CUDA out of memory. Tried to allocate 2.00 GiB"}
    monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path))
    monkeypatch.setattr(checked, "self_check", lambda device, precision: dict(ways))
    monkeypatch.setattr(checked, "_key", lambda device, precision: "card")
    card = torch.device("cuda", 0)
    assert checked.fitness(card, "bf16").ways == ways
    ways.clear()
    assert checked.fitness(card, "bf16").ways == {}
    ways["triton scan"] = "Failed to find C compiler. Please specify via CC environment variable"
    (line,) = checked.fitness(card, "bf16", again=True).lines()
    assert line.endswith("(install one, such as gcc)")
    ways["triton scan"] = "Command '['gcc', '/tmp/main.c', '-shared']' returned non-zero exit status 1."
    for headers, hint in (
        (False, "install the headers of Python, such as the package python3-dev"),
        (True, checked.REPORT),
    ):
        monkeypatch.setattr(checked, "_has_headers", lambda headers=headers: headers)
        (line,) = checked.fitness(card, "bf16", again=True).lines()
        assert line.endswith(f"({hint})")


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [np.zeros((128, 128, 3), np.float32)],
        [np.zeros((128, 128), np.uint8)],
        [np.zeros((128, 128, 4), np.uint8)],
        [np.zeros((128, 128, 3), np.uint8), np.zeros((64, 128, 3), np.uint8)],
    ],
)
def test_frames_that_are_none(frames: list[np.ndarray], network: ReSurgSAM2) -> None:
    executor = Executor(copy.deepcopy(network), CPU)
    with executor.context(), pytest.raises(ValueError, match=r"frames must be \(height, width, 3\) uint8"):
        executor.encode(frames)
