"""Which wording works, from a few frames; and what is said of words that the weights did not learn."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import ffmpeg
from conftest import Cli
from PIL import Image

from model import Rules
from model.initial_frame import presence
from model.training.scenes import Scene
from resurgsam2_cli.files.palette import color_of
from resurgsam2_cli.outputs.overlay import _eroded
from resurgsam2_cli.prompts.prompt import parse_prompts
from resurgsam2_cli.prompts.wording import wording_notes
from resurgsam2_cli.runs.folder import Wanted
from resurgsam2_cli.segmenting.engine import build_engine
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.pipeline import segment
from resurgsam2_cli.segmenting.probing import probe, spread
from resurgsam2_cli.video.frames import Frame
from resurgsam2_cli.video.positions import Part
from resurgsam2_cli.video.source import open_source
from resurgsam2_cli.video.video_file import VideoFile
from weights.store import BUNDLED, parse_releases, releases, vocabulary_of
from weights.vocabulary import FORMS, Vocabulary, rendered_vocabulary

CLIP = Path(__file__).parents[1] / "examples" / "scene.mp4"
RIGHT = ("left ultrasound probe", "right bipolar forceps")
WRONG = ("right ultrasound probe", "left bipolar forceps", "kidney", "scissors")
DEMO = ("--weights", "demo", "--device", "cpu", "--precision", "fp32")


def asked(*texts: str) -> tuple[str, ...]:
    return tuple(x for text in texts for x in ("-t", text))


def probed(cli: Cli, *arguments: str | Path) -> dict[str, Any]:
    done = cli("probe", *arguments, *DEMO, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_right_wordings_come_first(cli: Cli) -> None:
    """In the bundled clip: a left ultrasound probe, and right bipolar forceps, which leave for a while."""
    done = cli("probe", CLIP, *asked(*WRONG, *RIGHT), *DEMO)
    assert done.code == 0, done.err
    table = done.out.splitlines()
    assert table[1].startswith("left ultrasound probe")
    assert "12 of 12 frames" in table[1]
    assert table[2].startswith("right bipolar forceps")
    assert all("0 of 12 frames" in x for x in table[3:])
    assert len(table) == 7
    assert str(Path("sheet.png").absolute()) in done.err
    found = probed(cli, CLIP, *asked(*WRONG, *RIGHT), "-o", "other.png")
    assert [x["text"] for x in found["wordings"][:2]] == list(RIGHT)
    for x in found["wordings"]:
        credible = [y["presence"] > 0.9 and y["predicted_iou"] > 0.7 for y in x["detections"]]
        assert [y["credible"] for y in x["detections"]] == credible
        assert x["frames_credible"] == sum(credible)
        assert x["mean_presence"] == pytest.approx(np.mean([y["presence"] for y in x["detections"]]))
        present = [y["predicted_iou"] for y in x["detections"] if y["present"]]
        assert x["mean_predicted_iou"] == (pytest.approx(np.mean(present)) if present else None)
    scene, forceps = Scene(108, height=384, width=480), found["wordings"][1]
    ident = next(x.id for x in scene.targets if x.category == "bipolar forceps")
    there = [bool((scene.labels(x["frame"]) == ident).any()) for x in found["frames"]]
    assert not all(there)
    assert [x["present"] for x in forceps["detections"]] == there


def test_it_detects_what_a_run_detects(cli: Cli) -> None:
    """The frames before a probed frame are what CSTMamba sees beside it, so nothing differs from a run's search."""
    done = cli("segment", CLIP, *asked(RIGHT[0], "kidney"), "--window", "1000", "--no-overlay", "-q", *DEMO)
    assert done.code == 0, done.err
    lines = [json.loads(x)["objects"] for x in Path("runs/scene/frames.jsonl").read_text().splitlines()]
    found = probed(cli, CLIP, *asked(RIGHT[0], "kidney"))
    for k, x in enumerate(found["wordings"]):
        for frame, y in zip(found["frames"], x["detections"], strict=True):
            said = lines[frame["frame"]][k]
            assert said["stage"] == "detect"
            assert y["presence"] == pytest.approx(presence(said["object_score"]), abs=1e-5)
            assert y["predicted_iou"] == pytest.approx(said["predicted_iou"], abs=1e-5)
            assert y["present"] == said["present"]


