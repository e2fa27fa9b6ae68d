"""Training lowers the loss, and resumes after an interruption as if nothing had happened."""

from __future__ import annotations

import csv
import json
import math
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, Cli
from PIL import Image

from model import HIERA_SMALL, ReSurgSAM2
from model.fused import allowed
from model.mask_decoder import DecodedMasks
from model.training.clips import Clip, SceneClips, affine, clip_times, colour_jittered, flipped
from model.training.losses import dice_loss, focal_loss, frame_losses
from model.training.scenes import Scene
from model.training.trainer import Lesson, Recipe, Trainer, initialize
from resurgsam2_cli.commands import train as train_command
from resurgsam2_cli.errors import InputError, WeightsProblem
from resurgsam2_cli.process.interruption import Interrupted, interruptible
from resurgsam2_cli.segmenting import checked, engine
from resurgsam2_cli.training import loop
from resurgsam2_cli.training import plan as plans
from resurgsam2_cli.training.data import annotated_videos
from resurgsam2_cli.training.differing import differences
from resurgsam2_cli.training.folder import Log, TrainingFolder
from resurgsam2_cli.training.scene_files import write_dataset
from resurgsam2_cli.training.validation import annotated, mean_scores
from weights.errors import WeightsError
from weights.loader import load_into, load_network

PLAN = plans.TrainingPlan(
    SMALL,
    (
        plans.Phase(steps=4, image_size=64, batch=2, prompts=2, tracked=2),
        plans.Phase(steps=4, image_size=128, batch=1, prompts=2, tracked=2),
    ),
    Recipe(steps=8, learning_rate=1e-3, fusion_learning_rate=1e-3, train_text=True, gradient_clip=1.0),
    seed=3,
)


def test_resuming_gives_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "SCENES_KEPT_FOR", 3)  # most stops are in the middle of a block
    whole = loop.train(PLAN, tmp_path / "whole")
    for _ in range(8):  # each call stops after a step
        parts = loop.train(PLAN, tmp_path / "parts", loop.Conduct(until=0.0))
    expected, actual = (load_network(path)[0].state_dict() for path in (whole, parts))
    assert all(torch.equal(actual[key], expected[key]) for key in expected)
    for folder in ("whole", "parts"):
        rows = list(csv.DictReader((tmp_path / folder / "log.csv").open()))
        assert [int(x["step"]) for x in rows] == list(range(1, 9))
        assert {x["frames"] for x in rows} == {"3", "5"}


@pytest.mark.parametrize("place", ["encode_image", "step", "add"])
def test_an_interrupted_training_is_saved(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of its last step, wherever the signal comes: in a step, while the weights change, or before that is logged."""
    whole = loop.train(PLAN, tmp_path / "whole")
    owner: Any = {"encode_image": ReSurgSAM2, "step": torch.optim.AdamW, "add": Log}[place]
    before, calls = getattr(owner, place), 0

    def interrupted(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            signal.raise_signal(signal.SIGINT)
        return before(*arguments, **keywords)

    monkeypatch.setattr(owner, place, interrupted)
    with pytest.raises(Interrupted), interruptible(signal.SIGINT):
        loop.train(PLAN, tmp_path / "parts")
    state = torch.load(tmp_path / "parts" / "state.pt", weights_only=True)
    assert state["step"] == {"encode_image": 4, "step": 5, "add": 5}[place]
    parts = loop.train(PLAN, tmp_path / "parts")
    expected, actual = (load_network(path)[0].state_dict() for path in (whole, parts))
    assert all(torch.equal(actual[key], expected[key]) for key in expected)
    rows = list(csv.DictReader((tmp_path / "parts" / "log.csv").open()))
    assert [int(x["step"]) for x in rows] == list(range(1, 9))


def test_a_state_that_is_damaged(tmp_path: Path) -> None:
    """Is told before a step is done; what is beyond float16 is kept in float32 in the release."""
    folder = tmp_path / "training"
    release = loop.train(PLAN, folder, loop.Conduct(until=0.0))
    state = torch.load(folder / "state.pt", weights_only=True)
    weights = state["network"]["no_object_memory"]
    for value, finite in ((1e6, True), (math.nan, False)):
        weights[0, 3] = value
        torch.save(state, folder / "state.pt")
        if finite:
            assert load_network(loop.train(PLAN, folder, loop.Conduct(until=0.0)))[0].no_object_memory[0, 3] > 65504
        else:
            before = release.read_bytes()
            with pytest.raises(WeightsProblem, match=r"state.pt: 1 tensors are not finite: no_object_memory"):
                loop.train(PLAN, folder, loop.Conduct(until=0.0))
            assert release.read_bytes() == before


def test_a_training_says_that_its_time_is_up(tmp_path: Path) -> None:
    """Its release looks like any other."""
    said: list[str] = []
    loop.train(PLAN, tmp_path / "training", loop.Conduct(until=0.0), note=said.append)
    assert said[-1] == "the time is up after step 1 of 8: the same command goes on"


def test_a_training_is_saved_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill loses no more than what was done since."""
    saved: list[int] = []
    save = TrainingFolder.save

    def counted(self: TrainingFolder, plan: plans.TrainingPlan, trainer: Trainer) -> None:
        saved.append(trainer.step)
        save(self, plan, trainer)

    monkeypatch.setattr(TrainingFolder, "save", counted)
    now = iter(range(0, 10_000, 50))  # seconds: each look at the clock is 50 later
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))
    loop.train(PLAN, tmp_path / "training")
    assert saved[-1] == 8
    assert len(saved) >= 3


