"""``resurgsam2 train``: from rendered scenes, a data set, or runs, to a single-file release."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resurgsam2_cli.commands import options as shared
from resurgsam2_cli.errors import UsageError, weights_errors

if TYPE_CHECKING:
    from resurgsam2_cli.training.plan import TrainingPlan

_REPORT_EVERY, _REPORT_SECONDS = 20, 10.0
"""A line is printed after so many steps, or so much time."""

_DATA = "Data"
_RECIPE = "Recipe (for --data; published values by default)"
_CONDUCT = "How it is run"


def train(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for state, logs and release; a training there is resumed.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="A data set in the layout of Ref-EndoVis, or a folder of runs; by default, endless rendered scenes.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(
            help="Data of the same kinds to validate on; by default, a few rendered scenes.", rich_help_panel=_DATA
        ),
    ] = None,
    sources: Annotated[
        Path | None,
        typer.Option(help=f"For runs: {shared.MOVED[0].lower()}{shared.MOVED[1:]}", rich_help_panel=_DATA),
    ] = None,
    validate_every: Annotated[
        int, typer.Option(min=0, help="Steps between validations; 0 for none.", rich_help_panel=_DATA)
    ] = 500,
    start: Annotated[
        str | None,
        typer.Option(
            help="Weights to begin with: a name of 'weights list', a release, or a SAM 2.1 checkpoint.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    clip_weights: Annotated[
        Path | None, typer.Option(help="A file with CLIP's text tower, if --start has none.", rich_help_panel=_RECIPE)
    ] = None,
    configuration: Annotated[
        str | None,
        typer.Option(
            help="The network to train from scratch: demo or hiera-small (default demo).", rich_help_panel=_RECIPE
        ),
    ] = None,
    detection_steps: Annotated[
        int, typer.Option(min=0, help="Steps that train detection alone.", rich_help_panel=_RECIPE)
    ] = 5000,
    tracking_steps: Annotated[
        int, typer.Option(min=0, help="Steps after these, half of which also train tracking.", rich_help_panel=_RECIPE)
    ] = 5000,
    count_tracked: Annotated[
        int, typer.Option(min=1, help="Frames of each clip that are tracked.", rich_help_panel=_RECIPE)
    ] = 7,
    count_clips: Annotated[int, typer.Option(min=1, help="Clips per step and process.", rich_help_panel=_RECIPE)] = 1,
    count_prompts: Annotated[int, typer.Option(min=1, help="Sentences per clip.", rich_help_panel=_RECIPE)] = 4,
    learning_rate: Annotated[
        float, typer.Option(min=0, help="Learning rate of the parts that SAM 2.1 has, too.", rich_help_panel=_RECIPE)
    ] = 5e-5,
    fusion_learning_rate: Annotated[
        float, typer.Option(min=0, help="Learning rate of the text projection and CSTMamba.", rich_help_panel=_RECIPE)
    ] = 3e-4,
    train_text: Annotated[
        bool | None,
        typer.Option(
            "--train-text/--freeze-text",
            help="Train the text encoder, too, or leave it as it is; by default, only if training starts from scratch.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    pointing: Annotated[
        bool,
        typer.Option(
            "--pointing",
            help="Teach a release of the demo's kind, named by --start, to be pointed at (3400 steps on scenes).",
            rich_help_panel=_RECIPE,
        ),
    ] = False,
    device: Annotated[
        str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1 or mps.", rich_help_panel=_CONDUCT)
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(help="Number format of the network: auto (bf16 on CUDA), fp32 or bf16.", rich_help_panel=_CONDUCT),
    ] = "auto",
    processes: Annotated[
        int, typer.Option(min=1, help="How many processes train together, on a CPU.", rich_help_panel=_CONDUCT)
    ] = 1,
    time_limit: Annotated[
        str | None,
        typer.Option("--time", help="Save and stop after this time: 90s, 30m, 1.5h.", rich_help_panel=_CONDUCT),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the first weights and of the choice of clips.", rich_help_panel=_CONDUCT)
    ] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew in the folder of a training.", rich_help_panel=_CONDUCT)
    ] = False,
    quiet: shared.Quiet = False,
    as_json: shared.AsJson = False,
    verbose: shared.Verbose = False,
) -> None:
    """Train, or fine-tune on your own videos.

    Run the same command again to resume; once a state is saved, other options or data are refused. The folder
    gets release.safetensors, which --weights takes; state.pt to resume from; log.csv with the losses of each step,
    validation.csv with J&F, and curves.png of both.

    Without --data, it trains the demo network on an endless stream of rendered scenes, as the bundled release was
    made: from scratch, or with --start from a release of its kind.

    Examples

      resurgsam2 train -o trained --data Ref-EndoVis18/train --validation Ref-EndoVis18/valid --start sam2.1.pt

      resurgsam2 train -o tuned --data runs/ --start resurgsam2-ref-endovis18 --detection-steps 500 --tracking-steps 500

      resurgsam2 train -o demo --processes 2

      resurgsam2 train -o better --start demo --seed 1 --processes 2
    """
    import torch

    from model.fused import without
    from resurgsam2_cli.segmenting.checked import usable
    from resurgsam2_cli.segmenting.engine import choose_device, choose_precision, device_errors
    from resurgsam2_cli.training.loop import Conduct
    from resurgsam2_cli.training.loop import train as run
    from resurgsam2_cli.training.plan import DEMO_PLAN, POINTING_PLAN, Phase

    if sources is not None and data is None and validation is None:
        raise UsageError("--sources is for runs in --data and --validation", "leave it out")
    chosen = choose_device(device)
    choose_precision(precision, chosen)  # a wrong one is said before the device is tried
    if precision == "fp16":
        raise UsageError("fp16 is not for training", "use --precision fp32, or bf16 if the card has it")
    if processes > 1 and chosen.type != "cpu":
        raise UsageError(f"--processes {processes} is for the CPU", "leave it out, or add --device cpu")
    with device_errors():
        fit = usable(chosen, "fp32", asked=device)
    kind = choose_precision(precision, fit.device)
    lines = list(fit.lines if fit.device != chosen else ())
    if kind == "fp16":
        kind = "fp32"
        lines.append("the training is in float32: this GPU has no bfloat16, and float16 is not for training")
    for line in () if quiet else lines:
        typer.echo(f"resurgsam2: {line}", err=True)
    less = "give it fewer or shorter clips (--count-clips, --count-prompts, --count-tracked), or use --device cpu"
    with weights_errors(), without(fit.off), device_errors(less):
        plan = _plan_start(seed, start, clip_weights, configuration)
        if pointing:
            if start is None or data is not None:
                raise UsageError("--pointing refines a release on rendered scenes", "add --start, and leave --data out")
            plan = replace(POINTING_PLAN, seed=seed, start=plan.start, config=replace(plan.config, pointing=True))
        if data is not None:
            from model.training.trainer import Recipe

            size = plan.config.image_size
            plan = replace(
                plan,
                data=data,
                phases=(
                    Phase(detection_steps, size, count_clips, count_prompts),
                    Phase(tracking_steps, size, count_clips, count_prompts, tracked=count_tracked),
                ),
                recipe=Recipe(
                    steps=detection_steps + tracking_steps,
                    learning_rate=learning_rate,
                    fusion_learning_rate=fusion_learning_rate,
                    train_text=train_text if train_text is not None else start is None,
                ),
            )
        elif replace(plan.config, image_size=DEMO_PLAN.config.image_size, pointing=False) != DEMO_PLAN.config:
            raise UsageError("rendered scenes are for the demo configuration", "give --data to train another one")
        conduct = Conduct(
            fit.device,
            torch.bfloat16 if kind == "bf16" else None,
            processes,
            until=None if time_limit is None else time.monotonic() + _seconds(time_limit),
            validate_every=validate_every,
            validation=validation,
            sources=sources,
        )
        report = (lambda *_: None) if quiet or as_json else _Reporter(sum(x.steps for x in plan.phases)).report
        note = (lambda _: None) if quiet else (lambda text: typer.echo(text, err=True))
        release = run(plan, out, conduct, report, overwrite=overwrite, note=note)
    if as_json:
        typer.echo(json.dumps({"release": str(release.absolute())}))
    elif not quiet:
        typer.echo(str(release.absolute()))


def _plan_start(seed: int, start: str | None, clip_weights: Path | None, configuration: str | None) -> TrainingPlan:
    """The demo's plans, with the configuration and weights that were asked for. Raises ``WeightsError``."""
    from model.config import CONFIGURATIONS, HIERA_SMALL
    from resurgsam2_cli.training.plan import DEMO_PLAN, REFINING_PLAN
    from weights.loader import read_checkpoint
    from weights.store import resolve

    if start is not None:
        _, path, clip = resolve(start, clip_weights)
        config = read_checkpoint(path).config
        if not config.words:  # SAM 2.1's own: ReSurgSAM2 was trained from these, on smaller pictures
            config = replace(config, words=True, image_size=HIERA_SMALL.image_size)
        return replace(REFINING_PLAN, seed=seed, start=path, clip_weights=clip, config=config)
    if configuration is not None and configuration not in CONFIGURATIONS:
        raise UsageError(f"unknown configuration {configuration!r}", f"use {' or '.join(CONFIGURATIONS)}")
    # From scratch, words come first; --pointing is for a release that knows them.
    return replace(DEMO_PLAN, seed=seed, config=replace(CONFIGURATIONS[configuration or "demo"], pointing=False))


