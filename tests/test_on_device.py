"""Everything that uses the network, on a stand-in for a CUDA device that keeps to the rules of a real one."""

from __future__ import annotations

import json
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from clips import ffmpeg
from finished_runs import finished_run
from PIL import Image
from stand_in_gpu import DEVICE, SECOND, Event, Gpu, Graph, Graphs, Stream, pretended

from model import Rules, Segmenter, Step
from model.preprocess import bits_and_labels
from model.replay import Recorder
from model.started import Started
from model.streams import Arriving, Handed, on, stream_for
from model.uploads import Uploads
from resurgsam2_cli import VideoSession, open_source, parse_mark, segment_frames, segment_video
from resurgsam2_cli.errors import UserError
from resurgsam2_cli.files.rle import decoded
from resurgsam2_cli.outputs import FrameResult
from resurgsam2_cli.prompts.marks import Mark
from resurgsam2_cli.refining.refine import Given, refine
from resurgsam2_cli.review.preview import Preview, click
from resurgsam2_cli.runs.reading import read_frames
from resurgsam2_cli.runs.record import read_run
from resurgsam2_cli.segmenting.engine import Engine, make_engine
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.probing import probe
from resurgsam2_cli.segmenting.session import _Span
from resurgsam2_cli.video.positions import Part
from weights.loader import load_network

WIDTH, HEIGHT, FRAMES = 96, 80, 7
RULES = Rules(min_presence=0, min_iou=0, window=2, pool=2, long_term_min_iou=0)
CPU = torch.device("cpu")
TEXTS = ["left grasper", "kidney"]
DRAWN = np.zeros((HEIGHT, WIDTH), bool)
DRAWN[20:50, 10:40] = True


def short_video(folder: Path) -> Path:
    path = folder / "v.mp4"
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=size={WIDTH}x{HEIGHT}:rate=25", "-frames:v", str(FRAMES), path)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return short_video(tmp_path_factory.mktemp("on_device"))


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    with pretended() as found:
        yield found


def engine_on(device: torch.device, weights: Path, precision: str = "fp32") -> Engine:
    return replace(make_engine(*load_network(weights), device, precision), writes_apart=False)


Use = Callable[[Engine, Path, Path], list[Any]]
"""Uses an engine for a video, and a folder; returns masks."""


def in_frames(engine: Engine, video: Path, folder: Path) -> list[Any]:
    with open_source(video) as source:
        frames = [x.rgb for x in source.frames(Part())]
    return [x.masks for x in segment_frames(frames, TEXTS, engine=engine, rules=RULES)]


def in_a_run(engine: Engine, video: Path, folder: Path, *marks: str, **settings: Any) -> list[Any]:
    found: list[FrameResult] = []
    said: list[str | Mark] = [*TEXTS, *map(parse_mark, marks)]
    options = SegmentOptions(rules=RULES, overlay=False)
    segment_video(video, said, folder, engine=engine, options=options, watch=found.append, **settings)
    return [x.masks for x in found]


def with_marks(engine: Engine, video: Path, folder: Path) -> list[Any]:
    marks = ("cup@2 +40,40", "cup@2 -10,10", "bowl@4 box 10,10,40,40", "cup@5 absent")
    return in_a_run(engine, video, folder, *marks)


def found_again(engine: Engine, video: Path, folder: Path) -> list[Any]:
    return in_a_run(engine, video, folder, direction="both", find_again=True, lost_after=1, search_every=1)


def in_a_session(engine: Engine, video: Path, folder: Path) -> list[Any]:
    with open_source(str(video)) as source, VideoSession(engine, source, ["kidney"]) as session:
        session.mark("cup@2 +40,40")
        session.run()
        session.mark("cup@2 -30,30", "cup@1 absent")
        session.run(start=4)
        return [np.stack(session.masks(i)) for i in range(FRAMES)]


def corrected(engine: Engine, video: Path, folder: Path) -> list[Any]:
    run = finished_run(folder / "v", video).folder
    Image.fromarray(DRAWN).save(folder / "drawn.png")
    for mark in ("1@2 +40,40 -5,5", f"2@5 mask {folder / 'drawn.png'}", "3@3 box 10,10,40,40"):
        refine(run, Given([parse_mark(mark)]), lambda words: engine)
    return [decoded(y.rle["counts"], DRAWN.shape) for x in read_frames(read_run(run)) for y in x.masks]


