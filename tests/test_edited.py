"""Edited masks: a finished run, exported, changed with each format's own means, and read back as what was changed."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import unicodedata
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_runs import PROMPTS, FinishedRun, finished_run
from PIL import Image
from pycocotools import mask as coco_mask

from resurgsam2_cli.edits import corrections as edited
from resurgsam2_cli.edits import files as edited_files
from resurgsam2_cli.edits.corrections import read_corrections
from resurgsam2_cli.edits.index import Index
from resurgsam2_cli.edits.masks import OwnMasks, is_rounded, label_changes, outline_counts
from resurgsam2_cli.edits.trees import TreeEdits
from resurgsam2_cli.errors import InputError, OutputError
from resurgsam2_cli.exports import EXPORTERS, ExportOptions
from resurgsam2_cli.exports.categories import CategoryRules
from resurgsam2_cli.exports.job import export, plan
from resurgsam2_cli.exports.target import Target
from resurgsam2_cli.files.rle import decoded
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.runs.find import find_runs
from resurgsam2_cli.runs.reading import RunFrame, RunMask
from resurgsam2_cli.runs.record import read_run
from resurgsam2_cli.video.positions import Part, Position

HEIGHT, WIDTH, LENGTH = 81, 97, 9
TWINS = (Prompt("left grasper", "grasper"), Prompt("right grasper", "grasper"), Prompt("kidney", "kidney"))

Masks = dict[tuple[int, int], np.ndarray]
"""By frame and object."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of nine pictures, 00000.png to 00008.png."""
    folder = tmp_path_factory.mktemp("pictures") / "scope"
    folder.mkdir()
    for i in range(LENGTH):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 20 * i, np.uint8)).save(folder / f"{i:05d}.png")
    return folder


@pytest.fixture
def run(pictures: Path, tmp_path: Path) -> FinishedRun:
    return finished_run(tmp_path / "runs/clip", pictures, overlay=False, object_png=True)


