"""README and the pages of docs/: their commands and Python examples run as they stand, in order, and their links lead
somewhere."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import options_page
import pytest
from conftest import Cli
from PIL import Image
from typer.main import get_command

from model.finding_again import FindAgain
from model.training.scenes import Scene
from resurgsam2_cli import segment_video
from resurgsam2_cli.api import Settings
from resurgsam2_cli.app import app
from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.prompts.files import read_prompts
from resurgsam2_cli.prompts.marks import parse_mark, read_marks

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
PROSE = [
    README,
    *PAGES,
    *(ROOT / x for x in ("CONTRIBUTING.md", "CHANGELOG.md", "weights/README.md", "benchmarks/README.md")),
]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks_of(page: Path, language: str, *, skipped: bool = False) -> list[str]:
    """The code blocks in a language, in order: those that run, or those that a comment says are not run."""
    fences = re.findall(r"^(<!-- not run: .+ -->\n)?```(\w*)\n(.*?)^```$", text_of(page), flags=re.S | re.M)
    return [block for comment, kind, block in fences if kind == language and bool(comment) == skipped]


def commands_of(page: Path) -> list[str]:
    return blocks_of(page, "sh")


def examples_of(page: Path) -> list[str]:
    return blocks_of(page, "python")


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, on a machine without weights."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "work"


@pytest.mark.slow
@pytest.mark.parametrize("page", [x for x in PAGES if commands_of(x)], ids=lambda x: x.stem)
def test_the_commands_of_a_page(page: Path, empty_folder: Path) -> None:
    """In an empty folder, on what the page itself makes."""
    script = "set -e\n" + "".join(commands_of(page))
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert any(empty_folder.iterdir()) or page.stem == "weights"


def test_the_pages_are_tried() -> None:
    """All commands of all pages are in blocks that run, or say why they do not."""
    for page in PAGES:
        if page.stem not in ("cvat", "fiftyone", "label-studio"):  # whose tests do what a person does in between
            assert not any(x.startswith("resurgsam2 ") for x in blocks_of(page, "")), page
    assert sum(len(commands_of(x)) for x in PAGES) > 2 * sum(len(blocks_of(x, "sh", skipped=True)) for x in PAGES)


def anchors_of(page: Path) -> set[str]:
    """The names by which GitHub links to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", x.lower()).replace(" ", "-") for x in headings}


@pytest.mark.parametrize("page", PROSE, ids=lambda x: x.relative_to(ROOT).as_posix())
def test_links(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text_of(page), flags=re.S)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_every_page_is_linked() -> None:
    linked = {x for page in [README, *PAGES] for x in re.findall(r"\]\((?:docs/)?([\w-]+\.md)\)", text_of(page))}
    assert {x.name for x in PAGES} <= linked


def test_the_page_of_options_is_that_of_the_commands() -> None:
    written = options_page.PAGE.read_text(encoding="utf-8")
    assert written == options_page.page(), "write docs/options.md again: python tests/options_page.py"
    for name in ("--clip-weights", "--threshold", "--configuration", "--count-tracked", "--learning-rate"):
        assert f"| `{name}` |" in written


def test_readme_is_short() -> None:
    assert len(text_of(README).split()) < 900


def test_pointing(video: Path, small_weights: Path, empty_folder: Path) -> None:
    """With made-up weights, whose masks are of the size that the example expects."""
    subprocess.run([sys.executable, "-m", "resurgsam2_cli", "weights", "add", str(small_weights)], check=True)
    shutil.copy(video, "video.mp4")
    page = text_of(ROOT / "docs" / "pointing.md")
    (example,) = examples_of(ROOT / "docs" / "pointing.md")
    (marks,) = re.findall(r"```json\n(.*?)```", page, flags=re.S)
    Path("marks.json").write_text(marks)
    assert [x.name for x in read_marks(Path("marks.json"))] == ["grasper", "needle", "needle", "grasper"]
    for text in re.findall(r'--mark "([^"]+)"', page):
        parse_mark(text)
    names: dict[str, Any] = {}
    exec(compile(example, "pointing", "exec"), names)
    assert names["mask"].shape == names["masks"][0].shape == (120, 160)
    assert names["states"][0].conditioning_frames == (10, 15)


