"""The model on its device: built once, used for any number of videos."""

from __future__ import annotations

import platform
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model import NetworkConfig, ReSurgSAM2
from model.executor import Executor
from model.fused import Kind
from model.precision import PRECISIONS
from model.room import out_of_memory
from resurgsam2_cli.errors import DeviceError, UsageError, WeightsProblem, weights_errors
from resurgsam2_cli.outputs.own_process import POSSIBLE
from resurgsam2_cli.process.tuning import keep_memory
from resurgsam2_cli.segmenting.checked import REPORT, Usable, cuda_problem, has_cuda, usable
from weights.loader import WeightsInfo, load_network
from weights.store import DEMO, is_demo, resolve

_LARGE = 256
"""Channels of a network that takes nearly all of a CPU's time: bfloat16 pays off for it."""

DEMO_WARNING = (
    "these are the bundled demo weights, which know rendered scenes only; for real surgery get the published ones: "
    "resurgsam2 weights fetch"
)


@dataclass(frozen=True)
class Engine:
    """A network on its device, with what the program knows of it."""

    executor: Executor
    weights: WeightsInfo
    threads: int
    """PyTorch's threads while this network runs on a CPU."""
    encodes_ahead: bool
    """Whether the next frames are encoded beside the work on earlier ones, in a thread of their own."""
    starts_ahead: bool = False
    """Whether the device works on the next frame while the decisions of one are taken, and its result is handed on."""
    writes_apart: bool = False
    """Whether outputs are written in a process of their own."""
    warnings: tuple[str, ...] = ()
    """Lines for the user to see before results."""

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.executor.device

    @property
    def config(self) -> NetworkConfig:
        """The sizes of the network."""
        return self.executor.config

    @contextmanager
    def context(self, threads: int | None = None) -> Iterator[None]:
        """The executor's context, on the engine's threads.

        Work that runs beside the network on a CPU gives its own number of ``threads``.
        """
        others, own = torch.get_num_threads(), threads or self.threads
        if own != others:
            torch.set_num_threads(own)
        try:
            with self.executor.context():
                yield
        finally:
            if own != others:
                torch.set_num_threads(others)

    @property
    def is_demo(self) -> bool:
        """Whether this is the bundled demo network."""
        return is_demo(self.weights.path, self.weights.sha256)

    def check_pointing(self, hint: str) -> None:
        """Raise :class:`WeightsProblem` with a ``hint`` if the network has no weights for clicks and masks."""
        if not self.config.pointing:
            raise WeightsProblem(
                f"{self.weights.name} cannot be pointed at: it has no weights for clicks and masks", hint
            )

    def record(self) -> dict[str, Any]:
        """The ``backend`` of run.json."""
        return {
            "device": str(self.device),
            "device_name": device_name(self.device),
            "precision": self.executor.precision,
            "scan": self.executor.scan,
            "torch": torch.__version__,
        }


