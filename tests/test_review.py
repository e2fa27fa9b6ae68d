"""The review page's server: what it gives, what is kept of what a person says, and what it refuses."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from clips import ffmpeg
from conftest import Cli
from finished_runs import finished_run
from PIL import Image
from review_page import TOKEN, Browser, engine, served

from resurgsam2_cli.errors import UserError
from resurgsam2_cli.files.rle import decoded
from resurgsam2_cli.prompts.marks import parse_mark, read_marks
from resurgsam2_cli.refining import versions
from resurgsam2_cli.refining.refine import Given, refine
from resurgsam2_cli.refining.tracking import Reach
from resurgsam2_cli.refining.versions import undo, versions_of
from resurgsam2_cli.review.draft import Draft
from resurgsam2_cli.review.job import Job
from resurgsam2_cli.review.lanes import STAGES, Lanes
from resurgsam2_cli.review.opened import OpenRun
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.runs.record import read_run
from resurgsam2_cli.runs.sums import corrections
from resurgsam2_cli.segmenting.engine import Engine

WIDTH, HEIGHT, FRAMES = 96, 80, 60
ONE = "runs/0"
__all__ = ["engine"]  # a fixture


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a video in whose pictures a number counts the frames; copy it before you change it."""
    folder = tmp_path_factory.mktemp("review")
    video = folder / "v.mp4"
    gray = "geq=lum='16+3*N':cb=128:cr=128,format=yuv420p"
    source = f"color=black:size={WIDTH}x{HEIGHT}:rate=25,{gray}"
    ffmpeg("-f", "lavfi", "-i", source, "-frames:v", str(FRAMES), "-g", "20", "-qp", "0", video)
    return finished_run(folder / "run", video).folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def page(run: Path, engine: Engine) -> Iterator[Browser]:
    with served([run], lambda words: engine) as browser:
        yield browser


def square(left: int = 10, side: int = 20) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20 : 20 + side, left : left + side] = True
    return mask


def counts(mask: np.ndarray) -> dict[str, Any]:
    """As the page sends masks: run lengths, columns first."""
    flat = mask.T.ravel().astype(int)
    ends = np.flatnonzero(np.diff(flat, append=2)) + 1
    return {"size": [HEIGHT, WIDTH], "counts": [0] * int(flat[0]) + np.diff(ends, prepend=0).tolist()}


# What it gives


def test_what_a_run_holds(page: Browser, run: Path) -> None:
    info = page.get(ONE)
    assert (info["width"], info["height"], info["frames"], info["version"]) == (WIDTH, HEIGHT, FRAMES, 0)
    assert [x["id"] for x in info["objects"]] == [1, 2, 3]
    frames = page.get(f"{ONE}/masks?first=10&end=14")
    with RunIndex(read_run(run)) as index:
        for x in frames:
            frame = index.frame(x["step"])
            masks = {y.object_id: y.rle["counts"] for y in frame.masks}
            assert [y["counts"] for y in x["objects"]] == [masks.get(i) for i in (1, 2, 3)]
            assert (x["number"], x["time"]) == (frame.number, frame.time)


@pytest.mark.parametrize("order", [range(FRAMES), reversed(range(FRAMES)), (0, 55, 3, 4, 40, 38, 0, 59, 21, 20)])
def test_pictures_are_those_of_their_frames(page: Browser, order: Any) -> None:
    for step in order:
        status, headers, body = page.ask("GET", f"/{TOKEN}/api/{ONE}/frames/{step}.jpg?width=960")
        assert (status, headers["content-type"]) == (200, "image/jpeg")
        gray = np.asarray(Image.open(io.BytesIO(body)).convert("L")).mean()
        assert abs(gray - 3 * step * 255 / 219) < 2, step


def test_lanes_show_every_frame(page: Browser, run: Path) -> None:
    lanes = page.get(f"{ONE}/lanes?first=0&end={FRAMES}&count=400")
    states = [json.loads(x)["objects"] for x in (run / "frames.jsonl").read_text().splitlines()]
    for row in range(3):
        there = [STAGES[x] != "absent" for x in lanes["stages"][row]]
        assert there == [x[row]["present"] for x in states]
    few = page.get(f"{ONE}/lanes?first=10&end=50&count=7")
    assert len(few["stages"][0]) == 7
    assert few["borders"][0] == 10
    assert few["borders"][-1] == 50
    whole = Lanes.of_run(read_run(run))
    for i, (a, b) in enumerate(zip(few["borders"], few["borders"][1:], strict=False)):
        assert few["stages"][0][i] == whole.stages[0, a:b].max()


def test_the_list_says_what_is_left(page: Browser) -> None:
    (one,) = page.get("runs")
    assert (one["frames"], one["version"], one["said"]) == (FRAMES, 0, 0)
    places = page.get(f"{ONE}/places")
    assert page.get(f"{ONE}/counted") == {"left": len(places), "reviewed": 0}
    assert places
    first = places[0]
    page.post(f"{ONE}/say", object=first["object_id"], frame=first["frame"], confirmed=True)
    page.post(f"{ONE}/follow")
    assert page.followed()["job"]["stage"] == "done"
    assert page.get(f"{ONE}/counted")["reviewed"] == 1
    assert (first["object_id"], first["frame"]) not in [
        (x["object_id"], x["frame"]) for x in page.get(f"{ONE}/places") if not x["reviewed"]
    ]


