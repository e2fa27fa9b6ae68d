"""One video from source to outputs: frames, features, predictions, sinks; data flows one way.

Reading, the network, and what is made of its masks have a thread each; with a GPU, so has each output.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model import Rules, Segmenter, label_image, preprocess, resize_masks
from model.image_encoder import ImageFeatures
from model.initial_frame import presence
from model.preprocess import packed, shrunk
from model.segmenter import ObjectState
from model.text_encoder import Prompts, decode, tokenize
from resurgsam2_cli import __version__
from resurgsam2_cli.engine import Engine, device_errors
from resurgsam2_cli.errors import InputError, UsageError
from resurgsam2_cli.outputs import SINKS, Clip, FrameResult, ObjectResult, Sink
from resurgsam2_cli.palette import color_of
from resurgsam2_cli.prompts import Prompt
from resurgsam2_cli.run_folder import RunFolder, writing
from resurgsam2_cli.stream import Lane, ahead
from resurgsam2_cli.video.source import Frame, Part, Source, source_path


@dataclass(frozen=True)
class SegmentOptions:
    """How a video is segmented and what is written of it."""

    part: Part = field(default_factory=Part)
    rules: Rules = field(default_factory=Rules)
    threshold: float = 0.0
    """Mask logit above which a pixel belongs to the object."""
    png: bool = True
    object_png: bool = False
    coco: bool = True
    overlay: bool = True
    seed: int = 0

    @property
    def sinks(self) -> list[str]:
        """Names of the wanted outputs; the line per frame is always written."""
        wanted = [name for name in ("png", "object_png", "coco", "overlay") if getattr(self, name)]
        return ["frames", *wanted]

    def record(self) -> dict[str, Any]:
        """The ``settings`` of run.json: every option that changes the result."""
        part = self.part
        return {
            "start": str(part.start),
            "end": None if part.end is None else str(part.end),
            "stride": part.stride,
            "threshold": self.threshold,
            "outputs": self.sinks,
            "seed": self.seed,
            **asdict(self.rules),
        }


@dataclass
class ObjectSummary:
    """What was found of one object over the video. Frame numbers are those of the source."""

    id: int
    text: str
    label: str
    color: str
    initial_frame: int | None = None
    decided_at: int | None = None
    long_term_frames: list[int] = field(default_factory=list)
    """Held at the end."""
    frames_present: int = 0
    first_present: int | None = None

    def add(self, number: int, result: ObjectResult) -> None:
        """Take one frame into account."""
        if result.present:
            self.frames_present += 1
            self.first_present = number if self.first_present is None else self.first_present
        if self.initial_frame is None and result.conditioning_frames:
            self.initial_frame, self.decided_at = result.conditioning_frames[0], number
        self.long_term_frames = list(result.long_term_frames)


@dataclass(frozen=True)
class Summary:
    """The end of a run: run.json and the files."""

    folder: Path
    files: list[Path]
    record: dict[str, Any]


class Timing:
    """Seconds per stage; each stage is measured in one thread."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.frames: dict[str, int] = {}
        self._begin = time.perf_counter()

    @contextmanager
    def measure(self, stage: str, frames: int = 1) -> Iterator[None]:
        """Add the time of the block, which did so many frames, to ``stage``."""
        begin = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begin
        self.frames[stage] = self.frames.get(stage, 0) + frames

    def record(self, frames: int) -> dict[str, Any]:
        """The ``timing`` of run.json."""
        total = time.perf_counter() - self._begin
        return {
            "seconds": round(total, 3),
            "frames_per_second": round(frames / total, 3),
            "stages": {
                stage: {
                    "seconds": round(seconds, 3),
                    "frames_per_second": round(self.frames[stage] / seconds, 3) if seconds else None,
                }
                for stage, seconds in self.seconds.items()
            },
        }


Watcher = Callable[[FrameResult], None]
"""Is shown each frame, in the thread that called :func:`segment`: a progress bar."""

_FRAMES_AHEAD = 4
"""Decoded frames that wait for the network (at least), and results that wait for each output (at most)."""

