"""What passes over a video found, until it is written in order: on disk, so that memory does not grow.

Passes backwards and corrections change frames that were done before, and the outputs are written from the first frame
to the last.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.network import ABSENT_LOGIT
from model.states import ObjectState
from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.files.kinds import PARTIAL
from resurgsam2_cli.files.tables import table_errors

_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
    step INTEGER, item INTEGER, state TEXT, search TEXT, top INTEGER, left INTEGER, height INTEGER, width INTEGER,
    logits BLOB, PRIMARY KEY (step, item)
) WITHOUT ROWID
"""

_MARGIN = 1
"""Pixels around a mask that its outline in the video's size depends on."""

_TOGETHER = 256
"""Results that are written at once."""


@dataclass(frozen=True)
class Stored:
    """One object in one frame."""

    state: ObjectState
    mask_logits: Tensor
    """(size / 4, size / 4) float32: as they were where a mask is, with its surroundings; absent elsewhere"""
    search: ObjectState | None = None
    """What the search had said, if a pass has replaced that."""


class Store:
    """The results of a video by step and object, in a file of SQLite that nobody keeps.

    It lies in ``folder``, or in the system's folder for such files. A kill leaves it there. Raises
    :class:`~resurgsam2_cli.errors.OutputError` where the disk has no room for it.
    """

    def __init__(self, folder: Path | None, mask_size: int, threshold: float = 0.0) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix=".passes-", suffix=PARTIAL, dir=folder)
        path = Path(self._folder.name) / "results.sqlite"
        self._place = folder
        self._size, self._threshold = mask_size, min(threshold, 0.0)
        # Another thread writes than reads, one at a time.
        self._base = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._waiting, self._closed = 0, False
        with table_errors(folder):
            self._base.execute("PRAGMA journal_mode = OFF")
            self._base.execute("PRAGMA synchronous = OFF")
            self._base.execute(_SCHEMA)

    def close(self) -> None:
        """Throw everything away."""
        self._closed = True
        self._base.close()
        self._folder.cleanup()

    def put(self, step: int, items: Sequence[int], mask_logits: Tensor, states: Sequence[ObjectState]) -> None:
        """Keep a frame of some objects; what a pass backwards replaces is kept as the search's.

        ``mask_logits`` is (objects, size / 4, size / 4), on any device.
        """
        if self._closed:
            raise UsageError("the session is closed", "use it inside of its with block")
        with table_errors(self._place):
            if not self._waiting:
                self._base.execute("BEGIN")
            for item, logits, state in zip(items, mask_logits.cpu().numpy(), states, strict=True):
                search = None
                if state.stage == "track" and state.direction == -1:
                    search = self._searched(step, item)
                box, blob = _packed(logits, self._threshold)
                row = (step, item, _written(state), search, *box, blob)
                self._base.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        self._waiting += 1
        if self._waiting >= _TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            with table_errors(self._place):
                self._base.execute("COMMIT")
            self._waiting = 0

    def drop(self, first: int) -> None:
        """Throw away all results of the objects from the row ``first`` on."""
        if not self._closed:
            self._base.execute("DELETE FROM results WHERE item >= ?", (first,))

    def _searched(self, step: int, item: int) -> str | None:
        found = self._base.execute(
            "SELECT state, search FROM results WHERE step = ? AND item = ?", (step, item)
        ).fetchone()
        if found is None:
            return None
        return found[0] if json.loads(found[0])[0] == "detect" else found[1]

    def get(self, step: int) -> dict[int, Stored]:
        """All objects that there are results of, in a frame. Raises :class:`UsageError` once the store is closed."""
        if self._closed:
            raise UsageError("the session is closed, and what it found is gone", "use it inside of its with block")
        with table_errors(self._place):
            rows = self._base.execute("SELECT * FROM results WHERE step = ? ORDER BY item", (step,)).fetchall()
        found = {}
        for _, item, state, search, top, left, height, width, blob in rows:
            logits = absent(self._size)
            if height:
                part = np.frombuffer(zlib.decompress(blob), np.float32).reshape(height, width)
                logits[top : top + height, left : left + width] = torch.from_numpy(part.copy())
            found[item] = Stored(_read(state), logits, None if search is None else _read(search))
        return found


def absent(size: int) -> torch.Tensor:
    """The mask logits (size, size) of what is nowhere."""
    return torch.full((size, size), ABSENT_LOGIT, dtype=torch.float32, device="cpu")


def _packed(logits: np.ndarray, threshold: float) -> tuple[tuple[int, int, int, int], bytes]:
    """Where a mask is, with its surroundings, as (top, left, height, width), and the logits there."""
    inside = logits > threshold
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return (0, 0, 0, 0), b""
    top, left = max(0, rows[0] - _MARGIN), max(0, columns[0] - _MARGIN)
    part = logits[top : rows[-1] + 1 + _MARGIN, left : columns[-1] + 1 + _MARGIN]
    return (int(top), int(left), *part.shape), zlib.compress(np.ascontiguousarray(part).tobytes(), 1)


def _written(state: ObjectState) -> str:
    return json.dumps(
        [
            state.stage,
            state.object_score,
            state.predicted_iou,
            state.conditioning_frames,
            state.long_term_frames,
            state.direction,
        ]
    )


def _read(text: str) -> ObjectState:
    stage, score, iou, conditioning, long_term, direction = json.loads(text)
    return ObjectState(stage, score, iou, tuple(conditioning), tuple(long_term), (), direction)