def previewed(engine: Engine, video: Path, folder: Path) -> list[Any]:
    preview = Preview(read_run(finished_run(folder / "v", video).folder), lambda words: engine, None)
    drafts = [parse_mark("2@3 absent")]
    found = [
        decoded(preview.clicked(drafts, [click(1, 4, points, box)], base)["counts"], DRAWN.shape)
        for points, box in (([(30, 30, 1), (60, 60, 0)], None), ([], (10, 10, 30, 30)), ([(70, 70, 1)], None))
        for base in (None, DRAWN)
    ]
    preview.close()
    return found


def in_cvat(engine: Engine, video: Path, folder: Path) -> list[Any]:
    pytest.importorskip("cvat_cli", reason="the extra cvat is not installed")
    from cvat_sdk.masks import encode_mask

    from resurgsam2_cli.cvat.detection import Detection
    from resurgsam2_cli.cvat.interaction import Interaction
    from resurgsam2_cli.cvat.serving import Served
    from resurgsam2_cli.cvat.shapes import shape_mask
    from resurgsam2_cli.cvat.tracking import Tracking
    from resurgsam2_cli.outputs.cleaning import Cleaning
    from resurgsam2_cli.prompts.prompt import Prompt

    def drawn(shape: Any) -> np.ndarray:
        return shape_mask("mask", shape.points, HEIGHT, WIDTH)

    served = Served(engine, Cleaning())
    with open_source(video) as source:
        images = [Image.fromarray(x.rgb) for x in source.frames(Part())]
    how = SimpleNamespace(conf_threshold=0, conv_mask_to_poly=False)
    found = [drawn(x) for x in Detection(served, [Prompt.parse(x) for x in TEXTS]).detect(how, images[0])]
    interaction = Interaction(served)
    said = SimpleNamespace(pos_points=[(30, 30)], neg_points=[(4, 4)], bounding_box=[(1, 2), (50, 60)])
    found += [drawn(x) for x in interaction.detect(None, interaction.preprocess_image(None, images[0]), said)]
    tracking = Tracking(served)
    for kind, points in (("rectangle", [10, 10, 40, 40]), ("mask", encode_mask(DRAWN, [10, 20, 40, 50]))):
        first, *others = (tracking.preprocess_image(None, x) for x in images)
        state = tracking.init_tracking_state(None, first, SimpleNamespace(type=kind, points=points))
        for picture in others:
            shape = tracking.track(SimpleNamespace(original_shape_type="mask"), picture, state)
            found.append(np.zeros_like(DRAWN) if shape is None else drawn(shape))
    return found


def probed(engine: Engine, video: Path, folder: Path) -> list[Any]:
    with open_source(video) as source:
        found = probe(engine, source, TEXTS, 3, 40)
    return [frame.mask(x) for y in found.wordings for frame, x in zip(found.frames, y.detections, strict=True)]


USES = {
    "frames": in_frames,
    "run": in_a_run,
    "marks": with_marks,
    "found again": found_again,
    "session": in_a_session,
    "corrections": corrected,
    "previews": previewed,
    "CVAT": in_cvat,
    "probe": probed,
}


@pytest.mark.parametrize("name", USES)
def test_the_device_gives_what_the_cpu_gives(name: str, video: Path, small_weights: Path, tmp_path: Path) -> None:
    """Nothing mixes tensors of both, reads what is not there yet, or frees what is still used.

    Nor is anything asked of the first device of the machine, which is not this one.
    """
    results = []
    for device in (CPU, SECOND):
        with pretended(SECOND) as gpu:
            folder = tmp_path / device.type
            folder.mkdir()
            results.append(USES[name](engine_on(device, small_weights), video, folder))
        assert gpu.problems == []
        assert (gpu.launches > 500) == (device == SECOND)
    here, there = results
    assert len(here) == len(there) > 0
    assert any(x.any() for x in here)
    assert np.mean([(a != b).mean() for a, b in zip(here, there, strict=True)]) < 0.01


@pytest.mark.parametrize(("name", "precision"), [("marks", "bf16"), ("marks", "fp16"), ("previews", "fp16")])
def test_in_half_precision(
    name: str, precision: str, video: Path, small_weights: Path, tmp_path: Path, gpu: Gpu
) -> None:
    assert len(USES[name](engine_on(DEVICE, small_weights, precision), video, tmp_path)) > 0
    assert gpu.problems == []


