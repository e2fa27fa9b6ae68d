"""The training loop with its files: state to resume from, a log that plots as it is, and the release."""

from __future__ import annotations

import csv
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model import NetworkConfig, ReSurgSAM2
from model.config import DEMO
from model.training.clips import Clip, SceneClips
from model.training.trainer import Recipe, Trainer, initialize
from resurgsam2_cli.errors import UsageError
from weights.loader import read_checkpoint, save_release

STATE = "state.pt"
LOG = "log.csv"
RELEASE = "release.safetensors"


@dataclass(frozen=True)
class Phase:
    """A stretch of training on clips of one kind."""

    steps: int
    image_size: int
    batch: int
    """Clips a step."""
    prompts: int
    """Sentences a clip."""
    tracked: int
    """Frames of a clip after those for detection."""
    tracked_share: float = 0.5
    """How many of the steps have tracked frames at all."""


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that decides what a training gives, but the processor's rounding."""

    config: NetworkConfig
    phases: tuple[Phase, ...]
    recipe: Recipe
    seed: int = 0


def clips_of(plan: TrainingPlan, step: int) -> Iterator[list[Clip]]:
    """The batches from ``step`` on; those before are not rendered, as each block of steps has its own seed."""
    end = 0
    for number, phase in enumerate(plan.phases):
        begin, end = end, end + phase.steps
        streams: dict[bool, Iterator[Clip]] = {}
        for at in range(max(begin, step), end):
            if not streams or (at - begin) % _SCENES_KEPT_FOR == 0:
                block = (at - begin) // _SCENES_KEPT_FOR
                streams = {
                    tracked: iter(
                        SceneClips(
                            (plan.seed * 1000 + number * 100_003 + block) * 2 + tracked,
                            length=3 + phase.tracked * tracked,
                            prompts=phase.prompts,
                            height=phase.image_size,
                            width=phase.image_size * 5 // 4,
                        )
                    )
                    for tracked in (False, True)
                }
            tracked = int(at * phase.tracked_share) != int((at + 1) * phase.tracked_share)
            yield [next(streams[tracked]) for _ in range(phase.batch)]


_SCENES_KEPT_FOR = 50
"""Steps after which the open scenes are dropped. Training is saved at such steps only, so that a resumed one sees
what it would have seen."""

DEMO_PLAN = TrainingPlan(
    DEMO,
    (
        # Small pictures first: what the words mean is learned at a quarter of the work.
        Phase(steps=3500, image_size=128, batch=4, prompts=4, tracked=3, tracked_share=0.25),
        Phase(steps=20000, image_size=256, batch=2, prompts=4, tracked=4),
    ),
    Recipe(
        steps=4200,
        learning_rate=6e-4,
        fusion_learning_rate=6e-4,
        layer_decay=1.0,
        warm_up=0.04,
        weight_decay=0.05,
        gradient_clip=1.0,
        train_text=True,
        true_conditioning=0.5,
    ),
)
"""From nothing to the demo release."""


def train(
    plan: TrainingPlan,
    folder: Path,
    *,
    start: Path | None = None,
    save_every: int = 100,
    report: Callable[[int, dict[str, float], float], Any] = lambda *_: None,
    until: float | None = None,
) -> Path:
    """Train into ``folder``, going on from what is there; returns the release.

    ``start`` are weights to begin with. ``report`` is told step, losses and seconds. ``until`` is a time (as of
    ``time.monotonic``) at which to save and stop.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    network = ReSurgSAM2(plan.config)
    initialize(network, plan.seed)
    if start is not None:
        checkpoint = read_checkpoint(start)
        if dataclasses.replace(checkpoint.config, image_size=plan.config.image_size) != plan.config:
            raise UsageError(f"{start}: is of another configuration than the one to be trained", "leave --start out")
        network.load_state_dict({k: x.float() for k, x in checkpoint.tensors.items()})
    trainer = Trainer(network, plan.recipe, seed=plan.seed)
    if (folder / STATE).exists():
        trainer.load_state_dict(torch.load(folder / STATE, weights_only=True))
    with (folder / LOG).open("a", newline="") as file:
        log = csv.writer(file)
        for clips in clips_of(plan, trainer.step):
            begin = time.perf_counter()
            phase = _phase(plan, trainer.step)
            network.config = dataclasses.replace(plan.config, image_size=phase.image_size)
            losses = trainer.train_step(clips)
            seconds = time.perf_counter() - begin
            if file.tell() == 0:
                log.writerow(["step", "frames", *losses, "seconds"])
            values = [f"{x:.5f}" for x in losses.values()]
            log.writerow([trainer.step, len(clips[0].frames), *values, f"{seconds:.3f}"])
            report(trainer.step, losses, seconds)
            if trainer.step % _SCENES_KEPT_FOR == 0:
                over = until is not None and time.monotonic() > until
                if over or trainer.step % save_every == 0:
                    file.flush()
                    save(plan, trainer, folder)
                if over:
                    return folder / RELEASE
    save(plan, trainer, folder)
    return folder / RELEASE


def _phase(plan: TrainingPlan, step: int) -> Phase:
    for phase in plan.phases:
        if step < phase.steps:
            return phase
        step -= phase.steps
    return plan.phases[-1]


def save(plan: TrainingPlan, trainer: Trainer, folder: Path) -> None:
    """Write state and release; each is whole or the one before."""
    partial = folder / (STATE + ".partial")
    torch.save(trainer.state_dict(), partial)
    os.replace(partial, folder / STATE)
    partial = folder / (RELEASE + ".partial")
    tensors = {key: x.half() for key, x in trainer.network.state_dict().items()}
    save_release(partial, plan.config, tensors, steps=trainer.step)
    os.replace(partial, folder / RELEASE)
