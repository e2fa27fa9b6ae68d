"""What the overlay says in words, in which colours, and that demo weights are named wherever their masks go."""

from __future__ import annotations

import json
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from finished_runs import finished_run
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageFont

import resurgsam2_cli
from resurgsam2_cli.files.palette import OBJECT_COLORS, color_of, davis_palette
from resurgsam2_cli.outputs.base import Clip, FrameResult, ObjectResult
from resurgsam2_cli.outputs.legend import layout, names_of, state_words
from resurgsam2_cli.outputs.overlay import Style, draw_overlay
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.refining.overlay import OverlayOf
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.runs.record import read_run
from resurgsam2_cli.runs.source import opened_source
from resurgsam2_cli.video.positions import Part
from resurgsam2_cli.video.source import open_source
from weights.store import BUNDLED, is_demo, sha256

# --- words --------------------------------------------------------------------------------------------------------


def said(stage: str, present: bool, score: float = 0.5) -> ObjectResult:
    return ObjectResult(1, stage, present, 0.0, score, 1.0, (), ())


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (said("detect", True, 0.62), "searching 62 %"),
        (said("detect", False, 0.2), "searching"),
        (said("track", True, 0.914), "tracking 91 %"),
        (said("track", True, 1.0), "tracking 100 %"),
        (said("track", False), "not seen"),
        (said("point", True), "pointed at"),
        (said("drawn", True), "drawn"),
        (said("absent", False), "not there"),
        (said("imported", True), "imported"),
        (said("confirmed", True), "confirmed"),
    ],
)
def test_stages_in_words(x: ObjectResult, words: str) -> None:
    assert state_words(x) == words


def prompts(*arguments: str) -> tuple[Prompt, ...]:
    return tuple(Prompt.parse(x) for x in arguments)


def test_objects_of_one_label_go_by_their_text() -> None:
    assert names_of(prompts("left grasper=grasper", "right grasper=grasper", "the kidney=kidney")) == (
        "left grasper",
        "right grasper",
        "kidney",
    )
    assert names_of(prompts("kidney", "kidney", "liver")) == ("1: kidney", "2: kidney", "liver")


