"""One video from source to outputs: frames, features, predictions, outputs; data flows one way.

Reading, the network, and what is made of its masks each have a thread; with a GPU, so do the image encoder and each
output.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from model import Rules, Segmenter
from model.image_encoder import ImageFeatures
from model.initial_frame import presence
from model.preprocess import shrunk
from model.segmenter import ObjectState
from model.streams import Handed
from model.text_encoder import Prompts, decode, tokenize
from resurgsam2_cli.errors import InputError, UsageError
from resurgsam2_cli.files.atomic import writing
from resurgsam2_cli.outputs import Clip, ObjectResult
from resurgsam2_cli.process.threads import ahead
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.runs.folder import RunFolder
from resurgsam2_cli.runs.record import RECORD
from resurgsam2_cli.segmenting.engine import Engine, device_errors
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.rendering import Prediction
from resurgsam2_cli.segmenting.summary import Summary, Undertaking
from resurgsam2_cli.segmenting.timing import Timing, forget_peak
from resurgsam2_cli.segmenting.writing import FRAMES_AHEAD, Outputs, Watcher
from resurgsam2_cli.video.frames import Frame
from resurgsam2_cli.video.positions import Part
from resurgsam2_cli.video.source import Source


def segment(
    engine: Engine,
    source: Source,
    prompts: tuple[Prompt, ...],
    options: SegmentOptions,
    folder: RunFolder,
    watch: Watcher,
) -> Summary:
    """Segment one video into ``folder``, which is complete afterwards or was never there.

    Raises a :class:`~resurgsam2_cli.errors.UserError`. If a video breaks off, the frames decoded before that are kept
    in a folder beside, whose name ends in ``.partial``.
    """
    torch.manual_seed(options.seed)
    forget_peak(engine.device)
    run = Undertaking(engine, source, prompts, options, Timing())
    decoded = max(FRAMES_AHEAD, 2 * engine.executor.frames_together)
    with ahead(read(engine, source, options.part, run.timing), decoded, source.interrupt) as frames:
        clip, clip_length, frames = _look_ahead(run, folder.path.name, frames)
        with (
            writing(folder.partial),
            Outputs(folder.partial, clip, engine, options, run.timing) as outputs,
            closing(predict(run, frames, clip_length)) as predictions,
        ):
            try:
                for prediction in predictions:
                    outputs.put(prediction, watch)
                outputs.finish(watch)
            except InputError as error:
                raise _broken_off(error, run, clip, outputs, folder, watch) from error
            record = run.record(clip, outputs.tally, outputs.sums, complete=True)
            folder.complete(record)
    return Summary(folder.path, [folder.path / name for name in (*outputs.files, RECORD)], record)


def _broken_off(
    error: InputError, run: Undertaking, clip: Clip, outputs: Outputs, folder: RunFolder, watch: Watcher
) -> InputError:
    """Keep what there is of a video that breaks off; return the error that says where."""
    outputs.finish(watch)
    count = outputs.tally.frames
    if not count:
        return error
    folder.keep(run.record(clip, outputs.tally, outputs.sums, complete=False))
    masks = "the mask of 1 frame is" if count == 1 else f"the masks of {count} frames are"
    return InputError(error.message, f"{masks} kept in {folder.partial}; {error.hint}")


@dataclass(frozen=True)
class Read:
    """A frame, and the image of it that the network gets."""

    frame: Frame
    image: np.ndarray
    """(height, width, 3) uint8"""


def read(engine: Engine, source: Source, part: Part, timing: Timing) -> Generator[Read, None, None]:
    """Frames, made ready for the network in the caller's thread."""
    frames = source.frames(part)
    while True:
        with timing.measure("decode"):
            frame = next(frames, None)
            if frame is None:
                return
            image = network_image(engine, frame)
        yield Read(frame, image)


def network_image(engine: Engine, frame: Frame) -> np.ndarray:
    """The image of a frame that the network gets, (height, width, 3) uint8; a CUDA device resizes it itself."""
    return frame.rgb if engine.device.type == "cuda" else shrunk(frame.rgb, engine.config)


def _look_ahead(run: Undertaking, name: str, frames: Iterator[Read]) -> tuple[Clip, int | None, Iterator[Read]]:
    """What the outputs must know before the first frame, the length of a short clip, and all frames.

    Only clips shorter than the pointer memory need their length known: see :mod:`model.memory_bank`.
    """
    longest = run.options.rules.pointers
    head, rest = _first(frames, longest)
    clip_length = len(head) if len(head) < longest else None
    clip = clip_of(name, run.source, head[0].frame, run.prompts, run.options)
    return clip, clip_length, itertools.chain(head, rest)