_UNITS = {"s": 1, "m": 60, "h": 3600}


def _seconds(text: str) -> float:
    """A length of time such as 90s, 30m or 1.5h."""
    number, unit = text[:-1], text[-1:]
    try:
        seconds = float(number) * _UNITS[unit]
    except (KeyError, ValueError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(f"--time {text!r} is not a length of time", "give a number and its unit: 90s, 30m, 1.5h")
    return seconds


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


class _Reporter:
    """Prints the mean losses, the time per step and the time left, every few steps or seconds."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._rows: list[dict[str, float]] = []
        self._printed = time.monotonic()

    def report(self, step: int, losses: dict[str, float], seconds: float) -> None:
        """Print the means, as a :data:`resurgsam2_cli.training.folder.Report`."""
        if "J&F" in losses:
            typer.echo(f"step {step}: validation J&F {losses['J&F']:.1f}", err=True)
            return
        self._rows.append({**losses, "seconds": seconds})
        if step % _REPORT_EVERY and time.monotonic() - self._printed < _REPORT_SECONDS:
            return
        means = {name: sum(row[name] for row in self._rows) / len(self._rows) for name in self._rows[0]}
        each = means.pop("seconds")
        said = "".join(f"{k} {v:.4f}, " for k, v in means.items() if v)
        left = f"{_duration((self._steps - step) * each)} left" if step < self._steps else "done"
        typer.echo(f"step {step:,} of {self._steps:,}: {said}{each:.2f} s per step, {left}", err=True)
        self._rows.clear()
        self._printed = time.monotonic()
