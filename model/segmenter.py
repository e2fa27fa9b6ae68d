"""The two-stage algorithm as published: all objects of one video, each searched for or tracked, one frame per step.

An object is searched for (CSTMamba) until CIFS has chosen a credible frame. From the next frame to the end it is
tracked (memory attention over DLM). Objects in the same stage share one call of the network.
"""

from __future__ import annotations

from model.config import Rules
from model.image_encoder import ImageFeatures
from model.session import Session
from model.started import Started
from model.states import ObjectState, Stage, Step
from model.text_encoder import Prompts
from model.verbs import Verbs

__all__ = ["ObjectState", "Segmenter", "Stage", "Step", "Verbs"]


class Segmenter:
    """Steps all objects of one video through its frames, in memory that does not grow.

    It is a :class:`~model.session.Session` of a single pass forwards. ``clip_length`` is the number of frames to come,
    if it is known. It matters in short clips only: see :class:`~model.memory_bank.MemoryBank`.
    """

    def __init__(
        self,
        network: Verbs,
        prompts: Prompts,
        rules: Rules | None = None,
        clip_length: int | None = None,
    ) -> None:
        self._session = Session(network, prompts, rules, clip_length, keep="pass")
        self._session.begin()
        self._frame = 0

    def step(self, features: ImageFeatures) -> Step:
        """Segment the next frame. ``features`` is one frame of ``network.encode_image``, batch axis kept."""
        return self.start(features).step()

    def start(self, features: ImageFeatures) -> Started:
        """Begin to segment the next frame; ask for its step once the one after it is started, or at the end."""
        self._frame += 1
        return self._session.start(self._frame - 1, features)