@pytest.mark.parametrize("width", [320, 492, 640])
def test_shortened_names_still_differ(width: int) -> None:
    """Those that begin in the same way lose their middle, and no other does."""
    asked = prompts(
        "bipolar forceps is grasping on the left=forceps",
        "bipolar forceps is grasping on the right=forceps",
        "a needle holder that nobody has ever seen before",
    )
    names = layout(width * 3 // 4, width, asked).names
    assert len(set(names)) == 3
    assert [x.partition("...")[2] for x in names][2] == ""
    assert names[0].endswith("eft")
    assert names[1].endswith("ight")
    alike = layout(width * 3 // 4, width, prompts("x" * 200 + "a" + "y" * 200, "x" * 200 + "b" + "y" * 200)).names
    assert [x[:3] for x in alike] == ["1: ", "2: "]


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=60)


@given(st.lists(texts, max_size=40), st.integers(1, 2000), st.integers(1, 2000))
def test_a_legend_never_covers_more_than_a_quarter(labels: list[str], height: int, width: int) -> None:
    place = layout(height, width, tuple(Prompt(x, x) for x in labels))
    lines = min(len(labels), place.room)
    covered = lines * place.row + place.gap if lines else 0
    assert place.width <= width / 2
    assert covered <= height / 2
    font = ImageFont.load_default(place.size)
    end = place.width if place.states is None else place.states
    assert all(place.texts + font.getlength(x) <= end or x.endswith("...") for x in place.names)


def drawn(size: tuple[int, int], states: list[ObjectResult], **looks: bool) -> np.ndarray:
    """The overlay of a white frame without masks."""
    asked = tuple(Prompt(f"object {i}", f"object {i}") for i in range(1, len(states) + 1))
    clip = Clip("clip", *size, Fraction(25), Fraction(0), None, None, asked, **looks)  # type: ignore[arg-type]
    white = np.full((*size, 3), 255, np.uint8)
    masks = np.zeros((len(states), *size), bool)
    result = FrameResult(0, "0", Fraction(0), white, masks, masks[0].view(np.uint8), states)
    return draw_overlay(result, clip, Style(clip.colors))


@pytest.mark.parametrize("count", [1, 4, 12, 40])
@pytest.mark.parametrize("size", [(240, 320), (394, 492), (720, 1280), (1080, 1920)])
def test_what_is_drawn_covers_no_more_than_a_quarter(size: tuple[int, int], count: int) -> None:
    rows, columns = np.nonzero((drawn(size, [said("track", True)] * count) != 255).any(2))
    height, width = rows.max() + 1, columns.max() + 1
    assert width <= size[1] / 2
    assert 0 < height * width <= size[0] * size[1] / 4


def test_present_objects_come_first_where_lines_are_few() -> None:
    """Of 20 objects the last five are there: their colours are in the legend, and those of some absent ones are not."""
    size, states = (240, 320), [said("track", i >= 15) for i in range(20)]
    shown = {tuple(x) for x in drawn(size, states).reshape(-1, 3).tolist()}
    assert {color_of(i) for i in range(16, 21)} <= shown
    room = layout(*size, tuple(Prompt(f"object {i}", f"object {i}") for i in range(1, 21))).room
    assert [color_of(i) in shown for i in range(1, 16)] == [i <= room - 1 - 5 for i in range(1, 16)]


def test_absent_objects_are_grey() -> None:
    there, absent = (drawn((240, 320), [said("track", x)]) for x in (True, False))
    place = layout(240, 320, prompts("object 1"))
    words = slice(place.gap, place.row), slice(place.texts, place.width)
    assert there[words].max() == 255
    assert absent[words].max() == 170
    middle = (place.gap + place.size // 2,) * 2
    assert tuple(there[middle]) == color_of(1)
    assert tuple(absent[middle]) == (63, 63, 63)


def test_without_a_legend() -> None:
    assert (drawn((240, 320), [said("track", True)], legend=False) == 255).all()


@pytest.mark.parametrize("legend", [True, False])
def test_demo_weights_are_said_in_the_picture(legend: bool) -> None:
    plain, demo = (drawn((240, 320), [said("track", True)], legend=legend, demo_weights=x) for x in (False, True))
    rows, columns = np.nonzero((plain != demo).any(2))
    assert rows.min() > 240 * 0.9
    assert columns.max() < 320 / 2
    assert (demo[rows.min() :, : columns.max() + 1] == 255).any()


# --- colours ------------------------------------------------------------------------------------------------------

VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}
"""The matrices of Machado, Oliveira and Fernandes (2009) for severity 1.0, on linear RGB."""

TISSUE = (
    (190, 80, 70),
    (205, 120, 110),
    (150, 50, 45),
    (115, 30, 30),
    (225, 165, 150),
    (85, 22, 25),
    (230, 140, 150),
)
"""Reds and pinks, in light and in shadow."""


def lab(colors: tuple[tuple[int, int, int], ...], vision: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of sRGB colours as they look, (colors, 3)."""
    values = np.array(colors) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ vision.T, 0, 1)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    )
    xyz = linear @ to_xyz.T / to_xyz.sum(1)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116).T
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), axis=1)


def distances(
    first: tuple[tuple[int, int, int], ...], second: tuple[tuple[int, int, int], ...], how: str
) -> np.ndarray:
    a, b = (lab(x, VISION[how]) for x in (first, second))
    return np.linalg.norm(a[:, None] - b, axis=2)


def test_lab_of_known_colours() -> None:
    found = lab(((255, 255, 255), (255, 0, 0), (0, 0, 255)), np.eye(3))
    known = np.array([[100, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]])
    assert np.allclose(found, known, atol=0.05)
    assert (
        distances(((0, 150, 0),), ((150, 70, 0),), "deuteranopia")
        < distances(((0, 150, 0),), ((150, 70, 0),), "normal") / 2
    )


@pytest.mark.parametrize(
    ("how", "least", "from_tissue"),
    [("normal", 23, 42), ("protanopia", 22, 30), ("deuteranopia", 21.7, 18), ("tritanopia", 21.8, 19)],
)
def test_colours_can_be_told_apart(how: str, least: float, from_tissue: float) -> None:
    """The smallest CIELAB distance of any two of the twelve is 21.8, over normal vision and all three deficiencies."""
    assert len(OBJECT_COLORS) == 12
    own = distances(OBJECT_COLORS, OBJECT_COLORS, how) + 1000 * np.eye(12)
    assert own.min() >= least
    assert distances(OBJECT_COLORS, TISSUE, how).min() >= from_tissue


def test_more_objects_than_colours_and_label_images() -> None:
    assert [color_of(i) for i in range(1, 13)] == list(OBJECT_COLORS)
    assert len({color_of(i) for i in range(1, 40)}) == 39
    assert davis_palette()[:12] == bytes([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])


# --- demo weights -------------------------------------------------------------------------------------------------

CLIP = Path(__file__).parents[1] / "examples" / "scene.mp4"


def info(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(path.read_text())["info"]
    return found


def test_demo_weights_are_named_in_every_record(cli: Cli) -> None:
    done = cli("segment", CLIP, "-t", "left ultrasound probe=probe", "--end", "4", "--no-legend")
    assert done.code == 0, done.err
    assert done.err.count("bundled demo weights") == 1
    run = Path("runs/scene")
    record = json.loads((run / "run.json").read_text())
    assert record["weights"]["demo"] is True
    assert record["settings"]["legend"] is False
    assert (read_run(run).demo_weights, read_run(run).legend) == (True, False)
    assert info(run / "annotations.json")["demo_weights"] == ["scene"]
    assert str(info(run / "annotations.json")["description"]).endswith("(demo weights)")
    for kind in ("coco", "youtube-vis"):
        assert cli("export", run, "-f", kind, "-o", f"{kind}.json").code == 0
        assert info(Path(f"{kind}.json"))["demo_weights"] == ["scene"]


def test_other_weights_are_not_demo_weights(cli: Cli, video: Path, small_weights: Path) -> None:
    assert cli("segment", video, "-t", "kidney", "--weights", small_weights, "--end", "2").code == 0
    run = Path("runs") / video.stem
    assert json.loads((run / "run.json").read_text())["weights"]["demo"] is False
    assert "demo" not in json.dumps(info(run / "annotations.json"))
    assert cli("export", run, "-f", "coco", "-o", "all.json").code == 0
    assert "demo" not in json.dumps(info(Path("all.json")))


def test_a_copy_of_the_demo_weights_is_known(tmp_path: Path) -> None:
    assert is_demo(BUNDLED, "")
    assert is_demo(tmp_path / "mine.safetensors", sha256(BUNDLED))
    assert not is_demo(tmp_path / "demo.safetensors", "0" * 64)


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (None, False),
        ("demo", False),
        ({"name": "demo"}, True),
        ({"name": "demo", "demo": False}, False),
        ({"name": "mine", "demo": True}, True),
        ({"name": "mine"}, False),
        ({"name": "mine", "demo": "yes"}, False),
    ],
)
def test_records_of_earlier_versions(video: Path, tmp_path: Path, recorded: object, expected: bool) -> None:
    run = finished_run(tmp_path / "clip", video, overlay=False).folder
    record = json.loads((run / "run.json").read_text())
    if recorded is not None:
        record["weights"] = recorded
    del record["settings"]["legend"]
    (run / "run.json").write_text(json.dumps(record))
    assert (read_run(run).demo_weights, read_run(run).legend) == (expected, True)


def test_python_warns_once(video: Path, small_weights: Path, tmp_path: Path) -> None:
    for weights in ("auto", "demo"):
        with pytest.warns(UserWarning, match="bundled demo weights") as found:
            engine = resurgsam2_cli.build_engine(weights, device="cpu")
        assert [x.filename for x in found] == [__file__]
    with pytest.warns(UserWarning, match="bundled demo weights") as found:
        resurgsam2_cli.segment_video(video, ["kidney"], tmp_path / "auto")
    assert [x.filename for x in found] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resurgsam2_cli.segment_video(video, ["kidney"], tmp_path / "given", engine=engine)  # said where it was built
        resurgsam2_cli.build_engine(str(small_weights), device="cpu")


# --- options ------------------------------------------------------------------------------------------------------


def test_a_batch_knows_runs_with_and_without_legend(cli: Cli, video: Path, small_weights: Path) -> None:
    def state(*more: str) -> dict[str, str]:
        command = ("batch", video, "-t", "kidney", "--weights", small_weights, "-o", "out", "--json")
        found: dict[str, str] = json.loads(cli(*command, *more).out)["videos"][0]
        return found

    assert state()["state"] == "done"
    assert state()["state"] == "skipped"
    other = state("--no-legend")
    assert (other["state"], other["note"]) == ("changed", "legend True, now False (--overwrite does it again)")
    assert state("--no-legend", "--overwrite")["state"] == "done"
    assert state("--legend")["state"] == "changed"
    assert state("--no-overlay", "--overwrite")["state"] == "done"
    assert state("--no-overlay", "--no-legend")["state"] == "skipped"  # without an overlay there is nothing to differ


def test_no_legend_is_for_overlays(cli: Cli, video: Path, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "runs" / "clip", video).folder
    done = cli("export", run, "-f", "coco", "-o", "all.json", "--no-legend")
    assert done.code == 2
    assert "--no-legend is for --format overlay" in done.err


def test_a_corrected_run_keeps_its_looks(video: Path, tmp_path: Path) -> None:
    """With or without a legend, and with the words about demo weights, as the run was made."""
    run = finished_run(tmp_path / "clip", video, legend=False).folder
    record = json.loads((run / "run.json").read_text())
    record["weights"] = {"name": "demo", "demo": True}
    (run / "run.json").write_text(json.dumps(record))
    found = read_run(run)
    with RunIndex(found) as index, opened_source(found) as source:
        clip, _ = OverlayOf(source)._clip(index)
    assert (clip.legend, clip.demo_weights) == (False, True)


def test_an_exported_overlay_without_legend(cli: Cli, video: Path, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "runs" / "clip", video)
    height, width = run.pictures[0].shape[:2]
    place = layout(height, width, run.prompts)
    assert place.room
    corner = np.s_[: place.row, : place.width]
    changed = []
    for name, more in (("with", ()), ("without", ("--no-legend",))):
        assert cli("export", run.folder, "-f", "overlay", "-o", f"{name}.mp4", "--opacity", "0", *more).code == 0
        with open_source(f"{name}.mp4") as source:
            first = next(iter(source.frames(Part()))).rgb
        changed.append(float(abs(first[corner].astype(int) - run.pictures[0][corner]).mean()))
    assert changed[0] > 3 * changed[1]