def clip_of(name: str, source: Source, first: Frame, prompts: tuple[Prompt, ...], options: SegmentOptions) -> Clip:
    """What the outputs must know of a video, given its first wanted frame."""
    part = options.part
    return Clip(
        name=name,
        height=first.rgb.shape[0],
        width=first.rgb.shape[1],
        rate=source.rate / part.stride,
        start=first.time,
        length=part.duration(first.time, source.rate),
        audio=source.audio if options.overlay else None,
        pixel_aspect=source.pixel_aspect,
        prompts=prompts,
    )


def predict(run: Undertaking, frames: Iterator[Read], clip_length: int | None) -> Generator[Prediction, None, None]:
    """Turn frames into mask logits. ``clip_length`` is the number of frames if it is known to be small."""
    engine, options, timing = run.engine, run.options, run.timing
    numbers: dict[int, int] = {}  # step to source, for frames that results may still name
    with device_errors(), _encoded(run, frames) as encoded:
        with engine.context(), timing.measure("text"):
            segmenter = Segmenter(engine.executor, encode_prompts(engine, run.prompts), options.rules, clip_length)
        for step, (frame, features) in enumerate(encoded):
            with engine.context(), timing.measure("segment", device=engine.device):
                mask_logits, states = segmenter.step(features.take())
                handed = Handed(mask_logits)
            numbers[step] = frame.number
            yield Prediction(frame, handed, object_results(states, numbers))
            _forget(
                numbers,
                step,
                options.rules,
                [x for s in states for x in (*s.conditioning_frames, *s.long_term_frames, *s.long_term_candidates)],
            )


@contextmanager
def _encoded(run: Undertaking, frames: Iterator[Read]) -> Iterator[Iterator[tuple[Frame, Handed[ImageFeatures]]]]:
    """Frames with their features, encoded beside the work on earlier ones if the engine is to do so."""
    encoded = _encode(run.engine, frames, run.timing)
    if not run.engine.encodes_ahead:
        yield encoded
        return
    with ahead(encoded, run.engine.executor.frames_together, run.source.interrupt) as ready:
        yield ready


def _encode(
    engine: Engine, frames: Iterator[Read], timing: Timing
) -> Generator[tuple[Frame, Handed[ImageFeatures]], None, None]:
    """Encode frames, several at once if that is faster: features depend on no earlier frame."""
    executor = engine.executor
    while True:
        group, frames = _first(frames, executor.frames_together)
        if not group:
            return
        with engine.context(), executor.beside(), timing.measure("encode", len(group), engine.device):
            features = executor.encode([x.image for x in group])
            handed = [Handed(features.frame(i)) for i in range(len(group))]
        yield from zip((x.frame for x in group), handed, strict=True)


def object_results(states: list[ObjectState], numbers: Mapping[int, int]) -> list[ObjectResult]:
    """What the segmenter says about each object, with the ``numbers`` that its steps have in the source."""
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


def _forget(numbers: dict[int, int], step: int, rules: Rules, named: list[int]) -> None:
    """Drop the numbers of steps that no later result can name, so that the table stays small."""
    keep = {*named, *range(step - rules.window, step + 1)}
    for old in [x for x in numbers if x not in keep]:
        del numbers[old]


def encode_prompts(engine: Engine, prompts: tuple[Prompt, ...]) -> Prompts:
    """Encode the texts. Raises :class:`UsageError` for one that is too long, naming what would be cut."""
    limit = engine.executor.context_length
    for prompt in prompts:
        tokens = tokenize(prompt.text)
        if len(tokens) > limit:
            cut = decode(tokens[limit - 1 : -1])
            raise UsageError(
                f"a prompt has {len(tokens)} tokens and the text encoder reads {limit}: {cut!r} would be cut off",
                'shorten it; a few words do best, such as "left grasper"',
            )
    return engine.executor.encode_text([p.text for p in prompts])


def _first(frames: Iterator[Read], count: int) -> tuple[list[Read], Iterator[Read]]:
    """The first frames, and the rest; if the source breaks off among the first, the rest raises its error."""
    head: list[Read] = []
    try:
        for frame in itertools.islice(frames, count):
            head.append(frame)
    except InputError as error:
        if not head:
            raise
        return head, _Broken(error)
    return head, frames


class _Broken(Iterator[Read]):
    """Frames that raise an error in place of the next one."""

    def __init__(self, error: InputError) -> None:
        self._error = error

    def __next__(self) -> Read:
        raise self._error
