"""Curves of a training, drawn from its logs."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np

_SCORES = ("J&F", "J", "F")
_POINTS = 200  # points per curve; each is the mean of a stretch


def _columns(path: Path, *needed: str) -> dict[str, np.ndarray]:
    """The columns of a table by name; none if it has no line of numbers, or lacks one that is needed."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        # Whatever else somebody wrote into the file is passed over.
        names, *lines = [line.split(",") for line in file.read().splitlines()] or [[]]
    rows = [row for x in lines if len(x) == len(names) and (row := _numbers(x))]
    if not rows or not set(needed) <= set(names):
        return {}
    return {name: np.array([row[i] for row in rows]) for i, name in enumerate(names)}


def _numbers(cells: list[str]) -> list[float]:
    """The numbers in a line; empty if it has something else."""
    try:
        numbers = [float(x) for x in cells]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def draw_curves(log: Path, validation: Path) -> bytes | None:
    """Losses of ``log`` and J&F of ``validation`` over steps as a PNG; None if there are no losses yet."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    losses, scores = _columns(log, "step"), _columns(validation, "step", *_SCORES)
    if not losses:
        return None
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    stretch = max(1, len(losses["step"]) // _POINTS)
    whole = len(losses["step"]) // stretch * stretch
    for name in losses:
        if name not in ("step", "frames", "seconds") and losses[name].any():
            steps, values = (x[:whole].reshape(-1, stretch).mean(axis=1) for x in (losses["step"], losses[name]))
            above.semilogy(steps, np.where(values > 0, values, np.nan), label=name)
    above.set_ylabel("loss")
    above.legend()
    for name in _SCORES:
        if scores:
            below.plot(scores["step"], scores[name], marker="o", markersize=3, label=name)
    if scores:
        below.legend()
    below.set_ylabel("validation")
    below.set_ylim(0, 100)
    below.set_xlabel("step")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    return picture.getvalue()
