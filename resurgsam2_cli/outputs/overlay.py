"""``overlay.mp4``: the video with each object in its colour, a contour, and a small legend."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from resurgsam2_cli.outputs.base import Clip, FrameResult, Sink, region_of
from resurgsam2_cli.outputs.legend import DEMO_NOTE, by_255, draw_legend, draw_note
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

    draws = True

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

    def prepare(self, result: FrameResult) -> tuple[np.ndarray, Fraction]:
        """Draw the frame."""
        image = draw_overlay(result, self.clip, self._style)
        if self._style.side_by_side:
            image = np.concatenate((result.rgb, image), axis=1)
        return image, result.time - self.clip.start

    def add(self, prepared: tuple[np.ndarray, Fraction]) -> None:
        """Encode it."""
        self._writer.write(*prepared)

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
    """The frame with masks, contours and what is said about them, (height, width, 3) uint8."""
    image = result.rgb.copy()
    thickness = max(1, round(min(clip.height, clip.width) / 360))
    for i, (box, color) in enumerate(zip(result.boxes, style.colors, strict=True)):
        if box is not None:
            region = region_of(box, thickness)  # with room for the contour
            paint_mask(image[region], result.mask_inside(i, region), color, thickness, style.opacity)
    if clip.legend:
        draw_legend(image, result, clip.prompts, style.colors)
    if clip.demo_weights:
        draw_note(image, DEMO_NOTE)
    return image


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
    pixels = _pixels(by_255(mixed))
    np.copyto(pixels, _pixels(row), where=contour)
    np.copyto(_pixels(region)[..., 0], pixels, where=inside)


def _pixels(values: np.ndarray) -> np.ndarray:
    """The same memory with the three numbers of a pixel as one item."""
    return values.view("V3")


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
