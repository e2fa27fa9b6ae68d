"""Marks on the command line and in files: what they say, what is wrong with them, and what a run makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import ffmpeg
from conftest import DATA, SMALL, Cli, published_state
from PIL import Image
from pycocotools import mask as coco_mask

from model.session import Session
from resurgsam2_cli import VideoSession, build_engine, open_source, segment_video
from resurgsam2_cli.errors import InputError, UsageError, UserError
from resurgsam2_cli.prompts.files import read_prompts
from resurgsam2_cli.prompts.marks import Mark, objects_of, parse_mark, read_marks
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.segmenting.placing import Grid
from resurgsam2_cli.video.positions import Position

WIDTH, HEIGHT, FRAMES = 160, 120, 60


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("marks") / "v.mp4"
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=size={WIDTH}x{HEIGHT}:rate=25", "-frames:v", str(FRAMES), path)
    return path


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in (run / "frames.jsonl").read_text().splitlines()]


def test_what_a_mark_says() -> None:
    mark = parse_mark("left grasper@1:30 +320,240.5  -100,50 box 10,20,30.25,40")
    assert (mark.name, mark.position) == ("left grasper", Position(seconds=90))
    assert mark.points == ((320, 240.5, True), (100, 50, False))
    assert mark.box == (10, 20, 30.25, 40)
    assert parse_mark("a@7 absent").absent
    assert parse_mark("a@b@7 absent").name == "a@b"
    assert parse_mark("3@12.5s mask my mask@2.png").mask == Path("my mask@2.png")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("grasper", "is not a mark"),
        ("grasper@12", "is not a mark"),
        ("grasper@x +1,2", "is not a mark"),
        ("@12 +1,2", "is not a mark"),
        ("grasper@12 320,240", "put + before a click"),
        ("grasper@12 +1,2,3", "is no part of a mark"),
        ("grasper@12 +1,", "is no part of a mark"),
        ("grasper@12 +-1,2", "is no part of a mark"),
        ("grasper@12 +nan,2", "is no part of a mark"),
        ("grasper@12 box 1,2,3", "is no part of a mark"),
        ("grasper@12 box 1,2,0,5", "no area"),
        ("grasper@12 box 1,2,3,4 box 1,2,3,4", "two boxes"),
        ("grasper@12 absent +1,2", "both clicks and absent"),
        ("grasper@12 +1,2 mask a.png", "both clicks and a mask"),
        ("grasper@99999999999999999999 +1,2", "beyond any video"),
    ],
)
def test_marks_that_are_none(text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        parse_mark(text)
    assert said in f"{error.value.message} {error.value.hint}"
    assert text.split()[0] in error.value.message
    assert error.value.hint


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ("{}", "no list of marks"),
        ('{"marks": [1]}', "mark 1: needs an object and a frame"),
        ('{"marks": [{"object": "a", "frame": 1, "point": []}]}', "unknown field 'point'"),
        ('{"marks": [{"object": "a", "frame": 1}]}', "says nothing about the object"),
        ('{"marks": [{"object": "a", "frame": -1, "absent": true}]}', "not a position"),
        ('{"marks": [{"object": "a", "frame": 1.5, "absent": true}]}', "its frame is 1.5"),
        ('{"marks": [{"object": "a", "frame": null, "absent": true}]}', "its frame is"),
        ('{"marks": [{"object": "", "frame": 1, "absent": true}]}', "names no object"),
        ('{"marks": [{"object": "a", "frame": 1, "absent": 1}]}', "absent is 1"),
        ('{"marks": [{"object": "a", "frame": 1, "points": [[1, 2]]}]}', "has the point"),
        ('{"marks": [{"object": "a", "frame": 1, "points": [[1, 2, 3]]}]}', "has the point"),
        ('{"marks": [{"object": "a", "frame": 1, "points": [["1", 2, 1]]}]}', "has the point"),
        ('{"marks": [{"object": "a", "frame": 1, "points": {"x": 1}}]}', "points is"),
        ('{"marks": [{"object": "a", "frame": 1, "box": [1, 2, 3]}]}', "has the box"),
        ('{"marks": [{"object": "a", "frame": 1, "mask": 7}]}', "its mask is 7"),
    ],
)
def test_files_of_marks_that_are_none(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(UserError) as error:
        read_marks(tmp_path / "m.json")
    assert said in error.value.message
    assert "m.json" in error.value.message


def test_files_of_marks_that_cannot_be_read(tmp_path: Path) -> None:
    """Then the path is wrong, not what the file says. A path may be a text."""
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(2**26 + 1)
    for path, said in (
        (tmp_path / "nope.json", "cannot be read (No such file or directory)"),
        (tmp_path, "cannot be read (Is a directory)"),
        (large, "is too large (it has more than 64 MiB)"),
    ):
        for read in (read_marks, read_prompts):
            with pytest.raises(InputError) as error:
                read(path)
            assert error.value.message == f"{path}: {said}"
            assert error.value.hint == "check the path"
    (tmp_path / "m.json").write_text('[{"object": "a", "frame": 1, "mask": "a.png"}]')
    (mark,) = read_marks(str(tmp_path / "m.json"))
    assert mark.mask == tmp_path / "a.png"


def test_objects_are_named_by_label_or_id() -> None:
    prompts = [Prompt("left grasper", "tool"), Prompt("right grasper", "tool"), Prompt("kidney", "kidney")]
    marks = [parse_mark(f"{x}@1 absent") for x in ("kidney", "2", "needle", "needle")]
    objects, rows = objects_of(marks, prompts)
    assert rows == [2, 1, 3, 3]
    assert [(x.label, x.words) for x in objects[2:]] == [("kidney", True), ("needle", False)]
    for name, said in (("tool", "2 objects are called 'tool'"), ("4", "no object 4"), ("0", "no object 0")):
        with pytest.raises(UserError) as error:
            objects_of([parse_mark(f"{name}@1 absent")], prompts)
        assert said in error.value.message


def _mask(path: Path, mask: np.ndarray) -> Path:
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return path


def test_wrong_marks_are_told_before_any_work(cli: Cli, video: Path, tmp_path: Path) -> None:
    full = np.zeros((HEIGHT, WIDTH), bool)
    empty = _mask(tmp_path / "empty.png", full)
    full[10:20, 10:20] = True
    small = _mask(tmp_path / "small.png", full[:50, :50])
    (tmp_path / "nothing.png").write_bytes(b"")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "rgb.png")
    for mark, code, said in (
        ("a@5 +161,5", 2, "161,5 is outside of the picture, which is 160 x 120"),
        ("a@5 +160,5", 2, "160,5 is outside of the picture"),
        ("a@5 -3,120", 2, "outside of the picture"),
        ("a@5 box 150,100,20,10", 2, "box reaches outside of the picture"),
        ("a@5 box -1,10,20,10", 2, "box reaches outside of the picture"),
        ("a@5 box 160,10,0.4,10", 2, "box reaches outside of the picture"),
        ("a@60 +5,5", 3, "there is no frame 60 (the last one is 59)"),
        ("a@10:00 +5,5", 3, "there is no frame 600s"),
        ("7@5 +5,5", 2, "no object 7"),
        (f"a@5 mask {empty}", 3, "the mask is empty"),
        (f"a@5 mask {small}", 3, "50 x 50 pixels, the video 160 x 120"),
        (f"a@5 mask {tmp_path / 'nothing.png'}", 3, "no picture that can be read"),
        (f"a@5 mask {tmp_path / 'rgb.png'}", 3, "several colours beside black"),
        (f"a@5 mask {tmp_path / 'gone.png'}", 3, "no such file"),
    ):
        done = cli("segment", video, "--mark", mark, "--weights", tmp_path / "not loaded yet")
        assert done.code == code, (mark, done)
        first, hint, *more = done.err.strip().splitlines()
        assert said in first
        assert f"--mark '{mark[:8]}"[:12] in first
        assert hint
        assert not more
    done = cli("segment", video, "--mark", "a@5 absent", "--mark", "a@5 +3,3", "--weights", tmp_path / "not loaded")
    assert done.code == 2
    assert "another mark says that the object is absent" in done.err
    done = cli("segment", video, "--mark", "a@5 +3,3", "--stride", "2", "--weights", tmp_path / "not loaded")
    assert done.code == 2
    assert "frame 5 is not segmented" in done.err
    done = cli("segment", video, "--mark", "a@5 +3,3", "--start", "10", "--weights", tmp_path / "not loaded")
    assert "frame 5 is not segmented: the part has the frames from 10 on" in done.err
    assert cli("segment", video, "--mark", "a@2.39s +3,3", "--weights", tmp_path / "not loaded").code == 4
    for end, mark in (("2s", "a@50 +3,3"), ("1.5s", "a@2s +3,3"), ("40", "a@1.9s +3,3")):
        done = cli("segment", video, "--mark", mark, "--end", end, "--weights", tmp_path / "not loaded")
        assert done.code == 3
        assert f"--mark '{mark}': there is no frame" in done.err


def test_a_time_means_a_frame_that_is_segmented(cli: Cli, video: Path, small_weights: Path) -> None:
    """At 1 s, frame 25 is shown; of every fourth frame from 3 on, frame 23."""
    args = ["--start", "3", "--stride", "4", "--weights", small_weights, "--no-overlay"]
    assert cli("segment", video, "--mark", "a@1s +30,30", *args).code == 0
    assert [x["frame"] for x in lines(Path("runs/v")) if x["objects"][0]["stage"] == "point"] == [23]
    done = cli("segment", video, "--mark", "a@0.04s +30,30", *args, "-o", "other")
    assert done.code == 2
    assert "frame 1 is not segmented: the part has the frames from 3 on, one in 4" in done.err


def test_as_many_frames_as_there_are(cli: Cli, video: Path, small_weights: Path, tmp_path: Path) -> None:
    """Every frame is marked, and only the nearest marks are named."""
    marks = [{"object": "a", "frame": i, "points": [[50, 50, 1]]} for i in range(FRAMES) if i != 30]
    (tmp_path / "m.json").write_text(json.dumps({"marks": marks}))
    done = cli("segment", video, "--marks", tmp_path / "m.json", "--weights", small_weights, "--no-overlay")
    assert done.code == 0, done.err
    assert "marked in 59 frames" in done.err
    rows = [x["objects"][0] for x in lines(Path("runs/v"))]
    assert [i for i, x in enumerate(rows) if x["stage"] == "track"] == [30]
    assert rows[30]["conditioning_frames"] == [*range(14, 30), *range(31, 47)]


def test_marks_beside_words(cli: Cli, video: Path, small_weights: Path, tmp_path: Path) -> None:
    drawn = np.zeros((HEIGHT, WIDTH), bool)
    drawn[30:80, 40:90] = True
    args = ["--mark", "cup@20 +80,60 -10,10", "--mark", "kidney@1.2s absent", "--mark"]
    args += [f"cup@40 mask {_mask(tmp_path / 'm.png', drawn)}", "-t", "kidney", "-t", "left grasper"]
    done = cli("segment", video, *args, "--weights", small_weights, "--object-png")
    assert done.code == 0, done.err
    run = Path("runs/v")
    rows = lines(run)
    assert [x["frame"] for x in rows] == list(range(FRAMES))
    kidney, grasper, cup = ([x["objects"][i] for x in rows] for i in range(3))
    assert {x["stage"] for x in grasper} == {"detect"}
    assert [x["stage"] for x in cup] == ["point" if i == 20 else "drawn" if i == 40 else "track" for i in range(FRAMES)]
    assert [x["direction"] for x in cup] == [-1] * 20 + [1] * 40
    assert kidney[30]["stage"] == "absent"
    assert not kidney[30]["present"]
    assert kidney[30]["area"] == 0
    assert {tuple(x["conditioning_frames"]) for x in cup} == {(20,), (20, 40)}
    assert np.array_equal(np.asarray(Image.open(run / "objects" / "003" / "00040.png")) > 0, drawn)
    record = json.loads((run / "run.json").read_text())
    assert [x["marks"] for x in record["objects"]] == [1, 0, 2]
    assert record["objects"][2]["initial_frame"] == record["objects"][2]["decided_at"] == 20
    assert record["settings"]["marks"] == 3
    assert sorted(x.name for x in run.iterdir()) == [
        "annotations.json", "frames.jsonl", "marks.json", "masks", "objects", "overlay.mp4", "run.json"
    ]  # fmt: skip

    # marks.json says it again, and the same comes of it.
    again = cli("segment", video, "--marks", run / "marks.json", "-t", "kidney", "-t", "left grasper", "-o", "again",
                "--weights", small_weights)  # fmt: skip
    assert again.code == 0, again.err
    assert lines(Path("again/v")) == rows
    assert (Path("again/v") / "annotations.json").read_text() == (run / "annotations.json").read_text()


def test_without_words_nothing_of_them_is_loaded(cli: Cli, video: Path, tmp_path: Path) -> None:
    """A published checkpoint, without CLIP's weights."""
    state = {key: x for key, x in published_state().items() if not key.startswith("language_model.")}
    torch.save({"model": state}, tmp_path / "published.pth")
    engine = build_engine(str(tmp_path / "published.pth"), device="cpu", precision="fp32", words=False)
    names = {name.split(".")[0] for name, _ in engine.executor._network.named_parameters()}
    assert not names & {"text_encoder", "fusion"}
    done = cli("segment", video, "-t", "kidney", "--weights", tmp_path / "published.pth")
    assert done.code == 4
    assert "no text tower" in done.err


