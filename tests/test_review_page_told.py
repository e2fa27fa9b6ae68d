"""What the review page tells, and what it keeps of a drawing: whatever happens meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from review_page import Browser, engine, served
from review_window import (
    NEEDS_CHROMIUM,
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

from resurgsam2_cli.refining.versions import undo, versions_of
from resurgsam2_cli.segmenting.engine import Engine

pytestmark = NEEDS_CHROMIUM

__all__ = ["both", "chromium", "engine", "listed", "page", "run", "two_runs", "whole", "window"]  # fixtures


def touch(fingers: Any, kind: str, *places: tuple[float, float]) -> None:
    """What a finger does, by a session of Chromium's own protocol."""
    points = [{"x": x, "y": y} for x, y in places]
    fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def test_right_after_a_click_that_is_lost(window: Window, run: Path) -> None:
    stopped = Stopped(window, "**/say")
    window.press("2")
    window.click(100, 100)
    stopped.come()
    window.press("Enter")
    stopped.refuse("The network finds nothing there.")
    window.page.wait_for_timeout(500)
    window.errors.clear()
    assert words(run) == []


def test_an_object_that_was_refused_then_one_from_elsewhere(window: Window, run: Path, engine: Engine) -> None:
    window.press("1", "w")
    window.page.keyboard.type("12")
    window.press("Enter")
    window.until(lambda: "no name" in window.message)
    window.errors.clear()
    add_elsewhere(run, engine)
    window.until(lambda: window.state["version"] == 1 and window.state["shown"])
    assert window.state["object"] == 1


def test_an_object_after_a_job_that_was_cancelled(window: Window, run: Path) -> None:
    window.said(lambda: window.press("1", "a"))
    window.press("t")
    window.until(lambda: window.state["job"] == "running")
    window.press("Escape")
    window.until(lambda: window.state["job"] == "cancelled")
    window.press("ArrowRight")
    window.at_step(1)
    stopped = Stopped(window, "**/say")
    window.click(100, 100)  # takes a while
    stopped.come()
    window.press("w")
    window.page.keyboard.type("needle")
    window.press("Enter")
    stopped.let_go()
    window.until(lambda: window.state["version"] == 1 and window.state["shown"])
    assert window.state["object"] == 4


def test_a_pan_that_the_system_ends(window: Window) -> None:
    fingers = window.page.context.new_cdp_session(window.page)
    window.press("h")
    a, b = window.at(100, 100), window.at(140, 100)
    touch(fingers, "touchStart", a)
    touch(fingers, "touchMove", b)
    touch(fingers, "touchCancel")
    window.press("2", "d")
    touch(fingers, "touchStart", a)
    touch(fingers, "touchMove", b)
    touch(fingers, "touchEnd")
    window.comes_to_stay(lambda: len(window.state["draft"]) == 1)


def test_a_pan_that_is_cancelled_keeps_a_polygon_and_from(window: Window) -> None:
    window.press("s", "g")
    for c in ((200, 20), (240, 20), (240, 60)):
        window.click(*c)
    window.press("h")
    fingers = window.page.context.new_cdp_session(window.page)
    a, b = window.at(100, 100), window.at(140, 100)
    touch(fingers, "touchStart", a)
    touch(fingers, "touchMove", b)
    touch(fingers, "touchCancel")
    window.page.wait_for_timeout(200)
    assert window.state["from"] == 0
    window.said(lambda: window.press("Enter"))


def test_disabled_button_by_mouse_then_a_key(window: Window, run: Path) -> None:
    window.page.locator("#follow").click(force=True)  # nothing was said yet
    window.said(lambda: window.press("a"))
    window.press(" ")  # play
    window.comes_to_stay(lambda: window.state["step"] > 0)
    assert window.state["job"] is None


def test_enter_twice_on_cancel(window: Window, run: Path) -> None:
    window.said(lambda: window.press("a"))
    window.press("t")
    window.until(lambda: window.state["job"] == "running")
    window.page.locator("#cancel").focus()
    window.press("Enter")
    window.until(lambda: window.state["job"] == "cancelled")
    window.press("Enter")
    window.page.wait_for_timeout(1000)
    assert window.state["job"] == "cancelled"
    assert len(versions_of(run)) == 1


