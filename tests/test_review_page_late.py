"""What is done on the review page while answers are on their way: nothing is lost, and nothing lands elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from clips import ffmpeg
from finished_runs import finished_run
from review_page import Browser, engine, served
from review_window import (
    JOB,
    NEEDS_CHROMIUM,
    WIDTH,
    Held,
    Stopped,
    Window,
    add_elsewhere,
    both,
    chromium,
    down_at,
    elsewhere,
    listed,
    mask,
    page,
    run,
    two_runs,
    whole,
    window,
    words,
)

from resurgsam2_cli.prompts.marks import parse_mark
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.refining.refine import Given, refine
from resurgsam2_cli.refining.versions import undo, versions_of
from resurgsam2_cli.segmenting.engine import Engine

pytestmark = NEEDS_CHROMIUM

__all__ = ["both", "chromium", "engine", "listed", "page", "run", "two_runs", "whole", "window"]  # fixtures


def test_masks_of_a_video_of_another_size(chromium: Any, run: Path, engine: Engine, tmp_path: Path) -> None:
    small = tmp_path / "s.mp4"
    ffmpeg("-f", "lavfi", "-i", "color=black:size=96x80:rate=25", "-frames:v", "20", small)
    finished_run(tmp_path / "small", small)
    with served([tmp_path / "small", run], lambda words: engine) as page:
        window = Window(chromium, page.address)
        window.page.get_by_role("button", name="small", exact=True).click()
        window.opened()
        window.page.wait_for_timeout(300)
        window.chosen("run")
        window.press("2", "d")  # absent here
        (said,) = window.said(lambda: window.drag((100, 150), (140, 150)))
        assert mask(said)[150, 100:140].all()
        window.page.close()


def test_a_stroke_after_undo(window: Window) -> None:
    window.press("2", "d")
    window.said(lambda: window.drag((40, 40), (60, 40)))
    undone = Stopped(window, "**/undo")
    window.press("u")
    undone.come()
    window.drag((240, 140), (260, 140))
    undone.let_go()
    window.until(lambda: len(window.state["draft"]) == 1 and mask(window.state["draft"][-1])[140, 250])
    assert not mask(window.state["draft"][-1])[40, 50]


@pytest.mark.parametrize("key", ["Enter", "u"])
def test_what_is_not_repeated_is_not_said_of_a_version_unseen(
    window: Window, run: Path, engine: Engine, key: str
) -> None:
    window.until(lambda: window.state["places"])
    held = Held(window, "**/runs/0?*")
    states: list[int] = []
    window.page.on("response", lambda x: states.append(1) if "/state?" in x.url else None)
    elsewhere(run, engine, "1@0 absent")
    held.come()  # the page has heard of version 1, and shows version 0
    assert window.state["version"] == 0
    window.press(key)
    window.page.wait_for_timeout(1500)
    assert words(run) == []
    assert len(versions_of(run)) == 2


def test_a_stroke_while_the_page_is_behind(window: Window, run: Path) -> None:
    window.until(lambda: window.state["places"])
    window.press("2", "d")
    held = Stopped(window, "**/runs/0?*")
    window.said(lambda: window.drag((40, 40), (60, 40)))
    window.press("t")
    held.come()
    window.until(lambda: window.state["job"] == "done" and not window.state["draft"])
    window.drag((240, 140), (260, 140))
    window.page.wait_for_timeout(500)
    held.let_go()
    window.until(lambda: window.state["version"] == 1)
    for entry in words(run):
        found = mask(entry)
        assert found[140, 250]
        assert found[40, 50]


def test_a_stroke_while_places_are_looked_for(window: Window, run: Path) -> None:
    """The renewal of version 2 waits for the places of version 1."""
    window.until(lambda: window.state["places"])
    places = Stopped(window, "**/places?*")
    window.said(lambda: window.press("3", "a"))
    window.followed(1)
    places.come()
    window.press("2", "d")
    window.said(lambda: window.drag((40, 40), (60, 40)))
    window.press("t")
    window.until(lambda: window.state["job"] == "done" and not window.state["draft"])
    window.until(lambda: window.state["version"] == 2 and window.state["shown"])
    window.drag((240, 140), (260, 140))
    window.page.wait_for_timeout(500)
    said = words(run)
    assert not said or mask(said[-1])[40, 50]


def test_a_stroke_in_a_stretch_that_is_right(window: Window) -> None:
    window.press("2", "d", "Shift+ArrowRight")
    window.at_step(25)
    window.said(lambda: window.drag((40, 40), (60, 40)))
    window.press("Home", "s", "End")
    window.at_step(49)
    window.said(lambda: window.press("Enter"))
    window.press("Home", "Shift+ArrowRight")
    window.at_step(25)
    said = window.said(lambda: window.drag((240, 140), (260, 140)))
    assert mask(said[-1])[140, 250]
    assert mask(said[-1])[40, 50]


def test_a_stretch_stays_with_its_object(window: Window, run: Path, engine: Engine) -> None:
    window.press("1", "Home", "s")
    window.until(lambda: window.state["from"] == 0)
    add_elsewhere(run, engine)
    window.until(lambda: window.state["version"] == 1 and window.state["shown"])
    window.press("Shift+ArrowRight")
    window.at_step(25)
    (said,) = window.said(lambda: window.press("a"))
    assert said["object"] == 1 or "end" not in said


def test_the_chosen_object_stays(window: Window, run: Path, engine: Engine) -> None:
    window.press("1")
    window.until(lambda: window.state["object"] == 1)
    add_elsewhere(run, engine)
    window.until(lambda: window.state["version"] == 1 and window.state["shown"])
    (said,) = window.said(lambda: window.press("a"))
    assert said["object"] == 1


def test_an_old_answer_to_cancel(window: Window) -> None:
    window.press("2", "d")
    held = Held(window, "**/cancel")
    window.page.evaluate("import('./tools.js').then(({ cancel }) => { cancel(); })")
    held.come()
    window.said(lambda: window.drag((40, 40), (60, 40)))
    held.let_go()
    window.drag((240, 140), (260, 140))
    window.until(lambda: any(mask(x)[140, 250] for x in window.state["draft"] if "mask" in x))
    assert mask(window.state["draft"][-1])[40, 50]


def test_an_old_answer_to_taking_over(chromium: Any, window: Window, page: Browser) -> None:
    other = Window(chromium, page.address).opened()
    other.until(lambda: "another window" in other.message)
    held = Held(other, "**/take-over")
    other.page.get_by_role("button", name="Correct it here").click()
    held.come()
    other.until(lambda: other.state["mayWrite"] == "")  # the next look says so
    other.press("2", "d")
    other.said(lambda: other.drag((40, 40), (60, 40)))
    held.let_go()
    other.drag((240, 140), (260, 140))
    other.until(lambda: any(mask(x)[140, 250] for x in other.state["draft"]))
    assert mask(other.state["draft"][-1])[40, 50]
    other.page.close()


def test_a_lost_word_is_told(window: Window) -> None:
    stopped = Stopped(window, "**/say")
    window.press("a", "ArrowRight")
    window.at_step(1)
    window.press("a")
    stopped.come()
    stopped.refuse("There is no room.")
    window.until(lambda: len(window.state["draft"]) == 1)
    window.errors.clear()
    assert window.message.endswith(" @ 0: There is no room.")  # frame 1 is shown


def test_a_lost_word_is_told_for_longer_than_the_server_is_away(window: Window) -> None:
    window.route("**/say", lambda route: route.abort())
    states: list[Any] = []

    def first_fails(route: Any) -> None:
        states.append(route)
        if len(states) == 1:
            route.abort()
        else:
            route.continue_()

    window.press("a")
    window.until(lambda: "does not answer" in window.message)
    window.route("**/state?*", first_fails)
    window.until(lambda: len(states) >= 2)
    window.page.wait_for_timeout(500)
    window.errors.clear()
    assert window.message != ""


def test_undo_of_a_lost_word(window: Window) -> None:
    window.said(lambda: window.press("a"))
    window.press("ArrowRight")
    window.at_step(1)
    stopped = Stopped(window, "**/say")
    window.press("a", "u")  # this one is taken back
    stopped.come()
    stopped.refuse("There is no room.")
    window.until(lambda: window.message == "There is no room. Nothing was taken back.")
    window.errors.clear()
    assert len(window.state["draft"]) == 1


def test_words_on_their_way_when_the_run_is_left(both: Window, two_runs: Browser, run: Path) -> None:
    stopped = Stopped(both, "**/say")
    both.press("a", "ArrowRight")
    both.at_step(1)
    both.press("a")
    stopped.come()
    both.chosen("second")
    both.page.wait_for_timeout(300)
    two_runs.get("runs/0/state")  # another both looks
    stopped.let_go()
    both.comes_to_stay(lambda: len(words(run)) == 2)


def test_words_on_their_way_when_the_page_is_closed(chromium: Any, page: Browser) -> None:
    window = Window(chromium, page.address).opened()
    asked: list[str] = []

    def answer(dialog: Any) -> None:
        asked.append(dialog.type)
        dialog.accept()

    window.page.on("dialog", answer)
    Stopped(window, "**/say")
    window.press("a")
    window.page.goto("about:blank")
    assert asked == ["beforeunload"]
    window.page.close()


def test_a_look_on_its_way_when_the_run_is_left(both: Window, two_runs: Browser) -> None:
    stopped = Stopped(both, "**/runs/0/state?*")
    stopped.come()
    both.chosen("second")
    both.page.wait_for_timeout(300)
    stopped.let_go()
    both.until(lambda: two_runs.get("runs/0/state")["may_write"] == "")


def test_a_new_object_of_the_run_it_was_asked_for(both: Window, tmp_path: Path) -> None:
    held = Held(both, "**/runs/1?*")
    both.press("r")
    both.page.get_by_role("button", name="second", exact=True).click()
    held.come()
    both.press("w")
    both.page.keyboard.type("needle")
    held.let_go()
    both.press("Enter")
    both.until(lambda: both.message == "Not added: second was opened meanwhile.")
    assert len(versions_of(tmp_path / "second")) == 1


def test_enter_on_a_place_after_a_version_came(window: Window, run: Path, engine: Engine) -> None:
    window.until(lambda: window.state["places"])
    window.page.locator("#places button").first.focus()
    elsewhere(run, engine)
    window.until(lambda: window.state["version"] == 1 and window.state["shown"] and window.state["places"])
    window.page.wait_for_timeout(300)
    window.press("Enter")
    window.page.wait_for_timeout(400)
    assert words(run) == []


def test_enter_twice_on_track_again(window: Window, run: Path) -> None:
    window.said(lambda: window.press("a"))
    window.press("ArrowRight")
    window.at_step(1)
    window.page.locator("#follow").focus()
    window.press("Enter")
    window.until(lambda: window.state["job"] is not None)
    window.press("Enter")
    window.until(lambda: window.state["version"] == 1)
    window.page.wait_for_timeout(400)
    assert words(run) == []


def test_a_polygon_stays_while_versions_come(window: Window, run: Path, engine: Engine) -> None:
    window.until(lambda: window.state["places"])
    stopped = Stopped(window, "**/runs/0?*")
    elsewhere(run, engine)
    stopped.come()
    states: list[int] = []
    window.page.on("response", lambda x: states.append(1) if "/state?" in x.url else None)
    window.until(lambda: states)  # another look, with the same news
    window.page.wait_for_timeout(200)
    places = Stopped(window, "**/places?*")
    stopped.let_go()
    window.until(lambda: window.state["version"] == 1 and window.state["shown"])
    places.come()
    window.press("g")
    window.click(100, 100)
    window.click(140, 100)
    places.let_go()
    window.page.wait_for_timeout(500)
    window.click(140, 140)
    window.said(lambda: window.press("Enter"))


def test_an_object_that_is_pressed_as_a_version_comes(window: Window, run: Path, engine: Engine) -> None:
    window.page.locator("#objects button").nth(1).hover()
    window.page.mouse.down()
    elsewhere(run, engine)
    window.until(lambda: window.state["version"] == 1 and window.state["shown"])
    window.page.mouse.up()
    window.page.wait_for_timeout(200)
    assert window.state["object"] == 2


def test_places_of_an_object_that_is_taken_back(window: Window, run: Path, engine: Engine) -> None:
    refine(run, Given(added=[Prompt("needle", "needle", words=True)]), lambda words: engine)
    window.until(lambda: window.state["version"] == 1 and window.state["shown"])
    window.comes_to_stay(lambda: 4 in [x["object_id"] for x in window.state["places"]])
    undo(run)
    window.until(lambda: window.state["version"] == 0 and window.text("version") == "version 0")
    assert window.page.locator("#objects button").count() == 3
    window.page.wait_for_timeout(1000)
    refine(run, Given([parse_mark("1@20 absent")]), lambda words: engine)
    window.until(lambda: window.state["version"] == 1)  # the next one comes, too


def test_an_answer_after_the_person_went_elsewhere(window: Window) -> None:
    stopped = Stopped(window, "**/next?*")
    window.press("2", ".")
    stopped.come()
    window.press("Shift+ArrowRight", "d")
    window.at_step(25)
    down_at(window, 40, 40)
    window.page.mouse.move(*window.at(60, 40), steps=4)
    stopped.let_go()
    window.page.mouse.up()
    window.comes_to_stay(lambda: len(window.state["draft"]) == 1)
    assert window.state["step"] == 25


def test_play_anew_while_the_first_waits(window: Window) -> None:
    """Play, stop, go elsewhere, play: frames come from one place only."""
    stopped = Stopped(window, re.compile(r"/frames/([1-9]|1\d|2[0-4])\.jpg"))
    window.press("Home", " ")
    window.until(lambda: window.state["step"])  # the first, or a later one if the machine is slow
    window.press(" ")
    step = window.state["step"]
    window.press("Shift+ArrowRight")
    window.at_step(step + 25)
    window.page.evaluate(
        "Promise.all([import('./state.js')]).then(([{ on, state }]) => { window.seen = [];"
        " on('moved', () => window.seen.push(state.step)); })"
    )
    window.press(" ")
    stopped.let_go()
    window.page.wait_for_timeout(500)
    window.press(" ") if window.text("play") == "Stop" else None
    seen = window.page.evaluate("window.seen")
    assert seen == sorted(seen), seen


def test_play_across_runs(both: Window) -> None:
    stopped = Stopped(both, "**/runs/0/masks?first=32*")
    both.press(" ")
    stopped.come()
    both.chosen("second")
    both.page.locator("#picture").focus()
    both.press("Shift+ArrowRight")
    both.at_step(25)
    both.page.evaluate(
        "Promise.all([import('./state.js')]).then(([{ on, state }]) => { window.seen = [];"
        " on('moved', () => window.seen.push(state.step)); })"
    )
    both.press(" ")
    stopped.let_go()
    both.comes_to_stay(lambda: both.state["step"] > 40)
    seen = both.page.evaluate("window.seen")
    assert seen == sorted(seen), seen


def test_a_late_picture_of_another_run(listed: Window) -> None:
    late = Stopped(listed, "**/runs/0/frames/0.jpg?*")
    states = Stopped(listed, "**/runs/1/state?*")
    pictures = Stopped(listed, "**/runs/1/frames/0.jpg?*")
    listed.page.get_by_role("button", name="run", exact=True).click()
    late.come()
    listed.press("r")
    listed.page.get_by_role("button", name="second", exact=True).click()
    states.come()
    late.let_go()
    states.let_go()
    pictures.come()
    listed.page.wait_for_timeout(300)
    assert not listed.state["shown"]


def test_the_page_keeps_up_while_places_are_looked_for(chromium: Any, page: Browser, run: Path) -> None:
    window = Window(chromium, "about:blank")
    places = Stopped(window, "**/places?*")
    window.page.goto(page.address)
    window.opened()
    places.come()
    window.said(lambda: window.press("a"))
    window.press("t")
    window.until(lambda: len(versions_of(run)) == 2)
    window.until(lambda: window.state["job"] == "done")


def test_runs_asked_for_twice(both: Window) -> None:
    routes: list[Any] = []
    both.route("**/api/runs?*", lambda route: routes.append(route))
    both.page.locator("#runs-button").dblclick()
    both.until(lambda: routes)
    both.page.wait_for_timeout(100)
    routes.pop(0).continue_()
    both.until(lambda: both.page.locator("#runs").is_visible())
    both.page.get_by_role("button", name="second", exact=True).hover()
    both.page.mouse.down()
    for route in routes:
        route.continue_()
    both.page.wait_for_timeout(300)
    both.page.mouse.up()
    both.until(lambda: both.text("run-name") == "second")


@pytest.mark.parametrize("key", ["Enter", "a"])
def test_what_is_said_of_a_frame_that_is_not_there_yet(window: Window, key: str) -> None:
    window.until(lambda: window.state["places"])
    stopped = Stopped(window, "**/frames/1.jpg?*")
    window.press("ArrowRight", key)  # frame 0 is what is seen
    window.page.wait_for_timeout(500)
    said = window.state["draft"]
    stopped.let_go()
    assert said == []


def test_a_word_before_anything_of_a_run_is_seen(both: Window, tmp_path: Path) -> None:
    states = Stopped(both, "**/runs/1/state?*")
    both.press("r")
    both.page.get_by_role("button", name="second", exact=True).click()
    states.come()
    both.press("a")
    both.page.wait_for_timeout(500)
    assert words(tmp_path / "second") == []


def test_lanes_before_they_are_answered(window: Window) -> None:
    """What is clicked on is what is seen: the part that was asked for, with what is known of it."""
    lanes = Stopped(window, "**/lanes?*")
    pixels = "document.getElementById('lane-canvas').toDataURL()"
    before = window.page.evaluate(pixels)
    window.press("}")
    lanes.come()
    after = window.page.evaluate(pixels)
    lanes.let_go()
    assert after != before


def test_a_long_message_moves_nothing(window: Window) -> None:
    before = window.page.locator("#picture").bounding_box()
    window.page.evaluate(
        "import('./state.js').then(({ say }) => say('/home/somebody/recordings/2026-11-28/theatre 4/a run of the day:"
        " the run is not there any more (No such file or directory). If it was moved, start review again with its new"
        " path.', 'error'))"
    )
    window.page.wait_for_timeout(200)
    assert window.page.locator("#picture").bounding_box() == before


def test_the_end_of_a_correction_moves_no_place(window: Window) -> None:
    window.until(lambda: window.state["places"])
    top = "document.getElementById('places').getBoundingClientRect().top"
    before = window.page.evaluate(top)
    running = window.page.evaluate(
        "import('./state.js').then(({ emit, state }) => { state.job = { stage: 'running', what: '', frames: 1, at: 2 };"
        f" emit('draft'); return {top}; }})"
    )
    assert running == before


def test_a_box_begun_then_a_polygon(window: Window) -> None:
    window.press("b", "f", "f")  # one corner at the cross
    window.press("g")
    for corner in ((200, 20), (240, 20), (240, 60)):
        window.click(*corner)
    window.said(lambda: window.press("Enter"))


def test_a_polygon_is_not_lost_by_another_tool(window: Window) -> None:
    window.press("g")
    for corner in ((200, 20), (240, 20), (240, 60)):
        window.click(*corner)
    for tool in "bdec":
        window.press(tool)
        window.drag((20, 20), (90, 100))
        assert "A polygon was begun" in window.message
    window.press("g")
    (said,) = window.said(lambda: window.press("Enter"))
    assert mask(said)[25, 235]


def test_the_picture_that_is_shown_is_kept(window: Window) -> None:
    for step in range(1, 48):
        window.press("ArrowRight")
        window.at_step(step)
    window.press("Home")
    window.at_step(0)
    window.shows(WIDTH - 2, 1, 0)
    stopped = Stopped(window, "**/frames/49.jpg?*")
    window.press("End")
    stopped.come()
    window.page.wait_for_timeout(5500)
    window.press("o")  # paints
    window.page.wait_for_timeout(300)
    assert window.errors == []


def test_the_tool_is_changed_while_something_is_drawn(window: Window) -> None:
    window.press("2", "d")
    down_at(window, 40, 40)
    window.page.mouse.move(*window.at(60, 40), steps=4)
    window.press("c")
    window.page.mouse.move(*window.at(40, 40), steps=4)
    (said,) = window.said(window.page.mouse.up)
    assert "mask" in said, said
    assert mask(said)[40, 42:58].all()


def test_places_of_the_next_version(chromium: Any, page: Browser, run: Path, engine: Engine) -> None:
    window = Window(chromium, "about:blank")
    places = Stopped(window, "**/places?*")
    window.page.goto(page.address)
    window.opened()
    places.come()
    refine(run, Given(added=[Prompt("needle", "needle", words=True)]), lambda words: engine)
    places.let_go()
    window.page.wait_for_timeout(500)
    window.until(lambda: window.state["version"] == 1)


def test_lanes_of_the_next_version(window: Window, run: Path, engine: Engine) -> None:
    add_elsewhere(run, engine)
    window.until(lambda: window.state["version"] == 1 and window.state["shown"])
    window.page.wait_for_timeout(500)
    stopped = Stopped(window, "**/runs/0?*")
    undo(run)
    stopped.come()
    window.press("}")
    window.page.wait_for_timeout(500)
    window.press("Shift+ArrowRight")
    window.at_step(25)


def test_a_version_that_comes_while_something_is_drawn(window: Window) -> None:
    window.said(lambda: window.press("3", "a"))
    window.press("2", "d", "t")
    down_at(window, 40, 40)
    window.page.mouse.move(*window.at(60, 40), steps=4)
    window.until(lambda: window.state["version"] == 1 and window.state["shown"])
    (said,) = window.said(window.page.mouse.up)
    assert mask(said)[40, 42:58].all()


def test_what_was_drawn_in_a_stretch_that_is_right_is_seen(window: Window) -> None:
    window.press("2", "d")
    window.said(lambda: window.drag((40, 40), (60, 40)))
    window.press("s", "End")
    window.at_step(49)
    window.said(lambda: window.press("Enter"))
    window.press("Home")
    window.at_step(0)
    window.until(lambda: max(window.color(40, 40)[:3]) > 30)  # what was drawn is still seen


def test_a_double_click_with_another_tool(window: Window) -> None:
    window.press("g")
    for corner in ((200, 20), (240, 20), (240, 60), (200, 60)):
        window.click(*corner)
    window.press("h")  # to look at it
    window.page.mouse.dblclick(*window.at(100, 100))
    window.page.wait_for_timeout(500)
    assert window.state["draft"] == []


def test_the_cross_of_another_run(chromium: Any, run: Path, engine: Engine, tmp_path: Path) -> None:
    small = tmp_path / "s.mp4"
    ffmpeg("-f", "lavfi", "-i", "color=black:size=96x80:rate=25", "-frames:v", "20", small)
    finished_run(tmp_path / "small", small)
    with served([run, tmp_path / "small"], lambda words: engine) as page:
        window = Window(chromium, page.address)
        window.page.get_by_role("button", name="run", exact=True).click()
        window.opened()
        window.press("f", "Shift+L", "Shift+L", "Shift+L")
        window.chosen("small")
        window.press("d", "f")
        window.page.wait_for_timeout(500)
        assert words(tmp_path / "small") == []
        window.page.close()


def test_places_stay_where_they_were_scrolled_to(window: Window) -> None:
    window.until(lambda: window.state["places"])
    window.press("n")
    window.until(lambda: window.message == window.state["places"][0]["reason"])
    button = window.page.locator("#places button").last
    button.hover()  # scrolls there
    window.page.mouse.down()
    window.page.evaluate(JOB)
    window.page.wait_for_timeout(100)
    window.page.mouse.up()
    window.until(lambda: window.message == window.state["places"][-1]["reason"])


def test_objects_stay_where_they_were_scrolled_to(chromium: Any, run: Path, engine: Engine) -> None:
    names = [f"needle {i}" for i in range(12)]
    refine(run, Given(added=[Prompt(x, x, words=False) for x in names]), lambda words: engine)
    with served([run], lambda words: engine) as page:
        window = Window(chromium, page.address).opened()
        button = window.page.locator("#objects button").last
        button.hover()
        window.page.mouse.down()
        window.page.evaluate(JOB)
        window.page.wait_for_timeout(100)
        window.page.mouse.up()
        window.until(lambda: window.state["object"] == 15)
        window.page.close()


def test_a_place_that_is_reviewed_moves_no_other(window: Window) -> None:
    window.until(lambda: window.state["places"])
    moved = window.page.evaluate(
        """() => {
          const [one, two] = document.querySelectorAll('#places button');
          const found = [];
          for (let n = 4; n < 60; n++) {
            one.querySelector('b').textContent = `${'x'.repeat(n / 2)} ${'y'.repeat(n / 2)} @ 12`;
            one.className = '';
            const before = two.offsetTop;
            one.className = 'reviewed';
            if (two.offsetTop !== before) found.push(n);
          }
          return found;
        }"""
    )
    assert moved == []


@pytest.mark.parametrize("what", ["masks", "frames/0.jpg", "places", "state", "lanes"])
def test_what_comes_late_of_a_run_that_was_left(listed: Window, what: str) -> None:
    """An answer about another run neither shows nor is told."""
    refused = {"sentences": "This was about the first one."}
    routes: list[Any] = []
    listed.route(f"**/runs/0/{what}?*", lambda route: routes.append(route))
    listed.page.get_by_role("button", name="run", exact=True).click()
    listed.until(lambda: routes)
    listed.chosen("second")
    for route in routes:
        route.fulfill(status=400, json=refused)
    listed.page.wait_for_timeout(300)
    assert listed.message == ""
    listed.until(lambda: listed.state["places"])
    assert listed.text("run-name") == "second"


def test_the_run_that_was_asked_for_last_is_opened(listed: Window) -> None:
    first = Held(listed, "**/runs/0?*")
    listed.page.get_by_role("button", name="run", exact=True).click()
    first.come()
    listed.chosen("second")
    listed.press("ArrowRight")
    listed.at_step(1)
    first.let_go()
    assert (listed.text("run-name"), listed.state["step"]) == ("second", 1)


def test_a_word_that_is_lost_after_its_run_was_left(listed: Window) -> None:
    routes: list[Any] = []
    listed.route("**/runs/0/say", lambda route: routes.append(route))
    listed.page.get_by_role("button", name="run", exact=True).click()
    listed.opened()
    listed.press("a")
    listed.until(lambda: routes)
    listed.chosen("second")
    routes[0].fulfill(status=400, json={"sentences": "There is no room."})
    listed.until(lambda: listed.message == "run: There is no room.")


def test_a_place_stays_where_it_is_while_something_is_said(window: Window) -> None:
    """What comes from the server while the button is down does not take the button away."""
    window.until(lambda: window.state["places"])
    button = window.page.locator("#places button").last
    button.hover()
    window.page.mouse.down()
    window.page.evaluate(JOB)
    window.page.mouse.up()
    window.until(lambda: window.message == window.state["places"][-1]["reason"])
