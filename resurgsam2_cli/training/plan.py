"""What is trained, on what, for how long; and the clips of each step that follow from it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from model import NetworkConfig
from model.config import DEMO, to_dict
from model.training.clips import Clip, SceneClips
from model.training.trainer import DETECTION_FRAMES, Lesson, Recipe
from resurgsam2_cli.files.text import readable
from resurgsam2_cli.training.data import AnnotatedVideo, FolderClips, data_sums
from weights.store import sha256


@dataclass(frozen=True)
class Phase:
    """A stretch of training on clips of one kind."""

    steps: int
    image_size: int
    batch: int
    """Clips per step."""
    prompts: int
    """Sentences per clip."""
    stills: int = 0
    """Single frames of rendered scenes per step, which train the image encoder alone: it learns what things look like
    from many different pictures, and the frames of a clip are nearly the same one."""
    tracked: int = 0
    """Frames of a clip after those for detection."""
    tracked_share: float = 0.5
    """The share of the steps that have tracked frames at all."""
    lesson: Lesson = "words"
    """What the other steps teach, if there are any."""
    lesson_share: float = 0.0
    pointed_on: int = 2
    """Frames after the one that is pointed at."""
    apart: int = 0
    """Up to so many more frames lie between these two: in a video, what was pointed at is long ago."""
    learns: tuple[str, ...] = ()
    """Beginnings of the names of the parameters that learn; all, if there are none."""


TOLD = ("data folder", "videos")
"""Entries of a plan's record that do not decide the weights: what other data are called."""


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that determines the weights, except rounding."""

    config: NetworkConfig
    phases: tuple[Phase, ...]
    recipe: Recipe
    seed: int = 0
    data: Path | None = None
    """A data set or a folder of runs; None for rendered scenes."""
    start: Path | None = None
    """Weights to begin with; None for random ones."""
    clip_weights: Path | None = None
    """CLIP's text tower, if ``start`` has none."""

    def record(self, videos: Sequence[AnnotatedVideo], processes: int) -> dict[str, Any]:
        """The plan as plain JSON types, with checksums instead of files: equal records train to equal weights.

        The entries of :data:`TOLD` only say where other data differ.
        """
        whole, each = data_sums(videos)
        return {
            "configuration": to_dict(self.config),
            "phases": [asdict(x) for x in self.phases],
            "recipe": asdict(self.recipe),
            "seed": self.seed,
            "processes": processes,
            "data": whole if videos else None,
            "data folder": None if self.data is None else readable(os.path.abspath(self.data)),
            "videos": each,
            "start": None if self.start is None else sha256(self.start),
            "text tower": None if self.clip_weights is None else sha256(self.clip_weights),
        }


SCENES_KEPT_FOR = 50
"""Steps after which the open scenes are dropped. A training that resumes in between goes through the clips since then
again, so that it sees what it would have seen without the interruption."""


def clips_of(
    plan: TrainingPlan, step: int, rank: int = 0, videos: Sequence[AnnotatedVideo] = ()
) -> Iterator[tuple[list[Clip], list[Clip], Lesson]]:
    """The clips and stills of each step, and what it teaches, from ``step`` on.

    Each block of steps has its own seed: only the earlier clips of the first block are made again.
    """
    end = 0
    for number, phase in enumerate(plan.phases):
        begin, end = end, end + phase.steps
        if step >= end:
            continue
        streams: list[Iterator[Clip]] = []
        done = max(0, step - begin)
        for at in range(begin + done - done % SCENES_KEPT_FOR, end):
            if not streams or (at - begin) % SCENES_KEPT_FOR == 0:
                key = (plan.seed, number, (at - begin) // SCENES_KEPT_FOR, rank)
                streams = [
                    _stream(phase, DETECTION_FRAMES, phase.prompts, (*key, 0), videos),
                    _stream(phase, DETECTION_FRAMES + phase.tracked, phase.prompts, (*key, 1), videos),
                    _stream(phase, 1, 0, (*key, 2), ()),
                    _stream(phase, 1 + phase.pointed_on, phase.prompts, (*key, 3), videos, phase.apart),
                ]
            detected, tracked, stills, pointed = streams
            lesson: Lesson = phase.lesson if _is_due(at, phase.lesson_share) else "words"
            tracks = phase.tracked and _is_due(at, phase.tracked_share)
            clips = pointed if lesson != "words" else tracked if tracks else detected
            stills_wanted = phase.stills if lesson == "words" else 0
            taken = [next(clips) for _ in range(phase.batch)], [next(stills) for _ in range(stills_wanted)], lesson
            if at >= step:
                yield taken


def _is_due(step: int, share: float) -> bool:
    """Whether something due in a ``share`` of all steps is due in this one; these are spread evenly, not drawn."""
    return int(step * share) != int((step + 1) * share)


def _stream(
    phase: Phase,
    length: int,
    prompts: int,
    seed: tuple[int, ...],
    videos: Sequence[AnnotatedVideo],
    apart: int = 0,
) -> Iterator[Clip]:
    if videos:
        return iter(FolderClips(videos, seed, length=length, prompts=prompts, apart=apart))
    height, width = phase.image_size, phase.image_size * 5 // 4
    return iter(SceneClips(seed, length=length, prompts=prompts, height=height, width=width, apart=apart))


DEMO_PLAN = TrainingPlan(
    replace(DEMO, pointing=False),
    (
        # First what things look like, then what the words mean, on small pictures, which take a quarter of the work.
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
"""Trains from scratch on rendered scenes, with two processes."""

REFINING_PLAN = TrainingPlan(
    DEMO_PLAN.config,
    # A first training confuses kinds that look alike, and finds things that are not there.
    (Phase(steps=2200, image_size=256, batch=2, prompts=6, stills=12, tracked=4, tracked_share=0.2),),
    replace(DEMO_PLAN.recipe, steps=2200, learning_rate=5e-4, fusion_learning_rate=5e-4, warm_up=0.05),
)
"""Refines the release of :data:`DEMO_PLAN` into the bundled one."""

_DECODER = ("mask_decoder.", "mask_downsample.", "prompt_tokens.point_embeddings.", "prompt_tokens.mask_encoder.")
_AFTER_DETECTION = (*_DECODER, "prompt_tokens.", "memory_", "pointer_", "no_", "slot_position")

POINTING_PLAN = TrainingPlan(
    DEMO,
    (
        # Where a click is, then what was clicked, then that it is followed. The words must not lose by it: what sees,
        # reads and searches stays as it is, and the rest goes on learning from words.
        Phase(800, 256, batch=1, prompts=1, lesson="places", lesson_share=1, pointed_on=0, learns=_DECODER),
        Phase(1000, 256, batch=2, prompts=8, lesson="pointing", lesson_share=1, pointed_on=0, learns=_DECODER),
        Phase(
            1600,
            256,
            batch=1,
            prompts=8,
            tracked=4,
            tracked_share=0.5,
            lesson="pointing",
            lesson_share=0.65,
            pointed_on=7,
            apart=200,
            learns=_AFTER_DETECTION,
        ),
    ),
    replace(REFINING_PLAN.recipe, steps=3400, learning_rate=1e-3, fusion_learning_rate=5e-4, warm_up=0.02, dense=0.0),
)
"""Teaches a release of :data:`DEMO` that only knows words to be pointed at."""