# What a person says


def test_what_was_drawn_is_kept_as_drawn_and_followed(page: Browser, run: Path) -> None:
    mask = square()
    state = page.post(f"{ONE}/say", object=2, frame=12, mask=counts(mask))
    (entry,) = state["draft"]
    assert (decoded(entry["mask"]["counts"], (HEIGHT, WIDTH)) == mask).all()
    assert corrections(run) == ["draft.json"]  # nobody writes over it
    page.post(f"{ONE}/follow", frames=3)
    state = page.followed()
    assert (state["job"]["stage"], state["version"], state["draft"]) == ("done", 1, [])
    (frame,) = page.get(f"{ONE}/masks?first=12&end=13")
    assert (decoded(frame["objects"][1]["counts"], (HEIGHT, WIDTH)) == mask).all()
    assert frame["objects"][1]["stage"] == "drawn"
    assert [x.number for x in versions_of(run)] == [0, 1]
    assert json.loads((run / "draft.json").read_text()) == {"marks": []}


def test_the_mask_that_was_seen_is_the_mask_that_is_kept(page: Browser, run: Path) -> None:
    state = page.post(f"{ONE}/say", object=1, frame=30, points=[[40.5, 30.25, 1]])
    first = state["draft"][-1]
    state = page.post(f"{ONE}/say", object=1, frame=30, points=[[5, 5, 0]])
    second = state["draft"][-1]
    assert second["points"] == [[40.5, 30.25, 1], [5, 5, 0]]
    assert len(state["draft"]) == 2
    assert first["mask"]["size"] == [HEIGHT, WIDTH]
    page.post(f"{ONE}/follow", frames=0)
    page.followed()
    (frame,) = page.get(f"{ONE}/masks?first=30&end=31")
    assert frame["objects"][0]["counts"] == second["mask"]["counts"]
    assert frame["objects"][0]["stage"] == "point"
    (mark,) = json.loads((run / "marks.json").read_text())["marks"]
    assert (mark["points"], mark["when"]) == ([[40.5, 30.25, 1], [5, 5, 0]], second["when"])


def test_clicks_count_on_what_was_drawn_before_them(page: Browser) -> None:
    page.post(f"{ONE}/say", object=1, frame=10, mask=counts(square(30)))
    state = page.post(f"{ONE}/say", object=1, frame=10, points=[[40, 30, 1]])
    assert state["draft"][-1]["points"] == [[40, 30, 1]]
    state = page.post(f"{ONE}/say", object=1, frame=10, box=[20, 10, 40, 40])
    assert state["draft"][-1]["points"] == []
    state = page.post(f"{ONE}/say", object=1, frame=10, points=[[41, 31, 1]])
    assert (state["draft"][-1]["box"], state["draft"][-1]["points"]) == ([20, 10, 40, 40], [[41, 31, 1]])


def test_undo_goes_back_word_by_word_then_version_by_version(page: Browser, run: Path, whole: Path) -> None:
    before = (run / "annotations.json").read_bytes()
    page.post(f"{ONE}/say", object=2, frame=12, mask=counts(square()))
    page.post(f"{ONE}/say", object=3, frame=0, end=9, absent=True)
    page.post(f"{ONE}/follow", frames=2)
    assert page.followed()["version"] == 1
    page.post(f"{ONE}/say", object=1, frame=30, confirmed=True)
    state = page.undo()
    assert (state["draft"], state["version"]) == ([], 1)
    state = page.post(f"{ONE}/redo")
    assert len(state["draft"]) == 1
    page.undo()
    state = page.undo()  # the version; what was said for it is there to be said again
    assert (state["version"], state["job"]["said"]) == (0, "back at version 0")
    assert [(x["object"], x["frame"]) for x in state["draft"]] == [(2, 12), (3, 0)]
    assert (run / "annotations.json").read_bytes() == before
    page.post(f"{ONE}/follow", frames=2)
    assert page.followed()["version"] == 1
    for _ in range(3):
        page.undo()
    assert page.get(f"{ONE}/state")["draft"] == []
    refused = page.post(f"{ONE}/undo", 400)
    assert "nothing to undo" in refused["error"]
    assert refused["sentences"] == "there is nothing to undo. Say something first."  # what the page shows


def test_clicks_of_the_command_line_come_back_with_their_mask(page: Browser, run: Path, engine: Engine) -> None:
    label = page.get(ONE)["objects"][0]["label"]
    refine(run, Given([parse_mark(f"{label}@30 +40,30")]), lambda words: engine)
    (frame,) = page.get(f"{ONE}/masks?first=30&end=31")
    kept = frame["objects"][0]["counts"]
    (entry,) = page.undo()["draft"]
    assert entry["mask"]["counts"] == kept


