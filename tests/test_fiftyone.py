"""Runs in FiftyOne and back, as docs/fiftyone.md says: with its own importer and exporter, without its database."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resurgsam2_cli.files.palette import davis_palette

ROOT = Path(__file__).parents[1]
PROGRAM = [sys.executable, "-m", "resurgsam2_cli"]
TEXTS = ["--text", "left ultrasound probe=probe", "--text", "right bipolar forceps=forceps"]


def keywords_of(page: str, call: str) -> dict[str, Any]:
    """What the page's Python gives to a function, apart from the type of the data set and the field in the database."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", page, flags=re.S | re.M))
    calls = [x for x in ast.walk(ast.parse(code)) if isinstance(x, ast.Call) and ast.unparse(x.func) == call]
    (found,) = calls
    given = {x.arg: x.value for x in found.keywords if x.arg is not None}
    return {key: ast.literal_eval(x) for key, x in given.items() if key not in ("dataset_type", "label_field")}


def whole_mask(detection: Any, height: int, width: int) -> np.ndarray:
    """A detection's pixels in the frame: its box is in parts of the picture."""
    x, y = round(detection.bounding_box[0] * width), round(detection.bounding_box[1] * height)
    mask = np.zeros((height, width), bool)
    mask[y : y + detection.mask.shape[0], x : x + detection.mask.shape[1]] = detection.mask
    return mask


@pytest.mark.slow
def test_the_way_to_fiftyone_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of docs/fiftyone.md in order; between them, masks are removed and changed in FiftyOne's objects."""
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
    fiftyone = pytest.importorskip("fiftyone", reason="FiftyOne is a reader for tests only, and brings many packages")
    coco = pytest.importorskip("fiftyone.utils.coco")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "fiftyone.md").read_text(encoding="utf-8")
    there, back = re.findall(r"```\nresurgsam2 (.*?)\n```", page, flags=re.S)
    scene = ROOT / "examples" / "scene.mp4"
    command = ["segment", str(scene), "--weights", "demo", "--end", "20", "-o", "runs", *TEXTS, "--object-png", "-q"]
    subprocess.run([*PROGRAM, *command], check=True)
    subprocess.run([*PROGRAM, *there.split()], check=True)

    importer = coco.COCODetectionDatasetImporter("to-fiftyone", **keywords_of(page, "fo.Dataset.from_dir"))
    with importer:
        samples = list(importer)
    assert [Path(path).name for path, *_ in samples] == [f"{i:05d}.jpg" for i in range(20)]
    ids = {"probe": 1, "forceps": 2}
    seen = 0
    for path, size, found in samples:
        assert np.asarray(Image.open(path)).shape == (size.height, size.width, 3)
        masks = {x.track_id: x for x in found.detections}
        for label, number in ids.items():
            image = np.asarray(Image.open(f"runs/scene/objects/{number:03d}/{Path(path).stem}.png"))
            if number not in masks:
                assert not image.any()
                continue
            seen += 1
            assert masks[number].label == label
            assert 0 < masks[number].confidence <= 1
            assert (whole_mask(masks[number], size.height, size.width) == (image > 0)).all()
    assert seen > 20

    drawn = fiftyone.Segmentation(mask_path="runs/scene/masks/00007.png").get_mask()
    own = np.asarray(Image.open("runs/scene/masks/00007.png"))
    for number in (0, *ids.values()):
        color = list(davis_palette()[3 * number : 3 * number + 3])
        assert ((drawn == color).all(axis=2) == (own == number)).all()
    assert davis_palette()[3:9].hex() == "800000" + "008000"

    changed = next(x for x in samples[7][2].detections if x.label == "probe")
    changed.mask[: len(changed.mask) // 2] = False
    expected = int(changed.mask.sum())
    gone = samples[11][2].detections
    gone[:] = [x for x in gone if x.label != "forceps"]
    exporter = coco.COCODetectionDatasetExporter(**keywords_of(page, "dataset.export"))
    with exporter:
        for path, size, found in samples[:15]:  # the others are left out
            for mask in found.detections:
                mask["iscrowd"] = 1
            exporter.export_sample(path, found, size)
    before = Path("runs/scene/frames.jsonl").read_text().splitlines()
    subprocess.run([*PROGRAM, *back.split(), "--reach", "0"], check=True)
    after = Path("runs/scene/frames.jsonl").read_text().splitlines()
    assert [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [7, 11]
    probe, forceps = json.loads(after[7])["objects"][0], json.loads(after[11])["objects"][1]
    assert (probe["stage"], probe["area"]) == ("imported", expected)
    assert forceps["stage"] == "absent"