def test_a_polygon_dropped_by_a_place_is_told(window: Window) -> None:
    window.until(lambda: window.state["places"])
    first = window.state["places"][0]["object_id"]
    window.press(str(1 if first != 1 else 2), "g")
    for c in ((200, 20), (240, 20), (240, 60)):
        window.click(*c)
    window.press("n")
    window.comes_to_stay(lambda: "dropped" in window.message)


def test_double_click_beside_the_picture(window: Window) -> None:
    window.page.set_viewport_size({"width": 800, "height": 720})
    window.page.wait_for_timeout(300)
    window.press("2", "g")
    for c in ((100, 20), (200, 20), (200, 100), (100, 100)):
        window.click(*c)
        window.page.wait_for_timeout(600)
    x, y = window.at(150, -20)
    window.page.mouse.dblclick(x, y)
    window.page.wait_for_timeout(800)
    d = window.state["draft"]
    assert not d or mask(d[-1])[95, 110]


def test_two_f_while_painting(window: Window) -> None:
    window.press("2", "d")
    down_at(window, 40, 40)
    window.page.mouse.move(*window.at(60, 40), steps=4)
    window.press("f", "f")
    window.page.mouse.move(*window.at(120, 40), steps=4)
    window.page.mouse.up()
    window.comes_to_stay(lambda: any(mask(x)[40, 115] for x in window.state["draft"]))


def test_reason_of_a_place_stays(window: Window) -> None:
    window.until(lambda: window.state["places"])
    held = Held(window, "**/say")
    window.press("a")
    held.come()
    window.press("n")
    window.until(lambda: window.message)
    shown = window.message
    held.let_go()
    assert window.message == shown


def test_from_here_stays(window: Window) -> None:
    held = Held(window, "**/say")
    window.press("a")
    held.come()
    window.press("s")
    shown = window.message
    held.let_go()
    assert window.message == shown


def test_without_a_run(listed: Window) -> None:
    listed.page.get_by_role("button", name="Close", exact=True).last.click()
    listed.page.wait_for_timeout(200)
    listed.page.locator("#picture").hover()
    listed.page.mouse.down()
    listed.page.mouse.up()
    listed.page.wait_for_timeout(200)
    assert listed.errors == []


@pytest.mark.parametrize(
    "id", ["from-here", "play", "forth", "narrow", "new-object", "absent", "confirm", "undo", "follow", "next-place"]
)
def test_button_without_a_run(listed: Window, id: str) -> None:
    listed.page.get_by_role("button", name="Close", exact=True).last.click()
    listed.page.wait_for_timeout(200)
    listed.page.locator(f"#{id}").click()
    listed.page.wait_for_timeout(300)
    assert listed.errors == []


def test_read_only_is_told_of_each_run(chromium: Any, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "second")
    with served([run, tmp_path / "second"], None) as page:
        w = Window(chromium, page.address)
        w.page.get_by_role("button", name="run", exact=True).click()
        w.opened()
        assert "looking only" in w.message
        w.chosen("second")
        w.page.wait_for_timeout(500)
        assert "looking only" in w.message
        w.page.close()


def test_looking_only_is_not_cleared_by_a_word_of_another_run(both: Window, two_runs: Browser) -> None:
    two_runs.get("runs/1/state")
    held = Held(both, "**/runs/0/say")
    both.press("a")
    held.come()
    both.chosen("second")
    both.until(lambda: "another window" in both.message)
    held.let_go()
    assert "another window" in both.message


def test_a_polygon_when_another_window_took_over(chromium: Any, window: Window, page: Browser) -> None:
    window.press("2", "g")
    for c in ((200, 20), (240, 20), (240, 60)):
        window.click(*c)
    page.post("runs/0/take-over")
    window.until(lambda: window.state["mayWrite"])
    window.press("Enter")
    window.page.wait_for_timeout(300)
    window.page.locator("#take-over").click()
    window.until(lambda: window.state["mayWrite"] == "")
    window.said(lambda: window.press("Enter"))
    assert "mask" in window.state["draft"][-1]


