"""Evidence that masks are wrong where the pieces of a joined run meet: the two differ in frames that both have."""

from __future__ import annotations

from collections.abc import Iterable

from resurgsam2_cli.refining.signals import Evidence, Seen
from resurgsam2_cli.runs.cuts import Cut, Meeting


class Joins:
    """The cuts at which the two pieces differ about an object: the masks of one of them are wrong."""

    doubt = 0.0
    """The masks around a cut may be as good as any: it is not known which are wrong."""

    def __init__(self, cuts: Iterable[Cut], object_id: int, label: str) -> None:
        self._label = label
        self._cuts = {
            cut.frame: (cut, x) for cut in cuts for x in cut.objects if x.id == object_id and x.differs is not None
        }
        self._before: Seen | None = None

    def step(self, now: Seen) -> list[Evidence]:
        """Take the next frame; gives what is seen in it."""
        before, self._before = self._before, now
        cut, meeting = self._cuts.get(now.frame, (None, None))
        if before is None or cut is None or meeting is None or _is_corrected(before, now):
            return []
        return [Evidence("cut", now.position, now.frame, cut.overlap, 1.0, self._clause(meeting))]

    def finish(self) -> list[Evidence]:
        """Nothing is left over."""
        return []

    def _clause(self, meeting: Meeting) -> str:
        if meeting.differs == "elsewhere":
            return f"two pieces are joined here; {self._label} differs on the two sides (IoU {meeting.iou or 0:.2f})"
        side = "before" if meeting.differs == "gone" else "after"
        return f"two pieces are joined here; only the one {side} shows {self._label}"


def _is_corrected(before: Seen, now: Seen) -> bool:
    """Whether a correction went over the cut, or a person said what is true on one side of it."""
    return before.is_kept or now.is_kept or all(x.state.get("pass", 0) for x in (before, now))