def test_what_was_said_outlives_the_server(run: Path, engine: Engine) -> None:
    with served([run], lambda words: engine) as page:
        page.post(f"{ONE}/say", object=2, frame=12, mask=counts(square()))
        page.post(f"{ONE}/say", object=2, frame=13, mask=counts(square(20)))
    with served([run], lambda words: engine) as page:
        draft = page.get(f"{ONE}/state")["draft"]
        assert [x["frame"] for x in draft] == [12, 13]


def test_a_kill_after_a_version_says_nothing_twice(run: Path, engine: Engine) -> None:
    with served([run], lambda words: engine) as page:
        page.post(f"{ONE}/say", object=2, frame=12, mask=counts(square()))
        page.post(f"{ONE}/say", object=2, frame=12, mask=counts(square(15)))
        said = (run / "draft.json").read_bytes()
        page.post(f"{ONE}/follow", frames=0)
        page.followed()
    (run / "draft.json").write_bytes(said)  # as a kill before the end leaves it
    assert Draft(run).entries == []


def test_what_is_said_while_tracking_stays_said(page: Browser) -> None:
    page.post(f"{ONE}/say", object=2, frame=12, mask=counts(square()))
    stamp = page.get(ONE)["stamp"]
    page.post(f"{ONE}/follow")
    state = page.post(f"{ONE}/say", stamp=stamp, object=1, frame=40, confirmed=True)
    assert len(state["draft"]) in (1, 2)
    state = page.followed()
    assert [(x["object"], x["frame"]) for x in page.get(f"{ONE}/state")["draft"]] == [(1, 40)]


def test_a_new_object_by_name_and_by_words(page: Browser, run: Path) -> None:
    page.post(f"{ONE}/say", object=2, frame=12, mask=counts(square()))
    page.post(f"{ONE}/add", text="needle", words=False)
    assert page.followed()["version"] == 1
    assert [x["label"] for x in page.get(ONE)["objects"]][3:] == ["needle"]
    assert len(page.get(f"{ONE}/state")["draft"]) == 1  # what was said waits
    page.post(f"{ONE}/say", object=4, frame=30, mask=counts(square(40)))
    page.post(f"{ONE}/follow")
    assert page.followed()["version"] == 2
    (frame,) = page.get(f"{ONE}/masks?first=30&end=31")
    assert (decoded(frame["objects"][3]["counts"], (HEIGHT, WIDTH)) == square(40)).all()
    page.post(f"{ONE}/add", text="left clip=clip", words=True)
    state = page.followed()
    assert (state["version"], state["job"]["stage"]) == (3, "done")
    assert page.get(ONE)["objects"][4]["text"] == "left clip"
    page.post(f"{ONE}/say", object=5, frame=3, absent=True)
    for _ in range(2):
        page.undo()
    assert page.get(f"{ONE}/state")["version"] == 2
    assert "not there any more" in page.post(f"{ONE}/redo", 400)["error"]
    page.post(f"{ONE}/add", text="left clip=clip", words=True)
    assert page.followed()["version"] == 3
    for text, words in (("", False), ("  ", True), ("12", False), ("needle", False)):
        if text == "needle":
            page.post(f"{ONE}/add", text=text, words=words)
            assert "already" in page.followed()["job"]["said"]
        else:
            assert page.post(f"{ONE}/add", 400, text=text, words=words)["error"]
    assert [x.number for x in versions_of(run)] == [0, 1, 2, 3]


def test_a_draft_is_read_again_when_somebody_else_wrote_it(page: Browser, run: Path) -> None:
    page.post(f"{ONE}/say", object=1, frame=3, absent=True)
    draft = json.loads((run / "draft.json").read_text())
    draft["marks"].append({"object": 2, "frame": 5, "absent": True, "when": "2026-01-01T00:00:00.000001+00:00"})
    (run / "draft.json").write_text(json.dumps(draft))
    assert [x["frame"] for x in page.get(f"{ONE}/state")["draft"]] == [3, 5]
    state = page.post(f"{ONE}/say", object=1, frame=4, absent=True)
    assert [x["frame"] for x in state["draft"]] == [3, 5, 4]


def test_a_mask_that_was_called_right_and_changed_is_not(page: Browser, run: Path, engine: Engine) -> None:
    page.post(f"{ONE}/say", object=1, frame=20, confirmed=True)
    page.post(f"{ONE}/say", object=1, frame=50, end=52, confirmed=True)
    page.post(f"{ONE}/say", object=2, frame=20, confirmed=True)
    label = page.get(ONE)["objects"][0]["label"]
    refine(run, Given([parse_mark(f"{label}@21 absent")], reach=Reach(frames=3)), lambda words: engine)
    found = [(x["object"], x["frame"]) for x in page.get(f"{ONE}/state")["draft"]]
    (frame,) = page.get(f"{ONE}/masks?first=20&end=21")
    assert frame["objects"][0]["pass"] == 1
    assert found == [(1, 50), (2, 20)]


