"""One page in a file, to send to somebody: what is worth a look, with pictures, and how the runs were made.

There is no script in it, and nothing is loaded: it is read anywhere.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from contextlib import closing
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from resurgsam2_cli.errors import InputError, UsageError, UserError
from resurgsam2_cli.files.filling import new_file
from resurgsam2_cli.files.kinds import Kind, file_that_holds, never
from resurgsam2_cli.files.rle import decoded
from resurgsam2_cli.refining.places import Place
from resurgsam2_cli.refining.versions import versions_of
from resurgsam2_cli.review.content import Content
from resurgsam2_cli.review.lanes import STAGES
from resurgsam2_cli.review.pictures import as_jpeg
from resurgsam2_cli.runs.reading import RunFrame
from resurgsam2_cli.runs.record import Run, color_text, raw_record

Write = Callable[[str], object]

_MADE_BY = "resurgsam2 review, saved"
PAGE = Kind("a saved page", file_that_holds(_MADE_BY), never, "choose another name")

_WIDE = 480
"""Pixels of a picture."""

_CELLS = 600
"""Of a lane."""

_FILL = 0.35
"""Opacity of masks."""


def save_page(runs: Sequence[Run], path: Path, most: int, sources: Path | None, *, overwrite: bool) -> None:
    """Write the page for some runs, with up to ``most`` places of each. Raises a ``UserError``.

    Pictures of a video that is gone are left out, and the page says so; it also says what is wrong with one of several
    runs.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--save {path}: is no name of a page", f"end it in .html: --save {path.with_suffix('.html')}")
    style = files(__package__).joinpath("page", "saved.css").read_text(encoding="utf-8")
    with new_file(path, PAGE, overwrite=overwrite) as file, file.open("w", encoding="utf-8") as out:
        out.write(
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src'
            f' \'unsafe-inline\'"><meta name="generator" content="{_MADE_BY}"><title>Worth a look</title>'
            f"<style>{style}</style></head><body>\n"
        )
        for run in runs:
            parts: list[str] = []
            try:
                with closing(Content(run, (0, 0), sources)) as content:
                    _write_run(content, most, parts.append)
            except UserError as error:
                if len(runs) == 1:
                    raise
                parts = [f"<section><h1>{escape(run.name)}</h1><p>{escape(error.sentences)}.</p></section>\n"]
            out.writelines(parts)
        out.write("</body></html>\n")


def _write_run(content: Content, most: int, write: Write) -> None:
    run, places = content.run, content.places[:most]
    versions = versions_of(run.folder)
    write(f"<section><h1>{escape(run.name)}</h1>")
    write(f"<p>{run.frames} frames, {run.width} × {run.height}, version {versions[-1].number}</p>")
    write("<table><tr><th>object</th><th>text</th><th>frames with it</th></tr>")
    lanes = content.lanes
    for row, x in enumerate(run.objects):
        there = int(np.count_nonzero((lanes.stages[row] > 0) & (lanes.stages[row] < len(STAGES) - 1)))
        color = color_text(x.color)
        write(
            f'<tr><td><span class="swatch" style="background:{color}">{x.id}</span> {escape(x.label)}</td>'
            f"<td>{escape(x.text)}</td><td>{there}</td></tr>"
        )
    write("</table>")
    _write_lanes(content, places, write)
    write('<div class="sheet">')
    problem = ""
    for place in sorted(places, key=lambda x: x.frame):
        problem = _write_place(content, place, write, problem)
    write("</div>")
    if problem:
        write(f"<p>There are no pictures: {escape(problem)}</p>")
    if not places:
        write("<p>Nothing stands out.</p>")
    write("<h2>How it was made</h2><table>")
    record = raw_record(run.folder)
    for name in ("settings", "weights", "backend"):
        for key, value in sorted((record.get(name) or {}).items()):
            write(f"<tr><th>{escape(str(key))}</th><td>{escape(str(value))}</td></tr>")
    write("</table></section>\n")


