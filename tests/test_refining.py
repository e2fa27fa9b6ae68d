"""Corrections of finished runs: what they change, what they leave, and that every version can be had again."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from clips import ffmpeg
from conftest import Cli
from finished_runs import finished_run
from killing import contents, every_kill
from PIL import Image
from pycocotools import mask as coco_mask

from model.session import Session
from model.states import ObjectState
from resurgsam2_cli.errors import InputError, OutputError, UserError
from resurgsam2_cli.files.filling import Busy, naming, settle
from resurgsam2_cli.outputs import ObjectResult
from resurgsam2_cli.prompts.marks import Mark, Point, parse_mark
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.refining import tracking
from resurgsam2_cli.refining.clicking import clicked
from resurgsam2_cli.refining.correction import Correction
from resurgsam2_cli.refining.kept import Kept
from resurgsam2_cli.refining.labels import is_drawn_over, redrawn
from resurgsam2_cli.refining.points import deepest, disc, distance, extent, missed_clicks, obeyed
from resurgsam2_cli.refining.refine import Given, refine
from resurgsam2_cli.refining.sense import Sense, follows, growth, sense_of
from resurgsam2_cli.refining.tracking import Follower, Reach, _Pass, _Trust, agreement, counts_more
from resurgsam2_cli.refining.versions import NextVersion, undo, versions_of
from resurgsam2_cli.runs.folder import RUN
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.runs.reading import read_frames
from resurgsam2_cli.runs.record import is_run, read_run
from resurgsam2_cli.runs.sums import corrections
from resurgsam2_cli.segmenting.engine import Engine, build_engine
from resurgsam2_cli.segmenting.placing import Placed
from resurgsam2_cli.video.positions import Part, Position

WIDTH, HEIGHT, FRAMES = 96, 80, 30


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("refining") / "v.mp4"
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=size={WIDTH}x{HEIGHT}:rate=25", "-frames:v", str(FRAMES), path)
    return path


@pytest.fixture(scope="module")
def whole(video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all outputs; copy it before you change it."""
    return finished_run(tmp_path_factory.mktemp("whole") / "v", video, object_png=True).folder


@pytest.fixture(scope="module")
def engine(small_weights: Path) -> Engine:
    return build_engine(str(small_weights))


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "v")
    return tmp_path / "v"


def correct(run: Path, engine: Engine, *marks: str, reach: Reach | None = None) -> int:
    return refine(run, Given([parse_mark(x) for x in marks], reach=reach or Reach()), lambda words: engine).frames


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in (run / "frames.jsonl").read_text().splitlines()]


def masks(run: Path) -> dict[tuple[int, int], dict[str, Any]]:
    """The annotations by frame and object."""
    found = json.loads((run / "annotations.json").read_text())
    numbers = {x["id"]: x["frame_index"] for x in found["images"]}
    return {(numbers[x["image_id"]], x["track_id"]): x for x in found["annotations"]}


def labels(run: Path, frame: int) -> np.ndarray:
    return np.asarray(Image.open(run / "masks" / f"{frame:05d}.png"))


def drawn(tmp_path: Path, left: int = 10) -> Path:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[20:50, left : left + 30] = 255
    mask[30:35, left + 10 : left + 15] = 0  # a hole
    Image.fromarray(mask).save(tmp_path / "drawn.png")
    return tmp_path / "drawn.png"


def test_new_objects_join_a_finished_run(run: Path, whole: Path, engine: Engine, tmp_path: Path) -> None:
    before = contents(run)
    added = [Prompt("needle", "needle", words=False), Prompt("left clip", "clip")]
    mark = parse_mark(f"needle@12 mask {drawn(tmp_path)}")
    done = refine(run, Given([mark], added=added), lambda words: engine)
    assert (done.version, done.frames) == (1, FRAMES)
    for old, new in zip((whole / "frames.jsonl").open(), (run / "frames.jsonl").open(), strict=True):
        assert new.startswith(old[: -len("]}\n")])  # what was there stays to the byte
    assert all(len(x["objects"]) == 5 for x in lines(run))
    was, now = masks(whole), masks(run)
    assert {key: x for key, x in now.items() if key[1] <= 3} == was
    needle = [x["objects"][3] for x in lines(run)]
    assert needle[12]["stage"] == "drawn"
    assert {x["direction"] for x in needle[:12]} == {-1}
    assert {x["conditioning_frames"][0] for x in needle} == {12}
    clip = [x["objects"][4] for x in lines(run)]
    assert {x["stage"] for x in clip} <= {"detect", "track"}
    assert any(x["pass"] == 1 and x["object_score"] > -1000 for x in clip)
    found = json.loads((run / "annotations.json").read_text())
    assert [x["name"] for x in found["categories"]][-2:] == ["needle", "clip"]
    assert {x["category_id"] for x in found["annotations"] if x["track_id"] == 4} == {4}
    expected = np.asarray(Image.open(drawn(tmp_path))) > 0
    assert ((np.asarray(Image.open(run / "objects" / "004" / "00012.png")) > 0) == expected).all()
    assert len(list((run / "objects" / "005").iterdir())) == FRAMES
    record = json.loads((run / "run.json").read_text())
    assert [x["label"] for x in record["objects"]][3:] == ["needle", "clip"]
    assert [x["words"] for x in record["objects"]][3:] == [False, True]
    assert corrections(run) == ["marks.json"]
    assert [x.number for x in read_frames(read_run(run))] == list(range(FRAMES))
    correct(run, engine, "needle@20 absent", reach=Reach(frames=2))  # an object as any other
    assert undo(run) == 1
    assert undo(run) == 0
    assert contents(run) == before


def test_new_objects_need_a_name_of_their_own(run: Path, engine: Engine) -> None:
    before = contents(run)
    with pytest.raises(UserError, match="has an object 'kidney' already"):
        refine(run, Given([], added=[Prompt("kidney", "kidney", words=False)]), lambda words: engine)
    with pytest.raises(UserError, match="no object 'kidny'"):
        correct(run, engine, "kidny@3 absent")
    assert contents(run) == before
    assert refine(run, Given([], added=[Prompt("needle", "needle", words=False)]), lambda words: engine).version == 1
    assert all(not x["objects"][3]["present"] for x in lines(run))


def test_a_correction_changes_its_object_and_nothing_else(
    run: Path, whole: Path, engine: Engine, tmp_path: Path
) -> None:
    changed = correct(run, engine, f"kidney@12 mask {drawn(tmp_path)}", reach=Reach(frames=4))
    old, new = lines(whole), lines(run)
    assert [x["frame"] for x, y in zip(old, new, strict=True) if x != y] == list(range(8, 17))
    assert changed == 9
    for before, after in zip(old, new, strict=True):
        assert {k: v for k, v in before.items() if k != "objects"} == {k: v for k, v in after.items() if k != "objects"}
        assert before["objects"][0::2] == after["objects"][0::2]
    was, now = masks(whole), masks(run)
    assert all(was.get(key) == now.get(key) for key in was.keys() | now.keys() if key[1] != 2 or not 8 <= key[0] <= 16)
    given = new[12]["objects"][1]
    assert (given["stage"], given["pass"], given["present"], given["predicted_iou"]) == ("drawn", 1, True, 1.0)
    expected = np.asarray(Image.open(drawn(tmp_path))) > 0
    assert (coco_mask.decode(now[12, 2]["segmentation"]) > 0).tolist() == expected.tolist()
    assert (labels(run, 12) == 2).tolist() == expected.tolist()  # what was drawn lies on top
    assert ((np.asarray(Image.open(run / "objects" / "002" / "00012.png")) > 0) == expected).all()
    tracked = {x["frame"]: x["objects"][1] for x in new if x["frame"] in (8, 11, 13, 16)}
    assert {t: (x["stage"], x["direction"], x["pass"]) for t, x in tracked.items()} == {
        8: ("track", -1, 1),
        11: ("track", -1, 1),
        13: ("track", 1, 1),
        16: ("track", 1, 1),
    }
    assert all(x["conditioning_frames"] == [12] for x in tracked.values())
    # Everything that reads runs takes it as it is.
    assert corrections(run) == ["marks.json"]
    assert len(list(read_frames(read_run(run)))) == FRAMES
    for t in (9, 12, 15):
        own = {x.object_id: coco_mask.decode(x.rle) > 0 for x in list(read_frames(read_run(run)))[t].masks}
        assert not is_drawn_over(labels(run, t), own)
    marks = json.loads((run / "marks.json").read_text())["marks"]
    assert [(x["object"], x["frame"]) for x in marks] == [("kidney", 12)]
    record = json.loads((run / "run.json").read_text())
    assert record["objects"][1]["frames_present"] == sum(x["objects"][1]["present"] for x in new)
    assert record["objects"][0] | {"marks": 0} == json.loads((whole / "run.json").read_text())["objects"][0]


