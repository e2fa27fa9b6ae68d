"""Corrections from Label Studio: what comes back unchanged changes nothing, and what does not fit is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli
from finished_runs import PROMPTS, FinishedRun, finished_run

from resurgsam2_cli.edits.corrections import Correction, read_corrections
from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.brush import encode_brush
from resurgsam2_cli.runs.record import read_run

Tasks = list[dict[str, Any]]


@pytest.fixture
def run(video: Path, cli: Cli, tmp_path: Path) -> FinishedRun:
    return finished_run(tmp_path / "runs" / "clip", video)


@pytest.fixture
def tasks(run: FinishedRun, cli: Cli, tmp_path: Path) -> Tasks:
    """What Label Studio exports once all predictions were accepted as they are."""
    done = cli("export", run.folder, "-f", "label-studio", "-o", "there")
    assert done.code == 0, done.err
    tasks: Tasks = json.loads(Path("there/tasks.json").read_text())
    for number, task in enumerate(tasks):
        task["id"] = 7 + number
        task["annotations"] = [{"result": task["predictions"][0]["result"]}]
    return tasks


def corrections(tasks: Tasks, run: FinishedRun) -> list[Correction]:
    Path("back.json").write_text(json.dumps(tasks))
    return list(read_corrections(Path("back.json"), read_run(run.folder)))


def region(mask: np.ndarray, label: str) -> dict[str, Any]:
    height, width = mask.shape
    return {
        "id": "new",
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "value": {"format": "rle", "rle": encode_brush(mask), "brushlabels": [label]},
    }


def test_what_comes_back_as_it_was_changes_nothing(tasks: Tasks, run: FinishedRun) -> None:
    assert len(tasks) == len(run.numbers)
    assert corrections(tasks, run) == []
    for task in tasks[5:]:
        del task["annotations"]  # not looked at
    assert corrections(tasks, run) == []
    for task in tasks:
        task["annotations"] = [{"was_cancelled": True, "result": []}]
    with pytest.raises(InputError, match="no task with an annotation"):
        corrections(tasks, run)


def test_what_was_changed(tasks: Tasks, run: FinishedRun) -> None:
    """A region in two parts, one that was deleted, a polygon, and other things that say nothing of places."""
    height, width = run.masks.shape[2:]
    one, other = np.zeros((2, height, width), bool)
    one[3:20, 4:30] = other[40:50, 60:70] = True
    kidney = PROMPTS[1].label
    tasks[0]["annotations"][0]["result"] += [
        region(one, kidney),
        region(other, kidney),
        {"type": "choices", "value": {}},
    ]
    tasks[3]["annotations"][0]["result"] = [
        x for x in tasks[3]["annotations"][0]["result"] if x["value"]["brushlabels"] != [PROMPTS[0].label]
    ]
    points = [[10, 20], [50, 20], [50, 60], [10, 60]]  # percent
    polygon = {"id": "p", "type": "polygonlabels", "value": {"points": points, "polygonlabels": [kidney]}}
    tasks[1]["annotations"][0]["result"].append(polygon)
    first, second, third = corrections(tasks, run)
    assert (first.frame, first.object_id) == (run.numbers[0], 2)
    assert np.array_equal(first.mask, one | other)
    assert (second.frame, second.object_id) == (run.numbers[1], 2)
    assert second.mask.sum() == pytest.approx(0.4 * 0.4 * height * width, rel=0.05)
    assert (third.frame, third.object_id) == (run.numbers[3], 1)
    assert not third.mask.any()


def test_an_export_that_nobody_submitted_says_so(tasks: Tasks, run: FinishedRun) -> None:
    """``labels.xml`` beside the tasks is not taken for masks: the folder of the export means its tasks."""
    with pytest.raises(InputError, match=r"tasks\.json: has predictions.* no annotations") as error:
        list(read_corrections(Path("there"), read_run(run.folder)))
    assert "submit" in error.value.hint
    Path("there/tasks.json").write_text(json.dumps(tasks))
    assert list(read_corrections(Path("there"), read_run(run.folder))) == []
    config = Path("there/labels.xml").read_text()
    Path("there/labels.xml").write_text(f'\ufeff<?xml version="1.0"?>\n<!-- a <View> -->\n{config}', encoding="utf-8")
    assert list(read_corrections(Path("there"), read_run(run.folder))) == []
    Path("there/labels.xml").write_text("<annotations/>")
    with pytest.raises(InputError, match="2 things that may be meant"):
        list(read_corrections(Path("there"), read_run(run.folder)))


def test_uploaded_pictures_are_known_by_their_names(tasks: Tasks, run: FinishedRun) -> None:
    for task in tasks:
        name = task["data"]["image"].rpartition("/")[2]
        task["data"] = {"image": f"/data/upload/3/1a2b3c4d-{name}"}
    tasks[2]["annotations"][0]["result"] = []
    assert {x.frame for x in corrections(tasks, run)} == {run.numbers[2]}
    for task in tasks:
        task["data"]["video"] = "clip"
    assert {x.frame for x in corrections(tasks, run)} == {run.numbers[2]}


def _set(**data: Any) -> Callable[[dict[str, Any]], object]:
    return lambda task: task["annotations"][0]["result"][0].update(data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set(value={"rle": [1, 2, 3], "brushlabels": ["kidney"]}), "brush"),
        (_set(value={"rle": "x", "brushlabels": ["kidney"]}), "no mask"),
        (_set(type="rectanglelabels", value={"rectanglelabels": ["kidney"], "x": 1}), "use brush or polygon"),
        (_set(value={"rle": [], "brushlabels": ["needle"]}), "brush"),
        (_set(value={"rle": [], "brushlabels": ["a", "b"]}), "one label"),
        (_set(value=None), "one label"),
        (_set(original_width=5), "several sizes"),
        (_set(image_rotation=90), "turned"),
        (lambda task: task["annotations"].append({"result": []}), "2 annotations"),
        (lambda task: task["annotations"][0].update(result=3), "no list of regions"),
        (lambda task: task.update(id=8), "two tasks have the id"),
        (lambda task: task["data"].update(frame=9), "under this name"),
        (lambda task: task["data"].update(image=3), "no image"),
        (lambda task: task.pop("data"), "JSON-MIN"),
        (lambda task: task["annotations"].append(3), "Label Studio|object has no attribute|int"),
    ],
)
def test_what_does_not_fit_is_named(
    change: Callable[[dict[str, Any]], object], words: str, tasks: Tasks, run: FinishedRun
) -> None:
    change(tasks[0])
    with pytest.raises(InputError, match=words) as error:
        corrections(tasks, run)
    assert "\n" not in error.value.message
    assert error.value.hint


def test_an_unknown_label(tasks: Tasks, run: FinishedRun) -> None:
    mask = np.zeros(run.masks.shape[2:], bool)
    mask[3:9, 3:9] = True
    tasks[4]["annotations"][0]["result"].append(region(mask, "needle"))
    with pytest.raises(InputError, match="no object called 'needle'"):
        corrections(tasks, run)
