"""Where a long video is cut: pieces that overlap, so that each can be segmented by itself."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from resurgsam2_cli.video.frames import EmptyPart
from resurgsam2_cli.video.positions import Part, Position
from resurgsam2_cli.video.source import Source

LEAST = 0.25
"""The share of a piece that the last one must add; a smaller rest belongs to the one before."""


@dataclass(frozen=True)
class Split:
    """How a video is cut. Raises ``ValueError`` for lengths that make no sense."""

    minutes: float
    """Of the source, in each piece."""
    overlap: float
    """Seconds of the source that two neighbouring pieces have in common."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.minutes) and self.minutes > 0):
            raise ValueError(f"a piece of {self.minutes:g} minutes: it must be longer than 0")
        if not (math.isfinite(self.overlap) and self.overlap > 0):
            raise ValueError(f"an overlap of {self.overlap:g} seconds: pieces are joined by it, so it must be above 0")
        if self.overlap >= self.minutes * 30:
            raise ValueError(
                f"an overlap of {self.overlap:g} seconds is not less than half of a piece of {self.minutes:g} minutes"
            )

    def steps(self, rate: Fraction, stride: int) -> tuple[int, int]:
        """How many wanted frames a piece and an overlap have, given the frames per second of the source.

        An overlap has at least one, and is never more than half of a piece.
        """
        overlap = max(1, round(self.overlap * rate / stride))
        return max(2 * overlap, round(self.minutes * 60 * rate / stride)), overlap

    def record(self) -> dict[str, Any]:
        """The ``split`` of the settings in run.json."""
        return {"minutes": self.minutes, "overlap": self.overlap}


def cut(source: Source, part: Part, split: Split) -> list[Part]:
    """The pieces of the wanted ``part``, in order; the part itself if it is not longer than a piece.

    Every wanted frame lies in one piece, or in the overlap of two neighbours. The length of a video may be known only
    about: the last piece then goes to the end, wherever that is, and segmenting one that lies beyond it raises
    :class:`~resurgsam2_cli.video.frames.EmptyPart`; leave that out. A video of which nothing tells the length is one
    piece. The same video is always cut in the same way. Raises :class:`~resurgsam2_cli.errors.InputError`.
    """
    frames = _length(source)
    if frames is None:
        return [part]
    first = first_frame(source, part)
    end = frames if part.end is None else min(frames, _frame_at(source, part.end, frames))
    wanted = -(-(end - first) // part.stride)
    spans = spans_of(wanted, *split.steps(source.rate, part.stride))
    if len(spans) < 2:
        return [part]
    places = [(first + a * part.stride, first + b * part.stride) for a, b in spans]
    pieces = [Part(Position(frame=a), Position(frame=b), part.stride) for a, b in places[:-1]]
    return [*pieces, Part(Position(frame=places[-1][0]), part.end, part.stride)]


def spans_of(wanted: int, piece: int, overlap: int) -> list[tuple[int, int]]:
    """The first wanted frame of each piece, and the one behind its last, of so many ``wanted``, counted from 0."""
    if wanted <= piece:
        return [(0, max(0, wanted))]
    step = piece - overlap
    count = max(1, math.ceil((wanted - overlap) / step))
    if count > 1 and wanted - overlap - (count - 1) * step < LEAST * piece:
        count -= 1
    return [(i * step, i * step + piece if i < count - 1 else wanted) for i in range(count)]


def first_frame(source: Source, part: Part) -> int:
    """The number of the first wanted frame. Raises :class:`~resurgsam2_cli.errors.InputError`."""
    if part.start.frame is not None:
        return part.start.frame
    with closing(source.frames(part)) as frames:
        return next(frames).number


def _length(source: Source) -> int | None:
    """About how many frames the source has; None if nothing tells."""
    frames = source.expected(Part())
    return source.within_reach() if frames is None else frames


def _frame_at(source: Source, end: Position, frames: int) -> int:
    """The number of the first frame that is not wanted: times are looked up, as rates may change within a video."""
    if end.frame is not None:
        return end.frame
    try:
        with closing(source.frames(Part(end))) as shown:
            return next(shown).number
    except EmptyPart:
        return frames