def test_python(empty_folder: Path) -> None:
    """The examples of docs/python.md, one after the other."""
    subprocess.run(["resurgsam2", "render", "video.mp4", "--seed", "108", "--count-frames", "30"], check=True)
    names: dict[str, Any] = {}
    for number, example in enumerate(examples_of(ROOT / "docs" / "python.md")):
        exec(compile(example, f"example {number}", "exec"), names)
    assert [x.name for x in sorted(Path().iterdir()) if x.is_dir()] == [
        "results",
        "results-kidney",
        "results-left ultrasound probe",
    ]
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


@pytest.fixture
def comes_back(tmp_path: Path) -> Path:
    """A folder of images: an instrument, which is away for a while."""
    folder = tmp_path / "frames"
    folder.mkdir()
    scene = Scene(108, frames=40, height=144, width=180)
    for t in range(40):
        rgb = scene.render(t)[0] if not 14 <= t < 26 else np.full((144, 180, 3), 90, np.uint8)
        Image.fromarray(rgb).save(folder / f"{t:03d}.png")
    return folder


def test_every_option_of_the_command_is_a_keyword(cli: Cli, comes_back: Path) -> None:
    """Python and the command write the same files, with values that are not the defaults, and that matter here."""
    apart = {"source", "text", "prompts", "mark", "marks", "out", "overwrite", "quiet", "as_json", "verbose"}
    of_the_engine = {"weights", "clip_weights", "device", "precision"}
    command = get_command(app).commands["segment"]  # type: ignore[attr-defined]
    assert set(Settings.__annotations__) == {x.name for x in command.params} - apart - of_the_engine
    given: Settings = {
        "start": 2, "end": "3s", "stride": 2, "frame_rate": "30000/1001", "deinterlace": True, "max_pixels": 10**6,
        "threshold": 0.5, "min_part": 4, "fill_holes": 4, "png": True, "object_png": True, "coco": True,
        "overlay": False, "legend": False, "seed": 3, "direction": "both", "find_again": True, "lost_after": 1,
        "search_every": 1, "min_presence": 0.2, "min_iou": 0.1, "window": 2, "long_term": 1,
        "long_term_min_iou": 0.1, "pool": 2,
    }  # fmt: skip
    assert set(given) == set(Settings.__annotations__)
    options: list[str] = []
    for name, value in given.items():
        option = name.replace("_", "-")
        flag = f"--{option}" if value is True else f"--no-{option}"
        options += [flag] if isinstance(value, bool) else [f"--{option}", str(value)]
    Path("prompts.csv").write_text("video,text,label\nframes,left ultrasound probe,probe\nframes,kidney,\n")
    done = cli("segment", comes_back, "--prompts", "prompts.csv", *options, "--weights", "demo", "-q", "-o", "command")
    assert done.code == 0, done.err
    asked = read_prompts(Path("prompts.csv")).prompts_of(["frames"])
    with pytest.warns(UserWarning, match="demo"):
        run = segment_video(comes_back, asked, "function", **given)
    files = {x.relative_to("command") for x in Path("command").rglob("*") if x.is_file()}
    assert files == {x.relative_to("function") for x in Path("function").rglob("*") if x.is_file()}
    for path in files - {Path("frames/run.json")}:
        assert ("command" / path).read_bytes() == ("function" / path).read_bytes(), path
    record = json.loads(Path("command/frames/run.json").read_text())
    same = [{key: x[key] for key in ("settings", "source", "objects")} for x in (record, run.record)]
    assert same[0] == same[1]
    assert record["settings"]["find_again"] == {"after": 1, "every": 1, "agreement": FindAgain().agreement}
    assert record["source"]["frame_rate"] == "30000/1001"
    away = [x["objects"][0]["present"] for x in map(json.loads, (run.folder / "frames.jsonl").open())]
    assert False in away[away.index(True) :]  # so that there is something to find again


def test_keywords_that_mean_nothing(video: Path, tmp_path: Path) -> None:
    mark = parse_mark("a@3 +5,5")
    for prompts, given, message in (
        ("kidney", {"lost_after": 3}, "lost_after is for find_again"),
        ("kidney", {"find_again": False, "search_every": 3}, "search_every is for find_again"),
        ("kidney", {"find_again": True, "lost_after": 0}, "must be at least 1"),
        (mark, {"find_again": True}, "find_again searches for texts"),
        ("kidney", {"direction": "sideways"}, "unknown direction 'sideways'"),
        ("kidney", {"frame_rate": 0}, "'0' is not a frame rate"),
        ("kidney", {"max_pixels": 0}, "max_pixels is 0"),
        (["kidney", 3], {}, "3 is not a prompt"),
    ):
        with pytest.raises(UsageError, match=message):
            segment_video(video, prompts, tmp_path, **given)  # type: ignore[arg-type]
        assert not list(tmp_path.iterdir())


