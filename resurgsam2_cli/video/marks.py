"""Comments by which this program recognises its own MP4 files."""

from __future__ import annotations

from pathlib import Path

OVERLAY = "overlay by resurgsam2"
EXPORTED = "exported by resurgsam2"
RENDERED = "rendered by resurgsam2"

_WINDOW = 2**16
"""Bytes at the end of the index, where the comment is."""

_MOST_BOXES = 1000
"""This program's files have four. Someone else's may have one every eight bytes, and any length."""


def holds_mark(path: Path, marks: tuple[str, ...] = (OVERLAY, EXPORTED)) -> bool:
    """Whether the index of an MP4 file has one of the comments; False for any other file."""
    try:
        with path.open("rb") as file:
            place = 0
            for _ in range(_MOST_BOXES):
                head = file.read(16)
                size = int.from_bytes(head[:4], "big")
                if size == 1:
                    size = int.from_bytes(head[8:], "big")
                if len(head) < 16 or size < 8:
                    return False
                if head[4:8] == b"moov":
                    file.seek(place + max(0, size - _WINDOW))
                    end = file.read(min(size, _WINDOW))
                    return any(mark.encode() in end for mark in marks)
                place += size
                file.seek(place)
    except (OSError, OverflowError, ValueError):
        return False
    return False
