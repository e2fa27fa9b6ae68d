"""Is a GPU fit for the network, and in which ways?

It is tried once; the outcome is remembered for this card, driver and PyTorch, so that later runs only read it.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from model.fused import KINDS, Kind, switch_off
from model.room import out_of_memory
from model.self_check import self_check
from resurgsam2_cli import __version__
from resurgsam2_cli.errors import DeviceError, OutputError
from resurgsam2_cli.files.atomic import write_json, writing
from resurgsam2_cli.files.filling import naming
from resurgsam2_cli.files.text import first_line, one_line
from weights.store import home

REPORT = "please report it with what this prints: resurgsam2 doctor --check"

_SLOWER = {
    "triton scan": "the selective scan runs in PyTorch, and detection is several times slower",
    "triton layers": "normalisation runs in PyTorch, and frames are somewhat slower",
    "attention in parts": "attention to the memory runs in one piece, and tracking is somewhat slower",
    "recordings": "every kernel is launched on its own, and frames are several times slower",
}


_NO_DEVICE = ("Found no NVIDIA driver", "No CUDA GPUs are available")
"""What PyTorch says where nothing is wrong."""


@dataclass(frozen=True)
class Fitness:
    """What was found when a device was tried."""

    device: str = ""
    """Why the device cannot be used at all; empty if it can."""
    ways: dict[str, str] = field(default_factory=dict)
    """The ways of computing that are turned off, and why."""

    def lines(self) -> list[str]:
        """One line for each way that is turned off."""
        return [f"{_SLOWER[way]}: {why} ({_hint(why)})" for way, why in self.ways.items()]


def fitness(device: torch.device, precision: str, *, again: bool = False) -> Fitness:
    """Try a device, or remember what was found before, and turn off what does not work on it."""
    if device.type == "cpu":
        return Fitness()
    found = None if again else known(device, precision)
    if found is None:
        found = _tried(device, precision)
        _remember(device, precision, found)
        switch_off(cast(list[Kind], list(found.ways)))
    return found


def known(device: torch.device, precision: str) -> Fitness | None:
    """What was found before, without trying; what does not work is turned off."""
    try:
        found = _remembered().get(_key(device, precision))
    except (RuntimeError, AssertionError):  # a card that does not even say what it is
        return None
    if found is not None:
        switch_off(cast(list[Kind], list(found.ways)))
    return found


def _hint(why: str) -> str:
    if "compiler" in why.lower():
        return "install one, such as gcc"
    return REPORT


def usable(device: torch.device, precision: str, *, asked: str) -> tuple[torch.device, list[str]]:
    """The device, or the CPU if it is unfit and was not ``asked`` for by name; and lines for the user to see.

    Raises :class:`DeviceError`.
    """
    found = fitness(device, precision)
    if not found.device:
        return device, found.lines()
    if asked != "auto":
        raise DeviceError(f"--device {asked}: {found.device}", "use --device cpu; see: resurgsam2 doctor --check")
    return torch.device("cpu"), [f"the network runs on the CPU: {found.device} ({REPORT})"]


def has_cuda() -> bool:
    """Whether PyTorch can use a CUDA device. :func:`cuda_problem` has what it says about one that it cannot use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def cuda_problem() -> str:
    """Why PyTorch cannot use the CUDA device of this machine, such as an old driver; empty if it can or has none."""
    if torch.version.cuda is None or has_cuda():
        return ""
    try:
        torch.cuda.init()  # its error comes each time, the warning of the same words once in a process
    except (RuntimeError, AssertionError) as error:
        text = one_line(str(error))
        return "" if any(x in text for x in _NO_DEVICE) else text
    return ""


def _tried(device: torch.device, precision: str) -> Fitness:
    try:
        return Fitness(ways={str(kind): why for kind, why in self_check(device, precision).items()})
    except (RuntimeError, TypeError, ArithmeticError, MemoryError, AssertionError) as error:  # TypeError: MPS, of types
        return Fitness(device=first_line(error))


def _key(device: torch.device, precision: str) -> str:
    """Everything that the outcome may depend on."""
    parts = [__version__, torch.__version__, precision, device.type]
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        parts += [properties.name, f"{properties.major}.{properties.minor}", _driver(), _triton(), _compiler()]
    return " / ".join(parts)


def _driver() -> str:
    """The version of NVIDIA's driver."""
    with suppress(OSError):
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace").splitlines()[0]
    return str(getattr(torch._C, "_cuda_getDriverVersion", lambda: "unknown driver")())  # what a driver can do


def _triton() -> str:
    try:
        import triton
    except ImportError:
        return "no triton"
    return f"triton {triton.__version__}"


def _compiler() -> str:
    """Triton builds a launcher for each kernel with a C compiler."""
    found = os.environ.get("CC") or next((x for x in ("gcc", "clang", "cc", "cl") if shutil.which(x)), "")
    return f"compiler {found}" if found else "no compiler"


def _file() -> Path:
    return home() / "devices.json"


def _remembered() -> dict[str, Fitness]:
    """What is known; nothing if the file is not there, or is not as it should be."""
    try:
        content: Any = json.loads(_file().read_text(encoding="utf-8"))
        return {
            str(key): Fitness(ways={k: one_line(str(v)) for k, v in value["ways"].items() if k in KINDS})
            for key, value in content.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _remember(device: torch.device, precision: str, found: Fitness) -> None:
    """A device that cannot be used, or has no memory left now, is tried again the next time."""
    if found.device or any(out_of_memory(RuntimeError(why)) for why in found.ways.values()):
        return
    key = _key(device, precision)
    with suppress(OutputError), naming(_file().parent), writing(_file()):
        write_json(_file(), {k: asdict(v) for k, v in {**_remembered(), key: found}.items()})
