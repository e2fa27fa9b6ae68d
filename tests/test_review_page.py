"""The review page in a real browser, as a person uses it: by mouse, and by keyboard alone."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli
from review_page import Browser, engine, served
from review_window import (
    FRAMES,
    HEIGHT,
    NEEDS_CHROMIUM,
    WIDTH,
    Held,
    Stopped,
    Window,
    chromium,
    mask,
    page,
    run,
    whole,
    window,
)

from resurgsam2_cli.files.rle import decoded
from resurgsam2_cli.prompts.marks import parse_mark
from resurgsam2_cli.refining.refine import Given, refine
from resurgsam2_cli.refining.tracking import Reach
from resurgsam2_cli.refining.versions import versions_of
from resurgsam2_cli.segmenting.engine import Engine, build_engine

pytestmark = NEEDS_CHROMIUM

ROOT = Path(__file__).parents[1]
__all__ = ["chromium", "engine", "page", "run", "whole", "window"]  # fixtures


@pytest.mark.slow
def test_a_wrong_mask_is_found_and_put_right(chromium: Any, cli: Cli, tmp_path: Path) -> None:
    """The way of a person with the bundled clip and network, from the first look to the next day."""
    demo, clip = build_engine("demo"), ROOT / "examples/scene.mp4"
    done = cli("segment", clip, "--weights", "demo", "--end", 60, "-o", tmp_path, "--text", "left ultrasound probe")
    assert done.code == 0, done.err
    run = tmp_path / "scene"
    with served([run], lambda words: demo) as page:
        window = Window(chromium, page.address).opened()
        window.until(lambda: window.state["places"])
        window.press("n")
        place = window.state["places"][0]
        window.at_step(place["step"])
        first = window.said(lambda: window.click(440, 300))
        second = window.said(lambda: window.click(100, 300, button="right"))
        assert first[-1]["mask"] != second[-1]["mask"] or first[-1]["points"] != second[-1]["points"]
        assert [x[2] for x in second[-1]["points"]] == [1, 0]
        before = (run / "annotations.json").read_bytes(), (run / "overlay.mp4").read_bytes()
        lanes = page.get("runs/0/lanes?first=0&end=60&count=60")
        window.followed(1)
        assert page.get("runs/0/lanes?first=0&end=60&count=60") != lanes
        assert (run / "annotations.json").read_bytes() != before[0]
        assert (run / "overlay.mp4").read_bytes() != before[1]
        assert window.state["draft"] == []
        window.press("u")  # the version
        window.until(lambda: window.state["version"] == 0)
        assert (run / "annotations.json").read_bytes() == before[0]
        window.until(lambda: len(window.state["draft"]) == 1)
        window.press("u")
        window.until(lambda: not window.state["draft"])
        window.press("End")
        window.until(lambda: window.state["step"] == 59 and window.state["shown"])
        window.said(lambda: window.press("Enter"))
        assert window.errors == []
        window.page.close()
        again = Window(chromium, page.address).opened()
        again.until(lambda: len(again.state["draft"]) == 1)
        assert again.state["draft"][0]["confirmed"] is True
        again.until(lambda: again.state["mayWrite"] == "")  # the window before is closed
        again.page.close()


def test_the_frame_that_is_shown_is_the_frame_that_is_named(window: Window) -> None:
    for keys, step in (
        (["ArrowRight"] * 3, 3),
        (["Shift+ArrowRight"], 28),
        (["ArrowLeft"] * 5, 23),
        (["End"], 49),
        (["Home"], 0),
    ):
        window.press(*keys)
        window.at_step(step)
        window.shows(WIDTH - 2, 1, 4 * step * 255 / 219)
        assert f"frame {step} of" in window.text("where")


def test_it_plays_at_the_speed_of_the_video(window: Window) -> None:
    window.press("Home", " ")
    begin = time.monotonic()
    window.until(lambda: window.state["step"] >= 40)
    assert time.monotonic() - begin > 1.3  # 1.6, on a machine that has nothing else to do
    window.press(" ")
    window.until(lambda: window.text("play") == "Play")


def test_masks_are_painted_where_they_are(window: Window, page: Browser) -> None:
    window.press("2", "v", "3", "v", "1", "Shift+O", "Shift+O")
    (frame,) = page.get("runs/0/masks?first=0&end=1")
    color = page.get("runs/0")["objects"][0]["color"]
    ring = decoded(frame["objects"][0]["counts"], (HEIGHT, WIDTH))
    rows, columns = np.nonzero(ring)
    middle = int(np.argmin(np.abs(columns - np.median(columns)) + np.abs(rows - rows.min() - 4)))
    place = columns[middle] + 0.5, rows[middle] + 0.5
    expected = [0.25 * int(color[i : i + 2], 16) for i in (1, 3, 5)]  # the frame itself is black
    window.until(lambda: np.allclose(window.color(*place)[:3], expected, atol=4))
    window.press("v")
    window.until(lambda: max(window.color(*place)[:3]) < 5)


def test_brush_eraser_and_polygon_draw_to_the_pixel(window: Window) -> None:
    window.press("2", "d")
    window.press(*["<"] * 4)  # a radius of 4
    (drawn,) = window.said(lambda: window.drag((100, 90), (140, 90)))
    found = mask(drawn)
    assert found[90, 96:144].all()
    assert not found[90, :94].any()
    assert not found[90, 147:].any()
    assert found[86:94, 120].all()
    assert not found[:84].any()
    window.press("e")
    erased = mask(window.said(lambda: window.drag((120, 80), (120, 100)))[-1])
    assert not erased[90, 117:123].any()
    assert erased[90, 98:114].all()
    window.press("g")
    for corner in ((200, 20), (240, 20), (240, 60)):
        window.click(*corner)
    closed = mask(window.said(lambda: window.press("Enter"))[-1])
    assert closed[25, 210:238].all()
    assert not closed[50, 200:225].any()
    assert closed[90, 98:114].all()  # what was there stays
    for corner in ((200, 10), (260, 10), (260, 70), (200, 70)):
        window.click(*corner)
    assert not mask(window.said(lambda: window.press("Shift+Enter"))[-1])[:75].any()
    window.press("u", "u", "u")
    window.until(lambda: len(window.state["draft"]) == 1)
    window.press("y")
    window.until(lambda: len(window.state["draft"]) == 2)


def test_keys_do_not_depend_on_caps_lock(window: Window) -> None:
    """With it, a letter comes large without Shift, and small with it."""
    window.said(lambda: window.press("A"))
    window.press("Control+Z")
    window.until(lambda: not window.state["draft"])
    window.press("Control+Shift+z")
    window.until(lambda: len(window.state["draft"]) == 1)


def test_what_is_drawn_of_a_hidden_object_is_shown(window: Window) -> None:
    window.press("1", "v", "2", "v", "3", "v", "2", "d")
    window.page.mouse.move(*window.at(100, 90))
    window.page.mouse.down()
    window.page.mouse.move(*window.at(140, 90), steps=4)
    window.until(lambda: max(window.color(100, 90)[:3]) > 30)  # the frame itself is black
    window.said(window.page.mouse.up)
    window.page.wait_for_timeout(200)
    assert max(window.color(100, 90)[:3]) > 30
    assert window.page.locator("#objects input").nth(1).is_checked()
    assert not window.page.locator("#objects input").nth(0).is_checked()


def test_a_double_click_closes_a_polygon(window: Window) -> None:
    window.press("g")
    corners = ((200, 20), (240, 20), (240, 60))
    for corner in corners[:2]:
        window.click(*corner)
    closed = mask(window.said(lambda: window.page.mouse.dblclick(*window.at(*corners[2])))[-1])
    assert closed[25, 210:238].all()
    assert not closed[50, 200:225].any()
    for corner in corners[:2]:
        window.click(*corner)
    window.page.keyboard.down("Shift")
    cut = mask(window.said(lambda: window.page.mouse.dblclick(*window.at(*corners[2])))[-1])
    window.page.keyboard.up("Shift")
    assert not cut[25, 210:238].any()
    window.page.mouse.dblclick(*window.at(50, 50))
    window.until(lambda: "three corners" in window.message)


def test_a_stroke_beside_the_picture_says_nothing(window: Window) -> None:
    window.page.set_viewport_size({"width": 1280, "height": 900})  # room above and below the picture
    window.page.wait_for_timeout(200)
    window.press("2", "d")
    window.page.mouse.click(*window.at(300, -20))
    window.page.wait_for_timeout(300)
    assert window.state["draft"] == []
    window.page.mouse.move(*window.at(300, -20))
    window.page.mouse.down()
    window.page.mouse.move(*window.at(100, -20), steps=4)  # along the border: nothing of this is painted
    window.page.mouse.move(*window.at(100, 30), steps=8)
    (said,) = window.said(window.page.mouse.up)
    assert mask(said)[:25, 95:105].all()
    assert not mask(said)[:25, 130:].any()


def test_the_chosen_object_lies_on_top(chromium: Any, run: Path, engine: Engine) -> None:
    counts = [0, HEIGHT * 160, HEIGHT * (WIDTH - 160)]
    half = {"size": [HEIGHT, WIDTH], "counts": counts}
    with served([run], lambda words: engine) as page:
        for number in (1, 2, 3):
            page.post("runs/0/say", object=number, frame=0, mask=half)
        page.post("runs/0/leave")
        window = Window(chromium, page.address).opened()
        colors = []
        for key in "123":
            window.press(key)
            colors.append(tuple(window.color(40, 150)[:3]))
        assert len(set(colors)) == 3
        window.page.close()


def test_a_box_and_clicks(window: Window) -> None:
    window.press("b")
    (boxed,) = window.said(lambda: window.drag((20, 20), (90, 100)))
    assert np.allclose(boxed["box"], [20, 20, 70, 80], atol=0.6)
    window.press("c")
    clicked = window.said(lambda: window.click(50, 50))[-1]
    assert clicked["box"] == boxed["box"]
    assert np.allclose(clicked["points"], [[50, 50, 1]], atol=0.6)
    window.page.keyboard.down("Shift")
    shifted = window.said(lambda: window.click(300, 170))
    window.page.keyboard.up("Shift")
    assert shifted[-1]["points"][-1][2] == 0


def test_a_stretch_is_absent_or_right(window: Window) -> None:
    window.press("3", "Home", "s", "Shift+ArrowRight")
    window.at_step(25)
    (entry,) = window.said(lambda: window.press("a"))
    assert {k: entry.get(k) for k in ("object", "frame", "end", "absent")} == {
        "object": 3, "frame": 0, "end": 25, "absent": True,
    }  # fmt: skip
    window.until(lambda: "you: absent" in window.text("objects"))
    window.press("ArrowRight", "s", "Escape")
    assert window.state["from"] is None


def test_all_of_it_by_keyboard(window: Window, run: Path) -> None:
    """No mouse at all: a click at the cross, beside, a box, a brush, tracking, undo."""
    window.press("n", "p", "1", "Home")
    window.at_step(0)
    window.press("c", "f")  # the cross comes first
    window.press("Shift+J", "i")
    first = window.said(lambda: window.press("f"))
    assert first[-1]["points"][0][2] == 1
    window.press("Shift+L", "Shift+L")
    assert [x[2] for x in window.said(lambda: window.press("Shift+F"))[-1]["points"]] == [1, 0]
    window.press("b", "f", "Shift+L", "Shift+K")
    assert "box" in window.said(lambda: window.press("f"))[-1]
    window.press("d")
    assert "mask" in window.said(lambda: window.press("f"))[-1]
    window.press("+", "+", "0", "}", "{", ".", ",", "?")
    window.until(lambda: window.page.locator("#help").is_visible())
    window.press("Escape")
    window.until(lambda: not window.page.locator("#help").is_visible())
    window.followed(1)
    window.press("[", "]", "u")
    window.until(lambda: window.state["version"] == 0)
    assert len(versions_of(run)) == 1


def test_a_new_object(window: Window) -> None:
    window.press("w")
    window.page.keyboard.type("needle")
    window.press("Enter")
    window.until(lambda: window.state["version"] == 1)
    window.until(lambda: "needle" in window.text("objects"))
    window.until(lambda: window.state["object"] == 4 and window.state["shown"])
    window.press("d")
    (entry,) = window.said(lambda: window.drag((100, 90), (120, 90)))
    assert entry["object"] == 4


def test_quick_strokes_build_on_one_another(window: Window) -> None:
    window.press("d")
    window.drag((40, 40), (60, 40))
    window.drag((240, 140), (260, 140))
    window.until(lambda: len(window.state["draft"]) == 2)
    both = mask(window.state["draft"][-1])
    assert both[40, 50]
    assert both[140, 250]


def test_an_old_answer_takes_nothing_back(window: Window) -> None:
    """What the page asked before a stroke, and hears after it, does not know of the stroke."""
    held: list[tuple[Any, Any]] = []
    window.route("**/state?*", lambda route: held.append((route, route.fetch())))
    window.until(lambda: bool(held))
    window.press("d")
    window.said(lambda: window.drag((40, 40), (60, 40)))
    route, response = held.pop()
    route.fulfill(response=response)
    window.page.unroute("**/state?*")
    window.page.wait_for_timeout(200)
    both = mask(window.said(lambda: window.drag((240, 140), (260, 140)))[-1])
    assert both[40, 50]
    assert both[140, 250]


def test_a_drawing_belongs_to_its_frame_and_object(window: Window) -> None:
    window.press("d")
    window.page.mouse.move(*window.at(40, 40))
    window.page.mouse.down()
    window.page.mouse.move(*window.at(80, 40), steps=3)
    window.press("ArrowRight")
    window.page.mouse.up()
    window.at_step(1)
    window.press("g")
    window.click(100, 100)
    window.click(140, 100)
    window.press("2")
    window.click(140, 140)
    window.press("Enter")
    window.page.wait_for_timeout(300)
    assert window.state["draft"] == []


def test_what_was_pressed_last_does_not_take_the_keys(window: Window) -> None:
    window.page.locator("#absent").click()
    window.until(lambda: len(window.state["draft"]) == 1)
    window.press("ArrowRight")
    window.at_step(1)
    assert window.said(lambda: window.press("Enter"))[-1]["confirmed"] is True
    window.page.locator("#brush-size").fill("30")
    window.page.locator("#brush-size").dispatch_event("change")
    window.press("ArrowRight")
    window.at_step(2)
    window.press("Alt+a")
    window.page.wait_for_timeout(200)
    assert len(window.state["draft"]) == 2


def test_a_stretch_ends_where_another_object_is_chosen(window: Window) -> None:
    window.press("1", "Home", "s")
    box = window.page.locator("#lane-canvas").bounding_box()
    window.page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + 29 + 10)
    window.until(lambda: window.state["object"] == 2)
    assert window.state["from"] is None


def test_a_click_beside_the_picture_says_nothing(window: Window) -> None:
    window.click(-8, 60)
    window.click(WIDTH + 8, 60)
    window.page.wait_for_timeout(300)
    assert window.state["draft"] == []


def test_words_stay_with_the_run_they_were_said_of(chromium: Any, run: Path, engine: Engine, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "second")

    def slow(words: bool) -> Engine:
        time.sleep(2)
        return engine

    with served([run, tmp_path / "second"], slow) as page:
        window = Window(chromium, page.address)
        window.page.get_by_role("button", name="run", exact=True).click()
        window.opened()
        window.click(100, 100)  # the network takes its time
        window.press("ArrowRight")
        window.at_step(1)
        window.press("a")
        window.press("r")
        window.page.get_by_role("button", name="second").click()
        window.until(lambda: window.text("run-name") == "second")
        window.until(
            lambda: (run / "draft.json").exists() and len(json.loads((run / "draft.json").read_text())["marks"]) == 2
        )
        assert not (tmp_path / "second" / "draft.json").exists()
        assert window.state["draft"] == []
        window.page.close()


def test_undo_is_not_repeated_of_a_version_from_elsewhere(window: Window, run: Path, engine: Engine) -> None:
    label = json.loads((run / "run.json").read_text())["objects"][0]["label"]
    looks = Stopped(window, "**/state?*")  # else it may hear of the version before
    refine(run, Given([parse_mark(f"{label}@20 absent")]), lambda words: engine)
    window.press("u")
    window.until(lambda: "has changed" in window.message)
    looks.let_go()
    window.until(lambda: window.state["version"] == 1)
    assert len(versions_of(run)) == 2
    window.errors.clear()  # the refusal is logged


def test_lanes_lead_to_frames(window: Window) -> None:
    lanes = window.page.locator("#lane-canvas")
    box = lanes.bounding_box()
    window.page.mouse.click(box["x"] + box["width"] * (30.5 / FRAMES), box["y"] + 29 * 2 + 10)
    window.until(lambda: window.state["step"] == 30)
    assert window.state["object"] == 3
    window.press("}")
    window.until(lambda: window.state["shown"])


def test_a_line_shows_what_was_tracked_again(chromium: Any, run: Path, engine: Engine) -> None:
    for mark in ("1@10-12 absent", "1@20 absent"):
        refine(run, Given([parse_mark(mark)], reach=Reach(frames=0)), lambda words: engine)
    with served([run], lambda words: engine) as page:
        window = Window(chromium, page.address).opened()
        box = window.page.locator("#lane-canvas").bounding_box()

        def beneath(step: int) -> list[int]:
            place = [box["width"] * (step + 0.5) / FRAMES, 24]
            return list(
                window.page.evaluate(
                    "([x, y]) => [...document.getElementById('lane-canvas').getContext('2d')"
                    ".getImageData(x * devicePixelRatio, y * devicePixelRatio, 1, 1).data]",
                    place,
                )
            )

        window.until(lambda: beneath(11)[3] > 0)
        colors = [beneath(step) for step in (9, 10, 12, 13, 20, 21)]
        assert colors[0] == colors[3] == colors[5] == [0, 0, 0, 0]
        assert colors[1] == colors[2] != colors[4]
        assert colors[4][3] == 255
        assert window.errors == []
        window.page.close()


def test_everything_fits_into_a_small_window(window: Window) -> None:
    """At 1280 x 720 nothing lies outside, and the frame has most of the room."""
    for name in ("follow", "undo", "places", "lane-canvas", "help-button", "play"):
        box = window.page.locator(f"#{name}").bounding_box()
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= 1280, name
        assert box["y"] + min(box["height"], 20) <= 720, name
    picture = window.page.locator("#picture").bounding_box()
    assert picture["width"] * picture["height"] > 0.5 * 1280 * 720


def test_a_second_window_looks_on_and_takes_over(chromium: Any, window: Window, page: Browser) -> None:
    other = Window(chromium, page.address).opened()
    other.until(lambda: "another window" in other.message)
    other.press("a")
    other.page.wait_for_timeout(300)
    assert other.state["draft"] == []
    other.page.get_by_role("button", name="Correct it here").click()
    other.until(lambda: other.state["mayWrite"] == "")
    other.said(lambda: other.press("a"))
    window.until(lambda: "another window" in window.state["mayWrite"])
    assert len(window.state["draft"]) == 1  # it sees what is said there
    other.page.goto("about:blank")  # and once that is closed ...
    window.until(lambda: window.state["mayWrite"] == "")
    window.until(lambda: "looking only" not in window.message)  # ... it does not say so any more
    assert other.errors == []
    other.page.close()


def test_a_server_that_ends_is_told_of(chromium: Any, run: Path, engine: Engine) -> None:
    with served([run], lambda words: engine) as page:
        window = Window(chromium, page.address).opened()
        window.said(lambda: window.press("a"))
    window.press("ArrowRight")
    window.press("a")
    window.until(lambda: "does not answer" in window.message)
    with served([run], lambda words: engine) as page:
        again = Window(chromium, page.address).opened()
        again.until(lambda: len(again.state["draft"]) == 1)
        again.page.close()
    window.page.close()


HOSTILE = '<img src=x onerror="document.title=\'pwned\'"><script>document.title="pwned"</script>'


def test_a_hostile_run_runs_no_script(chromium: Any, run: Path, engine: Engine) -> None:
    record = json.loads((run / "run.json").read_text())
    for x in record["objects"]:
        x["label"] = x["text"] = HOSTILE + str(x["id"])
    (run / "run.json").write_text(json.dumps(record))
    hostile = run.with_name("<b onmouseover=document.title='pwned'>&lt;")
    run.rename(hostile)
    with served([hostile, hostile], lambda words: engine) as page:
        window = Window(chromium, page.address)
        window.until(lambda: window.page.locator("#runs-table button").count() == 2)
        window.page.locator("#runs-table button").first.click()
        window.opened()
        window.until(lambda: window.state["places"])
        assert "<img src=x" in window.text("objects")
        assert window.page.locator("aside img, #runs-table img, #lanes img, aside script").count() == 0
        assert "pwned" not in window.page.title().replace(HOSTILE, "").replace(hostile.name, "")
        assert window.errors == []
        window.page.close()


def test_many_runs(chromium: Any, run: Path, engine: Engine, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "second")
    with served([run, tmp_path / "second"], lambda words: engine) as page:
        window = Window(chromium, page.address)
        rows = window.page.locator("#runs-table tr")
        window.until(lambda: rows.count() == 3 and "…" not in window.text("runs-table"))
        window.page.get_by_role("button", name="second").click()
        window.opened()
        assert window.text("run-name") == "second"
        window.said(lambda: window.press("a"))
        window.press("r")
        window.until(lambda: window.page.locator("#runs").is_visible())
        assert json.loads((tmp_path / "second" / "draft.json").read_text())["marks"]
        assert not (run / "draft.json").exists()
        assert window.errors == []
        window.page.close()


def test_a_run_of_many_objects_leaves_room_in_the_list(chromium: Any, run: Path, engine: Engine) -> None:
    record = json.loads((run / "run.json").read_text())
    (first, *_) = record["objects"]
    record["objects"] = [{**first, "id": i, "label": f"an object with the number {i}"} for i in range(1, 21)]
    (run / "run.json").write_text(json.dumps(record))
    with served([run, run], lambda words: engine) as page:
        window = Window(chromium, page.address)
        window.page.set_viewport_size({"width": 800, "height": 600})
        rows = window.page.locator("#runs-table tr")
        wrong = window.page.locator("#runs-wrong li")
        window.until(lambda: wrong.count() == 2)  # neither can be counted: its frames do not have these objects
        assert rows.nth(1).bounding_box()["height"] < 120
        assert rows.nth(2).bounding_box()["height"] < 120
        assert "number 4, and 16 more" in str(rows.nth(1).text_content())
        assert "number 20" in str(rows.nth(1).locator(".names").get_attribute("title"))
        window.page.close()


def test_a_run_that_cannot_be_counted_says_so(chromium: Any, run: Path, engine: Engine, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "second")
    (run / "annotations.json").unlink()
    with served([run, tmp_path / "second"], lambda words: engine) as page:
        window = Window(chromium, page.address)
        rows = window.page.locator("#runs-table tr")
        window.until(lambda: rows.count() == 3 and "…" not in window.text("runs-table"))
        assert "annotations.json" in window.text("runs-wrong")
        assert "–" in str(rows.nth(1).text_content())
        assert window.message == ""
        window.page.get_by_role("button", name="run", exact=True).click()
        window.until(lambda: "annotations.json" in window.message)
        window.chosen("second")
        assert window.message == ""  # that was about the other one
        window.page.close()


def test_a_list_that_is_being_counted_stays_where_it_is(
    chromium: Any, run: Path, engine: Engine, tmp_path: Path
) -> None:
    """What is counted comes while a person points at a name."""
    shutil.copytree(run, tmp_path / "second")
    (run / "annotations.json").unlink()
    with served([run, tmp_path / "second"], lambda words: engine) as page:
        window = Window(chromium, "about:blank")
        counts = Held(window, "**/counted?*")
        window.page.goto(page.address)
        counts.come()
        window.page.get_by_role("button", name="second").hover()
        window.page.mouse.down()
        counts.let_go()
        window.until(lambda: "annotations.json" in window.text("runs-wrong"))
        window.page.mouse.up()
        window.opened()
        assert window.text("run-name") == "second"
        window.page.close()


def test_a_place_says_why_where_the_list_is_out_of_sight(window: Window) -> None:
    window.page.set_viewport_size({"width": 800, "height": 600})
    window.until(lambda: window.state["places"])
    window.press("n")
    window.until(lambda: window.message == window.state["places"][0]["reason"])


def test_for_looking_only(chromium: Any, run: Path) -> None:
    with served([run], None) as page:
        window = Window(chromium, page.address).opened()
        window.until(lambda: "looking only" in window.message)
        window.press("a", "Enter", "t", "w")
        window.click(50, 50)
        window.page.wait_for_timeout(300)
        assert not window.page.locator("#new").is_visible()
        assert not (run / "draft.json").exists()
        window.page.close()