def test_the_loop_waits_once_per_frame(small_weights: Path, gpu: Gpu) -> None:
    """For the numbers that decisions are made from."""
    executor = engine_on(DEVICE, small_weights).executor
    with executor.context():
        features = executor.encode([np.full((HEIGHT, WIDTH, 3), 9, np.uint8)])
        segmenter = Segmenter(executor, executor.encode_text(TEXTS), replace(RULES, pool=99))
        for _ in range(6):
            segmenter.step(features)
        gpu.waits.clear()
        for _ in range(5):
            segmenter.step(features)
    assert gpu.waits == {"event": 5}


def test_the_times_of_a_run_are_those_of_the_device(video: Path, small_weights: Path, tmp_path: Path, gpu: Gpu) -> None:
    """Not those of launching, nor, of one stage, a wait for another: each of its streams has a clock."""
    engine = engine_on(DEVICE, small_weights)
    engine.executor._recorders.clear()  # the first calls would not take what the later ones do
    encoder = stream_for("beside", DEVICE)
    found = list[tuple[float, float]]()
    for cost in (1, 1, 5000):  # events are used again
        encoder.cost = cost  # type: ignore[union-attr]
        for run in (in_a_run, found_again):
            run(engine, video, folder := tmp_path / f"{len(found)}")
            (path,) = folder.rglob("run.json")
            stages = json.loads(path.read_text())["timing"]["stages"]
            found.append((stages["encode"]["seconds"] / cost, stages["segment"]["seconds"]))
    assert found[2] == found[4]
    assert found[3] == found[5]
    assert all(x > 0.1 for times in found for x in times)


def test_promotions_are_foreseen(small_weights: Path, gpu: Gpu) -> None:
    """The candidate is chosen while nobody knows yet whether the frame fills the pool: the same one, without a wait."""
    pictures = np.random.default_rng(0).integers(0, 256, (20, HEIGHT, WIDTH, 3), dtype=np.uint8)

    def long_term(device: torch.device, ahead: int) -> list[list[tuple[int, ...]]]:
        executor = engine_on(device, small_weights).executor
        with executor.context():
            features = [executor.encode([x]) for x in pictures]
            segmenter = Segmenter(executor, executor.encode_text(TEXTS), replace(RULES, pool=3))
            started, steps = list[Started](), list[Step]()
            for i, x in enumerate(features):
                if i == 8:
                    gpu.waits.clear()
                started.append(segmenter.start(x))
                if len(started) > ahead:
                    steps.append(started.pop(0).step())
            steps += [x.step() for x in started]
        return [[x.long_term_frames for x in step.objects] for step in steps]

    expected = long_term(CPU, 0)
    assert len(set(map(tuple, expected))) > 5
    assert long_term(DEVICE, 1) == expected
    assert set(gpu.waits) == {"event"}
    assert long_term(DEVICE, 0) == expected  # without the next frame under way, some are still chosen late
    assert gpu.problems == []


def test_a_session_waits_twice_per_frame(video: Path, small_weights: Path, gpu: Gpu) -> None:
    """For the numbers, and for the mask logits, which are kept on the host."""
    engine = engine_on(DEVICE, small_weights)
    with open_source(str(video)) as source, VideoSession(engine, source) as session:
        session.mark(f"cup@{FRAMES - 1} +40,40")
        session.run("backward")  # a gap that a pass fills looks at the masks once more
        session._gaps = [_Span(0, 0, FRAMES - 1, until_agreed=True)]
        gpu.waits.clear()
        session.run("backward")
    assert gpu.waits["read"] == 0
    assert gpu.waits["copy to the host"] == FRAMES - 1
    assert gpu.waits["event"] <= 2 * (FRAMES - 1)  # also for pinned memory that is used again


def is_at(module: str, function: str) -> bool:
    """Whether the program is in a function."""
    frame: Any = sys._getframe()
    while frame is not None:
        if (Path(frame.f_code.co_filename).stem, frame.f_code.co_name) == (module, function):
            return True
        frame = frame.f_back
    return False


class Fails:
    """Operations that fail, once the program was in a function."""

    def __init__(self, gpu: Gpu, module: str, function: str, error: Callable[[], Exception]) -> None:
        self._error, self.there = error, False
        self.place = module, function
        gpu.refuse = self.refuse

    def refuse(self, operation: Any) -> bool:
        self.there = self.there or is_at(*self.place)
        if self.there:
            raise self._error()
        return False


