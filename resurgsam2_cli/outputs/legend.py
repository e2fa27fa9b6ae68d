"""The legend of the overlay: each object's name, what is done about it in words, and how sure that is."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from resurgsam2_cli.files.text import one_line
from resurgsam2_cli.outputs.base import FrameResult, ObjectResult
from resurgsam2_cli.prompts.prompt import Prompt

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

WORDS = {
    "detect": "searching",
    "track": "tracking",
    "point": "pointed at",
    "drawn": "drawn",
    "imported": "imported",
    "confirmed": "confirmed",
    "absent": "not there",
}
"""What the legend says of each stage."""

DEMO_NOTE = "demo weights"
"""Stands in every overlay whose masks the bundled demo network made."""

_WIDEST = "searching 100 %"
_SMALLEST = 11  # pixels; smaller letters cannot be read in a video
_WHITE, _GREY = 255, 170


@dataclass(frozen=True)
class Layout:
    """Where everything stands in the legend of a clip. It is the same in every frame, so that nothing jumps."""

    size: int
    """Height of the letters and of the coloured squares, in pixels."""
    gap: int
    width: int
    """Of the whole legend: at most half of the picture's."""
    room: int
    """How many lines there may be, in at most half of the picture's height."""
    names: tuple[str, ...]
    """Of the objects, each as short as it must be."""
    states: int | None
    """Where the states begin, from the left of the legend; None where only names have room."""

    @property
    def row(self) -> int:
        """Pixels from one line to the next."""
        return self.size + self.gap

    @property
    def texts(self) -> int:
        """Where the names begin, from the left of the legend."""
        return self.size + 2 * self.gap


def state_word(x: ObjectResult) -> str:
    """What is done about an object, such as "tracking"."""
    return "not seen" if x.stage == "track" and not x.present else WORDS.get(x.stage, x.stage)


def state_words(x: ObjectResult) -> str:
    """The same, and how sure that is, such as "tracking 91 %"."""
    sure = x.present and x.stage in ("detect", "track")
    return f"{state_word(x)} {round(100 * x.score)} %" if sure else state_word(x)


def names_of(prompts: tuple[Prompt, ...]) -> tuple[str, ...]:
    """A name for each object that no other has: its label, or its text, or with its number before it."""
    labels = Counter(x.label for x in prompts)
    names = [one_line(x.label if labels[x.label] == 1 else x.text) for x in prompts]
    counts = Counter(names)
    return tuple(x if counts[x] == 1 else f"{i}: {x}" for i, x in enumerate(names, start=1))


def usual_size(height: int, width: int) -> int:
    """Height of letters in a picture, in pixels."""
    return int(np.clip(round(min(height, width * 9 / 16) / 32), _SMALLEST, 44))


@lru_cache(maxsize=16)
def layout(height: int, width: int, prompts: tuple[Prompt, ...]) -> Layout:
    """The legend of pictures of this size: it covers at most half of their width and half of their height.

    Many objects have smaller letters, as long as these can be read.
    """
    size = usual = usual_size(height, width)
    while size > max(_SMALLEST, round(0.6 * usual)) and _lines(height, size) < len(prompts):
        size -= 1
    gap, font = _gap(size), text_font(size)
    most = width // 2 - size - 3 * gap  # pixels for name and state
    between = size * 2 // 3
    states = math.ceil(font.getlength(_WIDEST)) + between
    with_states = most - states >= 4 * size
    limit = most - states if with_states else most
    if limit < 2 * size:
        return Layout(size, gap, 0, 0, (), None)
    names = _shortened(font, names_of(prompts), limit)
    longest = math.ceil(max((font.getlength(x) for x in names), default=0))
    begin = size + 2 * gap + longest
    end = begin + states if with_states else begin
    return Layout(size, gap, end + gap, _lines(height, size), names, begin + between if with_states else None)


