"""Is a GPU fit for the network, and in which ways?

It is tried once; the outcome is remembered for this card, driver and PyTorch, so that later runs only read it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
import warnings
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from model.fused import KINDS, NEED_TRITON, Kind, triton_missing
from model.room import computes, out_of_memory
from model.self_check import self_check, ways_of
from resurgsam2_cli import __version__
from resurgsam2_cli.errors import DeviceError, OutputError
from resurgsam2_cli.files.atomic import write_json, writing
from resurgsam2_cli.files.filling import naming
from resurgsam2_cli.files.text import first_line, one_line
from resurgsam2_cli.process.interruption import starting_workers
from weights.store import home

REPORT = "please report it with what this prints: resurgsam2 doctor --check"

_SLOWER: dict[Kind, str] = {
    "mamba-ssm scan": "the selective scan does without mamba-ssm, which was built for another card or PyTorch",
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
    ways: dict[Kind, str] = field(default_factory=dict)
    """The ways of computing that it had better not use, and why."""

    def lines(self) -> list[str]:
        """One line for each way that is turned off."""
        return [f"{_SLOWER[way]}: {why} ({_hint(why)})" for way, why in self.ways.items()]


def fitness(device: torch.device, precision: str, *, again: bool = False) -> Fitness:
    """Try a device, or remember what was found before."""
    if device.type == "cpu":
        return Fitness()
    before = None if again else known(device, precision)
    if before is not None and not _triton_stopped(device, before):
        return before
    found = _tried(device, precision)
    if before is None:
        _remember(device, precision, found)
    return found


def _triton_stopped(device: torch.device, found: Fitness) -> bool:
    """Whether Triton ran when the device was tried, and does not today, or not for this user."""
    return device.type == "cuda" and not found.ways.keys() & set(NEED_TRITON) and bool(triton_missing(device))


def known(device: torch.device, precision: str) -> Fitness | None:
    """What was found before, without trying."""
    try:
        return _remembered().get(_key(device, precision))
    except (RuntimeError, AssertionError):  # a card that does not even say what it is
        return None


def _hint(why: str) -> str:
    if "compiler" in why.lower():
        return "install one, such as gcc"
    if "Permission denied" in why or "Read-only file system" in why or "No such file" in why:
        return "set TRITON_CACHE_DIR to a folder that can be written to"
    if why.startswith("Command '") and not _has_headers():
        return "install the headers of Python, such as the package python3-dev"
    return REPORT


@dataclass(frozen=True)
class Usable:
    """What a network is to use."""

    device: torch.device
    precision: str
    off: frozenset[Kind] = frozenset()
    """The ways of computing that the device had better not use."""
    lines: tuple[str, ...] = ()
    """For the user to see."""


def usable(device: torch.device, precision: str, *, asked: str, strict: bool = False) -> Usable:
    """The device, in float32 if only that is right on it; or the CPU if it is unfit and was not ``asked`` for by name.

    ``strict`` is for a precision that was asked for by name. Raises :class:`DeviceError`.
    """
    found = fitness(device, precision)
    if not found.device:
        return Usable(device, precision, frozenset(found.ways), tuple(found.lines()))
    exact = fitness(device, "fp32")
    if not exact.device and not strict:
        line = f"the network runs in float32, which {precision} is not right for on this device: {found.device}"
        return Usable(device, "fp32", frozenset(exact.ways), (f"{line} ({REPORT})", *exact.lines()))
    instead = "--device cpu" if exact.device else "--precision fp32"
    if asked != "auto":
        raise DeviceError(f"--device {asked}: {found.device}", f"use {instead}; see: resurgsam2 doctor --check")
    line = f"the network runs on the CPU: {found.device}"
    line += f" ({REPORT})" if exact.device else " (with --precision fp32, it can run on the GPU)"
    return Usable(torch.device("cpu"), precision, lines=(line,))


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
    worked = computes(device)
    try:
        return Fitness(ways=self_check(device, precision))
    except (RuntimeError, TypeError, ArithmeticError, MemoryError, AssertionError) as error:  # TypeError: MPS, of types
        if computes(device) or not worked:
            return Fitness(device=first_line(error))
        lost = first_line(error)
    found = _tried_apart(device, precision)
    if found.device:
        return found
    _remember(device, precision, found)
    raise DeviceError(
        f"{device} failed while it was tried ({lost}), and is lost for this program",
        "run the same command again: it will do without what failed",
    )


def _tried_apart(device: torch.device, precision: str) -> Fitness:
    """Try each way in a process of its own: one of them leaves the device in such a state that nothing works on it."""

    def said(*kinds: Kind) -> str:
        """What is wrong with the last of these ways; empty if nothing is."""
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                with starting_workers():
                    trying = pool.submit(self_check, device, precision, kinds)
                bad = trying.result()
                return bad.get(kinds[-1], "") if kinds else ""
            except Exception as error:  # of whatever kind, or because the process died of it
                return first_line(error)

    if plain := said():
        return Fitness(device=plain)
    ways: dict[Kind, str] = {}
    for kind in ways_of(device):
        if why := said("triton layers", kind) if kind == "attention in parts" else said(kind):
            ways[kind] = why
    return Fitness(ways=ways)


def _key(device: torch.device, precision: str) -> str:
    """Everything that the outcome may depend on."""
    parts = [__version__, torch.__version__, precision, device.type]
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        parts += [properties.name, f"{properties.major}.{properties.minor}", _driver()]
        parts += [_triton(), _mamba(), _compiler()]
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
    return f"triton {triton.__version__}{'' if _can_cache() else ' without a cache'}"


def _can_cache() -> bool:
    """Whether Triton can keep what it compiles, without which it does not run: one user of a weights folder may."""
    home_of = os.environ.get("TRITON_HOME") or os.path.expanduser("~")
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or Path(home_of, ".triton", "cache"))
    there = next((x for x in (folder, *folder.absolute().parents) if x.exists()), folder)
    return there.is_dir() and os.access(there, os.W_OK)


def _mamba() -> str:
    try:
        return f"mamba-ssm {version('mamba-ssm')}"
    except PackageNotFoundError:
        return "no mamba-ssm"


def _compiler() -> str:
    """Triton builds a launcher for each kernel with a C compiler, which is an extension of Python."""
    found = os.environ.get("CC") or next((x for x in ("gcc", "clang", "cc", "cl") if shutil.which(x)), "")
    names = f"compiler {found}" if found else "no compiler"
    return f"{names}, Python {sys.version_info.major}.{sys.version_info.minor}{'' if _has_headers() else ' alone'}"


def _has_headers() -> bool:
    """Whether a compiler can build extensions of this Python."""
    return Path(sysconfig.get_path("include"), "Python.h").is_file()


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
