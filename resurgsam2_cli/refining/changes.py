"""What a correction changes in a run, frame by frame: on disk, so that memory does not grow with its reach."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from resurgsam2_cli.files.kinds import PARTIAL
from resurgsam2_cli.files.rle import compressed, decoded, mask_runs
from resurgsam2_cli.files.tables import table_errors
from resurgsam2_cli.outputs import ObjectResult
from resurgsam2_cli.outputs.base import boxes_of
from resurgsam2_cli.outputs.frames import state_entry


@dataclass(frozen=True)
class Changed:
    """One object in one frame, as the next version has it."""

    state: dict[str, Any]
    """Its part of the line of frames.jsonl."""
    counts: str | None
    """COCO's compressed RLE of its own mask; None where it is absent."""
    score: float
    """Presence times predicted IoU."""

    @classmethod
    def of_mask(cls, mask: np.ndarray, result: ObjectResult, version: int) -> Changed:
        """A mask (height, width) bool, and what is known of it. ``version`` is the one that is being made."""
        (box,) = boxes_of(np.any(mask, axis=1, keepdims=True).T, np.any(mask, axis=0, keepdims=True))
        runs = mask_runs(mask, box)
        counts = None if box is None else compressed([runs])[0]
        return cls(state_entry(result, int(runs[1::2].sum()), box, version), counts, round(result.score, 6))

    def mask(self, height: int, width: int) -> np.ndarray:
        """The mask (height, width) bool."""
        return decoded(self.counts, (height, width))


class Changes:
    """The changed frames of some objects, by step and row, in a file of SQLite below ``folder``, until it is closed.

    Without a folder, they are held in memory. Raises :class:`~resurgsam2_cli.errors.OutputError` where the disk has no
    room for them.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = (
            None if folder is None else tempfile.TemporaryDirectory(prefix=".changes-", suffix=PARTIAL, dir=folder)
        )
        place = ":memory:" if self._folder is None else Path(self._folder.name) / "changes.sqlite"
        # Another thread may write than reads, one at a time.
        self._base = sqlite3.connect(place, isolation_level=None, check_same_thread=False)
        self._write("PRAGMA journal_mode = OFF")
        self._write("PRAGMA synchronous = OFF")
        self._write(
            "CREATE TABLE changes (step INTEGER, item INTEGER, state TEXT, counts TEXT, score REAL,"
            " PRIMARY KEY (step, item)) WITHOUT ROWID"
        )

    def _write(self, statement: str, values: Sequence[Any] = ()) -> None:
        with table_errors(None if self._folder is None else Path(self._folder.name), "make room there"):
            self._base.execute(statement, values)

    def __enter__(self) -> Changes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the room."""
        self._base.close()
        if self._folder is not None:
            self._folder.cleanup()

    def put(self, step: int, row: int, changed: Changed) -> None:
        """Take a change; it replaces an earlier one of the same object and frame."""
        values = (step, row, json.dumps(changed.state), changed.counts, changed.score)
        self._write("INSERT OR REPLACE INTO changes VALUES (?, ?, ?, ?, ?)", values)

    def clear(self) -> None:
        """Forget all changes."""
        self._write("DELETE FROM changes")

    def get(self, step: int, row: int) -> Changed | None:
        """The change of an object in a frame."""
        return self.at(step).get(row)

    def at(self, step: int) -> dict[int, Changed]:
        """The changes of a frame by row."""
        found = self._base.execute(
            "SELECT item, state, counts, score FROM changes WHERE step = ? ORDER BY item", (step,)
        ).fetchall()
        return {row: Changed(json.loads(state), counts, score) for row, state, counts, score in found}

    def steps(self) -> list[int]:
        """The changed steps, in order."""
        return [step for (step,) in self._base.execute("SELECT DISTINCT step FROM changes ORDER BY step")]

    def __iter__(self) -> Iterator[tuple[int, dict[int, Changed]]]:
        for step in self.steps():
            yield step, self.at(step)