_BYTES_BEHIND = 2**27
"""Fewer results wait where they are large: many objects, or large pictures."""


def segment(
    engine: Engine,
    source: Source,
    prompts: tuple[Prompt, ...],
    options: SegmentOptions,
    folder: RunFolder,
    watch: Watcher,
) -> Summary:
    """Segment one video into ``folder``, which is complete afterwards or was never there.

    Raises a :class:`~resurgsam2_cli.errors.UserError`; frames that were decoded before a video broke off are kept
    in a folder beside, whose name ends in ``.partial``.
    """
    timing = Timing()
    torch.manual_seed(options.seed)
    decoded = max(_FRAMES_AHEAD, 2 * engine.encoded_together)
    with ahead(read(engine, source, options.part, timing), decoded, source.interrupt) as frames:
        # Only clips shorter than the pointer memory need their length known: see model.memory_bank.
        head, rest = _first(frames, options.rules.pointers)
        clip = _clip(folder.path.name, source, head[0].frame, prompts, options)
        clip_length = len(head) if len(head) < options.rules.pointers else None
        stream = itertools.chain(head, rest)
        del head
        with writing(folder.partial), folder:
            outputs = _Outputs(folder.partial, clip, engine, options, timing, watch)

            def record(complete: bool) -> dict[str, Any]:
                return {
                    "format": 1,
                    "complete": complete,
                    "source": _source_record(source, clip, outputs.count, outputs.span),
                    "objects": [asdict(x) for x in outputs.objects],
                    "weights": weights_record(engine),
                    "settings": options.record(),
                    "backend": engine.record(),
                    "timing": timing.record(outputs.count),
                    "peak_memory_mb": peak_memory_mb(engine.device),
                    "version": __version__,
                }

            try:
                for prediction in predict(engine, stream, prompts, options, clip_length, timing):
                    outputs.put(prediction)
                files = outputs.finish()
            except InputError as error:
                outputs.finish()
                if not outputs.count:
                    raise
                folder.write_record(record(complete=False))
                folder.keep()
                raise InputError(
                    error.message,
                    f"the masks of {outputs.count} frames are kept in {folder.partial}; {error.hint}",
                ) from error
            except BaseException:
                outputs.abort()
                raise
            folder.complete(final := record(complete=True))
    return Summary(folder.path, [folder.path / name for name in (*files, "run.json")], final)


@dataclass(frozen=True)
class Read:
    """A frame, and what the network is given of it."""

    frame: Frame
    image: np.ndarray | torch.Tensor
    """(height, width, 3) uint8"""


def read(engine: Engine, source: Source, part: Part, timing: Timing) -> Generator[Read, None, None]:
    """Frames, made ready for the network in the thread of the caller."""
    frames = source.frames(part)
    while True:
        with timing.measure("decode"):
            frame = next(frames, None)
            if frame is None:
                return
            image = network_image(engine, frame)
        yield Read(frame, image)


def network_image(engine: Engine, frame: Frame) -> np.ndarray | torch.Tensor:
    """What the network is given of a frame, (height, width, 3) uint8.

    A CUDA device resizes it itself and fetches it from pinned memory; else it is resized here.
    """
    if engine.device.type == "cuda":
        return torch.from_numpy(frame.rgb).pin_memory()
    return shrunk(frame.rgb, engine.network.config)


@dataclass(frozen=True)
class Prediction:
    """What the network says of a frame."""

    frame: Frame
    mask_logits: torch.Tensor
    """(objects, size / 4, size / 4) float32, on the device"""
    objects: list[ObjectResult]


def predict(
    engine: Engine,
    frames: Iterator[Read],
    prompts: tuple[Prompt, ...],
    options: SegmentOptions,
    clip_length: int | None,
    timing: Timing,
) -> Iterator[Prediction]:
    """Frames to mask logits. ``clip_length`` is the number of frames where it is known."""
    numbers: dict[int, int] = {}  # of the frames that results may still name: step to source
    with device_errors():
        with engine.context(), timing.measure("text"):
            segmenter = Segmenter(engine.network, encode_prompts(engine, prompts), options.rules, clip_length)
        for step, (frame, features) in enumerate(_encoded(engine, frames, timing)):
            with engine.context(), timing.measure("segment"):
                mask_logits, states = segmenter.step(features)
            numbers[step] = frame.number
            yield Prediction(frame, mask_logits, object_results(states, numbers))
            _forget(
                numbers,
                step,
                options.rules,
                [x for s in states for x in (*s.conditioning_frames, *s.long_term_frames, *s.long_term_candidates)],
            )


