"""Training lowers the loss, and goes on after an interruption as if nothing had happened."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL

from model import ReSurgSAM2
from model.mask_decoder import DecodedMasks
from model.training.clips import Clip, SceneClips, colour_jittered, flipped
from model.training.losses import dice_loss, focal_loss, frame_losses
from model.training.trainer import Recipe, Trainer, initialize
from resurgsam2_cli import training
from weights.errors import WeightsError
from weights.loader import load_network

PLAN = training.TrainingPlan(
    SMALL,
    (
        training.Phase(steps=4, image_size=64, batch=2, prompts=2, tracked=2),
        training.Phase(steps=4, image_size=128, batch=1, prompts=2, tracked=2),
    ),
    Recipe(steps=8, learning_rate=1e-3, fusion_learning_rate=1e-3, train_text=True, gradient_clip=1.0),
    seed=3,
)


def test_resuming_gives_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_SCENES_KEPT_FOR", 2)
    whole = training.train(PLAN, tmp_path / "whole")
    for _ in range(5):  # each call stops at the first chance
        parts = training.train(PLAN, tmp_path / "parts", training.Conduct(until=0.0))
    expected, actual = (load_network(path)[0].state_dict() for path in (whole, parts))
    assert all(torch.equal(actual[key], expected[key]) for key in expected)
    for folder in ("whole", "parts"):
        rows = list(csv.DictReader((tmp_path / folder / "log.csv").open()))
        assert [int(x["step"]) for x in rows] == list(range(1, 9))
        assert {x["frames"] for x in rows} == {"3", "5"}


def test_starting_from_a_release(tmp_path: Path, small_weights: Path, checkpoints: dict[str, Path]) -> None:
    plan = replace(PLAN, phases=(), config=replace(SMALL, image_size=256), start=small_weights)
    release = training.train(plan, tmp_path / "out")
    expected, actual = (load_network(path)[0].state_dict() for path in (small_weights, release))
    assert all(torch.equal(actual[key], expected[key].half().float()) for key in expected)
    with pytest.raises(WeightsError, match="another configuration"):
        training.train(replace(PLAN, start=checkpoints["modules"]), tmp_path / "other")


def test_training_on_one_clip_lowers_the_loss() -> None:
    clip = next(iter(SceneClips(0, length=5, prompts=2, height=128, width=160)))
    network = ReSurgSAM2(SMALL)
    initialize(network)
    recipe = Recipe(
        steps=40, learning_rate=3e-3, fusion_learning_rate=3e-3, warm_up=0.1, gradient_clip=1.0, train_text=True
    )
    trainer = Trainer(network, recipe)
    losses = [trainer.train_step([clip])["loss"] for _ in range(40)]
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])


def test_losses() -> None:
    truth = torch.zeros(2, 8, 8)
    truth[0, 2:6, 2:6] = 1
    right = torch.where(truth > 0, 20.0, -20.0)
    assert float(focal_loss(right, truth).max()) < 1e-6
    assert float(dice_loss(right, truth)[0]) < 1e-3
    masks = torch.stack([right, -right, torch.zeros_like(right)], dim=1)
    decoded = DecodedMasks(masks, torch.tensor([[1.0, 0.0, 0.0]] * 2), torch.zeros(2, 3, 4), torch.tensor([9.0, -9.0]))
    losses = frame_losses(decoded, truth)
    assert float(losses.total) < 0.01  # the best mask counts, and the absent object only by its score
    wrong = frame_losses(decoded._replace(object_score=-decoded.object_score), truth)
    assert float(wrong.score) > 5


def test_clips() -> None:
    first = next(iter(SceneClips(5, length=3, prompts=4, height=64, width=80)))
    again = next(iter(SceneClips(5, length=3, prompts=4, height=64, width=80)))
    assert first.texts == again.texts
    assert all(np.array_equal(a, b) for a, b in zip(first.frames, again.frames, strict=True))
    assert first.masks.shape == (3, 4, 64, 80)
    assert not first.masks[:, -1].any()  # the last sentence names nothing in the scene
    clip = Clip(first.frames, ["left grasper", "grasper on the top right", "kidney", "x"], first.masks)
    mirror = flipped(clip)
    assert mirror.texts[:2] == ["right grasper", "grasper on the top left"]
    assert np.array_equal(mirror.masks[..., ::-1], clip.masks)
    other = colour_jittered(clip, np.random.default_rng(0))
    assert other.frames[0].shape == clip.frames[0].shape
    assert other.frames[0].dtype == np.uint8
