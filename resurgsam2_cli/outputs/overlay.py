"""``overlay.mp4``: the video with each object in its colour, a contour, and a small legend."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from resurgsam2_cli.outputs.base import Clip, FrameResult, Sink, region_of
from resurgsam2_cli.video.marks import OVERLAY
from resurgsam2_cli.video.writer import Sound, VideoWriter


@dataclass(frozen=True)
class Style:
    """How masks are drawn."""

    colors: list[tuple[int, int, int]]
    """RGB of each object."""
    opacity: float = 0.45
    """The opacity of the mask's inside; the contour is always opaque."""
    side_by_side: bool = False
    """The frame as it is on the left, the overlay on the right."""


class OverlayVideo(Sink):
    """H.264 that plays in a browser, at the source's times and with its sound."""

    def __init__(
        self, folder: Path, clip: Clip, style: Style | None = None, name: str = "overlay.mp4", comment: str = OVERLAY
    ) -> None:
        super().__init__(folder, clip)
        self._name, self._style = name, style or Style(clip.colors)
        self._writer = VideoWriter(
            folder / name,
            clip.height,
            clip.width * (2 if self._style.side_by_side else 1),
            clip.rate,
            sound=None if clip.audio is None else Sound(clip.audio, clip.start, clip.length),
            pixel_aspect=clip.pixel_aspect,
            comment=comment,
        )

    def write(self, result: FrameResult) -> None:
        """Draw and encode the frame."""
        image = draw_overlay(result, self.clip, self._style)
        if self._style.side_by_side:
            image = np.concatenate((result.rgb, image), axis=1)
        self._writer.write(image, result.time - self.clip.start)

    def interrupt(self) -> None:
        """Kill the encoder, which may hang."""
        self._writer.interrupt()

    def finish(self) -> Iterable[str]:
        """Finish the video."""
        self._writer.close()
        return [self._name]

    def abort(self) -> None:
        """Stop the encoder."""
        self._writer.abort()


def draw_overlay(result: FrameResult, clip: Clip, style: Style) -> np.ndarray:
    """The frame with masks, contours and legend, (height, width, 3) uint8."""
    image = result.rgb.copy()
    thickness = max(1, round(min(clip.height, clip.width) / 360))
    for mask, box, color in zip(result.masks, result.boxes, style.colors, strict=True):
        if box is not None:
            region = region_of(box, thickness)  # with room for the contour
            paint_mask(image[region], mask[region], color, thickness, style.opacity)
    return _with_legend(image, result, clip, style)


def paint_mask(
    image: np.ndarray, mask: np.ndarray, color: tuple[int, int, int], thickness: int, opacity: float
) -> None:
    """Lay a mask (height, width) bool over a picture (height, width, 3) uint8, with an opaque contour."""
    _paint(image, mask, mask > _eroded(mask, thickness), color, round(opacity * 255))


def _paint(
    region: np.ndarray, inside: np.ndarray, contour: np.ndarray, color: tuple[int, int, int], opacity: int
) -> None:
    """Lay a colour over part of a picture, (height, width, 3) uint8: opaque on the contour, ``opacity`` of 255 inside.

    Each line of the picture is one long row of numbers for numpy, which is slow on rows of three.
    """
    height, width = inside.shape
    row = np.tile(np.array(color, np.uint8), width)
    mixed = region.reshape(height, width * 3).astype(np.uint16)
    mixed *= 255 - opacity
    mixed += row * np.uint16(opacity)
    pixels = _pixels(_by_255(mixed))
    np.copyto(pixels, _pixels(row), where=contour)
    np.copyto(_pixels(region)[..., 0], pixels, where=inside)


def _pixels(values: np.ndarray) -> np.ndarray:
    """The same memory with the three numbers of a pixel as one item."""
    return values.view("V3")


def _by_255(total: np.ndarray) -> np.ndarray:
    """Divided by 255 and rounded, as PIL does it in 16 bits; uint16, which is used up, to uint8."""
    total += 128
    total += total >> 8
    total >>= 8
    return total.astype(np.uint8)