def disc(row: int, column: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.hypot(y - row, x - column) < radius


def corrected(run: FinishedRun) -> Masks:
    """An object that was absent comes, a ring gets another hole, two overlap more, one is removed, one is whole."""
    comes = disc(60, 30, 8)
    ring = run.masks[3, 0] & ~disc(36, 38, 2.5)
    assert ring.sum() < run.masks[3, 0].sum()
    over = run.masks[4, 2] | disc(36, 28, 14)
    assert (over & run.masks[4, 0]).sum() > (run.masks[4, 2] & run.masks[4, 0]).sum()
    return {
        (1, 2): comes,
        (3, 1): ring,
        (4, 3): over,
        (5, 3): np.zeros_like(comes),
        (8, 2): np.ones_like(comes),
    }


def own_masks(run: FinishedRun) -> Masks:
    return {(n, k + 1): run.masks[t, k] for t, n in enumerate(run.numbers) for k in range(len(run.prompts))}


def read(path: Path, run: FinishedRun) -> Masks:
    found: Masks = {}
    order = []
    for x in read_corrections(path, read_run(run.folder)):
        assert x.mask.dtype == bool
        order.append((x.frame, x.object_id))
        found[x.frame, x.object_id] = x.mask
    assert order == sorted(set(order))
    return found


def check_same(found: Masks, expected: Masks) -> None:
    assert sorted(found) == sorted(expected)
    for key, mask in expected.items():
        assert np.array_equal(found[key], mask), key


def exported(kind: str, out: Path, *folders: Path, left_out: str = "", **options: Any) -> Path:
    exporter, categories = EXPORTERS[kind], CategoryRules({left_out: ""} if left_out else {})
    dataset = plan(find_runs(list(folders))[0], exporter, ExportOptions(**options), categories, None)
    export(kind, dataset, Target(out, exporter.file_suffix, overwrite=False), lambda _: None)
    return out


def zipped(path: Path, top: str = "") -> Path:
    """A zip of a file, or of what is in a folder."""
    made = path.with_name(f"{path.name}.zip")
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for x in sorted(path.rglob("*")) if path.is_dir() else [path]:
            file.write(x, f"{top}{x.relative_to(path) if path.is_dir() else x.name}")
    return made


def refused(path: Path, run: FinishedRun, *words: str) -> None:
    """Read what must be refused, in one line that has these words, before anything is given."""
    corrections = read_corrections(path, read_run(run.folder))
    with pytest.raises(InputError) as caught:
        next(corrections)
    for word in words:
        assert word in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message


# --- Label images -----------------------------------------------------------------------------------------------------


def paint(path: Path, region: np.ndarray, label: int) -> None:
    """Paint a region of a palette PNG, as an editor does that keeps its palette."""
    with Image.open(path) as image:
        palette, labels = image.getpalette(), np.array(image)
    labels[region] = label
    made = Image.fromarray(labels)
    made.putpalette(palette or [])
    made.save(path, optimize=True)


def edit_labels(run: FinishedRun, folder: Path) -> Masks:
    """Corrections of label images, and what they must be read as."""
    ring, bar = run.masks[4, 0], run.masks[4, 2]
    comes = disc(60, 30, 8) & ~run.masks[1].any(0)
    paint(folder / "00001.png", comes, 2)
    hole = disc(36, 38, 2.5)
    paint(folder / "00003.png", hole & (run.labels[3] == 1), 0)
    erased = hole & (run.labels[3] == 1)
    over = disc(44, 28, 4) & ring & ~bar
    assert over.any()
    paint(folder / "00004.png", over, 3)
    paint(folder / "00005.png", run.labels[5] == 3, 0)  # what it hid of the ring has gone, too: the picture says so
    bare = run.masks[5, 0] & (run.labels[5] != 3)
    third = run.masks[3, 2] & ~erased
    return {
        (1, 2): comes,
        (3, 1): run.masks[3, 0] & ~erased,
        **({(3, 3): third} if (third != run.masks[3, 2]).any() else {}),
        (4, 1): ring & ~over,
        (4, 3): bar | over,
        (5, 1): bare,
        (5, 3): np.zeros_like(bar),
    }


@pytest.mark.parametrize("place", ["", "masks"])
def test_label_images_of_the_run_itself(place: str, run: FinishedRun) -> None:
    assert read(run.folder / place, run) == {}
    expected = edit_labels(run, run.folder / "masks")
    check_same(read(run.folder / place, run), expected)


def test_a_copy_of_the_run_with_other_times(run: FinishedRun, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "x"
    shutil.copytree(run.folder, copy)
    assert read(copy, run) == {}
    expected = edit_labels(run, copy / "masks")
    for path in copy.rglob("*"):
        os.utime(path, (10**9, 10**9))
    check_same(read(copy, run), expected)
    check_same(read(zipped(copy), run), expected)
    check_same(read(zipped(copy, "clip/"), run), expected)


@pytest.mark.parametrize("place", ["out", "out/clip"])
@pytest.mark.parametrize("options", [{}, {"frames": "png"}])
def test_davis(place: str, options: dict[str, str], run: FinishedRun, tmp_path: Path) -> None:
    exported("davis", tmp_path / "out", run.folder, **options)
    path = tmp_path / (place.replace("clip", "Annotations/clip") if options else place)
    assert read(path, run) == {}
    expected = edit_labels(run, tmp_path / ("out/Annotations/clip" if options else "out/clip"))
    check_same(read(path, run), expected)
    check_same(read(zipped(path), run), expected)


def test_davis_of_several_runs(run: FinishedRun, pictures: Path, tmp_path: Path) -> None:
    finished_run(tmp_path / "runs/b/clip", pictures, overlay=False)
    os.renames(run.folder, tmp_path / "runs/a/clip")
    run = replace(run, folder=tmp_path / "runs/a/clip")
    out = exported("davis", tmp_path / "out", tmp_path / "runs")
    assert sorted(x.name for x in out.iterdir() if x.is_dir()) == ["a__clip", "b__clip"]
    paint(out / "b__clip/00000.png", run.labels[0] == 1, 0)
    expected = edit_labels(run, out / "a__clip")
    check_same(read(out, run), expected)


def test_frames_that_are_not_there_are_untouched(run: FinishedRun, tmp_path: Path) -> None:
    out = exported("davis", tmp_path / "out", run.folder)
    expected = edit_labels(run, out / "clip")
    for t in (0, 3, 8):
        (out / f"clip/{t:05d}.png").unlink()
    (out / "clip/00001.png").rename(out / "clip/001.png")  # numbers are numbers, whatever their zeros
    check_same(read(out, run), {key: mask for key, mask in expected.items() if key[0] != 3})


def one_frame(masks: np.ndarray) -> OwnMasks:
    """The masks of a frame, (objects, height, width) bool."""
    rles = [coco_mask.encode(np.asfortranarray(x.astype(np.uint8))) for x in masks]
    there = [
        RunMask(k, {**rle, "counts": rle["counts"].decode()}, 0.0, [], 0.0)
        for k, rle in enumerate(rles, 1)
        if masks[k - 1].any()
    ]
    run: Any = type("Shape", (), {"height": masks.shape[1], "width": masks.shape[2]})()
    run.objects = [type("Object", (), {"id": k})() for k in range(1, len(masks) + 1)]
    return OwnMasks(run, RunFrame(0, "00000", 0.0, [], there))


@pytest.mark.parametrize("seed", range(60))
def test_label_images_say_what_they_can(seed: int) -> None:
    """Each pixel by itself, literally."""
    random = np.random.default_rng(seed)
    masks = random.random((3, 5, 6)) < random.choice([0.1, 0.4, 0.7])
    labels = np.zeros((5, 6), np.uint8)
    for y, x in np.ndindex(5, 6):
        owners = np.flatnonzero(masks[:, y, x]) + 1
        labels[y, x] = random.choice(owners) if len(owners) else 0
    own = one_frame(masks)
    assert label_changes(labels, own) == {}
    for _ in range(random.integers(0, 6)):
        labels[random.integers(5), random.integers(6)] = random.integers(4)
    expected = masks.copy()
    for y, x in np.ndindex(5, 6):
        owners = np.flatnonzero(masks[:, y, x]) + 1
        if labels[y, x] in owners or (labels[y, x] == 0 and not len(owners)):
            continue
        expected[:, y, x] = [k == labels[y, x] for k in (1, 2, 3)]
    for k in (1, 2, 3):
        certain = masks[k - 1] & (masks.sum(0) == 1)
        if certain.any() and not (labels == k).any():
            expected[k - 1] = False
    found = label_changes(labels, own)
    assert sorted(found) == [k for k in (1, 2, 3) if (expected[k - 1] != masks[k - 1]).any()]
    for k, mask in found.items():
        assert np.array_equal(mask, expected[k - 1])


def test_labels_that_are_refused(run: FinishedRun, tmp_path: Path) -> None:
    folder = exported("davis", tmp_path / "out", run.folder) / "clip"
    image, good = folder / "00004.png", (folder / "00004.png").read_bytes()
    paint(image, disc(20, 20, 3), 4)
    refused(folder, run, "00004.png", "object 4")
    image.write_bytes(good[: len(good) // 2])
    refused(folder, run, "00004.png")
    image.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 97 81\n")
    refused(folder, run, "00004.png", "cannot be read")
    Image.new("P", (WIDTH + 1, HEIGHT)).save(image)
    refused(folder, run, "00004.png", "98 x 81")
    Image.new("L", (20000, 20000)).save(image)
    refused(folder, run, "00004.png")
    Image.new("RGB", (WIDTH, HEIGHT)).save(image)
    refused(folder, run, "00004.png", "RGB")
    Image.new("L", (WIDTH, HEIGHT)).save(image, save_all=True, append_images=[Image.new("L", (WIDTH, HEIGHT), 1)])
    refused(folder, run, "00004.png", "several pictures")
    with Image.open(folder / "00003.png") as other:  # as programs do that make PNGs smaller
        swapped = other.remap_palette([0, 2, 1, 3])
    swapped.save(image)
    refused(folder, run, "00004.png", "object", "colour")
    image.write_bytes(good)
    assert read(folder, run) == {}
    for name, word in (("00009.png", "no frame"), ("x.png", "no frame"), ("0004.png", "same frame")):
        (folder / name).write_bytes(good)
        refused(folder, run, name, word)
        (folder / name).unlink()
    Image.new("L", (WIDTH, HEIGHT)).save(folder / "00004.jpg")
    refused(folder, run, "00004.jpg", "not a PNG")
    (folder / "00004.jpg").unlink()
    image.unlink()
    os.mkfifo(image)
    refused(folder, run, "00004.png")


def test_another_run_is_refused(run: FinishedRun, pictures: Path, tmp_path: Path) -> None:
    other = finished_run(tmp_path / "other/clip", pictures, overlay=False, prompts=PROMPTS[:2])
    refused(other.folder, run, "run.json", "objects")
    annotations = run.folder / "annotations.json"
    annotations.write_text(annotations.read_text().replace('"score": 0.', '"score": 0.0', 1))
    for path in (run.folder, run.folder / "masks", annotations):
        refused(path, run, "annotations.json", "was changed")


# --- Images of one object ---------------------------------------------------------------------------------------------


def edit_object_images(edits: Masks, folder: Path, value: int) -> None:
    for (frame, k), mask in edits.items():
        Image.fromarray(mask.astype(np.uint8) * value).save(folder / f"{k:03d}/{frame:05d}.png")


def test_object_images_of_the_run(run: FinishedRun) -> None:
    edits = corrected(run)
    edit_object_images(edits, run.folder / "objects", 255)
    for path in (run.folder, run.folder / "objects"):
        check_same(read(path, run), edits)
    paint(run.folder / "masks/00007.png", disc(70, 10, 3), 2)
    assert sorted(read(run.folder, run)) == sorted([*edits, (7, 2)])
    paint(run.folder / "masks/00003.png", run.masks[3, 0], 0)
    refused(run.folder, run, "objects/001/00003.png", "object 1", "another way")


@pytest.mark.parametrize("value", [1, 255])
def test_sav(value: int, run: FinishedRun, tmp_path: Path) -> None:
    out = exported("sav", tmp_path / "out", run.folder)
    for path in (out, out / "clip"):
        assert read(path, run) == {}
    edits = corrected(run)
    edit_object_images(edits, out / "clip", value)
    for path in (out, out / "clip", zipped(out), zipped(out / "clip")):
        check_same(read(path, run), edits)
    shutil.rmtree(out / "clip/003")  # untouched, rather than absent
    (out / "clip/002/00008.png").unlink()
    check_same(read(out, run), {key: edits[key] for key in ((1, 2), (3, 1))})


def test_object_images_that_are_refused(run: FinishedRun, tmp_path: Path) -> None:
    out = exported("sav", tmp_path / "out", run.folder)
    refused(out / "clip/002", run, "folder of one object")
    shutil.copytree(out / "clip/002", out / "clip/004")
    refused(out, run, "no object 4")
    shutil.rmtree(out / "clip/004")
    grey = np.zeros((HEIGHT, WIDTH), np.uint8)
    grey[3:5, 3:5] = 100, 255
    Image.fromarray(grey).save(out / "clip/002/00003.png")
    refused(out, run, "002/00003.png", "more than two values")
    (out / "clip").rename(out / "x")
    refused(out, run, "no masks of clip", "x/001")


# --- COCO -------------------------------------------------------------------------------------------------------------


def rle_of(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {**rle, "counts": rle["counts"].decode()}


def plain_rle_of(mask: np.ndarray) -> dict[str, Any]:
    flat = np.concatenate(([False], mask.ravel(order="F")))
    ends = np.flatnonzero(np.diff(flat.astype(int)))
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *ends.tolist(), mask.size]).tolist()}


def edit_coco(
    path: Path,
    edits: Masks,
    segmentation_of: Callable[[np.ndarray], Any] = rle_of,
    *,
    video: str = "clip",
    offset: int = 0,
) -> None:
    data = json.loads(path.read_text())
    image_of = {x["frame_index"]: x["id"] for x in data["images"] if x["file_name"].startswith(f"{video}/")}
    categories = [x.label for x in PROMPTS]
    for (frame, k), mask in edits.items():
        image, track = image_of[frame], k + offset
        data["annotations"] = [x for x in data["annotations"] if (x["image_id"], x["track_id"]) != (image, track)]
        if mask.any():
            new = {"id": 900 + len(data["annotations"]), "image_id": image, "track_id": track, "iscrowd": 0}
            category = next(x["id"] for x in data["categories"] if x["name"] == categories[k - 1])
            data["annotations"].append({**new, "category_id": category, "segmentation": segmentation_of(mask)})
    path.write_text(json.dumps(data))


def change_coco(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


@pytest.fixture
def coco(run: FinishedRun, tmp_path: Path) -> Path:
    return exported("coco", tmp_path / "x.json", run.folder)


@pytest.mark.parametrize("segmentation_of", [rle_of, plain_rle_of])
def test_coco(segmentation_of: Callable[[np.ndarray], Any], run: FinishedRun, coco: Path, tmp_path: Path) -> None:
    own = Path(shutil.copy(run.folder / "annotations.json", tmp_path))
    edits = corrected(run)
    for path in (own, coco):
        assert read(path, run) == {}
        edit_coco(path, own_masks(run), segmentation_of)
        assert read(path, run) == {}
        edit_coco(path, edits, segmentation_of)
        check_same(read(path, run), edits)
    check_same(read(zipped(coco), run), edits)
    assert read(run.folder / "annotations.json", run) == {}


def without_kidney(root: ET.Element) -> None:
    for image in root.iter("image"):
        for shape in image.findall("*[@label='kidney']"):
            image.remove(shape)


@pytest.mark.parametrize("form", ["coco", "cvat"])
def test_labels_that_are_not_listed(form: str, run: FinishedRun, tmp_path: Path) -> None:
    """An export of a part of the objects does not remove the others when it comes back, and it is told."""
    told: set[int] = set()
    path = exported(form, tmp_path / "part", run.folder, left_out="kidney")
    assert list(read_corrections(path, read_run(run.folder), told.update)) == []
    assert told == {2}
    told.clear()
    whole = exported(form, tmp_path / "whole", run.folder)
    for file in whole.rglob("*"):  # all masks of an object whose label is listed are deleted
        if file.suffix == ".xml":
            change_xml(file, without_kidney)
        elif file.name.startswith("instances"):
            data = json.loads(file.read_text())
            data["annotations"] = [x for x in data["annotations"] if x["track_id"] != 2]
            file.write_text(json.dumps(data))
    removed = list(read_corrections(whole, read_run(run.folder), told.update))
    assert [(x.frame, x.object_id) for x in removed] == [(n, 2) for n in run.numbers if run.masks[n, 1].any()]
    assert told == set()


def test_accents_written_in_two_ways(pictures: Path, tmp_path: Path) -> None:
    """macOS takes the accents of file names apart, and tools may put them together again, or do so to labels."""
    source = shutil.copytree(pictures, tmp_path / "source")
    (source / "00004.png").rename(source / "Bild é.png")
    run = finished_run(tmp_path / "Opération", source, overlay=False)
    apart = unicodedata.normalize("NFD", run.folder.name)
    assert apart != run.folder.name
    for form in ("davis", "sav"):
        tree = exported(form, tmp_path / form, run.folder)
        (tree / run.folder.name).rename(tree / apart)
        for path in [x for x in tree.rglob("*é.png") if x.is_file()]:
            Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(path)
            path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))
        shown = {(run.numbers[t], k) for t in (LENGTH - 1,) for k in (1, 2, 3) if run.masks[t, k - 1].any()}
        assert run.names[LENGTH - 1] == "Bild é"
        assert read(tree, run).keys() == read(zipped(tree), run).keys() == shown
    coco = exported("coco", tmp_path / "x.json", run.folder)
    cvat = exported("cvat", tmp_path / "x.xml", run.folder)
    for path in (coco, cvat):
        text = path.read_text(encoding="utf-8").replace("\\u00e9", "é").replace("\\u00fc", "ü")
        path.write_text(unicodedata.normalize("NFD", text), encoding="utf-8")
        assert read(path, run) == {}


def test_ids_that_became_fractions(run: FinishedRun, coco: Path) -> None:
    edits = corrected(run)
    edit_coco(coco, edits)
    data = json.loads(coco.read_text())
    for x in data["annotations"]:
        x["image_id"], x["category_id"] = float(x["image_id"]), float(x["category_id"])
    for x in (*data["categories"], *data["images"][::2]):
        x["id"] = float(x["id"])
    coco.write_text(json.dumps(data))
    check_same(read(coco, run), edits)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_json_in_another_encoding(encoding: str, run: FinishedRun, coco: Path) -> None:
    data = json.loads(coco.read_text())
    coco.write_text(json.dumps(data, ensure_ascii=False).replace("鉗子", "x"), encoding=encoding)
    with pytest.raises(InputError, match="is not text in UTF-8") as refused:
        read(coco, run)
    assert refused.value.hint == "save it in UTF-8, or export it again"


def test_coco_as_a_folder_with_pictures(run: FinishedRun, tmp_path: Path) -> None:
    out = exported("coco", tmp_path / "out", run.folder, frames="png")
    edits = corrected(run)
    edit_coco(out / "annotations/instances_default.json", edits)
    for path in (out, zipped(out)):
        check_same(read(path, run), edits)


def test_coco_as_other_tools_write_it(run: FinishedRun, coco: Path) -> None:
    """Lists in another order, ids that are new, fields that are gone, a byte order mark."""
    edits = corrected(run)
    edit_coco(coco, edits)
    data = json.loads(coco.read_text())
    for x in data["annotations"]:
        x["id"] += 1000
        x["image_id"] += 50
        for key in ("track_id", "score", "attributes"):
            x.pop(key, None)
    images = [
        {"id": x["id"] + 50, "file_name": x["file_name"].replace("clip/", "").replace("png", "JPG")}
        for x in reversed(data["images"])
    ]
    made = {"annotations": data["annotations"][::-1], "images": images, "categories": data["categories"]}
    coco.write_text(json.dumps(made), encoding="utf-8-sig")
    check_same(read(coco, run), edits)


def test_images_that_are_not_listed_are_untouched(run: FinishedRun, coco: Path) -> None:
    edits = corrected(run)
    edit_coco(coco, edits)

    def drop(data: dict[str, Any]) -> None:
        gone = {x["id"] for x in data["images"] if x["frame_index"] in (0, 5)}
        data["images"] = [x for x in data["images"] if x["id"] not in gone]
        data["annotations"] = [x for x in data["annotations"] if x["image_id"] not in gone]

    change_coco(coco, drop)
    check_same(read(coco, run), {key: mask for key, mask in edits.items() if key[0] != 5})


def test_coco_of_several_videos(run: FinishedRun, pictures: Path, tmp_path: Path) -> None:
    finished_run(tmp_path / "runs/a/clip", pictures, overlay=False)
    (tmp_path / "runs/b").mkdir()
    run.folder.rename(tmp_path / "runs/b/clip")
    run = replace(run, folder=tmp_path / "runs/b/clip")
    path = exported("coco", tmp_path / "x.json", tmp_path / "runs")
    edits = corrected(run)
    edit_coco(path, {(2, 1): np.zeros((HEIGHT, WIDTH), bool)}, video="a/clip")
    edit_coco(path, edits, video="b/clip", offset=3)
    check_same(read(path, run), edits)
    named = replace(read_run(run.folder), folder=tmp_path)
    with pytest.raises(InputError, match="several videos"):
        next(read_corrections(path, replace(named, folder=_linked(run.folder, tmp_path / "clip"))))


def _linked(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


@pytest.mark.parametrize("several", [False, True])
def test_labels_that_are_there_twice(several: bool, run: FinishedRun, pictures: Path, tmp_path: Path) -> None:
    """Two objects with one label are told apart by their ids."""
    twins = finished_run(tmp_path / "twins/x/clip", pictures, overlay=False, prompts=TWINS)
    folders = [tmp_path / "twins/x"]
    if several:
        finished_run(tmp_path / "twins/a", pictures, overlay=False)
        folders = [tmp_path / "twins"]
    path = exported("coco", tmp_path / "x.json", *folders)
    offset = 3 if several else 0
    assert read(path, twins) == {}
    swapped = {(3, 1): twins.masks[3, 1], (3, 2): twins.masks[3, 0]}

    def swap(data: dict[str, Any]) -> None:
        image = next(x["id"] for x in data["images"] if "clip/00003" in x["file_name"])
        for x in data["annotations"]:
            if x["image_id"] == image and x["track_id"] - offset in (1, 2):
                x["track_id"] = 3 - (x["track_id"] - offset) + offset
                del x["track_id" if several else "score"]
                x["attributes"]["track_id"] = f"{3 - (x['attributes']['track_id'] - offset) + offset}.0"

    change_coco(path, swap)
    check_same(read(path, twins), swapped)

    def forget(data: dict[str, Any]) -> None:
        for x in data["annotations"]:
            x.pop("track_id", None)
            x.pop("attributes", None)

    refused(change_coco(path, forget), twins, "grasper", "several videos" if several else "track_id is missing")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x["categories"][0].update(name="spleen\n"), ("no object called 'spleen'", "frame 0")),
        (lambda x: x["images"][4].update(file_name="clip/00077.png"), ("clip/00077", "no frame")),
        (lambda x: x["images"][4].update(file_name="clip/00003.png", frame_index=3), ("frame 3 twice",)),
        (lambda x: x["images"][4].update(frame_index=5), ("frame 4", "not 5")),
        (lambda x: x["images"][4].update(width=98), ("98 x 81",)),
        (lambda x: x["images"][4].update(id=4), ("the id 4",)),
        (lambda x: x["images"].clear(), ("no images",)),
        (lambda x: [y.update(file_name="z/" + y["file_name"][5:]) for y in x["images"]], ("no image of clip", "z")),
        (lambda x: x["annotations"][5].update(image_id=77), ("image 77",)),
        (lambda x: x["annotations"][5].update(category_id=77), ("category 77",)),
        (lambda x: x["annotations"].append(x["annotations"][5]), ("frame 2", "twice")),
        (lambda x: x["annotations"][5].update(segmentation=[]), ("frame 2", "no mask")),
        (lambda x: x["annotations"][5].update(segmentation=[[1, 1, 5, 5]]), ("frame 2", "three corners")),
        (lambda x: x["annotations"][5].update(segmentation=[[1, 1, 5, 5, 9e8, 2]]), ("frame 2", "leaves the picture")),
        (lambda x: x["annotations"][5].update(segmentation=[["a"] * 6]), ("frame 2", "numbers")),
        (
            lambda x: x["annotations"][5].update(segmentation=[[0, 0, WIDTH, HEIGHT] * 20000]),
            ("frame 2", "longer outline"),
        ),
        (lambda x: x["annotations"][5].update(segmentation={"size": [9, 9], "counts": [81]}), ("frame 2", "size")),
        (lambda x: x["annotations"][5]["segmentation"].update(size=[9, 9]), ("frame 2", "size")),
        (lambda x: x["annotations"][5]["segmentation"].update(counts="11"), ("frame 2", "counts")),
        (
            lambda x: x["annotations"][5].update(segmentation={"size": [HEIGHT, WIDTH], "counts": [-1, 7858]}),
            ("frame 2", "counts"),
        ),
        (lambda x: x["annotations"].extend([x["annotations"][5]] * 2000), ("far more shapes",)),
    ],
)
def test_coco_that_is_refused(
    change: Callable[[Any], None], words: tuple[str, ...], run: FinishedRun, coco: Path
) -> None:
    refused(change_coco(coco, change), run, "x.json", *words)


