"""Clicks, boxes and given masks equal SAM 2's own video predictor: modules, then whole sessions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DATA, published_state
from torch import Tensor

from model import ImageFeatures, Prediction, ReSurgSAM2, Step, preprocess, resize_masks
from model.executor import Executor
from model.memory_bank import Direction, MemoryBank, Recall
from model.preprocess import given_masks
from model.prompt_tokens import Clicks
from model.session import Session
from weights.loader import load_network

TOLERANCE = 3e-5
"""Absolute, in float32; another implementation reached half of it."""
POINTER_TOLERANCE = 3e-6
"""Small mistakes show in the pointers alone."""

SCORE_TOLERANCE = 5e-4
IOU_TOLERANCE = 2e-5

RECORD: dict[str, Any] = json.loads((DATA / "pointing_modules.json").read_text())
ARRAYS = np.load(DATA / "pointing_modules.npz")


def assert_equal(
    name: str, actual: Tensor, tolerance: float = TOLERANCE, record: Any = RECORD, arrays: Any = ARRAYS
) -> None:
    shape, stride = record["arrays"][name]["shape"], record["arrays"][name]["stride"]
    assert actual.numel() == np.prod(shape), name
    flat = actual.float().numpy().reshape(-1)[:: stride or 1]
    difference = np.abs(flat - arrays[name].reshape(-1)).max()
    assert difference <= tolerance, f"{name}: {difference:.2e} off"


def clicks_of(step: dict[str, Any], width: int, height: int) -> Clicks | None:
    """The points and the box of a recorded prompt."""
    points, labels = list(step.get("points", [])), list(step.get("labels", []))
    if "box" in step:
        left, top, right, bottom = step["box"]
        points, labels = [[left, top], [right, bottom], *points], [2, 3, *labels]
    if not points:
        return None
    return Clicks(torch.tensor([points]) / torch.tensor([width, height]), torch.tensor([labels]))


def network_with(folder: Path, edits: dict[str, list[float]], model: str | None = None) -> ReSurgSAM2:
    torch.save({"model": published_state(edits, model)}, folder / "edited.pth")
    return load_network(folder / "edited.pth")[0]


@pytest.fixture(scope="module")
def features(network: ReSurgSAM2) -> ImageFeatures:
    frame = np.load(DATA / "pointing_forward.npz")["frames"][RECORD["frame"]]
    images = preprocess([frame], network.config)
    assert_equal("image", images[0], 1e-6)
    with torch.inference_mode():
        found = network.encode_image(images)
    assert_equal("main", found.main)
    return found


def fed_back_logits() -> Tensor:
    y, x = np.mgrid[:128, :128].astype(np.float64)
    return torch.from_numpy((30 * np.sin(x / 9) + 25 * np.cos(y / 7) - 3).astype(np.float32))[None]


@pytest.mark.parametrize("name", sorted(RECORD["cases"]))
@torch.inference_mode()
def test_clicks_and_boxes(network: ReSurgSAM2, features: ImageFeatures, name: str, tmp_path: Path) -> None:
    case = RECORD["cases"][name]
    if "head_edits" in case:
        network = network_with(tmp_path, case["head_edits"])
    clicks = clicks_of(case, RECORD["width"], RECORD["height"])
    fed_back = fed_back_logits() if "fed_back" in case else None
    if clicks is None:
        clicks = Clicks(torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.int64))
        tokens = network.prompt_tokens(1)
    else:
        shifted = clicks._replace(points=clicks.points + 0.5 / network.config.image_size)
        tokens = network.prompt_tokens(1, clicks=shifted)
    assert_equal(f"{name}.sparse", tokens, 3e-6)
    dense = network.prompt_tokens.dense(None if fed_back is None else fed_back[:, None].clamp(-32, 32))
    assert_equal(f"{name}.dense", dense.expand(1, -1, 32, 32), 3e-6)
    if not clicks.labels.numel():
        return  # nobody feeds back a mask without a click
    found = network.point(features, clicks, fed_back=fed_back)
    check_prediction(name, found)
    decoded = found.decoded
    assert decoded is not None
    masks = case["masks"]
    assert decoded.mask_logits.shape[1] == (4 if masks == 1 else 3)
    taken = decoded.mask_logits[0, case["token"] - (masks == 3)]
    assert torch.equal(found.mask_logits[0], taken) == (float(found.object_score) > 0)
    if masks == 1:
        assert_equal(f"{name}.all_masks", decoded.mask_logits)
        assert_equal(f"{name}.all_ious", decoded.predicted_iou, 3e-6)
    if f"{name}.memory" in RECORD["arrays"]:
        memory = network.memory_encoder(features.main, found.mask_logits, binary=True)
        absent = (found.object_score <= 0)[:, None, None, None]
        assert_equal(f"{name}.memory", memory + absent * network.no_object_memory[:, :, None, None])


def check_prediction(name: str, found: Prediction) -> None:
    for field, tolerance in (
        ("mask_logits", TOLERANCE),
        ("predicted_iou", 3e-6),
        ("object_score", TOLERANCE),
        ("pointer", POINTER_TOLERANCE),
    ):
        if name != "mask1_unseen" or field in ("object_score", "pointer"):
            assert_equal(f"{name}.{field}", getattr(found, field), tolerance)


def a_mask(name: str) -> np.ndarray:
    y, x = np.mgrid[:512, :512]
    if name == "mask2":
        return (x > 300) & (y % 97 < 60)
    ellipse = (x - 200.0) ** 2 + 1.7 * (y - 260.0) ** 2 < 120**2
    return ellipse & ((x // 16 + y // 16) % 5 != 0) & (name != "mask0")


@pytest.mark.parametrize("name", ["mask0", "mask1", "mask2", "mask1_unseen"])
@torch.inference_mode()
def test_given_masks(network: ReSurgSAM2, features: ImageFeatures, name: str, tmp_path: Path) -> None:
    if name in RECORD:
        network = network_with(tmp_path, RECORD[name]["head_edits"])
    masks = given_masks(a_mask(name)[None], network.config)
    found = network.adopt(features, masks)
    check_prediction(name, found)
    assert found.decoded is not None
    if f"{name}.decoder_score" in RECORD["arrays"]:
        assert_equal(f"{name}.decoder_score", found.decoded.object_score)
    if f"{name}.downsampled" in RECORD["arrays"]:
        assert_equal(f"{name}.downsampled", network.mask_downsample(masks[:, None]))
        assert_equal(f"{name}.dense", network.prompt_tokens.dense(network.mask_downsample(masks[:, None])))
        memory = network.memory_encoder(features.main, found.mask_logits, binary=True)
        absent = (found.object_score <= 0)[:, None, None, None]
        assert_equal(f"{name}.memory", memory + absent * network.no_object_memory[:, :, None, None])


def test_given_masks_are_resized_as_published(network: ReSurgSAM2) -> None:
    given = np.unpackbits(ARRAYS["resized.given"], axis=-1)[:144, :176].astype(bool)
    y, x = np.mgrid[:700, :900]
    large = np.sin(x / 23) + np.cos(y / 17) > 0.3
    for name, mask in (("resized.mask", given), ("shrunk.mask", large)):
        expected = np.unpackbits(ARRAYS[name], axis=-1)[:512, :512].astype(bool)
        assert np.array_equal(given_masks(mask[None], network.config)[0].numpy() > 0, expected), name


SAM21: dict[str, Any] = json.loads((DATA / "pointing_sam21_modules.json").read_text())


@pytest.mark.parametrize("model", ["tiny", "small", "base_plus", "large"])
@torch.inference_mode()
def test_the_networks_of_sam21(model: str, tmp_path: Path) -> None:
    arrays = np.load(DATA / "pointing_sam21_modules.npz")
    network = network_with(tmp_path, {}, model)
    frame = np.load(DATA / "pointing_sam21.npz")["frames"][SAM21["frame"]]
    features = network.encode_image(preprocess([frame], network.config))
    clicks = clicks_of(SAM21["click"], SAM21["width"], SAM21["height"])
    assert clicks is not None
    found = network.point(features, clicks)
    for name, actual in (
        ("main", features.main),
        ("stride8", features.stride8),
        ("stride4", features.stride4),
        ("mask_logits", found.mask_logits),
        ("predicted_iou", found.predicted_iou),
        ("object_score", found.object_score),
        ("pointer", found.pointer),
    ):
        assert_equal(f"{model}.{name}", actual, record=SAM21, arrays=arrays)


class Recorded:
    """One of the recorded sessions."""

    def __init__(self, name: str) -> None:
        self.record: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
        arrays = np.load(DATA / f"{name}.npz")
        self.frames: np.ndarray = arrays["frames"]
        width = self.record["width"]
        self.prompt_masks = np.unpackbits(arrays["prompt_masks"], axis=-1)[..., :width].astype(bool)
        self.low_res_logits = arrays["low_res_logits"].astype(np.float32)
        self.masks = np.unpackbits(arrays["masks"], axis=-1)[..., :width].astype(bool)
        self.rows: list[dict[str, Any]] = self.record["rows"]
        self.texts: dict[str, str] = self.record.get("texts", {})


class Seen:
    """What is recalled, as the rules say it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recalls: list[Recall] = []
        original = MemoryBank._recall

        def recall(bank: MemoryBank, *arguments: Any) -> Recall:
            found = original(bank, *arguments)
            self.recalls.append(found)
            return found

        monkeypatch.setattr(MemoryBank, "_recall", recall)

    def check(self, row: dict[str, Any], span: int) -> None:
        if not row.get("memory_used", False):
            return
        recall = self.recalls.pop(0)
        conditioning = recall.frames[: recall.conditioning]
        recent = [[m, slot] for m, slot in recall.frames[recall.conditioning :] if slot >= 0]
        long_term = [m for m, slot in recall.frames[recall.conditioning :] if slot < 0]
        assert [m for m, _ in conditioning] == row["conditioning"], row
        assert recent == row["recent"], row
        assert long_term == row.get("long_term", []), row
        assert [[m, round(d * span)] for m, d in recall.pointers] == row["pointers"], row


