"""Passes in both directions with any number of conditioning frames, against a literal version of the rules."""

from __future__ import annotations

import random

import pytest
import torch
from conftest import SMALL, small_state

from model import ReSurgSAM2, Rules, Segmenter, Session
from model.finding_again import FindAgain, Finder
from model.image_encoder import ImageFeatures
from model.memory import Buffers, Memory, RecallTable
from model.memory_bank import MOST_CONDITIONING, Keep, MemoryBank
from model.network import Followed, Prediction, numbers
from model.prompt_tokens import Clicks
from model.states import FoundAgain
from model.text_encoder import Prompts


class LiteralBank:
    """Keeps everything, and works out what is recalled from the whole history each time, as POINTING says it."""

    def __init__(self, first: int, clip_length: int | None) -> None:
        self.conditioning = [first]
        self.tracked: set[int] = set()
        self.passed: dict[int, tuple[int, list[int]]] = {}
        self.long_term: list[int] = []
        self.pool: list[int] = []
        self.sign = 1
        self.longest = 16 if clip_length is None else min(clip_length, 16)

    def begin(self, sign: int) -> None:
        self.sign, self.long_term, self.pool = sign, [], []

    def condition(self, frame: int) -> None:
        if frame not in self.conditioning:
            self.conditioning.append(frame)
        self.tracked -= {frame}
        self.long_term = [x for x in self.long_term if x != frame]
        self.pool = [x for x in self.pool if x != frame]

    def take_back(self, frame: int) -> None:
        self.conditioning.remove(frame)
        self.tracked.add(frame)
        self.passed.pop(frame, None)

    def recall(self, t: int, s: int, long_term: list[int]) -> tuple[list[tuple[int, int]], list[tuple[int, float]]]:
        frames = [(c, -1) for c in self.conditioning]
        recent = [t - d * s for d in range(6, 0, -1) if t - d * s in self.tracked]
        frames += [(m, abs(t - m) - 1) for m in recent]
        frames += [(m, -1) for m in long_term if m not in recent]
        pointers = [(c, (t - c) * s) for c in self.conditioning if (t - c) * s >= 0]
        pointers += [(t - d * s, d) for d in range(1, 16) if t - d * s in self.tracked]
        return frames, [(m, d / (self.longest - 1)) for m, d in pointers]

    def remember(self, t: int, iou: float) -> tuple[list[int], int] | None:
        self.tracked.add(t)
        self.passed[t] = (self.sign, list(self.long_term))
        if iou > 0.95:
            self.pool.append(t)
        if len(self.pool) < 5:
            return None
        if self.long_term:
            return self.pool, self.long_term[-1]
        behind = [c for c in self.conditioning if (t - c) * self.sign >= 0]
        if behind:
            return self.pool, max(behind, key=lambda c: c * self.sign)
        return self.pool, min(self.conditioning, key=lambda c: c * self.sign)


@pytest.mark.parametrize("seed", range(80))
def test_passes_and_prompts_in_any_order(seed: int) -> None:
    rng = random.Random(seed)
    length = rng.choice([8, 14, 60])
    clip_length = length if length < 16 else rng.choice([None, length])
    first = rng.randrange(length)
    bank, literal = MemoryBank(Rules(), first, clip_length, keep="all"), LiteralBank(first, clip_length)
    for _ in range(rng.randint(2, 6)):
        sign = rng.choice([1, -1])
        start = rng.randrange(length)
        bank.begin(1 if sign == 1 else -1)
        literal.begin(sign)
        for t in range(start, length) if sign == 1 else range(start, -1, -1):
            if t in literal.conditioning:
                bank.keep(t)
                literal.passed[t] = (sign, [])
                continue
            recall = bank.recall(t)
            assert (recall.frames, recall.pointers) == literal.recall(t, sign, literal.long_term)
            assert {x for x, _ in (*recall.frames, *recall.pointers)} <= bank.frames
            iou = rng.uniform(0.93, 1)
            promotion, expected = bank.remember(t, iou), literal.remember(t, iou)
            assert (promotion is None) == (expected is None)
            if promotion is not None and expected is not None:
                assert (list(promotion.candidates), promotion.anchor) == expected
                chosen = rng.choice(promotion.candidates)
                bank.promote(chosen)
                literal.long_term, literal.pool = [*literal.long_term, chosen][-3:], []
        for _ in range(rng.randint(0, 3)):
            t = rng.randrange(length)
            again = bank.recall_again(t)
            assert (again is None) == (t not in literal.passed)
            if again is not None:
                sign, long_term = literal.passed[t]
                long_term = [] if t in literal.conditioning else [m for m in long_term if m in literal.tracked]
                assert (again.frames, again.pointers) == literal.recall(t, sign, long_term)
            if t in literal.conditioning and len(literal.conditioning) > 1 and rng.random() < 0.5:
                bank.take_back(t)
                literal.take_back(t)
            else:
                bank.condition(t)
                literal.condition(t)
            assert bank.conditioning_frames == tuple(literal.conditioning)
    assert bank.long_term_frames == tuple(literal.long_term)


