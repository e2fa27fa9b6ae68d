"""Frames keep the names of their pictures, and everything matches by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from clips import ffmpeg
from conftest import Cli
from PIL import Image

from resurgsam2_cli.measuring.evaluation import evaluate
from resurgsam2_cli.training.data import annotated_videos
from resurgsam2_cli.video.decoding import Decoder
from resurgsam2_cli.video.frames import digits_for, frame_key, natural_order
from resurgsam2_cli.video.image_folder import frame_names
from resurgsam2_cli.video.libav import opened
from resurgsam2_cli.video.positions import Part
from resurgsam2_cli.video.seeking import Index, index_of
from resurgsam2_cli.video.source import open_source


def test_names_of_pictures() -> None:
    assert frame_names(["frame_1.jpg", "frame_10.jpg"]) == ["frame_1", "frame_10"]
    assert frame_names(["a.jpg", "b.jpg", "a.png"]) == ["a.jpg", "b", "a.png"]
    assert frame_names(["A.jpg", "a.png"]) == ["A.jpg", "a.png"]
    assert frame_names(["v1.0.jpg", "v1.1.jpg"]) == ["v1.0", "v1.1"]
    assert frame_names(["A.jpg", "a.jpg"]) == ["A.jpg-00000", "a.jpg-00001"]
    assert len(set(frame_names(["x\udcff.jpg", "x\udcfe.jpg"]))) == 2


def test_images_that_share_a_name(cli: Cli, small_weights: Path) -> None:
    Path("frames").mkdir()
    for name in ("Bild_1.jpg", "Bild_3.jpg", "Bild_3.png"):
        Image.new("RGB", (64, 48)).save(f"frames/{name}")
    done = cli("segment", "frames", "-t", "kidney", "--weights", small_weights, "--no-overlay")
    assert done.code == 0
    assert "note: images share a name: each is a frame of its own, so Bild_3.jpg has Bild_3.jpg.png\n" in done.err
    assert sorted(x.name for x in Path("runs/frames/masks").iterdir()) == [
        "Bild_1.png",
        "Bild_3.jpg.png",
        "Bild_3.png.png",
    ]
    # If they were moved, their folder may be named as well as the one around it.
    Path("elsewhere").mkdir()
    Path("frames").rename("elsewhere/frames")
    for i, sources in enumerate(("elsewhere", "elsewhere/frames", "elsewhere/frames/")):
        export = ("export", "runs", "-f", "coco", "-o", f"to{i}", "--frames", "png", "-q")
        assert cli(*export).code == 3
        exported = cli(*export, "--sources", sources)
        assert exported.code == 0, exported.err
    Path("other").mkdir()
    assert "other: has no 'frames'\n" in cli(*export[:4], "-o", "to", "--frames", "png", "--sources", "other").err


def test_digits() -> None:
    """There are enough digits to keep names in order, with some room for headers that promise too few frames."""
    assert [digits_for(x) for x in (None, 1, 90_000, 99_999, 100_001, 2_000_000)] == [5, 5, 5, 6, 6, 7]
    names = [f"{i:0{digits_for(130_000)}d}" for i in (99_995, 100_000)]
    assert names == sorted(names)
    assert frame_key("00012") == frame_key("000012") == frame_key("12")
    assert frame_key("frame_012") != frame_key("frame_12")
    assert sorted(["f10", "f9"], key=natural_order) == ["f9", "f10"]


def test_a_stream_that_does_not_tell_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its frames are counted before they get names."""
    path = tmp_path / "raw.h264"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25", "-frames:v", "30", "-f", "h264", path)
    monkeypatch.setattr("resurgsam2_cli.video.video_file._SHORT", 0)
    with open_source(str(path)) as source:
        assert source.expected(Part()) is None
        assert [x.name for x in source.frames(Part())][:2] == ["00000", "00001"]
    index = Index(123_456, np.zeros(0), np.zeros(0), np.zeros(0))
    monkeypatch.setattr("resurgsam2_cli.video.video_file.index_of", lambda decoder, head: index)
    with open_source(str(path)) as source:
        assert [x.name for x in source.frames(Part())][:2] == ["000000", "000001"]
    monkeypatch.undo()
    with opened(path) as file:
        assert index_of(Decoder(file), []).packets == 30