def test_it_takes_a_small_part_of_the_time_of_a_run(tmp_path: Path) -> None:
    """Both in one go, with one engine: with six wordings against a run with the two right ones."""
    engine, prompts = build_engine("demo", None, "cpu", "fp32"), parse_prompts(RIGHT)
    with open_source(str(CLIP)) as video:
        probe(engine, video, RIGHT, 2, 240)  # what is done once is not measured
        begin = time.perf_counter()
        probe(engine, video, [*RIGHT, *WRONG], 12, 240)
        middle = time.perf_counter()
        with Wanted(tmp_path, "scene", str(CLIP), video.identity()).claim(overwrite=False) as folder:
            segment(engine, video, prompts, SegmentOptions(rules=Rules(**engine.weights.rules)), folder, lambda x: None)
        end = time.perf_counter()
    print(f"probe {middle - begin:.2f} s, run {end - middle:.2f} s")
    assert middle - begin < 0.5 * (end - middle)


def test_the_sheet(cli: Cli) -> None:
    """A row for each wording with its masks; written once, and replaced only on request, and only if it is ours."""
    arguments = (CLIP, *asked(*RIGHT), "--frames", "3")
    done = cli("probe", *arguments, *DEMO, "-o", "there/sheet.png")
    assert done.code == 0, done.err
    image = np.array(Image.open("there/sheet.png"))
    assert [x.name for x in Path("there").iterdir()] == ["sheet.png"]
    with open_source(str(CLIP)) as video:
        result = probe(build_engine("demo", None, "cpu", "fp32"), video, RIGHT, 3, 240)
    masks = [x.mask(y) for w in result.wordings for x, y in zip(result.frames, w.detections, strict=True)]
    contours = sum(int((x & ~_eroded(x, 1)).sum()) for x in masks)
    assert contours > 100
    assert (image == color_of(1)).all(axis=-1).sum() == contours
    before = Path("there/sheet.png").read_bytes()
    done = cli("probe", *arguments, *DEMO, "-o", "there/sheet.png")
    assert done.code == 6
    assert "--overwrite" in done.err
    assert Path("there/sheet.png").read_bytes() == before
    assert cli("probe", *arguments, *DEMO, "-o", "there/sheet.png", "--overwrite", "-q").code == 0
    Image.new("RGB", (4, 4)).save("mine.png")
    mine = Path("mine.png").read_bytes()
    done = cli("probe", *arguments, *DEMO, "-o", "mine.png", "--overwrite")
    assert done.code == 6
    assert Path("mine.png").read_bytes() == mine
    done = cli("probe", *arguments, *DEMO, "-o", "sheet.jpg")
    assert done.code == 2
    assert len(done.err.splitlines()) == 2


def test_templates(cli: Cli) -> None:
    """A text that the network never read leads to the sentences that it did, and they are better."""
    found = probed(cli, CLIP, *asked("the forceps on the right side"), "--templates", "--frames", "6")
    best, *_ = found["wordings"]
    texts = [x["text"] for x in found["wordings"]]
    assert best["text"] != "the forceps on the right side"
    assert not best["asked"]
    assert "bipolar forceps" in best["text"]
    assert best["frames_credible"] >= 4
    assert {"right bipolar forceps", "bipolar forceps", "the forceps on the right side"} <= set(texts)
    assert len(texts) == len(set(texts))
    assert not any("left" in x or "top" in x for x in texts)  # nobody said so
    done = cli(
        "probe", CLIP, *asked("kidney"), "--templates", "--weights", copied("unknown.safetensors"), "-o", "x.png"
    )
    assert done.code == 2
    assert "not known" in done.err


def copied(name: str) -> Path:
    path = Path(name)
    shutil.copy(BUNDLED, path)
    return path


def test_few_frames(cli: Cli, video: Path) -> None:
    """More frames than the video has: each of them once. One frame is enough, in a video or as an image."""
    found = probed(cli, video, *asked("grasper"), "--frames", "100")
    assert [x["frame"] for x in found["frames"]] == list(range(24))
    ffmpeg("-i", video, "-frames:v", "1", "-an", "one.mp4")
    found = probed(cli, "one.mp4", *asked("grasper"), "-o", "one.png")
    assert [x["frame"] for x in found["frames"]] == [0]
    Path("folder").mkdir()
    for i in range(5):
        Image.new("RGB", (40, 30), (200, 90, 80)).save(f"folder/{i}.png")
    found = probed(cli, "folder", *asked("grasper"), "--frames", "2", "-o", "two.png")
    assert [x["name"] for x in found["frames"]] == ["1", "3"]
    found = probed(cli, "folder/0.png", *asked("grasper"), "-o", "image.png")
    assert len(found["frames"]) == 1