def test_refusal_of_cancel_is_told_after_a_lost_word(window: Window) -> None:
    window.press("y")  # nothing to redo
    window.until(lambda: "nothing to redo" in window.message)
    window.route("**/next?*", lambda r: r.fulfill(status=400, json={"sentences": "NEXT FAILED."}))
    window.press(".")
    window.comes_to_stay(lambda: "NEXT" in window.message)
    window.errors.clear()


def test_thin_polygon_is_told(window: Window) -> None:
    window.press("2", "g")
    for c in ((20, 20.2), (240, 20.2), (240, 20.6)):
        window.click(*c)
    window.press("Enter")
    window.comes_to_stay(lambda: window.state["draft"] or window.message)


def test_does_not_answer_is_told_after_nothing_to_redo(window: Window) -> None:
    window.press("y")
    window.until(lambda: "nothing to redo" in window.message)
    window.route("**/state?*", lambda r: r.abort())
    window.until(lambda: window.state["mayWrite"])
    window.comes_to_stay(lambda: "not answer" in window.message)
    window.page.unroute("**/state?*")
    window.page.wait_for_timeout(200)
    window.errors.clear()


def test_taken_over_is_told_after_nothing_to_redo(window: Window, page: Browser) -> None:
    window.press("y")
    window.until(lambda: "nothing to redo" in window.message)
    window.errors.clear()
    page.post("runs/0/take-over")
    window.until(lambda: window.state["mayWrite"])
    assert "another window" in window.message


@pytest.mark.parametrize("size", [(800, 600), (1280, 720)])
def test_a_long_lost_message_can_be_read(window: Window, size: tuple[int, int]) -> None:
    window.page.set_viewport_size({"width": size[0], "height": size[1]})
    window.page.evaluate(
        "import('./state.js').then(({ say }) => say('/home/somebody/recordings/2026-11-28/theatre 4/a run of the day:"
        " the run is not there any more (No such file or directory). If it was moved, start review again with its new"
        " path.', 'lost'))"
    )
    window.page.wait_for_timeout(200)
    s = window.page.evaluate(
        "(() => { const m = document.getElementById('message'); return [m.clientHeight, m.scrollHeight, m.title]})()"
    )
    assert s[1] <= s[0] or s[2], s


def test_a_long_sentence_about_tracking_in_a_small_window(window: Window) -> None:
    window.page.set_viewport_size({"width": 800, "height": 600})
    said = "/home/somebody/recordings/2026-11-28/theatre4/video.mp4: the video cannot be read. Put it back."
    window.page.evaluate(
        "(said) => import('./state.js').then(({ emit, state }) => {"
        " state.job = { stage: 'failed', what: 'tracking', frames: 12, at: 1234, said }; emit('draft'); })",
        said,
    )
    job, column = window.page.locator("#job"), window.page.locator("aside").bounding_box()
    assert job.get_attribute("title") == said
    assert job.evaluate("(x) => x.scrollWidth <= x.clientWidth")
    assert job.bounding_box()["y"] + job.bounding_box()["height"] <= column["y"] + column["height"]


def test_border_painted_from_outside(window: Window) -> None:
    window.page.set_viewport_size({"width": 1280, "height": 1000})
    window.page.wait_for_timeout(300)
    window.press("2", "d")
    (said,) = window.said(lambda: window.drag((100, 40), (100, -20), (220, -20), (220, 40)))
    assert not mask(said)[1, 160]


def test_new_object_is_not_hidden(window: Window) -> None:
    for n in (1, 2):
        window.press("w")
        window.page.keyboard.type("needle")
        window.press("Enter")
        window.until(lambda: window.state["version"] == 1 and window.state["shown"] and window.state["object"] == 4)
        if n == 1:
            window.press("v")
            window.press("u")
            window.until(
                lambda: window.state["version"] == 0 and window.state["shown"] and window.state["job"] == "done"
            )
    assert window.page.locator("#objects input").last.is_checked()