def _gap(size: int) -> int:
    return max(2, size // 4)


def _lines(height: int, size: int) -> int:
    """How many lines have room in half of a picture's height."""
    return max(0, (height // 2 - _gap(size)) // (size + _gap(size)))


def _shortened(font: Font, names: tuple[str, ...], limit: int) -> tuple[str, ...]:
    """Names of at most ``limit`` pixels that still differ: without the end, else without the middle, else numbered."""
    cut = [fitted(font, x, limit) for x in names]
    for other in (_fitted_inside, lambda font, x, limit: fitted(font, f"{names.index(x) + 1}: {x}", limit)):
        counts = Counter(cut)
        cut = [x if counts[x] == 1 else other(font, name, limit) for x, name in zip(cut, names, strict=True)]
    return tuple(cut)


def fitted(font: Font, text: str, limit: int) -> str:
    """A text of at most ``limit`` pixels, with "..." where its end is missing."""
    if font.getlength(text) <= limit:
        return text
    while text and font.getlength(text.rstrip() + "...") > limit:
        text = text[:-1]
    return text.rstrip() + "..."


def _fitted_inside(font: Font, text: str, limit: int) -> str:
    """A text of at most ``limit`` pixels, with "..." where its middle is missing."""
    if font.getlength(text) <= limit:
        return text
    for kept in range(len(text) - 1, 0, -1):
        end = (kept + 1) // 2
        short = f"{text[: kept - end].rstrip()}...{text[-end:].lstrip()}"
        if font.getlength(short) <= limit:
            return short
    return "..."


def draw_legend(
    image: np.ndarray, result: FrameResult, prompts: tuple[Prompt, ...], colors: list[tuple[int, int, int]]
) -> None:
    """Name, state and score of each object in the upper left corner of a picture, (height, width, 3) uint8.

    Objects that are absent are grey, with a hollow square. Where some have no room, those that are there come first.
    """
    place, objects = layout(*image.shape[:2], prompts), result.objects
    if not place.room or not objects:
        return
    rows = list(range(len(objects)))
    if len(rows) > place.room:
        rows = sorted(rows, key=lambda i: not objects[i].present)[: place.room - 1]
    hidden = len(objects) - len(rows)
    size, gap, row, left = place.size, place.gap, place.row, place.texts
    legend = image[: row * (len(rows) + bool(hidden)) + gap, : place.width]
    legend >>= 2  # the ground
    for line, i in enumerate(rows):
        top, x = gap + line * row, objects[i]
        _square(legend[top : top + size, gap : gap + size], colors[i], filled=x.present)
        ink = _WHITE if x.present else _GREY
        _write(legend, _text(size, place.names[i]), left, top, ink)
        if place.states is not None:
            _write(legend, _text(size, state_words(x)), place.states, top, ink)
    if hidden:
        words = f"and {hidden} more" if rows else f"{hidden} objects"
        words = fitted(text_font(size), words, place.width - left - gap)
        _write(legend, _text(size, words), left, gap + len(rows) * row, _GREY)


def _square(square: np.ndarray, color: tuple[int, int, int], *, filled: bool) -> None:
    """The colour of an object with a white border, or nothing but a border in that colour."""
    if filled:
        square[:] = _WHITE
        square[1:-1, 1:-1] = color
        return
    edge = max(2, len(square) // 6)
    inside = square[edge:-edge, edge:-edge].copy()
    square[:] = color
    square[edge:-edge, edge:-edge] = inside


def draw_note(image: np.ndarray, text: str) -> None:
    """A few small words in the lower left corner, if the picture is large enough to read them."""
    height, width = image.shape[:2]
    size = max(_SMALLEST, round(0.75 * usual_size(height, width)))
    note, gap = _text(size, text), _gap(size)
    rows, columns = size + 2 * gap, math.ceil(note.length) + 2 * gap
    if columns > width or rows > height // 4:
        return
    ground = image[height - rows :, :columns]
    ground >>= 2
    _write(ground, note, gap, gap, _WHITE)


@lru_cache(maxsize=4)
def text_font(size: int) -> Font:
    """The font of what is written into pictures."""
    return ImageFont.load_default(size)


@dataclass(frozen=True)
class _Text:
    """A few words, drawn once: names, states and scores come again and again."""

    length: float
    ink: np.ndarray
    """(rows, columns, 3) uint8: how much of each pixel is text, of 255."""
    left: int
    top: int
    """Where its first pixel is, from where the text begins and the line has its top; at most 0."""


@lru_cache(maxsize=512)
def _text(size: int, text: str) -> _Text:
    font = text_font(size)
    box = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, size / 2), text, font=font, anchor="lm")
    left, top = (min(0, math.floor(x) - 1) for x in box[:2])
    picture = Image.new("L", (max(1, math.ceil(box[2]) + 1 - left), max(1, math.ceil(box[3]) + 1 - top)))
    ImageDraw.Draw(picture).text((-left, size / 2 - top), text, font=font, fill=255, anchor="lm")
    return _Text(font.getlength(text), np.repeat(np.asarray(picture)[..., None], 3, axis=2), left, top)


def _write(image: np.ndarray, text: _Text, x: int, y: int, level: int) -> None:
    """Write in a grey of this level, as much of it as is inside of the picture."""
    x, y = x + text.left, y + text.top
    ink = text.ink[max(0, -y) : max(0, image.shape[0] - y), max(0, -x) : max(0, image.shape[1] - x)]
    region = image[max(0, y) :, max(0, x) :][: ink.shape[0], : ink.shape[1]]
    region[:] = by_255((255 - ink) * region.astype(np.uint16) + ink * np.uint16(level))


def by_255(total: np.ndarray) -> np.ndarray:
    """Divided by 255 and rounded, as PIL does it in 16 bits; uint16, which is used up, to uint8."""
    total += 128
    total += total >> 8
    total >>= 8
    return total.astype(np.uint8)
