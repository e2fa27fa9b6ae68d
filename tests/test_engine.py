"""How the network is run: exact products, and errors of devices and of numbers as one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, Cli
from stand_in_gpu import DEVICE, pretended
from torch.utils._python_dispatch import TorchDispatchMode

from model import ReSurgSAM2, preprocess
from model.positions import rotary_table, rotate, rotate_in_place
from resurgsam2_cli.errors import DeviceError, WeightsProblem
from resurgsam2_cli.segmenting import engine
from resurgsam2_cli.segmenting.checked import Usable
from resurgsam2_cli.segmenting.engine import build_engine, device_errors, make_engine
from weights.loader import load_network

ASKED = """
import sys, warnings
import torch
from model.precision import exact_products

warnings.simplefilter("error")
backends, products = torch.backends, torch.backends.cuda.matmul

def settings():
    own = ("", "cuda.matmul", "cudnn", "cudnn.conv", "cudnn.rnn", "mkldnn", "mkldnn.matmul", "mkldnn.conv")
    asked = [f"backends.{x}.fp32_precision".replace("..", ".") for x in own if hasattr(products, "fp32_precision")]
    sums = [f"products.allow_{x}_reduced_precision_reduction" for x in ("bf16", "fp16")]
    asked += [x + y for x in sums for y in ("", "_split_k") if hasattr(products, x.split(".")[1] + y)]
    asked += ["torch.get_float32_matmul_precision()", "products.allow_tf32", "backends.cudnn.allow_tf32"]
    found = {}
    for what in asked:
        try:
            found[what] = eval(what)
        except RuntimeError as error:  # old and new settings contradict one another
            found[what] = "PyTorch does not say"
    return found

exec(sys.argv[1])
before = settings()
with exact_products(), exact_products():
    inside = settings()
assert settings() == before, (before, settings())
for what in ("cuda.matmul", "cudnn.conv", "mkldnn.matmul", "mkldnn.conv"):
    assert inside.get(f"backends.{what}.fp32_precision", "ieee") == "ieee", inside
assert not any(inside[f"products.allow_{x}_reduced_precision_reduction"] for x in ("bf16", "fp16"))
for what, exact in (("torch.get_float32_matmul_precision()", "highest"), ("backends.cudnn.allow_tf32", False)):
    assert inside[what] in (exact, "PyTorch does not say"), inside
"""


@pytest.mark.parametrize(
    "said",
    [
        "pass",
        "products.allow_tf32 = backends.cudnn.allow_tf32 = True",
        "products.allow_tf32 = backends.cudnn.allow_tf32 = False",
        "torch.set_float32_matmul_precision('medium')",
        "torch.set_float32_matmul_precision('high')",
        "products.allow_fp16_reduced_precision_reduction = products.allow_bf16_reduced_precision_reduction = False",
        "products.allow_fp16_reduced_precision_reduction = (False, False)",
        "products.fp32_precision = 'tf32'",
        "backends.fp32_precision = 'ieee'",
        "backends.fp32_precision = 'tf32'",
        "backends.cudnn.conv.fp32_precision = 'ieee'",
        "backends.cudnn.fp32_precision = 'tf32'",
        "backends.mkldnn.fp32_precision = 'bf16'",
        "torch.set_float32_matmul_precision('high'); backends.mkldnn.matmul.fp32_precision = 'ieee'",
    ],
)
def test_float32_is_float32(said: str) -> None:
    """While the network runs, whatever the caller said, in the old way or in the new one; afterwards all is as it was.

    In a process of its own, as PyTorch keeps old settings that contradict new ones.
    """
    if "fp32_precision" in said and not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this PyTorch has the old settings only")
    subprocess.run([sys.executable, "-c", ASKED, said], check=True, cwd=Path(__file__).parents[1])


class Divisors(TorchDispatchMode):
    """Notes what tensors are divided by."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[object] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.div.Tensor:
            self.found.append(args[1])
        return function(*args, **(kwargs or {}))