@pytest.mark.parametrize(
    ("name", "module", "function"),
    [
        ("session", "session", "_step"),
        ("session", "session", "prompt"),
        ("marks", "pipeline", "stored"),
        ("marks", "rendering", "rendering"),
        ("corrections", "known", "rendered"),
        ("corrections", "known", "for_network"),
        ("previews", "session", "clicks_of"),
        ("previews", "reading", "_encode"),
        ("CVAT", "serving", "on_device"),
        ("CVAT", "tracking", "track"),
        ("probe", "probing", "probe"),
        ("frames", "streaming", "segment_frames"),
    ],
)
@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB", "has not enough memory"),
        (torch.AcceleratorError, "CUDA error: unspecified launch failure\nmore", "the device failed (CUDA error: uns"),
    ],
    ids=["memory", "device"],
)
def test_a_device_that_fails_is_one_line(
    name: str, module: str, function: str, kind: type[Exception], text: str, said: str,
    video: Path, small_weights: Path, tmp_path: Path, gpu: Gpu,
) -> None:  # fmt: skip
    """Wherever that is: from then on, everything fails."""
    engine = engine_on(DEVICE, small_weights)
    fails = Fails(gpu, module, function, lambda: kind(text))  # a new one: it holds on to what was under way
    with warnings.catch_warnings(), pytest.raises(UserError) as found:
        warnings.simplefilter("ignore")  # of recordings
        USES[name](engine, video, tmp_path)
    assert fails.there
    assert said in found.value.message
    assert found.value.hint