@pytest.mark.parametrize("text", ["30", "m", "-1m", "nanh", "infs", "30 d", ""])
def test_bad_lengths_of_time(text: str, cli: Cli) -> None:
    done = cli("train", "-o", "trained", "--time", text)
    assert done.code == 2
    assert "is not a length of time" in done.err


def test_starting_from_a_release(tmp_path: Path, small_weights: Path, checkpoints: dict[str, Path]) -> None:
    plan = replace(PLAN, phases=(), config=replace(SMALL, image_size=256), start=small_weights)
    release = loop.train(plan, tmp_path / "out")
    expected, actual = (load_network(path)[0].state_dict() for path in (small_weights, release))
    assert all(torch.equal(actual[key], expected[key].half().float()) for key in expected)
    with pytest.raises(WeightsError, match="another configuration"):
        loop.train(replace(PLAN, start=checkpoints["modules"]), tmp_path / "other")


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


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten rendered scenes in the layout of Ref-EndoVis."""
    root = tmp_path_factory.mktemp("data") / "scenes"
    write_dataset((Scene(seed, height=96, width=120, frames=8) for seed in range(10)), root, absent=False)
    return root


def test_training_on_a_folder(dataset: Path, tmp_path: Path) -> None:
    """On ten scenes the loss falls and J&F rises; the release scores what training measured."""
    recipe = Recipe(
        steps=300,
        learning_rate=2e-3,
        fusion_learning_rate=2e-3,
        warm_up=0.05,
        gradient_clip=1.0,
        layer_decay=1.0,
        train_text=True,
    )
    phases = (
        plans.Phase(steps=250, image_size=64, batch=2, prompts=3),
        plans.Phase(steps=50, image_size=64, batch=2, prompts=3, tracked=3),
    )
    plan = plans.TrainingPlan(replace(SMALL, image_size=64), phases, recipe, data=dataset)
    conduct = loop.Conduct(validate_every=50, validation=dataset, validation_frames=4)
    folder = tmp_path / "out"
    said: list[str] = []
    release = loop.train(plan, folder, conduct, lambda step, losses, seconds: said.extend(losses))
    losses = [float(x["loss"]) for x in csv.DictReader((folder / "log.csv").open())]
    scores = [float(x["J&F"]) for x in csv.DictReader((folder / "validation.csv").open())]
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:20])
    assert scores[-1] > scores[0] + 2
    assert "J&F" in said
    assert Image.open(folder / "curves.png").size[0] > 500
    j, f = mean_scores(load_network(release)[0], annotated(dataset, tmp_path, 4))
    assert (j + f) / 2 == pytest.approx(scores[-1], abs=1.0)  # the release is in float16


def test_training_on_runs(dataset: Path, tmp_path: Path, small_weights: Path, cli: Cli) -> None:
    """Training takes a run's label images, corrected by hand, with the frames of its video."""
    runs = tmp_path / "runs"
    source = dataset / "JPEGImages" / "scene_000000"
    done = cli("segment", source, "-t", "left grasper", "-t", "kidney", "--weights", small_weights, "-o", runs, "-q")
    assert done.code == 0, done.err
    masks = sorted((runs / "scene_000000" / "masks").glob("*.png"))
    for mask in masks:
        Image.fromarray(np.eye(96, 120, dtype=np.uint8) * 2).save(mask)
    (video,) = annotated_videos(runs, tmp_path / "cache")
    assert video.sentences == (("left grasper", 1), ("kidney", 2))
    rgb, labels = video.read(3)
    assert np.abs(rgb.astype(int) - np.asarray(Image.open(source / "00003.png"))).mean() < 6
    assert np.array_equal(labels, np.eye(96, 120, dtype=np.uint8) * 2)
    plan = replace(PLAN, data=runs, phases=(plans.Phase(steps=2, image_size=64, batch=1, prompts=2),))
    assert loop.train(plan, tmp_path / "out").exists()


