"""The training loop: from a plan to a release, in a folder from which it can be resumed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch
from torch import nn

from model import ReSurgSAM2
from model.precision import exact_products
from model.room import computes
from model.training.trainer import DETECTION_FRAMES, Trainer, initialize
from resurgsam2_cli.errors import OutputError, UserError
from resurgsam2_cli.process.interruption import Interrupted, starting_workers, uninterrupted
from resurgsam2_cli.training.data import AnnotatedVideo, annotated_videos, check_lengths, summary
from resurgsam2_cli.training.folder import FRAMES, Log, Report, TrainingFolder
from resurgsam2_cli.training.plan import Phase, TrainingPlan, clips_of
from resurgsam2_cli.training.validation import Example, annotated, mean_scores, rendered
from weights.loader import load_into

_VALIDATION_SEEDS = range(500, 506)


@dataclass(frozen=True)
class Conduct:
    """What decides how long a training takes and what it reports."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    autocast: torch.dtype | None = None
    processes: int = 1
    """Each step has this many times the clips of its phase."""
    save_seconds: float = 120.0
    """At most so much time is lost by a kill; an interrupted training is saved as it ends."""
    until: float | None = None
    """A time (as of ``time.monotonic``) at which to save and stop."""
    validate_every: int = 0
    """Steps between validations; 0 for none."""
    validation: Path | None = None
    """A data set or a folder of runs; None for a few rendered scenes."""
    sources: Path | None = None
    """The folder where the videos of runs are now, in data and validation; None if they are where they were."""
    validation_frames: int = 60
    """At most this many of each video."""


@dataclass(frozen=True)
class Told:
    """Who is told how a training goes."""

    report: Report = lambda *_: None
    """Called after each step and validation."""
    note: Callable[[str], object] = lambda _: None
    """Called with lines for people."""


_Data = tuple[Sequence[AnnotatedVideo], Sequence[Example]]
"""To train on, none for rendered scenes; and to validate on."""


class _Team:
    """The processes that train together: each has clips of its own, and they average their gradients."""

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
        """Whether the first process says that the training is over."""
        if self.size == 1:
            return over
        answer = torch.tensor(int(over))
        torch.distributed.broadcast(answer, 0)
        return bool(answer)


def train(
    plan: TrainingPlan,
    path: Path,
    conduct: Conduct | None = None,
    report: Report = lambda *_: None,
    *,
    overwrite: bool = False,
    note: Callable[[str], object] = lambda _: None,
) -> Path:
    """Train into the folder ``path``, resuming what is there; returns the release.

    On a CPU the weights are the same whether or not a training was interrupted. Raises a
    :class:`~resurgsam2_cli.errors.UserError` for data that cannot be used, for a folder in which another training
    runs, and for one whose training has another plan. With ``overwrite``, such a training starts anew, once all that
    the new one needs was read. ``note`` is told in a line each what the data are, and what is left out.
    """
    conduct = conduct or Conduct()
    with TrainingFolder(path) as folder:
        folder.begin(overwrite=overwrite)
        # Extract frames before other processes start, so that it happens once and errors are shown once.
        cache = folder.path / FRAMES
        videos = annotated_videos(plan.data, cache, conduct.sources) if plan.data is not None else []
        examples = _examples(cache, conduct)
        if videos:
            note(summary(videos))
        for name, used in (("data", videos), ("validation", examples)):
            if left_out := sum(x.left_out for x in used):
                note(f"{left_out} frame{'s' * (left_out > 1)} of the {name} left out: without a label image in masks/")
        record = plan.record(videos, conduct.processes)
        if folder.replaces:
            _check(plan, conduct, (videos, examples))
            folder.discard()
        folder.agree(record)
        if conduct.processes == 1:
            _train(plan, folder, conduct, _Team(0, 1, None), (videos, examples), Told(report, note))
        else:
            _train_together(plan, folder, conduct, (videos, examples), Told(report, note))
        return folder.release


def _check(plan: TrainingPlan, conduct: Conduct, data: _Data) -> None:
    """Read all that a training would: what is wrong is to be found before an earlier training makes way for it."""
    videos, examples = data
    network = ReSurgSAM2(plan.config)
    if plan.start is not None:
        load_into(network, plan.start, plan.clip_weights)
    for phase in plan.phases if videos else ():
        if phase.steps:
            check_lengths(videos, DETECTION_FRAMES + phase.tracked)
    for video in videos:
        for index in range(len(video.frames)):
            video.read(index)
    for example in examples if conduct.validation is not None else ():
        for _ in example.frames():
            pass


def _train_together(plan: TrainingPlan, folder: TrainingFolder, conduct: Conduct, data: _Data, told: Told) -> None:
    """Train in as many processes as ``conduct`` says; this one saves and reports."""
    size = conduct.processes
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // size))
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="resurgsam2-") as place:
        meeting = Path(place) / "meeting"
        with starting_workers():  # its locks are tidied up by a process of their own
            errors: SimpleQueue[UserError] = context.SimpleQueue()
        others = [
            context.Process(target=_join, args=(plan, folder, conduct, rank, meeting, data[0], errors), daemon=True)
            for rank in range(1, size)
        ]
        try:
            with starting_workers():
                for process in others:
                    process.start()
            try:
                _train(plan, folder, conduct, _Team(0, size, meeting), data, told)
            except RuntimeError as error:  # what torch says if another process has ended
                if errors.empty():
                    raise
                raise errors.get() from error
            for process in others:
                process.join()
        except BaseException:
            for process in others:  # before they notice that this one does not answer any more
                if process.is_alive():
                    process.kill()
            raise
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            torch.set_num_threads(threads)


