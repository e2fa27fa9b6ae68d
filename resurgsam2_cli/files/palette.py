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


_VIVID = (
    (0, 229, 255),
    (118, 255, 3),
    (255, 64, 255),
    (255, 234, 0),
    (64, 130, 255),
    (255, 145, 0),
    (0, 255, 170),
    (180, 110, 255),
)
"""Colours far from the reds of tissue, and from one another."""


def color_of(object_id: int) -> tuple[int, int, int]:
    """RGB of an object in the overlay. The dark reds and greens of the DAVIS palette drown in tissue."""
    if object_id <= len(_VIVID):
        return _VIVID[object_id - 1]
    r, g, b = colorsys.hsv_to_rgb(object_id * 0.618 % 1, 0.85, 1.0)  # the golden angle keeps neighbours apart
    return round(255 * r), round(255 * g), round(255 * b)
