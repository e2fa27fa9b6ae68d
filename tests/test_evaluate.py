"""`resurgsam2 evaluate` against the public vos-benchmark, and what it says about bad input."""

from __future__ import annotations

import csv
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner
from vos_benchmark.benchmark import benchmark

from resurgsam2_cli.app import app
from resurgsam2_cli.errors import InputError
from resurgsam2_cli.measuring.evaluation import GROUPS, evaluate
from resurgsam2_cli.outputs import SINKS, Clip, FrameResult, ObjectResult
from resurgsam2_cli.prompts.prompt import Prompt

SIZE = (61, 83)
VIDEOS = ("first", "second")
FRAMES = 7


def blob(rng: np.random.Generator) -> np.ndarray:
    """A disc somewhere, with a hole now and then."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    distance = np.hypot(y - rng.uniform(10, SIZE[0] - 10), x - rng.uniform(10, SIZE[1] - 10))
    return (distance < rng.uniform(4, 18)) & (distance > rng.choice([0.0, 3.0]))


def label_videos(seed: int) -> dict[str, list[np.ndarray]]:
    """Object 1 is seen from the third frame on and not in the fifth, object 3 always, object 2 never."""
    rng = np.random.default_rng(seed)
    videos: dict[str, list[np.ndarray]] = {}
    for name in VIDEOS:
        videos[name] = []
        for t in range(FRAMES):
            labels = np.zeros(SIZE, np.uint8)
            if t >= 2 and t != 4:
                labels[blob(rng)] = 1
            labels[blob(rng)] = 3
            videos[name].append(labels)
    return videos


def write_davis(root: Path, videos: dict[str, list[np.ndarray]]) -> Path:
    for name, frames in videos.items():
        (root / name).mkdir(parents=True)
        for t, labels in enumerate(frames):
            Image.fromarray(labels).save(root / name / f"{t:05d}.png")
    return root


def write_sav(root: Path, videos: dict[str, list[np.ndarray]]) -> Path:
    for name, frames in videos.items():
        for ident in (1, 3):
            (root / name / f"{ident:03d}").mkdir(parents=True)
            for t, labels in enumerate(frames):
                Image.fromarray((labels == ident).astype(np.uint8) * 255).save(
                    root / name / f"{ident:03d}" / f"{t:05d}.png"
                )
    return root


def write_runs(root: Path, videos: dict[str, list[np.ndarray]], ids: tuple[int, ...], texts: list[str]) -> Path:
    """Runs whose prompts are the objects ``ids`` of the label images."""
    for name, frames in videos.items():
        folder = root / name
        folder.mkdir(parents=True)
        prompts = tuple(Prompt(text, text) for text in texts)
        clip = Clip(name, *SIZE, Fraction(25), Fraction(0), None, None, prompts)
        sinks = [SINKS[x](folder, clip) for x in ("coco", "frames")]
        for t, labels in enumerate(frames):
            masks = np.stack([labels == i for i in ids])
            objects = [ObjectResult(k + 1, "track", True, 5.0, 0.9, 0.99, (), ()) for k in range(len(ids))]
            rgb = np.zeros((*SIZE, 3), np.uint8)
            result = FrameResult(t, f"{t:05d}", Fraction(t, 25), rgb, masks, labels, objects)
            for sink in sinks:
                sink.write(result)
        for sink in sinks:
            sink.finish()
        (folder / "run.json").write_text(json.dumps(run_record(name, frames, texts)))
    return root


def run_record(name: str, frames: list[np.ndarray], texts: list[str]) -> dict[str, Any]:
    return {
        "format": 1,
        "complete": True,
        "source": {
            "path": f"/videos/{name}.mp4",
            "size": 1,
            "width": SIZE[1],
            "height": SIZE[0],
            "frame_rate": "25/1",
            "frames": len(frames),
        },
        "settings": {"start": "0", "end": None, "stride": 1, "outputs": ["frames", "coco"]},
        "objects": [{"id": k, "text": text, "label": text, "color": "#00e5ff"} for k, text in enumerate(texts, 1)],
    }


def write_dataset(root: Path, videos: dict[str, list[np.ndarray]]) -> Path:
    """Write a data set in the layout of Ref-EndoVis: two expressions for object 3, one for object 1."""
    write_davis(root / "Annotations", videos)
    expressions = {"0": ("kidney", 1), "1": ("left grasper", 3), "2": ("grasper on the left", 3)}
    table = {
        "videos": {
            name: {
                "frames": [f"{t:05d}" for t in range(FRAMES)],
                "expressions": {i: {"exp": text, "obj_id": ident} for i, (text, ident) in expressions.items()},
            }
            for name in videos
        }
    }
    (root / "meta_expressions.json").write_text(json.dumps(table))
    return root


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write_davis(tmp_path / "truth", label_videos(0))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_vos_benchmark(truth: Path, tmp_path: Path, seed: int) -> None:
    """Both give the same scores on the same files; seed 0 is the truth itself."""
    predictions = write_davis(tmp_path / "predictions", label_videos(seed))
    _, (j,), (f,), (objects,) = map(list, benchmark([truth], [predictions], verbose=False, skip_first_and_last=False))
    (predictions / "results.csv").unlink()
    found = evaluate(predictions, truth)
    assert found.overall.j == pytest.approx(j, abs=1e-6)
    assert found.overall.f == pytest.approx(f, abs=1e-6)
    for x in found.objects:
        theirs_j, theirs_f = (table[int(x.object)] for table in objects[x.video])
        assert x.j == pytest.approx(theirs_j, abs=1e-6)
        assert x.f == pytest.approx(theirs_f, abs=1e-6)
    assert len(found.objects) == 4


def test_layouts_agree(truth: Path, tmp_path: Path) -> None:
    videos = label_videos(1)
    expected = evaluate(write_davis(tmp_path / "davis", videos), truth).record()
    assert evaluate(write_sav(tmp_path / "sav", videos), truth).record() == expected
    sav_truth = write_sav(tmp_path / "sav_truth", label_videos(0))
    assert evaluate(tmp_path / "davis", sav_truth, workers=1).record() == expected
    runs = evaluate(write_runs(tmp_path / "runs", videos, (1, 2, 3), ["a", "b", "c"]), truth)
    assert [(x.object, x.text) for x in runs.objects] == [("1", "a"), ("3", "c")] * 2  # object 2 is in no frame
    assert [x.j for x in runs.objects] == [x["j"] for x in expected["objects"]]


def test_expressions_and_groups(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "Ref-EndoVis18" / "valid", label_videos(0))
    texts = ["left grasper", "kidney", "grasper on the left"]
    runs = write_runs(tmp_path / "runs", label_videos(1), (3, 1, 1), texts)
    found = evaluate(runs, dataset, groups={"tools": (2, 3), "tissue": (1,), "none": (9,)})
    assert found.all_frames
    assert [(x.object, x.text) for x in found.objects[:3]] == [("3", texts[0]), ("1", texts[1]), ("3", texts[2])]
    good, kidney, poor = (np.mean([x.j for x in found.objects if x.text == text]) for text in texts)
    assert good > poor  # the third prompt's masks are those of another object
    assert set(found.groups) == {"tools", "tissue"}
    assert found.groups["tools"].j == pytest.approx((good + poor) / 2)  # prompts of one object count as their mean
    assert found.overall.j == pytest.approx((found.groups["tools"].j + kidney) / 2)
    assert [x.frames for x in found.objects] == [FRAMES] * 6

    csv_file, json_file = tmp_path / "scores.csv", tmp_path / "scores.json"
    options = ["evaluate", str(runs), "--truth", str(dataset), "--csv-file", str(csv_file), "--json-file"]
    result = CliRunner().invoke(app, [*options, str(json_file)])
    assert result.exit_code == 0, result.output
    # The folder's name tells the data set; in its groups, tissue has no object here.
    assert all(word in result.output for word in ("left grasper", "tools", "overall", "--all-frames"))
    assert list(json.loads(json_file.read_text())["groups"]) == ["tools"]
    (tmp_path / "groups.json").write_text('{"tools": [2, 3], "tissue": [1]}')
    result = CliRunner().invoke(
        app, [*options, str(json_file), "--overwrite", "--groups", str(tmp_path / "groups.json")]
    )
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(csv_file.open()))
    assert [x["level"] for x in rows] == ["object"] * 6 + ["video"] * 2 + ["group"] * 2 + ["overall"]
    record = json.loads(json_file.read_text())
    assert float(rows[-1]["J&F"]) == pytest.approx(record["overall"]["j_and_f"], abs=1e-4)
    assert GROUPS["ref-endovis18"]["tissue"] == (11, 12, 17)


def test_frames_before_the_first(truth: Path, tmp_path: Path) -> None:
    """Object 1 comes in the third frame: the two before it count only if asked for."""
    predictions = write_davis(tmp_path / "predictions", label_videos(0))
    seen, everything = (evaluate(predictions, truth, all_frames=x).objects[0] for x in (False, True))
    assert (seen.frames, everything.frames) == (FRAMES - 2, FRAMES)
    assert seen.j == everything.j == seen.dice == seen.absent_empty == 100
    worse = label_videos(0)
    worse["first"][0][:5, :5] = 1  # seen too early
    write_davis(tmp_path / "worse", worse)
    early = evaluate(tmp_path / "worse", truth).objects[0]
    assert early.frames == FRAMES
    assert early.absent_empty == pytest.approx(100 * 2 / 3)


def test_bad_input(truth: Path, tmp_path: Path) -> None:
    videos = label_videos(0)
    predictions = write_davis(tmp_path / "predictions", videos)
    (predictions / "first" / "00003.png").unlink()
    with pytest.raises(InputError, match="1 of 7 frames of the truth are missing, such as 00003"):
        evaluate(predictions, truth)
    assert evaluate(predictions, truth, skip_missing=True).objects[0].frames == FRAMES - 3
    one = write_davis(tmp_path / "one", {"first": videos["first"]})
    with pytest.raises(InputError, match="1 of 2 videos have no prediction, such as 'second'"):
        evaluate(one, truth)
    assert {x.video for x in evaluate(one, truth, skip_missing=True).objects} == {"first"}
    smaller = write_davis(tmp_path / "smaller", {k: [x[::2, ::2] for x in v] for k, v in videos.items()})
    with pytest.raises(InputError, match="frame 00000 is 42 x 31, its truth 83 x 61"):
        evaluate(smaller, truth)
    (smaller / "first" / "00000.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match="cannot be read"):
        evaluate(smaller, truth)
    for wrong in (tmp_path / "none", tmp_path / "one" / "first"):
        with pytest.raises(InputError):
            evaluate(predictions, wrong)
        with pytest.raises(InputError):
            evaluate(wrong, truth)
    dataset = write_dataset(tmp_path / "dataset", videos)
    runs = write_runs(tmp_path / "runs", videos, (1,), ["left scissors"])
    with pytest.raises(InputError, match="no expression 'left scissors'"):
        evaluate(runs, dataset)
    (dataset / "meta_expressions.json").write_text('{"videos": []}')
    with pytest.raises(InputError, match="layout of Ref-EndoVis"):
        evaluate(runs, dataset)
    result = CliRunner().invoke(app, ["evaluate", str(one), "--truth", str(truth), "--groups", "other"])
    assert result.exit_code != 0
