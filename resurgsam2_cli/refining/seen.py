"""Which masks a person saw when confirming them: a sum, which tells whether they are still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.runs.reading import RunFrame
from resurgsam2_cli.segmenting.placing import Placed


def sum_of_masks(frames: Iterable[RunFrame], object_id: int) -> str:
    """A sum over the masks of an object in some frames, in hexadecimal."""
    digest = hashlib.blake2b(digest_size=12)
    for frame in frames:
        counts = next((x.rle["counts"] for x in frame.masks if x.object_id == object_id), "")
        digest.update(f"{counts}\n".encode())
    return digest.hexdigest()


def check_seen(where: Iterable[Placed], index: RunIndex) -> None:
    """Raise :class:`UsageError` if a mark confirms masks that are not those that the person saw."""
    for x in where:
        if not (x.mark.confirmed and x.mark.seen):
            continue
        first, last = index.step(x.frame), index.step(x.frame if x.end is None else x.end)
        assert first is not None
        assert last is not None
        if sum_of_masks(map(index.frame, range(first, last + 1)), x.row + 1) != x.mark.seen:
            raise UsageError(
                f"{x.mark}: confirms a mask that is another one now", "look at it again, or leave this mark out"
            )
