"""The run-length code of masks in Label Studio's brush labels.

Source: ``rle-pack`` of thi.ng/umbrella, which Label Studio uses, and ``converter/brush.py`` of label-studio-sdk. It is
a stream of bits: how many values there are (32), the bits of a value less one (5), the bits of four kinds of lengths
less one (4 each), then blocks. A block is a bit, the kind of its length (2), its length less one, and one value that
all of it has, or, if the first bit is 0, a value for each place. The values are those of an RGBA picture, row by row;
the mask is where its alpha is high.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_LENGTHS = (3, 4, 8, 16)
"""The bits of the four kinds of lengths, as Label Studio writes them."""

_VALUE = 8
_CHANNELS = 4
_HIGH = 127


def encode_brush(mask: NDArray[np.bool_]) -> list[int]:
    """A mask (height, width) as bytes."""
    flat = mask.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    bits = [f"{flat.size * _CHANNELS:032b}", f"{_VALUE - 1:05b}", *(f"{x - 1:04b}" for x in _LENGTHS)]
    begin = 0
    for end in ends.tolist():
        value = f"{255 * bool(flat[begin]):08b}"
        left = (end - begin) * _CHANNELS
        while left:
            kind = next((i for i, x in enumerate(_LENGTHS) if left <= 1 << x), len(_LENGTHS) - 1)
            length = min(left, 1 << _LENGTHS[kind])
            bits.append(f"1{kind:02b}{length - 1:0{_LENGTHS[kind]}b}{value}")
            left -= length
        begin = end
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def decode_brush(rle: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """The mask (height, width) in bytes of a brush label. Raises ``ValueError`` if they are no such mask."""
    if not all(type(x) is int and 0 <= x < 256 for x in rle):
        raise ValueError("a brush that is not a list of bytes")
    stream = _Bits(np.unpackbits(np.array(rle, np.uint8)))
    count, size = stream.number(32), stream.number(5) + 1
    lengths = [stream.number(4) + 1 for _ in range(4)]
    if count != height * width * _CHANNELS or size != _VALUE:
        raise ValueError(f"a brush of {count} values, not one of {width} x {height} pixels")
    values, at = np.zeros(count, np.uint8), 0
    while at < count:
        same, kind = stream.number(1), stream.number(2)
        end = at + stream.number(lengths[kind]) + 1
        if end > count:
            raise ValueError("a brush that leaves the picture")
        values[at:end] = stream.number(_VALUE) if same else stream.bytes(end - at)
        at = end
    return values.reshape(height, width, _CHANNELS)[..., 3] > _HIGH


class _Bits:
    """Numbers from a row of bits."""

    def __init__(self, bits: NDArray[np.uint8]) -> None:
        self._bits, self._at = bits, 0

    def _next(self, count: int) -> NDArray[np.uint8]:
        found = self._bits[self._at : self._at + count]
        if len(found) < count:
            raise ValueError("a brush that ends early")
        self._at += count
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(np.packbits(self._next(size)).tobytes(), "big") >> (-size % 8)

    def bytes(self, count: int) -> NDArray[np.uint8]:
        return np.packbits(self._next(8 * count))
