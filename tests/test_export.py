"""Exports, read back by other people's programs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import ffmpeg
from conftest import Cli
from finished_runs import PROMPTS, FinishedRun, finished_run
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from resurgsam2_cli.commands.export import Format
from resurgsam2_cli.errors import OutputError
from resurgsam2_cli.exports import EXPORTERS, ExportOptions
from resurgsam2_cli.exports.base import Video
from resurgsam2_cli.exports.categories import CategoryRules
from resurgsam2_cli.exports.job import export, plan
from resurgsam2_cli.exports.polygons import filled, joined, outline
from resurgsam2_cli.exports.target import Target
from resurgsam2_cli.exports.youtube_vis import uncompressed
from resurgsam2_cli.files.json_list import read_lists
from resurgsam2_cli.files.palette import davis_palette
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.runs.find import find_runs
from resurgsam2_cli.video.positions import Part, Position
from resurgsam2_cli.video.source import open_source

WIDTH, HEIGHT, LENGTH = 97, 81, 12


@pytest.fixture(scope="session")
def odd_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 frames of 97 x 81, lossless."""
    path = tmp_path_factory.mktemp("odd") / "clip.mkv"
    picture = f"testsrc=size={WIDTH}x{HEIGHT}:rate=30000/1001"
    ffmpeg("-f", "lavfi", "-i", picture, "-frames:v", str(LENGTH), "-c:v", "ffv1", "-pix_fmt", "bgr0", path)
    return path


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, odd_video: Path) -> dict[str, FinishedRun]:
    """Three finished runs (two share a name, the third is part of a folder of images), and an unfinished one."""
    root = tmp_path_factory.mktemp("batch")
    images = root.parent / f"{root.name}-images" / "scope"
    images.mkdir(parents=True)
    with open_source(str(odd_video)) as video:
        for frame in video.frames(Part()):
            Image.fromarray(frame.rgb[:64, :80]).save(images / f"img{frame.number}.png")
    part = Part(Position(frame=1), Position(frame=10), 2)
    made = {
        "a/clip": finished_run(root / "a/clip", odd_video, overlay=False),
        "b/clip": finished_run(root / "b/clip", odd_video, overlay=False, png=False, prompts=PROMPTS[:2]),
        "scope": finished_run(root / "scope", images, part, overlay=False),
    }
    (root / "c.partial").mkdir()
    (root / "c.partial" / ".unfinished").touch()
    (root / "c.partial" / "frames.jsonl").touch()
    return made


@pytest.fixture
def root(runs: dict[str, FinishedRun]) -> Path:
    return runs["scope"].folder.parent


