"""Where the pieces of a run meet that was joined from several, and which objects differ on the two sides."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Differs = Literal["gone", "new", "elsewhere"]
"""Only the piece before the cut shows the object; only the one after it does; both do, but not in the same place."""


@dataclass(frozen=True)
class Meeting:
    """One object where two pieces meet."""

    id: int
    """In the run, and in the frames before."""
    was: int
    """Its id in the second of the two pieces: another one if that piece gave the prompts to other things."""
    iou: float | None
    """Mean IoU of the masks of the two pieces over their overlap; None if neither shows the object there."""
    differs: Differs | None
    """None if the two agree."""


@dataclass(frozen=True)
class Cut:
    """The place where two pieces are cut together."""

    frame: int
    """The first frame that is taken from the second piece, by its number in the source."""
    overlap: tuple[int, int]
    """The first and the last frame that both pieces have."""
    objects: tuple[Meeting, ...]

    @property
    def ids(self) -> dict[int, int]:
        """The ids of the run, by those of the second piece."""
        return {x.was: x.id for x in self.objects}

    def to_json(self) -> dict[str, Any]:
        """An item of ``cuts`` in run.json."""
        objects = [asdict(x) | {"iou": None if x.iou is None else round(x.iou, 4)} for x in self.objects]
        return {"frame": self.frame, "overlap": list(self.overlap), "objects": objects}


def parse_cuts(value: Any, ids: Collection[int]) -> tuple[Cut, ...]:
    """The ``cuts`` of run.json, every field checked. Raises ``ValueError``, ``KeyError`` and the like."""
    if not isinstance(value, list):
        raise ValueError("its cuts are not a list")
    cuts: list[Cut] = []
    for x in value:
        first, last = x["overlap"]
        whole = [first, x["frame"], last]
        if not all(map(_is_whole, whole)) or whole != sorted(whole) or (cuts and cuts[-1].frame >= x["frame"]):
            raise ValueError("the frames of its cuts are not in order")
        objects = tuple(_meeting(y) for y in x["objects"])
        if not {y.id for y in objects} <= set(ids) or len({y.id for y in objects}) < len(objects):
            raise ValueError("a cut has other objects than the run")
        cuts.append(Cut(x["frame"], (first, last), objects))
    return tuple(cuts)


def _meeting(x: dict[str, Any]) -> Meeting:
    iou, differs = x["iou"], x["differs"]
    is_number = isinstance(iou, int | float) and not isinstance(iou, bool) and 0 <= iou <= 1
    if not (_is_whole(x["id"]) and _is_whole(x["was"]) and (iou is None or is_number)):
        raise ValueError("an object of a cut is damaged")
    if differs is not None and differs not in get_args(Differs):
        raise ValueError("a cut has an object that differs in an unknown way")
    return Meeting(x["id"], x["was"], iou, differs)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
