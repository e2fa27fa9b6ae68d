"""The verbs of the network, as whoever follows objects needs them: by itself, or run by an executor."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from model.config import NetworkConfig, Rules
from model.image_encoder import ImageFeatures
from model.memory import Buffers, Memory, Recalled, RecallTable
from model.network import Followed, Prediction
from model.prompt_tokens import Clicks
from model.text_encoder import Prompts


class Verbs(Protocol):
    """What a session asks of the network, or of the :class:`~model.executor.Executor` that runs it."""

    @property
    def config(self) -> NetworkConfig:
        """The sizes of the network."""
        ...

    def detect(self, features: ImageFeatures, earlier: list[Tensor], prompts: Prompts) -> Prediction:
        """As :meth:`.ReSurgSAM2.detect`."""
        ...

    def follow(
        self, features: ImageFeatures, buffers: Buffers, table: RecallTable, prompts: Prompts | None
    ) -> Followed:
        """As :meth:`.ReSurgSAM2.follow`."""
        ...

    def point(
        self,
        features: ImageFeatures,
        clicks: Clicks,
        recalled: Recalled | None = None,
        fed_back: Tensor | None = None,
        prompts: Prompts | None = None,
    ) -> Prediction:
        """As :meth:`.ReSurgSAM2.point`."""
        ...

    def adopt(self, features: ImageFeatures, masks: Tensor, prompts: Prompts | None = None) -> Prediction:
        """As :meth:`.ReSurgSAM2.adopt`."""
        ...

    def memorize(self, main: Tensor, mask_logits: Tensor, object_score: Tensor, *, prompted: bool = False) -> Tensor:
        """As :meth:`.ReSurgSAM2.memorize`."""
        ...

    def memory(self, objects: int, rules: Rules) -> Memory:
        """As :meth:`.ReSurgSAM2.memory`."""
        ...
