"""The folder of a training: the plan, the state to resume from, logs, curves and the release."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model.room import out_of_memory
from model.training.trainer import Trainer
from resurgsam2_cli.errors import OutputError, UsageError, weights_errors
from resurgsam2_cli.files.atomic import replacing, write_json, writing
from resurgsam2_cli.files.filling import LOCK, TRASH, claim_folder, throw_away
from resurgsam2_cli.files.kinds import UNFINISHED, partial_name
from resurgsam2_cli.files.locks import Lock
from resurgsam2_cli.files.text import read_json
from resurgsam2_cli.training.curves import draw_curves
from resurgsam2_cli.training.data import is_extracted
from resurgsam2_cli.training.differing import differences
from resurgsam2_cli.training.plan import TrainingPlan
from weights.loader import check_finite, save_release
from weights.pickles import check_pickles

PLAN = "plan.json"
STATE = "state.pt"
LOG = "log.csv"
VALIDATION = "validation.csv"
CURVES = "curves.png"
RELEASE = "release.safetensors"
FRAMES = "frames"
_OURS = (PLAN, STATE, LOG, VALIDATION, CURVES, RELEASE, FRAMES)
_MADE_BY = "a training of resurgsam2"
_REMEDY = "choose another folder with -o, or add --overwrite to begin anew"

Report = Callable[[int, dict[str, float], float], Any]
"""Called with step, losses and seconds; after a validation, with "J&F" alone as the losses."""


class TrainingFolder:
    """A folder that one process trains in at a time. Leaving the block releases it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.replaces = False
        """Whether a training is there that :meth:`discard` is to remove."""
        self._lock: Lock | None = None

    def __enter__(self) -> TrainingFolder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __reduce__(self) -> tuple[type[TrainingFolder], tuple[Path]]:
        """A process that joins the training gets the folder without its lock."""
        return TrainingFolder, (self.path,)

    @property
    def release(self) -> Path:
        """The weights."""
        return self.path / RELEASE

    def begin(self, *, overwrite: bool) -> None:
        """Lock the folder. With ``overwrite``, a training that is there gives way at :meth:`discard`, and not before.

        Raises :class:`OutputError`.
        """
        self._lock = claim_folder(self.path)
        with writing(self.path):
            half = {partial_name(x) for x in _OURS}
            there = {x.name for x in self.path.iterdir()} - {UNFINISHED, LOCK, TRASH} - half
            if not there or (there == {FRAMES} and self._has_only_our_frames()):
                return
            if not self._is_ours():
                raise OutputError(
                    f"{self.path}: is not empty, and not the folder of a training", "choose another folder with -o"
                )
            self.replaces = overwrite

    def discard(self) -> None:
        """Remove the training that is there. Raises :class:`OutputError`."""
        with writing(self.path):
            for name in _OURS:  # the frames of runs are known by their content, and stay
                if name != FRAMES and (self.path / name).exists():
                    throw_away(self.path / name)
        self.replaces = False

    def _is_ours(self) -> bool:
        """Whether this is the folder of a training; older versions kept no plan."""
        if (self.path / PLAN).exists():
            remedy = "rename it, or choose another folder with -o"
            content = read_json(self.path / PLAN, remedy, unread=remedy)
            return isinstance(content, dict) and content.get("made_by") == _MADE_BY
        log = self.path / LOG
        return (self.path / STATE).is_file() and log.is_file() and log.read_bytes()[:5] == b"step,"

    def _has_only_our_frames(self) -> bool:
        """Whether nothing is there but frames of runs: a training failed before it had a plan."""
        return all(
            is_extracted(x) or x.name in (LOCK, TRASH) or (x / UNFINISHED).is_file()
            for x in (self.path / FRAMES).iterdir()
        )

    def agree(self, record: dict[str, Any]) -> None:
        """Record the plan of a new training; raise :class:`UsageError` if the folder's training has another one.

        A plan counts once there is a state: until then nothing was trained that another one could not begin with.
        """
        path = self.path / PLAN
        if path.exists() and (self.path / STATE).exists():
            before = read_json(path, _REMEDY, unread=_REMEDY)
            if found := differences(before.get("plan") if isinstance(before, dict) else None, record):
                raise UsageError(
                    f"{self.path}: its training was begun with other options ({'; '.join(found)})",
                    f"give the same ones to go on, {_REMEDY}",
                )
            return
        with writing(path):
            write_json(path, {"made_by": _MADE_BY, "plan": record})

    def take_up(self, trainer: Trainer) -> None:
        """Load the saved state, if there is one, into the trainer.

        Raises :class:`UsageError`, and :class:`WeightsProblem` for one with numbers that are not finite.
        """
        path = self.path / STATE
        if not path.exists():
            return
        try:
            check_pickles(path)
            # By way of the host: the device has room for what is there already, and not for all of it once more.
            trainer.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
        except Exception as error:  # torch's reader may raise anything on a damaged file
            if out_of_memory(error) or isinstance(error, torch.AcceleratorError):
                raise
            raise UsageError(
                f"{path}: is damaged, or of another training",
                _REMEDY,
            ) from error
        with weights_errors():
            check_finite(path, trainer.network.state_dict(), _REMEDY)

    def save(self, plan: TrainingPlan, trainer: Trainer) -> None:
        """Write state, release and curves; a failed write leaves the previous file. Raises :class:`OutputError`."""
        with writing(self.path):
            with replacing(self.path / STATE) as partial:
                torch.save(trainer.state_dict(), partial)
            with replacing(self.release) as partial:
                tensors = {key: _halved(x.cpu()) for key, x in trainer.network.state_dict().items()}
                config = replace(plan.config, image_size=trainer.network.config.image_size)
                save_release(partial, config, tensors, steps=trainer.step)
            _draw(self.path)