def _encoded(engine: Engine, frames: Iterator[Read], timing: Timing) -> Iterator[tuple[Frame, ImageFeatures]]:
    """Frames with their features, which know nothing of what came before: several at once where that is faster."""
    network = engine.network
    while True:
        group, frames = _first(frames, engine.encoded_together)
        if not group:
            return
        with engine.context(), timing.measure("encode", len(group)):
            features = network.encode_image(preprocess([x.image for x in group], network.config, engine.device))
        for i, x in enumerate(group):
            yield x.frame, features.frame(i)


def object_results(states: list[ObjectState], numbers: Mapping[int, int]) -> list[ObjectResult]:
    """What the segmenter says of each object, with the ``numbers`` that its steps have in the source."""
    return [
        ObjectResult(
            id=i,
            stage=state.stage,
            present=state.present,
            object_score=state.object_score,
            predicted_iou=state.predicted_iou,
            presence=presence(state.object_score),
            conditioning_frames=tuple(numbers[x] for x in state.conditioning_frames),
            long_term_frames=tuple(numbers[x] for x in state.long_term_frames),
        )
        for i, state in enumerate(states, start=1)
    ]


def rendered(prediction: Prediction, threshold: float) -> FrameResult:
    """Masks and label image in the size of the video."""
    frame = prediction.frame
    full = resize_masks(prediction.mask_logits, *frame.rgb.shape[:2])
    inside = full > threshold
    if inside.is_cuda:  # an eighth of the bytes to bring back
        masks = np.unpackbits(packed(inside).cpu().numpy(), axis=-1, count=inside.shape[-1]).view(bool)
    else:
        masks = inside.cpu().numpy()
    labels = label_image(full, threshold).cpu().numpy()
    return FrameResult(frame.number, frame.time, frame.rgb, masks, labels, prediction.objects)


