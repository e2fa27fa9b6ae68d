"""A finished run for Python programs: its frames, its masks as arrays, its COCO file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.files.rle import decoded
from resurgsam2_cli.files.text import did_you_mean
from resurgsam2_cli.runs.find import check_run
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.runs.reading import RunFrame
from resurgsam2_cli.runs.record import ANNOTATIONS, RECORD, RunObject, as_written, read_run


class RunReader:
    """Reads the finished run in ``folder`` as it is now. Nothing but the frame that is asked for is held in memory.

    Use it as a context manager, which closes its files. ``len()`` is the number of processed frames.
    A correction of the run while it is open is not seen: open it again. Raises a
    :class:`~resurgsam2_cli.errors.UserError` if the folder is no run, or its files are not as the program wrote them.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        path = Path(fspath(folder))
        if not (path / RECORD).exists():
            check_run(path)
        self.run = read_run(path)
        self._index = RunIndex(self.run)

    def __enter__(self) -> RunReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its files."""
        self._index.__exit__(None, None, None)

    def __len__(self) -> int:
        """How many frames were processed."""
        return len(self._index)

    @property
    def objects(self) -> tuple[RunObject, ...]:
        """What was asked for: id, text, label, colour."""
        return self.run.objects

    def frames(self) -> Iterator[RunFrame]:
        """The frames in order: number, name, time, what was decided of each object, and the masks as RLE."""
        return (self._index.frame(step) for step in range(len(self)))

    def frame(self, number: int) -> RunFrame:
        """A frame by its number in the source. Raises :class:`UsageError` if it was not processed."""
        step = self._index.step(number) if isinstance(number, int) else None
        if step is None:
            first, last = self._index.number(0), self._index.number(len(self) - 1)
            raise UsageError(
                f"{self.run.name} has no frame {number!r}", f"it has {len(self)} frames from {first} to {last}"
            )
        return self._index.frame(step)

    def mask(self, frame: int, named: int | str) -> np.ndarray:
        """The mask of an object, (height, width) bool, in a frame of the source; empty if it is not there.

        ``named`` is the object's id, or its label or text if no other object has it. Raises :class:`UsageError`.
        """
        wanted = self._object(named).id
        rle = next((x.rle["counts"] for x in self.frame(frame).masks if x.object_id == wanted), None)
        return decoded(rle, (self.run.height, self.run.width))

    def to_coco(self) -> dict[str, Any]:
        """The content of ``annotations.json``."""
        path = self.run.folder / ANNOTATIONS
        with as_written(path):
            content: dict[str, Any] = json.loads(path.read_bytes())
            return content

    def _object(self, named: int | str) -> RunObject:
        found = [x for x in self.objects if named in (x.id, x.label, x.text)]
        if len(found) != 1:
            known = ", ".join(f"{x.id} ({x.label})" for x in self.objects)
            near = "" if found else did_you_mean(str(named), [y for x in self.objects for y in (x.label, x.text)])
            problem = "has several objects" if found else "has no object"
            raise UsageError(f"{self.run.name} {problem} {named!r}", f"{near}its objects are {known}")
        return found[0]