def test_a_mask_that_changed_while_the_page_was_closed_is_not_right(run: Path, engine: Engine) -> None:
    label = read_run(run).objects[0].label
    refine(run, Given([parse_mark(f"{label}@28 absent")], reach=Reach(frames=3)), lambda words: engine)
    with served([run], lambda words: engine) as page:
        page.post(f"{ONE}/say", object=1, frame=27, confirmed=True)
        page.post(f"{ONE}/say", object=1, frame=50, confirmed=True)
    undo(run)
    with served([run], lambda words: engine) as page:
        page.get(ONE)  # as the page asks: what the run holds comes before who may write
        assert [x["frame"] for x in page.get(f"{ONE}/state")["draft"]] == [50]
    assert [x["frame"] for x in json.loads((run / "draft.json").read_text())["marks"]] == [50]


def test_what_was_confirmed_of_a_version_does_not_hold_for_the_one_before(page: Browser, run: Path) -> None:
    page.post(f"{ONE}/say", object=1, frame=28, absent=True)
    page.post(f"{ONE}/follow", frames=3)
    assert page.followed()["version"] == 1
    page.post(f"{ONE}/say", object=1, frame=50, confirmed=True)
    page.post(f"{ONE}/say", object=1, frame=27, confirmed=True)
    for _ in range(3):
        page.undo()
    assert [x["frame"] for x in page.post(f"{ONE}/redo")["draft"]] == [28, 50]  # where nothing changed
    refused = page.post(f"{ONE}/redo", 400)
    assert refused["error"] == "the mask that was confirmed is another one now"
    assert [x["frame"] for x in page.get(f"{ONE}/state")["draft"]] == [28, 50]
    assert "nothing to redo" in page.post(f"{ONE}/redo", 400)["error"]


def test_what_was_confirmed_of_a_version_that_was_taken_back_is_compared(
    page: Browser, run: Path, engine: Engine
) -> None:
    page.post(f"{ONE}/say", object=1, frame=20, confirmed=True)
    page.post(f"{ONE}/say", object=2, frame=20, confirmed=True)
    page.post(f"{ONE}/follow")
    assert page.followed()["version"] == 1
    assert len(page.undo()["draft"]) == 2
    label = page.get(ONE)["objects"][0]["label"]
    refine(run, Given([parse_mark(f"{label}@21 absent")], reach=Reach(frames=3)), lambda words: engine)
    assert [x["object"] for x in page.get(f"{ONE}/state")["draft"]] == [2]


def test_a_draft_is_compared_with_the_masks_by_the_command_line_too(run: Path, engine: Engine, tmp_path: Path) -> None:
    with served([run], lambda words: engine) as page:
        page.post(f"{ONE}/say", object=1, frame=50, end=52, confirmed=True)
        page.post(f"{ONE}/say", object=1, frame=51, absent=True)
        page.post(f"{ONE}/say", object=1, frame=20, confirmed=True)
    draft = tmp_path / "draft.json"
    shutil.move(run / "draft.json", draft)
    label = read_run(run).objects[0].label
    refine(run, Given(read_marks(draft)[2:], reach=Reach(frames=3)), lambda words: engine)
    undo(run)
    refine(run, Given([parse_mark(f"{label}@21 absent")], reach=Reach(frames=3)), lambda words: engine)
    with pytest.raises(UserError, match=r"mark 3 \(1 in frame 20\): confirms a mask that is another one now"):
        refine(run, Given(read_marks(draft)), lambda words: engine)
    assert [x.number for x in versions_of(run)] == [0, 1]


def test_ids_are_ids_whatever_the_labels(run: Path, engine: Engine) -> None:
    record = json.loads((run / "run.json").read_text())
    for x, label in zip(record["objects"], ("2", "x", "x"), strict=True):
        x["label"] = label
    (run / "run.json").write_text(json.dumps(record))
    with served([run], lambda words: engine) as page:
        page.post(f"{ONE}/say", object=2, frame=15, absent=True)
        page.post(f"{ONE}/follow", frames=0)
        assert page.followed()["job"]["stage"] == "done"
        (frame,) = page.get(f"{ONE}/masks?first=15&end=16")
        assert [x["stage"] == "absent" for x in frame["objects"]] == [False, True, False]
        (entry,) = page.undo()["draft"]
        assert entry["object"] == 2


def test_an_undo_that_is_not_possible_says_nothing_again(page: Browser, run: Path) -> None:
    page.post(f"{ONE}/say", object=2, frame=12, mask=counts(square()))
    page.post(f"{ONE}/follow", frames=0)
    assert page.followed()["version"] == 1
    (run / "history" / "0001" / "frames.jsonl.delta").unlink()
    state = page.undo()
    assert state["job"]["stage"] == "failed"
    assert "is missing" in state["job"]["said"]
    assert (state["version"], state["draft"]) == (1, [])
    assert json.loads((run / "draft.json").read_text()) == {"marks": []}


