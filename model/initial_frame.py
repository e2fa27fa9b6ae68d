"""CIFS, credible initial frame selection: which detected frame does tracking start from?

Pure Python on numbers. For each object: keep the last credible frames; when enough of them follow one another
without a gap, the best of them becomes the conditioning frame.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from model.config import Rules

Evidence = TypeVar("Evidence")


def presence(object_score: float) -> float:
    """The probability that the object is there: the sigmoid of the object score."""
    if object_score >= 0:
        return 1 / (1 + math.exp(-object_score))
    return math.exp(object_score) / (1 + math.exp(object_score))


def is_credible(rules: Rules, object_score: float, predicted_iou: float) -> bool:
    """Whether a detection may be one of the frames in a row that start tracking. ``object_score`` is the logit."""
    return presence(object_score) > rules.min_presence and predicted_iou > rules.min_iou


@dataclass(frozen=True)
class Candidate(Generic[Evidence]):
    """A credible frame, with whatever is needed to make it the conditioning frame later."""

    frame: int
    predicted_iou: float
    evidence: Evidence


class InitialFrameSelector(Generic[Evidence]):
    """The rule for one object; frames must be shown in order."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._candidates: deque[Candidate[Evidence]] = deque(maxlen=rules.window)

    @property
    def run(self) -> list[Candidate[Evidence]]:
        """The credible frames that count so far, in order."""
        return list(self._candidates)

    def observe(
        self, frame: int, object_score: float, predicted_iou: float, evidence: Evidence
    ) -> Candidate[Evidence] | None:
        """Show the detection of ``frame``; returns the chosen candidate once there is one, else None.

        ``object_score`` is the logit. The chosen frame may lie up to ``window`` - 1 frames back.
        """
        rules, candidates = self._rules, self._candidates
        if not is_credible(rules, object_score, predicted_iou):
            # For a low presence, the published code drops the oldest candidate and does not clear the list. As the
            # gap breaks the run of consecutive frames, the decisions are the same either way.
            if candidates and presence(object_score) <= rules.min_presence:
                candidates.popleft()
            return None
        candidates.append(Candidate(frame, predicted_iou, evidence))
        complete = len(candidates) == rules.window and frame - candidates[0].frame == rules.window - 1
        if not complete:
            return None
        return max(candidates, key=lambda c: (c.predicted_iou, c.frame))  # a tie goes to the newest