def test_ids_of_annotations_stay(run: Path, whole: Path, engine: Engine, tmp_path: Path) -> None:
    """Somebody may refer to them; new masks get new ones."""
    correct(run, engine, f"kidney@1 mask {drawn(tmp_path)}", "Greifer für Gewebe@20 absent", reach=Reach(frames=0))
    was, now = masks(whole), masks(run)
    assert {key for key in was if key not in now} == {(20, 1)}
    assert {key: x["id"] for key, x in now.items() if key in was} == {key: was[key]["id"] for key in now if key in was}
    assert {key for key in now if key not in was} == {(1, 2)}
    assert now[1, 2]["id"] == max(x["id"] for x in was.values()) + 1
    order = [x["image_id"] for x in json.loads((run / "annotations.json").read_text())["annotations"]]
    assert order == sorted(order)


def test_a_frame_without_any_mask(run: Path, engine: Engine, tmp_path: Path) -> None:
    for ident in (1, 2, 3):
        correct(run, engine, f"{ident}@7 absent", reach=Reach(frames=0))
    assert not [key for key in masks(run) if key[0] == 7]
    assert not labels(run, 7).any()
    with pytest.raises(UserError, match=r"object 3 \(.+\) in frame 7, at 40,30: the network finds nothing there"):
        correct(run, engine, "3@7 +40,30", reach=Reach(frames=1))
    correct(run, engine, f"3@7 mask {drawn(tmp_path)}", reach=Reach(frames=1))
    assert lines(run)[7]["objects"][2]["stage"] == "drawn"
    correct(run, engine, "1@7 -40,30", reach=Reach(frames=1))  # nothing is beside it: so it stays
    assert not lines(run)[7]["objects"][0]["present"]


def test_undo_gives_back_the_very_bytes(run: Path, engine: Engine, tmp_path: Path) -> None:
    stages = [contents(run)]
    for marks in (
        [f"kidney@12 mask {drawn(tmp_path)}"],
        ["3@4 +40,30", "kidney@25 absent"],
        ["kidney@11-13 confirmed"],
    ):
        correct(run, engine, *marks, reach=Reach(frames=3))
        stages.append(contents(run))
    assert [x.number for x in versions_of(run)] == [0, 1, 2, 3]
    assert [x.marks for x in versions_of(run)] == [0, 1, 2, 1]
    for number in (2, 1, 0):
        assert undo(run) == number
        assert contents(run) == stages[number]
    with pytest.raises(UserError, match="nothing to undo"):
        undo(run)
    assert contents(run) == stages[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("frames.jsonl.delta", "frames.jsonl.delta: is missing"),
        ("annotations.json.delta", "annotations.json.delta: is missing"),
        ("overlay.mp4.delta", "overlay.mp4.delta: is missing"),
        ("run.json", "run.json: is missing"),
        ("marks.json", "marks.json: is missing"),
        ("masks/00012.png", "masks: does not have"),
        ("masks", "masks: does not have"),
        ("objects/002/00012.png", "objects: does not have"),
        ("", "is missing"),
    ],
)
def test_undo_needs_all_of_the_history(run: Path, engine: Engine, tmp_path: Path, name: str, said: str) -> None:
    correct(run, engine, "kidney@25 absent", reach=Reach(frames=0))
    refine(run, Given(added=[Prompt("needle", "needle", words=False)]), lambda words: engine)
    correct(run, engine, f"kidney@12 mask {drawn(tmp_path)}", reach=Reach(frames=1))
    path, kept = run / "history" / "0003" / name, tmp_path / "kept"
    shutil.move(path, kept)
    before = contents(run)
    with pytest.raises(InputError, match=rf"history/0003/.*{said}") as error:
        undo(run)
    assert "copy of the run" in error.value.hint
    assert contents(run) == before
    shutil.move(kept, path)
    assert [undo(run) for _ in range(3)] == [2, 1, 0]


def test_undo_of_a_version_needs_its_own_history(run: Path, engine: Engine, tmp_path: Path) -> None:
    """What is there but belongs to another version does not do."""
    correct(run, engine, f"kidney@12 mask {drawn(tmp_path)}", reach=Reach(frames=1))
    correct(run, engine, f"kidney@12 mask {drawn(tmp_path, 40)}", reach=Reach(frames=1))
    one, two = (run / "history" / x for x in ("0001", "0002"))
    for name in ("run.json", "masks/00012.png", "objects/002/00012.png"):
        own = (two / name).read_bytes()
        (two / name).unlink()
        shutil.copy(one / name, two / name)
        before = contents(run)
        with pytest.raises(InputError, match=r"history/0002/.*: does not have what it takes"):
            undo(run)
        assert contents(run) == before
        (two / name).write_bytes(own)
    assert undo(run) == 1


def test_undo_of_images_edited_in_place_needs_them(run: Path, engine: Engine) -> None:
    """A version that took edited images knows what these were; one of an older program does not, and can be undone."""
    edited = labels(run, 12).copy()
    edited[5:15, 60:75] = 2
    paint(run / "masks" / "00012.png", edited)
    start = contents(run)
    refine(run, Given([], edited=run, reach=Reach(frames=2)), lambda words: engine)
    path = run / "history" / "0001" / "masks" / "00011.png"
    own = path.read_bytes()
    path.unlink()
    with pytest.raises(InputError, match="masks: does not have what it takes"):
        undo(run)
    path.write_bytes(own)
    record = json.loads((run / "run.json").read_text())
    del record["versions"][0]["edited"]
    (run / "run.json").write_text(json.dumps(record))
    undo(run)
    assert contents(run) == start


def test_what_was_given_is_kept(run: Path, engine: Engine, tmp_path: Path) -> None:
    """Drawn, confirmed and absent frames stay as they are, to the byte, whatever is corrected beside them."""
    correct(run, engine, f"kidney@12 mask {drawn(tmp_path)}", "kidney@5-6 absent", "kidney@20-22 confirmed")
    kept = (5, 6, 12, 20, 21, 22)
    before = ({t: lines(run)[t]["objects"][1] for t in kept}, {t: masks(run).get((t, 2)) for t in kept})
    images = {t: (run / "objects" / "002" / f"{t:05d}.png").read_bytes() for t in kept}
    correct(run, engine, "kidney@9 +40,30", "kidney@16 +20,40 -60,60", reach=Reach(agreed=0))
    correct(run, engine, f"kidney@26 mask {drawn(tmp_path, 40)}", reach=Reach(agreed=0))
    after = lines(run)
    assert ({t: after[t]["objects"][1] for t in kept}, {t: masks(run).get((t, 2)) for t in kept}) == before
    assert {t: (run / "objects" / "002" / f"{t:05d}.png").read_bytes() for t in kept} == images
    made_by = {x["frame"]: x["objects"][1]["pass"] for x in after}
    assert made_by[26] == 3
    assert {made_by[t] for t in range(27, FRAMES)} == {3}
    assert made_by[9] == 2
    assert {made_by[t] for t in range(5)} == {0}  # a kept frame stops what comes from the other side