def test_processes_train_together(tmp_path: Path) -> None:
    plan = replace(PLAN, phases=(plans.Phase(steps=2, image_size=64, batch=1, prompts=2),))
    both, again, alone = (
        load_network(loop.train(plan, tmp_path / str(i), loop.Conduct(processes=n)))[0].state_dict()
        for i, n in enumerate((2, 2, 1))
    )
    assert all(torch.equal(both[key], again[key]) for key in both)
    assert not all(torch.equal(both[key], alone[key]) for key in both)  # twice the clips per step


def test_an_error_in_another_process_is_that_error(
    dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Bad data that the second process comes upon end the training as if the first had."""
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    label = data / "Annotations" / "scene_000003" / "00002.png"
    Image.fromarray(np.zeros((96, 120, 3), np.uint8)).save(label)
    videos = annotated_videos(data, tmp_path / "cache")
    plan = replace(PLAN, data=data, phases=(plans.Phase(steps=2, image_size=64, batch=1, prompts=2),))

    def fails(seed: int, rank: int) -> bool:
        try:
            list(plans.clips_of(replace(plan, seed=seed), 0, rank, videos))
        except InputError:
            return True
        return False

    seed = next(x for x in range(1000) if fails(x, 1) and not fails(x, 0))
    with pytest.raises(InputError, match=r"00002\.png: is an image in RGB"):
        loop.train(replace(plan, seed=seed), tmp_path / "out", loop.Conduct(processes=2))
    assert "Traceback" not in capfd.readouterr().err


def test_starting_from_sam2(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """The parts that SAM 2.1 lacks keep their first weights; everything else is loaded, or named as missing."""
    state = torch.load(checkpoints["modules"], weights_only=True)["model"]
    added = ("cross_modal_fusion.", "language_model.", "token_projection.", "sam_prompt_encoder.language_fusion_mlp.")
    sam2 = {key: x for key, x in state.items() if not key.startswith(added)}
    torch.save({"model": sam2}, tmp_path / "sam2.pt")
    torch.save(
        {"model": {key: x for key, x in state.items() if key.startswith("language_model.")}}, tmp_path / "clip.pt"
    )
    network = ReSurgSAM2(HIERA_SMALL)
    before = {key: x.clone() for key, x in network.state_dict().items()}
    load_into(network, tmp_path / "sam2.pt", tmp_path / "clip.pt")
    whole = load_network(checkpoints["modules"])[0].state_dict()
    for key, x in network.state_dict().items():
        ours = key.startswith(("fusion.", "text_encoder.projection.", "prompt_tokens.text_mlp."))
        assert torch.equal(x, before[key] if ours else whole[key]), key
    with pytest.raises(WeightsError, match="no text tower"):
        load_into(network, tmp_path / "sam2.pt", None)
    del sam2["memory_encoder.out_proj.weight"]
    torch.save({"model": sam2}, tmp_path / "poor.pt")
    with pytest.raises(WeightsError, match=r"1 missing tensors: memory_encoder\.out_proj\.weight"):
        load_into(network, tmp_path / "poor.pt", tmp_path / "clip.pt")


def test_bad_data_is_named(dataset: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(dataset, data)

    def read() -> None:
        for video in annotated_videos(data, tmp_path / "cache"):
            for i in range(len(video.frames)):
                video.read(i)

    def error() -> str:
        with pytest.raises(InputError) as caught:
            read()
        return caught.value.message

    label = data / "Annotations" / "scene_000003" / "00002.png"
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(label)
    assert "00002.png: is 10 x 10, its frame 120 x 96" in error()
    Image.fromarray(np.zeros((96, 120, 3), np.uint8)).save(label)
    assert "00002.png: is an image in RGB" in error()
    label.write_bytes(b"?")
    assert "00002.png: cannot be read" in error()
    shutil.rmtree(data / "JPEGImages" / "scene_000004")
    assert "scene_000004: no such folder" in error()
    (data / "meta_expressions.json").write_text("[]")
    assert "meta_expressions.json: is not in the layout" in error()
    (data / "meta_expressions.json").unlink()
    assert "holds neither" in error()


STEPS = ("--configuration", "demo", "--detection-steps", "1", "--tracking-steps", "0", "--validate-every", "0")


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ``train`` train the small network."""
    monkeypatch.setattr("model.config.CONFIGURATIONS", {"demo": replace(SMALL, image_size=64)})


@pytest.fixture
def runs(dataset: Path, small_weights: Path, cli: Cli, tmp_path: Path) -> Path:
    """Two runs of every second of eight frames, with two objects; their videos are in ``videos``."""
    for name in ("a", "b"):
        shutil.copytree(dataset / "JPEGImages" / "scene_000000", Path("videos", name))
    options = ("--stride", "2", "--weights", small_weights, "--no-overlay", "-q", "-o", "runs")
    done = cli("batch", "videos", "-r", "-t", "left grasper", "-t", "kidney", *options)
    assert done.code == 0, done.err
    assert sorted(x.name for x in Path("runs/a/masks").iterdir()) == [f"{x:05d}.png" for x in (0, 2, 4, 6)]
    return Path("runs")


@pytest.mark.usefixtures("small_demo")
def test_what_was_not_trained_binds_nothing(dataset: Path, cli: Cli) -> None:
    """The same command takes data that were mended; once there is a state, it names what differs."""
    shutil.copytree(dataset, "data")
    labels = sorted(Path("data/Annotations").rglob("*.png"))
    good = {path: path.read_bytes() for path in labels}
    for path in labels:
        Image.fromarray(np.zeros((96, 120, 3), np.uint8)).save(path)
    command = ("train", "--data", "data", "-o", "out", *STEPS)
    assert cli(*command).code == 3
    for path, content in good.items():
        path.write_bytes(content)
    done = cli(*command)
    assert done.code == 0, done.err
    assert cli(*command).code == 0
    Image.fromarray(np.zeros((96, 120), np.uint8)).save(labels[-1])
    changed = cli(*command)
    assert changed.code == 2
    assert f"(--data with other content in {Path('data').absolute()}: changed scene_000009)" in changed.err
    labels[-1].write_bytes(good[labels[-1]])
    table = json.loads(Path("data/meta_expressions.json").read_text())
    videos = table["videos"]
    kept = {"scene_000009": videos["scene_000009"], "new": videos["scene_000000"]}
    for part in ("JPEGImages", "Annotations"):
        shutil.copytree(f"data/{part}/scene_000000", f"data/{part}/new")
    Path("data/meta_expressions.json").write_text(json.dumps({**table, "videos": kept}))
    Path("data").rename("moved")
    changed = cli("train", "--data", "moved", *command[3:], "--seed", "5")
    assert changed.code == 2
    expected = (
        f"(--data {Path('data').absolute()}, now {Path('moved').absolute()}: added new; "
        "left out scene_000000, scene_000001, scene_000002 and 6 more; --seed 0, now 5)"
    )
    assert expected in changed.err
    assert cli("train", "-o", "out").code == 2


@pytest.mark.usefixtures("small_demo")
def test_a_training_stays_until_the_next_one_can_begin(dataset: Path, cli: Cli) -> None:
    """What cannot be trained on is found before --overwrite removes anything."""
    command = ("train", "--data", "data", "-o", "out", *STEPS)
    shutil.copytree(dataset, "data")
    assert cli(*command).code == 0
    before = {x.name: x.read_bytes() for x in Path("out").iterdir()}
    assert {"plan.json", "state.pt", "log.csv", "release.safetensors"} <= set(before)
    (last,) = Path("data/Annotations/scene_000009").glob("00007.png")
    shutil.copytree("data", "validation")
    good = last.read_bytes()
    for given, bad, message in (
        ((), True, "00007.png: cannot be read"),
        (("--tracking-steps", "1", "--count-tracked", "40"), False, "no video of the data has 43 annotated frames"),
        (("--validation", "validation", "--validate-every", "1"), False, "00007.png: cannot be read"),
        (("--data", "nothing"), False, "nothing: no such folder"),
        (("--configuration", "other"), False, "unknown configuration"),
    ):
        last.write_bytes(b"?" if bad else good)
        Path("validation", *last.parts[1:]).write_bytes(b"?")
        done = cli(*command, *given, "--overwrite")
        assert done.code in (2, 3), done.err
        assert message in done.err
        assert {x.name: x.read_bytes() for x in Path("out").iterdir()} == before
    assert cli(*command, "--seed", "5", "--overwrite").code == 0
    assert json.loads(Path("out/plan.json").read_text())["plan"]["seed"] == 5
    assert Path("out/log.csv").read_text().count("\n") == 2  # a head, and the one step of the new training


@pytest.mark.usefixtures("small_demo")
def test_differences_are_named_as_options(dataset: Path, cli: Cli) -> None:
    command = ("train", "--data", dataset, "-o", "out", *STEPS)
    assert cli(*command).code == 0
    other = ("--detection-steps", "2", "--tracking-steps", "1", "--count-clips", "3", "--learning-rate", "0.5")
    changed = cli(*command, *other, "--count-prompts", "2", "--freeze-text", "--processes", "2", "--seed", "7")
    assert changed.code == 2
    expected = (
        "(--detection-steps 1, now 2; --count-clips 1, now 3; --count-prompts 4, now 2; --tracking-steps 0, now 1; "
        "--learning-rate 5e-05, now 0.5; --train-text True, now False; --seed 0, now 7; --processes 1, now 2)"
    )
    assert expected in changed.err
    assert "give the same ones to go on" in changed.err
    plan = json.loads(Path("out/plan.json").read_text())["plan"]
    start, pointing = {**plan, "start": "0" * 64}, {**plan, "data": None, "phases": [{"lesson": "pointing"}]}
    assert differences(start, plan) == ["--start with other weights"]
    assert differences(plan, {**plan, "data": None, "data folder": None, "phases": [], "videos": {}}) == [
        f"--data {dataset}, now rendered scenes"
    ]
    assert differences(pointing, {**plan, "data": None}) == ["--pointing, which it was begun with"]
    assert differences({**plan, "data": None}, pointing) == ["--pointing, which it was begun without"]
    assert differences({**plan, "recipe": {}}, plan)[-1] == "the recipe of another version of this program"
    assert differences({**plan, "configuration": {}}, plan) == ["--configuration"]
    assert differences(plan, plan) == []
    assert differences(None, plan) == ["it keeps no plan of this program"]


@pytest.mark.usefixtures("small_demo")
def test_runs_whose_videos_were_moved(runs: Path, cli: Cli) -> None:
    """``--sources`` says where they are; before that, a training that could not begin is not in the way."""
    Path("videos").rename("videos-now")
    Path("videos").mkdir()
    Path("videos-now/a").rename("videos/a")  # the frames of the first run can be had
    train = ("train", "--data", runs, "--validation", runs, "-o", "out", *STEPS)
    gone = cli(*train)
    assert gone.code == 3
    assert "--sources FOLDER" in gone.err
    Path("videos/a").rename("videos-now/a")
    assert "has no 'b'" in cli(*train, "--sources", "videos").err
    done = cli(*train, "--sources", "videos-now", "--count-tracked", "1")
    assert done.code == 0, done.err
    assert cli(*train, "--count-tracked", "1").code == 0  # the frames are there now
    assert cli("train", "-o", "scenes", "--sources", "videos-now").code == 2


CORRECTIONS = {
    "another-frame": ("00003.png", "is not the label image of a frame that a has"),
    "no-frame": ("99999.png", "is not the label image of a frame that a has"),
    "no-number": ("foo.png", "is not the label image of a frame that a has"),
    "another-format": ("00004.bmp", "is not the label image of a frame that a has"),
    "no-object": ("00004.png", "has pixels of object 3, and the objects of a are 1 to 2"),
    "size": ("00006.png", "is 12 x 10, its frame 120 x 96"),
}


@pytest.mark.parametrize("name", CORRECTIONS)
@pytest.mark.usefixtures("small_demo")
def test_corrections_that_do_not_fit(name: str, runs: Path, cli: Cli) -> None:
    file, words = CORRECTIONS[name]
    labels = np.zeros((10, 12) if name == "size" else (96, 120), np.uint8)
    labels[5, 5] = 3 if name == "no-object" else 2
    Image.fromarray(labels).save(runs / "a" / "masks" / file)
    for option in (("--data", runs), ("--data", runs / "b", "--validation", runs, "--validate-every", "1")):
        done = cli("train", "-o", "out", *STEPS, *option)
        assert done.code == 3
        assert f"{runs.absolute() / 'a' / 'masks' / file}: {words}" in done.err
        assert len(done.err.splitlines()) == 2


@pytest.mark.usefixtures("small_demo")
def test_frames_without_a_label_image_are_counted(runs: Path, cli: Cli) -> None:
    (runs / "a" / "masks" / "00002.png").unlink()
    (runs / "b" / "masks" / "00004.png").unlink()
    (runs / "b" / "masks" / ".DS_Store").touch()
    train = ("train", "-o", "out", "--data", runs, "--validation", runs / "a", *STEPS, "--validate-every", "1")
    said = "2 frames of the data left out: without a label image in masks/"
    done = cli(*train)
    assert done.code == 0, done.err
    assert said in done.err.splitlines()
    assert "1 frame of the validation left out: without a label image in masks/" in done.err.splitlines()
    assert said in cli(*train, "--json").err
    assert cli(*train, "--quiet").err == ""


def test_affine_moves_masks_with_pixels() -> None:
    frame = np.zeros((96, 120, 3), np.uint8)
    frame[30:60, 40:90] = 200
    moved = affine(Clip([frame], ["x"], (frame[None, None, ..., 0] > 0)), np.random.default_rng(1))
    bright, mask = moved.frames[0][..., 0] > 100, moved.masks[0, 0]
    assert (bright & mask).sum() / (bright | mask).sum() > 0.95
    assert (mask != (frame[..., 0] > 0)).sum() > 100


def test_plan_of_a_start(small_weights: Path) -> None:
    """The plan from scratch differs from the plan from a release."""
    assert train_command._plan_start(0, None, None, None).phases == plans.DEMO_PLAN.phases
    plan = train_command._plan_start(3, "demo", None, None)
    assert (plan.phases, plan.recipe, plan.seed) == (plans.REFINING_PLAN.phases, plans.REFINING_PLAN.recipe, 3)
    assert plan.start is not None
    assert plan.config.pointing  # it goes on with all that the release can do
    assert replace(plan.config, image_size=0, pointing=False) == replace(plans.DEMO_PLAN.config, image_size=0)


@pytest.mark.parametrize("lesson", ["places", "pointing"])
def test_pointing_is_learned(lesson: Lesson) -> None:
    """Where a click is, with everything before the decoder as it was; then what was clicked, by all of the network."""
    torch.manual_seed(0)
    network = ReSurgSAM2(SMALL)
    initialize(network)
    trainer = Trainer(network, Recipe(steps=10, learning_rate=1e-3, warm_up=0.0))
    only = ("mask_decoder.", "prompt_tokens.point_embeddings.") if lesson == "places" else ()
    trainer.learn_only(only)
    before = {name: x.detach().clone() for name, x in network.named_parameters()}
    clips = iter(SceneClips((3, 1), length=1 if lesson == "places" else 3, prompts=4, height=128, width=160))
    drawn = [next(clips) for _ in range(4)]
    for clip in drawn:
        losses = trainer.train_step([clip], lesson=lesson)
        assert all(math.isfinite(x) for x in losses.values())
    changed = {name for name, x in network.named_parameters() if not torch.equal(x, before[name])}
    assert "prompt_tokens.point_embeddings.1" in changed
    assert "mask_decoder.first_mask_mlp.layers.0.weight" in changed or lesson == "places"
    if only:
        assert all(name.startswith(only) for name in changed)
    else:
        assert any(name.startswith("image_encoder.trunk.") for name in changed)
        assert "mask_downsample.weight" in changed or "prompt_tokens.mask_encoder.0.weight" in changed


def test_training_from_scratch_leaves_pointing_out() -> None:
    """Nothing would teach it: a release must not say that it can be pointed at."""
    assert not plans.DEMO_PLAN.config.pointing
    assert not plans.REFINING_PLAN.config.pointing
    assert plans.POINTING_PLAN.config.pointing
    assert sum(x.steps for x in plans.POINTING_PLAN.phases) == plans.POINTING_PLAN.recipe.steps
    phases = (
        plans.Phase(2, 64, batch=1, prompts=1, lesson="places", lesson_share=1, pointed_on=0),
        plans.Phase(4, 64, batch=1, prompts=2, lesson="pointing", lesson_share=0.5),
    )
    steps = list(plans.clips_of(replace(plans.POINTING_PLAN, phases=phases), 0))
    assert [lesson for *_, lesson in steps] == ["places", "places", "words", "pointing", "words", "pointing"]
    assert [len(clips[0].frames) for clips, *_ in steps] == [1, 1, 3, 3, 3, 3]


def test_pointing_leaves_alone_what_detects() -> None:
    """The words of a release must not lose by it."""
    names = [name for name, _ in ReSurgSAM2(plans.POINTING_PLAN.config).named_parameters()]
    for phase in plans.POINTING_PLAN.phases:
        learning = {name.split(".")[0] for name in names if name.startswith(phase.learns)}
        assert learning.isdisjoint({"image_encoder", "text_encoder", "fusion"})
    last = plans.POINTING_PLAN.phases[-1].learns
    rest = {name.split(".")[0] for name in names if not name.startswith(last)}
    assert rest == {"image_encoder", "text_encoder", "fusion"}


@pytest.mark.parametrize(("frames", "length", "apart"), [(300, 8, 200), (8, 8, 200), (20, 8, 3), (1, 1, 5), (40, 3, 0)])
def test_frames_of_clips(frames: int, length: int, apart: int) -> None:
    """Evenly spaced in either direction, but for the first, which may lie further away by up to ``apart``."""
    gaps, strides, backwards = set[int](), set[int](), 0
    rng = np.random.default_rng(0)
    for _ in range(300):
        times = clip_times(rng, frames, length, apart)
        assert len(times) == length
        assert min(times) >= 0
        assert max(times) < frames
        steps = np.diff(times)
        if length > 1:
            assert (np.sign(steps) == np.sign(steps[0])).all()
            backwards += bool(steps[0] < 0)
        if length > 2:
            assert len(set(steps[1:].tolist())) == 1
            strides.add(abs(int(steps[1])))
            gaps.add(abs(int(steps[0])) - abs(int(steps[1])))
    if frames >= 20 and length > 2:
        assert strides == ({1, 2, 3} if frames >= 40 else {1, 2})
        assert 0 <= min(gaps) <= apart * 0.1
        assert apart * 0.8 <= max(gaps) <= apart
    assert length == 1 or 40 < backwards < 115


@pytest.mark.usefixtures("small_demo")
def test_training_where_the_gpu_is_unfit(dataset: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is on the CPU, with a line, if the GPU was not asked for; ways that are wrong for a GPU are left out there."""

    def check(device: torch.device, precision: str) -> dict[str, str]:
        raise RuntimeError("no kernel image is available")

    chosen = engine.choose_device
    monkeypatch.setattr(checked, "self_check", check)
    monkeypatch.setattr(engine, "choose_device", lambda x: chosen(x) if x == "cpu" else torch.device("cuda", 0))
    command = ("train", "--data", dataset, *STEPS, "--precision", "fp32")
    asked = cli(*command, "-o", "out", "--device", "cuda")
    assert asked.code == 5
    assert "--device cuda: no kernel image is available" in asked.err
    done = cli(*command, "-o", "out")
    assert done.code == 0, done.err
    assert "resurgsam2: the network runs on the CPU: no kernel image is available" in done.err

    off = list[bool]()
    fit = checked.Usable(torch.device("cpu"), "fp32", frozenset({"mamba-ssm scan"}))
    monkeypatch.setattr(checked, "usable", lambda *arguments, **keywords: fit)

    def train(*arguments: Any, **keywords: Any) -> Path:
        off.append(allowed("mamba-ssm scan"))
        return Path("release")

    monkeypatch.setattr(loop, "train", train)
    cli(*command, "-o", "other")
    assert off == [False]


@pytest.mark.usefixtures("small_demo")
def test_a_step_without_room(dataset: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is one line, and loses nothing that was trained before; nor does a state that there is no room to load."""
    refuses = [2]
    whole, load = Trainer.train_step, torch.load

    def step(trainer: Trainer, *arguments: Any) -> dict[str, float]:
        if trainer.step in refuses:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB")
        return whole(trainer, *arguments)

    def loading(path: Any, **keywords: Any) -> Any:
        assert keywords["map_location"] == "cpu"  # beside the network, a card has no room for all of it once more
        if str(path).endswith("state.pt") and not refuses:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB")
        return load(path, **keywords)

    monkeypatch.setattr(Trainer, "train_step", step)
    monkeypatch.setattr(torch, "load", loading)
    command = ("train", "--data", dataset, "-o", "out", *STEPS, "--detection-steps", "4")
    done = cli(*command)
    assert done.code == 5
    assert "the device has not enough memory for this" in done.err
    assert "--count-clips" in done.err
    assert "saved after step 2: the same command resumes there" in done.err
    refuses.clear()
    done = cli(*command)
    assert done.code == 5
    assert "damaged" not in done.err
    refuses.append(9)
    done = cli(*command)
    assert done.code == 0, done.err
    assert "resuming after step 2" in done.err


@pytest.mark.usefixtures("small_demo")
def test_a_change_that_fails_is_not_saved(dataset: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a step is none. What does not converge is said, and would not converge if it were resumed."""

    def half(*arguments: Any, **keywords: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB")

    command = ("train", "--data", dataset, "-o", "out", *STEPS, "--detection-steps", "2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", half)
        assert cli(*command).code == 5
    assert not Path("out/state.pt").exists()
    norms = iter((1.0, math.nan))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_, **__: torch.tensor(next(norms)))
    done = cli(*command)
    assert done.code == 1
    assert "the training does not converge: the gradient is not finite at step 1" in done.err
    assert "the same command" not in done.err
    assert not Path("out/state.pt").exists()


@pytest.mark.usefixtures("small_demo")
def test_training_on_a_card_without_bfloat16(dataset: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is in float32 if nobody asked for float16, and float32 is exact."""
    found = list[bool]()
    monkeypatch.setattr(engine, "choose_precision", lambda text, device: "fp16" if text == "auto" else text)

    def train(plan: Any, path: Path, conduct: Any, *arguments: Any, **keywords: Any) -> Path:
        found.append(conduct.autocast is None)
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train", train)
        done = cli("train", "--data", dataset, "-o", "out", *STEPS)
    assert done.code == 0, done.err
    assert "the training is in float32: this GPU has no bfloat16" in done.err
    assert found == [True]
    assert cli("train", "--data", dataset, "-o", "out", *STEPS, "--precision", "fp16").code == 2

    whole = Trainer.train_step

    def step(trainer: Trainer, *arguments: Any) -> dict[str, float]:
        found.append(torch.backends.cudnn.allow_tf32)
        return whole(trainer, *arguments)

    monkeypatch.setattr(Trainer, "train_step", step)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    found.clear()
    assert cli("train", "--data", dataset, "-o", "out", *STEPS, "--precision", "fp32").code == 0
    assert set(found) == {False}
