"""Drawing of shapes: shadows on the tissue, then colours and labels from the same polygons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from model.training.scenes.shapes import Shape

_SHADOW = np.array((0.025, 0.05))  # how far a shadow falls from its shape
_SHADOW_COLOR = (18, 4, 6)
_COARSER = 4  # pixels of the picture per pixel of the shadows: they are soft
_HALF = [0] * 128 + [255] * 128  # the levels that make a mask of a coverage


def draw_shadows(shapes: Iterable[Shape], picture: Image.Image) -> None:
    """Darken a picture where shapes shade it, in place."""
    width, height = picture.size
    mask = Image.new("L", (width // _COARSER, height // _COARSER))
    draw = ImageDraw.Draw(mask)
    for shape in shapes:
        for piece, polygon in shape.polygons((shape.points + _SHADOW) * (height / _COARSER)):
            if piece.outline:
                draw.polygon(polygon, fill=125)
    mask = mask.filter(ImageFilter.BoxBlur(height / 128))
    if box := mask.getbbox():
        left, top, right, bottom = (_COARSER * x for x in box)
        soft = mask.crop(box).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
        picture.paste(_SHADOW_COLOR, (left, top), soft)


def stamp(shapes: Sequence[Shape], ident: int, picture: Image.Image | None, labels: Image.Image) -> None:
    """Draw the shapes of one thing onto the picture, if there is one, and its id onto the labels; both in place.

    Everything is drawn at twice the size, inside the bounding box only. A pixel belongs to the thing if at least half
    of it is covered.
    """
    width, height = labels.size
    points = np.concatenate([shape.points for shape in shapes]) * height
    low = np.clip(np.floor(points.min(axis=0)) - 1, 0, (width, height)).astype(int)
    high = np.clip(np.ceil(points.max(axis=0)) + 1, 0, (width, height)).astype(int)
    if (high <= low).any():
        return
    place = (int(low[0]), int(low[1]))
    size = (2 * int(high[0] - low[0]), 2 * int(high[1] - low[1]))
    cover, paint = Image.new("L", size), Image.new("RGB", size, shapes[-1].pieces[0].color)
    on_cover, on_paint = ImageDraw.Draw(cover), ImageDraw.Draw(paint)
    for shape in shapes:
        for piece, polygon in shape.polygons(2 * (shape.points * height - low) - 0.5):
            if piece.outline:
                on_cover.polygon(polygon, fill=255)
            if picture is not None:
                on_paint.polygon(polygon, fill=piece.color)
    cover = cover.reduce(2)
    labels.paste(ident, place, cover.point(_HALF))
    if picture is not None:
        picture.paste(paint.reduce(2), place, cover)