def test_it_stops_where_it_agrees(run: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten frames in a row, as many as it takes; the frames that agreed are taken, too."""
    ious = iter([0.5] * 3 + [0.99] * 2 + [0.5] + [0.99] * 40)
    monkeypatch.setattr(tracking, "iou", lambda a, b: 1.0 if a is b else next(ious, 1.0))
    correct(run, engine, f"kidney@2 mask {drawn(tmp_path)}", reach=Reach(agreed=4))
    made_by = [x["objects"][1]["pass"] for x in lines(run)]
    # One comparison is that of the corrected frame itself.
    assert [t for t, x in enumerate(made_by) if x] == list(range(12))


def test_agreeing_takes_both_numbers(run: Path, engine: Engine, tmp_path: Path) -> None:
    correct(run, engine, f"kidney@15 mask {drawn(tmp_path)}", reach=Reach(alike=0.5, agreed=1))
    short = sum(x["objects"][1]["pass"] for x in lines(run))
    undo(run)
    correct(run, engine, f"kidney@15 mask {drawn(tmp_path)}", reach=Reach(agreed=0))
    assert short <= sum(x["objects"][1]["pass"] for x in lines(run)) == FRAMES


@pytest.mark.parametrize(
    ("nearer", "new", "old", "expected"),
    [(True, 0.9, 0.9, True), (True, 0.81, 0.9, True), (True, 0.79, 0.9, False), (False, 0.9, 0.9, False),
     (False, 0.99, 0.9, False), (False, 1.0, 0.89, True)],
)  # fmt: skip
def test_between_two_kept_frames(nearer: bool, new: float, old: float, expected: bool) -> None:
    assert counts_more(nearer, new, old) is expected


def test_confirmed_frames_need_no_change(run: Path, whole: Path, engine: Engine) -> None:
    correct(run, engine, "kidney@10-20 confirmed", "3@7 confirmed")
    assert masks(run) == masks(whole)
    for old, new in zip(lines(whole), lines(run), strict=True):
        for k, (x, y) in enumerate(zip(old["objects"], new["objects"], strict=True)):
            is_kept = (k == 1 and 10 <= old["frame"] <= 20) or (k == 2 and old["frame"] == 7)
            assert y == (x | {"stage": "confirmed", "pass": 1} if is_kept else x)
    same = {x.name: x.read_bytes() for x in (whole / "masks").iterdir()}
    assert {x.name: x.read_bytes() for x in (run / "masks").iterdir()} == same


def test_the_overlay_is_that_of_a_whole_run(run: Path, engine: Engine, tmp_path: Path) -> None:
    """As if all of it were drawn anew; its sound and times are tested where it is spliced."""
    correct(run, engine, f"kidney@12 mask {drawn(tmp_path)}", reach=Reach(frames=2))
    spliced = tmp_path / "spliced.rgb"
    ffmpeg("-i", run / "overlay.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", spliced)
    from resurgsam2_cli.refining.overlay import OverlayOf
    from resurgsam2_cli.runs.source import opened_source

    found = read_run(run)
    with RunIndex(found) as index, opened_source(found) as source:
        OverlayOf(source)._whole(index, tmp_path / "whole.mp4")
    ffmpeg("-i", tmp_path / "whole.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", tmp_path / "whole.rgb")
    a, b = (np.fromfile(x, np.uint8).reshape(FRAMES, -1).astype(int) for x in (spliced, tmp_path / "whole.rgb"))
    assert abs(a - b).mean() < 1


def test_edited_files_are_not_lost(run: Path, engine: Engine, tmp_path: Path) -> None:
    path = run / "masks" / "00013.png"
    edited = labels(run, 13).copy()
    edited[:5, :5] = 3
    image = Image.fromarray(edited)
    image.putpalette(Image.open(path).getpalette() or [])
    image.save(path)
    before = start = contents(run)
    with pytest.raises(InputError, match=r"00013\.png: was edited"):
        correct(run, engine, f"kidney@12 mask {drawn(tmp_path)}", reach=Reach(frames=4))
    assert contents(run) == before
    # It is not in the way of what is far from it, and is still known as edited afterwards.
    correct(run, engine, f"kidney@25 mask {drawn(tmp_path)}", reach=Reach(frames=2))
    assert labels(run, 13).tolist() == edited.tolist()
    assert corrections(run) == ["marks.json", "masks"]
    undo(run)
    assert contents(run) == start
    for name in ("annotations.json", "frames.jsonl"):
        with (run / name).open("a") as file:
            file.write(" ")
        before = contents(run)
        with pytest.raises(InputError, match=rf"{name}: was edited|{name}: is not as"):
            correct(run, engine, "kidney@2 absent", reach=Reach(frames=0))
        assert contents(run) == before
        (run / name).write_bytes(before[name][:-1])  # type: ignore[index]


def test_undo_beside_edited_images(run: Path, engine: Engine, tmp_path: Path) -> None:
    """Edits that were taken, and taken back, are not in the way of undo, but for those that it would write over."""
    first = contents(run)
    correct(run, engine, f"kidney@12 mask {drawn(tmp_path)}", reach=Reach(frames=2))
    edited = labels(run, 25).copy()
    edited[5:15, 60:75] = 2
    paint(run / "masks" / "00025.png", edited)
    start = contents(run)
    refine(run, Given([], edited=run, reach=Reach(frames=1)), lambda words: engine)
    assert undo(run) == 1
    assert contents(run) == start
    tree = tmp_path / "elsewhere" / "v"  # what came from elsewhere is taken back in the same way
    tree.mkdir(parents=True)
    shutil.copy(run / "masks" / "00012.png", tree / "00003.png")
    refine(run, Given([], edited=tree, reach=Reach(frames=1)), lambda words: engine)
    assert undo(run) == 1
    assert contents(run) == start
    own = (run / "masks" / "00012.png").read_bytes()
    paint(run / "masks" / "00012.png", edited)
    with pytest.raises(InputError, match="masks: was edited") as refused:
        undo(run)
    assert "to drop them, delete the edited images" in refused.value.hint
    (run / "masks" / "00012.png").write_bytes(own)
    assert undo(run) == 0
    assert contents(run) == first | {"masks/00025.png": start["masks/00025.png"]}
    assert corrections(run) == ["masks"]


def test_undo_after_edited_images_were_deleted(run: Path, engine: Engine, tmp_path: Path) -> None:
    first = contents(run)
    correct(run, engine, f"kidney@12 mask {drawn(tmp_path)}", reach=Reach(frames=2))
    path = run / "masks" / "00012.png"
    paint(path, np.zeros((HEIGHT, WIDTH), np.uint8))
    refine(run, Given([], edited=run, reach=Reach(frames=1)), lambda words: engine)
    undo(run)
    with pytest.raises(InputError, match="masks: was edited"):
        undo(run)
    path.unlink()
    undo(run)
    assert contents(run) == first


def test_a_link_to_a_run(cli: Cli, run: Path, small_weights: Path, tmp_path: Path) -> None:
    """A link leads to the run that is corrected, and is not replaced by the next version."""
    link, first = tmp_path / "link", contents(run)
    link.symlink_to(run)
    done = cli("refine", link, "--mark", "kidney@12 absent", "--reach", 0, "--weights", small_weights)
    assert done.code == 0, done.err
    assert link.is_symlink()
    assert masks(run).keys() == masks(link).keys()
    assert lines(run)[12]["objects"][1]["stage"] == "absent"
    assert cli("refine", link, "--undo").code == 0
    assert link.is_symlink()
    assert contents(run) == first


def test_linked_folders_stay_whole(run: Path, engine: Engine, tmp_path: Path) -> None:
    """Images that were moved to another disk, and linked, are all in the next version."""
    first = contents(run)
    for name in ("masks", "objects"):
        (run / name).rename(tmp_path / name)
        (run / name).symlink_to(tmp_path / name)
    correct(run, engine, "kidney@12 absent", reach=Reach(frames=0))
    assert contents(run).keys() >= first.keys()
    undo(run)
    assert contents(run) == first


def test_a_run_that_cannot_be_written(run: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What else can be done is something that refine can do: it has no -o."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(run))

    with monkeypatch.context() as patch:
        patch.setattr("resurgsam2_cli.files.locks.os.open", refuse)
        with pytest.raises(OutputError, match="cannot be written") as refused:
            correct(run, engine, "kidney@12 absent")
    assert refused.value.hint == "correct a copy of the run, or get the right to write there"
    monkeypatch.chdir(run)
    with pytest.raises(OutputError, match="is the present folder") as refused:
        correct(run, engine, "kidney@12 absent")
    assert refused.value.hint == "leave it first, or correct a copy of the run"


@pytest.mark.parametrize("name", ["annotations.json", "frames.jsonl"])
def test_files_that_are_gone_are_named(cli: Cli, run: Path, small_weights: Path, name: str) -> None:
    (run / name).unlink()
    before = contents(run)
    for option in (["--mark", "kidney@2 absent"], ["--from", run]):
        done = cli("refine", run, *option, "--weights", small_weights)
        assert (done.code, len(done.err.splitlines())) == (3, 2), done.err
        assert f"{name}: is missing" in done.err
        assert "put it back" in done.err
    assert contents(run) == before


def test_what_others_put_into_a_run_goes_along(run: Path, engine: Engine) -> None:
    (run / "notes.txt").write_text("mine")
    (run / "masks" / "notes.txt").write_text("mine, too")
    correct(run, engine, "kidney@2 absent", reach=Reach(frames=0))
    assert (run / "notes.txt").read_text() == "mine"
    assert (run / "masks" / "notes.txt").read_text() == "mine, too"
    undo(run)
    assert (run / "notes.txt").read_text() == "mine"


def test_unchanged_files_are_shared(run: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    same, other = run / "masks" / "00029.png", run / "masks" / "00002.png"
    inodes = same.stat().st_ino, other.stat().st_ino
    correct(run, engine, "3@2 absent", reach=Reach(frames=0))
    assert same.stat().st_ino == inodes[0]
    assert other.stat().st_ino != inodes[1]

    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(1, "no links here")

    before = contents(run)
    monkeypatch.setattr(os, "link", refuse)
    correct(run, engine, "3@3 absent", reach=Reach(frames=0))
    undo(run)
    assert contents(run) == before


def test_part_of_a_video(cli: Cli, video: Path, engine: Engine, tmp_path: Path) -> None:
    """Frames keep their numbers in the source, and only those that were processed can be corrected."""
    part = Part(Position(frame=3), Position(frame=28), 4)
    run = finished_run(tmp_path / "part", video, part).folder
    before = contents(run)
    assert correct(run, engine, f"kidney@11 mask {drawn(tmp_path)}", reach=Reach(frames=1)) == 3
    now = lines(run)
    assert [x["frame"] for x in now if x["objects"][1]["pass"]] == [7, 11, 15]
    assert now[2]["objects"][1]["conditioning_frames"] == [11]
    with pytest.raises(UserError, match="frame 12 is not segmented"):
        correct(run, engine, "kidney@12 +40,30")
    (run / "overlay.mp4").unlink()
    correct(run, engine, "kidney@19 absent", reach=Reach(frames=0))
    assert undo(run) == 1
    assert undo(run) == 0
    assert contents(run) == {x: y for x, y in before.items() if x != "overlay.mp4"}


@pytest.mark.parametrize(
    ("frames", "said", "hint"),
    [
        ("12-19", "frame 12 is not segmented: the run has the frames from 3 to 27, one in 4", "mark frame 11, say"),
        ("11-18", "frame 18 is not segmented: the run has the frames from 3 to 27, one in 4", "mark frame 15, say"),
        ("2", "frame 2 is not segmented: the run has the frames from 3 to 27, one in 4", "mark frame 3, say"),
        ("28", "there is no frame 28 (the last one is 27)", "change the mark"),
        ("99", "there is no frame 99 (the last one is 27)", "change the mark"),
    ],
)
def test_frames_that_a_run_does_not_have(
    video: Path, engine: Engine, tmp_path: Path, frames: str, said: str, hint: str
) -> None:
    """The error says which frames there are; options that ``refine`` does not have are no remedy."""
    run = finished_run(tmp_path / "part", video, Part(Position(frame=3), Position(frame=28), 4)).folder
    with pytest.raises(UserError) as error:
        correct(run, engine, f"kidney@{frames} absent")
    assert error.value.message.endswith(said)
    assert error.value.hint == hint


def test_an_image_that_is_gone_is_to_be_put_back(run: Path, engine: Engine) -> None:
    (run / "masks" / "00012.png").unlink()
    with pytest.raises(InputError, match=r"00012\.png: cannot be read") as error:
        correct(run, engine, "kidney@12 absent", reach=Reach(frames=0))
    assert error.value.hint == "put the original back, or segment the video again"


def test_clicks_come_after_earlier_ones(run: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the same frame, since a mask was given there; a box makes a new start."""
    seen: list[list[tuple[float, float, bool]]] = []

    def spy(known: Any, x: Any) -> Any:
        seen.append([point for y in x.clicks for point in y.mark.points])
        return clicked(known, x)

    monkeypatch.setattr(tracking, "clicked", spy)
    nearby = Reach(frames=0)
    for mark in (
        "kidney@9 +40,30",
        "kidney@9 -5,6",
        "kidney@8 +1,2",
        "kidney@9 box 10,10,30,30 +20,20",
        "kidney@9 +21,21",
    ):
        correct(run, engine, mark, reach=nearby)
    correct(run, engine, "kidney@9 confirmed", reach=nearby)
    correct(run, engine, "kidney@9 -50,60", reach=nearby)
    assert seen == [
        [(40, 30, True)],
        [(40, 30, True), (5, 6, False)],
        [(1, 2, True)],
        [(20, 20, True)],
        [(20, 20, True), (21, 21, True)],
        [(50, 60, False)],
    ]


def test_one_at_a_time(run: Path, engine: Engine) -> None:
    with NextVersion(run), pytest.raises(Busy) as error:
        correct(run, engine, "kidney@2 absent")
    assert "-o" not in error.value.hint  # which refine does not have
    correct(run, engine, "kidney@2 absent", reach=Reach(frames=0))


@pytest.mark.slow  # a kill at each of some 200 changes on the disk
def test_a_kill_leaves_a_whole_version(video: Path, engine: Engine, tmp_path: Path) -> None:
    part = Part(end=Position(frame=5))  # what is shared by links takes a step each
    small = finished_run(tmp_path / "v", video, part, object_png=True, overlay=False).folder
    trial = tmp_path / "trial" / "v"
    shutil.copytree(small, trial)
    versions = [_timeless(trial)]
    correct(trial, engine, "3@1 absent", reach=Reach(frames=0))
    versions.append(_timeless(trial))

    def prepare(folder: Path) -> None:
        shutil.copytree(small, folder / "v")

    def work(folder: Path) -> None:
        correct(folder / "v", engine, "3@1 absent", reach=Reach(frames=0))

    kills = 0
    for folder in every_kill(prepare, work, tmp_path / "kills"):
        kills += 1
        run = folder / "v"
        if is_run(run):  # else it is between two names, which the next start finishes
            assert _timeless(run) in versions
        with naming(folder):
            settle(run, RUN)
        assert _timeless(run) in versions
        correct(run, engine, "3@1 absent", reach=Reach(frames=0))
        assert is_run(run)
    assert kills > 30


def _timeless(run: Path) -> dict[str, Any]:
    """What is in a run, without when it was said and what hangs on that."""
    found = {k: v for k, v in contents(run).items() if not k.endswith((".unfinished", ".succeeds", "run.json"))}
    record = json.loads((run / "run.json").read_text())
    for x in record.get("versions", []):
        x.pop("when")
    found["run.json"] = json.dumps(record).encode()
    if "marks.json" in found:
        marks = json.loads((run / "marks.json").read_text())["marks"]
        found["marks.json"] = json.dumps([{**x, "when": ""} for x in marks]).encode()
    return found


@pytest.mark.parametrize("seed", range(4))
def test_any_sequence(run: Path, engine: Engine, tmp_path: Path, seed: int) -> None:
    """Whatever is said in whatever order, kept frames stay, and undo leads back through the very bytes."""
    rng = random.Random(seed)
    stack = [contents(run)]
    kept: list[dict[int, dict[str, Any]]] = [{}]
    for _ in range(8):
        if len(stack) > 1 and rng.random() < 0.3:
            undo(run)
            stack.pop()
            kept.pop()
            assert contents(run) == stack[-1]
            continue
        t = rng.randrange(FRAMES - 3)
        mark, frames = rng.choice(
            [
                (f"kidney@{t} mask {drawn(tmp_path, rng.randrange(50))}", [t]),
                (f"kidney@{t} absent", [t]),
                (f"kidney@{t}-{t + 2} absent", [t, t + 1, t + 2]),
                (f"kidney@{t}-{t + 1} confirmed", [t, t + 1]),
                (f"kidney@{t} +{rng.randrange(WIDTH)},{rng.randrange(HEIGHT)}", [t]),
            ]
        )
        correct(run, engine, mark, reach=Reach(frames=rng.choice([0, 3, None]), agreed=rng.choice([0, 2])))
        now = lines(run)
        for frame, state in kept[-1].items():
            assert frame in frames or now[frame]["objects"][1] == state
        kept.append(kept[-1] | {x: now[x]["objects"][1] for x in frames})
        stack.append(contents(run))
        assert [x["objects"][::2] for x in now] == [x["objects"][::2] for x in lines(run)]
        assert corrections(run) == ["marks.json"]


def paint(path: Path, labels: np.ndarray) -> None:
    """Replace a label image as an editor would: under its name, with its palette."""
    palette = Image.open(path).getpalette() or []
    path.unlink()
    image = Image.fromarray(labels)
    image.putpalette(palette)
    image.save(path)


def test_an_older_file_says_what_it_takes_the_place_of(run: Path, engine: Engine, tmp_path: Path) -> None:
    shutil.copy(run / "annotations.json", tmp_path / "older.json")
    correct(run, engine, f"kidney@12 mask {drawn(tmp_path)}", reach=Reach(frames=2))
    changed = sum(x["objects"][1]["pass"] > 0 for x in lines(run))
    done = refine(run, Given([], edited=tmp_path / "older.json", reach=Reach(frames=0)), lambda words: engine)
    assert done.masks == done.replaced == changed == 5


def test_images_edited_in_place(run: Path, engine: Engine) -> None:
    edited = {}
    for t in (12, 13, 14):
        edited[t] = labels(run, t).copy()
        edited[t][5:15, 60:75] = 2
        paint(run / "masks" / f"{t:05d}.png", edited[t])
    before = lines(run)
    start = contents(run)
    done = refine(run, Given([], edited=run, reach=Reach(frames=2)), lambda words: engine)
    assert (done.version, done.masks, done.frames, done.replaced) == (1, 3, 7, 0)
    now = lines(run)
    assert [x["objects"][1]["stage"] for x in now[12:15]] == ["imported"] * 3
    assert [x["objects"][1]["stage"] for x in now[10:12]] == ["track"] * 2
    assert [x["objects"][::2] for x in now] == [x["objects"][::2] for x in before]
    for t, image in edited.items():
        assert labels(run, t).tolist() == image.tolist()
        own = coco_mask.decode(masks(run)[t, 2]["segmentation"]) > 0
        assert own[5:15, 60:75].all()
    assert corrections(run) == ["marks.json"]
    assert not refine(run, Given([], edited=run), lambda words: engine).frames
    assert [x.number for x in versions_of(run)] == [0, 1]
    undo(run)
    assert contents(run) == start  # with the images as they were edited


def test_images_of_objects_edited_in_place(run: Path, engine: Engine) -> None:
    """They are neither written over, nor still known as edited once they were taken."""
    path = run / "objects" / "002" / "00012.png"
    edited = np.array(Image.open(path))
    edited[5:15, 60:75] = 255
    path.unlink()
    Image.fromarray(edited).save(path)
    before = contents(run)
    with pytest.raises(InputError, match=r"002/00012\.png: was edited"):
        correct(run, engine, "kidney@12 absent", reach=Reach(frames=0))
    assert contents(run) == before
    assert refine(run, Given([], edited=run, reach=Reach(frames=0)), lambda words: engine).masks == 1
    assert (np.array(Image.open(path)) == edited).all()
    assert corrections(run) == ["marks.json"]
    undo(run)
    assert contents(run) == before


def test_edits_beside_marks(run: Path, engine: Engine) -> None:
    edited = labels(run, 12).copy()
    edited[5:15, 60:75] = 2
    paint(run / "masks" / "00012.png", edited)
    with pytest.raises(UserError, match="both say"):
        refine(run, Given([parse_mark("kidney@12 absent")], edited=run), lambda words: engine)
    done = refine(run, Given([parse_mark("3@12 confirmed")], edited=run, reach=Reach(frames=0)), lambda words: engine)
    assert done.masks == 1
    assert {x["stage"] for x in lines(run)[12]["objects"][1:]} == {"imported", "confirmed"}


def test_corrections_from_another_tool(cli: Cli, run: Path, small_weights: Path) -> None:
    assert cli("export", run, "-f", "davis", "-o", "davis").code == 0
    edited = labels(run, 12).copy()
    edited[edited == 2] = 0
    edited[5:15, 60:75] = 2
    paint(Path("davis/v/00012.png"), edited)
    done = cli("refine", run, "--from", "davis", "--reach", "1", "--weights", small_weights)
    assert done.code == 0, done.err
    assert "3 frames changed, with 1 mask taken from davis" in done.err
    assert (labels(run, 12) == edited).all()
    done = cli("refine", run, "--from", "davis", "--weights", small_weights)
    assert done.code == 0
    before = contents(run)
    (Path("davis/v/00012.png")).write_bytes(b"no picture")
    done = cli("refine", run, "--from", "davis", "--weights", small_weights)
    assert done.code == 3
    assert "00012.png" in done.err
    assert contents(run) == before


def test_what_is_worth_a_look_is_printed(cli: Cli, run: Path, small_weights: Path) -> None:
    done = cli("refine", run, "--list", "--json", "--count-places", "3")
    found = json.loads(done.out)
    assert 0 < len(found) <= 3
    assert {"frame", "object_id", "span", "kind", "score", "reason"} <= set(found[0])
    done = cli("refine", run, "--list")
    assert done.out.splitlines()[0].endswith(found[0]["reason"])
    assert f"@{found[0]['frame']} " in done.out.splitlines()[0]
    assert "(reviewed)" not in done.out
    mark = f"{found[0]['object_id']}@{found[0]['frame']} confirmed"
    assert cli("refine", run, "--mark", mark, "--weights", small_weights).code == 0
    done = cli("refine", run, "--list")
    near = json.loads(cli("refine", run, "--list", "--json").out)
    assert [x["reviewed"] for x in near] == [x.endswith("  (reviewed)") for x in done.out.splitlines()]
    assert (near[0]["reviewed"], near[-1]["reviewed"]) == (False, True)


# --- The parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_kept_stretches(seed: int) -> None:
    rng = random.Random(seed)
    kept, literal = Kept(), set[int]()
    for _ in range(rng.randrange(6)):
        first = rng.randrange(40)
        last = first + rng.choice([0, 0, 3, 10])
        kept.add(3, first, last)
        literal |= set(range(first, last + 1))
    for step in range(55):
        assert kept.before(3, step) == max((x for x in literal if x < step), default=-1)
        assert kept.after(3, step, 60) == min((x for x in literal if x > step), default=60)
        near = kept.nearest(3, step, 4)
        assert near == sorted(set(near))
        assert set(near) <= literal - {step}
        assert len(near) <= 4
    assert kept.before(2, 50) == -1


def test_frames_of_a_run_one_by_one(whole: Path, tmp_path: Path) -> None:
    run = read_run(whole)
    with RunIndex(run) as index:
        assert len(index) == FRAMES
        for step, frame in enumerate(read_frames(run)):
            assert index.frame(step) == frame
            assert index.step(frame.number) == step
        assert index.step(FRAMES) is None
        for name, write in (("frames.jsonl", index.write_frames), ("annotations.json", index.write_annotations)):
            with (tmp_path / name).open("wb") as file:
                write(file, [])
            assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
        with (tmp_path / "none").open("wb") as file:
            index.write_annotations(file, [(step, []) for step in range(FRAMES)])
        assert json.loads((tmp_path / "none").read_text())["annotations"] == []
        with (tmp_path / "some").open("wb") as file:
            index.write_annotations(file, [(0, ['{"a": 1}', '{"b": 2}']), (FRAMES - 1, ['{"c": 3}'])])
        found = json.loads((tmp_path / "some").read_text())["annotations"]
        assert (found[:2], found[-1]) == ([{"a": 1}, {"b": 2}], {"c": 3})
        assert len(found) == len(masks(whole)) - sum(key[0] in (0, FRAMES - 1) for key in masks(whole)) + 3


def test_label_images() -> None:
    nothing = np.zeros((4, 6), bool)
    a, b, c = nothing.copy(), nothing.copy(), nothing.copy()
    a[:, :3], b[:, 2:5] = True, True
    seen = np.zeros((4, 6), np.uint8)
    seen[a], seen[b] = 1, 2
    assert not is_drawn_over(seen, {1: a, 2: b})
    assert is_drawn_over(np.where(seen == 2, 0, seen), {1: a, 2: b})
    assert is_drawn_over(np.where(seen == 0, 2, seen), {1: a, 2: b})
    assert is_drawn_over(np.where(seen == 0, 3, seen), {1: a, 2: b})
    # The second goes away: what was under it comes up again.
    assert redrawn(seen, {1: a, 2: b}, {1: a, 2: nothing}, set(), set()).tolist() == a.astype(int).tolist()
    # A new mask goes where nobody is; a drawn one over all.
    c[:, 4:] = True
    tracked = redrawn(seen, {1: a, 2: b, 3: nothing}, {1: a, 2: b, 3: c}, set(), set())
    assert tracked[0].tolist() == [1, 1, 2, 2, 2, 3]
    given = redrawn(seen, {1: a, 2: b, 3: nothing}, {1: a, 2: b, 3: c}, {3}, {3})
    assert given[0].tolist() == [1, 1, 2, 2, 3, 3]


def test_what_clicks_say() -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True

    def agreed(what: str) -> tuple[int, int]:
        return obeyed(mask, [parse_mark(f"a@1 {what}")])

    assert agreed("+25,15 -5,5") == (2, 2)
    assert agreed("+5,5 -25,15") == (0, 2)
    assert agreed("+60,40 -49.9,29.9 +50,30") == (0, 3)  # the far corner belongs to the picture
    assert agreed("box 20,10,30,20 +25,15") == (2, 2)
    assert agreed("box 20,10,60,40") == (0, 1)
    assert agreed("box 0,0,10,5") == (0, 1)
    assert obeyed(np.zeros_like(mask), [parse_mark("a@1 box 0,0,10,5 -3,3")]) == (1, 2)
    x, y = deepest(mask)
    assert 10 + 9 <= y <= 30 - 9
    assert 20 + 9 <= x <= 50 - 9
    alone = np.zeros_like(mask)
    alone[0, 59] = True
    assert deepest(alone) == (59.5, 0.5)


# --- The command ----------------------------------------------------------------------------------------------------


def test_the_command(cli: Cli, video: Path, small_weights: Path) -> None:
    done = cli("segment", video, "-t", "left grasper=grasper", "-t", "kidney", "--weights", small_weights, "-q")
    assert done.code == 0, done.err
    before = contents(Path("runs/v"))
    done = cli("refine", "runs/v", "--mark", "grasper@12 +40,30", "--reach", "3", "--weights", small_weights)
    assert done.code == 0, done.err
    assert "is version 1 now: 7 frames changed" in done.err
    done = cli("refine", "runs/v", "--versions", "--json")
    assert [(x["number"], x["marks"], x["frames"]) for x in json.loads(done.out)] == [(0, 0, 0), (1, 1, 7)]
    done = cli("refine", "runs/v", "--versions")
    assert done.out.splitlines()[1].endswith("1 mark, 7 frames changed")
    done = cli("export", "runs/v", "-f", "davis", "-o", "davis")
    assert done.code == 0, done.err
    assert (Path("davis/v/00012.png")).exists()
    done = cli("segment", video, "-t", "kidney", "--weights", small_weights, "-q")
    assert done.code == 6
    done = cli("refine", "runs/v", "--undo")
    assert "is version 0 again" in done.err
    assert contents(Path("runs/v")) == before


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        (["scissors@2 +1,1"], "has no object 'scissors'"),
        (["9@2 +1,1"], "there is no object 9"),
        (["kidney@99 +1,1"], "there is no frame 99"),
        (["kidney@2 +500,1"], "outside of the picture"),
        (["kidney@2-4 +1,1"], "is about several frames"),
        (["kidney@4-2 absent"], "ends before it begins"),
        (["kidney@2-99 absent"], "there is no frame 99"),
        (["kidney@2 +1,1", "kidney@2 absent"], "another mark"),
        (["kidney@2 confirmed", "kidney@2 +1,1"], "another mark"),
        (["kidney@2 absent confirmed"], "says both absent and confirmed"),
        ([], "nothing says what to do with it"),
    ],
)
def test_bad_marks(cli: Cli, run: Path, small_weights: Path, marks: list[str], said: str) -> None:
    before = contents(run)
    done = cli("refine", run, *(y for x in marks for y in ("--mark", x)), "--weights", small_weights)
    assert done.code in (2, 3)
    assert said in done.err
    assert len(done.err.strip().splitlines()) <= 2
    assert contents(run) == before