class _Outputs:
    """Masks in the video's size, and the sinks, behind the network: a thread for the former and one for each sink.

    Without a GPU one thread does it all: it keeps up with any network, and more would only take turns with it.
    """

    def __init__(
        self, folder: Path, clip: Clip, engine: Engine, options: SegmentOptions, timing: Timing, watch: Watcher
    ) -> None:
        self.objects = [
            ObjectSummary(i, p.text, p.label, "#{:02x}{:02x}{:02x}".format(*color_of(i)))
            for i, p in enumerate(clip.prompts, start=1)
        ]
        self.count = 0
        self.span = Fraction(0)
        """Seconds from the first to the last frame."""
        self._clip, self._engine, self._timing, self._watch = clip, engine, timing, watch
        self._threshold = options.threshold
        self._sinks = {name: SINKS[name](folder, clip) for name in options.sinks}
        frame = clip.height * clip.width * (4 + len(clip.prompts))  # bytes of picture, label image and masks
        behind = max(1, min(_FRAMES_AHEAD, _BYTES_BEHIND // frame))
        writers = [self._writer(name, sink) for name, sink in self._sinks.items()]
        self._lanes = [] if engine.device.type == "cpu" else [Lane(writer, behind) for writer in writers]
        self._takers = [lane.put for lane in self._lanes] or writers
        self._rendered: deque[FrameResult] = deque()
        self._renderer = Lane(self._render, behind)

    def _writer(self, name: str, sink: Sink) -> Callable[[FrameResult], None]:
        def write(result: FrameResult) -> None:
            with self._timing.measure(f"write {name}"):
                sink.write(result)

        return write

    def _render(self, prediction: Prediction) -> None:
        with self._timing.measure("render"), device_errors(), self._engine.context(threads=1):
            result = rendered(prediction, self._threshold)
        for take in self._takers:
            take(result)
        self._rendered.append(result)

    def put(self, prediction: Prediction) -> None:
        """Take a frame. Raises what went wrong with an earlier one."""
        self._renderer.put(prediction)
        self._take_note()

    def _take_note(self) -> None:
        """Of the frames that are rendered, in the thread of the caller: a watcher need not know of threads."""
        while self._rendered:
            result = self._rendered.popleft()
            for summary, x in zip(self.objects, result.objects, strict=True):
                summary.add(result.number, x)
            self.count += 1
            self.span = result.time - self._clip.start
            self._watch(result)

    def finish(self) -> list[str]:
        """Complete the files; gives their names. Raises what went wrong with a frame."""
        self._renderer.finish()
        for lane in self._lanes:
            lane.finish()
        self._take_note()
        files: list[str] = []
        for name, sink in self._sinks.items():
            with self._timing.measure(f"write {name}"):
                files += sink.finish()
        return files

    def abort(self) -> None:
        """Stop; what was written will not be used."""
        for lane in self._lanes:
            lane.abort()
        self._renderer.abort()
        for sink in self._sinks.values():
            sink.abort()


def _forget(numbers: dict[int, int], step: int, rules: Rules, named: list[int]) -> None:
    """Drop the numbers of steps that no later result can name, so that the table stays small."""
    keep = {*named, *range(step - rules.window, step + 1)}
    for old in [x for x in numbers if x not in keep]:
        del numbers[old]


def encode_prompts(engine: Engine, prompts: tuple[Prompt, ...]) -> Prompts:
    """Encode the texts. Raises :class:`UsageError` for one that is too long, saying what would be cut."""
    limit = engine.network.text_encoder.context_length
    for prompt in prompts:
        tokens = tokenize(prompt.text)
        if len(tokens) > limit:
            cut = decode(tokens[limit - 1 : -1])
            raise UsageError(
                f"a prompt has {len(tokens)} tokens and the text encoder reads {limit}: {cut!r} would be cut off",
                'shorten it; a few words do best, such as "left grasper"',
            )
    return engine.network.encode_text([p.text for p in prompts])


def weights_record(engine: Engine) -> dict[str, Any]:
    """The ``weights`` of run.json."""
    info = engine.weights
    record: dict[str, Any] = {"name": info.name, "sha256": info.sha256}
    if info.clip_sha256 is not None:
        record["clip_sha256"] = info.clip_sha256
    return record


def _clip(name: str, source: Source, first: Frame, prompts: tuple[Prompt, ...], options: SegmentOptions) -> Clip:
    part = options.part
    return Clip(
        name=name,
        height=first.rgb.shape[0],
        width=first.rgb.shape[1],
        rate=source.rate / part.stride,
        start=first.time,
        length=part.duration(first.time, source.rate),
        audio=source.audio,
        prompts=prompts,
    )


def _source_record(source: Source, clip: Clip, frames: int, span: Fraction) -> dict[str, Any]:
    return {
        "path": source_path(source),
        **source.identity(),
        "width": clip.width,
        "height": clip.height,
        "frame_rate": f"{source.rate.numerator}/{source.rate.denominator}",
        "frames": frames,
        "duration": round(float(span + 1 / clip.rate), 6),
    }


def _first(frames: Iterator[Read], count: int) -> tuple[list[Read], Iterator[Read]]:
    """The first frames, and the rest; where the source breaks off among the first, the rest is its error."""
    head: list[Read] = []

    def broken(error: InputError) -> Iterator[Read]:
        raise error
        yield

    try:
        for frame in itertools.islice(frames, count):
            head.append(frame)
    except InputError as error:
        if not head:
            raise
        return head, broken(error)
    return head, frames


def peak_memory_mb(device: torch.device) -> dict[str, int | None]:
    """Peak memory so far, of this process (unknown on Windows) and of the device."""
    peak: dict[str, int | None] = {"host": None}
    if sys.platform != "win32":
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes here
        peak["host"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
    if device.type == "cuda":
        peak["device"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return peak