def quiet_coco(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def frames_of(runs: dict[str, FinishedRun]) -> dict[str, tuple[FinishedRun, int]]:
    """Each frame by its name in exports, without the ending."""
    return {f"{name}/{n}": (run, t) for name, run in runs.items() for t, n in enumerate(run.names)}


def mapping(labels: dict[str, int], run: FinishedRun, k: int) -> int:
    return labels[run.prompts[k].label]


# --- COCO ---------------------------------------------------------------------------------------------------------


def test_coco_holds_every_mask_once(cli: Cli, root: Path, runs: dict[str, FinishedRun]) -> None:
    done = cli("export", root, "--format", "coco", "-o", "all.json")
    assert done.code == 0, done.err
    assert "3 videos, 29 frames" in done.err
    assert "1 unfinished run left out" in done.err
    assert done.err.splitlines()[-1] == str(Path("all.json").absolute())
    assert os.listdir(".") == ["all.json"]
    coco = quiet_coco(Path("all.json"))
    data = coco.dataset
    labels = {x["name"]: x["id"] for x in data["categories"]}
    assert labels == {"Greifer für Gewebe": 1, "kidney": 2, "鉗子": 3}
    assert [x["name"] for x in data["videos"]] == ["a/clip", "b/clip", "scope"]
    assert [x["length"] for x in data["videos"]] == [12, 12, 5]
    for key in ("images", "annotations"):
        ids = [x["id"] for x in data[key]]
        assert ids == list(range(1, len(ids) + 1))
    frames = frames_of(runs)
    images = {x["id"]: x for x in data["images"]}
    assert [x["file_name"] for x in data["images"]] == [f"{x}.png" for x in frames]
    found = {}
    for x in data["annotations"]:
        image = images[x["image_id"]]
        video = data["videos"][image["video_id"] - 1]["name"]
        k = x["track_id"] - 1 - {"a/clip": 0, "b/clip": 3, "scope": 5}[video]
        run, t = frames[image["file_name"][:-4]]
        assert np.array_equal(coco.annToMask(x).astype(bool), run.masks[t, k])
        assert x["category_id"] == mapping(labels, run, k)
        assert x["area"] == run.masks[t, k].sum()
        assert x["bbox"] == coco_mask.toBbox(x["segmentation"]).tolist()
        assert x["score"] == run.scores[t, k] == x["attributes"]["score"]
        assert (image["height"], image["width"]) == run.masks.shape[2:]
        assert image["frame_index"] == run.numbers[t]
        found[video, t, k] = x
    assert len(found) == len(data["annotations"]) == sum(int(x.masks.any((2, 3)).sum()) for x in runs.values())
    assert ("a/clip", 0, 1) not in found
    assert ("a/clip", 11, 1) in found


def test_coco_scores_one_against_itself(cli: Cli, root: Path) -> None:
    assert cli("export", root, "-f", "coco", "-o", "all.json").code == 0
    truth = quiet_coco(Path("all.json"))
    with contextlib.redirect_stdout(io.StringIO()):
        results = [
            {k: x[k] for k in ("image_id", "category_id", "segmentation", "score")}
            for x in json.loads(Path("all.json").read_text())["annotations"]
        ]
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_coco_of_one_run_has_what_the_run_has(cli: Cli, runs: dict[str, FinishedRun]) -> None:
    folder = runs["scope"].folder
    assert cli("export", folder, "-f", "coco", "-o", "one.json").code == 0
    one, own = (json.loads(x.read_text()) for x in (Path("one.json"), folder / "annotations.json"))
    del one["info"], own["info"]
    assert one == own


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_coco_with_pictures_and_splits_in_datumaro(
    ending: str, cli: Cli, root: Path, runs: dict[str, FinishedRun]
) -> None:
    datumaro = pytest.importorskip("datumaro", reason="a test-only reader, with its own OpenCV and Pillow")
    splits = {"train": ["b/clip"], "val": ["a/clip", "scope"]}
    Path("splits.json").write_text(json.dumps(splits))
    done = cli("export", root, "-f", "coco", "-o", "out", "--frames", ending, "--split", "splits.json")
    assert done.code == 0, done.err
    dataset = datumaro.Dataset.import_from("out", "coco")
    names = [x.name for x in dataset.categories()[datumaro.AnnotationType.label]]
    assert names == [x.label for x in PROMPTS]
    frames = frames_of(runs)
    seen = 0
    for item in dataset:
        run, t = frames[item.id]
        assert item.id.rpartition("/")[0] in splits[item.subset]
        assert _same_picture(item.media.data[..., ::-1], run.pictures[t], ending)
        found = [x for x in item.annotations if x.type is datumaro.AnnotationType.mask]  # each comes with a box
        assert len(found) == run.masks[t].any((1, 2)).sum()
        for x in found:
            k = [p.label for p in run.prompts].index(names[x.label])
            assert np.array_equal(x.image.astype(bool), run.masks[t, k])
            assert x.attributes["score"] == run.scores[t, k]
            assert x.attributes["track_id"] > 0
        seen += 1
    assert seen == len(frames)


def _same_picture(a: np.ndarray, b: np.ndarray, ending: str) -> bool:
    difference = np.abs(a.astype(int) - b)
    return bool(difference.max() == 0 if ending == "png" else difference.mean() < 4)


def test_coco_in_supervision(cli: Cli, root: Path, runs: dict[str, FinishedRun]) -> None:
    supervision = pytest.importorskip("supervision", reason="a test-only reader, needs OpenCV")
    done = cli("export", root, "-f", "coco", "-o", "out", "--frames", "png")
    assert done.code == 0, done.err
    images = Path("out/images/default")
    dataset = supervision.DetectionDataset.from_coco(
        str(images), "out/annotations/instances_default.json", force_masks=True
    )
    assert dataset.classes == [x.label for x in PROMPTS]
    frames = frames_of(runs)
    assert len(dataset) == len(frames)
    for path, picture, detections in dataset:
        run, t = frames[str(Path(path).relative_to(images.absolute() if Path(path).is_absolute() else images))[:-4]]
        assert np.array_equal(picture[..., ::-1], run.pictures[t])
        present = np.flatnonzero(run.masks[t].any((1, 2)))
        assert len(detections) == len(present)
        for mask, k in zip(detections.mask, present, strict=True):
            assert np.array_equal(mask, run.masks[t, k])


# --- YouTube-VIS --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rle", ["compressed", "uncompressed"])
def test_youtube_vis(rle: str, cli: Cli, root: Path, runs: dict[str, FinishedRun]) -> None:
    done = cli("export", root, "-f", "youtube-vis", "-o", "out", "--rle", rle)
    assert done.code == 0, done.err
    data = json.loads(Path("out/instances.json").read_text())
    assert [(x["name"], x["length"]) for x in data["videos"]] == [("a/clip", 12), ("b/clip", 12), ("scope", 5)]
    assert data["videos"][0]["file_names"][:2] == ["a__clip/00000.jpg", "a__clip/00001.jpg"]
    assert data["videos"][2]["file_names"] == [f"scope/img{i}.jpg" for i in (1, 3, 5, 7, 9)]
    made = list(runs.values())
    labels = {x["name"]: x["id"] for x in data["categories"]}
    seen = 0
    for x in data["annotations"]:
        run = made[x["video_id"] - 1]
        k = x["track_id"] - 1 - (0, 3, 5)[x["video_id"] - 1]
        assert x["category_id"] == mapping(labels, run, k)
        assert (x["height"], x["width"]) == run.masks.shape[2:]
        columns = (x["segmentations"], x["areas"], x["bboxes"])
        assert {len(column) for column in columns} == {len(run.numbers)}
        for t, (segmentation, area, box) in enumerate(zip(*columns, strict=True)):
            assert (segmentation is None) == (not run.masks[t, k].any())
            if segmentation is None:
                assert area is box is None
                continue
            assert isinstance(segmentation["counts"], str if rle == "compressed" else list)
            packed = segmentation
            if rle == "uncompressed":
                packed = coco_mask.frPyObjects(segmentation, *segmentation["size"])
            assert np.array_equal(coco_mask.decode(packed).astype(bool), run.masks[t, k])
            assert area == run.masks[t, k].sum()
            assert box == coco_mask.toBbox(packed).tolist()
        seen += 1
    assert seen == 8
    results = Path("out/results.json")
    assert results.exists() == (rle == "compressed")
    if results.exists():
        for result, x in zip(json.loads(results.read_text()), data["annotations"], strict=True):
            assert result == {key: x[key] for key in ("video_id", "category_id", "score", "segmentations")}


def test_youtube_vis_in_trackeval(cli: Cli, root: Path, runs: dict[str, FinishedRun]) -> None:
    trackeval = pytest.importorskip("trackeval", reason="a test-only reader, needs OpenCV")
    truth, tracker = Path("gt/youtube_vis_all"), Path("trackers/youtube_vis_all/ours/data")
    tracker.mkdir(parents=True)
    truth.mkdir(parents=True)
    assert cli("export", root, "-f", "youtube-vis", "-o", truth / "truth.json", "--rle", "uncompressed").code == 0
    assert cli("export", root, "-f", "youtube-vis", "-o", "out").code == 0
    Path("out/results.json").rename(tracker / "results.json")
    config = {"GT_FOLDER": "gt/", "TRACKERS_FOLDER": "trackers/", "SPLIT_TO_EVAL": "all", "PRINT_CONFIG": False}
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = trackeval.datasets.YouTubeVIS(config)
        metric = trackeval.metrics.TrackMAP({"PRINT_CONFIG": False, "USE_TIME_RANGES": False})
        per_sequence: dict[str, dict[str, Any]] = {}
        for name in dataset.seq_list:
            raw = dataset.get_raw_seq_data("ours", name)
            for label in dataset.class_list:
                data = dataset.get_preprocessed_seq_data(raw, label)
                per_sequence.setdefault(label, {})[name] = metric.eval_sequence(data)
    assert dataset.seq_list == ["a__clip", "b__clip", "scope"]
    for results in per_sequence.values():
        combined = metric.combine_sequences(results)
        assert np.mean(combined["AP_all"]) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(20))
