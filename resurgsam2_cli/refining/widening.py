"""A run with more objects: its files as if these had been asked for from the start, and were in no frame."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from model.network import ABSENT_LOGIT
from resurgsam2_cli.files.kinds import PARTIAL
from resurgsam2_cli.files.palette import color_of
from resurgsam2_cli.outputs import ObjectResult
from resurgsam2_cli.outputs.coco import categories_of, category_entry
from resurgsam2_cli.outputs.frames import state_entry
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.runs.record import ANNOTATIONS, FRAMES, Run, RunObject, as_written
from resurgsam2_cli.segmenting.summary import Tally

_END = b"]}\n"
"""Of a line of frames.jsonl."""

_IMAGES = b', "images": ['
"""Before the first of the long lists of annotations.json."""


@contextmanager
def indexed(run: Run, added: Sequence[Prompt], folder: Path) -> Iterator[RunIndex]:
    """The index of a run with more objects; what it takes is written below ``folder``, for as long as the block lasts.

    Raises :class:`~resurgsam2_cli.errors.InputError` for a run that is not as this program wrote it.
    """
    if not added:
        with RunIndex(run) as index:
            yield index
        return
    first = len(run.objects) + 1
    objects = [RunObject(i, x.text, x.label, color_of(i), x.words) for i, x in enumerate(added, first)]
    wide = replace(run, objects=(*run.objects, *objects))
    with tempfile.TemporaryDirectory(prefix=".widened-", suffix=PARTIAL, dir=folder) as name:
        _write_frames(run, [x.id for x in objects], Path(name) / FRAMES)
        _write_annotations(wide, Path(name) / ANNOTATIONS)
        with RunIndex(wide, Path(name)) as index:
            yield index


def _write_frames(run: Run, ids: list[int], path: Path) -> None:
    """All lines with the state of more objects; what stands in them stays to the byte."""
    states = (state_entry(ObjectResult(i, "track", False, ABSENT_LOGIT, 0.0, 0.0, (), ()), 0, None) for i in ids)
    more = ", ".join(map(json.dumps, states)).encode()
    with as_written(run.folder / FRAMES), (run.folder / FRAMES).open("rb") as lines, path.open("wb") as file:
        for line in lines:
            if not line.endswith(_END):
                raise ValueError("a line does not end as it should")
            file.write(line[: -len(_END)] + b", " + more + _END)


def _write_annotations(run: Run, path: Path) -> None:
    """The same masks, with the categories of all objects."""
    with as_written(run.folder / ANNOTATIONS), (run.folder / ANNOTATIONS).open("rb") as file, path.open("wb") as wide:
        line = file.readline()
        at = line.index(_IMAGES)
        head = json.loads(line[:at] + b"}")
        known = [x["name"] for x in head["categories"]]
        for label, number in categories_of(x.label for x in run.objects).items():
            if label not in known:
                head["categories"].append(category_entry(number, label))
        wide.write(json.dumps(head, ensure_ascii=False).encode(errors="backslashreplace")[:-1] + line[at:])
        while chunk := file.read(1 << 20):
            wide.write(chunk)


def object_entries(run: Run) -> list[dict[str, Any]]:
    """The objects of a run as run.json has those in which nothing was found."""
    return [asdict(x) for x in Tally(tuple(Prompt(x.text, x.label, x.words) for x in run.objects)).objects]