def test_weights_of_a_run(cli: Cli, run: Path, small_weights: Path) -> None:
    done = cli("refine", run, "--mark", "kidney@2 +1,1")
    assert done.code == 4
    assert "--weights" in done.err
    record = json.loads((run / "run.json").read_text())
    record["weights"] = {"name": "demo", "sha256": "0" * 64}
    (run / "run.json").write_text(json.dumps(record))
    done = cli("refine", run, "--mark", "kidney@2 +1,1")
    assert done.code == 4
    assert "other weights that were called demo" in done.err


def test_other_weights_are_on_record(cli: Cli, video: Path, small_weights: Path) -> None:
    """Who corrects with another network finds out later which masks it made; the demo network's are marked as such."""
    own = ("--weights", small_weights)
    assert cli("segment", video, "-t", "kidney", *own, "--end", 24, "--no-overlay", "-q").code == 0
    run = Path("runs/v")
    assert cli("refine", run, "--mark", "kidney@20 absent", *own).code == 0
    again = cli("segment", video, "-t", "kidney", *own)
    assert again.code == 6
    assert "corrections and all" in again.err
    assert "weights" not in json.loads((run / "run.json").read_text())["versions"][-1]
    assert not read_run(run).demo_weights
    assert cli("refine", run, "--mark", "kidney@9 box 20,20,60,60", "--weights", "demo").code == 0
    assert json.loads((run / "run.json").read_text())["versions"][-1]["weights"]["name"] == "demo"
    assert read_run(run).demo_weights
    assert [x.endswith(" by demo") for x in cli("refine", run, "--versions").out.splitlines()] == [False, False, True]
    assert cli("refine", run, "--undo").code == 0
    assert not read_run(run).demo_weights


