"""What passes found, and what a correction changes, on a disk without room for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model.states import ObjectState
from resurgsam2_cli.errors import OutputError
from resurgsam2_cli.outputs import ObjectResult
from resurgsam2_cli.refining.changes import Changed, Changes
from resurgsam2_cli.segmenting.store import Store


@pytest.mark.parametrize("folder", [None, "here"])
def test_a_full_disk_under_the_passes(tmp_path: Path, folder: str | None) -> None:
    """SQLite's own limit on its pages stands for a full disk."""
    place = None if folder is None else tmp_path
    store = Store(place, 64)
    store._base.execute("PRAGMA max_page_count = 8")
    state = ObjectState("track", 1.0, 1.0, (), (), ())
    with pytest.raises(OutputError, match="disk is full") as caught:
        for step in range(300):
            store.put(step, [0], torch.randn(1, 64, 64) + 9, [state])
        store.flush()
    assert ("TMPDIR" in caught.value.hint) == (place is None)
    assert caught.value.exit_code == 6
    store.close()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_under_a_correction(tmp_path: Path) -> None:
    changes = Changes(tmp_path)
    changes._base.execute("PRAGMA max_page_count = 8")
    result = ObjectResult(1, "track", True, 1.0, 1.0, 1.0, (), ())
    noise = np.random.default_rng(0).random((64, 64)) > 0.5
    with pytest.raises(OutputError, match="disk is full"):
        for step in range(300):
            changes.put(step, 0, Changed.of_mask(noise, result, 1))
    changes.close()
    assert not list(tmp_path.iterdir())
