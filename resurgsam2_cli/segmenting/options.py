"""How a video is segmented, and what is written."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from model import Rules
from resurgsam2_cli.video.frames import Reading
from resurgsam2_cli.video.positions import Part


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
    seed: int = 0

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
            "seed": self.seed,
            **asdict(self.rules),
        }