def test_a_run_is_needed(cli: Cli, tmp_path: Path) -> None:
    done = cli("refine", tmp_path, "--undo")
    assert done.code == 3
    assert "is not a finished run" in done.err


def test_marks_for_a_finished_run_are_not_for_a_new_one(cli: Cli, video: Path, small_weights: Path) -> None:
    done = cli("segment", video, "--mark", "a@2-4 absent", "--weights", small_weights)
    assert done.code == 2
    assert "resurgsam2 refine" in done.err


def test_a_correction_fades() -> None:
    """What was changed little must agree closely; what was changed wholly must not; never above what is asked for."""
    assert agreement(0.98, 0.97) == 0.98
    assert agreement(0.98, 0.9) == 0.95
    assert agreement(0.98, 0.0) == 0.9
    assert agreement(0.92, 0.97) == 0.92
    assert agreement(0.5, 0.0) == 0.5


def test_not_this_makes_nothing_appear(run: Path, engine: Engine) -> None:
    """This network shows the object in every frame; where it was absent it stays so, and elsewhere it never grows."""
    old, shown = lines(run), {t: x["area"] for (t, object_id), x in masks(run).items() if object_id == 2}
    away = [x["frame"] for x in old if not x["objects"][1]["present"]]
    assert {0, 1, 2, 6, 7} <= set(away)
    correct(run, engine, "kidney@4 absent", reach=Reach(agreed=0))
    new = lines(run)
    assert all(new[t]["objects"][1] == old[t]["objects"][1] for t in away)
    left = {t: x["area"] for (t, object_id), x in masks(run).items() if object_id == 2}
    assert set(left) <= set(shown) - {4}
    assert all(area <= shown[t] for t, area in left.items())
    same = [t for t in shown if left.get(t) == shown[t]]
    assert all(new[t] == old[t] for t in same)  # a frame whose mask stays is not changed
    correct(run, engine, "kidney@12 +40,30", reach=Reach(agreed=0))  # who shows the object may find it anywhere
    assert lines(run)[7] != old[7]


