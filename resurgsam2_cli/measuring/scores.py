"""What is measured: the scores of frames, of objects, and their means; as tables and files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resurgsam2_cli.files.atomic import writing
from resurgsam2_cli.files.filling import new_file
from resurgsam2_cli.files.kinds import Kind, check_free, file_that_holds, never

_COLUMNS = ("level", "video", "object", "text", "J&F", "J", "F", "Dice", "absent_empty", "frames")
_MADE_BY = "measured by resurgsam2"
_CSV = Kind("a table of scores", file_that_holds(",".join(_COLUMNS)), never, "name another file")
_JSON = Kind("a file of scores", file_that_holds(_MADE_BY), never, "name another file")


class FrameScore(NamedTuple):
    """One object in one frame; measures from 0 to 1."""

    j: float
    f: float
    dice: float
    predicted: bool
    """Whether the prediction has any pixel of it."""
    there: bool
    """Whether the truth has any."""


@dataclass(frozen=True)
class Score:
    """The measures of one object of one video, or the mean over several; each from 0 to 100."""

    video: str
    object: str
    """Its id in the truth; empty for a mean."""
    text: str
    """The prompt, if there was one."""
    j: float
    f: float
    dice: float
    absent_empty: float | None
    """Share of the frames without the object in which the prediction is empty, too; None if there are none."""
    frames: int

    @property
    def j_and_f(self) -> float:
        """The mean of J and F."""
        return (self.j + self.f) / 2


def score_of(video: str, object_id: int, text: str, frames: list[FrameScore]) -> Score:
    """The score of an object from its frames, at least one."""
    j, f, dice = (100 * float(np.mean([x[i] for x in frames])) for i in range(3))
    absent = [not x.predicted for x in frames if not x.there]
    share = 100 * float(np.mean(absent)) if absent else None
    return Score(video, str(object_id), text, j, f, dice, share, len(frames))


def mean_of(name: str, scores: list[Score], ident: str = "") -> Score:
    """The mean over scores, all of equal weight."""
    absent = [x.absent_empty for x in scores if x.absent_empty is not None]
    j, f, dice = (float(np.mean([getattr(x, key) for x in scores])) for key in ("j", "f", "dice"))
    share = float(np.mean(absent)) if absent else None
    return Score(name, ident, "", j, f, dice, share, sum(x.frames for x in scores))


@dataclass(frozen=True)
class Evaluation:
    """The scores of all objects, and their means."""

    objects: list[Score]
    videos: list[Score]
    groups: dict[str, Score]
    overall: Score
    all_frames: bool

    @classmethod
    def of(cls, scores: list[Score], groups: dict[str, tuple[int, ...]], *, all_frames: bool) -> Evaluation:
        """Average: several prompts for one object count as their mean, and all objects count the same."""
        per_object = [mean_of(x.video, same, x.object) for x, same in _by(scores, lambda x: (x.video, x.object))]
        in_group = {name: [x for x in per_object if int(x.object) in ids] for name, ids in groups.items()}
        return cls(
            scores,
            [mean_of(x.video, same) for x, same in _by(per_object, lambda x: (x.video,))],
            {name: mean_of(name, members) for name, members in in_group.items() if members},
            mean_of("overall", per_object),
            all_frames,
        )

    def record(self) -> dict[str, Any]:
        """The evaluation as plain JSON types."""

        def row(score: Score) -> dict[str, Any]:
            return {**asdict(score), "j_and_f": score.j_and_f}

        return {
            "made_by": _MADE_BY,
            "all_frames": self.all_frames,
            "overall": row(self.overall),
            "groups": {name: row(score) for name, score in self.groups.items()},
            "videos": [row(score) for score in self.videos],
            "objects": [row(score) for score in self.objects],
        }

    def json(self) -> str:
        """The record as JSON."""
        return json.dumps(self.record(), indent=1, ensure_ascii=False)

    def csv(self) -> str:
        """A line per object, then one per video and group, and one for all."""
        content = io.StringIO(newline="")
        table = csv.writer(content)
        table.writerow(_COLUMNS)
        levels = (
            ("object", self.objects),
            ("video", self.videos),
            ("group", list(self.groups.values())),
            ("overall", [self.overall]),
        )
        for level, scores in levels:
            for x in scores:
                numbers = (x.j_and_f, x.j, x.f, x.dice, x.absent_empty)
                cells = ["" if value is None else f"{value:.4f}" for value in numbers]
                table.writerow([level, x.video, x.object, x.text, *cells, x.frames])
        return content.getvalue()


def _by(scores: list[Score], key: Callable[[Score], tuple[str, ...]]) -> list[tuple[Score, list[Score]]]:
    """Scores that share a key, each group with its first member, in order of appearance."""
    groups: dict[tuple[str, ...], list[Score]] = {}
    for score in scores:
        groups.setdefault(key(score), []).append(score)
    return [(group[0], group) for group in groups.values()]


def write_scores(path: Path, text: str, *, overwrite: bool) -> None:
    """Write the CSV or JSON of an evaluation. Raises :class:`~resurgsam2_cli.errors.OutputError`."""
    with new_file(path, _JSON if text.startswith("{") else _CSV, overwrite=overwrite) as partial:
        partial.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8", newline="")


def check_writable(path: Path, *, is_json: bool, overwrite: bool) -> None:
    """Raise :class:`~resurgsam2_cli.errors.OutputError` now, rather than after an hour, if ``path`` is taken."""
    with writing(path):
        check_free(path, _JSON if is_json else _CSV, overwrite=overwrite)