def test_json_that_is_damaged(run: FinishedRun, coco: Path) -> None:
    text = coco.read_text()
    for other in (text[:-40], "{", '{"images": 3}', "[]", "", '{"a": NaN}', text.replace('"images"', '"image"')):
        coco.write_text(other)
        refused(coco, run, "x.json")


# --- Polygons ---------------------------------------------------------------------------------------------------------


def polygons_of(mask: np.ndarray) -> list[list[float]]:
    """The outer contours, through the centres of pixels, as other tools trace them."""
    cv2 = pytest.importorskip("cv2", reason="a test-only tracer of contours")
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    rings = [x.reshape(-1).astype(float).tolist() for x in contours]
    return [x if len(x) > 4 else (x * 3)[:6] for x in rings]


def test_polygons_move_borders_but_change_nothing(run: FinishedRun, coco: Path) -> None:
    edit_coco(coco, own_masks(run), polygons_of)
    assert read(coco, run) == {}
    edits = {key: mask for key, mask in corrected(run).items() if key != (3, 1)}
    edit_coco(coco, edits, polygons_of)
    found = read(coco, run)
    assert sorted(found) == sorted(edits)
    for key, mask in edits.items():
        assert is_rounded(found[key], mask)


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("columns", [1, 2, 30])
def test_polygons_of_threads_and_specks(rows: int, columns: int) -> None:
    """Traced through the centres of pixels, a thread encloses nothing."""
    mask = region(slice(40, 40 + rows), slice(20, 20 + columns))
    counts, bordered = (decoded(x, mask.shape) for x in outline_counts(polygons_of(mask), mask.shape))
    assert counts.any()
    assert is_rounded(bordered, mask)
    own = one_frame(mask[None])
    assert own.changes({1: bordered}) == {}