def box(*corners: int) -> np.ndarray:
    """A mask of a box: left, top, right, bottom."""
    left, top, right, bottom = corners
    mask = np.zeros((50, 90), bool)
    mask[top:bottom, left:right] = True
    return mask


NOTHING = box(0, 0, 0, 0)
WAS = box(10, 10, 40, 40)


@pytest.mark.parametrize(
    ("clicks", "mask", "sense"),
    [
        (((45, 20, True),), box(10, 10, 50, 40), Sense.MORE),
        (((45, 20, True),), box(12, 12, 50, 40), Sense.MORE),  # whatever else the network changed
        (((15, 20, False),), box(20, 10, 40, 40), Sense.LESS),
        (((15, 20, False), (45, 20, True)), box(20, 10, 50, 40), Sense.OTHER),
        (((15, 20, False), (30, 20, True)), box(20, 10, 40, 40), Sense.LESS),  # that it is there was known
        (((15, 20, False),), box(35, 10, 40, 40), Sense.MUCH_LESS),
        (((80, 20, True),), box(70, 10, 90, 40), Sense.OTHER),  # it was something else
        (((15, 20, False),), NOTHING, Sense.LESS),
        ((), box(10, 10, 42, 40), Sense.MORE),  # drawn
        ((), box(12, 10, 40, 40), Sense.LESS),
        ((), box(12, 10, 42, 40), Sense.OTHER),
        ((), NOTHING, Sense.LESS),
        ((), WAS, Sense.SAME),
        (((20, 20, True), (80, 20, False)), WAS, Sense.SAME),  # all of that was known
        (((45, 20, True),), box(10, 10, 90, 40), Sense.MORE),  # half of it was there
    ],
)
def test_what_a_correction_says(clicks: tuple[Point, ...], mask: np.ndarray, sense: Sense) -> None:
    mark = Mark("a", Position(frame=7), points=clicks)
    placed = (Placed(0, 7, mark),) if clicks else ()
    assert sense_of(Correction(0, 7, 7, "point", None, placed), WAS, mask) is sense


