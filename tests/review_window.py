"""A window of the review page in a real browser, for tests; and answers of its server that are kept back."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import ffmpeg
from finished_runs import finished_run
from review_page import Browser, served

from resurgsam2_cli.files.rle import decoded
from resurgsam2_cli.prompts.marks import parse_mark
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.refining.refine import Given, refine
from resurgsam2_cli.segmenting.engine import Engine

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")

WIDTH, HEIGHT, FRAMES = 320, 180, 50


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


class Window:
    """A window of the page, with what a test does in it. Nothing may be logged as an error."""

    def __init__(self, chromium: Any, address: str) -> None:
        self.page = chromium.new_page(viewport={"width": 1280, "height": 720})
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._logged)
        self.page.goto(address)

    def _logged(self, line: Any) -> None:
        if line.type == "error":
            self.errors.append(line.text)

    def until(self, done: Callable[[], Any], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, (self.message, self.errors)
            self.page.wait_for_timeout(15)

    def comes_to_stay(self, there: Callable[[], Any]) -> None:
        """Wait until something is so, and see that it is so a moment later."""
        self.until(there)
        self.page.wait_for_timeout(500)
        assert there(), (self.message, self.errors)

    def text(self, name: str) -> str:
        return str(self.page.locator(f"#{name}").text_content())

    @property
    def message(self) -> str:
        return self.text("message")

    @property
    def state(self) -> Any:
        """What the page knows, apart from masks."""
        return self.page.evaluate(
            "import('./state.js').then(({ state }) => ({ step: state.step, object: state.object, draft: state.draft,"
            " places: state.places, version: state.info?.version,"
            " shown: state.stored.has(state.step) && state.painted === state.step,"
            " from: state.from, mayWrite: state.mayWrite, job: state.job?.stage, tool: state.tool }))"
        )

    def opened(self) -> Window:
        """Wait until the run is there."""
        self.until(lambda: self.state["shown"])
        return self

    def chosen(self, name: str) -> None:
        """Open another run, from the list of all."""
        self.page.locator("#runs-button").click()
        self.page.get_by_role("button", name=name, exact=True).click()
        self.until(lambda: self.text("run-name") == name and self.state["shown"])

    def route(self, address: str | re.Pattern[str], handle: Callable[[Any], Any]) -> None:
        """Answer requests to an address from now on: Chromium lets some pass for a moment after it was told so."""
        self.page.route(address, handle)
        if self.page.url != "about:blank":
            self.page.route("**/style.css?routed", lambda route: route.fulfill(body="routed"))
            self.until(lambda: self.page.evaluate("fetch('style.css?routed').then((x) => x.text())") == "routed")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def at_step(self, step: int) -> None:
        self.until(lambda: self.state["step"] == step and self.state["shown"])

    def shows(self, x: float, y: float, gray: float) -> None:
        self.until(lambda: abs(self.color(x, y)[0] - gray) < 3)

    def said(self, action: Callable[[], Any]) -> list[Any]:
        """Do what adds a word to the draft, and wait for it."""
        before = len(self.state["draft"])
        action()
        self.until(lambda: len(self.state["draft"]) > before)
        return list(self.state["draft"])

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the video is on the screen."""
        found = self.page.evaluate(
            "([x, y]) => import('./picture.js').then(({ view }) => { const b = document.getElementById('picture')"
            ".getBoundingClientRect(); return [b.left + view.left + x * view.scale, b.top + view.top + y * view.scale]"
            " })",
            [x, y],
        )
        return found[0], found[1]

    def click(self, x: float, y: float, **options: Any) -> None:
        self.page.mouse.click(*self.at(x, y), **options)

    def drag(self, *points: tuple[float, float]) -> None:
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point), steps=4)
        self.page.mouse.up()

    def color(self, x: float, y: float) -> list[int]:
        """What is painted at a pixel of the video."""
        return list(
            self.page.evaluate(
                """([x, y]) => import('./picture.js').then(({ view }) => new Promise((done) => {
                  requestAnimationFrame(() => requestAnimationFrame(() => {
                    const pen = document.getElementById('picture').getContext('2d');
                    done([...pen.getImageData(view.left + x * view.scale, view.top + y * view.scale, 1, 1).data]);
                  }));
                }))""",
                [x, y],
            )
        )

    def followed(self, version: int) -> None:
        self.press("t")
        self.until(lambda: self.state["version"] == version and self.state["job"] == "done", 180)
        self.until(lambda: self.state["shown"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a video whose grey value counts the frames; copy it before you change it."""
    folder = tmp_path_factory.mktemp("page")
    video = folder / "v.mp4"
    gray = "geq=lum='16+4*N':cb=128:cr=128,format=yuv420p"
    source = f"color=black:size={WIDTH}x{HEIGHT}:rate=25,{gray}"
    ffmpeg("-f", "lavfi", "-i", source, "-frames:v", str(FRAMES), "-g", "10", "-qp", "0", video)
    return finished_run(folder / "run", video).folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def close_all(chromium: Any) -> None:
    """Close the windows that a test left open: they would go on asking."""
    for context in chromium.contexts:
        context.close()


@pytest.fixture
def page(chromium: Any, run: Path, engine: Engine) -> Iterator[Browser]:
    with served([run], lambda words: engine) as browser:
        yield browser
        close_all(chromium)


@pytest.fixture
def window(chromium: Any, page: Browser) -> Iterator[Window]:
    window = Window(chromium, page.address).opened()
    yield window
    assert window.errors == []
    window.page.close()


def mask(entry: dict[str, Any]) -> np.ndarray:
    return decoded(entry["mask"]["counts"], (HEIGHT, WIDTH))


class Held:
    """Answers to a request of the page, kept back until they are let go."""

    def __init__(self, window: Window, address: str) -> None:
        self._window = window
        self._held: list[tuple[Any, Any]] = []
        window.route(address, self._keep)

    def _keep(self, route: Any) -> None:
        self._held.append((route, route.fetch()))  # as it was when it was asked

    def come(self) -> None:
        """Wait until there is one."""
        self._window.until(lambda: self._held)

    def let_go(self) -> None:
        """Give the answers, and time for the page to take them."""
        for route, answer in self._held:
            route.fulfill(response=answer)
        self._window.page.wait_for_timeout(300)


class Stopped:
    """Requests of the page that do not reach the server until they are let go."""

    def __init__(self, window: Window, address: str | re.Pattern[str]) -> None:
        self._window = window
        self._routes: list[Any] = []
        self._is_open = False
        window.route(address, self._keep)

    def _keep(self, route: Any) -> None:
        if self._is_open:
            route.continue_()
        else:
            self._routes.append(route)

    def come(self) -> None:
        """Wait until there is one."""
        self._window.until(lambda: self._routes)

    def let_go(self) -> None:
        """Let them reach the server, those that come later, too; and give the page time to take the answers."""
        self._is_open = True
        for route in self._routes:
            route.continue_()
        self._window.page.wait_for_timeout(300)

    def refuse(self, sentences: str) -> None:
        """Answer the first one with an error; those that come later reach the server."""
        self._is_open = True
        self._routes.pop(0).fulfill(status=400, json={"sentences": sentences})
        self.let_go()


JOB = (
    "import('./state.js').then(({ emit, state }) => { state.job = { stage: 'running', what: '', frames: 1, at: 2 };"
    " emit('draft'); })"
)
"""Script that shows a correction as under way."""


def down_at(window: Window, x: float, y: float) -> None:
    """Press the mouse at a pixel of the video."""
    window.page.mouse.move(*window.at(x, y))
    window.page.mouse.down()


def words(run: Path) -> list[Any]:
    """What was said and not followed yet, on the disk."""
    return list(json.loads((run / "draft.json").read_text())["marks"]) if (run / "draft.json").exists() else []


def elsewhere(run: Path, engine: Engine, what: str = "1@20 absent") -> None:
    """A version that another program makes."""
    refine(run, Given([parse_mark(what)]), lambda words: engine)


def add_elsewhere(run: Path, engine: Engine, words: bool = False) -> None:
    """The same, with a new object."""
    refine(run, Given(added=[Prompt("needle", "needle", words=words)]), lambda words: engine)


@pytest.fixture
def two_runs(chromium: Any, run: Path, engine: Engine, tmp_path: Path) -> Iterator[Browser]:
    """The page of two runs, "run" and "second"."""
    shutil.copytree(run, tmp_path / "second")
    with served([run, tmp_path / "second"], lambda words: engine) as browser:
        yield browser
        close_all(chromium)


@pytest.fixture
def listed(chromium: Any, two_runs: Browser) -> Iterator[Window]:
    """A window that shows the list of both."""
    window = Window(chromium, two_runs.address)
    yield window
    window.page.close()


@pytest.fixture
def both(listed: Window) -> Window:
    """A window that shows the first one."""
    listed.page.get_by_role("button", name="run", exact=True).click()
    return listed.opened()
