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
"""What an instrument of each category does besides resting and moving."""

CATEGORIES = tuple(WORK)
"""The categories of instruments."""

ORGANS = ("kidney", "liver edge")
SUTURES = ("needle", "thread")
TISSUES = ORGANS + SUTURES
"""The categories of everything that is not an instrument."""

OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
"""The sides of the picture, each with the one opposite."""


@dataclass(frozen=True)
class Target:
    """One thing of a scene that sentences can name."""

    id: int
    """Its pixel value in the label image; ids start at 1."""
    category: str
    """One of :data:`CATEGORIES` or :data:`TISSUES`."""
    side: str | None
    """The side that an instrument or organ reaches in from, one of :data:`OPPOSITE`; None if it has no side."""