def test_import_is_light() -> None:
    code = "import sys, resurgsam2_cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_way_to_cvat_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of docs/cvat.md in order; between them, what a person does in CVAT is done to its XML."""
    encoder = pytest.importorskip("cvat_sdk.masks", reason="CVAT's own encoder is not installed")
    monkeypatch.chdir(tmp_path)
    page = text_of(ROOT / "docs" / "cvat.md")
    there, back = re.findall(r"```\nresurgsam2 (.*?)\n```", page, flags=re.S)
    program = [sys.executable, "-m", "resurgsam2_cli"]
    scene = ROOT / "examples" / "scene.mp4"
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


def edited_region(mask: np.ndarray, label: str) -> dict[str, Any]:
    """A region as Label Studio's brush makes it: with values between, where it is smooth, and lengths of its own."""
    alpha = mask.astype(np.uint8) * 255
    alpha[mask & ~np.roll(mask, 1, axis=0)] = 200
    values = np.repeat(alpha.ravel(), 4)
    bits = [f"{values.size:032b}", f"{7:05b}", *(f"{x - 1:04b}" for x in (2, 4, 9, 16))]
    changes = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), values.size]
    for begin, end in itertools.pairwise(changes):
        while begin < end:
            length = min(end - begin, 1 << 16)
            if length > 4:
                bits.append(f"111{length - 1:016b}{values[begin]:08b}")
            else:  # a value for each
                bits.append(f"000{length - 1:02b}" + "".join(f"{x:08b}" for x in values[begin : begin + length]))
            begin += length
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    rle = [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]
    height, width = mask.shape
    value = {"format": "rle", "rle": rle, "brushlabels": [label]}
    return {"id": "x", "type": "brushlabels", "original_width": width, "original_height": height, "value": value}


@pytest.mark.slow
def test_the_way_to_label_studio_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of docs/label-studio.md in order; between them, what a person does there is done to its JSON."""
    monkeypatch.chdir(tmp_path)
    there, back = re.findall(r"```\nresurgsam2 (.*?)\n```", text_of(ROOT / "docs" / "label-studio.md"), flags=re.S)
    program = [sys.executable, "-m", "resurgsam2_cli"]
    texts = ["--text", "left ultrasound probe=probe", "--text", "right bipolar forceps=forceps"]
    scene = ROOT / "examples" / "scene.mp4"
    command = ["segment", str(scene), "--weights", "demo", "--end", "20", "-o", "runs", *texts, "-q"]
    subprocess.run([*program, *command], check=True)
    subprocess.run([*program, *there.split()], check=True)
    tasks = json.loads(Path("to-label-studio/tasks.json").read_text())
    assert len(tasks) == 20
    for task in tasks:
        assert (Path("to-label-studio") / task["data"]["image"].partition("?d=")[2]).is_file()
    interface = ET.parse("to-label-studio/labels.xml")
    assert [x.get("value") for x in interface.getroot().iter("Label")] == ["probe", "forceps"]
    for number, task in enumerate(tasks):
        task["id"] = 100 + number
        if number < 12:  # the others were not looked at
            task["annotations"] = [{"was_cancelled": False, "result": task["predictions"][0]["result"]}]
    regions = tasks[7]["annotations"][0]["result"]
    size = regions[0]["original_height"], regions[0]["original_width"]
    drawn = np.zeros(size, bool)
    drawn[50:120, 60:140] = True
    drawn[70:80, 80:90] = False
    other = np.zeros(size, bool)
    other[200:210, 60:70] = True
    regions[:] = [x for x in regions if x["value"]["brushlabels"] != ["probe"]]
    regions += [edited_region(drawn, "probe"), edited_region(other, "probe")]
    tasks[11]["annotations"][0]["result"] = [
        x for x in tasks[11]["annotations"][0]["result"] if x["value"]["brushlabels"] != ["forceps"]
    ]
    Path("from-label-studio.json").write_text(json.dumps(tasks))
    subprocess.run([*program, *back.split()], check=True)
    found = [json.loads(x)["objects"] for x in Path("runs/scene/frames.jsonl").read_text().splitlines()]
    assert (found[7][0]["stage"], found[7][0]["area"]) == ("imported", int(drawn.sum() + other.sum()))
    assert found[11][1]["stage"] == "absent"
    assert found[7][1]["stage"] not in ("imported", "absent")  # the other object was not touched there
