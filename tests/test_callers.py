"""A program that uses the package has settings of its own: they change nothing here, and stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_on_device import CPU, USES, engine_on, in_a_run, short_video

from model.precision import exact_products
from model.self_check import self_check


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return short_video(tmp_path_factory.mktemp("callers"))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def all_at_once() -> Iterator[None]:
    with default_dtype(torch.float64), torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
        yield
        assert torch.empty(0).device.type == "meta"
        assert torch.is_autocast_enabled("cpu")


SETTINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "all at once": all_at_once,
}


@pytest.fixture(scope="module")
def expected(video: Path, small_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Any]]:
    @cache
    def masks(name: str) -> list[Any]:
        return USES[name](engine_on(CPU, small_weights), video, tmp_path_factory.mktemp("expected"))

    return masks


@pytest.mark.parametrize(
    ("name", "setting"), [*((x, "all at once") for x in USES), ("run", "float16"), ("frames", "bfloat16")]
)
def test_settings_change_nothing(
    name: str,
    setting: str,
    video: Path,
    small_weights: Path,
    tmp_path: Path,
    expected: Callable[[str], list[Any]],
) -> None:
    """The same masks to the bit, whether the network was loaded before or after.

    A default device and autocast belong to the caller's thread; the default type, to all.
    """
    there = expected(name)
    before = engine_on(CPU, small_weights)
    with SETTINGS[setting]():
        for i, engine in enumerate((before, engine_on(CPU, small_weights))):
            (tmp_path / str(i)).mkdir()
            here = USES[name](engine, video, tmp_path / str(i))
            assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_device_is_checked(setting: str) -> None:
    before = torch.get_rng_state()
    with SETTINGS[setting]():
        assert self_check(CPU, "fp32", ()) == {}
    assert torch.equal(torch.get_rng_state(), before)


def test_random_numbers_go_on(video: Path, small_weights: Path, tmp_path: Path) -> None:
    """Nothing is drawn, and nobody's seed is another afterwards."""
    torch.manual_seed(123)
    before = torch.get_rng_state()
    in_a_run(engine_on(CPU, small_weights), video, tmp_path, seed=7)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_set_meanwhile_in_another_way_stays() -> None:
    """PyTorch has an old and a new way, and refuses to read one that contradicts the other."""
    owner = torch.backends.cuda.matmul
    if not hasattr(owner, "fp32_precision"):
        pytest.skip("this PyTorch has one way")
    try:
        torch.set_float32_matmul_precision("high")
        with exact_products():
            owner.fp32_precision = "tf32"
        assert owner.fp32_precision == "tf32"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("wish", ["medium", "high", "highest"])
def test_what_is_set_meanwhile_stays(wish: str) -> None:
    """A generator that is not used up yet holds settings; what a caller sets then is the caller's wish."""
    rounds = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")
        with exact_products():
            assert torch.get_float32_matmul_precision() == "highest"
            torch.set_float32_matmul_precision("high")
            torch.set_float32_matmul_precision(wish)
            with exact_products():
                pass
        # "highest" is what it was meanwhile: nobody can tell who wanted that.
        assert torch.get_float32_matmul_precision() == ("high" if wish == "highest" else wish)
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = rounds
