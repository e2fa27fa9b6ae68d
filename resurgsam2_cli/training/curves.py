"""Curves of a training, drawn from its logs."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

_POINTS = 200  # points per curve; each is the mean of a stretch


def _columns(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]} if rows else {}


def draw_curves(log: Path, validation: Path) -> bytes | None:
    """Losses of ``log`` and J&F of ``validation`` over steps as a PNG; None if there are no losses yet."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    losses, scores = _columns(log), _columns(validation)
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
    for name in ("J&F", "J", "F"):
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
