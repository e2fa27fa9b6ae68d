"""Places and parts of a video: frame numbers and times."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.files.text import shown

_MOST = 10**12
"""Frames and seconds beyond any video; what is larger does not fit into ffmpeg's clock."""


def parse_rate(text: Any) -> Fraction:
    """Frames per second, as ``25``, ``29.97`` or ``30000/1001``. Raises ``ValueError``.

    ``Fraction`` alone would also take ``1e999999999``, and then a day to write it out.
    """
    if not isinstance(text, str) or not re.fullmatch(r"\d{1,18}(\.\d{0,18}|/0*[1-9]\d{0,17})?", text, re.ASCII):
        raise ValueError(f"{shown(text)} is not a frame rate")
    rate = Fraction(text)
    if not rate:
        raise ValueError("a frame rate of 0")
    return rate


@dataclass(frozen=True)
class Position:
    """A place in a video: a frame number or a time in seconds."""

    frame: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> Position:
        """``120`` is a frame; ``12.5s``, ``1:02`` and ``1:02:03.5`` are times. Raises :class:`UsageError`."""
        hint = "give a frame (120) or a time (12.5s, 1:02:03)"
        if re.fullmatch(r"\d+", text):
            if len(text) > 18 or int(text) > _MOST:
                raise UsageError(f"the frame {shown(text)} is beyond any video", hint)
            return cls(frame=int(text))
        if re.fullmatch(r"\d+(\.\d*)?s|\.\d+s|(\d+:)?\d+:\d+(\.\d*)?", text):
            first, *rest = text.removesuffix("s").split(":")
            seconds = float(first)
            for part in rest:
                if float(part) >= 60:
                    raise UsageError(
                        f"the time {shown(text)} has {part} where 0 to 59 belongs",
                        "write hours:minutes:seconds or minutes:seconds; only the first may be larger (90:00, 150s)",
                    )
                seconds = seconds * 60 + float(part)
            if seconds > _MOST:
                raise UsageError(f"the time {shown(text)} is beyond any video", hint)
            return cls(seconds=seconds)
        raise UsageError(f"{shown(text)} is not a position in a video", hint)

    def reached(self, number: int, seconds: float) -> bool:
        """Whether a frame is at or after this position."""
        return number >= self.frame if self.frame is not None else seconds >= (self.seconds or 0.0)

    def __str__(self) -> str:
        # Decimal writes no exponent, which could not be parsed again.
        return str(self.frame) if self.frame is not None else f"{Decimal(f'{self.seconds:.15g}'):f}s"


@dataclass(frozen=True)
class Part:
    """Which frames of a source are wanted."""

    start: Position = Position(frame=0)
    end: Position | None = None
    """The first frame that is not wanted any more."""
    stride: int = 1

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise UsageError(f"--stride {self.stride} is below 1", "1 takes every frame, 2 every second one")
        start, end = self.start, self.end
        if end is not None and (
            (start.frame is not None and end.frame is not None and end.frame <= start.frame)
            or (start.seconds is not None and end.seconds is not None and end.seconds <= start.seconds)
        ):
            where = "is the same as" if end == start else "comes before"
            raise UsageError(
                f"--end {end} {where} --start {start}, so no frame lies between them",
                "give an --end that is later, or leave one of them out",
            )

    def count(self, frames: int | None, rate: Fraction) -> int | None:
        """About how many frames are wanted of a source with ``frames`` frames; for the progress bar."""

        def at(position: Position) -> int:
            return position.frame if position.frame is not None else int((position.seconds or 0) * rate)

        if frames is None and self.end is None:
            return None
        stop = min(x for x in (frames, at(self.end) if self.end else None) if x is not None)
        return max(0, -(-(stop - at(self.start)) // self.stride))

    def duration(self, first: Fraction, rate: Fraction) -> Fraction | None:
        """Seconds from ``first``, the time of the first frame, to the end; None if that is the source's end."""
        if self.end is None:
            return None
        end = self.end.frame / rate if self.end.frame is not None else Fraction(self.end.seconds or 0)
        return max(end - first, 1 / rate)


WHOLE = Part()
"""All frames of a source."""


class Chooser:
    """Applies a :class:`Part` to frames in order."""

    def __init__(self, part: Part) -> None:
        self._part, self._inside = part, 0

    def wanted(self, number: int, seconds: float) -> bool | None:
        """True, False, or None once the part is over."""
        part = self._part
        if part.end is not None and part.end.reached(number, seconds):
            return None
        if not part.start.reached(number, seconds):
            return False
        self._inside += 1
        return (self._inside - 1) % part.stride == 0
