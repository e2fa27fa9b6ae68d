"""Pictures of image folders in exports: copied as they are where that is right, and named by every format."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from finished_runs import PROMPTS, FinishedRun, finished_run
from PIL import Image

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.runs.record import read_run
from resurgsam2_cli.runs.source import opened_source, source_pictures
from resurgsam2_cli.video.image_folder import Original

WIDTH, HEIGHT = 96, 80
ORIENTATION = 0x0112


def picture(seed: int, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    rough = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)


def named(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x0110] = "an endoscope"
    return exif


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run of a folder with every kind of image, all of one size when upright."""
    root = tmp_path_factory.mktemp("mixed")
    images = root / "scope"
    images.mkdir()
    picture(1).save(images / "a1.jpg", quality=60, exif=named(1))
    picture(2).save(images / "a2.jpeg", quality=70)
    picture(3).save(images / "a3.JPG", quality=80)
    picture(4, HEIGHT, WIDTH).save(images / "a4.jpg", exif=named(6))  # lies on its side
    picture(5).save(images / "a5.jpg", exif=named(3))  # stands on its head
    picture(6).save(images / "a6.png")
    picture(7).save(images / "a7.jpg", format="PNG")  # not what its name says
    picture(8).save(images / "a8.png", format="JPEG")
    picture(9).save(images / "a9.tif", save_all=True, append_images=[picture(10)])
    picture(11).convert("CMYK").save(images / "b1.jpg")
    picture(12).convert("L").save(images / "b2.jpg")
    picture(13).save(images / "b3.jpg", format="MPO", save_all=True, append_images=[picture(14)])
    Image.fromarray(np.full((HEIGHT, WIDTH), 40000, np.uint16)).save(images / "b4.png")
    picture(15).save(images / "b5.png", exif=named(3))
    return finished_run(root / "runs" / "scope", images, overlay=False)


COPIED = {"jpg": {"a1.jpg", "a2.jpeg", "a3.JPG", "b2.jpg"}, "png": {"a6.png"}}


def sources(run: FinishedRun) -> Path:
    return run.folder.parents[1] / "scope"


def is_shown_as(path: Path, rgb: np.ndarray, tolerance: float) -> bool:
    """Whether a reader that does not know of orientations, and takes the first picture, sees what was segmented."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return pixels.shape == rgb.shape and float(np.abs(pixels - rgb).mean()) <= tolerance


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_images_of_the_kind_asked_for_are_copied(kind: str, cli: Cli, mixed: FinishedRun) -> None:
    done = cli("export", mixed.folder, "-f", "coco", "-o", "out", "--frames", kind, "--json")
    assert done.code == 0, done.err
    data = json.loads(Path("out/annotations/instances_default.json").read_text())
    names = [x["file_name"].removeprefix("scope/") for x in data["images"]]
    folder = Path("out/images/default/scope")
    assert sorted(x.name for x in folder.iterdir()) == sorted(names)
    copied = {x for x in names if (sources(mixed) / x).is_file() and same(folder / x, sources(mixed) / x)}
    assert copied == COPIED[kind]
    assert {x for x in names if Path(x).suffix != f".{kind}"} == {x for x in copied if Path(x).suffix != f".{kind}"}
    for name, frame, rgb in zip(names, mixed.names, mixed.pictures, strict=True):
        assert Path(name).stem == frame
        assert is_shown_as(folder / name, rgb, 0 if kind == "png" or name in copied else 4), name
    assert f"{len(copied)} picture" in " ".join(json.loads(done.out)["notes"])


def same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a batch with one run of three JPEGs."""
    root = tmp_path_factory.mktemp("jpegs")
    (root / "op").mkdir()
    for i, suffix in enumerate(("JPG", "jpeg", "jpg")):
        picture(i).save(root / "op" / f"shot{i}.{suffix}", format="JPEG")
    finished_run(root / "runs" / "day" / "op", root / "op", overlay=False)
    finished_run(root / "runs" / "night" / "op", root / "op", overlay=False)
    return root


SHOTS = ["shot0.JPG", "shot1.jpeg", "shot2.jpg"]


