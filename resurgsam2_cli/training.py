"""The training loop with its files: state to resume from, a log that plots as it is, and the release."""

from __future__ import annotations

import csv
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model import NetworkConfig, ReSurgSAM2
from model.config import DEMO
from model.training.clips import Clip, SceneClips
from model.training.trainer import DETECTION_FRAMES, Recipe, Trainer, initialize
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
    """Sentences a clip; with none, single frames teach the image encoder alone."""
    tracked: int = 0
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


def clips_of(plan: TrainingPlan, step: int, rank: int = 0) -> Iterator[list[Clip]]:
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
                            (plan.seed, number, block, tracked, rank),
                            length=DETECTION_FRAMES + phase.tracked * tracked,
                            prompts=phase.prompts,
                            height=phase.image_size,
                            width=phase.image_size * 5 // 4,
                        )
                    )
                    for tracked in (False, True)
                }
            tracked = bool(phase.tracked) and int(at * phase.tracked_share) != int((at + 1) * phase.tracked_share)
            yield [next(streams[tracked]) for _ in range(phase.batch)]


_SCENES_KEPT_FOR = 50
"""Steps after which the open scenes are dropped. Training is saved at such steps only, so that a resumed one sees
what it would have seen."""

DEMO_PLAN = TrainingPlan(
    DEMO,
    (
        # What things look like, then what the words mean, on small pictures: at a quarter of the work.
        Phase(steps=3000, image_size=128, batch=8, prompts=0),
        Phase(steps=6000, image_size=128, batch=4, prompts=5, tracked=3, tracked_share=0.3),
        Phase(steps=2000, image_size=256, batch=2, prompts=5, tracked=4),
    ),
    Recipe(
        steps=11000,
        learning_rate=1e-3,
        fusion_learning_rate=1e-3,
        layer_decay=1.0,
        warm_up=0.02,
        end=0.03,
        weight_decay=0.05,
        gradient_clip=1.0,
        train_text=True,
        true_conditioning=0.5,
        dense=0.5,
    ),
)
"""From nothing to the demo release, with two processes."""

Report = Callable[[int, dict[str, float], float], Any]
"""Is told step, losses and seconds."""


class _Team:
    """The processes that train together: each renders clips of its own, and gradients are averaged."""

    def __init__(self, rank: int, size: int, meeting: Path | None) -> None:
        self.rank, self.size = rank, size
        if meeting is not None:
            torch.distributed.init_process_group(
                "gloo", init_method=meeting.absolute().as_uri(), rank=rank, world_size=size
            )

    def average(self, parameters: list[nn.Parameter]) -> None:
        """Replace gradients by their mean; which parameters have one is the same everywhere."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.size
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def agree(self, over: bool) -> bool:
        """Whether the first process says that it is over."""
        if self.size == 1:
            return over
        said = torch.tensor(int(over))
        torch.distributed.broadcast(said, 0)
        return bool(said)


def train(
    plan: TrainingPlan,
    folder: Path,
    *,
    start: Path | None = None,
    processes: int = 1,
    save_every: int = 100,
    report: Report = lambda *_: None,
    until: float | None = None,
) -> Path:
    """Train into ``folder``, going on from what is there; returns the release.

    ``start`` are weights to begin with. With several ``processes``, each step has so many times the clips. ``until``
    is a time (as of ``time.monotonic``) at which to save and stop. The weights are the same whether or not a
    training was interrupted, as long as the number of processes is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if processes == 1:
        _train(plan, folder, start, _Team(0, 1, None), save_every, report, until)
        return folder / RELEASE
    meeting = folder / "meeting.tmp"
    meeting.unlink(missing_ok=True)
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    context = torch.multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_join, args=(plan, folder, start, rank, processes, meeting), daemon=True)
        for rank in range(1, processes)
    ]
    for process in others:
        process.start()
    try:
        _train(plan, folder, start, _Team(0, processes, meeting), save_every, report, until)
        for process in others:
            process.join()
    finally:
        torch.distributed.destroy_process_group()
        meeting.unlink(missing_ok=True)
    return folder / RELEASE


def _join(plan: TrainingPlan, folder: Path, start: Path | None, rank: int, size: int, meeting: Path) -> None:
    """The other processes of a training: they neither save nor report."""
    torch.set_num_threads(max(1, torch.get_num_threads() // size))
    _train(plan, folder, start, _Team(rank, size, meeting), 0, lambda *_: None, None)


def _train(
    plan: TrainingPlan,
    folder: Path,
    start: Path | None,
    team: _Team,
    save_every: int,
    report: Report,
    until: float | None,
) -> None:
    torch.manual_seed(plan.seed)
    torch.set_flush_denormal(True)  # moments of words that are never seen would slow the optimizer down
    network = ReSurgSAM2(plan.config)
    initialize(network, plan.seed)
    if start is not None:
        checkpoint = read_checkpoint(start)
        if dataclasses.replace(checkpoint.config, image_size=plan.config.image_size) != plan.config:
            raise UsageError(f"{start}: is of another configuration than the one to be trained", "leave --start out")
        network.load_state_dict({k: x.float() for k, x in checkpoint.tensors.items()})
    trainer = Trainer(
        network,
        plan.recipe,
        seed=plan.seed * 1000 + team.rank,
        average=team.average if team.size > 1 else None,
    )
    if (folder / STATE).exists():
        trainer.load_state_dict(torch.load(folder / STATE, weights_only=True))
    first = team.rank == 0
    with (folder / LOG).open("a", newline="") if first else nullcontext() as file:
        log = None if file is None else csv.writer(file)
        for clips in clips_of(plan, trainer.step, team.rank):
            begin = time.perf_counter()
            phase = _phase(plan, trainer.step)
            network.config = dataclasses.replace(plan.config, image_size=phase.image_size)
            losses = trainer.train_step(clips)
            seconds = time.perf_counter() - begin
            if log is not None and file is not None:
                if file.tell() == 0:
                    log.writerow(["step", "frames", *losses, "seconds"])
                values = [f"{x:.5f}" for x in losses.values()]
                log.writerow([trainer.step, len(clips[0].frames), *values, f"{seconds:.3f}"])
                report(trainer.step, losses, seconds)
            if trainer.step % _SCENES_KEPT_FOR == 0:
                over = team.agree(until is not None and time.monotonic() > until)
                if first and (over or trainer.step % save_every == 0):
                    if file is not None:
                        file.flush()
                    save(plan, trainer, folder)
                if over:
                    return
    if first:
        save(plan, trainer, folder)


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