def choose_device(text: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps`` into a device that is there.

    Raises :class:`UsageError` for anything else and :class:`DeviceError` for one that this machine lacks.
    """
    if text == "auto":
        if has_cuda():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, colon, index = text.partition(":")
    if (
        kind not in ("cpu", "cuda", "mps")
        or (colon and not re.fullmatch("[0-9]{1,4}", index))
        or (colon and kind != "cuda")
    ):
        raise UsageError(f"unknown device {text!r}", "use --device auto, cpu, cuda, cuda:1 or mps")
    if kind == "cuda":
        count = torch.cuda.device_count() if has_cuda() else 0
        if int(index or 0) >= count:
            found = f"{count} CUDA device{'s' * (count > 1)}" if count else "no CUDA device that torch can use"
            problem = cuda_problem()
            raise DeviceError(
                f"--device {text}: this machine has {found}{f' ({problem})' if problem else ''}",
                "use --device auto or cpu; see: resurgsam2 doctor",
            )
        return torch.device("cuda", int(index or 0))
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("--device mps: this machine has no Apple GPU that torch can use", "use --device auto or cpu")
    return torch.device(kind)


def choose_precision(text: str, device: torch.device, *, large: bool = False) -> str:
    """The precision on a device; ``large`` networks are those that take nearly all of a CPU's time.

    ``auto`` is bfloat16 on a CUDA device that computes it natively, float16 on an older one, bfloat16 for large
    networks on a CPU that has instructions for it, else float32. Raises :class:`UsageError` for an unknown precision or
    one that the device lacks.
    """
    if text == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"  # a T4 only emulates bf16
        return "bf16" if device.type == "cpu" and large and computes_bfloat16() else "fp32"
    if text not in PRECISIONS:
        raise UsageError(f"unknown precision {text!r}", "use --precision auto, fp32, bf16 or fp16")
    if text == "fp16" and device.type == "cpu":
        raise UsageError("fp16 is not for the CPU", "use --precision bf16 or fp32")
    return text


def computes_bfloat16() -> bool:
    """Whether this machine's processor has instructions for matrix products in bfloat16."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def device_name(device: torch.device) -> str:
    """What the device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def build_engine(
    weights: str = "auto",
    clip_weights: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    *,
    words: bool = True,
    found: tuple[str, Path, Path | None] | None = None,
) -> Engine:
    """Choose the device, find and load the weights, as the options of these names do in the command.

    Without ``words``, nothing is loaded that only texts need: objects are pointed at. ``found`` is what
    :func:`weights.store.resolve` gave, if it was asked before. Raises a :class:`~resurgsam2_cli.errors.UserError`.
    """
    chosen, lines = choose_device(device), []
    try:
        wanted = choose_precision(precision, chosen)  # report a wrong one before reading weights
    except (RuntimeError, AssertionError):  # of a card that does not even say what it can do: the check tells why
        wanted = "fp32"
    if chosen.type == "cpu" and device == "auto" and (problem := cuda_problem()):
        lines.append(f"the network runs on the CPU: {problem}")
    used = Usable(chosen, precision)
    if chosen.type != "cpu":
        with device_errors():
            used = usable(chosen, wanted, asked=device, strict=precision != "auto")
        lines += used.lines
        if used.device.type == "cpu" and precision == "fp16":
            raise DeviceError(
                f"fp16 is not for the CPU, and {lines[0]}", "use --precision auto; see: resurgsam2 doctor --check"
            )
    with weights_errors():
        name, path, clip_path = found or resolve(weights, clip_weights)
        network, info = load_network(path, clip_path, name=name, words=words)
    if weights == "auto" and name == DEMO:
        lines.append(DEMO_WARNING)
    kind = precision if used.device.type == "cpu" else used.precision
    return make_engine(network, info, used.device, kind, tuple(lines), used.off)


def make_engine(
    network: ReSurgSAM2,
    info: WeightsInfo,
    device: torch.device,
    precision: str = "auto",
    warnings: tuple[str, ...] = (),
    off: Collection[Kind] = (),
) -> Engine:
    """Take over a network and move it to its device, in the way that is fastest there; do not reuse it.

    ``off`` are ways of computing that the device had better not use.

    Raises :class:`DeviceError` if the device has no room for it, and what :func:`choose_precision` raises.
    """
    large = network.config.dim >= _LARGE
    chosen_precision = choose_precision(precision, device, large=large)
    threads = torch.get_num_threads()
    if device.type == "cpu":
        keep_memory()
    # Small networks are faster with fewer threads each on two frames at a time; a large one keeps all threads busy.
    encodes_ahead = device.type == "cuda" or (device.type == "cpu" and not large)
    if encodes_ahead:
        threads = max(1, threads // 2)
    with device_errors():
        if chosen_precision == "fp16":
            _check_range(network)
        executor = Executor(network, device, chosen_precision, off=off)
    on_cuda = device.type == "cuda"
    return Engine(executor, info, threads, encodes_ahead, on_cuda, on_cuda and POSSIBLE, warnings)


def _check_range(network: ReSurgSAM2) -> None:
    """Raise ``FloatingPointError`` for a weight that float16 cannot hold: the network would take infinity for it."""
    most = torch.finfo(torch.float16).max
    for name, x in network.named_parameters():
        if x.abs().max() > most:
            raise FloatingPointError(f"{name} has numbers beyond those of float16")


_NO_KERNEL = (
    "no kernel image",
    "kernel image is invalid",
    "invalid device function",
    "unsupported toolchain",
    "forward compatibility",
    "CUDA driver version is insufficient",
    "not compiled for",
)
"""In messages about a card, or a driver, for which this PyTorch was not built."""

_FAILED = ("CUDA error", "CUDA driver error", "CUBLAS_STATUS", "CUDNN_STATUS", "Triton Error", "MPS backend")
"""In messages about anything else that a device could not do."""

_LESS = "use fewer prompts at a time, close what else takes its memory, or use --device cpu if it is a GPU"


@contextmanager
def device_errors(less: str = _LESS) -> Iterator[None]:
    """Turn what a device cannot do into :class:`DeviceError`, and numbers that are not finite into an error of weights.

    PyTorch has a class of its own for some of these errors, and ``RuntimeError`` for the others. ``less`` says what
    takes less memory.
    """
    try:
        yield
    except FloatingPointError as error:
        raise WeightsProblem(
            f"the network does not work: {error}",
            "get the weight file again, or use another one; with --precision fp16, try fp32",
        ) from error
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if out_of_memory(error):
            raise DeviceError("the device has not enough memory for this", less) from error
        if any(x in text for x in _NO_KERNEL):
            raise DeviceError(
                f"the device is not one that this PyTorch was built for ({text.splitlines()[0]})",
                "use --device cpu, or install the PyTorch for this card and driver: https://pytorch.org",
            ) from error
        if isinstance(error, torch.AcceleratorError) or any(x in text for x in _FAILED):
            raise DeviceError(
                f"the device failed ({text.splitlines()[0]})",
                f"start it again, or use --device cpu; if it fails again, {REPORT}",
            ) from error
        raise
