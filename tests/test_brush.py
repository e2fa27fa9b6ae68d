"""Label Studio's brush labels: written as it reads them, read as it writes them, and nothing else taken for them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resurgsam2_cli.files.brush import decode_brush, encode_brush


def decoded_by_label_studio(rle: list[int]) -> np.ndarray:
    """``decode_rle`` of label-studio-sdk 2.1.2 (``converter/brush.py``), which reads one bit after the other."""
    bits = "".join(f"{x:08b}" for x in rle)
    place = 0

    def read(size: int) -> int:
        nonlocal place
        place += size
        return int(bits[place - size : place], 2)

    num = read(32)
    word_size = read(5) + 1
    rle_sizes = [read(4) + 1 for _ in range(4)]
    i, out = 0, np.zeros(num, np.uint8)
    while i < num:
        x = read(1)
        j = i + 1 + read(rle_sizes[read(2)])
        if x:
            out[i:j] = read(word_size)
            i = j
        else:
            while i < j:
                out[i] = read(word_size)
                i += 1
    return out


MASKS = st.tuples(st.integers(1, 40), st.integers(1, 60), st.integers(0, 2**32 - 1), st.sampled_from((0, 0.02, 0.5, 1)))


@given(MASKS)
def test_label_studio_reads_what_is_written(given_mask: tuple[int, int, int, float]) -> None:
    height, width, seed, share = given_mask
    mask = np.random.default_rng(seed).random((height, width)) < share
    rle = encode_brush(mask)
    values = decoded_by_label_studio(rle).reshape(height, width, 4)
    assert np.array_equal(values, np.repeat(mask[..., None], 4, axis=2) * 255)
    assert np.array_equal(decode_brush(rle, height, width), mask)


def test_a_large_mask() -> None:
    """Runs longer than the longest block."""
    mask = np.zeros((720, 1280), bool)
    mask[100:600, 3:1270] = True
    assert np.array_equal(decode_brush(encode_brush(mask), 720, 1280), mask)
    assert decode_brush(encode_brush(np.ones((720, 1280), bool)), 720, 1280).all()


@given(st.one_of(st.lists(st.integers(-1, 256), max_size=60), st.binary(max_size=80).map(list)))
def test_anything_else_is_refused(rle: list[int]) -> None:
    try:
        assert decode_brush(rle, 3, 5).shape == (3, 5)
    except ValueError as error:
        assert "brush" in str(error)


@pytest.mark.parametrize("change", ["size", "early", "beyond", "words"])
def test_damage_is_named(change: str) -> None:
    rle = encode_brush(np.eye(6, dtype=bool))
    if change == "early":
        rle = rle[:-3]
    elif change == "words":
        rle = ["1", *rle[1:]]  # type: ignore[list-item]
    elif change == "beyond":
        rle[3] = 10  # fewer values than its blocks have
    with pytest.raises(ValueError, match="brush"):
        decode_brush(rle, 6, 7 if change == "size" else 6)