@pytest.mark.slow  # full size: 24 to 30 frames encoded, and a hundred times tracked
@pytest.mark.parametrize(
    ("name", "together"),
    [("pointing_forward", 2), ("pointing_text", None), ("pointing_sam21", None)],
)
def test_recorded_sessions(name: str, together: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded(name)
    model = "small" if name == "pointing_sam21" else None
    network = network_with(tmp_path, recorded.record["head_edits"], model)
    executor = Executor(network, torch.device("cpu"), objects=together)
    seen = Seen(monkeypatch)
    with executor.context():
        play(recorded, executor, seen)


def play(recorded: Recorded, executor: Executor, seen: Seen) -> None:
    record, frames = recorded.record, recorded.frames
    length = len(frames)
    features = [executor.encode([frame]) for frame in frames]
    objects = list(dict.fromkeys(step["object"] for step in record["steps"] if "object" in step))
    prompts = executor.encode_text([recorded.texts[str(x)] for x in objects]) if recorded.texts else None
    session = Session(executor, prompts, clip_length=length)
    if prompts is None:
        for _ in objects:
            session.add()
    rows = iter(enumerate(recorded.rows))
    wrong = 0

    def check(found: Step, k: int) -> None:
        nonlocal wrong
        at, row = next(rows)
        seen.check(row, min(length, 16) - 1)
        state = found.objects[k]
        stride = record["low_res_stride"]
        logits = found.mask_logits[k]
        assert abs(state.object_score - row["object_score"]) <= SCORE_TOLERANCE, row
        assert abs(state.predicted_iou - row.get("predicted_iou", state.predicted_iou)) <= IOU_TOLERANCE, row
        expected = recorded.low_res_logits[at]
        rounding = np.abs(expected) * 2**-11 + 1e-6
        assert (np.abs(logits[::stride, ::stride].numpy() - expected) - rounding).max() <= 3e-4, row
        mask = (resize_masks(logits[None], *frames.shape[1:3]) > 0)[0].numpy()
        wrong += int((mask != recorded.masks[at]).sum())

    for step in record["steps"]:
        assert not seen.recalls
        if step["do"] in ("points", "mask"):
            k, frame = objects.index(step["object"]), step["frame"]
            if step["do"] == "points":
                clicks = clicks_of(step, record["width"], record["height"])
                assert clicks is not None
                found = session.point(k, frame, features[frame], clicks, afresh=not step.get("keep", False))
            else:
                mask = given_masks(recorded.prompt_masks[step["mask"]][None], executor.config)[0]
                found = session.adopt(k, frame, features[frame], mask)
            check(found, 0)
            continue
        direction: Direction = 1 if step["do"] == "forward" else -1
        session.begin(direction)
        numbers = range(step["from"], length) if direction == 1 else range(step["from"], -1, -1)
        for frame in numbers:
            found = session.step(frame, features[frame])
            for k in range(len(objects)):
                check(found, k)
    assert next(rows, None) is None
    assert wrong <= 2e-4 * recorded.masks.size, wrong