@pytest.fixture
def dataset(cli: Cli, tmp_path: Path) -> Path:
    """A data set in the layout of Ref-EndoVis, with pictures named in steps of five, from one, or as people do."""
    assert cli("render", "scenes", "--count-scenes", "3", "--count-frames", "12", "--seed", "1001").code == 0
    meta = json.loads(Path("scenes/meta_expressions.json").read_text())
    names = [
        [f"{5 * i:05d}" for i in range(12)],
        [f"{i + 1:05d}" for i in range(12)],
        [f"frame_{i}" for i in range(12)],
    ]
    for scene, new in zip(sorted(meta["videos"]), names, strict=True):
        for part in ("JPEGImages", "Annotations"):
            for i in reversed(range(12)):
                folder = Path("scenes") / part / scene
                (folder / f"{i:05d}.png").rename(folder / f"{new[i]}.png")
    return Path("scenes")


def test_masks_and_truth_have_one_name(cli: Cli, dataset: Path) -> None:
    prompts = dataset / "meta_expressions.json"
    options = ("--weights", "demo", "-o", "runs", "--no-overlay", "-q", "--object-png")
    assert cli("batch", dataset / "JPEGImages", "--prompts", prompts, *options).code == 0
    for folder in (dataset / "JPEGImages").iterdir():
        expected = sorted(x.stem for x in folder.iterdir())
        run = Path("runs") / folder.name
        assert sorted(x.stem for x in (run / "masks").iterdir()) == expected
        assert sorted(x.stem for x in (run / "objects/001").iterdir()) == expected
        lines = [json.loads(x) for x in (run / "frames.jsonl").read_text().splitlines()]
        assert sorted(x["name"] for x in lines) == expected
        assert [x["frame"] for x in lines] == list(range(12))
        coco = json.loads((run / "annotations.json").read_text())
        assert sorted(Path(x["file_name"]).stem for x in coco["images"]) == expected
    scores = evaluate(Path("runs"), dataset)
    assert all(x.frames == 12 for x in scores.objects)
    # The same pictures under plain names give the same scores.
    shutil.copytree(dataset, "plain")
    for folder in [*Path("plain/JPEGImages").iterdir(), *Path("plain/Annotations").iterdir()]:
        for i, path in enumerate(sorted(folder.iterdir(), key=lambda x: natural_order(x.name))):
            path.rename(folder / f"new{i:05d}.png")
        for path in folder.iterdir():
            path.rename(folder / path.name.removeprefix("new"))
    again = ("--weights", "demo", "-o", "again", "--no-overlay", "-q")
    assert cli("batch", "plain/JPEGImages", "--prompts", prompts, *again).code == 0
    assert evaluate(Path("again"), Path("plain")).overall == scores.overall
    # And so do exports, and what training reads.
    for name in ("sav", "davis", "coco", "yolo-seg", "cvat", "youtube-vis"):
        assert cli("export", "runs", "-f", name, "-o", f"as-{name}", "--frames", "png").code == 0
    assert evaluate(Path("as-sav"), dataset).overall.j == pytest.approx(scores.overall.j)
    videos = annotated_videos(Path("runs"), Path("cache"))
    for video in videos:
        folder = dataset / "JPEGImages" / video.name
        for picture, label in zip(video.frames, video.labels, strict=True):
            assert picture.stem == label.stem
            truth = np.asarray(Image.open(folder / f"{picture.stem}.png")).astype(int)
            assert np.abs(np.asarray(Image.open(picture)) - truth).mean() < 5


def test_names_that_number_differently_are_matched(cli: Cli, tmp_path: Path) -> None:
    """A long video has more digits than its annotations; two images of one frame are an error."""
    for name, digits in (("truth", 5), ("found", 6)):
        (tmp_path / name / "v").mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / name / "v" / f"{i:0{digits}d}.png")
    assert evaluate(tmp_path / "found", tmp_path / "truth").overall.j == 100
    shutil.copy(tmp_path / "found/v/000001.png", tmp_path / "found/v/1.png")
    done = cli("evaluate", tmp_path / "found", "--truth", tmp_path / "truth")
    assert done.code == 3
    assert "is the same frame as" in done.err