def test_stroke_survives_own_new_object(window: Window, run: Path) -> None:
    window.press("2", "d", "w")
    window.page.keyboard.type("needle")
    window.press("Enter")
    window.until(lambda: window.state["job"] == "running")
    window.press("2")
    down_at(window, 40, 40)
    window.page.mouse.move(*window.at(60, 40), steps=4)
    window.until(lambda: window.state["version"] == 1 and window.state["shown"])
    window.page.mouse.up()
    window.comes_to_stay(lambda: len(window.state["draft"]) == 1)


def test_from_survives_own_new_object(window: Window, run: Path) -> None:
    window.press("w")
    window.page.keyboard.type("needle")
    window.press("Enter")
    window.until(lambda: window.state["job"] == "running")
    window.press("2", "s")
    window.until(lambda: window.state["version"] == 1 and window.state["shown"])
    window.press("Shift+ArrowRight")
    window.at_step(25)
    said = window.said(lambda: window.press("a"))
    assert said[-1]["object"] == 2, (said[-1], window.message)


def test_cancel_on_its_way_when_the_run_is_left(both: Window, two_runs: Browser) -> None:
    stopped = Stopped(both, "**/cancel")
    both.page.evaluate("import('./tools.js').then(({ cancel }) => { cancel(); })")
    stopped.come()
    both.chosen("second")
    both.page.wait_for_timeout(500)
    stopped.let_go()
    both.until(lambda: two_runs.get("runs/0/state")["may_write"] == "")


def test_leaving_with_a_polygon_asks(chromium: Any, page: Browser) -> None:
    window = Window(chromium, page.address).opened()
    asked: list[str] = []

    def answer(dialog: Any) -> None:
        asked.append(dialog.type)
        dialog.accept()

    window.page.on("dialog", answer)
    window.press("g")
    for c in ((200, 20), (240, 20), (240, 60)):
        window.click(*c)
    window.page.goto("about:blank")
    assert asked == ["beforeunload"]


def test_polygon_dropped_by_opening_another_run(both: Window, two_runs: Browser) -> None:
    two_runs.get("runs/1/state")
    both.press("g")
    for c in ((200, 20), (240, 20), (240, 60)):
        both.click(*c)
    both.chosen("second")
    both.comes_to_stay(lambda: "dropped" in both.message)


def test_undo_in_another_run_is_done(both: Window, run: Path, tmp_path: Path) -> None:
    both.chosen("second")
    both.said(lambda: both.press("a"))
    both.chosen("run")
    stopped = Stopped(both, "**/runs/0/say")
    both.press("a")
    stopped.come()
    both.chosen("second")
    both.press("u")
    stopped.refuse("There is no room.")
    both.page.wait_for_timeout(500)
    assert words(tmp_path / "second") == []


def test_double_click_while_not_ready(window: Window, run: Path, engine: Engine) -> None:
    window.until(lambda: window.state["places"])
    window.press("2", "g")
    for c in ((100, 20), (200, 20), (200, 100), (100, 100)):
        window.click(*c)
        window.page.wait_for_timeout(600)
    held = Stopped(window, "**/masks?*")
    elsewhere(run, engine)
    held.come()
    window.page.mouse.dblclick(*window.at(60, 60))
    window.page.wait_for_timeout(300)
    held.let_go()
    window.page.wait_for_timeout(800)
    d = window.state["draft"]
    assert not d or mask(d[-1])[95, 110], window.message


def test_an_object_that_is_taken_back_is_told(window: Window, run: Path, engine: Engine) -> None:
    add_elsewhere(run, engine)
    window.until(lambda: window.state["version"] == 1 and window.state["shown"])
    window.press("4")
    undo(run)
    window.until(lambda: window.state["version"] == 0 and window.state["shown"])
    assert window.message == "The object that was chosen is not there any more."


def test_a_corner_by_keyboard_and_one_by_mouse(window: Window) -> None:
    window.press("2", "b", "f", "f")
    (said,) = window.said(lambda: window.click(200, 130))
    assert [round(x) for x in said["box"]] == [160, 90, 40, 40]