def test_weights_that_cannot_be_pointed_at(cli: Cli, video: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from conftest import SMALL, small_state

    from weights.loader import _ONLY_FOR_POINTING, save_release

    old = {key: x for key, x in small_state().items() if not key.startswith(_ONLY_FOR_POINTING)}
    save_release(tmp_path / "old.safetensors", replace(SMALL, pointing=False), old)
    done = cli("segment", video, "--mark", "a@3 +5,5", "--weights", tmp_path / "old.safetensors")
    assert done.code == 4
    assert "old cannot be pointed at" in done.err
    assert not list(Path("runs").rglob("*.partial"))
    assert cli("segment", video, "-t", "kidney", "--weights", tmp_path / "old.safetensors", "--end", "3").code == 0


def test_both_directions(cli: Cli, video: Path, small_weights: Path) -> None:
    """From the initial frame on, all is as in one pass forwards; before it, the search is kept beside the track."""
    options = ["-t", "kidney", "-t", "left grasper", "--weights", small_weights]
    options += ["--min-presence", "0", "--min-iou", "0.55", "--window", "3"]
    assert cli("segment", video, *options).code == 0
    done = cli("segment", video, *options, "--direction", "both", "-o", "both")
    assert done.code == 0, done.err
    one, both = lines(Path("runs/v")), lines(Path("both/v"))
    objects = json.loads(Path("both/v/run.json").read_text())["objects"]
    assert any(x["initial_frame"] for x in objects), "the test needs a later initial frame"
    for item in objects:
        k, initial = item["id"] - 1, item["initial_frame"]
        assert initial == json.loads(Path("runs/v/run.json").read_text())["objects"][k]["initial_frame"]
        for a, b in zip(one, both, strict=True):
            before, after = a["objects"][k], b["objects"][k]
            if initial is None or a["frame"] >= initial:
                assert before == after
                continue
            assert (after["stage"], after["direction"]) == ("track", -1)
            assert after["search"] == {x: before[x] for x in ("present", "object_score", "predicted_iou")}
            assert before["stage"] == "detect"


def test_a_video_that_breaks_off(cli: Cli, video: Path, small_weights: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mkv"
    ffmpeg("-i", video, "-c", "copy", broken)
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size * 2 // 3])
    done = cli("segment", broken, "--mark", "a@5 +80,60", "--weights", small_weights)
    assert done.code == 3
    assert "breaks off" in done.err
    assert (Path("runs/broken.partial") / "marks.json").exists()
    rows = lines(Path("runs/broken.partial"))
    assert [x["objects"][0]["stage"] for x in rows[4:7]] == ["track", "point", "track"]


def test_spans_are_read_backwards_in_parts(
    cli: Cli, video: Path, small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However a pass backwards reads, it sees the same; and it never holds more than a span."""
    options = ["--mark", "a@55 +80,60", "--mark", "b@20 +30,30", "--weights", small_weights, "--no-overlay"]
    assert cli("segment", video, *options).code == 0
    read, part = [], Grid.part

    def noted(grid: Grid, first: int, end: int | None = None) -> Any:
        read.append((first, end))
        return part(grid, first, end)

    monkeypatch.setattr(Grid, "part", noted)
    monkeypatch.setattr("resurgsam2_cli.segmenting.reading._SPAN_BYTES", 7 * 3 * SMALL.image_size**2)
    assert cli("segment", video, *options, "-o", "parts").code == 0
    assert lines(Path("runs/v")) == lines(Path("parts/v"))
    backwards = [(48, 55), (41, 48), (34, 41), (27, 34), (20, 27), (13, 20), (6, 13), (0, 6)]
    assert [x for x in read if x in backwards] == backwards


def test_a_session_in_python(video: Path, small_weights: Path) -> None:
    engine = build_engine(str(small_weights), device="cpu")
    with open_source(str(video)) as source, VideoSession(engine, source) as session:
        (mask,) = session.mark("cup@20 +80,60")
        assert mask.shape == (HEIGHT, WIDTH)
        assert np.array_equal(session.masks(20)[0], mask)
        session.run()
        before = session.masks(30)[0]
        state = session.states(30)[0]
        assert state is not None
        assert state.stage == "track"
        assert session.states(5)[0].direction == -1  # type: ignore[union-attr]
        session.mark("cup@30 -80,60", "bowl@3 box 10,10,40,40")
        assert not np.array_equal(session.masks(30)[0], before)
        session.run(start=30, direction="forward")
        assert session.states(30)[0].stage == "point"  # type: ignore[union-attr]
        assert session.states(31)[0].conditioning_frames == (20, 30)  # type: ignore[union-attr]
        assert session.states(29)[0].conditioning_frames == (20,)  # type: ignore[union-attr]
        assert [x.label for x in session.objects] == ["cup", "bowl"]
        with pytest.raises(UserError, match="nothing is known of frame 60"):
            session.masks(FRAMES)
        with pytest.raises(UserError, match="nothing is known of frame 60"):
            session.states(FRAMES)
        with pytest.raises(UsageError, match="unknown direction 'sideways'") as error:
            session.run(direction="sideways")  # type: ignore[arg-type]
        assert error.value.hint == "use forward, backward, both"
        with pytest.raises(UsageError, match=f"frame {FRAMES} is not in the video, which has {FRAMES} frames"):
            session.run(start=FRAMES)
    with pytest.raises(UserError, match="closed"):
        session.masks(3)
    with open_source(str(video)) as source, VideoSession(engine, source) as session:
        with pytest.raises(UserError, match="no object"):
            session.run()
        with pytest.raises(UserError, match="nothing is known"):
            session.masks(3)
        for wrong in ({"prompts": "hook"}, {"prompts": [3]}, {"prompts": ["a", "a"]}, {"keep": "zzz"}):
            with pytest.raises(UserError):
                VideoSession(engine, source, **wrong)


def test_a_mark_that_fails_leaves_no_object(video: Path, small_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = build_engine(str(small_weights), device="cpu")
    with open_source(str(video)) as source, VideoSession(engine, source) as session:
        session.mark("cup@3 +80,60")
        for mark in ("bowl@3 confirmed", "bowl@5-8 absent"):
            with pytest.raises(UserError, match=f"{mark}.*is about the masks of a finished run"):
                session.mark(mark)
        point, pointed = Session.point, []

        def fails_at_second(self: Session, *args: Any, **options: Any) -> Any:
            pointed.append(args[0])
            if len(pointed) == 2:
                raise RuntimeError("no more")
            return point(self, *args, **options)

        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="no more"):
            patch.setattr(Session, "point", fails_at_second)
            session.mark("bowl@3 +20,20", "spoon@4 +50,50")
        assert pointed == [1, 2]
        assert [x.label for x in session.objects] == ["cup"]
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="no more"):
            patch.setattr(Session, "point", fails_at_second)
            pointed[:] = [0]
            session.mark("bowl@3 absent", "spoon@4 +50,50")
        assert session.given(3) == {}, "a mask that was given goes with its object"
        assert len(session.masks(3)) == 1
        session.run()
        session.mark("fork@4 +50,50")
        assert len(session.masks(4)) == 2
        assert session.states(3)[1] is None, "it is not what was known of the bowl"
        session.run()


def test_marks_in_the_function(video: Path, small_weights: Path, tmp_path: Path) -> None:
    engine = build_engine(str(small_weights), device="cpu")
    prompts: list[str | Mark] = ["kidney", parse_mark("cup@20 +80,60"), parse_mark("kidney@3 absent")]
    run = segment_video(video, prompts, tmp_path / "out", engine=engine)
    stages = [[x["stage"] for x in line["objects"]] for line in lines(run.folder)]
    assert stages[3] == ["absent", "track"]
    assert stages[20] == ["track", "point"]


def test_options_without_effect(cli: Cli, video: Path, tmp_path: Path) -> None:
    for args, said in (
        (["-t", "hook", "--lost-after", "3"], "--lost-after is for --find-again"),
        (["--mark", "a@3 +5,5", "--find-again"], "--find-again searches for texts"),
        (["-t", "hook", "--direction", "back"], "unknown direction 'back'"),
    ):
        done = cli("segment", video, *args, "--weights", tmp_path / "not loaded")
        assert done.code == 2
        assert said in done.err


def test_many_marks(cli: Cli, video: Path, small_weights: Path, tmp_path: Path) -> None:
    """Ten thousand clicks on a few frames are a few prompts."""
    rng = np.random.default_rng(0)
    marks = [
        {"object": "a", "frame": int(i % 3), "points": [[float(x), float(y), int(i % 2)]]}
        for i, (x, y) in enumerate(rng.uniform(0, 100, (10_000, 2)))
    ]
    (tmp_path / "m.json").write_text(json.dumps({"marks": marks}))
    done = cli("segment", video, "--marks", tmp_path / "m.json", "--weights", small_weights, "--end", "6")
    assert done.code == 0, done.err
    assert [x["objects"][0]["stage"] for x in lines(Path("runs/v"))] == ["point"] * 3 + ["track"] * 3


def test_a_mask_as_rle(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[3:9, 5:50] = 1
    rle = coco_mask.encode(np.asfortranarray(mask))
    uncompressed = {"size": [HEIGHT, WIDTH], "counts": [int(5 * HEIGHT + 3), 6, int(HEIGHT * WIDTH - 5 * HEIGHT - 9)]}
    for given, area in (
        ({"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}, int(mask.sum())),
        (uncompressed, 6),
    ):
        found = Mark("a", Position(frame=0), mask=given, origin="m").read_mask(WIDTH, HEIGHT)
        assert found.sum() == area
    for wrong in ({"size": [HEIGHT, WIDTH], "counts": "x"}, {"size": [0, 5], "counts": []}, {"counts": [1]}):
        with pytest.raises(UserError, match="no RLE"):
            Mark("a", Position(frame=0), mask=wrong, origin="m").read_mask(WIDTH, HEIGHT)


@pytest.mark.slow
def test_a_recorded_session_through_the_command(cli: Cli, tmp_path: Path) -> None:
    """The first marks of a recorded session and its pass forwards: full size, so each frame takes a second."""
    record = json.loads((DATA / "pointing_forward.json").read_text())
    arrays = np.load(DATA / "pointing_forward.npz")
    torch.save({"model": published_state(record["head_edits"])}, tmp_path / "weights.pth")
    frames, width = tmp_path / "frames", record["width"]
    frames.mkdir()
    for i, frame in enumerate(arrays["frames"]):
        Image.fromarray(frame).save(frames / f"{i:05d}.png")
    given = np.unpackbits(arrays["prompt_masks"], axis=-1)[..., :width].astype(bool)
    _mask(tmp_path / "given.png", given[0])
    marks = [
        {"object": "one", "frame": 6, "points": [[*record["steps"][0]["points"][0], 1]]},
        {"object": "two", "frame": 6, "mask": "given.png"},
    ]
    (tmp_path / "marks.json").write_text(json.dumps({"marks": marks}))
    done = cli("segment", frames, "--marks", tmp_path / "marks.json", "--weights", tmp_path / "weights.pth",
               "--precision", "fp32", "--object-png", "--no-overlay")  # fmt: skip
    assert done.code == 0, done.err
    masks = np.unpackbits(arrays["masks"], axis=-1)[..., :width].astype(bool)
    states = lines(Path("runs/frames"))
    checked = 0
    for i, row in enumerate(record["rows"]):
        if row["step"] == "forward" and row["object"] in (1, 2) and i < 3 + 18 * 3:
            name = f"{row['frame']:05d}.png"
            written = np.asarray(Image.open(Path("runs/frames/objects") / f"{row['object']:03d}" / name)) > 0
            assert (written != masks[i]).sum() <= 2, row
            state = states[row["frame"]]["objects"][row["object"] - 1]
            assert abs(state["object_score"] - row["object_score"]) < 5e-4
            checked += 1
    assert checked == 36


def test_masks_of_paint_programs(tmp_path: Path) -> None:
    """Black and one colour, in any form that a program saves; what is transparent is outside."""
    inside = np.zeros((6, 8), bool)
    inside[2:4, 3:6] = True
    white = np.where(inside[..., None], 255, 0).astype(np.uint8).repeat(3, axis=-1)
    red = white * np.array([1, 0, 0], np.uint8)
    alpha = np.where(inside, 255, 0).astype(np.uint8)
    pictures = {
        "grey": Image.fromarray(white[..., 0]),
        "one": Image.fromarray(inside.astype(np.uint8)),
        "bits": Image.fromarray(white[..., 0]).convert("1"),
        "rgb": Image.fromarray(white),
        "red": Image.fromarray(red),
        "rgba": Image.fromarray(white).convert("RGBA"),
        "seen": Image.fromarray(np.dstack((np.full_like(white, 200), alpha))),
        "la": Image.fromarray(white[..., 0]).convert("LA"),
        "palette": Image.fromarray(red).quantize(2),
        "deep": Image.fromarray(white[..., 0].astype(np.uint16) * 257),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
        mark = parse_mark(f"a@5 mask {tmp_path / name}.png")
        assert (mark.read_mask(8, 6) == inside).all(), name
    several = white.copy()
    several[0, 0] = (0, 0, 90)
    soft = white[..., 0].copy()
    soft[1, 3:6] = 100
    labels = soft.astype(np.int32)
    refused = {
        "several.png": Image.fromarray(several),
        "soft.png": Image.fromarray(soft),
        "ids.png": Image.fromarray(np.where(soft == 100, 2, inside).astype(np.uint8)),
        "ringing.jpg": Image.fromarray(white[..., 0]),
        "deep.png": Image.fromarray(labels.astype(np.uint16)),
        "whole.tif": Image.fromarray(labels),
        "floating.tif": Image.fromarray(labels.astype(np.float32)),
    }
    assert {x.mode for x in refused.values()} == {"RGB", "L", "I;16", "I", "F"}
    for name, picture in refused.items():
        picture.save(tmp_path / name)
        with pytest.raises(UserError, match="several colours") as error:
            parse_mark(f"a@5 mask {tmp_path / name}").read_mask(8, 6)
        assert "without smooth edges" in error.value.hint


def test_the_last_word_of_a_record_counts(cli: Cli, video: Path, small_weights: Path, tmp_path: Path) -> None:
    """A corrected run's marks.json has what was taken back later; in a file of a person's, that is a contradiction."""
    marks = [
        {"object": "a", "frame": 5, "points": [[40, 30, 1]]},
        {"object": "a", "frame": 5, "absent": True},
        {"object": "a", "frame": 8, "absent": True},
        {"object": "a", "frame": 8, "points": [[40, 30, 1]]},
    ]
    path, command = tmp_path / "marks.json", ("segment", video, "--weights", small_weights, "--end", 12, "--no-overlay")
    path.write_text(json.dumps({"marks": marks}))
    assert "is absent in this frame" in cli(*command, "--marks", path).err
    path.write_text(json.dumps({"marks": [{**x, "when": f"2026-01-01T00:00:0{i}"} for i, x in enumerate(marks)]}))
    done = cli(*command, "--marks", path)
    assert done.code == 0, done.err
    states = [x["objects"][0] for x in lines(Path("runs/v"))]
    assert (states[5]["stage"], states[8]["stage"]) == ("absent", "point")


@pytest.mark.parametrize(
    ("part", "frame", "said"),
    [
        ((), 999, "the last one is 59"),
        (("--end", 20), 30, "beyond --end 20"),
        (("--end", 20), 999, "beyond --end 20"),
        ((), "9s", "the last one is 59"),
        ((), "2.5s", "the last one is shown at 2.360s"),
        (("--end", 100), "2.5s", "the last one is shown at 2.360s"),
        (("--end", 24), "7.96s", "no frame 7.96s (it lies beyond --end 24)"),
        (("--end", 24), "2s", "no frame 2s (it lies beyond --end 24)"),
        (("--end", 24), "1s", "no frame 1s (it lies beyond --end 24)"),
        (("--end", "0.96s"), "1s", "no frame 1s (it lies beyond --end 0.96s)"),
        (("--end", "0.96s"), "7.96s", "no frame 7.96s (it lies beyond --end 0.96s)"),
    ],
)
def test_a_mark_beyond_the_end(cli: Cli, video: Path, part: tuple[Any, ...], frame: int | str, said: str) -> None:
    done = cli("segment", video, "--mark", f"a@{frame} +1,1", *part)
    assert done.code == 3
    assert said in done.err
    assert "in the part asked for" not in done.err
    assert "--start" not in done.err
