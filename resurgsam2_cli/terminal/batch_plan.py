"""What a batch would do, as lines."""

from __future__ import annotations

from typing import Any

from resurgsam2_cli.files.text import counted

_WORDS = {
    "new": "to do",
    "skipped": "complete already",
    "changed": "changed",
    "replace": "to do again",
    "failed": "would fail",
}


def say_plans(plans: list[dict[str, Any]]) -> None:
    """Print a line for each video, and how much there is to do."""
    for x in plans:
        about = f", about {x['frames']} frames" if x["frames"] is not None else ""
        note = f": {x['note']}" if x["note"] and x["state"] != "skipped" else ""
        print(f"{x['source']}: {_WORDS[x['state']]}{note}{about}")
    total = sum(x["frames"] or 0 for x in plans if x["state"] in ("new", "replace"))
    unknown = sum(x["frames"] is None for x in plans if x["state"] in ("new", "replace"))
    more = f", and {counted(unknown, 'video')} of unknown length" if unknown else ""
    print(f"about {total} frames to do{more}")
