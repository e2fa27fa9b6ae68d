"""How a video is segmented, and what is written."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from model import Rules
from model.finding_again import FindAgain
from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.outputs.cleaning import Cleaning
from resurgsam2_cli.segmenting.placing import Placed
from resurgsam2_cli.video.frames import Reading
from resurgsam2_cli.video.positions import Part

Way = Literal["forward", "backward", "both"]
"""Which passes there are."""


def check_way(direction: str) -> None:
    """Raise :class:`UsageError` for what is no :data:`Way`."""
    if direction not in get_args(Way):
        raise UsageError(f"unknown direction {direction!r}", f"use {', '.join(get_args(Way))}")


@dataclass(frozen=True)
class SegmentOptions:
    """Everything that decides the result, apart from the video, the prompts and the weights."""

    part: Part = field(default_factory=Part)
    rules: Rules = field(default_factory=Rules)
    threshold: float = 0.0
    """Mask logit above which a pixel belongs to the object."""
    png: bool = True
    object_png: bool = False
    coco: bool = True
    overlay: bool = True
    legend: bool = True
    """Whether the overlay names the objects."""
    cleaning: Cleaning = field(default_factory=Cleaning)
    """Of the masks that are written."""
    seed: int = 0
    direction: Way = "forward"
    """With "both", frames before an object was found are followed backwards from there."""
    find_again: FindAgain | None = None
    """Look again, by its words, for what tracking lost."""
    marks: tuple[Placed, ...] = ()
    """What is pointed at. Such objects are not searched for."""

    @property
    def in_passes(self) -> bool:
        """Whether frames change that were done before, so that nothing is written before all is done."""
        return self.direction != "forward" or self.find_again is not None or bool(self.marks)

    @property
    def sinks(self) -> list[str]:
        """Names of the wanted outputs; the line per frame is always written."""
        wanted = [name for name in ("png", "object_png", "coco", "overlay") if getattr(self, name)]
        return ["frames", *wanted]

    def record(self, reading: Reading | None = None) -> dict[str, Any]:
        """The ``settings`` of run.json: every option that changes the result."""
        part = self.part
        return {
            "start": str(part.start),
            "end": None if part.end is None else str(part.end),
            "stride": part.stride,
            "deinterlace": (reading or Reading()).deinterlace,
            "threshold": self.threshold,
            "outputs": self.sinks,
            "legend": self.legend or not self.overlay,  # without an overlay it changes nothing
            **asdict(self.cleaning),
            "seed": self.seed,
            "direction": self.direction,
            "find_again": None if self.find_again is None else asdict(self.find_again),
            "marks": len(self.marks),
            **asdict(self.rules),
        }
