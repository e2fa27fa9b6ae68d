"""What a scene can show: instruments, organs, needles and threads, and the side each instrument enters from."""

from __future__ import annotations

from dataclasses import dataclass

WORK = {
    "grasper": ("grasping", "retracting"),
    "scissors": ("cutting", "dissecting"),
    "needle driver": ("suturing", "looping", "grasping"),
    "bipolar forceps": ("cauterizing", "grasping", "dissecting"),
    "hook": ("cauterizing", "dissecting", "retracting"),
    "suction": ("suctioning", "irrigating"),
    "clip applier": ("clipping",),
    "ultrasound probe": ("scanning",),
}
"""What an instrument of each category does beside resting and moving."""

CATEGORIES = tuple(WORK)
"""The categories of instruments."""

ORGANS = ("kidney", "liver edge")
SUTURES = ("needle", "thread")
TISSUES = ORGANS + SUTURES
"""The categories of everything that is not an instrument."""

OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
"""The sides of the picture, each with the one across from it."""


@dataclass(frozen=True)
class Target:
    """One thing of a scene that sentences can name."""

    id: int
    """From 1; its pixel value in the label image."""
    category: str
    """One of :data:`CATEGORIES` or :data:`TISSUES`."""
    side: str | None
    """The side where an instrument enters and keeps to, one of :data:`OPPOSITE`; None if the thing has no side."""