def test_what_a_correction_says_of_nothing_and_of_boxes() -> None:
    click = Placed(0, 7, Mark("a", Position(frame=7), points=((20, 20, True),)))
    assert sense_of(Correction(0, 7, 7, "point", None, (click,)), NOTHING, WAS) is Sense.MORE
    boxed = Placed(0, 7, Mark("a", Position(frame=7), box=(10, 10, 50, 30)))
    assert sense_of(Correction(0, 7, 7, "point", None, (boxed,)), WAS, box(10, 10, 60, 40)) is Sense.OTHER


@pytest.mark.parametrize(
    ("sense", "old", "new", "left"),
    [
        (Sense.MORE, WAS, box(15, 10, 50, 40), box(10, 10, 50, 40)),  # nothing is taken away
        (Sense.MORE, WAS, NOTHING, WAS),
        (Sense.MORE, NOTHING, WAS, WAS),
        (Sense.MORE, WAS, box(0, 0, 90, 90), WAS),  # not more of it, but something large
        (Sense.LESS, WAS, box(15, 10, 50, 40), box(15, 10, 40, 40)),  # nothing is added
        (Sense.LESS, WAS, NOTHING, NOTHING),
        (Sense.LESS, NOTHING, WAS, NOTHING),
        (Sense.LESS, WAS, box(38, 10, 80, 40), WAS),  # something else
        (Sense.MUCH_LESS, WAS, box(30, 10, 45, 40), box(30, 10, 40, 40)),
        (Sense.MUCH_LESS, WAS, box(38, 10, 80, 40), WAS),  # something else, of which a sliver lies in it
        (Sense.MUCH_LESS, WAS, box(60, 10, 80, 40), WAS),
        (Sense.OTHER, WAS, box(60, 10, 80, 40), box(60, 10, 80, 40)),
        (Sense.OTHER, WAS, NOTHING, NOTHING),
        (Sense.SAME, WAS, box(12, 10, 80, 40), WAS),
    ],
)
def test_only_what_was_said_follows(sense: Sense, old: np.ndarray, new: np.ndarray, left: np.ndarray) -> None:
    """In a frame in which there is a mask already, without another kept frame beyond."""
    assert np.array_equal(follows(sense, old, new), left)
    took(sense, old, new, left, 0.9)
    if (
        sense is not Sense.OTHER and old.any() and new.any()
    ):  # nobody said that what is there is wrong: the better guess stays
        took(sense, old, new, old, 0.5)
        took(sense, old, new, left, 0.5, drawn=True)


def test_how_much_may_follow() -> None:
    """A small part of a thing that is clicked to the whole of it grows in the frames around as well."""
    whole = box(0, 0, 90, 90)
    assert np.array_equal(follows(Sense.MORE, WAS, whole, growth(WAS, whole)), whole)
    assert np.array_equal(follows(Sense.MORE, WAS, whole, growth(NOTHING, whole)), WAS)
    took(Sense.OTHER, WAS, whole, whole, 0.9, largest=5000)
    took(Sense.OTHER, WAS, whole, WAS, 0.9, largest=2000)  # of a small thing that was shown, all became it
    took(Sense.OTHER, box(0, 0, 80, 50), whole, whole, 0.9, largest=2000)