@pytest.mark.parametrize("keep", ["pass", "both"])
def test_what_is_kept_is_enough(keep: Keep) -> None:
    """A bounded bank recalls the same as one that keeps everything, forwards and then backwards from the start."""
    banks = [MemoryBank(Rules(), 40, keep=x) for x in (keep, "all")]
    for bank in banks:
        bank.condition(90)
    for t in range(41, 200):
        if t == 90:
            continue
        recalls = [bank.recall(t) for bank in banks]
        assert recalls[0] == recalls[1]
        for bank in banks:
            if bank.remember(t, 0.96) is not None:
                bank.promote(t)
    assert len(banks[0].frames) <= 25 + (30 if keep == "both" else 0)
    if keep == "pass":
        return
    for bank in banks:
        bank.begin(-1)
    for t in range(39, -1, -1):
        recalls = [bank.recall(t) for bank in banks]
        assert recalls[0] == recalls[1]
        for bank in banks:
            bank.remember(t, 0.5)


def test_the_nearest_of_many_conditioning_frames() -> None:
    bank = MemoryBank(Rules(), 0)
    for t in range(10, 1000, 10):
        bank.condition(t)
    recall = bank.recall(501)
    near = [m for m, slot in recall.frames if slot == -1]
    assert len(near) == recall.conditioning == MOST_CONDITIONING
    assert min(near) > 300
    assert max(near) < 700
    assert near == sorted(near)


def test_an_object_is_lost_after_some_frames_and_looked_for_now_and_then() -> None:
    finder: Finder[None] = Finder(FindAgain(after=3, every=4), Rules())
    assert finder.due(0, {0: True}) == []
    looked = [t for t in range(1, 20) if finder.due(t, {0: False})]
    assert looked == [4, 8, 12, 16]
    assert finder.since(0) == 1
    for t in range(20, 25):  # credible: each frame is looked at from then on
        assert finder.due(t, {0: False}) == [0], t
        found = finder.observe(0, t, 5.0, 0.9 + 0.01 * (t == 22), None)
        assert [x.frame for x in found] == ([22, 23, 24] if t == 24 else [])
    assert finder.due(25, {0: True}) == []
    assert finder.due(26, {0: False}) == []


def test_a_short_absence_is_no_loss() -> None:
    finder: Finder[None] = Finder(FindAgain(after=3, every=1), Rules())
    for t, there in enumerate([False, False, True, False, False, True]):
        assert finder.due(t, {0: there}) == []


@pytest.fixture(scope="module")
def small() -> ReSurgSAM2:
    network = ReSurgSAM2(SMALL)
    network.load_state_dict(small_state(score_bias=4.0))
    return network.eval().requires_grad_(False)


def frames_of(network: ReSurgSAM2, count: int) -> list[ImageFeatures]:
    generator = torch.Generator().manual_seed(5)
    size = SMALL.image_size
    return [network.encode_image(torch.randn(1, 3, size, size, generator=generator)) for _ in range(count)]


A_CLICK = Clicks(torch.tensor([[[0.4, 0.6]]]), torch.tensor([[1]]))
CREDIBLE = Rules(min_presence=0.0, min_iou=0.0)


@torch.inference_mode()
def test_words_are_searched_for_beside_what_is_pointed_at(small: ReSurgSAM2) -> None:
    """CIFS together with marks: each object is as it would be alone."""
    features = frames_of(small, 9)
    prompts = small.encode_text(["left grasper"])
    alone = Segmenter(small, prompts, CREDIBLE, 9)
    expected = [alone.step(x) for x in features]

    both = Session(small, prompts, CREDIBLE, 9)
    pointed = both.add()
    both.point(pointed, 2, features[2], A_CLICK)
    both.begin()
    single = Session(small, None, CREDIBLE, 9)
    single.add()
    single.point(0, 2, features[2], A_CLICK)
    single.begin()
    for t, x in enumerate(features):
        found, other = both.step(t, x), single.step(t, x)
        assert torch.allclose(found.mask_logits[0], expected[t].mask_logits[0], atol=1e-4)
        assert torch.allclose(found.mask_logits[1], other.mask_logits[0], atol=1e-4)
        assert found.objects[0].stage == expected[t].objects[0].stage
        assert found.objects[0].conditioning_frames == expected[t].objects[0].conditioning_frames
        assert found.objects[1].stage == ("point" if t == 2 else "track")
    assert both.conditioning_frames(0) != ()


