"""J and F against literal versions of their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from resurgsam2_cli.measuring.metrics import contour_accuracy, region_similarity


def literal_boundary(mask: np.ndarray) -> set[tuple[int, int]]:
    height, width = mask.shape
    found = set()
    for y in range(height):
        for x in range(width):
            # Beyond the last row and column, a pixel has no neighbour to differ from.
            near = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if y == height - 1:
                near = [(y, x + 1)]
            elif x == width - 1:
                near = [(y + 1, x)]
            if any(v < height and u < width and mask[v, u] != mask[y, x] for v, u in near):
                found.add((y, x))
    return found


def literal_f(mask: np.ndarray, truth: np.ndarray) -> float:
    radius = math.ceil(0.008 * math.hypot(*mask.shape))
    ours, theirs = literal_boundary(mask), literal_boundary(truth)
    if not ours or not theirs:
        return float(bool(ours) == bool(theirs))

    def share(of: set[tuple[int, int]], near: set[tuple[int, int]]) -> float:
        hits = [any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in near) for y, x in of]
        return sum(hits) / len(hits)

    precision, recall = share(ours, theirs), share(theirs, ours)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(12))
def test_against_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = 60 + 20 * seed, 90
    masks = []
    for _ in range(2):
        mask = np.zeros((height, width), bool)
        y, x = rng.integers(0, height - 20), rng.integers(0, width - 20)
        mask[y : y + rng.integers(5, 60), x : x + rng.integers(5, 60)] = True
        masks.append(mask ^ (rng.random(mask.shape) < 0.002))
    ours, truth = masks
    assert contour_accuracy(ours, truth) == pytest.approx(literal_f(ours, truth), abs=1e-9)
    assert region_similarity(ours, truth) == (ours & truth).sum() / (ours | truth).sum()


def test_empty_masks() -> None:
    empty, full = np.zeros((20, 30), bool), np.ones((20, 30), bool)
    one = empty.copy()
    one[5:9, 5:9] = True
    assert region_similarity(empty, empty) == contour_accuracy(empty, empty) == 1
    assert region_similarity(empty, one) == contour_accuracy(empty, one) == 0
    assert region_similarity(full, full) == contour_accuracy(full, full) == 1
