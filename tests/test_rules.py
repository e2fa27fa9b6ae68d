"""CIFS and DLM against slow, literal versions of their rules, on random streams."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
import torch.nn.functional as F

from model.config import Rules
from model.initial_frame import InitialFrameSelector, presence
from model.memory import frame_similarity
from model.memory_bank import MemoryBank, most_frames, most_kept


def literal_initial_frame(stream: list[tuple[float, float]]) -> tuple[int, int] | None:
    """(chosen, decided at) by the published rule, whose list a gap does not clear."""
    kept: list[tuple[int, float]] = []
    for frame, (score, iou) in enumerate(stream):
        if not 1 / (1 + math.exp(-score)) > 0.9:
            kept = kept[1:]
        elif iou > 0.7:
            kept = [*kept, (frame, iou)][-5:]
        if len(kept) == 5 and all(b[0] - a[0] == 1 for a, b in itertools.pairwise(kept)):
            best = max(value for _, value in kept)
            return [number for number, value in kept if value == best][-1], frame
    return None


@pytest.mark.parametrize("seed", range(300))
def test_initial_frame(seed: int) -> None:
    rng = random.Random(seed)
    credible = rng.choice([0.5, 0.8, 0.95])
    stream = [
        (
            rng.uniform(2.3, 6) if rng.random() < credible else rng.uniform(-5, 2.1),
            rng.choice([0.72, 0.8, 0.8, 0.9]) if rng.random() < credible else rng.uniform(0.2, 0.7),
        )
        for _ in range(60)
    ]
    selector = InitialFrameSelector[int](Rules())
    chosen = None
    for frame, (score, iou) in enumerate(stream):
        candidate = selector.observe(frame, score, iou, evidence=frame * 10)
        if candidate is not None:
            assert candidate.evidence == candidate.frame * 10
            chosen = candidate.frame, frame
            break
    assert chosen == literal_initial_frame(stream)


def test_thresholds_are_strict() -> None:
    logit = math.log(0.9 / 0.1)
    assert presence(logit) == pytest.approx(0.9)
    selector = InitialFrameSelector[None](Rules(window=1, min_presence=0.5))
    assert selector.observe(0, 0.0, 0.9, None) is None
    assert selector.observe(1, 1.0, 0.7, None) is None
    assert selector.observe(2, 1.0, 0.71, None) is not None


def test_presence_of_extreme_scores() -> None:
    assert presence(-5000.0) == 0
    assert presence(5000.0) == 1


def features(frame: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(frame)
    return torch.randn(4, 3, 3, generator=g).bfloat16()


def promote(bank: MemoryBank, frame: int, iou: float) -> None:
    """Remember a frame, and promote as the memory does it."""
    promotion = bank.remember(frame, iou)
    if promotion is not None:
        anchor, *maps = (features(x).permute(1, 2, 0) for x in (promotion.anchor, *promotion.candidates))
        bank.promote(promotion.candidates[int(frame_similarity(torch.stack(maps), anchor).argmin())])


class LiteralMemory:
    """Keeps everything, and works out what is recalled from the whole history each time."""

    def __init__(self, conditioning: int, clip_length: int | None) -> None:
        self.conditioning = conditioning
        self.tracked: list[int] = []
        self.pool: list[int] = []
        self.long_term: list[int] = []
        self.pointers = 16 if clip_length is None else min(clip_length, 16)

    def recall(self, t: int) -> tuple[list[tuple[int, int]], list[tuple[int, float]]]:
        frames = [(self.conditioning, -1)]
        frames += [(t - d, d - 1) for d in range(6, 0, -1) if t - d in self.tracked]
        frames += [(f, -1) for f in self.long_term if not t - 6 <= f <= t - 1]
        pointers = [(self.conditioning, (t - self.conditioning) / (self.pointers - 1))]
        pointers += [(t - d, d / (self.pointers - 1)) for d in range(1, 16) if t - d in self.tracked]
        return frames, pointers

    def remember(self, t: int, iou: float) -> None:
        self.tracked.append(t)
        if iou > 0.95:
            self.pool.append(t)
        if len(self.pool) == 5:
            anchor = features(self.long_term[-1] if self.long_term else self.conditioning).float()
            alike = [float(F.cosine_similarity(features(f).float(), anchor, dim=-1).sum()) for f in self.pool]
            self.long_term = [*self.long_term, self.pool[alike.index(min(alike))]][-3:]
            self.pool = []


@pytest.mark.parametrize("seed", range(60))
def test_memory_bank(seed: int) -> None:
    rng = random.Random(seed)
    conditioning, decided = 3, rng.randint(3, 7)
    clip_length = rng.choice([None, 12, 16, 400])
    bank = MemoryBank(Rules(), conditioning, clip_length)
    literal = LiteralMemory(conditioning, clip_length)
    for t in range(decided + 1, 60):
        recall = bank.recall(t)
        frames, pointers = literal.recall(t)
        assert recall.frames == frames
        assert recall.pointers == pointers
        assert {x for x, _ in (*frames, *pointers)} <= bank.frames
        assert len(frames) <= most_frames(Rules())
        assert len(bank.frames | {t}) <= most_kept(Rules())
        assert bank.long_term_frames == tuple(literal.long_term)
        assert bank.long_term_candidates == tuple(literal.pool)
        iou = rng.uniform(0.9, 1.0)
        promote(bank, t, iou)
        literal.remember(t, iou)
    assert len(literal.long_term) == 3


def test_similarity_is_along_the_width() -> None:
    maps = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])[..., None]  # (1, height, width, 1)
    anchor = torch.tensor([[1.0, 0.0], [1.0, 0.0]])[..., None]
    assert frame_similarity(maps, anchor).tolist() == [1.0]


def test_long_term_memory_can_be_switched_off() -> None:
    bank = MemoryBank(Rules(long_term=0), 0)
    for t in range(1, 30):
        bank.remember(t, 0.99)
    assert bank.long_term_frames == ()
    assert len(bank.recall(30).frames) == 7


@pytest.mark.parametrize(
    "values", [{"min_presence": 1.5}, {"min_iou": -0.1}, {"window": 0}, {"long_term": -1}, {"pool": 0}]
)
def test_impossible_rules(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Rules(**values)  # type: ignore[arg-type]