def test_uncompressed_rle_is_what_pycocotools_reads(seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = random.integers(1, 90, 2)
    mask = (random.random(shape) < random.choice([0.0, 0.02, 0.5, 1.0])).astype(np.uint8)
    rle = coco_mask.encode(np.asfortranarray(mask))
    plain = uncompressed({"size": rle["size"], "counts": rle["counts"].decode()})
    assert np.array_equal(coco_mask.decode(coco_mask.frPyObjects(plain, *plain["size"])), mask)


# --- DAVIS and SA-V -----------------------------------------------------------------------------------------------


def test_davis_shows_what_the_run_shows(cli: Cli, root: Path, runs: dict[str, FinishedRun]) -> None:
    done = cli("export", root, "-f", "davis", "-o", "out")
    assert done.code == 0, done.err
    shared = {name: run.masks.sum(1) > 1 for name, run in runs.items()}
    pixels, frames = (sum(int(f(x)) for x in shared.values()) for f in (np.sum, lambda x: x.any((1, 2)).sum()))
    assert pixels > 0
    assert f"{pixels} pixels in {frames} frames belong to several objects" in done.err
    for name, folder in (("a/clip", "a__clip"), ("scope", "scope")):
        for t, n in enumerate(runs[name].names):
            with Image.open(f"out/{folder}/{n}.png") as image:
                assert image.mode == "P"
                assert bytes(image.getpalette() or []) == davis_palette()
                assert np.array_equal(np.asarray(image), runs[name].labels[t])
    # The other run has no label images: the better score wins.
    run = runs["b/clip"]
    for t, n in enumerate(run.names):
        labels = np.asarray(Image.open(f"out/b__clip/{n}.png"))
        expected = np.zeros_like(labels)
        for k in np.argsort(run.scores[t], kind="stable"):
            expected[run.masks[t, k]] = k + 1
        assert np.array_equal(labels, expected)


def test_davis_in_vos_benchmark(cli: Cli, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    benchmark = pytest.importorskip("vos_benchmark.benchmark", reason="a test-only reader, needs OpenCV")
    assert cli("export", root, "-f", "davis", "-o", "out").code == 0
    # The folder also holds the export's own record. A process pool would not see the modules of this process.
    for name in ("a__clip", "b__clip", "scope"):
        evaluator = benchmark.VideoEvaluator("out", "out", skip_first_and_last=False)
        _, iou, boundary = evaluator(name)
        assert set(iou) == set(boundary) == ({1, 2} if name == "b__clip" else {1, 2, 3})
        assert set(iou.values()) == set(boundary.values()) == {100.0}
    result = benchmark.benchmark(["out"], ["out"], num_processes=1, verbose=False, skip_first_and_last=False)
    assert result[0][0] == 100.0


def test_sav_holds_overlaps(cli: Cli, root: Path, runs: dict[str, FinishedRun]) -> None:
    done = cli("export", root, "-f", "sav", "-o", "out", "--frames", "jpg")
    assert done.code == 0, done.err
    for name, run in runs.items():
        folder = Path("out/Annotations") / name.replace("/", "__")
        assert sorted(x.name for x in folder.iterdir()) == [f"{k + 1:03d}" for k in range(len(run.prompts))]
        for t, n in enumerate(run.names):
            picture = Image.open(f"out/JPEGImages/{name.replace('/', '__')}/{n}.jpg")
            assert picture.size == run.masks.shape[:1:-1]
            for k in range(len(run.prompts)):
                image = np.asarray(Image.open(folder / f"{k + 1:03d}" / f"{n}.png"))
                assert np.array_equal(image, run.masks[t, k].astype(np.uint8))


def test_sav_in_vos_benchmark(cli: Cli, root: Path) -> None:
    """SA-V's evaluator is this one, called for each object's folder."""
    benchmark = pytest.importorskip("vos_benchmark.benchmark", reason="a test-only reader, needs OpenCV")
    assert cli("export", root, "-f", "sav", "-o", "out").code == 0
    evaluator = benchmark.VideoEvaluator("out/a__clip", "out/a__clip", skip_first_and_last=False)
    for k in range(3):
        _, iou, boundary = evaluator(f"{k + 1:03d}")
        assert iou == boundary == {1: 100.0}


# --- YOLO ---------------------------------------------------------------------------------------------------------


def test_yolo_in_supervision(cli: Cli, root: Path, runs: dict[str, FinishedRun]) -> None:
    supervision = pytest.importorskip("supervision", reason="a test-only reader, needs OpenCV")
    done = cli("export", root, "-f", "yolo-seg", "-o", "out", "--frames", "png")
    assert done.code == 0, done.err
    count = sum(int(x.masks.any((2, 3)).sum()) for x in runs.values())
    rings = sum(len(x.numbers) for x in runs.values())
    assert f"{rings} of {count} masks have holes: polygons hold none, they are filled" in done.err
    assert "in several parts" in done.err
    dataset = supervision.DetectionDataset.from_yolo("out/images/train", "out/labels/train", "out/data.yaml")
    assert dataset.classes == [x.label for x in PROMPTS]
    frames = {k.replace("/", "__"): v for k, v in frames_of(runs).items()}
    assert len(dataset) == len(frames)
    for path, picture, detections in dataset:
        name, _, number = Path(path).stem.rpartition("_")
        run, t = frames[f"{name}__{number}"]
        assert np.array_equal(picture[..., ::-1], run.pictures[t])
        present = np.flatnonzero(run.masks[t].any((1, 2)))
        assert len(detections) == len(present)
        for mask, k in zip(detections.mask if len(present) else [], present, strict=True):
            if k == 0:  # the ring: its hole is filled, its speck joined by a line
                assert mask[run.masks[t, k]].all()
            else:
                assert np.array_equal(mask, run.masks[t, k])


def test_yolo_with_a_line_for_each_part(cli: Cli, root: Path, runs: dict[str, FinishedRun]) -> None:
    """Filling the polygons gives the mask with its holes filled, and nothing across the frame."""
    cv2 = pytest.importorskip("cv2", reason="comes with the test-only readers")
    done = cli("export", root, "-f", "yolo-seg", "-o", "out", "--parts", "--frames", "png", "--json")
    assert done.code == 0, done.err
    notes = json.loads(done.out)["notes"]
    count = sum(int(x.masks.any((2, 3)).sum()) for x in runs.values())
    rings = sum(len(x.numbers) for x in runs.values())
    assert f"{rings} of {count} masks have holes: polygons hold none, they are filled" in notes
    assert any("in several parts: a polygon each" in x for x in notes)
    assert json.loads(Path("out/export.json").read_text())["options"]["parts"] is True
    several = 0
    for name, (run, t) in frames_of(runs).items():
        video, _, frame = name.rpartition("/")
        size = np.array(run.masks.shape[:1:-1])
        drawn: dict[int, np.ndarray] = {}
        for line in Path(f"out/labels/train/{video.replace('/', '__')}_{frame}.txt").read_text().splitlines():
            number, *values = line.split()
            ring = np.floor(np.array(values, float).reshape(-1, 2) * size).astype(np.int32)
            assert len(ring) >= 3
            image = drawn.setdefault(int(number), np.zeros(run.masks.shape[2:], np.uint8))
            several += int(image.any())
            cv2.fillPoly(image, [ring.reshape(-1, 1, 2)], 1)
        assert set(drawn) == set(np.flatnonzero(run.masks[t].any((1, 2))))
        for k, image in drawn.items():
            assert np.array_equal(image > 0, filled(run.masks[t, k]))
    assert several >= rings  # each ring has a speck beside it


@pytest.mark.parametrize("seed", range(30))
def test_outlines_are_opencvs(seed: int) -> None:
    cv2 = pytest.importorskip("cv2", reason="comes with the test-only readers")
    random = np.random.default_rng(seed)
    shape = tuple(int(x) for x in random.integers(1, 60, 2))
    mask = (random.random(shape) < random.choice([0.05, 0.3, 0.5, 0.7, 0.95])).astype(np.uint8)
    if seed % 2:
        mask = cv2.morphologyEx(np.pad(mask, 1), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    mask.flat[0] = 1
    _, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    found = outline(mask)
    assert found.holes == sum(1 for x in hierarchy[0] if x[3] >= 0)
    outer, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    assert len(found.parts) == len(outer)
    ours, theirs, one = (_painted(cv2, mask.shape, rings) for rings in (found.parts, outer, [joined(found.parts)]))
    assert np.array_equal(ours, theirs)
    assert ours[mask > 0].all()
    assert one[mask > 0].all()


def _painted(cv2: Any, shape: tuple[int, ...], rings: Any) -> np.ndarray:
    image = np.zeros(shape, np.uint8)
    for ring in rings:
        cv2.fillPoly(image, [np.asarray(ring, np.int32).reshape(-1, 1, 2)], 1)
    return image


# --- CVAT ---------------------------------------------------------------------------------------------------------


def test_cvat_masks_are_those_of_cvats_own_encoder(cli: Cli, root: Path, runs: dict[str, FinishedRun]) -> None:
    masks = pytest.importorskip("cvat_sdk.masks", reason="a test-only reader")
    done = cli("export", root, "-f", "cvat", "-o", "out.xml")
    assert done.code == 0, done.err
    tree = ET.parse("out.xml").getroot()
    assert tree.tag == "annotations"
    assert tree.findtext("version") == "1.1"
    assert [x.findtext("name") for x in tree.iter("label")] == [x.label for x in PROMPTS]
    frames = frames_of(runs)
    images = list(tree.iter("image"))
    assert [x.get("name") for x in images] == [f"{x}.png" for x in frames]
    assert [x.get("id") for x in images] == [str(i) for i in range(len(frames))]
    for image in images:
        run, t = frames[image.attrib["name"][:-4]]
        present = np.flatnonzero(run.masks[t].any((1, 2)))
        found = list(image.iter("mask"))
        assert len(found) == len(present)
        for x, k in zip(found, present, strict=True):
            left, top, width, height = (int(x.attrib[key]) for key in ("left", "top", "width", "height"))
            points = [int(v) for v in x.attrib["rle"].split(",")] + [left, top, left + width - 1, top + height - 1]
            assert points == masks.encode_mask(run.masks[t, k])
            decoded = masks.decode_mask(
                points, image_width=int(image.attrib["width"]), image_height=int(image.attrib["height"])
            )
            assert np.array_equal(decoded, run.masks[t, k])
            assert x.attrib["label"] == run.prompts[k].label
            assert float({a.get("name"): a.text for a in x.iter("attribute")}["score"] or "") == run.scores[t, k]


def test_cvat_of_one_run_has_its_frame_numbers(cli: Cli, runs: dict[str, FinishedRun]) -> None:
    assert cli("export", runs["scope"].folder, "-f", "cvat", "-o", "out").code == 0
    images = ET.parse("out/annotations.xml").getroot().iter("image")
    assert [int(x.attrib["id"]) for x in images] == runs["scope"].numbers


@pytest.mark.parametrize("split", [(), ("--split", "train=1,val=1")])
def test_cvat_in_datumaro(split: tuple[str, ...], cli: Cli, root: Path, runs: dict[str, FinishedRun]) -> None:
    datumaro = pytest.importorskip("datumaro", reason="a test-only reader, with its own OpenCV and Pillow")
    done = cli("export", root, "-f", "cvat", "-o", "out", "--frames", "png", *split)
    assert done.code == 0, done.err
    dataset = datumaro.Dataset.import_from("out", "cvat")
    names = [x.name for x in dataset.categories()[datumaro.AnnotationType.label]]
    frames = frames_of(runs)
    seen = 0
    for item in dataset:
        run, t = frames[item.id]
        assert np.array_equal(item.media.data[..., ::-1], run.pictures[t])
        assert len(item.annotations) == run.masks[t].any((1, 2)).sum()
        for x in item.annotations:
            k = [p.label for p in run.prompts].index(names[x.label])
            assert np.array_equal(x.image.astype(bool), run.masks[t, k])
        seen += 1
    assert seen == len(frames)


# --- overlay ------------------------------------------------------------------------------------------------------


def test_overlay_afterwards_is_the_runs_own(cli: Cli, video: Path, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "clip", video)
    done = cli("export", run.folder, "-f", "overlay", "-o", "clip.mp4")
    assert done.code == 0, done.err
    ours, theirs = _pixels(Path("clip.mp4")), _pixels(run.folder / "overlay.mp4")
    assert np.array_equal(ours, theirs)
    with open_source("clip.mp4") as made:
        assert made.audio is not None


def test_overlay_with_other_looks(cli: Cli, root: Path, runs: dict[str, FinishedRun]) -> None:
    looks = ("--side-by-side", "--opacity", "1", "--color", "kidney=#ff0000", "--categories", "鉗子=")
    done = cli("export", root, "-f", "overlay", "-o", "out", *looks)
    assert done.code == 0, done.err
    for name, run in runs.items():
        pixels = _pixels(Path(f"out/{name}.mp4"))
        frames, _, height, width = run.masks.shape
        assert pixels.shape[:3] == (frames, height + height % 2, 2 * width)
        t = frames - 1
        assert (
            np.abs(pixels[t, :height, :width].astype(int) - run.pictures[t]).mean() < 20
        )  # colour at half the resolution
        kidney = pixels[t, :height, width : 2 * width][run.masks[t, 1]].astype(int)
        assert np.abs(np.median(kidney, axis=0) - (255, 0, 0)).max() < 25


def test_overlay_of_a_run_without_wanted_objects(cli: Cli, root: Path, runs: dict[str, FinishedRun]) -> None:
    leave = [x for label in ("kidney", "Greifer für Gewebe") for x in ("--categories", f"{label}=")]
    for name in EXPORTERS:
        done = cli("export", root / "b", root / "scope", "-f", name, "-o", name, *leave)
        assert done.code == 0, done.err
    pixels = _pixels(Path("overlay/clip.mp4"))
    assert np.abs(pixels[3, :81, :97].astype(int) - runs["b/clip"].pictures[3]).mean() < 20


def _pixels(path: Path) -> np.ndarray:
    with open_source(str(path)) as source:
        return np.array([x.rgb for x in source.frames(Part())])


# --- what is exported ---------------------------------------------------------------------------------------------


def test_scores_areas_and_every(cli: Cli, root: Path, runs: dict[str, FinishedRun]) -> None:
    limits = ("--min-score", "0.8", "--min-area", "600", "--every", "5", "--json")
    done = cli("export", root, "-f", "coco", "-o", "all.json", *limits)
    assert done.code == 0, done.err
    data = json.loads(Path("all.json").read_text())
    assert [x["frame_index"] for x in data["images"]] == [0, 5, 10, 0, 5, 10, 1]
    kept = []
    for run in runs.values():
        for t in range(0, len(run.numbers), 5):
            areas = run.masks[t].sum((1, 2))
            kept += [a for a, s in zip(areas, run.scores[t], strict=True) if a >= 600 and s >= 0.8]
    assert [x["area"] for x in data["annotations"]] == kept
    assert kept
    record = json.loads(done.out)
    assert record["frames"] == 7
    assert record["masks"] == len(kept)
    assert any("with a score below 0.8 left out" in x for x in record["notes"])
    assert any("of fewer than 600 pixels left out" in x for x in record["notes"])


def test_every_takes_the_same_frames_of_the_video(cli: Cli, runs: dict[str, FinishedRun]) -> None:
    run = runs["scope"]
    done = cli("export", run.folder, "-f", "coco", "-o", "out", "--frames", "png", "--every", "2")
    assert done.code == 0, done.err
    for t in (0, 2, 4):
        with Image.open(f"out/images/default/scope/{run.names[t]}.png") as image:
            assert np.array_equal(np.asarray(image), run.pictures[t])


def test_categories_are_merged_fixed_and_left_out(cli: Cli, root: Path) -> None:
    done = cli(
        *("export", root, "-f", "coco", "-o", "all.json"),
        *("--categories", "Greifer für Gewebe=tool", "--categories", "鉗子=tool", "--categories", "kidney="),
    )
    assert done.code == 0, done.err
    data = json.loads(Path("all.json").read_text())
    assert data["categories"] == [{"id": 1, "name": "tool", "supercategory": ""}]
    assert {x["category_id"] for x in data["annotations"]} == {1}
    assert "of labels that --categories leaves out" in done.err
    fixed = [{"id": 7, "name": "tool", "labels": ["鉗子"]}, {"id": 2, "name": "unused"}, {"id": 4, "name": "kidney"}]
    Path("fixed.json").write_text(json.dumps(fixed))
    assert cli("export", root, "-f", "coco", "-o", "fixed", "--categories", "fixed.json").code == 0
    data = json.loads(Path("fixed/annotations/instances_default.json").read_text())
    assert [(x["id"], x["name"]) for x in data["categories"]] == [
        (2, "unused"),
        (4, "kidney"),
        (7, "tool"),
        (8, "Greifer für Gewebe"),
    ]
    # A COCO file gives its categories to another export.
    again = cli(
        *("export", root, "-f", "coco", "-o", "again.json"),
        *("--categories", "fixed/annotations/instances_default.json", "--categories", "鉗子=tool"),
    )
    assert again.code == 0, again.err
    assert json.loads(Path("again.json").read_text())["categories"] == data["categories"]
    assert cli("export", root, "-f", "yolo-seg", "-o", "yolo", "--categories", "fixed.json").code == 0
    assert '  2: "tool"' in Path("yolo/data.yaml").read_text().splitlines()


def _categories(cli: Cli, root: Path, *rules: str) -> dict[str, str]:
    """What each prompt of an export comes out as."""
    done = cli(
        "export", root, "-f", "coco", "-o", "out", "--overwrite", *(x for r in rules for x in ("--categories", r))
    )
    assert done.code == 0, done.err
    record = json.loads(Path("out/export.json").read_text())
    names = {x["id"]: x["name"] for x in record["categories"]}
    return {x["text"]: names[x["category_id"]] for video in record["videos"] for x in video["objects"]}


def test_categories_by_prompt(cli: Cli, odd_video: Path, tmp_path: Path) -> None:
    prompts = (Prompt("left grasper", "grasper"), Prompt("right grasper", "grasper"), Prompt("grasper", "kidney"))
    root = tmp_path / "batch"
    finished_run(root / "clip", odd_video, prompts=prompts, overlay=False)
    plain = {"left grasper": "grasper", "right grasper": "grasper", "grasper": "kidney"}
    assert _categories(cli, root) == plain
    assert _categories(cli, root, "left  grasper=tool") == {**plain, "left grasper": "tool"}
    assert _categories(cli, root, "left grasper=") == {x: plain[x] for x in ("right grasper", "grasper")}
    assert _categories(cli, root, "left grasper=left grasper") == {**plain, "left grasper": "left grasper"}
    # "grasper" is a label and a prompt: it means the label.
    assert _categories(cli, root, "grasper=tool") == {**plain, "left grasper": "tool", "right grasper": "tool"}
    # From files, too. A category of a file stands for a label, not for a prompt that happens to be called so.
    Path("names.json").write_text('{"right grasper": "tool", "unused": "x"}')
    assert _categories(cli, root, "names.json") == {**plain, "right grasper": "tool"}
    Path("fixed.json").write_text(
        '[{"id": 5, "name": "left grasper"}, {"id": 9, "name": "r", "labels": ["right grasper"]}]'
    )
    assert _categories(cli, root, "fixed.json") == {**plain, "right grasper": "r"}


def test_categories_that_nothing_has(cli: Cli, odd_video: Path, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "clip", odd_video, overlay=False)  # kidney, right forceps=鉗子, ...
    export = ("export", run.folder, "-f", "coco", "-o", "out")
    unknown = cli(*export, "--categories", "Right Forcep=x")
    assert unknown.code == 2
    assert "no run has the label or prompt 'Right Forcep'" in unknown.err
    assert "the nearest labels: " in unknown.err
    assert "the nearest prompts: right forceps, left grasper, kidney" in unknown.err
    both = cli(*export, "--categories", "right forceps=x", "--categories", "鉗子=y")
    assert both.code == 2
    assert "the prompt 'right forceps' has no effect" in both.err
    assert not Path("out").exists()


def test_splits_are_by_video(cli: Cli, root: Path, runs: dict[str, FinishedRun]) -> None:
    made = {}
    orders = ([root], [runs[x].folder for x in ("scope", "b/clip", "a/clip")])
    for i, order in enumerate(orders):
        done = cli("export", *order, "-f", "coco", "-o", f"out{i}", "--split", "train=50%,val=50%", "--json")
        assert done.code == 0, done.err
        made[i] = {x["name"]: x["split"] for x in json.loads(done.out)["videos"]}
    assert made[0] == made[1]
    assert made[0]["a/clip"] == made[0]["b/clip"] != made[0]["scope"]  # two runs of one video stay together


def test_runs_of_one_name_are_told_apart(cli: Cli, root: Path, runs: dict[str, FinishedRun]) -> None:
    both = (runs["a/clip"].folder, runs["b/clip"].folder, root / "a")
    assert cli("export", *both, "-f", "coco", "-o", "all.json").code == 0
    videos = json.loads(Path("all.json").read_text())["videos"]
    assert [x["name"] for x in videos] == ["a/clip", "b/clip"]
    assert cli("export", both[0], runs["scope"].folder, "-f", "coco", "-o", "two.json").code == 0
    assert [x["name"] for x in json.loads(Path("two.json").read_text())["videos"]] == ["clip", "scope"]


def test_videos_that_were_moved(cli: Cli, odd_video: Path, tmp_path: Path) -> None:
    here = tmp_path / "here" / "clip.mkv"
    here.parent.mkdir()
    here.write_bytes(odd_video.read_bytes())
    run = finished_run(tmp_path / "runs" / "clip", here, overlay=False)
    there = tmp_path / "there" / "here"
    there.mkdir(parents=True)
    here.rename(there / "clip.mkv")
    gone = cli("export", run.folder, "-f", "davis", "-o", "out", "--frames", "png")
    assert gone.code == 3
    assert "is not there any more" in gone.err
    assert "--sources FOLDER" in gone.err
    assert not Path("out").exists()
    assert os.listdir(".") == []
    done = cli("export", run.folder, "-f", "davis", "-o", "out", "--frames", "png", "--sources", tmp_path / "there")
    assert done.code == 0, done.err
    assert np.array_equal(np.asarray(Image.open("out/JPEGImages/clip/00003.png")), run.pictures[3])
    ffmpeg("-i", there / "clip.mkv", "-frames:v", "12", "-c:v", "ffv1", "-vf", "negate", here)
    changed = cli("export", run.folder, "-f", "davis", "-o", "again", "--frames", "png")
    assert changed.code == 3
    assert "its content has changed" in changed.err


# --- errors -------------------------------------------------------------------------------------------------------


def test_what_is_not_an_export_stays(cli: Cli, root: Path) -> None:
    command = ("export", root, "-f", "coco", "-o")
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    Path("mine.json").write_text("{}")
    for path in ("mine", "mine.json"):
        assert cli(*command, path).code == 6
        done = cli(*command, path, "--overwrite")
        assert done.code == 6
        assert "is not an export of this program" in done.err
    Path("empty").mkdir()
    assert cli(*command, "empty").code == 0
    for path in ("empty", "new.json"):
        cli(*command, path)
        refused = cli(*command, path)
        assert refused.code == 6
        assert "--overwrite" in refused.err
        before = Path(path).stat().st_ino
        assert cli(*command, path, "--overwrite").code == 0
        assert Path(path).stat().st_ino != before
    Path("empty/thesis.txt").write_text("mine")
    done = cli(*command, "empty", "--overwrite")
    assert done.code == 6
    assert "thesis.txt" in done.err
    assert Path("empty/thesis.txt").read_text() == "mine"
    assert cli(*command, "new.json", "--overwrite", "--every", "2").code == 0
    assert sorted(os.listdir(".")) == ["empty", "mine", "mine.json", "new.json"]
    inside = cli(*command, root / "scope" / "coco")
    assert inside.code == 2
    assert "lies inside the run" in inside.err


def test_an_export_that_fails_leaves_what_was_there(root: Path, tmp_path: Path) -> None:
    """An export that was killed leaves a folder that the next one takes over."""
    runs, _ = find_runs([root])
    dataset = plan(runs, EXPORTERS["davis"], ExportOptions(), CategoryRules(), None)
    path = tmp_path / "out"

    def target() -> Target:
        return Target(path, "", overwrite=True)

    def fail(video: Video) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export("davis", dataset, target(), fail)
    assert list(tmp_path.iterdir()) == []
    export("davis", dataset, target(), lambda _: None)
    made = sorted(x.relative_to(path) for x in path.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        export("davis", dataset, target(), fail)
    assert sorted(x.relative_to(path) for x in path.rglob("*")) == made

    killed = tmp_path / "out.partial"
    killed.mkdir()
    (killed / ".unfinished").touch()
    (killed / "half").mkdir()
    with target().filling(), pytest.raises(OutputError, match="another run is writing it"):
        export("davis", dataset, target(), lambda _: None)
    export("davis", dataset, target(), lambda _: None)
    assert list(tmp_path.iterdir()) == [path]
    assert sorted(x.relative_to(path) for x in path.rglob("*")) == made


def test_an_overlay_of_another_program_stays(cli: Cli, video: Path, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "clip", video)
    Path("clip.mp4").write_bytes(video.read_bytes())
    command = ("export", run.folder, "-f", "overlay", "--overwrite", "-o")
    assert cli(*command, "clip.mp4").code == 6
    assert Path("clip.mp4").read_bytes() == video.read_bytes()
    assert cli(*command, "own.mp4").code == 0
    assert cli(*command, "own.mp4").code == 0


def test_damaged_runs(cli: Cli, odd_video: Path, tmp_path: Path) -> None:
    def broken(name: str, file: str, edit: Any) -> str:
        run = finished_run(tmp_path / name / "clip", odd_video, overlay=False)
        path = run.folder / file
        path.write_text(edit(path.read_text()))
        done = cli("export", tmp_path / name, "-f", "coco", "-o", "out.json")
        assert done.code == 3, done.err
        assert len(done.err.splitlines()) == 2
        assert str(path) in done.err
        assert os.listdir(".") == []
        return done.err

    assert "is not as this program wrote it" in broken("cut", "annotations.json", lambda x: x[: len(x) // 2])
    assert "is missing" in broken("key", "run.json", lambda x: x.replace('"width"', '"breadth"'))
    assert "11 frames" in broken("short", "frames.jsonl", lambda x: x[: x.rstrip().rfind("\n")])
    assert "no object 9" in broken("id", "annotations.json", lambda x: x.replace('"track_id": 2', '"track_id": 9'))
    assert "after" in broken("order", "annotations.json", lambda x: x.replace('"image_id": 3', '"image_id": 11'))
    assert "frame 4 stands" in broken("frame", "frames.jsonl", lambda x: x.replace('"frame": 3', '"frame": 4'))


def test_bad_input(cli: Cli, root: Path, odd_video: Path, tmp_path: Path) -> None:
    bare = finished_run(tmp_path / "bare" / "clip", odd_video, coco=False, overlay=False)
    Path("bad.json").write_text('[{"id": 0, "name": "x"}]')
    Path("leave.json").write_text('{"kidney": null, "Greifer für Gewebe": ""}', encoding="utf-8")
    Path("nosplit.json").write_text('{"train": ["scope"]}')
    Path("empty").mkdir()
    for code, words, *arguments in (
        (3, "annotations.json: is missing: the run was made with --no-coco", bare.folder, "-f", "coco"),
        (3, "no such folder", "nowhere", "-f", "coco"),
        (3, "holds no finished run", "empty", "-f", "coco"),
        (3, "the 1 there did not finish", root / "c.partial", "-f", "coco"),
        (2, "no run has the label or prompt 'liver'", root, "-f", "coco", "--categories", "liver=x"),
        (2, "neither label=name", root, "-f", "coco", "--categories", "liver"),
        (3, "no id from 1 on", root, "-f", "coco", "--categories", "bad.json"),
        (3, "none.json: cannot be read", root, "-f", "coco", "--categories", "none.json"),
        (2, "leaves out every object", root / "b", "-f", "sav", "--categories", "leave.json"),
        (2, "is in no split", root, "-f", "coco", "--split", "nosplit.json"),
        (2, "is not a name with a share", root, "-f", "coco", "--split", "train"),
        (2, "cannot fill 3 splits", root, "-f", "coco", "--split", "a=1,b=1,c=1"),
        (2, "--frames makes no sense", root, "-f", "overlay", "--frames", "jpg"),
        (2, "--rle is for", root, "-f", "coco", "--rle", "uncompressed"),
        (2, "--parts is for --format yolo-seg", root, "-f", "cvat", "--parts"),
        (2, "is not category=#rrggbb", root, "-f", "overlay", "--color", "kidney=red"),
        (2, "there is no category", root, "-f", "overlay", "--color", "liver=#ff0000"),
    ):  # fmt: skip
        done = cli("export", *arguments, "-o", "out")
        assert done.code == code, done.err
        assert str(words) in done.err
        assert len(done.err.splitlines()) == 2
        assert not Path("out").exists()
        assert not Path("out.partial").exists()
    several = cli("export", root, "-f", "overlay", "-o", "out.mp4")
    assert several.code == 2
    assert "makes several" in several.err


def test_suffixes_that_a_format_does_not_have(cli: Cli, runs: dict[str, FinishedRun]) -> None:
    folder = runs["scope"].folder
    for kind, name, takes in (
        ("overlay", "side.avi", "a file that ends in .mp4, or a folder"),
        ("coco", "all.xml", "a file that ends in .json, or a folder"),
        ("cvat", "all.JSON", "a file that ends in .xml, or a folder"),
        ("youtube-vis", "all.tar.gz", "a file that ends in .json, or a folder"),
        ("davis", "x.json", "a folder"),
        ("sav", "x.png", "a folder"),
        ("yolo-seg", "data.yaml", "a folder"),
    ):
        done = cli("export", folder, "-f", kind, "-o", name)
        assert done.code == 2, done.err
        suffix = Path(name).suffix.lower()
        assert done.err.splitlines()[0] == f"resurgsam2: {name}: {kind} is not written as {suffix}"
        assert takes in done.err.splitlines()[1]
        assert os.listdir(".") == []
    for name in ("day.1", "v2.final", "Dr. Smith", ".json"):  # a name that begins with a dot has no suffix
        assert cli("export", folder, "-f", "davis", "-o", name).code == 0
        assert Path(name, "export.json").is_file()
    Path("day.1").rename("old.avi")
    assert cli("export", folder, "-f", "davis", "-o", "old.avi", "--overwrite").code == 0
    assert cli("export", folder, "-f", "coco", "-o", "ALL.JSON").code == 0
    assert Path("ALL.JSON").is_file()


def test_json_lists_of_any_layout(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    items = [{"id": i, "text": '}] \\ " é' * (i % 7)} for i in range(30_000)]
    data = {
        "info": {"a": [1, 2]},
        "images": items,
        "empty": [],
        "n": 12,
        "numbers": [1, 2.5, -3],
        "annotations": items[:5],
    }
    for indent in (None, 1):
        path.write_text(json.dumps(data, indent=indent, ensure_ascii=False), encoding="utf-8")
        read: dict[str, list[Any]] = {}
        for key, item in read_lists(path):
            read.setdefault(key, []).append(item)
        assert read == {k: data[k] for k in ("images", "numbers", "annotations")}
    for text in ("", "[]", '{"a": [1', '{"a": [1] "b": 2}', '{"a"'):
        path.write_text(text)
        with pytest.raises(ValueError):  # noqa: PT011
            list(read_lists(path))


def test_the_command_names_the_registry() -> None:
    assert [x.value for x in Format] == list(EXPORTERS)


def test_exports_need_no_torch() -> None:
    modules = "resurgsam2_cli.exports.job, resurgsam2_cli.terminal.bars, resurgsam2_cli.measuring.evaluation"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_segment_writes_is_what_export_reads(cli: Cli, small_weights: Path, video: Path) -> None:
    texts = ("-t", "left grasper=Greifer für Gewebe", "-t", "kidney")
    assert cli("segment", video, *texts, "--weights", small_weights, "--no-overlay").code == 0
    done = cli("export", "runs", "-f", "coco", "-o", "all.json")
    assert done.code == 0, done.err
    one, own = (json.loads(Path(x).read_text()) for x in ("all.json", "runs/clip/annotations.json"))
    del one["info"], own["info"]
    assert one == own
    assert cli("export", "runs", "-f", "davis", "-o", "davis").code == 0
    for path in Path("runs/clip/masks").iterdir():
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(f"davis/clip/{path.name}")))