def _write_place(content: Content, place: Place, write: Write, problem: str) -> str:
    """One place; returns why there are no pictures, if there are none."""
    run, step = content.run, content.step(place.frame)
    assert step is not None
    label = run.objects[place.object_id - 1].label
    write(f"<figure><figcaption><b>{escape(label)} @ {place.frame}</b> {escape(place.reason)}</figcaption>")
    if not problem:
        try:
            picture = content.pictures.image(step)
        except InputError as error:
            problem = error.message
        else:
            frame = content.frame(step)
            shown = base64.b64encode(as_jpeg(_marked(picture, frame, place.object_id, run), _WIDE)).decode()
            write(f'<img alt="frame {place.frame}" src="data:image/jpeg;base64,{shown}">')
    write("</figure>")
    return problem


def _marked(picture: np.ndarray, frame: RunFrame, object_id: int, run: Run) -> Image.Image:
    """A picture (height, width, 3) with the masks of a frame; that of one object has a border."""
    shown = picture.astype(np.float32)
    for x in frame.masks:
        mask = decoded(x.rle["counts"], (run.height, run.width))
        color = np.array(run.objects[x.object_id - 1].color, np.float32)
        shown[mask] += _FILL * (color - shown[mask])
        if x.object_id == object_id:
            thick = max(1, round(2 * run.width / _WIDE))
            inner = mask.copy()
            for axis in (0, 1):
                for by in (thick, -thick):
                    inner &= np.roll(mask, by, axis)
            shown[mask & ~inner] = color
    image = Image.fromarray(shown.astype(np.uint8))
    box = next((x.box for x in frame.masks if x.object_id == object_id), None)
    if box is None:  # nothing is there: say which picture this is all the same
        ImageDraw.Draw(image).rectangle((0, 0, run.width - 1, run.height - 1), outline=(255, 140, 66), width=3)
    return image


def _write_lanes(content: Content, places: Sequence[Place], write: Write) -> None:
    """A drawing of what is where, a lane per object."""
    run, lanes = content.run, content.lanes
    high, cells = 18, lanes.cells(0, run.frames, min(_CELLS, run.frames))
    scale = 1000 / run.frames
    write(f'<svg viewBox="0 0 1000 {high * len(run.objects)}" role="img" aria-label="A lane for each object">')
    kept = STAGES.index("confirmed")
    for row, x in enumerate(run.objects):
        top = row * high
        write(f'<rect x="0" y="{top}" width="1000" height="{high - 3}" fill="#e7ebef"/>')
        for stage, begin, end in _stretches(cells["stages"][row], cells["borders"]):
            color = "#000" if stage >= kept else color_text(x.color)
            share = 0.35 if stage == STAGES.index("detect") else 0.15 if stage == len(STAGES) - 1 else 0.75
            height = (high - 3) * share
            write(
                f'<rect x="{begin * scale:.2f}" y="{top + high - 3 - height:.2f}" height="{height:.2f}"'
                f' width="{max(0.8, (end - begin) * scale):.2f}" fill="{color}"/>'
            )
        for place in places:
            if place.object_id == x.id:
                at = (content.step(place.frame) or 0) * scale
                write(f'<path d="M{at - 4:.2f} {top}h8l-4 7z" fill="#d9480f"/>')
    write("</svg>")


def _stretches(stages: list[int], borders: list[int]) -> list[tuple[int, int, int]]:
    """Cells in a row that show the same, without those that show nothing: stage, begin and end."""
    found: list[tuple[int, int, int]] = []
    for stage, begin, end in zip(stages, borders, borders[1:], strict=False):
        if found and found[-1][0] == stage and found[-1][2] == begin:
            found[-1] = (stage, found[-1][1], end)
        else:
            found.append((stage, begin, end))
    return [x for x in found if x[0]]