def region(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[rows, columns] = True
    return mask


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda x: x, True),
        (lambda x: np.roll(x, 1, axis=1), True),
        (lambda x: np.roll(x, 2, axis=1), False),
        (lambda x: x | disc(40, 40, 3), True),  # in the hole: one ring of corners fills it
        (lambda x: x & ~disc(40, 60, 1.5), False),  # another hole, of nine pixels
        (lambda x: x & ~(np.arange(WIDTH) > 80), False),  # a thread is cut off
        (lambda x: x | region(slice(14, 16), slice(30, 50)), False),  # a gap of two pixels is closed
        (lambda x: np.zeros_like(x), False),
    ],
)
def test_what_rounding_can_explain(change: Callable[[np.ndarray], np.ndarray], same: bool) -> None:
    mask = disc(40, 40, 25) & ~disc(40, 40, 3)
    mask[40, 60:90] = True  # a thread of one pixel
    mask[12:14, 20:60] = True  # with a gap to the disc
    assert is_rounded(change(mask), mask) == same


# --- CVAT for images --------------------------------------------------------------------------------------------------


def cvat_mask(mask: np.ndarray) -> dict[str, str]:
    """A mask as CVAT encodes it."""
    masks = pytest.importorskip("cvat_sdk.masks", reason="a test-only encoder")
    *runs, left, top, right, bottom = (int(x) for x in masks.encode_mask(mask))
    box = {"left": left, "top": top, "width": right - left + 1, "height": bottom - top + 1}
    return {"rle": ", ".join(map(str, runs)), **{key: str(x) for key, x in box.items()}}


