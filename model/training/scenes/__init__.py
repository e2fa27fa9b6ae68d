"""Surgical-looking scenes with exact masks and sentences: an endless supply, one per seed.

A :class:`Scene` draws an endoscope's view: wet tissue that breathes, instruments of eight kinds that enter from a
side and work, sometimes an organ, a needle or a thread, and the camera's flaws. Colour and labels come from the
same geometry, so masks are exact. The same seed, size and length give the same pixels, frame by frame, in any order::

    scene = Scene(7)
    image, labels = scene.render(40)
    for target in scene.targets:
        mask, sentences = labels == target.id, scene.sentences(target, 40)

Lengths are in units of the image's height, in screen axes (x right, y down), unless a docstring says otherwise.
Nothing but noise depends on the image's size, so a seed shows the same scene at any resolution of the same aspect.
"""

from __future__ import annotations

from model.training.scenes.motion import ACTIONS
from model.training.scenes.scene import Scene
from model.training.scenes.targets import CATEGORIES, OPPOSITE, TISSUES, Target

__all__ = ["ACTIONS", "CATEGORIES", "OPPOSITE", "TISSUES", "Scene", "Target"]
