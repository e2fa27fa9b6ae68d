"""The training loop with its files: state to resume from, logs and curves, and the release."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model import NetworkConfig, ReSurgSAM2
from model.config import DEMO
from model.training.clips import Clip, SceneClips
from model.training.trainer import DETECTION_FRAMES, Recipe, Trainer, initialize
from resurgsam2_cli.curves import draw_curves
from resurgsam2_cli.datasets import AnnotatedVideo, FolderClips, annotated_videos
from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.validation import Example, annotated, mean_scores, rendered
from weights.loader import load_into, save_release

STATE = "state.pt"
LOG = "log.csv"
VALIDATION = "validation.csv"
CURVES = "curves.png"
RELEASE = "release.safetensors"
_FRAMES = "frames"


@dataclass(frozen=True)
class Phase:
    """A stretch of training on clips of one kind."""

    steps: int
    image_size: int
    batch: int
    """Clips a step."""
    prompts: int
    """Sentences a clip."""
    stills: int = 0
    """Single frames of rendered scenes a step, which teach the image encoder alone: what things look like is learned
    from many pictures, of which the frames of a clip are one."""
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
    data: Path | None = None
    """A data set or a folder of runs; without, rendered scenes."""
    start: Path | None = None
    """Weights to begin with; without, random ones."""
    clip_weights: Path | None = None
    """CLIP's text tower, where ``start`` has none."""


