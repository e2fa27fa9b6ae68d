"""The bundled network on the bundled clip: the main job, as a newcomer sees it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from conftest import Cli
from PIL import Image

from model.training.scenes import Scene
from resurgsam2_cli.refining.points import deepest
from weights.store import BUNDLED

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "examples" / "scene.mp4"


def test_sizes() -> None:
    assert BUNDLED.stat().st_size < 25e6
    assert CLIP.stat().st_size < 2e6


def test_bundled_clip(cli: Cli) -> None:
    """It finds the right instruments throughout: one leaves for a while, and its mask is empty until it is back."""
    done = cli("segment", CLIP, "-t", "left ultrasound probe=probe", "-t", "right bipolar forceps=forceps")
    assert done.code == 0, done.err
    assert "rendered scenes only" in done.err
    record = json.loads(Path("runs/scene/run.json").read_text())
    assert record["weights"]["name"] == "demo"
    assert all(x["initial_frame"] is not None for x in record["objects"])
    scene = Scene(108, height=384, width=480)
    ids = [next(x.id for x in scene.targets if x.category == kind) for kind in ("ultrasound probe", "bipolar forceps")]
    ious: list[list[float]] = [[], []]
    empty_when_away = []
    for t in range(0, scene.frames, 5):
        labels, found = scene.labels(t), np.array(Image.open(f"runs/scene/masks/{t:05d}.png"))
        for k, ident in enumerate(ids):
            truth, mask = labels == ident, found == k + 1
            if truth.any():
                ious[k].append(float((truth & mask).sum() / (truth | mask).sum()))
            else:
                empty_when_away.append(not mask.any())
    assert all(np.mean(x) > 0.8 for x in ious), [np.mean(x) for x in ious]
    assert len(empty_when_away) >= 5
    assert np.mean(empty_when_away) >= 0.9


def test_left_and_right(cli: Cli) -> None:
    """Of two of a kind, the side tells which is meant."""
    scene = next(
        x
        for x in (Scene(seed, frames=40) for seed in range(1000, 1100))
        if len(x.targets) == 2
        and x.targets[0].category == x.targets[1].category
        and {y.side for y in x.targets} == {"left", "right"}
    )
    frames = Path("pair")
    frames.mkdir()
    for t in range(scene.frames):
        Image.fromarray(scene.render(t)[0]).save(frames / f"{t:03d}.png")
    kind = scene.targets[0].category
    done = cli("segment", frames, "-t", f"left {kind}", "-t", f"right {kind}", "--weights", "demo", "--no-overlay")
    assert done.code == 0, done.err
    found, labels = np.array(Image.open("runs/pair/masks/030.png")), scene.labels(30)
    for ident, side in ((1, "left"), (2, "right")):
        truth = labels == next(x.id for x in scene.targets if x.side == side)
        assert (truth & (found == ident)).sum() / (truth | (found == ident)).sum() > 0.5, side


def test_bfloat16(cli: Cli) -> None:
    """In bfloat16 the masks stay nearly the same."""
    for precision in ("fp32", "bf16"):
        done = cli(
            *("segment", CLIP, "-t", "left ultrasound probe", "--end", "40", "-o", precision, "--no-overlay"),
            *("--device", "cpu", "--precision", precision),
        )
        assert done.code == 0, done.err
    ious = []
    for t in range(20, 40, 4):
        a, b = (np.array(Image.open(f"{x}/scene/masks/{t:05d}.png")) > 0 for x in ("fp32", "bf16"))
        ious.append((a & b).sum() / (a | b).sum())
    assert np.mean(ious) > 0.95


def test_a_click_instead_of_words(cli: Cli) -> None:
    """One click on an instrument in the middle of the clip, followed to both ends."""
    scene = Scene(108, height=384, width=480)
    target = next(x for x in scene.targets if x.category == "ultrasound probe")
    x, y = deepest(scene.labels(80) == target.id)
    done = cli("segment", CLIP, "--mark", f"probe@80 +{x},{y}", "--no-overlay", "-q")
    assert done.code == 0, done.err
    assert np.mean(_ious(Path("runs/scene"), scene, target.id)) > 0.7


def test_a_correction(cli: Cli) -> None:
    """Words that found the wrong thing: a click puts it right, in its frame and around it."""
    scene = Scene(108, height=384, width=480)
    target = next(x for x in scene.targets if x.category == "bipolar forceps")
    x, y = deepest(scene.labels(60) == target.id)
    done = cli("segment", CLIP, "-t", "left ultrasound probe=forceps", "--end", "120", "--no-overlay", "-q")
    assert done.code == 0, done.err
    run = Path("runs/scene")
    assert np.mean(_ious(run, scene, target.id)) < 0.1
    done = cli("refine", run, "--mark", f"forceps@60 +{x},{y}", "-q")
    assert done.code == 0, done.err
    after = _ious(run, scene, target.id)
    assert after[60 // 5] > 0.7
    assert np.mean(after) > 0.6, after
    assert cli("refine", run, "--undo", "-q").code == 0
    assert np.mean(_ious(run, scene, target.id)) < 0.1


def test_a_click_beside_the_object(cli: Cli) -> None:
    """It takes something away from a mask that is right, and not the mask."""
    done = cli("segment", CLIP, "-t", "left ultrasound probe=probe", "--end", "80", "--no-overlay", "-q")
    assert done.code == 0, done.err
    scene, run = Scene(108, height=384, width=480), Path("runs/scene")
    target = next(x for x in scene.targets if x.category == "ultrasound probe")
    before = _ious(run, scene, target.id)
    rows, columns = np.nonzero(np.array(Image.open(run / "masks" / "00060.png")))
    tip = columns.argmax()
    done = cli("refine", run, "--mark", f"probe@60 -{columns[tip]},{rows[tip]}", "-q")
    assert done.code == 0, done.err
    after = _ious(run, scene, target.id)
    assert after[60 // 5] > before[60 // 5] - 0.2
    assert np.mean(after) > np.mean(before) - 0.05


def _ious(run: Path, scene: Scene, ident: int) -> list[float]:
    """In every fifth frame of a run in which the thing can be seen, of the run's only object."""
    found = {int(x.stem): np.array(Image.open(x)) > 0 for x in sorted((run / "masks").iterdir())}
    truth = {t: scene.labels(t) == ident for t in found if t % 5 == 0}
    return [float((x & found[t]).sum() / (x | found[t]).sum()) for t, x in truth.items() if x.any()]
