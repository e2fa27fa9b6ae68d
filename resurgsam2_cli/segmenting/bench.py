"""How fast each stage is alone, how fast they are together, and which of them the others wait for."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from model import ImageFeatures, Rules, Segmenter
from model.streams import Handed
from model.training.scenes import CATEGORIES, Scene
from resurgsam2_cli.outputs import SINKS, Clip, FrameResult
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.runs.folder import Wanted
from resurgsam2_cli.segmenting.engine import Engine, device_errors
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.pipeline import object_results, segment
from resurgsam2_cli.segmenting.reading import encode_prompts, network_image, read
from resurgsam2_cli.segmenting.rendering import Prediction, rendering
from resurgsam2_cli.segmenting.timing import Timing, forget_peak, peak_memory_mb
from resurgsam2_cli.video.frames import Frame
from resurgsam2_cli.video.positions import Part, Position
from resurgsam2_cli.video.source import Source, source_path
from resurgsam2_cli.video.writer import VideoWriter

_HELD = 8
"""Decoded frames that the stages go through again and again."""

_MASKS = 64
"""Masks in the size of the video that are held to be written again and again."""

_WARM_UP = 24
"""Tracked frames until short- and long-term memory are full."""

_RECORDED = 4
"""Calls until what repeats is recorded on a GPU, and has been replayed once."""

_RATE = Fraction(25)

SEARCHING = replace(Rules(), min_presence=1.0)
"""Nothing is ever credible: every frame is detected."""

TRACKING = replace(Rules(), min_presence=0.0, min_iou=0.0, window=1, long_term_min_iou=0.0)
"""Everything is credible: every frame but the first is tracked, with as much memory as there can be."""


@dataclass(frozen=True)
class StageSpeed:
    """One stage alone, in a loop."""

    stage: str
    seconds: float
    """Per frame."""

    @property
    def frames_per_second(self) -> float:
        """The inverse of the seconds."""
        return 1 / self.seconds


@dataclass(frozen=True)
class ObjectsSpeed:
    """What depends on the number of objects."""

    objects: int
    stages: list[StageSpeed]
    """detect, track, render, and each output."""
    end_to_end: StageSpeed
    """The whole pipeline from file to files, all objects tracked."""
    bottleneck: str
    """The slowest of what runs side by side: decoding, the network (encoding and tracking), and the outputs with their
    rendering; with a GPU, rendering and each output count alone, and an output of several threads by its share."""
    of_bottleneck: float
    """Seconds per frame end to end, divided by those of the bottleneck alone: 1 if everything else is hidden."""
    peak_memory_mb: dict[str, int | None]
    """The peak of the device with this number of objects, and that of the host so far."""


@dataclass(frozen=True)
class Benchmark:
    """All figures."""

    height: int
    width: int
    frames: int
    start_up_seconds: float
    """Weights from the disk to the device, and the first frame."""
    stages: list[StageSpeed] = field(default_factory=list)
    """decode and encode."""
    objects: list[ObjectsSpeed] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """The figures as plain JSON types."""

        def speed(x: StageSpeed) -> dict[str, float]:
            return {"seconds": x.seconds, "frames_per_second": x.frames_per_second}

        def table(stages: list[StageSpeed]) -> dict[str, dict[str, float]]:
            return {x.stage: speed(x) for x in stages}

        rows = [{**asdict(x), "stages": table(x.stages), "end_to_end": speed(x.end_to_end)} for x in self.objects]
        return {**asdict(self), "stages": table(self.stages), "objects": rows}


def _scene() -> Scene:
    return Scene(0, frames=100)


def make_video(path: Path, height: int, width: int, frames: int) -> None:
    """A rendered scene in any size: a hundred frames that go back and forth."""
    scene = _scene()
    order = [*range(scene.frames), *range(scene.frames - 2, 0, -1)]
    writer = VideoWriter(path, height, width, _RATE)
    shown: dict[int, np.ndarray] = {}
    for i, t in enumerate(islice(cycle(order), frames)):
        if t not in shown:
            shown[t] = np.asarray(Image.fromarray(scene.render(t)[0]).resize((width, height)))
        writer.write(shown[t], i / _RATE)
    writer.close()


def some_prompts(count: int) -> tuple[Prompt, ...]:
    """Different prompts; the first name what is in the scene of :func:`make_video`, which gives masks to write."""
    scene = _scene()
    texts = [text for target in scene.targets for text in scene.sentences(target)]
    texts += [f"{side} {category}" for side in ("left", "right", "top", "bottom") for category in CATEGORIES]
    return tuple(Prompt(text, f"{text} {i}") for i, text in zip(range(count), cycle(texts), strict=False))


def benchmark(
    build: Callable[[], Engine], source: Source, frames: int, objects: list[int], say: Callable[[str], None]
) -> Benchmark:
    """Measure on the first ``frames`` frames of a video. Raises a :class:`~resurgsam2_cli.errors.UserError`.

    Few objects come before many: a GPU keeps what was recorded for many, which would count for the others, too.
    """
    part = Part(end=Position(frame=frames))
    held = list(islice(source.frames(part), _HELD))
    height, width = held[0].rgb.shape[:2]
    begin = time.perf_counter()
    engine = build()
    encode = engine.executor.encode
    with device_errors(), engine.context():
        images = [network_image(engine, frame) for frame in held]
        features = [encode(images[:1])]
        _synchronize(engine)
        start_up = time.perf_counter() - begin
        features += [encode([image]) for image in images[1:]]
        say("decode")
        decode = _reading(engine, source, part)
        say("encode")
        several, together = cycle(images), engine.executor.frames_together

        def encode_some() -> None:
            encode(list(islice(several, together)))

        for _ in range(_RECORDED):
            encode_some()
        seconds = _seconds(engine, encode_some, -(-frames // together))
        encoding = StageSpeed("encode", seconds / together)
    result = Benchmark(height, width, frames, start_up, [decode, encoding])
    for count in sorted(set(objects)):
        say(f"{count} object" + "s" * (count > 1))
        result.objects.append(_with_objects(engine, source, part, held, features, count, result.stages))
    return result


def _reading(engine: Engine, source: Source, part: Part) -> StageSpeed:
    begin = time.perf_counter()
    count = sum(1 for _ in read(engine, source, part, Timing()))
    return StageSpeed("decode", (time.perf_counter() - begin) / count)


class _Same(dict[int, int]):
    """Steps of the segmenter are frames of the source."""

    def __missing__(self, key: int) -> int:
        return key


def _synchronize(engine: Engine) -> None:
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)


def _seconds(engine: Engine, work: Callable[[], Any], times: int) -> float:
    """Seconds of one call, including the wait for the device."""
    _synchronize(engine)
    begin = time.perf_counter()
    for _ in range(times):
        work()
    _synchronize(engine)
    return (time.perf_counter() - begin) / times


def _with_objects(
    engine: Engine,
    source: Source,
    part: Part,
    held: list[Frame],
    features: list[ImageFeatures],
    count: int,
    shared: list[StageSpeed],
) -> ObjectsSpeed:
    prompts = some_prompts(count)
    frames = part.end.frame if part.end and part.end.frame else 1
    forget_peak(engine.device)
    with device_errors(), engine.context():
        encoded = encode_prompts(engine, prompts)
        stages = []
        searched = engine.config.fusion.frames + _RECORDED  # with as many earlier frames as it looks at
        for stage, rules, warm_up in (("detect", SEARCHING, searched), ("track", TRACKING, _WARM_UP)):
            segmenter, several = Segmenter(engine.executor, encoded, rules), cycle(features)
            for _ in range(warm_up):
                step = segmenter.step(next(several))
            stages.append(
                StageSpeed(stage, _seconds(engine, lambda s=segmenter, x=several: s.step(next(x)), frames))  # type: ignore[misc]
            )
        predictions = cycle(
            [Prediction(x, Handed(step.mask_logits), object_results(step.objects, _Same())) for x in held]
        )

        def render() -> FrameResult:
            return rendering(next(predictions), 0.0, engine.executor.render)()

        for _ in range(_RECORDED):
            render()
        stages.append(StageSpeed("render", _seconds(engine, render, frames)))
        results = [render() for _ in range(max(1, min(_HELD, _MASKS // count)))]
    with tempfile.TemporaryDirectory() as folder:
        written = {x.stage: (x, share) for x, share in _writing(Path(folder), results, prompts, frames)}
        stages += [x for x, _ in written.values()]
        options = SegmentOptions(part=part, rules=TRACKING)
        wanted = Wanted(Path(folder), "run", source_path(source), source.identity())
        with wanted.claim(overwrite=False) as run:
            summary = segment(engine, source, prompts, options, run, lambda result: None)
        whole = StageSpeed("end to end", summary.record["timing"]["seconds"] / summary.record["source"]["frames"])
    times = {x.stage: x.seconds for x in (*shared, *stages)}
    behind = {x.stage: x.seconds for x in stages if x.stage not in ("detect", "track")}
    if engine.device.type == "cpu":  # in one thread
        behind = {"outputs": sum(behind.values())}
    else:
        behind |= {name: share for name, (_, share) in written.items()}
    side_by_side = {"decode": times["decode"], "network": times["encode"] + times["track"], **behind}
    bottleneck = max(side_by_side, key=lambda name: side_by_side[name])
    return ObjectsSpeed(
        count, stages, whole, bottleneck, whole.seconds / side_by_side[bottleneck], peak_memory_mb(engine.device)
    )


def _writing(
    folder: Path, results: list[FrameResult], prompts: tuple[Prompt, ...], frames: int
) -> Iterator[tuple[StageSpeed, float]]:
    """Each output alone, and the seconds per frame that it takes if several threads prepare its frames."""
    height, width = results[0].rgb.shape[:2]
    clip = Clip("bench", height, width, _RATE, Fraction(0), None, None, prompts)
    for name in SegmentOptions().sinks:
        (place := folder / name).mkdir()
        begin, preparing = time.perf_counter(), 0.0
        sink = SINKS[name](place, clip)
        for i, result in enumerate(islice(cycle(results), frames)):
            begun = time.perf_counter()
            prepared = sink.prepare(replace(result, made=result.masks, number=i, name=f"{i:05d}", time=i / _RATE))
            preparing += time.perf_counter() - begun
            sink.add(prepared)
        sink.finish()
        whole = time.perf_counter() - begin
        share = max(preparing / sink.threads, whole - preparing)
        yield StageSpeed(f"write {name}", whole / frames), share / frames