def test_rendering_without_room(small_weights: Path, gpu: Gpu) -> None:
    """Recordings are given up, then fewer objects are rendered at once; the masks are the same."""
    executor = engine_on(DEVICE, small_weights).executor
    logits = torch.randn(9, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = bits_and_labels(logits, HEIGHT, WIDTH)
    stream = stream_for("rendering", DEVICE, urgent=True)

    def refuse(operation: Any) -> bool:
        if len(refused) < 4 and is_at("preprocess", "resize_masks"):
            refused.append(str(operation))
            return True
        return False

    refused: list[str] = []
    with executor.context(), on(stream):
        for i in range(6):
            if i == 4:
                gpu.refuse = refuse
            row = Arriving(executor.render(Handed(logits.to(DEVICE)).take(), HEIGHT, WIDTH, 0.0)).wait()
            assert torch.equal(row, expected)
    assert len(refused) == 4
    assert executor.rendered_together < 9
    assert gpu.problems == []


def test_no_room_while_another_thread_records(small_weights: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the device meanwhile, which would end both: who has no room waits for the recording."""
    executor = engine_on(DEVICE, small_weights).executor
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    recording, refused = threading.Event(), list[str]()

    def record(self: Graphs, work: Callable[[], Any]) -> Graph:
        def slowly() -> Any:
            recording.set()
            time.sleep(0.3)
            return work()

        return Graph(slowly)

    def encode() -> None:
        with executor.context(), executor.beside():
            for _ in range(3):  # the third time is recorded
                executor.encode([frame])

    def refuse(operation: Any) -> bool:
        if not refused and threading.current_thread() is threading.main_thread():
            refused.append(str(operation))
            return True
        return False

    monkeypatch.setattr(Graphs, "record", record)
    with executor.context():
        prompts, features = executor.encode_text(TEXTS), executor.encode([frame])
        beside = threading.Thread(target=encode)
        beside.start()
        assert recording.wait(60)
        gpu.refuse = refuse
        assert executor.detect(features, [], prompts).mask_logits.shape[0] == len(TEXTS)
        beside.join()
    assert refused
    assert gpu.problems == []


def test_texts_without_room(small_weights: Path, gpu: Gpu) -> None:
    executor = engine_on(DEVICE, small_weights).executor
    texts = [f"thing {i}" for i in range(20)]
    with executor.context():
        expected = executor.encode_text(texts)
        gpu.refuse = lambda operation: "embedding" in str(operation) and executor.texts_together > 6
        found = executor.encode_text(texts)
        assert executor.texts_together <= 6
        torch.testing.assert_close(found.summary.cpu(), expected.summary.cpu(), rtol=1e-4, atol=1e-5)


def test_memory_of_the_last_video_goes_first(small_weights: Path, gpu: Gpu) -> None:
    executor = engine_on(DEVICE, small_weights).executor
    objects = executor.objects_together
    with executor.context():
        executor.memory(3, RULES)
        gpu.refuse = lambda operation: bool(executor._spare)  # as much as that took
        executor.memory(4, RULES)
    assert executor.objects_together == objects


def test_uploads_of_several_videos(gpu: Gpu) -> None:
    """They share a little pinned memory, and get in nobody's way."""
    uploads, wrong = Uploads(DEVICE), list[int]()

    def send(value: int) -> None:
        frame = np.full((8, 8, 3), value, np.uint8)
        for _ in range(60):
            found = uploads.send([frame, frame])
            wrong.extend(x for x in found.cpu().flatten().tolist() if x != value)

    threads = [threading.Thread(target=send, args=(value,)) for value in (1, 2, 3)]
    for x in threads:
        x.start()
    for x in threads:
        x.join()
    assert wrong == []
    assert gpu.problems == []


def test_pictures_of_pil_are_uploaded_without_a_word(gpu: Gpu) -> None:
    """They are arrays that nobody may write to, which PyTorch would warn of on the user's terminal."""
    picture = np.asarray(Image.fromarray(np.zeros((8, 8, 3), np.uint8)))
    assert not picture.flags.writeable
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Uploads(DEVICE).send([picture])
    finally:
        torch.set_warn_always(always)


@pytest.mark.parametrize("view", [np.s_[:, :, ::-1], np.s_[::-1], np.s_[::2, 3:], np.s_[:, ::-2]])
def test_views_of_pictures_are_uploaded(view: Any, gpu: Gpu) -> None:
    """As of one of OpenCV, whose channels are in the other order."""
    picture = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)[view]
    with torch.cuda.device(DEVICE):
        (found,) = Uploads(DEVICE).send([picture])
    assert np.array_equal(found.cpu().numpy(), picture)


def test_recordings_are_dropped_when_the_device_is_done() -> None:
    """Nobody may replay one between the wait and its end."""
    recorder, seen = Recorder(Graphs()), list[tuple[int, bool]]()

    def look() -> None:
        free = recorder._lock.acquire(blocking=False)
        seen.append((len(recorder._recordings), free))
        if free:
            recorder._lock.release()

    def wait() -> None:
        other = threading.Thread(target=look)
        other.start()
        other.join()

    with pretended():
        for _ in range(4):
            recorder.call("more", lambda x: x + 1, torch.zeros(1))
        assert recorder.drop(wait)
    assert seen == [(1, False)]


# What the stand-in is good for: each of these is wrong on a real device, and says nothing there.


def test_mixed_devices_and_hidden_reads_are_seen(gpu: Gpu) -> None:
    x = torch.ones(3, device=DEVICE)
    with pytest.raises(RuntimeError, match="to be on the same device"):
        x + torch.ones(3)
    with pytest.raises(RuntimeError, match="not supported for tensor subclasses"):
        x.numpy()
    gpu.waits.clear()
    assert bool((x > 0).any())
    assert gpu.waits == {"read": 1}
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        Graphs().record(lambda: x.sum().item())


@pytest.mark.parametrize(
    ("owner", "name", "found"),
    [
        (Stream, "wait_event", "before another stream has made"),
        (torch.Tensor, "record_stream", "was freed while another stream may still use it"),
    ],
)
def test_streams_that_do_not_wait_are_seen(
    owner: type, name: str, found: str, video: Path, small_weights: Path, tmp_path: Path, gpu: Gpu,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    engine = engine_on(DEVICE, small_weights)
    monkeypatch.setattr(owner, name, lambda self, other: None)
    in_frames(engine, video, tmp_path)
    assert any(found in x for x in gpu.problems)


def test_pinned_memory_that_is_used_too_early_is_seen(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Event, "synchronize", lambda self: None)
    assert Arriving(torch.ones(3, device=DEVICE)).wait().isnan().all()  # the numbers are not there yet
    uploads = Uploads(DEVICE)
    for value in range(3):
        uploads.send([np.full((2, 2, 3), value, np.uint8)])
    torch.cuda.synchronize()
    assert gpu.problems == ["pinned memory was written while it was on its way to the device"]
