from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from model.training.scenes import ACTIONS, CATEGORIES, OPPOSITE, TISSUES, Scene

STRIDE = 5
SEEDS = range(60)


@cache
def scene(seed: int) -> Scene:
    return Scene(seed, height=96, width=120)


@cache
def label_video(seed: int) -> NDArray[np.uint8]:
    """(frames / STRIDE, 96, 120) labels of a scene."""
    return np.stack([scene(seed).labels(t) for t in range(0, 200, STRIDE)])


def visible_pixels(seed: int, ident: int) -> NDArray[np.int64]:
    """(frames / STRIDE,) pixels of a target."""
    return (label_video(seed) == ident).sum(axis=(1, 2))


def pair_of(seed: int) -> dict[str, int]:
    """Ids by side of the two instruments of one category; empty if a scene has no pair."""
    groups: dict[str, dict[str, int]] = {}
    for target in scene(seed).targets:
        groups.setdefault(target.category, {})[str(target.side)] = target.id
    return next((group for group in groups.values() if len(group) == 2), {})


def test_same_seed_and_time_give_the_same_pixels_in_any_order() -> None:
    forth, back = Scene(3, frames=60), Scene(3, frames=60)
    times = [0, 7, 31, 59]
    first = {t: forth.render(t) for t in times}
    for t in reversed(times):
        image, labels = back.render(t)
        np.testing.assert_array_equal(image, first[t][0])
        np.testing.assert_array_equal(labels, first[t][1])
        np.testing.assert_array_equal(labels, back.labels(t))


def test_seeds_and_times_differ() -> None:
    image, _ = Scene(3).render(0)
    assert (image != Scene(4).render(0)[0]).mean() > 0.5
    assert (image != Scene(3).render(1)[0]).mean() > 0.5


@pytest.mark.parametrize(("height", "width"), [(128, 160), (90, 200), (512, 640), (720, 1280)])
def test_other_sizes(height: int, width: int) -> None:
    image, labels = Scene(10, height=height, width=width, frames=20).render(9)
    assert (image.shape, image.dtype.name) == ((height, width, 3), "uint8")
    assert (labels.shape, labels.dtype.name) == ((height, width), "uint8")
    assert 30 < image.mean() < 220
    assert labels.any()


def test_a_seed_shows_the_same_scene_at_any_size() -> None:
    small, large = Scene(4, height=128, width=160), Scene(4)
    assert small.targets == large.targets
    assert (small.labels(50) == large.labels(50)[1::2, 1::2]).mean() > 0.97


@pytest.mark.parametrize("frames", [1, 2, 12, 40])
def test_short_scenes(frames: int) -> None:
    for seed in range(5):
        Scene(seed, height=64, width=80, frames=frames).render(frames - 1)


def test_a_frame_beyond_the_end_is_an_error() -> None:
    with pytest.raises(IndexError, match="frame 200"):
        scene(0).render(200)


def test_labels_are_the_ids_of_targets_and_targets_are_seen() -> None:
    targets = unseen = 0
    for seed in SEEDS:
        idents = [target.id for target in scene(seed).targets]
        assert idents == list(range(1, len(idents) + 1))
        assert set(np.unique(label_video(seed))) <= {0, *idents}
        targets += len(idents)
        unseen += sum(not visible_pixels(seed, ident).any() for ident in idents)
    assert unseen <= 0.01 * targets


def test_instruments_stand_out_from_what_they_cover() -> None:
    """The colour follows the mask: the image has an edge where the labels have one."""
    inside, across = [], []
    for seed in range(6):
        image, labels = Scene(seed).render(30)
        step = np.abs(np.diff(image.astype(float), axis=0)).sum(axis=2)
        border = labels[1:] != labels[:-1]
        inside.append(step[~border].mean())
        across.append(step[border].mean())
    assert np.mean(across) > 3 * np.mean(inside)


def test_every_category_and_action_occurs() -> None:
    targets = [(scene(seed), target) for seed in SEEDS for target in scene(seed).targets]
    assert {target.category for _, target in targets} == {*CATEGORIES, *TISSUES}
    assert {one.action(target, t) for one, target in targets for t in range(0, 200, 20)} == set(ACTIONS)


def test_sentences_name_one_target() -> None:
    for seed in SEEDS:
        for t in (None, 40, 120):
            sentences = [scene(seed).sentences(target, t) for target in scene(seed).targets]
            flat = [sentence for group in sentences for sentence in group]
            assert len(flat) == len(set(flat))
            assert all(sentences)


def test_sentences_of_a_pair_tell_its_sides() -> None:
    seed = next(seed for seed in SEEDS if pair_of(seed))
    for side, ident in pair_of(seed).items():
        target = scene(seed).targets[ident - 1]
        assert scene(seed).sentences(target) == [f"{side} {target.category}", f"{target.category} on the {side}"]


def test_the_action_is_told_of_what_is_seen() -> None:
    lone = Scene(1)
    target = lone.targets[0]
    bare, *_, located, acting = lone.sentences(target, 20)
    assert bare == target.category
    assert acting == f"{target.category} is {lone.action(target, 20)}"
    assert located.startswith(f"{acting} on the ")


def test_absent_sentences_name_nothing_present() -> None:
    rng = np.random.default_rng(0)
    for seed in SEEDS:
        present = {(target.category, target.side) for target in scene(seed).targets}
        sentences = scene(seed).absent_sentences(rng, 20)
        assert len(sentences) == 20
        for sentence in sentences:
            category = max((name for name in CATEGORIES + TISSUES if name in sentence), key=len)
            sides = {side for name, side in present if name == category}
            named = set(sentence.replace(category, "").split()) & set(OPPOSITE)
            assert not sides or any(OPPOSITE[str(side)] in named for side in sides), sentence
            assert not sides & named, sentence


def test_sides_are_true() -> None:
    """Over time, an instrument's centroid is on its side; of a pair, each is on its own side of the other."""
    for seed in SEEDS:
        centres = {}
        for target in scene(seed).targets:
            _, rows, columns = np.nonzero(label_video(seed) == target.id)
            if len(rows) and target.side:
                centres[target.id] = place = {"top": rows.mean() / 96, "left": columns.mean() / 120}
                place |= {"bottom": 1 - place["top"], "right": 1 - place["left"]}
                assert place[target.side] < 0.5, (seed, target)
        for side, ident in pair_of(seed).items():
            other = pair_of(seed)[OPPOSITE[side]]
            if {ident, other} <= centres.keys():
                assert centres[ident][side] < centres[other][side]


def comes_back(seed: int, ident: int) -> bool:
    """Whether a target is away for at least 15 frames between two times when it is there."""
    seen = np.flatnonzero(visible_pixels(seed, ident))
    return bool(len(seen) > 1 and np.diff(seen).max() * STRIDE >= 15 + STRIDE)


def test_pairs_and_leavers_have_their_share() -> None:
    pairs = np.mean([bool(pair_of(seed)) for seed in SEEDS])
    leavers = np.mean([any(comes_back(seed, target.id) for target in scene(seed).targets) for seed in SEEDS])
    assert 0.18 <= pairs <= 0.42
    assert 0.27 <= leavers <= 0.53