@torch.inference_mode()
def test_a_prompt_ends_the_search(small: ReSurgSAM2) -> None:
    features = frames_of(small, 6)
    session = Session(small, small.encode_text(["left grasper"]), CREDIBLE)
    session.point(0, 3, features[3], A_CLICK)
    session.begin()
    stages = [session.step(t, x).objects[0].stage for t, x in enumerate(features)]
    assert stages == ["track", "track", "track", "point", "track", "track"]


@torch.inference_mode()
def test_a_mark_on_the_frame_that_the_words_chose_replaces_it(small: ReSurgSAM2) -> None:
    features = frames_of(small, 8)
    session = Session(small, small.encode_text(["left grasper"]), CREDIBLE)
    session.begin()
    for t, x in enumerate(features):
        session.step(t, x)
    (chosen,) = session.conditioning_frames(0)
    before = session.step(chosen, features[chosen]).mask_logits
    session.point(0, chosen, features[chosen], A_CLICK)
    session.begin()
    assert session.conditioning_frames(0) == (chosen,)
    kept = session.step(chosen, features[chosen])
    assert kept.objects[0].stage == "point"
    assert not torch.equal(kept.mask_logits, before)


@torch.inference_mode()
def test_a_prompt_that_is_taken_back(small: ReSurgSAM2) -> None:
    """Before a pass, nothing is left of it; after one, the frame is a tracked one with the mask that it has."""
    features = frames_of(small, 6)

    def tracked(take_back: bool) -> list[torch.Tensor]:
        session = Session(small)
        session.add()
        session.point(0, 0, features[0], A_CLICK)
        if take_back:
            session.point(0, 4, features[4], A_CLICK)
            session.take_back(0, 4)
        session.begin()
        return [session.step(t, x).mask_logits for t, x in enumerate(features)]

    assert all(torch.equal(a, b) for a, b in zip(tracked(True), tracked(False), strict=True))

    session = Session(small)
    session.add()
    session.point(0, 0, features[0], A_CLICK)
    session.point(0, 4, features[4], A_CLICK)
    session.begin()
    for t, x in enumerate(features):
        session.step(t, x)
    session.take_back(0, 4)
    assert session.conditioning_frames(0) == (0,)
    session.begin()
    assert session.step(4, features[4]).objects[0].stage == "track"
    with pytest.raises(KeyError):
        session.take_back(0, 4)
    session.take_back(0, 0)
    with pytest.raises(ValueError, match="neither words nor a prompt"):
        session.begin()


@torch.inference_mode()
def test_the_order_of_objects_changes_nothing(small: ReSurgSAM2) -> None:
    features = frames_of(small, 5)
    other = Clicks(torch.tensor([[[0.2, 0.2], [0.8, 0.9]]]), torch.tensor([[1, 0]]))

    def run(order: tuple[int, int]) -> list[torch.Tensor]:
        session = Session(small)
        session.add()
        session.add()
        for row in order:
            session.point(row, row, features[row], (A_CLICK, other)[row])
        session.begin()
        return [session.step(t, x).mask_logits for t, x in enumerate(features)]

    for a, b in zip(run((0, 1)), run((1, 0)), strict=True):
        assert torch.equal(a, b)


@torch.inference_mode()
def test_memory_grows_with_prompts_alone(small: ReSurgSAM2) -> None:
    features = frames_of(small, 3)
    session = Session(small, keep="both")
    session.add()
    for t in range(0, 120, 10):
        session.point(0, t, features[t % 3], A_CLICK)
    session.begin()
    sizes = []
    for t in range(600):
        session.step(t, features[t % 3])
        assert session._memory is not None
        sizes.append(len(session._memory.buffers.pointers))
    assert sizes[300] == sizes[-1] <= 2 * (12 * 16 + 32)
    assert len(session._objects[0].results) == 12