def cvat_polygon(mask: np.ndarray) -> dict[str, str]:
    (ring,) = polygons_of(mask)
    return {"points": ";".join(f"{x:.2f},{y:.2f}" for x, y in zip(ring[::2], ring[1::2], strict=True))}


def add_cvat_shape(
    parent: ET.Element, mask: np.ndarray, track: int | None, kind: str = "mask", **more: str
) -> ET.Element:
    attributes = cvat_mask(mask) if kind == "mask" else cvat_polygon(mask)
    shape = ET.SubElement(parent, kind, {"source": "manual", "occluded": "0", "z_order": "0", **attributes, **more})
    ET.SubElement(shape, "attribute", {"name": "track_id"}).text = "" if track is None else str(track)
    return shape


@pytest.fixture
def cvat(run: FinishedRun, tmp_path: Path) -> Path:
    return exported("cvat", tmp_path / "x.xml", run.folder)


def change_xml(path: Path, change: Callable[[ET.Element], Any]) -> Path:
    tree = ET.parse(path)
    change(tree.getroot())
    tree.write(path, encoding="utf-8", xml_declaration=True)
    return path


def edit_cvat(edits: Masks, kind: str = "mask") -> Callable[[ET.Element], None]:
    def edit(root: ET.Element) -> None:
        images = list(root.iter("image"))
        for (frame, k), mask in edits.items():
            label = PROMPTS[k - 1].label
            for x in [x for x in images[frame] if x.get("label") == label]:
                images[frame].remove(x)
            if mask.any():
                add_cvat_shape(images[frame], mask, None, kind, label=label)

    return edit


