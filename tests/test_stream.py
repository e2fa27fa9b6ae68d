"""Threads side by side: what goes in comes out, in order; an error in one ends the others; nothing hangs."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from model.image_encoder import ImageFeatures
from model.preprocess import bits_and_labels
from model.streams import Handed
from resurgsam2_cli import outputs
from resurgsam2_cli.errors import InputError
from resurgsam2_cli.outputs import Clip, FrameResult, ObjectResult
from resurgsam2_cli.outputs.own_process import POSSIBLE
from resurgsam2_cli.process.interruption import Interrupted, interruptible
from resurgsam2_cli.process.threads import Closed, Lane, ahead
from resurgsam2_cli.prompts.prompt import parse_prompts
from resurgsam2_cli.runs.folder import Wanted
from resurgsam2_cli.segmenting.engine import build_engine
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.pipeline import segment
from resurgsam2_cli.segmenting.rendering import Prediction
from resurgsam2_cli.segmenting.timing import Timing
from resurgsam2_cli.segmenting.writing import Outputs
from resurgsam2_cli.video.frames import Frame
from resurgsam2_cli.video.positions import WHOLE, Part
from resurgsam2_cli.video.source import open_source
from resurgsam2_cli.video.video_file import VideoFile

FRAMES = 24  # of the fixture ``video``


class Trouble(Exception):
    """What goes wrong in these tests."""


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """Fail a test that waits for ever, or whose thread outlives it."""
    before = set(threading.enumerate())
    if sys.platform != "win32":
        signal.signal(signal.SIGALRM, lambda *_: pytest.fail("hangs"))
        signal.alarm(120)
    yield
    if sys.platform != "win32":
        signal.alarm(0)
    assert set(threading.enumerate()) <= before


def failing(at: int) -> Generator[int, None, None]:
    yield from range(at)
    raise Trouble


def nothing() -> None:
    pass


def test_reading_ahead_keeps_order_and_bounds() -> None:
    made = 0

    def items() -> Generator[int, None, None]:
        nonlocal made
        for i in range(20):
            made = i + 1
            yield i

    with ahead(items(), 3, nothing) as taken:
        assert next(taken) == 0
        time.sleep(0.1)
        assert made <= 5  # one taken, three waiting, one in hand
        assert list(taken) == list(range(1, 20))
    with ahead((i for i in itertools.count()), 3, nothing) as taken:
        assert next(taken) == 0  # the rest is not wanted


@pytest.mark.parametrize("at", [0, 1, 2, 5])
def test_an_error_ahead_comes_after_what_was_made(at: int) -> None:
    taken: list[int] = []

    def take() -> None:
        with ahead(failing(at), 2, nothing) as items:
            taken.extend(items)

    with pytest.raises(Trouble):
        take()
    assert taken == [] or taken == list(range(at))


def test_waiting_is_interrupted() -> None:
    over = threading.Event()

    def slow() -> Generator[int, None, None]:
        over.wait()
        yield 0

    with pytest.raises(Trouble), ahead(slow(), 2, over.set):
        raise Trouble


def test_lane() -> None:
    taken: list[int] = []

    def take(item: int) -> None:
        if item == 7:
            raise Trouble
        taken.append(item)

    lane: Lane[int] = Lane(take, 2)
    for i in range(5):
        lane.put(i)
    lane.finish()
    assert taken == list(range(5))

    lane = Lane(take, 2)
    lane.put(7)
    with pytest.raises(Trouble):
        for _ in range(4):  # those that there is room for may come before it
            lane.put(0)
    lane = Lane(take, 2)
    lane.put(7)
    with pytest.raises(Trouble):
        lane.finish()


def test_a_lane_of_several_threads() -> None:
    """They prepare side by side; items are taken in order, one at a time; the error of one of them ends all."""
    together, taken, taking = threading.Barrier(3), list[int](), threading.Lock()

    def prepare(item: int) -> int:
        together.wait(timeout=120)
        time.sleep(0.02 * (3 - item % 3))  # the first of three is the last that is ready
        if item == 7:
            raise Trouble
        return 10 * item

    def take(item: int) -> None:
        assert taking.acquire(blocking=False)
        if item == 90:
            raise Trouble
        time.sleep(0.01)
        taken.append(item)
        taking.release()

    lane = Lane(take, 2, prepare, threads=3)
    for i in range(6):
        lane.put(i)
    lane.finish()
    assert taken == [0, 10, 20, 30, 40, 50]
    before = threading.active_count()
    for items in ((6, 7, 8), (9, 10, 11)):
        lane = Lane(take, 2, prepare, threads=3)
        for i in items:
            lane.put(i)
        with pytest.raises(Trouble):
            lane.finish()
        assert threading.active_count() <= before
    assert taken[6:] in ([60], [])


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_a_lane_that_feeds_a_stopped_one_holds_nobody_up(threads: int) -> None:
    """As when the outputs are stopped while all that comes before them waits for room."""
    go = threading.Event()
    last: Lane[int] = Lane(lambda _: (go.wait(), None)[1], 1)
    middle: Lane[int] = Lane(last.put, 1, (lambda x: x) if threads else None, threads or 1)
    refused: list[BaseException] = []

    def fill() -> None:
        try:
            for i in range(9):
                middle.put(i)
        except Closed as error:
            refused.append(error)

    filling = threading.Thread(target=fill, daemon=True)
    filling.start()
    time.sleep(0.1)
    threading.Timer(0.1, go.set).start()
    last.abort()
    filling.join(timeout=120)
    assert refused
    middle.abort()


def test_an_aborted_lane_drops_what_waits() -> None:
    begun, go = threading.Event(), threading.Event()
    taken: list[int] = []

    def take(item: int) -> None:
        begun.set()
        go.wait()
        taken.append(item)

    lane: Lane[int] = Lane(take, 2)
    lane.put(1)
    lane.put(2)
    begun.wait()
    aborting = threading.Thread(target=lane.abort)
    aborting.start()
    while not lane._buffer._closed:
        time.sleep(0.01)
    go.set()
    aborting.join()
    assert taken == [1]


class Faulty(VideoFile):
    """Breaks before one of its frames, with an error that nobody expects."""

    at = 0

    def frames(self, part: Part = WHOLE) -> Generator[Frame, None, None]:
        for i, frame in enumerate(super().frames(part)):
            if i == self.at:
                raise Trouble
            yield frame


@pytest.mark.parametrize("at", [0, FRAMES // 2, FRAMES - 1])
@pytest.mark.parametrize("starts_ahead", [False, True])
@pytest.mark.parametrize("where", ["reading", "network", "writing", "watching", "signal"])
def test_an_error_ends_everything(
    where: str,
    starts_ahead: bool,
    at: int,
    video: Path,
    small_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error at the start, in the middle or at the end leaves nothing behind, and the thread count is as before."""
    engine = replace(build_engine(str(small_weights), None, "cpu", "fp32"), starts_ahead=starts_ahead)
    counted = {"network": 0, "writing": 0, "watching": 0}

    def fail(where_now: str) -> None:
        if where in (where_now, "signal" if where_now == "watching" else None) and counted[where_now] == at:
            if where == "signal":
                signal.raise_signal(signal.SIGTERM)
            raise Trouble
        counted[where_now] += 1

    whole = engine.executor.encode

    def encode(frames: list[Any]) -> ImageFeatures:
        fail("network")
        return whole(frames)

    monkeypatch.setattr(engine.executor, "encode", encode)
    png = outputs.SINKS["png"]

    class Broken(png):  # type: ignore[valid-type, misc]
        def add(self, prepared: Any) -> None:
            fail("writing")
            super().add(prepared)

    monkeypatch.setitem(outputs.SINKS, "png", Broken)
    monkeypatch.setattr(Faulty, "at", at if where == "reading" else -1)
    source = Faulty(video)
    expected = Interrupted if where == "signal" else Trouble
    wanted = Wanted(tmp_path / "runs", "clip", str(video), {})
    with pytest.raises(expected), interruptible(signal.SIGTERM), wanted.claim(overwrite=False) as folder:
        segment(engine, source, parse_prompts(["kidney"]), SegmentOptions(), folder, lambda _: fail("watching"))
    assert not (tmp_path / "runs").exists()


