"""The last lines of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def summary_lines(record: dict[str, Any], files: list[Path]) -> list[str]:
    """What was found, how fast, and where it is."""
    lines = []
    frames = record["source"]["frames"]
    for x in record["objects"]:
        if x["first_present"] is None:
            found = "not found"
        else:
            found = f"in {x['frames_present']} of {frames} frames, first in {x['first_present']}"
            if marks := x.get("marks"):
                found += f"; marked in {marks} frame{'s' * (marks > 1)}"
            elif x["initial_frame"] is None:
                found += "; never sure enough to be tracked, so each frame was searched by itself"
            else:
                found += f"; tracked after frame {x['decided_at']}, by what it looks like in frame {x['initial_frame']}"
        lines.append(f"  {x['id']}  {x['label']}: {found}")
    lost = [bool(x.get("marks")) for x in record["objects"] if x["first_present"] is None]
    if not all(lost):
        lines.append("note: other words may find what was not found (resurgsam2 probe), or point at it (--mark)")
    if any(lost):
        lines.append("note: nothing was seen where a mark is: add clicks, or draw a mask, there or in a clearer frame")
    timing, memory = record["timing"], record["peak_memory_mb"]
    peak = ", ".join(f"{value} MB ({where})" for where, value in memory.items() if value is not None)
    backend = record["backend"]
    lines.append(
        f"{frames} frames in {timing['seconds']:.1f} s, {timing['frames_per_second']:.2f} frames/s"
        f" on {backend['device']} in {backend['precision']}; peak memory {peak}"
    )
    lines += [f"note: {x}" for x in record.get("warnings", ())]
    return lines + [str(path) for path in files]