def _eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """The mask without its outermost pixels; beyond the image counts as inside.

    Rows lie one behind the other with a border around, so that a step is a few operations on long rows. No step gets
    from one side to the other: the border is as wide as there are steps.
    """
    height, width = mask.shape
    wide = np.ones((height + 2 * steps, width + 2 * steps), bool)
    wide[steps:-steps, steps:-steps] = mask
    flat, row = wide.reshape(-1), width + 2 * steps
    for _ in range(steps):
        smaller = flat[: -2 * row] & flat[2 * row :]
        smaller &= flat[row - 1 : -row - 1]
        smaller &= flat[row + 1 : len(flat) - row + 1]
        flat[row:-row] &= smaller
    return wide[steps:-steps, steps:-steps]


@lru_cache(maxsize=4)
def text_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of what is written into pictures."""
    return ImageFont.load_default(size)


def _with_legend(image: np.ndarray, result: FrameResult, clip: Clip, style: Style) -> np.ndarray:
    """Label, stage and score of each object in the upper left corner, on a dark ground."""
    size = int(np.clip(round(min(clip.height, clip.width * 9 / 16) / 26), 12, 44))
    gap = max(2, size // 4)
    lines = []
    for prompt, x in zip(clip.prompts, result.objects, strict=True):
        state = f"{x.stage} {x.score:.2f}" if x.present else f"{x.stage}, absent"
        lines.append((prompt.label, state))
    if not lines:
        return image
    row = size + gap
    room = max(1, (clip.height // 2) // row)  # never more than half of the picture
    hidden = len(lines) - room

    swatch = size
    limit = clip.width - 4 * gap - swatch
    texts = [_line(size, label, f": {state}", limit) for label, state in lines[:room]]
    if hidden > 0:
        texts[-1] = _line(size, f"and {hidden + 1} more", "", limit)
    width = min(clip.width, int(max(x.length for x in texts)) + swatch + 4 * gap)
    height = min(clip.height, row * len(texts) + gap)
    legend = image[:height, :width]
    legend >>= 2  # the ground
    for i, text in enumerate(texts):
        top = gap + i * row
        if not (hidden > 0 and i == len(texts) - 1):
            legend[top : top + swatch, gap : gap + swatch] = 255
            legend[top + 1 : top + swatch - 1, gap + 1 : gap + swatch - 1] = style.colors[i]
        _write(legend, text, swatch + 2 * gap, top)
    return image


@dataclass(frozen=True)
class _Text:
    """A line of the legend, drawn once: states and scores come again and again."""

    length: float
    ink: np.ndarray
    """(rows, columns) uint8: how much of each pixel is text, of 255."""
    left: int
    top: int
    """Where its first pixel is, from where the text begins and the line has its top; at most 0."""


@lru_cache(maxsize=256)
def _line(size: int, label: str, end: str, limit: int) -> _Text:
    """Label and end in one line of at most ``limit`` pixels: only the label gets shorter."""
    font = text_font(size)
    text = fitted(font, label, end, limit)
    box = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, size / 2), text, font=font, anchor="lm")
    left, top = (min(0, math.floor(x) - 1) for x in box[:2])
    picture = Image.new("L", (max(1, math.ceil(box[2]) + 1 - left), max(1, math.ceil(box[3]) + 1 - top)))
    ImageDraw.Draw(picture).text((-left, size / 2 - top), text, font=font, fill=255, anchor="lm")
    return _Text(font.getlength(text), np.asarray(picture), left, top)


def _write(image: np.ndarray, text: _Text, x: int, y: int) -> None:
    """Write in white, as much of it as is inside of the picture."""
    x, y = x + text.left, y + text.top
    ink = text.ink[max(0, -y) : max(0, image.shape[0] - y), max(0, -x) : max(0, image.shape[1] - x)]
    region = image[max(0, y) :, max(0, x) :][: ink.shape[0], : ink.shape[1]]
    alpha = np.repeat(ink, 3, axis=1).reshape(region.shape)
    region[:] = _by_255((255 - alpha) * region.astype(np.uint16) + alpha * np.uint16(255))


def fitted(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, label: str, end: str, limit: int) -> str:
    """Label and end in one line of at most ``limit`` pixels: only the label gets shorter."""
    if font.getlength(label + end) <= limit:
        return label + end
    while label and font.getlength(label + "..." + end) > limit:
        label = label[:-1]
    return label + "..." + end