def test_bad_input(cli: Cli, video: Path) -> None:
    Path("noise.mp4").write_bytes(bytes(range(256)) * 40)
    for arguments, code in (
        (("probe", "noise.mp4", *asked("grasper")), 3),
        (("probe", "absent.mp4", *asked("grasper")), 3),
        (("probe", video, *asked("grasper " * 100)), 2),
        (("probe", video), 2),
        (("probe", video, *asked(" ")), 2),
        (("probe", video, *asked("grasper"), "--weights", "absent"), 4),
        (("probe", video, *asked(*(f"thing {i}" for i in range(256)))), 2),
    ):
        done = cli(*arguments, "-q")
        assert done.code == code, done.err
        assert len(done.err.splitlines()) == 2, done.err
        assert done.out == ""
    assert not Path("sheet.png").exists()


def test_a_video_that_breaks_off(cli: Cli, tmp_path: Path) -> None:
    """What there is of it counts."""
    whole, cut = tmp_path / "whole.mkv", tmp_path / "cut.mkv"
    ffmpeg("-i", CLIP, "-c", "copy", whole)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    found = probed(cli, cut, *asked(RIGHT[0]))
    numbers = [x["frame"] for x in found["frames"]]
    assert len(numbers) >= 3
    assert numbers[-1] < 150
    assert found["wordings"][0]["frames_credible"] == len(numbers)


@pytest.mark.parametrize(("count", "total"), [(12, 200), (5, 3), (1, 1), (1, 10), (100, 100), (7, 99)])
def test_spread(count: int, total: int) -> None:
    numbers = spread(count, total)
    assert len(numbers) == len(set(numbers)) == min(count, total)
    assert numbers == sorted(numbers)
    assert numbers[0] >= 0
    assert numbers[-1] < total
    gaps = np.diff(numbers)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2000 small frames, with a key frame in every 100."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    picture = "testsrc2=size=64x48:rate=25"
    ffmpeg("-f", "lavfi", "-i", picture, "-frames:v", "2000", "-g", "100", "-pix_fmt", "yuv420p", path)
    return path


