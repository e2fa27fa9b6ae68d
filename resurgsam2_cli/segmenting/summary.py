"""What a run found, and its record."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from resurgsam2_cli import __version__
from resurgsam2_cli.files.palette import color_of
from resurgsam2_cli.outputs import Clip, FrameResult, ObjectResult
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.runs.record import FORMAT, color_text
from resurgsam2_cli.segmenting.engine import Engine
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.timing import Timing, peak_memory_mb
from resurgsam2_cli.video.source import Source, source_path

POINTED = ("point", "drawn", "absent")
"""Stages in which a person said what is true."""


@dataclass(frozen=True)
class Summary:
    """The end of a run: run.json and the files."""

    folder: Path
    files: list[Path]
    record: dict[str, Any]


@dataclass
class ObjectSummary:
    """Where one object was found over the video. Frame numbers are those of the source."""

    id: int
    text: str
    label: str
    color: str
    initial_frame: int | None = None
    decided_at: int | None = None
    long_term_frames: list[int] = field(default_factory=list)
    """The frames held at the end."""
    frames_present: int = 0
    first_present: int | None = None
    marks: int = 0
    """Frames in which it was pointed at."""
    words: bool = True
    """Whether its text was searched for."""

    def add(self, number: int, result: ObjectResult) -> None:
        """Take one frame into account."""
        if result.present:
            self.frames_present += 1
            self.first_present = number if self.first_present is None else self.first_present
        if self.initial_frame is None and result.conditioning_frames and result.direction == 1:
            self.initial_frame, self.decided_at = result.conditioning_frames[0], number
        self.long_term_frames = list(result.long_term_frames)
        self.marks += result.stage in POINTED


class Tally:
    """What was found so far."""

    def __init__(self, prompts: tuple[Prompt, ...]) -> None:
        self.objects = [
            ObjectSummary(i, p.text, p.label, color_text(color_of(i)), words=p.words)
            for i, p in enumerate(prompts, start=1)
        ]
        self.frames = 0
        self._first = self._last = Fraction(0)

    def add(self, result: FrameResult) -> None:
        """Take one frame into account; they come in order."""
        for summary, x in zip(self.objects, result.objects, strict=True):
            summary.add(result.number, x)
        self._first = self._first if self.frames else result.time
        self._last = result.time
        self.frames += 1

    @property
    def span(self) -> Fraction:
        """Seconds from the first to the last frame."""
        return self._last - self._first


@dataclass(frozen=True)
class Undertaking:
    """What a run is made of."""

    engine: Engine
    source: Source
    prompts: tuple[Prompt, ...]
    options: SegmentOptions
    timing: Timing

    def record(self, clip: Clip, tally: Tally, sums: dict[str, str], *, complete: bool) -> dict[str, Any]:
        """The content of run.json."""
        engine, source = self.engine, self.source
        made = Made(
            weights_record(engine),
            engine.record(),
            self.timing.record(tally.frames),
            peak_memory_mb(engine.device, self.timing.others_mb),
            [*source.warnings, *filter(None, [engine.executor.shortage])],
        )
        settings = self.options.record(source.reading)
        return run_record(
            source_record(source, clip, tally.frames, tally.span), tally, settings, made, sums, complete=complete
        )


@dataclass(frozen=True)
class Made:
    """What made the masks of a run, in how much time and memory, as run.json has it."""

    weights: dict[str, Any]
    backend: dict[str, Any]
    timing: dict[str, Any]
    peak_memory_mb: dict[str, int | None]
    warnings: list[str]


def run_record(
    source: dict[str, Any],
    tally: Tally,
    settings: dict[str, Any],
    made: Made,
    sums: dict[str, str],
    *,
    complete: bool,
) -> dict[str, Any]:
    """The content of run.json."""
    return {
        "format": FORMAT,
        "complete": complete,
        "source": source,
        "objects": [asdict(x) for x in tally.objects],
        "weights": made.weights,
        "settings": settings,
        "backend": made.backend,
        "timing": made.timing,
        "peak_memory_mb": made.peak_memory_mb,
        "warnings": made.warnings,
        "sums": sums,
        "version": __version__,
    }


def source_record(source: Source, clip: Clip, frames: int, span: Fraction) -> dict[str, Any]:
    """The ``source`` of run.json; ``span`` is the seconds from the first to the last frame."""
    return {
        "path": source_path(source),
        **source.identity(),
        "width": clip.width,
        "height": clip.height,
        "frame_rate": f"{source.rate.numerator}/{source.rate.denominator}",
        "frames": frames,
        "duration": round(float(span + 1 / clip.rate), 6),
        **source.facts,
    }


def weights_record(engine: Engine) -> dict[str, Any]:
    """The ``weights`` of run.json."""
    info = engine.weights
    record: dict[str, Any] = {"name": info.name, "sha256": info.sha256, "demo": engine.is_demo}
    if info.clip_sha256 is not None:
        record["clip_sha256"] = info.clip_sha256
    return record
