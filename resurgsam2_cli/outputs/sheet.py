"""A contact sheet: a picture with a row for each sentence and a column for each frame, masks drawn in."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from resurgsam2_cli.files.filling import new_file
from resurgsam2_cli.files.kinds import Kind, file_that_holds, never
from resurgsam2_cli.files.palette import color_of
from resurgsam2_cli.outputs.legend import fitted, text_font
from resurgsam2_cli.outputs.overlay import paint_mask

_MADE_BY = "contact sheet by resurgsam2"
SHEET = Kind("a contact sheet", file_that_holds(_MADE_BY), never, "choose another name with -o")

_SIZE, _GAP, _LABEL = 13, 6, 220
"""Pixels: of letters, between pictures, and of the column with the sentences."""

_LETTERS = 30
"""In a line of a label."""

_GROUND, _INK, _FAINT = (24, 26, 30), (240, 242, 245), (140, 146, 155)
_CREDIBLE = (70, 200, 110)

_OPACITY = 0.45


@dataclass(frozen=True)
class Cell:
    """A sentence in a frame."""

    mask: np.ndarray
    """(height, width) bool, in the size of the frame's picture."""
    line: str
    credible: bool
    """Such a cell has a border."""


@dataclass(frozen=True)
class Row:
    """A sentence: what is written beside its pictures, and these."""

    text: str
    lines: tuple[str, ...]
    cells: Sequence[Cell]


def write_sheet(
    path: Path, titles: Sequence[str], pictures: Sequence[np.ndarray], rows: Sequence[Row], *, overwrite: bool
) -> None:
    """Write the sheet as a PNG.

    ``pictures`` are the frames, (height, width, 3) uint8, all of one size, and ``titles`` what is written above them.
    Raises :class:`~resurgsam2_cli.errors.OutputError`.
    """
    note = PngImagePlugin.PngInfo()
    note.add_text("Software", _MADE_BY)
    with new_file(path, SHEET, overwrite=overwrite) as partial:
        drawn_sheet(titles, pictures, rows).save(partial, "PNG", pnginfo=note)


def drawn_sheet(titles: Sequence[str], pictures: Sequence[np.ndarray], rows: Sequence[Row]) -> Image.Image:
    """The sheet that :func:`write_sheet` writes."""
    height, width = pictures[0].shape[:2]
    font, line = text_font(_SIZE), _SIZE + 4
    tall = max(height + line, *(line * (len(_label(x)) + len(x.lines)) for x in rows)) + _GAP
    size = (_LABEL + (width + _GAP) * len(pictures) + _GAP, line + 2 * _GAP + tall * len(rows))
    sheet = Image.new("RGB", size, _GROUND)
    draw = ImageDraw.Draw(sheet)
    lefts = [_LABEL + _GAP + (width + _GAP) * i for i in range(len(pictures))]
    for left, title in zip(lefts, titles, strict=True):
        draw.text((left, _GAP), fitted(font, title, width), _FAINT, font)
    for i, row in enumerate(rows):
        top = line + 2 * _GAP + tall * i
        label = _label(row)
        for j, text in enumerate([*label, *row.lines]):
            shown = fitted(font, text, _LABEL - _GAP)
            draw.text((_GAP, top + line * j), shown, _INK if j < len(label) else _FAINT, font)
        for left, picture, cell in zip(lefts, pictures, row.cells, strict=True):
            shown_picture = picture.copy()
            paint_mask(shown_picture, cell.mask, color_of(1), 1, _OPACITY)
            sheet.paste(Image.fromarray(shown_picture), (left, top))
            if cell.credible:
                draw.rectangle((left - 2, top - 2, left + width + 1, top + height + 1), outline=_CREDIBLE, width=2)
            ink = _CREDIBLE if cell.credible else _FAINT
            draw.text((left, top + height + 2), fitted(font, cell.line, width), ink, font)
    return sheet


def _label(row: Row) -> list[str]:
    """A sentence in a few lines, as there is little room beside a picture."""
    return textwrap.wrap(row.text, _LETTERS, max_lines=4, placeholder=" ...") or [row.text]