class Scripted:
    """Verbs that say what a script says: the frame's number lies in its features."""

    config = SMALL

    def __init__(self, tracked: dict[int, int], found: dict[int, int]) -> None:
        self.tracked, self.found = tracked, found
        """In which frames there is something, and in which half of the picture: 0 or 1."""
        self.searched: list[int] = []

    def _say(self, features: ImageFeatures, there: dict[int, int], objects: int) -> Prediction:
        frame = int(features.main[0, 0, 0, 0])
        logits = torch.full((objects, SMALL.mask_size, SMALL.mask_size), -1024.0)
        if frame in there:
            logits[:, there[frame] * 16 :][:, :16] = 5.0
        score = torch.full((objects,), 6.0 if frame in there else -6.0)
        return Prediction(logits, torch.full((objects,), 0.9), score, torch.zeros(objects, SMALL.dim))

    def detect(self, features: ImageFeatures, earlier: list[torch.Tensor], prompts: Prompts) -> Prediction:
        self.searched.append(int(features.main[0, 0, 0, 0]))
        assert [int(x[0, 0, 0, 0]) for x in earlier] == [self.searched[-1] - i for i in range(1, len(earlier) + 1)]
        return self._say(features, self.found, len(prompts.summary))

    def follow(
        self, features: ImageFeatures, buffers: Buffers, table: RecallTable, prompts: Prompts | None
    ) -> Followed:
        prediction = self._say(features, self.tracked, len(table.numbers))
        return Followed(prediction.mask_logits, numbers(prediction))

    def point(self, *_: object) -> Prediction:
        raise NotImplementedError

    adopt = point

    def memorize(
        self, main: torch.Tensor, mask_logits: torch.Tensor, object_score: torch.Tensor, *, prompted: bool = False
    ) -> torch.Tensor:
        return torch.zeros(len(mask_logits), SMALL.memory.dim, SMALL.map_size, SMALL.map_size)

    def memory(self, objects: int, rules: Rules) -> Memory:
        return Memory(Buffers.empty(objects, rules, SMALL, torch.device("cpu")), rules, fixed=False)


def played(verbs: Scripted, frames: int, when: FindAgain | None) -> tuple[Session, list[bool], list[FoundAgain]]:
    """Whether the object is present in each frame, as a session says it, with what it says later of earlier ones."""
    prompts = Prompts(torch.zeros(1, 3, SMALL.dim), torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 1, SMALL.dim))
    session = Session(verbs, prompts, find_again=when, keep="both")
    session.begin()
    present, again = [], []
    for t in range(frames):
        side = SMALL.map_size
        features = ImageFeatures(torch.full((1, SMALL.dim, side, side), float(t)), torch.zeros(0), torch.zeros(0))
        present.append(session.step(t, features).objects[0].present)
        again += session.found_again
        for x in session.found_again:
            for frame, (_, state) in x.results.items():
                present[frame] = state.present
    return session, present, again


def test_what_tracking_lost_is_found_again_by_its_words() -> None:
    """Tracking loses it at 20 for good; its words find it from 41 on, and are looked for in every fifth frame."""
    everywhere = dict.fromkeys([*range(20), *range(41, 80)], 0)
    verbs = Scripted(dict.fromkeys(range(20), 0), everywhere)
    session, present, again = played(verbs, 60, FindAgain(after=10, every=5))
    assert verbs.searched[:9] == [0, 1, 2, 3, 4, 30, 35, 40, 45]
    assert verbs.searched[9:13] == [46, 47, 48, 49]
    assert [(x.row, x.since, list(x.results)) for x in again[:1]] == [(0, 20, [49])]
    assert session.conditioning_frames(0)[:2] == (4, 49)
    assert present[:46] == [True] * 20 + [False] * 26
    session, _, again = played(Scripted(dict.fromkeys(range(20), 0), everywhere), 50, FindAgain(after=10, every=5))
    assert len(again) == 1
    session.begin(-1)
    side = SMALL.map_size
    session.step(48, ImageFeatures(torch.full((1, SMALL.dim, side, side), 48.0), torch.zeros(0), torch.zeros(0)))
    assert session.found_again == []
    without = played(Scripted(dict.fromkeys(range(20), 0), everywhere), 60, None)
    assert without[1] == [True] * 20 + [False] * 40


def test_what_only_looks_like_it_is_not_believed() -> None:
    """After a long absence tracking takes something on the other side; the words say no, then agree."""
    tracked = dict.fromkeys(range(15), 0) | dict.fromkeys(range(30, 40), 1) | dict.fromkeys(range(40, 60), 0)
    found = dict.fromkeys(range(15), 0) | dict.fromkeys(range(42, 60), 0)
    _, present, again = played(Scripted(tracked, found), 60, FindAgain(after=5, every=50))
    assert present == [True] * 15 + [False] * 27 + [True] * 18
    assert not again
    _, present, _ = played(Scripted(tracked, found), 60, FindAgain(after=5, every=50, agreement=0))
    assert present == [True] * 15 + [False] * 15 + [True] * 30