def _join(
    plan: TrainingPlan,
    folder: TrainingFolder,
    conduct: Conduct,
    rank: int,
    meeting: Path,
    videos: Sequence[AnnotatedVideo],
    errors: SimpleQueue[UserError],
) -> None:
    """The other processes of a training: they neither save nor report, and hand their errors to the first."""
    torch.set_num_threads(max(1, torch.get_num_threads() // conduct.processes))
    try:
        _train(plan, folder, conduct, _Team(rank, conduct.processes, meeting), (videos, []), Told())
    except UserError as error:
        errors.put(error)


def _train(
    plan: TrainingPlan,
    folder: TrainingFolder,
    conduct: Conduct,
    team: _Team,
    data: _Data,
    told: Told,
) -> None:
    torch.manual_seed(plan.seed)
    torch.set_flush_denormal(True)  # moments of words that are never seen would slow the optimizer down
    network = ReSurgSAM2(plan.config)
    initialize(network, plan.seed)
    if plan.start is not None:
        load_into(network, plan.start, plan.clip_weights)
    logged = ExitStack()  # from when a step changes the weights until its line is in the log, nothing interrupts

    def before_change() -> None:
        saver.whole = False
        logged.enter_context(uninterrupted())

    trainer = Trainer(
        network.to(conduct.device),
        plan.recipe,
        seed=plan.seed * 1000 + team.rank,
        autocast=conduct.autocast,
        average=team.average if team.size > 1 else None,
        before_change=before_change,
    )
    folder.take_up(trainer)
    saver = _Saver(plan, folder, trainer, conduct.save_seconds, told)
    first = team.rank == 0
    steps = sum(x.steps for x in plan.phases)
    if trainer.step:
        told.note(f"all {steps:,} steps are done" if trainer.step == steps else f"resuming after step {trainer.step:,}")
    videos, examples = data
    with (
        exact_products(),
        Log(folder.path, trainer.step) if first else nullcontext() as log,
        saver if first else nullcontext(),
    ):
        for clips, stills, lesson in clips_of(plan, trainer.step, team.rank, videos):
            begin = time.perf_counter()
            phase = _phase(plan, trainer.step)
            network.config = replace(plan.config, image_size=phase.image_size)
            trainer.learn_only(phase.learns)
            with logged:
                try:
                    losses = trainer.train_step(clips, stills, lesson)
                except FloatingPointError as error:
                    raise UserError(
                        f"the training does not converge: {error}",
                        "begin anew with a lower --learning-rate: add --overwrite, or choose another folder with -o",
                    ) from error
                seconds = time.perf_counter() - begin
                if log is not None:
                    log.add(trainer.step, len(clips[0].frames) if clips else 1, losses, seconds)
                saver.whole = True
            if log is not None:
                told.report(trainer.step, losses, seconds)
                if examples and trainer.step % conduct.validate_every == 0 and clips:
                    score = log.add_validation(trainer.step, *mean_scores(network, examples))
                    told.report(trainer.step, {"J&F": score}, 0.0)
                saver.save_if_due()
            if team.agree(conduct.until is not None and time.monotonic() > conduct.until):
                if trainer.step < steps:
                    told.note(f"the time is up after step {trainer.step:,} of {steps:,}: the same command goes on")
                return


class _Saver:
    """Saves a training now and then, and when it ends: also if somebody interrupts it, or a step fails."""

    def __init__(self, plan: TrainingPlan, folder: TrainingFolder, trainer: Trainer, every: float, told: Told) -> None:
        self._plan, self._folder, self._trainer, self._every, self._told = plan, folder, trainer, every, told
        self._saved, self._at = trainer.step, time.monotonic()
        self.whole = True
        """Whether the weights are those of a step, and not of half of one."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        interrupted = isinstance(error, Interrupted)
        diverged = error is not None and isinstance(error.__cause__, FloatingPointError)  # again if it were resumed
        failed = isinstance(error, Exception) and not isinstance(error, OutputError) and not diverged
        keeps = interrupted or (failed and self.whole and computes(self._trainer.network.device))
        if kind is None or (keeps and self._trainer.step > self._saved):
            self._save()
        if keeps and self._saved:
            self._told.note(f"saved after step {self._saved:,}: the same command resumes there")

    def save_if_due(self) -> None:
        """Save if it is time for it."""
        if time.monotonic() - self._at >= self._every:
            self._save()

    def _save(self) -> None:
        self._folder.save(self._plan, self._trainer)
        self._saved, self._at = self._trainer.step, time.monotonic()


def _examples(cache: Path, conduct: Conduct) -> list[Example]:
    if not conduct.validate_every:
        return []
    if conduct.validation is None:
        return rendered(_VALIDATION_SEEDS, conduct.validation_frames)
    return annotated(conduct.validation, cache, conduct.validation_frames, conduct.sources)


def _phase(plan: TrainingPlan, step: int) -> Phase:
    for phase in plan.phases:
        if step < phase.steps:
            return phase
        step -= phase.steps
    return plan.phases[-1]