def test_cvat_for_images(run: FinishedRun, cvat: Path) -> None:
    assert read(cvat, run) == {}
    edits = corrected(run)
    change_xml(cvat, edit_cvat(edits))
    check_same(read(cvat, run), edits)
    task = cvat.rename(cvat.with_name("annotations.xml"))
    check_same(read(zipped(task), run), edits)


def test_cvat_of_a_task_made_of_the_video(run: FinishedRun, cvat: Path) -> None:
    """CVAT calls the frames of a video by their numbers."""

    def rename(root: ET.Element) -> None:
        for i, x in enumerate(root.iter("image")):
            x.set("name", f"frame_{i:06d}")

    edits = corrected(run)
    change_xml(cvat, edit_cvat(edits))
    check_same(read(change_xml(cvat, rename), run), edits)


def test_cvat_of_a_whole_video_for_a_run_of_each_second_frame(pictures: Path, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "clip", pictures, Part(Position(frame=1), None, 2), overlay=False)
    path = exported("cvat", tmp_path / "x.xml", run.folder)

    def rename(root: ET.Element) -> None:
        for x in root.iter("image"):
            x.set("name", f"frame_{int(x.attrib['id']):06d}")
        for i in (0, 2, 4, 6, 8):
            ET.SubElement(root, "image", {"id": str(i), "name": f"frame_{i:06d}"})

    assert read(change_xml(path, rename), run) == {}

    def draw(root: ET.Element) -> None:
        add_cvat_shape(list(root.iter("image"))[-1], disc(9, 9, 5), None, label="kidney")

    refused(change_xml(path, draw), run, "frame_000008", "no such frame")


def test_cvat_polygons_and_groups(run: FinishedRun, cvat: Path) -> None:
    whole = {key: mask for key, mask in own_masks(run).items() if key[1] == 2 and mask.any()}
    change_xml(cvat, edit_cvat(whole, "polygon"))
    assert read(cvat, run) == {}
    parts = [disc(20, 20, 9), disc(60, 60, 9)]

    def add(root: ET.Element) -> None:
        for mask in parts:
            add_cvat_shape(list(root.iter("image"))[1], mask, None, "polygon", label="kidney", group_id="2")

    change_xml(cvat, add)
    found = read(cvat, run)
    assert sorted(found) == [(1, 2)]
    assert is_rounded(found[1, 2], parts[0] | parts[1])

    def apart(root: ET.Element) -> None:
        for x in root.iter("polygon"):
            x.attrib.pop("group_id", None)

    refused(change_xml(cvat, apart), run, "frame 1", "kidney", "twice")


