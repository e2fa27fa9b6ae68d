"""Frames that a program supplies: the masks of the command, whatever the frames come from."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model import Rules
from resurgsam2_cli import build_engine, open_source, segment_frames, segment_video
from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.outputs import FrameResult
from resurgsam2_cli.prompts.marks import parse_mark
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.segmenting.engine import Engine
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.video.frames import Frame
from resurgsam2_cli.video.positions import Part, Position

TEXTS = ["left grasper", "kidney=organ"]
TRACKING = Rules(min_presence=0.0, min_iou=0.0, window=2)


@pytest.fixture(scope="module")
def engine(small_weights: Path) -> Engine:
    return build_engine(str(small_weights), device="cpu")


def frames_of(video: Path, end: int = 24) -> list[Frame]:
    with open_source(video) as source:
        return list(source.frames(Part(end=Position(frame=end))))


def of_the_command(engine: Engine, video: Path, out: Path, end: int = 24) -> list[FrameResult]:
    found: list[FrameResult] = []
    options = SegmentOptions(Part(end=Position(frame=end)), TRACKING, overlay=False)
    segment_video(video, TEXTS, out, engine=engine, options=options, watch=found.append)
    return found


def same(one: FrameResult, other: FrameResult) -> bool:
    pixels = all((getattr(one, x) == getattr(other, x)).all() for x in ("rgb", "masks", "labels"))
    said = all(getattr(one, x) == getattr(other, x) for x in ("number", "name", "objects", "rle", "boxes", "areas"))
    return pixels and said


@pytest.mark.parametrize("end", [24, 9])  # 9 are fewer than the pointers of the memory
def test_the_masks_are_the_commands(engine: Engine, video: Path, tmp_path: Path, end: int) -> None:
    expected = of_the_command(engine, video, tmp_path, end)
    frames = frames_of(video, end)
    arrays = list(segment_frames([x.rgb for x in frames], TEXTS, engine=engine, rules=TRACKING))
    timed = list(segment_frames(frames, TEXTS, engine=engine, rules=TRACKING))
    assert len(arrays) == len(timed) == len(expected) == end
    assert any(x.masks.any() for x in expected)
    assert any(x.stage == "track" for x in expected[-1].objects)
    assert all(map(same, arrays, expected))
    assert all(map(same, timed, expected))
    assert [x.time for x in timed] == [x.time for x in expected]


def test_one_array_may_be_used_again_and_again(engine: Engine, video: Path, tmp_path: Path) -> None:
    def camera() -> Iterator[np.ndarray]:
        held = np.empty((120, 160, 3), np.uint8)
        for frame in frames_of(video):
            held[:] = frame.rgb
            yield held
            held[:] = 0

    found = segment_frames(camera(), TEXTS, engine=engine, rules=TRACKING)
    assert all(map(same, found, of_the_command(engine, video, tmp_path)))


def test_a_result_comes_before_the_next_frame(engine: Engine, video: Path) -> None:
    """A camera gives its next frame when it likes."""
    seen = threading.Event()

    def camera() -> Iterator[np.ndarray]:
        for frame in frames_of(video, 3):
            yield frame.rgb
            assert seen.wait(60)
            seen.clear()

    count = 0
    for _ in segment_frames(camera(), "kidney", engine=engine):
        count += 1
        seen.set()
    assert count == 3


def test_rules_and_threshold(engine: Engine, video: Path) -> None:
    frames = [x.rgb for x in frames_of(video, 6)]
    never = list(segment_frames(frames, TEXTS, engine=engine, rules=Rules(min_presence=1.0)))
    assert {x.stage for result in never for x in result.objects} == {"detect"}
    nothing = list(segment_frames(frames, TEXTS, engine=engine, threshold=1e6))
    assert not any(x.masks.any() for x in nothing)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (np.zeros((4, 4), np.uint8), r"frame 1 is uint8 \(4, 4\)"),
        (np.zeros((4, 4, 3)), r"frame 1 is float64 \(4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"frame 1 is uint8 \(0, 4, 3\)"),
        (None, "frame 1 is NoneType"),
    ],
)
def test_what_is_no_frame(engine: Engine, wrong: np.ndarray, named: str) -> None:
    results = segment_frames([np.zeros((4, 4, 3), np.uint8), wrong], "kidney", engine=engine)
    assert next(results).masks.shape == (1, 4, 4)
    with pytest.raises(UsageError, match=named):
        next(results)
    with pytest.raises(UsageError, match="no prompt"):
        segment_frames([], [], engine=engine)
    assert not list(segment_frames([], "kidney", engine=engine))
    assert not list(segment_frames([], [Prompt("kidney", "organ")], engine=engine))
    for marks in ([parse_mark("cup@3 +5,5")], parse_mark("cup@3 +5,5"), ["kidney", parse_mark("cup@3 +5,5")]):
        with pytest.raises(UsageError, match="texts alone, and there is the mark 'cup'") as error:
            segment_frames([], marks, engine=engine)  # type: ignore[arg-type]
        assert "VideoSession" in error.value.hint


def test_an_error_of_the_source_and_an_early_end(engine: Engine, video: Path) -> None:
    ended = threading.Event()

    def camera(fail: bool) -> Iterator[np.ndarray]:
        try:
            for frame in frames_of(video, 12):
                yield frame.rgb
            if fail:
                raise OSError("the cable is out")
        finally:
            ended.set()

    results = segment_frames(camera(fail=True), TEXTS, engine=engine)
    found = [next(results) for _ in range(12)]
    assert [x.number for x in found] == list(range(12))
    with pytest.raises(OSError, match="cable"):
        next(results)
    before = threading.active_count()
    results = segment_frames(camera(fail=False), TEXTS, engine=engine)
    next(results)
    ended.clear()
    results.close()
    assert ended.wait(120)
    begin = time.monotonic()
    while threading.active_count() > before and time.monotonic() - begin < 20:
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_a_camera_that_gives_no_more_frames(engine: Engine, video: Path) -> None:
    """Whoever stops does not wait for it."""
    more = threading.Event()

    def camera() -> Iterator[np.ndarray]:
        yield frames_of(video, 1)[0].rgb
        more.wait(60)

    results = segment_frames(camera(), TEXTS, engine=engine)
    assert next(results).number == 0
    begin = time.monotonic()
    results.close()
    assert time.monotonic() - begin < 20
    more.set()