def test_files_do_not_depend_on_the_lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs in threads or a process of their own, as beside a GPU, write what one thread writes."""
    prompts, options = parse_prompts(["kidney", "grasper", "needle"]), SegmentOptions(object_png=True)
    clip = Clip("clip", 48, 70, Fraction(25), Fraction(0), None, None, prompts)
    random = np.random.default_rng(0)
    logits = torch.from_numpy(random.standard_normal((12, 3, 16, 16), np.float32))
    logits[3, 1] = logits[5] = -1.0  # an object, or all, in no pixel
    pictures = random.integers(0, 256, (12, 48, 70, 3), np.uint8)
    objects = [ObjectResult(i, "track", True, 2.0, 0.9, 0.8, (0,), ()) for i in (1, 2, 3)]
    files = []
    monkeypatch.setattr("resurgsam2_cli.segmenting.writing.stream_for", lambda purpose, device, urgent: None)
    for device, apart in (("cpu", False), ("cuda", False), ("cuda", True)):
        engine: Any = SimpleNamespace(
            device=torch.device(device),
            context=lambda threads: nullcontext(),
            executor=SimpleNamespace(render=bits_and_labels),
            writes_apart=apart and POSSIBLE,
        )
        (folder := tmp_path / f"{device} {apart}").mkdir()
        seen: list[int] = []
        with Outputs(folder, clip, engine, options, Timing()) as written:
            for i, rgb in enumerate(pictures):
                frame = Frame(i, f"{i:05d}", Fraction(i, 25), rgb)
                written.put(Prediction(frame, Handed(logits[i]), objects), lambda x, seen=seen: seen.append(x.number))  # type: ignore[misc]
            written.finish(lambda x, seen=seen: seen.append(x.number))  # type: ignore[misc]
        assert seen == list(range(12))
        files.append({x.relative_to(folder): x.read_bytes() for x in folder.rglob("*") if x.is_file()} | written.sums)
    assert files[0] == files[1] == files[2]
    assert len(files[0]) == 12 * 4 + 3 + 4  # images, the other files, and sums


@pytest.mark.parametrize("starts_ahead", [False, True])
def test_a_video_that_breaks_off_keeps_all_that_was_read(
    starts_ahead: bool, video: Path, small_weights: Path, tmp_path: Path
) -> None:
    """Also the last frame, which waits for the one after it."""
    engine = replace(build_engine(str(small_weights), None, "cpu", "fp32"), starts_ahead=starts_ahead)

    class Cut(VideoFile):
        def frames(self, part: Part = WHOLE) -> Generator[Frame, None, None]:
            yield from itertools.islice(super().frames(part), 19)
            raise InputError("breaks off after 19 frames", "copy it again")

    wanted = Wanted(tmp_path / "runs", "clip", str(video), {})
    with pytest.raises(InputError, match="breaks off after"), wanted.claim(overwrite=False) as folder:
        segment(engine, Cut(video), parse_prompts(["kidney"]), SegmentOptions(), folder, lambda _: None)
    (kept,) = (tmp_path / "runs").iterdir()
    assert len(list((kept / "masks").iterdir())) == len((kept / "frames.jsonl").read_text().splitlines()) == 19


def test_results_do_not_depend_on_the_pace(video: Path, small_weights: Path, tmp_path: Path) -> None:
    """A slow watcher, and frames encoded one by one or seven at a time, give the same masks and files."""
    engine = build_engine(str(small_weights), None, "cpu", "fp32")
    together = build_engine(str(small_weights), None, "cpu", "fp32")
    together.executor.frames_together = 7
    seen: list[int] = []

    def slow(result: FrameResult) -> None:
        seen.append(result.number)
        time.sleep(0.02)

    folders = []
    for name, used, watch in (
        ("fast", engine, lambda result: None),
        ("slow", engine, slow),
        ("ahead", replace(engine, starts_ahead=True), lambda result: None),
        ("together", together, lambda result: None),
    ):
        with open_source(str(video)) as source:
            with Wanted(tmp_path / name, "clip", str(video), {}).claim(overwrite=False) as folder:
                summary = segment(used, source, parse_prompts(["kidney"]), SegmentOptions(), folder, watch)
            folders.append(summary.folder)
            assert summary.record["timing"]["stages"]["encode"]["frames_per_second"] > 0
    assert seen == list(range(FRAMES))
    fast, slow_one, begun, seven = (
        {x.relative_to(f): x.read_bytes() for x in f.rglob("*") if x.is_file()} for f in folders
    )
    scores = {Path("frames.jsonl"), Path("annotations.json")}  # its last digit depends on the order of sums
    for path in fast:
        if path.name != "run.json":
            assert fast[path] == slow_one[path] == begun[path]
            assert path in scores or fast[path] == seven[path]