def _halved(x: torch.Tensor) -> torch.Tensor:
    """Weights in float16, if all are within its range."""
    half = x.half()
    return half if half.isfinite().all() else x


class Log:
    """Two tables that grow: losses of each step, and scores now and then."""

    def __init__(self, folder: Path, step: int) -> None:
        self._folder, self._step = folder, step

    def __enter__(self) -> Log:
        with writing(self._folder):
            for name in (LOG, VALIDATION):
                _cut(self._folder / name, self._step)
            self._losses = (self._folder / LOG).open("a", newline="", buffering=1, encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._losses.close()

    def add(self, step: int, frames: int, losses: dict[str, float], seconds: float) -> None:
        """Add a line for a step. Raises :class:`OutputError`."""
        with writing(self._folder / LOG):
            table = csv.writer(self._losses)
            if self._losses.tell() == 0:
                table.writerow(["step", "frames", *losses, "seconds"])
            table.writerow([step, frames, *(f"{x:.5f}" for x in losses.values()), f"{seconds:.3f}"])

    def add_validation(self, step: int, j: float, f: float) -> float:
        """Add a line and draw the curves; return J&F. Raises :class:`OutputError`."""
        with writing(self._folder / VALIDATION):
            with (self._folder / VALIDATION).open("a", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                if file.tell() == 0:
                    table.writerow(["step", "J&F", "J", "F"])
                table.writerow([step, *(f"{x:.3f}" for x in ((j + f) / 2, j, f))])
            _draw(self._folder)
        return (j + f) / 2


def _draw(folder: Path) -> None:
    picture = draw_curves(folder / LOG, folder / VALIDATION)
    if picture is not None:
        with replacing(folder / CURVES) as partial:
            partial.write_bytes(picture)


def _cut(path: Path, step: int) -> None:
    """Drop the lines after ``step``, and half a line that a hard stop left: the resumed training writes them again."""
    if not path.exists():
        return
    text = path.read_bytes().decode("utf-8", "replace")
    head, *lines = [x for x in text.splitlines(keepends=True) if x.endswith("\n")] or [""]
    kept = "".join([head, *(x for x in lines if re.match(r"\d{1,18},", x) and int(x.split(",")[0]) <= step)])
    if kept != text:
        with replacing(path) as partial:
            partial.write_bytes(kept.encode())