def test_late_frames_are_reached_by_seeking(long_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where that cannot be, the file is decoded once. The frames are the same."""
    engine = build_engine("demo", None, "cpu", "fp32")
    parts: list[Part] = []
    given = 0
    frames = VideoFile.frames

    def watched(self: VideoFile, part: Part) -> Any:
        nonlocal given
        parts.append(part)
        for frame in frames(self, part):
            given += 1
            yield frame

    monkeypatch.setattr(VideoFile, "frames", watched)
    with open_source(str(long_video)) as video:
        sought = probe(engine, video, ["grasper"], 5, 64)
    assert [x.number for x in sought.frames] == [200, 600, 1000, 1400, 1800]
    assert [x.start.frame for x in parts] == [198, 598, 998, 1398, 1798]
    assert given <= 20
    parts.clear()
    monkeypatch.setattr(VideoFile, "within_reach", lambda self: None)
    with open_source(str(long_video)) as video:
        through = probe(engine, video, ["grasper"], 5, 64)
    assert [x.start.frame for x in parts] == [0]
    assert all(np.array_equal(x.picture, y.picture) for x, y in zip(sought.frames, through.frames, strict=True))
    assert sought.wordings[0].detections == through.wordings[0].detections


def test_a_stream_that_does_not_know_its_length(cli: Cli, video: Path) -> None:
    ffmpeg("-i", video, "-c:v", "copy", "-an", "-f", "h264", "raw.h264")
    found = probed(cli, "raw.h264", *asked("grasper"), "--frames", "4")
    assert [x["frame"] for x in found["frames"]] == [3, 9, 15, 21]


def test_pictures_have_the_displayed_shape() -> None:
    class Wide:
        path, pixel_aspect, warnings = Path("wide"), Fraction(2), list[str]()

        def within_reach(self) -> int:
            return 1

        def frames(self, part: Part) -> Any:
            yield Frame(0, "0", Fraction(0), np.zeros((60, 80, 3), np.uint8))

    found = probe(build_engine("demo", None, "cpu", "fp32"), Wide(), ["hook"], 3, 160)  # type: ignore[arg-type]
    assert found.frames[0].picture.shape == (60, 160, 3)


# --- What the weights learned -----------------------------------------------------------------------------------------


def test_the_demo_knows_the_sentences_of_the_scenes() -> None:
    """All that scenes say, of what is there and of what is not; and nothing else."""
    known = rendered_vocabulary()
    for seed in range(20):
        scene = Scene(seed, height=64, width=80, frames=40)
        said = [x for target in scene.targets for t in (None, 0, 39) for x in scene.sentences(target, t)]
        said += scene.absent_sentences(np.random.default_rng(seed), 20)
        assert [x for x in said if not known.knows(x)] == []
    assert known.knows(" Left  GRASPER")
    for text in ("left graspers", "the grasper", "kidneys", "grasper is cutting", "top left grasper", ""):
        assert not known.knows(text)
        assert all(known.knows(x) for x in known.nearest(text))


def test_forms_say_no_other_place() -> None:
    known = rendered_vocabulary()
    assert known.forms_of("left graspper")[0] == "left grasper"
    for text in ("left grasper", "left forceps"):
        assert all("left" in x or not any(y in x for y in known.locations) for x in known.forms_of(text))
    assert known.forms_of("scissors is cutting") == ["scissors is cutting", "scissors"]
    assert known.forms_of("gallbladder") == []


def test_published_releases_have_open_vocabularies() -> None:
    """Their forms are known, and few of their words: nothing is said of other words in these forms."""
    both, tools = (releases()[f"resurgsam2-ref-endovis{x}"].vocabulary for x in (18, 17))
    assert both is not None
    assert tools is not None
    for known in (both, tools):
        assert not known.complete
        for text in (
            "bipolar forceps is grasping on the left",
            "scissors is cutting",
            "needle driver is idle on the top right",
        ):
            assert known.knows(text), text
        assert not known.knows("left grasper")
        assert known.nearest("left grasper")[0] == "grasper is grasping on the left"
    assert both.knows("kidney")
    assert not tools.knows("kidney")
    assert both.nearest("left kidney") == ["kidney"]


def test_which_weights_have_a_vocabulary(tmp_path: Path) -> None:
    assert vocabulary_of("demo", BUNDLED) == rendered_vocabulary()
    assert vocabulary_of("demo", tmp_path / "demo.safetensors") is None
    fetched = vocabulary_of("resurgsam2-ref-endovis18", tmp_path / "x.pth")
    assert fetched is not None
    assert vocabulary_of("sam2.1_hiera_s_ref18", tmp_path / "x.pth") == fetched  # added from elsewhere
    assert vocabulary_of("sam2.1-hiera-small", tmp_path / "x.pt") is None
    assert wording_notes(None, "x", ["anything"]) == []


@pytest.mark.parametrize(
    "content",
    [
        "3",
        "{ words = [] }",
        '{ forms = ["{0}"] }',
        "{ forms = 3 }",
        '{ categories = ["grasper"] }',
        '{ categories = { grasper = "cutting" } }',
        "{ tissue = [1] }",
        '{ complete = "no" }',
    ],
)
def test_a_vocabulary_that_is_none(content: str) -> None:
    entry = '[x]\nkind = "network"\ntitle = "t"\nlicence = "l"\nsources = [{ url = "https://x" }]\nvocabulary = '
    assert parse_releases(entry + "{ complete = false }")["x"].vocabulary == Vocabulary((), {}, complete=False)
    with pytest.raises(ValueError, match=r"vocabulary|list of words"):
        parse_releases(entry + content)


def test_all_forms_can_be_filled() -> None:
    open_one = Vocabulary(FORMS, {"hook": ("cutting",)}, ("left",), ("left",), ("liver",), complete=False)
    for known in (open_one, replace(open_one, complete=True)):
        assert all(known.knows(x) for x in known.forms_of("left hook"))
        assert not any("{" in x for x in known.forms_of("left hook"))


def test_notes(cli: Cli, video: Path) -> None:
    """One line for each prompt that the weights did not learn, whatever the command; none with --quiet."""
    texts = asked("left graspper", "left grasper", "gall bladder", "left graspper=again")
    for command in (("segment", "--no-overlay"), ("probe", "--frames", "2"), ("batch", "--no-overlay")):
        name, *more = command
        done = cli(name, video, *texts, *more, *DEMO, "-o", "sheet.png" if name == "probe" else name)
        assert done.code == 0, done.err
        notes = [x for x in done.err.splitlines() if "did not learn" in x]
        assert len(notes) == 2, done.err
        assert '"left graspper"; near it: "left grasper"' in notes[0]
        assert '"gall bladder"; it knows: grasper, scissors' in notes[1]
    done = cli("segment", video, *texts, "--no-overlay", "-q", *DEMO, "-o", "quiet")
    assert done.code == 0
    assert done.err == ""
    done = cli("segment", video, *asked("gall bladder"), "--no-overlay", "--weights", copied("own.safetensors"))
    assert done.code == 0
    assert "did not learn" not in done.err
