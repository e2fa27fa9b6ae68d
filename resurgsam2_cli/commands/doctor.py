"""``resurgsam2 doctor``: what this machine can do."""

from __future__ import annotations

import json
import platform
import time
from typing import Annotated

import typer


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Try each GPU, in each precision, against the CPU: takes some seconds.")
    ] = False,
) -> None:
    """Show what this machine can do: device, precision, the scan of the network, ffmpeg and weights."""
    import torch

    from model.fused import without
    from model.selective_scan import backend_for
    from resurgsam2_cli import __version__
    from resurgsam2_cli.errors import UserError
    from resurgsam2_cli.files.text import first_line, one_line
    from resurgsam2_cli.segmenting.checked import known
    from resurgsam2_cli.segmenting.engine import choose_device, choose_precision, device_name
    from resurgsam2_cli.video import ffmpeg
    from resurgsam2_cli.video.libav import version as libav_version
    from weights import store
    from weights.errors import WeightsError

    device = choose_device("auto")
    have = store.installed()
    try:
        chosen = store.resolve("auto", None)[0]
    except WeightsError as error:
        chosen = f"none: {one_line(str(error))}; {one_line(error.hint)}"
    try:
        video = f"{ffmpeg.version()} ({ffmpeg.executable()})"
    except UserError as error:
        video = f"{error.message}: {error.hint}"
    try:
        name, precision = device_name(device), choose_precision("auto", device)
        if (large := choose_precision("auto", device, large=True)) != precision:
            precision += f", {large} for full-size networks"
        found = known(device, precision)
    except (RuntimeError, AssertionError) as error:
        name, precision, found = first_line(error), "unknown", None
    with without(found.ways if found is not None else ()):
        scan = backend_for(device)
    report = {
        "resurgsam2": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
        "precision": precision,
        "scan": scan,
        "libav": libav_version(),
        "ffmpeg": video,
        "weights folder": str(store.home()),
        "weights here": ", ".join([*have, *(f"{x} (damaged)" for x in store.damaged())]) or "none",
        "weights chosen": chosen,
        "text tower": next((x.name for x in have.values() if x.kind == "clip"), "in the weights, or none"),
    }
    if found is not None and found.ways:
        report["turned off"] = "; ".join(found.lines())
    report |= _gpus(check)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        for name, value in report.items():
            typer.echo(f"{name:15} {value}")


def _gpus(check: bool) -> dict[str, str]:
    """What is known of the GPUs; with ``check``, what trying them gives."""
    import torch

    from model.precision import PRECISIONS
    from resurgsam2_cli.errors import DeviceError
    from resurgsam2_cli.files.text import first_line
    from resurgsam2_cli.segmenting.checked import Fitness, cuda_problem, fitness, has_cuda, known
    from resurgsam2_cli.segmenting.engine import choose_device, device_errors, device_name

    report: dict[str, str] = {}
    if problem := cuda_problem():
        report["GPU"] = f"cannot be used: {problem}"
    names = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if has_cuda() else []
    names += ["mps"] if torch.backends.mps.is_available() else []
    for name in names:
        device = choose_device(name)
        try:
            report[name] = device_name(device)
            if device.type == "cuda":
                major, minor = torch.cuda.get_device_capability(device)
                free, total = torch.cuda.mem_get_info(device)
                report[name] += f", {total / 2**30:.0f} GB, {free / 2**30:.0f} free, compute capability {major}.{minor}"
        except (RuntimeError, AssertionError) as error:
            report[name] = f"cannot be used: {first_line(error)}"
            continue
        for precision in PRECISIONS if check else ():
            begin = time.perf_counter()
            try:
                with device_errors():
                    found = fitness(device, precision, again=True)
            except DeviceError as error:  # it is lost for this program, and what others found is known
                found = known(device, precision) or Fitness(device=error.message)
            said = found.device or "; ".join(found.lines()) or "every way of computing agrees with the CPU"
            report[f"{name} {precision}"] = f"{said} ({time.perf_counter() - begin:.1f} s)"
    if check and not names:
        report["check"] = "there is no GPU to check"
    return report