def test_a_version_is_taken_back_while_the_page_goes_on(
    page: Browser, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour of images takes its time to be gone through: one looks on, says nothing, and may think better of it."""
    begun, go_on = threading.Event(), threading.Event()

    def waiting(folder: Path) -> list[str]:
        begun.set()
        assert go_on.wait(60)
        return corrections(folder)

    monkeypatch.setattr(versions, "corrections", waiting)
    page.post(f"{ONE}/say", object=2, frame=12, mask=counts(square()))
    page.post(f"{ONE}/follow", frames=0)
    assert page.followed()["version"] == 1
    for thought_better in (True, False):
        begun.clear()
        go_on.clear()
        assert page.post(f"{ONE}/undo")["job"]["what"] == "taking back version 1"
        assert begun.wait(60)
        assert len(page.get(f"{ONE}/masks?first=12&end=13")) == 1
        assert page.get(f"{ONE}/state")["version"] == 1
        for what, said in (("say", {"object": 1, "frame": 3, "absent": True}), ("undo", {}), ("follow", {})):
            assert "being taken back" in page.post(f"{ONE}/{what}", 400, **said)["error"]
        if thought_better:
            page.post(f"{ONE}/cancel")
        go_on.set()
        state = page.followed()
        expected = ("cancelled", 1, 0) if thought_better else ("done", 0, 1)
        assert (state["job"]["stage"], state["version"], len(state["draft"])) == expected


def test_a_version_by_another_program_is_not_taken_back(
    page: Browser, run: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.post(f"{ONE}/say", object=2, frame=12, mask=counts(square()))
    page.post(f"{ONE}/follow", frames=0)
    stamp, label = page.followed()["stamp"], page.get(ONE)["objects"][0]["label"]
    begin = Job.start

    def late(job: Job) -> None:
        refine(run, Given([parse_mark(f"{label}@40 absent")], reach=Reach(frames=1)), lambda words: engine)
        begin(job)

    monkeypatch.setattr(Job, "start", late)
    page.post(f"{ONE}/undo", stamp=stamp)
    state = page.followed()
    assert (state["job"]["stage"], state["version"], state["draft"]) == ("failed", 2, [])
    assert [x.number for x in versions_of(run)] == [0, 1, 2]


def test_redo_outlives_a_version(page: Browser) -> None:
    page.post(f"{ONE}/say", object=2, frame=12, mask=counts(square()))
    page.post(f"{ONE}/follow", frames=0)
    page.followed()
    page.post(f"{ONE}/say", object=1, frame=30, absent=True)
    page.undo()
    assert page.undo()["version"] == 0
    assert [(x["object"], x["frame"]) for x in page.post(f"{ONE}/redo")["draft"]] == [(2, 12), (1, 30)]


def test_tracking_can_be_cancelled(page: Browser, run: Path) -> None:
    page.post(f"{ONE}/say", object=2, frame=12, mask=counts(square()))
    before = {x.name: x.read_bytes() for x in run.iterdir() if x.is_file()}
    page.post(f"{ONE}/follow", whole=True)
    assert "on its way" in page.post(f"{ONE}/undo", 400)["error"]
    page.post(f"{ONE}/cancel")
    state = page.followed()
    if state["job"]["stage"] == "cancelled":
        assert {x.name: x.read_bytes() for x in run.iterdir() if x.is_file()} == before
        assert not (run.parent / "run.partial").exists()
        assert len(state["draft"]) == 1


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"object": 9, "frame": 1, "absent": True}, "no such object"),
        ({"object": True, "frame": 1, "absent": True}, "no such object"),
        ({"object": 1, "frame": 1000, "absent": True}, "no such frame"),
        ({"object": 1, "frame": "1", "absent": True}, "no such frame"),
        ({"object": 1, "frame": 1}, "says nothing"),
        ({"object": 1, "frame": 1, "absent": True, "confirmed": True}, "says both"),
        ({"object": 1, "frame": 1, "points": [[1000, 1, 1]]}, "outside of the picture"),
        ({"object": 1, "frame": 1, "points": [["a", 1, 1]]}, "has the point"),
        ({"object": 1, "frame": 1, "box": [0, 0, 0, 10]}, "no area"),
        ({"object": 1, "frame": 1, "mask": {"size": [HEIGHT, WIDTH], "counts": [5]}}, "no RLE"),
        ({"object": 1, "frame": 1, "mask": {"size": [3, 3], "counts": [4, 5]}}, "3 x 3 pixels"),
        ({"object": 1, "frame": 1, "mask": "/etc/passwd"}, "no run-length code"),
        ({"object": 1, "frame": 1, "mask": ["a"]}, "no run-length code"),
    ],
)
def test_what_makes_no_sense_is_refused(page: Browser, said: dict[str, Any], error: str) -> None:
    import re

    assert re.search(error, page.post(f"{ONE}/say", 400, **said)["error"])
    assert page.get(f"{ONE}/state")["draft"] == []


def test_a_mask_is_never_read_from_a_file(page: Browser, tmp_path: Path) -> None:
    Image.new("L", (WIDTH, HEIGHT), 255).save(tmp_path / "whole.png")  # outside of the run
    answer = page.post(f"{ONE}/say", 400, object=1, frame=1, mask=str(tmp_path / "whole.png"))
    assert "run-length code" in answer["error"]
    assert page.get(f"{ONE}/state")["draft"] == []


def test_a_mask_that_was_erased_means_absent(page: Browser) -> None:
    state = page.post(f"{ONE}/say", object=1, frame=3, mask=counts(np.zeros((HEIGHT, WIDTH), bool)))
    assert state["draft"][0]["absent"] is True


# Who may write


def test_a_second_window_is_told_and_may_take_over(page: Browser) -> None:
    other = Browser(page.port, "two")
    assert page.get(f"{ONE}/state")["may_write"] == ""
    assert "another window" in other.get(f"{ONE}/state")["may_write"]
    assert "another window" in other.post(f"{ONE}/say", 400, object=1, frame=3, absent=True)["error"]
    other.post(f"{ONE}/take-over")
    other.post(f"{ONE}/say", object=1, frame=3, absent=True)
    assert "another window" in page.post(f"{ONE}/say", 400, object=1, frame=4, absent=True)["error"]
    other.post(f"{ONE}/leave")
    state = page.post(f"{ONE}/say", object=1, frame=4, absent=True)
    assert [x["frame"] for x in state["draft"]] == [3, 4]


def test_a_second_program_is_told(page: Browser, run: Path, engine: Engine) -> None:
    page.get(f"{ONE}/state")
    with served([run], lambda words: engine) as other:
        assert "another program" in other.get(f"{ONE}/state")["may_write"]
        assert "another program" in other.post(f"{ONE}/say", 400, object=1, frame=3, absent=True)["error"]


def test_a_window_hears_of_a_version_made_elsewhere(page: Browser, run: Path, engine: Engine) -> None:
    stamp = page.get(ONE)["stamp"]
    label = page.get(ONE)["objects"][0]["label"]
    refine(run, Given([parse_mark(f"{label}@20 absent")]), lambda words: engine)
    assert page.get(f"{ONE}/state")["version"] == 1
    page.post(f"{ONE}/say", 409, stamp=stamp, object=1, frame=3, absent=True)
    page.post(f"{ONE}/say", object=1, frame=3, absent=True)


def test_for_looking_only(run: Path) -> None:
    before = sorted(x.name for x in run.parent.iterdir())
    with served([run], None) as page:
        assert "looking only" in page.get(f"{ONE}/state")["may_write"]
        for what in ("say", "undo", "redo", "follow", "cancel", "take-over"):
            assert "looking only" in page.post(f"{ONE}/{what}", 400, object=1, frame=3, absent=True)["error"]
        assert page.get(f"{ONE}/places")
    assert sorted(x.name for x in run.parent.iterdir()) == before


# What it refuses


def test_only_who_knows_the_address_gets_anything(page: Browser) -> None:
    for path in ("/", "/wrong/", f"/{TOKEN}", f"//{TOKEN}/", f"/{TOKEN[:-1]}/api/runs", "/main.js"):
        status, _, body = page.ask("GET", path)
        assert status == 404, path
        assert b"import" not in body
    assert page.ask("GET", f"/{TOKEN}/")[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil:1", "", "[::1].evil"]
)
def test_other_host_names_get_nothing(page: Browser, host: str) -> None:
    assert page.ask("GET", f"/{TOKEN}/", Host=host)[0] in (400, 421)


def test_a_tunnel_works(page: Browser) -> None:
    for host in ("localhost:9000", "127.0.0.1:1234", "LOCALHOST:80", "localhost"):
        assert page.ask("GET", f"/{TOKEN}/", Host=host)[0] == 200
        said = json.dumps({"window": "one", "stamp": page.get(ONE)["stamp"], "object": 1, "frame": 1, "absent": True})
        assert page.ask("POST", f"/{TOKEN}/api/{ONE}/say", said.encode(), Host=host, Origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": ""},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Content_Type": ""},
    ],
)
def test_other_pages_change_nothing(page: Browser, headers: dict[str, str]) -> None:
    said = {"window": "one", "stamp": page.get(ONE)["stamp"], "object": 1, "frame": 1, "absent": True}
    status, _, _ = page.ask("POST", f"/{TOKEN}/api/{ONE}/say", json.dumps(said).encode(), **headers)
    assert status in (403, 415)
    assert page.get(f"{ONE}/state")["draft"] == []


def test_other_pages_read_nothing(page: Browser) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}):
        assert page.ask("GET", f"/{TOKEN}/api/{ONE}/frames/0.jpg?width=960", None, **headers)[0] == 403
    status, given, _ = page.ask("GET", f"/{TOKEN}/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
    assert status == 200  # a link that somebody follows
    assert "frame-ancestors 'none'" in given["content-security-policy"]
    assert "unsafe" not in given["content-security-policy"]
    assert given["cache-control"] == "no-store"
    assert given["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in given


@pytest.mark.parametrize(
    "path",
    [
        "../run.json",
        "..%2frun.json",
        "%2e%2e/%2e%2e/etc/passwd",
        "api/runs/0/frames/../../../run.json",
        "api/runs/0/frames/0.jpg%00?width=960",
        "page/../server.py",
        "server.py",
        "saved.css/../main.js",
        "api/runs/-1",
        "api/runs/1",
        "api/runs/99999999999999999999",
        "api/runs/0/masks?first=0&end=99999999999999999999",
        "api/runs/0/masks?first=-5&end=5",
        "api/runs/0/masks?first=0&end=65",
        "api/runs/0/lanes?first=0&end=60&count=1000000",
        "api/runs/0/frames/60.jpg?width=960",
        f"api/runs/0/frames/{'9' * 5000}.jpg?width=960",
        f"api/runs/{'9' * 5000}",
        "api/runs/0/frames/0.jpg?width=x",
        "api/runs/0/next?object=0&step=0&direction=1&what=kept",
    ],
)
def test_other_paths_get_nothing(page: Browser, path: str) -> None:
    status, _, body = page.ask("GET", f"/{TOKEN}/{path}")
    assert status in (400, 404), body
    assert b"Traceback" not in body


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_get_nothing(page: Browser, method: str) -> None:
    assert page.ask(method, f"/{TOKEN}/api/{ONE}")[0] == 405


def test_huge_and_odd_bodies(page: Browser) -> None:
    path = f"/{TOKEN}/api/{ONE}/say"
    assert page.ask("POST", path, b"[" * 2**20)[0] == 400
    assert page.ask("POST", path, b"\xff\xfe")[0] == 400
    assert page.ask("POST", path, b"[]")[0] == 400
    assert page.ask("POST", path, b" " * (2**24 + 1))[0] == 413


def test_a_damaged_draft_is_not_thrown_away(run: Path, engine: Engine) -> None:
    for text in ("{", '{"marks": 3}', '{"marks": [{"object": "a", "frame": 1, "absent": true}]}'):
        (run / "draft.json").write_text(text)
        with served([run], lambda words: engine) as page:
            (one,) = page.get("runs")
            assert "draft.json" in one["error"]
        assert (run / "draft.json").read_text() == text


def test_a_video_that_is_gone(run: Path, whole: Path, engine: Engine) -> None:
    record = json.loads((run / "run.json").read_text())
    record["source"]["path"] = "/nowhere/v.mp4"
    (run / "run.json").write_text(json.dumps(record))
    with served([run], lambda words: engine) as page:
        status, _, body = page.ask("GET", f"/{TOKEN}/api/{ONE}/frames/0.jpg?width=960")
        assert status == 400
        assert "--sources" in json.loads(body)["hint"]
        assert page.get(f"{ONE}/places")
    with served([run], lambda words: engine, sources=whole.parent.parent) as page:
        assert page.ask("GET", f"/{TOKEN}/api/{ONE}/frames/0.jpg?width=960")[0] in (200, 400)


# Drafts


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([(1, 5, 5, "mask"), (1, 5, 5, "absent")], [(1, 5, 5, "absent")]),
        ([(1, 0, 9, "absent"), (1, 5, 5, "mask")], [(1, 0, 4, "absent"), (1, 6, 9, "absent"), (1, 5, 5, "mask")]),
        ([(1, 5, 5, "mask"), (1, 0, 9, "absent")], [(1, 0, 9, "absent")]),
        ([(1, 5, 5, "mask"), (1, 0, 9, "confirmed")], [(1, 5, 5, "mask"), (1, 0, 4, "confirmed"), (1, 6, 9, "confirmed")]),  # noqa: E501
        ([(1, 0, 9, "absent"), (2, 5, 5, "mask")], [(1, 0, 9, "absent"), (2, 5, 5, "mask")]),
        ([(1, 0, 5, "absent"), (1, 5, 9, "absent")], [(1, 0, 4, "absent"), (1, 5, 9, "absent")]),
    ],
)  # fmt: skip
def test_the_last_word_counts(run: Path, entries: list[Any], expected: list[Any]) -> None:
    draft = Draft(run)
    for object_id, first, last, what in entries:
        word: dict[str, Any] = {what: counts(square()) if what == "mask" else True}
        draft.add({"object": object_id, "frame": first, **({} if first == last else {"end": last}), **word})
    found = [
        (x["object"], x["frame"], x.get("end", x["frame"]), next(k for k in ("mask", "absent", "confirmed") if k in x))
        for x in draft.resolved(1)
    ]
    assert found == expected
    assert Draft(run).entries == draft.entries


def test_right_says_nothing_of_clicks_before_it(run: Path) -> None:
    """A click after it goes on with those; what was said of the frame itself ends them."""
    draft = Draft(run)
    draft.add({"object": 1, "frame": 5, "points": [[1, 2, 1]], "mask": counts(square())})
    draft.add({"object": 1, "frame": 0, "end": 9, "confirmed": True})
    assert [x.get("points") for x in draft.at(1, 5)] == [[[1, 2, 1]]]
    assert draft.at(1, 6) == []
    draft.add({"object": 1, "frame": 0, "end": 9, "absent": True})
    assert draft.at(1, 5) == []


def test_what_is_painted_lies_on_what_is_there(page: Browser, run: Path) -> None:
    """Whatever the page knew of it: of the run, of the draft, and after a stretch that is right."""
    with RunIndex(read_run(run)) as index:
        (of_run,) = (x.rle for x in index.frame(12).masks if x.object_id == 1)
    there = decoded(of_run["counts"], (HEIGHT, WIDTH))
    assert there.any()

    def painted(mask: np.ndarray, change: str) -> np.ndarray:
        entry = page.post(f"{ONE}/say", object=1, frame=12, mask=counts(mask), change=change)["draft"][-1]
        assert set(entry) == {"object", "frame", "mask", "when"}
        return decoded(entry["mask"]["counts"], (HEIGHT, WIDTH))

    assert np.array_equal(painted(square(), "add"), there | square())
    page.post(f"{ONE}/say", object=1, frame=0, end=20, confirmed=True)
    assert np.array_equal(painted(square(40), "add"), there | square() | square(40))
    assert np.array_equal(painted(square(45), "cut"), (there | square() | square(40)) & ~square(45))
    page.post(f"{ONE}/undo")
    assert np.array_equal(painted(square(50), "add"), there | square() | square(40) | square(50))
    page.post(f"{ONE}/say", object=1, frame=0, end=20, absent=True)
    assert np.array_equal(painted(square(), "add"), square())
    last = page.post(f"{ONE}/say", object=1, frame=12, mask=counts(square()), change="cut")["draft"][-1]
    assert set(last) == {"object", "frame", "absent", "when"}


@pytest.mark.parametrize(
    "said",
    [{"change": "more"}, {"change": True}, {"mask": None}, {"end": 13}, {"mask": {"size": [2, 2], "counts": [4]}}],
)
def test_what_was_painted_is_checked(page: Browser, run: Path, said: dict[str, Any]) -> None:
    word = {"object": 1, "frame": 12, "mask": counts(square()), "change": "add", **said}
    assert page.post(f"{ONE}/say", 400, **{k: v for k, v in word.items() if v is not None})["sentences"]
    assert not (run / "draft.json").exists()


def test_answers_are_numbered(page: Browser) -> None:
    """So that the page takes the newer one, in whatever order they come."""
    first = page.get(f"{ONE}/state")["answer"]
    second = page.post(f"{ONE}/say", object=1, frame=1, absent=True)["answer"]
    assert first < second < page.get(f"{ONE}/state")["answer"]


def test_a_stride_is_kept_to(run: Path) -> None:
    draft = Draft(run)
    draft.add({"object": 1, "frame": 0, "end": 30, "absent": True})
    draft.add({"object": 1, "frame": 10, "mask": counts(square())})
    assert [(x["frame"], x.get("end")) for x in draft.resolved(5)] == [(0, 5), (15, 30), (10, None)]


def test_a_window_that_is_gone_does_not_keep_others_out(run: Path, engine: Engine, monkeypatch: Any) -> None:
    opened = OpenRun(read_run(run), lambda words: engine, None)
    try:
        assert opened.state("one")["may_write"] == ""
        assert opened.state("two")["may_write"]
        later = time.monotonic() + 1000
        monkeypatch.setattr(time, "monotonic", lambda: later)
        assert opened.state("two")["may_write"] == ""
    finally:
        opened.close()


def test_a_saved_page(cli: Cli, run: Path, tmp_path: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    record["objects"][0]["label"] = record["objects"][0]["text"] = "<script>alert(1)</script>"
    (run / "run.json").write_text(json.dumps(record))
    out = cli("review", run, "--save", tmp_path / "look.html", "--json")
    assert out.code == 0, out.err
    text = (tmp_path / "look.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "data:image/jpeg;base64," in text
    assert cli("review", run, "--save", tmp_path / "look.html").code == 6
    assert cli("review", run, "--save", tmp_path / "look.html", "--overwrite").code == 0
    assert cli("review", run, "--save", tmp_path / "look.png").code == 2
    (tmp_path / "mine.html").write_text("mine")
    assert cli("review", run, "--save", tmp_path / "mine.html", "--overwrite").code == 6
    assert (tmp_path / "mine.html").read_text() == "mine"


def test_one_of_several_runs_cannot_be_saved(cli: Cli, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, run.parent / "bad")
    (run.parent / "bad" / "annotations.json").unlink()
    assert cli("review", run.parent / "bad", "--save", tmp_path / "bad.html").code == 3
    assert cli("review", run.parent / "bad", run, "--save", tmp_path / "look.html").code == 0
    text = (tmp_path / "look.html").read_text()
    assert text.count("annotations.json: is missing") == 1
    assert "data:image/jpeg;base64," in text


def test_wrong_use(cli: Cli, tmp_path: Path, run: Path) -> None:
    assert cli("review", tmp_path / "none").code == 3
    assert cli("review", run, "--overwrite").code == 2


def test_the_command_tells_its_address_and_ends_by_ctrl_c(run: Path) -> None:
    command = [sys.executable, "-m", "resurgsam2_cli", "review", str(run), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        told = json.loads(program.stdout.readline())
        page = urlsplit(told["address"])
        assert (page.hostname, told["runs"]) == ("127.0.0.1", 1)
        assert len(page.path) > 30
        connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)
        connection.request("GET", page.path + "api/runs")  # at once
        assert json.loads(connection.getresponse().read())[0]["frames"] == FRAMES
        port = subprocess.run(
            [*command[:-1], "--port", str(page.port)], capture_output=True, text=True, check=False, timeout=60
        )
        assert port.returncode == 2
        assert f"--port {page.port}: cannot be used" in port.stderr
        program.send_signal(signal.SIGINT)
        assert program.wait(30) == 0
        assert program.stderr is not None
        assert program.stderr.read() == ""
