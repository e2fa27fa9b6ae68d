"""What the record of a whole run says of its source, and of the time and memory that its pieces took."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from resurgsam2_cli.outputs import Clip
from resurgsam2_cli.runs.record import RECORD, Run, as_written, raw_record
from resurgsam2_cli.segmenting.summary import Made, Tally, source_record
from resurgsam2_cli.segmenting.timing import peak_memory_mb
from resurgsam2_cli.video.source import Source


def made_of(runs: Sequence[Run], joining: dict[str, Any], frames: int, warnings: Iterable[str]) -> Made:
    """What made a run of so many frames: ``joining`` is the timing of joining its pieces.

    Seconds are added up, although pieces may have been done side by side; peak memory is that of the process that took
    most. Frames in overlaps were done twice. What differs between the pieces, such as devices, is listed.
    """
    records = [raw_record(x.folder) for x in runs]
    with as_written(runs[0].folder / RECORD):
        return Made(
            records[0]["weights"],
            {key: _listed([x["backend"].get(key) for x in records]) for key in records[0]["backend"]},
            summed([*(x["timing"] for x in records), joining], frames),
            _peak([*(x["peak_memory_mb"] for x in records), peak_memory_mb(torch.device("cpu"))]),
            list(dict.fromkeys([*warnings, *(y for x in records for y in x["warnings"])])),
        )


def _listed(values: Sequence[Any]) -> Any:
    different = list(dict.fromkeys(values))
    return different[0] if len(different) == 1 else ", ".join(map(str, different))


def _peak(peaks: Sequence[dict[str, int | None]]) -> dict[str, int | None]:
    names = dict.fromkeys(name for x in peaks for name in x)
    return {name: max((y for x in peaks if (y := x.get(name)) is not None), default=None) for name in names}


def summed(timings: Sequence[dict[str, Any]], frames: int) -> dict[str, Any]:
    """The ``timing`` of run.json from several."""
    total = sum(x["seconds"] for x in timings)
    seconds, done = dict[str, float](), dict[str, float]()
    for x in timings:
        for stage, y in x["stages"].items():
            seconds[stage] = seconds.get(stage, 0.0) + y["seconds"]
            done[stage] = done.get(stage, 0.0) + y["seconds"] * (y["frames_per_second"] or 0.0)
    return {
        "seconds": round(total, 3),
        "frames_per_second": round(frames / total, 3) if total else None,
        "stages": {
            stage: {
                "seconds": round(x, 3),
                "frames_per_second": round(done[stage] / x, 3) if x and done[stage] else None,
            }
            for stage, x in seconds.items()
        },
    }


def source_of(source: Source, clip: Clip, tally: Tally, runs: Sequence[Run]) -> dict[str, Any]:
    """The ``source`` of run.json. What is known of the pictures comes from the pieces if they were not read again."""
    record = source_record(source, clip, tally.frames, tally.span)
    if source.facts:
        return record
    known = list[dict[str, Any]]()
    for run in runs:
        with as_written(run.folder / RECORD):
            known.append(raw_record(run.folder)["source"])
            facts = {key: value for key, value in known[0].items() if key not in record}
            if "interlaced" in facts:
                facts["interlaced"] = any(x["interlaced"] for x in known)
            if "scaled_frames" in facts:  # those of overlaps count twice
                facts["scaled_frames"] = sum(x["scaled_frames"] for x in known)
    return record | facts
