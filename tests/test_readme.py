"""The Python examples of the README and of docs/ run as they stand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resurgsam2_cli import segment_video
from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.prompts.marks import parse_mark, read_marks

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)


def test_pointing(video: Path, small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With made-up weights: the bundled ones know words alone."""
    monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path / "home"))
    subprocess.run([sys.executable, "-m", "resurgsam2_cli", "weights", "add", str(small_weights)], check=True)
    monkeypatch.chdir(tmp_path)
    shutil.copy(video, "video.mp4")
    page = (README.parent / "docs" / "pointing.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    (marks,) = re.findall(r"```json\n(.*?)```", page, flags=re.S)
    Path("marks.json").write_text(marks)
    assert [x.name for x in read_marks(Path("marks.json"))] == ["grasper", "needle", "needle", "grasper"]
    for text in re.findall(r'--mark "([^"]+)"', page):
        parse_mark(text)
    names: dict[str, Any] = {}
    exec(compile(example, "pointing", "exec"), names)
    assert names["mask"].shape == names["masks"][0].shape == (120, 160)
    assert names["states"][0].conditioning_frames == (10, 15)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number: int, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    shutil.copy(video, "video.mp4")
    names: dict[str, Any] = {}
    exec(compile(EXAMPLES[number], f"example {number}", "exec"), names)
    if "segment_video" in names:
        assert Path("results/video/run.json").exists()
    else:
        assert names["masks"].shape == (2, 240, 320)


def test_function_equals_command(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path / "home"))
    run = segment_video(video, ["left grasper"], tmp_path / "function")
    command = [sys.executable, "-m", "resurgsam2_cli", "segment", str(video), "-t", "left grasper", "-q"]
    subprocess.run([*command, "-o", str(tmp_path / "command")], check=True)
    for name in ("annotations.json", "frames.jsonl"):
        assert (run.folder / name).read_bytes() == (tmp_path / "command" / "clip" / name).read_bytes()
    assert json.loads((run.folder / "run.json").read_text()) == run.record
    with pytest.raises(UsageError, match="no prompt"):
        segment_video(video, [], tmp_path)


def test_import_is_light() -> None:
    code = "import sys, resurgsam2_cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_way_to_cvat_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of docs/cvat.md in order; between them, what a person does in CVAT is done to its XML."""
    encoder = pytest.importorskip("cvat_sdk.masks", reason="CVAT's own encoder is not installed")
    monkeypatch.chdir(tmp_path)
    page = (README.parent / "docs" / "cvat.md").read_text(encoding="utf-8")
    there, back = re.findall(r"```\nresurgsam2 (.*?)\n```", page, flags=re.S)
    program = [sys.executable, "-m", "resurgsam2_cli"]
    scene = README.parent / "examples" / "scene.mp4"
    texts = ["--text", "left ultrasound probe=probe", "--text", "right bipolar forceps=forceps"]
    command = ["segment", str(scene), "--weights", "demo", "--end", "20", "-o", "runs", *texts, "-q"]
    subprocess.run([*program, *command], check=True)
    subprocess.run([*program, *there.split()], check=True)
    assert len(list(Path("to-cvat/images/scene").iterdir())) == 20
    tree = ET.parse("to-cvat/annotations.xml")
    images = list(tree.getroot().iter("image"))
    for image in images:
        for shape in image:
            for attribute in list(shape):
                shape.remove(attribute)  # the labels in CVAT have none
    corrected = images[7]
    height, width = int(corrected.get("height", 0)), int(corrected.get("width", 0))
    drawn = np.zeros((height, width), bool)
    drawn[50:120, 60:140] = True
    drawn[70:80, 80:90] = False
    *runs, left, top, right, bottom = (int(x) for x in encoder.encode_mask(drawn))
    for shape in list(corrected):
        if shape.get("label") == "probe":
            corrected.remove(shape)
    box = {"left": left, "top": top, "width": right - left + 1, "height": bottom - top + 1}
    rle = ", ".join(map(str, runs))
    ET.SubElement(corrected, "mask", {"label": "probe", "rle": rle, **{k: str(v) for k, v in box.items()}})
    for shape in list(images[11]):
        if shape.get("label") == "forceps":
            images[11].remove(shape)  # it is not there
    tree.write("annotations.xml", encoding="utf-8", xml_declaration=True)
    with zipfile.ZipFile("from-cvat.zip", "w") as archive:
        archive.write("annotations.xml")
    subprocess.run([*program, *back.split()], check=True)
    found = [json.loads(x)["objects"] for x in Path("runs/scene/frames.jsonl").read_text().splitlines()]
    assert (found[7][0]["stage"], found[7][0]["area"]) == ("imported", int(drawn.sum()))
    assert found[11][1]["stage"] == "absent"
    assert found[7][1]["stage"] not in ("imported", "absent")  # the other object is as it was
