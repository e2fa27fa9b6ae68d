"""Make the picture of the review page that README shows: ``python tests/screenshot.py docs/review.png``.

The bundled clip is segmented with the bundled network and corrected once; then a click was made and is not tracked from
yet.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright
from review_page import served
from review_window import CHROMIUM, Window

from resurgsam2_cli.api import segment_video
from resurgsam2_cli.prompts.marks import parse_mark
from resurgsam2_cli.refining.refine import Given, refine
from resurgsam2_cli.segmenting.engine import build_engine

ROOT = Path(__file__).parents[1]

TEXTS = ["left ultrasound probe=probe", "right bipolar forceps=forceps"]
CORRECTED, CLICKED = "forceps@183 +258,236", (369, 279)
FRAME = 183


def main(path: Path) -> None:
    """Write the picture."""
    engine = build_engine("demo")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        run = segment_video(ROOT / "examples/scene.mp4", TEXTS, folder, engine=engine).folder
        refine(run, Given([parse_mark(CORRECTED)]), lambda words: engine)
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        with served([run], lambda words: engine) as page:
            window = Window(browser, page.address).opened()
            window.press("2", "End")
            window.until(lambda: window.state["shown"])
            for _ in range(window.state["step"] - FRAME):
                window.press("ArrowLeft")
            window.at_step(FRAME)
            window.said(lambda: window.click(*CLICKED))
            window.until(lambda: window.state["shown"])
            window.page.screenshot(path=path)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
