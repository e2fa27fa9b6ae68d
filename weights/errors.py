"""The one error of this package."""

from __future__ import annotations


class WeightsError(Exception):
    """Weights are missing, damaged or do not fit. ``hint`` says what to do about it, in one line."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