@dataclass(frozen=True)
class Conduct:
    """What decides how long a training takes, and what is seen of it."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    autocast: torch.dtype | None = None
    processes: int = 1
    """Each step has so many times the clips of its phase."""
    save_every: int = 100
    until: float | None = None
    """A time (as of ``time.monotonic``) at which to save and stop."""
    validate_every: int = 0
    """Steps; 0 for never."""
    validation: Path | None = None
    """A data set or a folder of runs; without, a few rendered scenes."""
    validation_frames: int = 60
    """Of each video."""


_SCENES_KEPT_FOR = 50
"""Steps after which the open scenes are dropped. Training is saved at such steps only, so that a resumed one sees
what it would have seen."""

_VALIDATION_SEEDS = range(500, 506)


def clips_of(
    plan: TrainingPlan, step: int, rank: int = 0, videos: Sequence[AnnotatedVideo] = ()
) -> Iterator[tuple[list[Clip], list[Clip]]]:
    """The clips and stills of each step from ``step`` on.

    Those before are not rendered, as each block of steps has its own seed.
    """
    end = 0
    for number, phase in enumerate(plan.phases):
        begin, end = end, end + phase.steps
        streams: list[Iterator[Clip]] = []
        for at in range(max(begin, step), end):
            if not streams or (at - begin) % _SCENES_KEPT_FOR == 0:
                key = (plan.seed, number, (at - begin) // _SCENES_KEPT_FOR, rank)
                streams = [
                    _stream(phase, DETECTION_FRAMES, phase.prompts, (*key, 0), videos),
                    _stream(phase, DETECTION_FRAMES + phase.tracked, phase.prompts, (*key, 1), videos),
                    _stream(phase, 1, 0, (*key, 2), ()),
                ]
            detected, tracked, stills = streams
            tracks = phase.tracked and int(at * phase.tracked_share) != int((at + 1) * phase.tracked_share)
            clips = tracked if tracks else detected
            yield [next(clips) for _ in range(phase.batch)], [next(stills) for _ in range(phase.stills)]


def _stream(
    phase: Phase, length: int, prompts: int, seed: tuple[int, ...], videos: Sequence[AnnotatedVideo]
) -> Iterator[Clip]:
    if videos:
        return iter(FolderClips(videos, seed, length=length, prompts=prompts))
    height, width = phase.image_size, phase.image_size * 5 // 4
    return iter(SceneClips(seed, length=length, prompts=prompts, height=height, width=width))


DEMO_PLAN = TrainingPlan(
    DEMO,
    (
        # What things look like, then what the words mean, on small pictures: at a quarter of the work.
        Phase(steps=3000, image_size=128, batch=0, prompts=0, stills=24),
        Phase(steps=3000, image_size=128, batch=4, prompts=5, tracked=3, tracked_share=0.3),
        Phase(steps=900, image_size=256, batch=2, prompts=5, tracked=4),
        Phase(steps=800, image_size=256, batch=2, prompts=5, stills=8, tracked=4, tracked_share=0.3),
    ),
    Recipe(
        steps=8300,
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
"""From nothing, on rendered scenes, with two processes."""

REFINING_PLAN = TrainingPlan(
    DEMO,
    # What is not there, and kinds that look alike, are what a first training confuses.
    (Phase(steps=2200, image_size=256, batch=2, prompts=6, stills=12, tracked=4, tracked_share=0.2),),
    replace(DEMO_PLAN.recipe, steps=2200, learning_rate=5e-4, fusion_learning_rate=5e-4, warm_up=0.05),
)
"""From the release of :data:`DEMO_PLAN` to the bundled one."""


class _Team:
    """The processes that train together: each has clips of its own, and gradients are averaged."""

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


Report = Callable[[int, dict[str, float], float], Any]
"""Is told step, losses and seconds; after a validation, "J&F" alone."""


def train(plan: TrainingPlan, folder: Path, conduct: Conduct | None = None, report: Report = lambda *_: None) -> Path:
    """Train into ``folder``, going on from what is there; returns the release.

    On a CPU the weights are the same whether or not a training was interrupted, as long as the number of processes
    is. Raises a :class:`~resurgsam2_cli.errors.UserError` for data that cannot be used.
    """
    conduct = conduct or Conduct()
    folder.mkdir(parents=True, exist_ok=True)
    size = conduct.processes
    if size == 1:
        _train(plan, folder, conduct, _Team(0, 1, None), report)
        return folder / RELEASE
    if plan.data is not None:
        annotated_videos(plan.data, folder / _FRAMES)  # frames are extracted once, and errors are shown once
    meeting = folder / "meeting.tmp"
    meeting.unlink(missing_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // size))
    context = torch.multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_join, args=(plan, folder, conduct, rank, meeting), daemon=True)
        for rank in range(1, size)
    ]
    for process in others:
        process.start()
    try:
        _train(plan, folder, conduct, _Team(0, size, meeting), report)
        for process in others:
            process.join()
    finally:
        torch.distributed.destroy_process_group()
        torch.set_num_threads(threads)
        meeting.unlink(missing_ok=True)
    return folder / RELEASE


def _join(plan: TrainingPlan, folder: Path, conduct: Conduct, rank: int, meeting: Path) -> None:
    """The other processes of a training: they neither save nor report."""
    torch.set_num_threads(max(1, torch.get_num_threads() // conduct.processes))
    _train(plan, folder, conduct, _Team(rank, conduct.processes, meeting), lambda *_: None)


def _train(plan: TrainingPlan, folder: Path, conduct: Conduct, team: _Team, report: Report) -> None:
    torch.manual_seed(plan.seed)
    torch.set_flush_denormal(True)  # moments of words that are never seen would slow the optimizer down
    network = ReSurgSAM2(plan.config)
    initialize(network, plan.seed)
    if plan.start is not None:
        load_into(network, plan.start, plan.clip_weights)
    trainer = Trainer(
        network.to(conduct.device),
        plan.recipe,
        seed=plan.seed * 1000 + team.rank,
        autocast=conduct.autocast,
        average=team.average if team.size > 1 else None,
    )
    if (folder / STATE).exists():
        _take_up(trainer, plan, folder / STATE)
    videos = annotated_videos(plan.data, folder / _FRAMES) if plan.data is not None else []
    first = team.rank == 0
    examples = _examples(folder, conduct) if first else []
    with _Log(folder, trainer.step) if first else nullcontext() as log:
        for clips, stills in clips_of(plan, trainer.step, team.rank, videos):
            begin = time.perf_counter()
            network.config = replace(plan.config, image_size=_phase(plan, trainer.step).image_size)
            losses = trainer.train_step(clips, stills)
            seconds = time.perf_counter() - begin
            if log is not None:
                log.add(trainer.step, len(clips[0].frames) if clips else 1, losses, seconds)
                report(trainer.step, losses, seconds)
                if examples and trainer.step % conduct.validate_every == 0 and clips:
                    report(trainer.step, {"J&F": log.validate(trainer, examples)}, 0.0)
            if trainer.step % _SCENES_KEPT_FOR == 0:
                over = team.agree(conduct.until is not None and time.monotonic() > conduct.until)
                if first and (over or trainer.step % conduct.save_every == 0):
                    save(plan, trainer, folder)
                if over:
                    return
    if first:
        save(plan, trainer, folder)


def _take_up(trainer: Trainer, plan: TrainingPlan, path: Path) -> None:
    state = torch.load(path, weights_only=True, map_location=trainer.network.device)
    try:
        trainer.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"{path}: is of another training ({str(error).splitlines()[0]})", "choose another folder with --out"
        ) from error


def _examples(folder: Path, conduct: Conduct) -> list[Example]:
    if not conduct.validate_every:
        return []
    if conduct.validation is None:
        return rendered(_VALIDATION_SEEDS, conduct.validation_frames)
    return annotated(conduct.validation, folder / _FRAMES, conduct.validation_frames)


class _Log:
    """Two tables that grow: losses of each step, and scores now and then."""

    def __init__(self, folder: Path, step: int) -> None:
        self._folder, self._step = folder, step

    def __enter__(self) -> _Log:
        for name in (LOG, VALIDATION):
            _cut(self._folder / name, self._step)
        self._losses = (self._folder / LOG).open("a", newline="", buffering=1)
        return self

    def __exit__(self, *_: object) -> None:
        self._losses.close()

    def add(self, step: int, frames: int, losses: dict[str, float], seconds: float) -> None:
        """A line a step."""
        table = csv.writer(self._losses)
        if self._losses.tell() == 0:
            table.writerow(["step", "frames", *losses, "seconds"])
        table.writerow([step, frames, *(f"{x:.5f}" for x in losses.values()), f"{seconds:.3f}"])

    def validate(self, trainer: Trainer, examples: list[Example]) -> float:
        """Measure, add a line, and draw the curves; gives J&F."""
        j, f = mean_scores(trainer.network, examples)
        with (self._folder / VALIDATION).open("a", newline="") as file:
            table = csv.writer(file)
            if file.tell() == 0:
                table.writerow(["step", "J&F", "J", "F"])
            table.writerow([trainer.step, *(f"{x:.3f}" for x in ((j + f) / 2, j, f))])
        draw_curves(self._folder / LOG, self._folder / VALIDATION, self._folder / CURVES)
        return (j + f) / 2


def _cut(path: Path, step: int) -> None:
    """Drop the lines after ``step``: training was stopped hard, and they will come again."""
    if path.exists():
        head, *lines = path.read_text().splitlines(keepends=True) or [""]
        kept = [line for line in lines if int(line.split(",")[0]) <= step]
        if len(kept) < len(lines):
            path.write_text("".join([head, *kept]))


def _phase(plan: TrainingPlan, step: int) -> Phase:
    for phase in plan.phases:
        if step < phase.steps:
            return phase
        step -= phase.steps
    return plan.phases[-1]


def save(plan: TrainingPlan, trainer: Trainer, folder: Path) -> None:
    """Write state, release and curves; each is whole or the one before."""
    partial = folder / (STATE + ".partial")
    torch.save(trainer.state_dict(), partial)
    os.replace(partial, folder / STATE)
    partial = folder / (RELEASE + ".partial")
    tensors = {key: x.half().cpu() for key, x in trainer.network.state_dict().items()}
    config = replace(plan.config, image_size=trainer.network.config.image_size)
    save_release(partial, config, tensors, steps=trainer.step)
    os.replace(partial, folder / RELEASE)
    draw_curves(folder / LOG, folder / VALIDATION, folder / CURVES)