def first(root: ET.Element, tag: str = "mask") -> ET.Element:
    return next(root.iter(tag))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: first(x).set("label", "spleen"), ("no object called 'spleen'", "frame 0")),
        (lambda x: first(x, "image").set("name", "clip/00077.png"), ("clip/00077", "no frame")),
        (lambda x: first(x, "image").set("name", "clip/00001.png"), ("clip/00001.png", "twice")),
        (lambda x: first(x, "image").set("name", "clip/00001.jpg"), ("frame 1 twice",)),
        (lambda x: first(x, "image").set("width", "98"), ("98 x 81",)),
        (lambda x: first(x, "image").append(first(x)), ("frame 0", "twice")),
        (lambda x: setattr(first(x), "tag", "box"), ("frame 0", "box")),
        (lambda x: first(x).set("left", "90"), ("frame 0", "leaves the picture")),
        (lambda x: first(x).set("rle", "1, 2"), ("frame 0", "do not fill")),
        (lambda x: first(x).set("rle", "-1, 9"), ("frame 0", "do not fill")),
        (lambda x: first(x).set("points", "1,1;5,nan;3,3"), ("frame 0", "leaves the picture")),
        (lambda x: first(x).set("points", "1,1;5"), ("frame 0", "x,y")),
        (lambda x: first(x).attrib.pop("rle"), ("frame 0", "rle")),
        (lambda x: setattr(x, "tag", "svg"), ("svg",)),
        (lambda x: [x.remove(y) for y in list(x.iter("image"))], ("neither images nor tracks",)),
    ],
)
def test_cvat_that_is_refused(
    change: Callable[[ET.Element], Any], words: tuple[str, ...], run: FinishedRun, cvat: Path
) -> None:
    refused(change_xml(cvat, change), run, "x.xml", *words)


def test_xml_that_is_damaged(run: FinishedRun, cvat: Path) -> None:
    text = cvat.read_text()
    bomb = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    for other, word in (
        (text[:-40], "not valid XML"),
        ("<", "not valid XML"),
        ("<a/>", "'a'"),
        (text.replace("<annotations>", f"{bomb}<annotations>", 1).replace('label="', 'label="&b;', 1), "document type"),
        ("<annotations>" + "<a>" * 100 + "</a>" * 100 + "</annotations>", "nested too deeply"),
        ("<annotations>" + "<!--" + "a" * 2**25 + "--></annotations>", "has no end"),
    ):
        cvat.write_text(other)
        refused(cvat, run, "x.xml", word)
    cvat.write_text('<!DOCTYPE annotations SYSTEM "/dev/zero"><annotations/>')
    refused(cvat, run, "document type")


# --- CVAT for video ---------------------------------------------------------------------------------------------------


def cvat_video(masks: Masks, head: str = "<start_frame>0</start_frame><stop_frame>8</stop_frame>") -> ET.Element:
    """As CVAT writes shapes that are in no track: a track for each, which goes out of view in the next frame."""
    root = ET.fromstring(
        f"<annotations><version>1.1</version><meta><task><id>3</id><size>9</size>{head}<frame_filter></frame_filter>"
        "<original_size><width>97</width><height>81</height></original_size></task></meta></annotations>"
    )
    for i, ((frame, k), mask) in enumerate(sorted(masks.items())):
        if mask.any():
            track = ET.SubElement(root, "track", {"id": str(i), "label": PROMPTS[k - 1].label, "source": "manual"})
            for n, outside in ((frame, "0"), (frame + 1, "1")):
                add_cvat_shape(track, mask, k, frame=str(n), outside=outside, keyframe="1")
    return root


def written(root: ET.Element, path: Path) -> Path:
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    return path


def test_cvat_for_video(run: FinishedRun, tmp_path: Path) -> None:
    path, edits = tmp_path / "annotations.xml", corrected(run)
    assert read(written(cvat_video(own_masks(run)), path), run) == {}
    check_same(read(written(cvat_video(own_masks(run) | edits), path), run), edits)
    check_same(read(zipped(path), run), edits)
    # Without the frames of the task, only what the tracks say: an object that goes out of view in its next frame.
    check_same(read(written(cvat_video(own_masks(run) | edits, ""), path), run), edits)
    nothing = {key: mask for key, mask in own_masks(run).items() if key[1] != 3}
    everywhere = {(n, 3): np.zeros((HEIGHT, WIDTH), bool) for n in run.numbers}
    check_same(read(written(cvat_video(nothing), path), run), everywhere)
    assert read(written(cvat_video(nothing, ""), path), run) == {}


def test_cvat_tracks_of_keyframes(run: FinishedRun, tmp_path: Path) -> None:
    """What a track does not list is untouched while it is in view, and absent while it is not."""
    root = cvat_video({})
    for k, first_mask in ((1, disc(30, 30, 9)), (2, disc(60, 60, 9)), (3, disc(30, 60, 9))):
        track = ET.SubElement(root, "track", {"id": str(k), "label": PROMPTS[k - 1].label})
        for n, outside in ((2, "0"), (5, "0"), (7, "1")):
            add_cvat_shape(track, first_mask, None, "polygon", frame=str(n), outside=outside, keyframe="1")
    found = read(written(root, tmp_path / "x.xml"), run)
    assert sorted({n for n, _ in found}) == [0, 1, 2, 5, 7, 8]
    assert found[2, 2].any()
    assert found[5, 2].any()
    assert not found[0, 1].any()
    assert not found[8, 3].any()
    assert (0, 2) not in found  # it was absent there


def test_cvat_for_video_of_each_second_frame(pictures: Path, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "clip", pictures, Part(Position(frame=1), None, 2), overlay=False)
    masks = own_masks(run)
    path = written(cvat_video(masks), tmp_path / "x.xml")
    assert read(path, run) == {}
    masks[4, 1] = masks[3, 1]
    refused(written(cvat_video(masks), path), run, "frame 4", "no frame 4")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: first(x, "track").set("label", "spleen"), ("no object called 'spleen'",)),
        (lambda x: first(x, "width").__setattr__("text", "98"), ("98 x 81",)),
        (lambda x: first(x).set("frame", "77"), ("no frame 77",)),
        (lambda x: first(x).set("frame", "x"), ("frame 'x'",)),
        (lambda x: first(x).set("rle", "3"), ("frame 0", "do not fill")),
        (lambda x: x.append(first(x, "track")), ("frame 0", "twice")),
        (lambda x: ET.SubElement(x, "image", {"name": "clip/00000.png"}), ("both images and tracks",)),
        (lambda x: ET.SubElement(first(x, "meta"), "task"), ("several tasks",)),
    ],
)
def test_cvat_for_video_that_is_refused(
    change: Callable[[ET.Element], Any], words: tuple[str, ...], run: FinishedRun, tmp_path: Path
) -> None:
    root = cvat_video(own_masks(run))
    change(root)
    refused(written(root, tmp_path / "x.xml"), run, "x.xml", *words)