def test_pixels_are_divided_by_a_tensor() -> None:
    """CUDA divides by a number as a product with its reciprocal, which is another result for half of the values."""
    image = torch.arange(256, dtype=torch.uint8).repeat(64 * 64 // 256).view(64, 64, 1).expand(64, 64, 3)
    with Divisors() as divisors:
        preprocess([image.numpy()], SMALL)
    assert len(divisors.found) == 2
    assert all(isinstance(x, torch.Tensor) for x in divisors.found)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotary_encoding_of_pairs(frames: int, dtype: torch.dtype) -> None:
    """Bit by bit what two products and a sum for each channel give."""
    x = torch.randn(2, frames * 16, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    table = rotary_table(4, 64, torch.device("cpu"))
    cosines, sines = (part.repeat_interleave(2, dim=-1).repeat(frames, 1) for part in (table.real, table.imag))
    wide = x.float()
    turned = torch.stack((-wide[..., 1::2], wide[..., 0::2]), dim=-1).flatten(-2)
    expected = (wide * cosines + turned * sines).to(dtype)
    assert torch.equal(rotate(x, table), expected)
    longer = torch.cat((x, x[:, :5]), dim=1)  # what has no place on the map stays
    rotate_in_place(longer, table, x.shape[1])
    assert torch.equal(longer, torch.cat((expected, x[:, :5]), dim=1))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: not enough memory: you tried to"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
        RuntimeError("CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY"),
        RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1131'),
        RuntimeError("Invalid buffer size: 12.00 GiB"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_no_memory(error: Exception) -> None:
    with pytest.raises(DeviceError, match="has not enough memory"), device_errors():
        raise error


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be",
        "CUDA error: invalid device function",
        "CUDA error: CUDA driver version is insufficient for CUDA runtime version",
        "CUDA error: device kernel image is invalid",
        "CUDA error: the provided PTX was compiled with an unsupported toolchain.",
        "CUDA error: forward compatibility was attempted on non supported HW",
    ],
)
def test_cards_that_are_not_supported(text: str) -> None:
    with pytest.raises(DeviceError, match="is not one that this PyTorch was built for") as found, device_errors():
        raise RuntimeError(text)
    assert "\n" not in found.value.message


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be"),
        torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("CUDA error: the launch timed out and was terminated"),
        RuntimeError("CUDA driver error: unknown error"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasLtMatmul`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("Triton Error [CUDA]: device-side assert triggered"),
    ],
)
def test_devices_that_fail_in_the_middle(error: Exception) -> None:
    with pytest.raises(DeviceError, match="the device failed") as found, device_errors():
        raise error
    assert "\n" not in found.value.message
    assert "doctor --check" in found.value.hint


def test_weights_that_float16_cannot_hold(small_weights: Path) -> None:
    """They are finite, and the network would take infinity for them."""
    network, info = load_network(small_weights)
    network.mask_decoder.iou_head.layers[2].bias.data[1] = 1e5  # type: ignore[operator]
    with pretended(), pytest.raises(WeightsProblem, match=r"iou_head.layers.2.bias has numbers beyond") as found:
        make_engine(network, info, DEVICE, "fp16")
    assert "--precision fp16, try fp32" in found.value.hint


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(RuntimeError, match="shape mismatch"), device_errors():
        raise RuntimeError("shape mismatch")
    with pytest.raises(WeightsProblem, match="does not work: detection gives"), device_errors():
        raise FloatingPointError("detection gives object 1 a score of nan")


def test_a_network_that_gives_no_numbers(
    cli: Cli, video: Path, small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kind of weights that pass every check of their tensors: exit code 4, and nothing left."""
    whole = ReSurgSAM2.detect

    def broken(self: ReSurgSAM2, *inputs: Any) -> Any:
        return whole(self, *inputs)._replace(object_score=torch.full((1,), float("nan")))

    monkeypatch.setattr(ReSurgSAM2, "detect", broken)
    done = cli("segment", video, "-t", "x", "--weights", small_weights)
    assert done.code == 4
    assert "the network does not work: detection gives object 1 a score of nan" in done.err
    assert not Path("runs").exists()


WHOLE = """
import sys
from resurgsam2_cli.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(*sorted({"torchvision", "timm", "open_clip", "torch._dynamo", "sympy"} & set(sys.modules)))
"""


def test_a_run_loads_little(video: Path, small_weights: Path, tmp_path: Path) -> None:
    """What open_clip drags in, and PyTorch's compiler, take longer to load than PyTorch itself."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    run = ["segment", str(video), "-t", "x", "--weights", str(small_weights), "--end", "1", "-q"]
    command = [sys.executable, "-c", WHOLE, *run]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == ""
    assert (tmp_path / "runs" / "clip" / "run.json").exists()


ALONE = """
import sys
from model.text_encoder import decode, tokenize
from conftest import SMALL
from model import ReSurgSAM2
network = ReSurgSAM2(SMALL)
ids = tokenize("the left large needle driver")
loaded = {x.partition(".")[0] for x in sys.modules}
assert not loaded & {"torchvision", "timm", "open_clip"}, loaded & {"torchvision", "timm", "open_clip"}
import open_clip, torchvision
assert open_clip.create_model and torchvision.ops.misc.FrozenBatchNorm2d
assert ids[1:-1] == open_clip.tokenizer.SimpleTokenizer().encode("the left large needle driver")
assert decode(ids[1:-1]) == "the left large needle driver"
"""


def test_open_clip_without_its_package() -> None:
    """Its tokenizer and text tower alone; whoever imports it afterwards gets the whole."""
    folders = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": folders}
    done = subprocess.run([sys.executable, "-c", ALONE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_fp16_where_the_gpu_is_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU takes the place of such a GPU, but not in that precision: the error says what is wrong with the GPU."""
    line = "the network runs on the CPU: no kernel image is available"
    monkeypatch.setattr(engine, "choose_device", lambda text: torch.device("cuda", 0))
    used = Usable(torch.device("cpu"), "fp16", lines=(line,))
    monkeypatch.setattr(engine, "usable", lambda device, precision, *, asked, strict: used)
    with pytest.raises(DeviceError, match=f"fp16 is not for the CPU, and {line}"):
        build_engine("demo", device="auto", precision="fp16")