def test_what_was_denied_is_left() -> None:
    """Who says "absent" of a frame says nothing about what the run shows after it jumped elsewhere, or was away."""
    trust = _Trust(True, True, True, 0.0, Sense.LESS, 3.0, drawn=False, denied=WAS)
    for masks_there, left in (
        ([box(12, 10, 42, 40), box(30, 10, 60, 40)], [False, False]),
        ([box(12, 10, 42, 40), box(45, 10, 75, 40), box(45, 10, 75, 40)], [False, True, True]),
        ([WAS, NOTHING, WAS], [False, True, True]),
    ):
        way = _Pass(cast(Session, None), [0], 7, {0: 20}, 1, {0: trust})
        assert [way.has_left(0, x) for x in masks_there] == left
    assert not _Pass(cast(Session, None), [0], 7, {0: 20}, 1).has_left(0, NOTHING)
    took(Sense.LESS, WAS, NOTHING, NOTHING, 0.9, denied=box(12, 10, 42, 40))
    took(Sense.LESS, WAS, NOTHING, WAS, 0.9, denied=box(50, 10, 80, 40))


def took(sense: Sense, old: np.ndarray, new: np.ndarray, left: np.ndarray, certain: float, **trusted: Any) -> None:
    """What a pass takes of a new mask that is so ``certain``, where one of 0.7 is there."""
    state = {"present": bool(old.any()), "object_score": 9.0 if old.any() else -9.0, "predicted_iou": 0.7}
    there = SimpleNamespace(counts=b"", state=state)
    known = SimpleNamespace(
        there=lambda step, row: there,
        decoded=lambda counts: old,
        result=lambda row, state: ObjectResult(
            1, "track", bool(new.any()), 9.0 if new.any() else -9.0, certain, 1.0, (), ()
        ),
    )
    kept = SimpleNamespace(before=lambda row, step: 2, after=lambda row, step, end: end)
    follower: Any = object.__new__(Follower)
    put: list[np.ndarray] = []
    follower._known, follower._kept, follower._index, follower._reach = known, kept, range(20), Reach()
    follower._put = lambda step, row, mask, result: put.append(mask)
    usual: dict[str, Any] = {"beside": True, "run": True, "words": True, "alike": 0.8, "growth": 3.0, "drawn": False}
    trust = _Trust(sense=sense, **(usual | trusted))
    way = _Pass(cast(Session, None), [0], 2, {0: 20}, 1, {0: trust})
    follower._take(way, 7, 0, new, cast(ObjectState, None))
    assert [x.tolist() for x in put] == ([] if np.array_equal(left, old) else [left.tolist()])
    assert way.agreed[0] == int(np.array_equal(left, old))


@pytest.mark.parametrize("on", [True, False])
def test_a_click_near_the_border_changes_what_is_around_it(run: Path, engine: Engine, tmp_path: Path, on: bool) -> None:
    correct(run, engine, f"kidney@12 mask {drawn(tmp_path)}", reach=Reach(frames=0))
    before = coco_mask.decode(masks(run)[12, 2]["segmentation"]) > 0  # 30 x 30, from (10, 20), with a hole
    click = (11.5, 18.5, True) if on else (38.5, 40.5, False)
    correct(run, engine, f"kidney@12 {'+' if on else '-'}{click[0]},{click[1]}", reach=Reach(frames=0))
    after = coco_mask.decode(masks(run)[12, 2]["segmentation"]) > 0
    assert bool(after[int(click[1]), int(click[0])]) == on
    changed = before ^ after
    assert 0 < changed.sum() <= 0.2 * before.sum()
    assert (after & changed).any() == on
    if not on:
        rows, columns = np.nonzero(changed)
        assert np.hypot(columns + 0.5 - click[0], rows + 0.5 - click[1]).max() <= 1.5 * distance(before, click) + 1


def test_a_click_deep_in_a_wrong_mask_takes_it_away(run: Path, engine: Engine, tmp_path: Path) -> None:
    """What is beside the object says nothing of where it is: it is absent then, rather than anywhere else."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[60:78, 70:90] = 255
    Image.fromarray(mask).save(tmp_path / "wrong.png")
    correct(run, engine, f"kidney@12 mask {tmp_path / 'wrong.png'}", reach=Reach(frames=0))
    correct(run, engine, "kidney@12 -80,69", reach=Reach(frames=0))
    assert not lines(run)[12]["objects"][1]["present"]
    assert (12, 2) not in masks(run)


def test_a_click_beside_leaves_other_pieces_alone(run: Path, engine: Engine, tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[60:78, 70:90] = mask[10:30, 5:30] = 255
    Image.fromarray(mask).save(tmp_path / "two.png")
    correct(run, engine, f"kidney@12 mask {tmp_path / 'two.png'}", reach=Reach(frames=0))
    correct(run, engine, "kidney@12 -80,69", reach=Reach(frames=0))
    left = coco_mask.decode(masks(run)[12, 2]["segmentation"]) > 0
    assert not left[69, 80]
    assert (left[:50] == (mask[:50] > 0)).all()


@pytest.mark.parametrize("seed", range(3))
def test_clicks_do_what_they_say(run: Path, engine: Engine, tmp_path: Path, seed: int) -> None:
    """Whatever the network makes of them: "+" takes nothing away, "-" adds nothing, and both are obeyed."""
    rng, mask = np.random.default_rng(seed), np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[20:50, 20:60] = mask[60:78, 70:90] = 255
    Image.fromarray(mask).save(tmp_path / "two.png")
    correct(run, engine, f"kidney@12 mask {tmp_path / 'two.png'}", reach=Reach(frames=0))
    old = {t: coco_mask.decode(x["segmentation"]) > 0 for (t, k), x in masks(run).items() if k == 2}
    for _ in range(6):
        x, y, on = int(rng.integers(WIDTH)), int(rng.integers(HEIGHT)), bool(rng.integers(2))
        correct(run, engine, f"kidney@12 {'+' if on else '-'}{x + 0.5},{y + 0.5}", reach=Reach(frames=3))
        new = {t: coco_mask.decode(x["segmentation"]) > 0 for (t, k), x in masks(run).items() if k == 2}
        nothing = np.zeros((HEIGHT, WIDTH), bool)
        assert new.get(12, nothing)[y, x] == on
        same = (old[12] & new.get(12, nothing)).sum() >= 0.5 * old[12].sum()
        for t in {*old, *new} if same else {}:
            before, after = old.get(t, nothing), new.get(t, nothing)
            assert not ((before & ~after) if on else (after & ~before)).any(), (t, x, y, on)
        undo(run)


def test_a_new_object_that_nothing_points_at(cli: Cli, run: Path) -> None:
    before = contents(run)
    done = cli("refine", run, "--new", "needle", "--mark", "kidney@5 absent", "--reach", "0")
    assert done.code == 2
    assert "--new needle: nothing points at it" in done.err
    assert contents(run) == before
    done = cli("refine", run, "--new", "needle", "--from", run)
    assert done.code == 2
    assert f"needle: neither a mark nor {run} shows this new object" in done.err
    assert contents(run) == before


def test_distances_and_discs() -> None:
    mask = np.zeros((20, 30), bool)
    mask[5:11, 10:21] = True
    assert extent(mask) == 11
    assert extent(np.zeros((4, 4), bool)) == 0
    assert distance(mask, (5.5, 7.5, True)) == 5
    assert distance(mask, (15.5, 6.5, False)) == 2
    assert distance(np.zeros((4, 4), bool), (1, 1, True)) == np.inf
    assert missed_clicks(mask, [Mark("a", Position(frame=0), ((30, 20, True), (15, 7, True), (15, 7, False)))]) == [
        (30, 20, True),
        (15, 7, False),
    ]
    assert disc((20, 30), (4.5, 4.5, True), 2).sum() == 13
    assert disc((20, 30), (29.9, 19.9, True), 0.1)[19, 29]
