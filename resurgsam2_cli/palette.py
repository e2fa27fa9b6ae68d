"""Colours of the objects: the DAVIS palette, as in the label images of DAVIS and YouTube-VOS."""

from __future__ import annotations

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


def color_of(object_id: int) -> tuple[int, int, int]:
    """RGB of an object."""
    r, g, b = davis_palette()[3 * object_id : 3 * object_id + 3]
    return r, g, b
