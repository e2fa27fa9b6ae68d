"""Colours: the DAVIS palette for label images, and brighter ones for people to look at."""

from __future__ import annotations

import colorsys
from functools import lru_cache


@lru_cache(maxsize=1)
def davis_palette() -> bytes:
    """256 RGB triples; 0 is black. The bits of the index are spread over the channels, highest first."""
    palette = bytearray()
    for index in range(256):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
        palette += bytes(rgb)
    return bytes(palette)


OBJECT_COLORS = (
    (100, 180, 255),
    (255, 220, 40),
    (160, 80, 255),
    (120, 255, 160),
    (220, 20, 120),
    (120, 180, 0),
    (20, 20, 240),
    (200, 255, 120),
    (140, 100, 0),
    (20, 120, 200),
    (140, 20, 140),
    (100, 20, 180),
)
"""Colours far from those of tissue and from one another, for people with any kind of colour vision.

Sky blue, yellow and blue are from the palette of Okabe and Ito (2008), a little lighter or stronger. The others were
searched for among 2744 colours of RGB: the smallest distance of any two in CIELAB, seen normally or as with
protanopia, deuteranopia or tritanopia (the matrices of Machado et al., 2009), is as large as could be found. The first
ones are the brightest. The dark ones tell as much by their lightness as by their hue.
"""


def color_of(object_id: int) -> tuple[int, int, int]:
    """RGB of an object in the overlay. The dark reds and greens of the DAVIS palette drown in tissue."""
    if object_id <= len(OBJECT_COLORS):
        return OBJECT_COLORS[object_id - 1]
    r, g, b = colorsys.hsv_to_rgb(object_id * 0.618 % 1, 0.85, 1.0)  # the golden angle keeps neighbours apart
    return round(255 * r), round(255 * g), round(255 * b)
