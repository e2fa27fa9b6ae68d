"""``overlay.mp4``: the video with each object in its colour, a contour, and a small legend."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from resurgsam2_cli.outputs.base import Clip, FrameResult, Sink
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
    opacity = round(style.opacity * 255)
    thickness = max(1, round(min(clip.height, clip.width) / 360))
    for mask, box, color in zip(result.masks, result.boxes, style.colors, strict=True):
        if box is None:
            continue
        x, y, w, h = (int(v) for v in box)
        # Look only at the object's box, with room for the contour.
        rows = slice(max(0, y - thickness), y + h + thickness)
        columns = slice(max(0, x - thickness), x + w + thickness)
        inside = mask[rows, columns]
        contour = inside & ~_eroded(inside, thickness)
        picture = Image.fromarray(image[rows, columns])
        alpha = Image.fromarray(inside * np.uint8(opacity) + contour * np.uint8(255 - opacity))
        picture.paste(color, (0, 0), alpha)
        image[rows, columns] = np.asarray(picture)
    return _with_legend(image, result, clip, style)


def _eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """The mask without its outermost pixels; beyond the image counts as inside."""
    for _ in range(steps):
        padded = np.pad(mask, 1, constant_values=True)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _with_legend(image: np.ndarray, result: FrameResult, clip: Clip, style: Style) -> np.ndarray:
    """Label, stage and score of each object in the upper left corner, on a dark ground."""
    size = int(np.clip(round(min(clip.height, clip.width * 9 / 16) / 26), 12, 44))
    font, gap = _font(size), max(2, size // 4)
    lines = []
    for prompt, x in zip(clip.prompts, result.objects, strict=True):
        state = f"{x.stage} {x.score:.2f}" if x.present else f"{x.stage}, absent"
        lines.append((prompt.label, state))
    if not lines:
        return image
    row = size + gap
    room = max(1, (clip.height // 2) // row)  # never more than half of the picture
    hidden = len(lines) - room
    shown = [(style.colors[i], *line) for i, line in enumerate(lines[:room])]

    swatch = size
    limit = clip.width - 4 * gap - swatch
    texts = [_fitted(font, label, f": {state}", limit) for _, label, state in shown]
    if hidden > 0:
        texts[-1] = _fitted(font, f"and {hidden + 1} more", "", limit)
    width = min(clip.width, int(max(font.getlength(t) for t in texts)) + swatch + 4 * gap)
    height = min(clip.height, row * len(texts) + gap)
    image[:height, :width] >>= 2  # the ground
    picture = Image.fromarray(image[:height, :width])
    draw = ImageDraw.Draw(picture)
    for i, ((color, *_), text) in enumerate(zip(shown, texts, strict=True)):
        top = gap + i * row
        if not (hidden > 0 and i == len(texts) - 1):
            draw.rectangle((gap, top, gap + swatch - 1, top + swatch - 1), fill=color, outline=(255, 255, 255))
        draw.text((swatch + 2 * gap, top + size / 2), text, font=font, fill=(255, 255, 255), anchor="lm")
    image[:height, :width] = np.asarray(picture)
    return image


def _fitted(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, label: str, end: str, limit: int) -> str:
    """Label and end in one line of at most ``limit`` pixels: only the label gets shorter."""
    if font.getlength(label + end) <= limit:
        return label + end
    while label and font.getlength(label + "..." + end) > limit:
        label = label[:-1]
    return label + "..." + end