# --- Where it is ------------------------------------------------------------------------------------------------------


def test_places_that_are_refused(run: FinishedRun, coco: Path, cvat: Path, tmp_path: Path) -> None:
    refused(tmp_path / "gone", run, "no such file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", run, "no masks of clip")
    refused(run.folder / "masks/00000.png", run, "is one picture")
    (tmp_path / "x.txt").write_text("hello")
    refused(tmp_path / "x.txt", run, "none of the forms")
    (tmp_path / "marks.json").write_text('{"marks": []}')
    refused(tmp_path / "marks.json", run, "has marks, not masks")
    shutil.copytree(run.folder, tmp_path / "copies/another name")
    refused(tmp_path / "copies", run, "holds 1 run (another name)")
    both = tmp_path / "both"
    both.mkdir()
    for path in (coco, cvat):
        shutil.copy(path, both)
    refused(both, run, "x.json", "x.xml")


def test_zips_that_are_refused(run: FinishedRun, coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.zip"

    def made(*members: tuple[str, bytes]) -> Path:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members:
                file.writestr(name, content)
        return path

    for name in ("../x.json", "/x.json", "a/../../x.json", "a\\..\\x.json", "C:/x.json"):
        refused(made((name, coco.read_bytes())), run, "leads out of it")
    assert read(made(("x.json", coco.read_bytes()), ("__MACOSX/._x.json", b"?"), ("readme.txt", b"")), run) == {}
    bomb = b'{"images": [' + b" " * 2**27
    refused(made(("x.json", bomb)), run, "unpacks to")
    data = made(("x.json", coco.read_bytes())).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    refused(path, run, "x.zip")
    path.write_bytes(data.replace(coco.name.encode(), b"y.json", 1))
    refused(path, run, "x.zip")
    at = data.index(b"PK\x01\x02") + 8
    path.write_bytes(data[:at] + b"\1" + data[at + 1 :])
    refused(path, run, "encrypted")
    path.write_bytes(data[:60] + bytes(20) + data[80:])
    refused(path, run, "x.zip")
    with pytest.warns(UserWarning, match="Duplicate"):
        made(("x.json", b"{}"), ("x.json", b"{}"))
    refused(path, run, "x.json twice")
    monkeypatch.setattr(edited_files, "_MOST_MEMBERS", 1)
    refused(made(("x.json", b"{}"), ("y.json", b"{}")), run, "2 members")


def test_nothing_is_given_before_all_is_checked(run: FinishedRun, tmp_path: Path) -> None:
    out = exported("davis", tmp_path / "out", run.folder)
    paint(out / "clip/00000.png", disc(70, 10, 3), 2)
    (out / "clip/00008.png").write_bytes(b"")
    refused(out, run, "00008.png")


def test_corrections_are_decoded_one_at_a_time(run: FinishedRun, coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edits = {(n, 2): disc(70, 10, 3 + n) for n in run.numbers}
    edit_coco(coco, edits)
    corrections = read_corrections(coco, read_run(run.folder))
    count = 0

    def counting(counts: str, shape: tuple[int, int]) -> np.ndarray:
        nonlocal count
        count += 1
        return decoded(counts, shape)

    monkeypatch.setattr(edited, "decoded", counting)
    for i, x in enumerate(corrections, start=1):
        assert count == i
        assert np.array_equal(x.mask, edits[x.frame, x.object_id])
    assert count == len(edits)


def test_what_was_not_edited_is_not_decoded(run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TreeEdits, "at", lambda *_: pytest.fail("an image was looked at"))
    assert read(run.folder, run) == {}
    paint(run.folder / "masks/00000.png", disc(70, 10, 3), 2)
    with pytest.raises(pytest.fail.Exception, match="looked at"):
        read(run.folder, run)


def test_a_full_disk(run: FinishedRun, coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_coco(coco, corrected(run))

    def full(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Index, "keep", full)
    with pytest.raises(OutputError, match="disk is full"):
        next(read_corrections(coco, read_run(run.folder)))


def test_a_run_among_others(run: FinishedRun, pictures: Path, tmp_path: Path) -> None:
    finished_run(tmp_path / "runs/other", pictures, overlay=False)
    paint(run.folder / "masks/00000.png", disc(70, 10, 3), 2)
    assert sorted(read(run.folder.parent, run)) == [(0, 2)]
    finished_run(tmp_path / "runs/x/clip", pictures, overlay=False)
    refused(run.folder.parent, run, "holds 3 runs")


def test_a_run_that_is_called_by_a_number(pictures: Path, tmp_path: Path) -> None:
    """Its folder in a tree of label images might be that of an object in the other layout."""
    run = finished_run(tmp_path / "runs/001", pictures, overlay=False)
    for kind in ("davis", "sav"):
        out = exported(kind, tmp_path / kind, run.folder)
        paths = (out, out / "001", zipped(out))
        assert [read(path, run) for path in paths] == [{}] * 3
    edits = {(2, 2): disc(70, 10, 6)}
    edit_object_images(edits, tmp_path / "sav/001", 1)
    check_same(read(tmp_path / "sav", run), edits)
    check_same(read(tmp_path / "sav/001", run), edits)
    (tmp_path / "sav/001").rename(tmp_path / "sav/x")
    refused(tmp_path / "sav/x", run, "several folders")