@pytest.mark.parametrize("kind", ["coco", "youtube-vis", "davis", "sav", "yolo-seg", "cvat"])
def test_every_format_names_the_files_that_are_there(kind: str, cli: Cli, jpegs: Path) -> None:
    done = cli("export", jpegs / "runs", "-f", kind, "-o", "out", "--frames", "jpg")
    assert done.code == 0, done.err
    out = Path("out")
    expected = {
        "coco": [f"images/default/{x}/op/{s}" for x in ("day", "night") for s in SHOTS],
        "cvat": [f"images/{x}/op/{s}" for x in ("day", "night") for s in SHOTS],
        "yolo-seg": [f"images/train/{x}__op_{s}" for x in ("day", "night") for s in SHOTS],
    }.get(kind, [f"JPEGImages/{x}__op/{s}" for x in ("day", "night") for s in SHOTS])
    for path in expected:
        assert same(out / path, jpegs / "op" / f"shot{path.rpartition('shot')[2]}")
    if kind == "coco":
        data = json.loads((out / "annotations/instances_default.json").read_text())
        assert [f"images/default/{x['file_name']}" for x in data["images"]] == expected
    elif kind == "cvat":
        assert [
            f"images/{x.get('name')}" for x in ET.parse(out / "annotations.xml").getroot().iter("image")
        ] == expected
    elif kind == "youtube-vis":
        videos = json.loads((out / "instances.json").read_text())["videos"]
        assert [f"JPEGImages/{x}" for video in videos for x in video["file_names"]] == expected
    elif kind == "yolo-seg":
        labels = [Path(x.replace("images", "labels", 1)).with_suffix(".txt") for x in expected]
        assert all((out / x).read_text() for x in labels)
        assert sorted(x.name for x in (out / "labels/train").iterdir()) == sorted(x.name for x in labels)
    else:
        masks = {Path(x).stem for x in SHOTS}
        assert {x.stem for x in (out / "Annotations").rglob("*.png")} == masks


def test_yolo_with_copied_pictures_in_supervision(cli: Cli, jpegs: Path) -> None:
    supervision = pytest.importorskip("supervision", reason="a test-only reader, needs OpenCV")
    assert cli("export", jpegs / "runs", "-f", "yolo-seg", "-o", "out", "--frames", "jpg").code == 0
    dataset = supervision.DetectionDataset.from_yolo("out/images/train", "out/labels/train", "out/data.yaml")
    assert dataset.classes == [x.label for x in PROMPTS]
    assert len(dataset) == 6
    assert all(len(detections) for _, _, detections in dataset)


def test_names_that_differ_in_the_suffix_alone_stay_apart(cli: Cli, tmp_path: Path) -> None:
    """Their masks keep the suffix, so their pictures do, too: each stands beside its own mask."""
    images = tmp_path / "twins"
    images.mkdir()
    for i, name in enumerate(("a.jpg", "a.jpeg", "b.jpg")):
        picture(i).save(images / name)
    run = finished_run(tmp_path / "runs" / "twins", images, overlay=False)
    assert cli("export", run.folder, "-f", "davis", "-o", "out", "--frames", "jpg").code == 0
    for frame, name, copy in zip(
        run.names, ("a.jpeg", "a.jpg", "b.jpg"), ("a.jpeg.jpeg", "a.jpg.jpg", "b.jpg"), strict=True
    ):
        assert Path(copy).stem == frame
        assert same(Path("out/JPEGImages/twins", copy), images / name)
        assert Path(f"out/Annotations/twins/{frame}.png").is_file()


def test_every_nth_and_a_part_of_copied_pictures(cli: Cli, jpegs: Path) -> None:
    assert cli("export", jpegs / "runs/day/op", "-f", "davis", "-o", "out", "--frames", "jpg", "--every", "2").code == 0
    assert sorted(x.name for x in Path("out/JPEGImages/op").iterdir()) == ["shot0.JPG", "shot2.jpg"]


def test_copied_pictures_are_replaced_and_kept_like_all_else(cli: Cli, jpegs: Path, tmp_path: Path) -> None:
    command = ("export", jpegs / "runs/day/op", "-f", "davis", "-o", "out", "--frames", "jpg")
    assert cli(*command).code == 0
    assert cli(*command).code == 6
    assert cli(*command, "--overwrite").code == 0
    copy = Path("out/JPEGImages/op/shot2.jpg")
    copy.write_bytes(copy.read_bytes() + b"mine")
    changed = cli(*command, "--overwrite")
    assert changed.code == 6
    assert copy.read_bytes().endswith(b"mine")


def test_a_source_that_changed_is_not_copied(cli: Cli, tmp_path: Path) -> None:
    images = tmp_path / "op"
    images.mkdir()
    for i in range(2):
        picture(i).save(images / f"{i}.jpg")
    run = finished_run(tmp_path / "runs" / "op", images, overlay=False)
    picture(7).save(images / "1.jpg")
    changed = cli("export", run.folder, "-f", "coco", "-o", "out", "--frames", "jpg")
    assert changed.code == 3
    assert "its content has changed" in changed.err
    assert not Path("out").exists()


def test_a_copy_has_the_size_of_the_masks(jpegs: Path) -> None:
    run = replace(read_run(jpegs / "runs/day/op"), width=WIDTH + 1)
    with opened_source(run) as source:
        with pytest.raises(InputError, match=f"is {WIDTH} x {HEIGHT}, but the masks of op are {WIDTH + 1} x {HEIGHT}"):
            list(source_pictures(run, source, 1, "jpg"))
        assert all(isinstance(x, Original) for x in source_pictures(read_run(run.folder), source, 1, "jpg"))
