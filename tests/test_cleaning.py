"""Specks and holes: removed from what is written, in one way by all commands, and never from what is remembered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli
from finished_runs import finished_run
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask
from test_outputs import frame
from test_regions import _flooded

from resurgsam2_cli import open_run, segment_video
from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.outputs.cleaning import Cleaning

LIMITS = ("--min-part", "60", "--fill-holes", "40")
CLEANING = Cleaning(60, 40)


def cleaned(mask: np.ndarray, cleaning: Cleaning) -> np.ndarray:
    """As its definition says, one pixel after the other."""
    mask = mask.copy()
    for part in _flooded(mask, corners=True):
        if len(part) < cleaning.min_part:
            mask[tuple(zip(*part, strict=True))] = False
    height, width = mask.shape
    for hole in _flooded(~mask, corners=False):
        if len(hole) < cleaning.fill_holes and all(0 < y < height - 1 and 0 < x < width - 1 for y, x in hole):
            mask[tuple(zip(*hole, strict=True))] = True
    return mask


shapes = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
limits = st.builds(Cleaning, st.integers(0, 9), st.integers(0, 9))


@settings(deadline=None)
@given(shapes.flatmap(lambda shape: arrays(bool, (3, *shape))), limits)
def test_masks_are_cleaned_as_defined(masks: np.ndarray, cleaning: Cleaning) -> None:
    before = masks.copy()
    assert np.array_equal(cleaning.masks(masks), [cleaned(x, cleaning) for x in masks])
    assert np.array_equal(masks, before)


@settings(deadline=None)
@given(shapes.flatmap(lambda shape: arrays(bool, (3, *shape))), limits)
def test_the_label_image_matches(masks: np.ndarray, cleaning: Cleaning) -> None:
    result = frame(masks)
    result.labels[:] = np.where(masks.any(0), masks.argmax(0) + 1, 0)
    new = cleaning.result(result)
    assert np.array_equal(new.masks, cleaning.masks(masks))
    assert np.array_equal(new.labels > 0, new.masks.any(axis=0))
    for i, mask in enumerate(new.masks, start=1):
        assert mask[new.labels == i].all()
        stays = (result.labels == i) & mask
        assert (new.labels[stays] == i).all()
    assert new.boxes == frame(new.masks).boxes
    assert new.areas == new.masks.sum(axis=(1, 2)).tolist()


@pytest.mark.parametrize("value", [-1, 2.5, "3"])
def test_limits_are_pixels(value: Any) -> None:
    with pytest.raises(ValueError, match=r"fill_holes is .*, not a number of pixels"):
        Cleaning(fill_holes=value)


def masks_of(folder: Path, objects: int = 2) -> np.ndarray:
    """(frames, objects, height, width) bool, as the COCO file of a run has them."""
    with open_run(folder) as run:
        return np.array([[run.mask(x.number, i) for i in range(1, objects + 1)] for x in run.frames()])


def states_of(folder: Path) -> list[Any]:
    lines = [json.loads(x) for x in (folder / "frames.jsonl").read_text().splitlines()]
    return [[{k: v for k, v in x.items() if k not in ("area", "bbox")} for x in line["objects"]] for line in lines]


@pytest.fixture
def runs(cli: Cli, video: Path, small_weights: Path) -> tuple[Path, Path]:
    """One run as it is, and one cleaned."""
    command = ("segment", video, "-t", "kidney", "-t", "left grasper", "--weights", small_weights, "--no-overlay")
    assert not cli(*command, "-o", "plain").code
    assert not cli(*command, "-o", "clean", *LIMITS).code
    return Path("plain/clip"), Path("clean/clip")


def test_what_is_written_and_what_is_remembered(runs: tuple[Path, Path]) -> None:
    plain, clean = runs
    before, after = masks_of(plain), masks_of(clean)
    assert (before != after).any()
    assert np.array_equal(after, [CLEANING.masks(x) for x in before])
    assert states_of(plain) == states_of(clean)
    record = json.loads((clean / "run.json").read_text())
    assert record["settings"]["min_part"] == 60
    assert record["settings"]["fill_holes"] == 40


def test_an_export_of_a_run_is_as_if_it_was_cleaned(runs: tuple[Path, Path], cli: Cli) -> None:
    plain, clean = runs
    done = cli("export", plain, "-f", "coco", "-o", "a.json", *LIMITS)
    assert not done.code
    assert "masks cleaned of specks and holes" in done.err
    assert not cli("export", clean, "-f", "coco", "-o", "b.json").code
    assert json.loads(Path("a.json").read_text()) == json.loads(Path("b.json").read_text())
    assert not cli("export", plain, "-f", "davis", "-o", "a", *LIMITS).code
    assert not cli("export", clean, "-f", "davis", "-o", "b").code
    for x in sorted(Path("b").rglob("*.png")):
        assert (Path("a") / x.relative_to("b")).read_bytes() == x.read_bytes()


def test_masks_that_are_all_specks_are_left_out(video: Path, cli: Cli) -> None:
    run = finished_run(Path("runs/clip"), video)
    areas = run.masks.sum(axis=(2, 3))
    done = cli("export", run.folder, "-f", "coco", "-o", "a.json", "--min-part", "600")
    left = np.array([Cleaning(600).masks(x).sum(axis=(1, 2)) for x in run.masks])
    gone = int(((areas > 0) & (left == 0)).sum())
    assert 0 < gone < (areas > 0).sum()
    assert f"{gone} masks that were parts of fewer than 600 pixels left out" in done.err
    found = json.loads(Path("a.json").read_text())["annotations"]
    assert len(found) == (areas > 0).sum() - gone
    for x in found:
        assert x["area"] == coco_mask.area(x["segmentation"]) >= 600
        assert x["bbox"] == coco_mask.toBbox(x["segmentation"]).tolist()


def test_corrections_follow(runs: tuple[Path, Path], cli: Cli, small_weights: Path) -> None:
    """Masks that follow from a correction of a cleaned run are cleaned, too."""
    _, clean = runs
    done = cli("refine", clean, "--mark", "kidney@5 box 20,20,60,50", "--weights", small_weights)
    assert not done.code, done.err
    made = [
        (line["frame"], x["id"])
        for line in map(json.loads, (clean / "frames.jsonl").read_text().splitlines())
        for x in line["objects"]
        if x["pass"] == 1 and x["stage"] == "track"
    ]
    assert made
    with open_run(clean) as run:
        for number, i in made:
            mask = run.mask(number, i)
            assert np.array_equal(mask, CLEANING.masks(mask[None])[0])


def test_batch_takes_older_runs_as_they_are(cli: Cli, video: Path, small_weights: Path) -> None:
    command = ("batch", video, "-t", "kidney", "--weights", small_weights, "--no-overlay")
    assert not cli(*command).code
    record = json.loads(Path("runs/clip/run.json").read_text())
    for name in ("min_part", "fill_holes"):
        del record["settings"][name]
    Path("runs/clip/run.json").write_text(json.dumps(record))
    done = cli(*command)
    assert "1 skipped" in done.err, done.err
    done = cli(*command, "--min-part", "9")
    assert done.code
    assert "min part 0, now 9" in done.err


def test_python(video: Path, small_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="min_part is -1"):
        segment_video(video, "kidney", tmp_path, min_part=-1)
