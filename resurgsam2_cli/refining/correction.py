"""What a person said of a mask."""

from __future__ import annotations

from dataclasses import dataclass

from resurgsam2_cli.segmenting.placing import Placed

SURE = 10.0
"""The object score of what a person said, as the network gives it to masks."""


@dataclass(frozen=True)
class Correction:
    """What a person said of an object in a frame, or in all from ``step`` to ``last``."""

    row: int
    step: int
    last: int
    stage: str
    """One of :data:`~resurgsam2_cli.refining.signals.KEPT`."""
    counts: str | None = None
    """COCO's compressed RLE of the mask that was drawn; None where there is none, or nothing to draw."""
    clicks: tuple[Placed, ...] = ()
    """Clicks and boxes, on the mask that was drawn or is there."""

    denies: bool = False
    """Whether it only says what the object is not: "absent", or clicks beside it."""

    @property
    def spreads(self) -> bool:
        """Whether the frames around it follow from it."""
        return self.stage != "confirmed" and self.step == self.last
