"""What the network gets: frames made ready for it, their features, and texts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from model.image_encoder import ImageFeatures
from model.preprocess import shrunk
from model.streams import Handed
from model.text_encoder import Prompts, decode, tokenize
from resurgsam2_cli.errors import InputError, UsageError, WeightsProblem
from resurgsam2_cli.process.threads import ahead
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.segmenting.engine import Engine, device_errors
from resurgsam2_cli.segmenting.placing import Grid
from resurgsam2_cli.segmenting.summary import Undertaking
from resurgsam2_cli.segmenting.timing import Timing
from resurgsam2_cli.video.frames import Frame
from resurgsam2_cli.video.positions import Part
from resurgsam2_cli.video.source import Source

_READ_AHEAD = 4
"""Decoded frames that wait for the network, at least."""

_SPAN_BYTES = 2**27
"""Of the images that a pass backwards reads at a time: a decoder only goes forwards, and from a key frame on."""


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


def read_backwards(run: Undertaking, grid: Grid, first: int, end: int) -> Generator[Read, None, None]:
    """The frames of the steps from ``end`` down to ``first``, a span at a time.

    Of each, only the image for the network is held.
    """
    config = run.engine.config
    together = max(1, _SPAN_BYTES // (3 * config.image_size**2))
    while end > first:
        begin = max(first, end - together)
        with run.timing.measure("decode", end - begin):
            span = [
                Read(replace(x, rgb=x.rgb[:0]), shrunk(x.rgb, config)) for x in run.source.frames(grid.part(begin, end))
            ]
        yield from reversed(span)
        end = begin


def network_image(engine: Engine, frame: Frame) -> np.ndarray:
    """The image of a frame that the network gets, (height, width, 3) uint8; a CUDA device resizes it itself."""
    return frame.rgb if engine.device.type == "cuda" else shrunk(frame.rgb, engine.config)


def read_ahead(engine: Engine) -> int:
    """How many frames are read before the network wants them."""
    return max(_READ_AHEAD, 2 * engine.executor.frames_together)


@contextmanager
def encoded(
    engine: Engine, frames: Iterator[Read], timing: Timing, interrupt: Callable[[], None]
) -> Iterator[Iterator[tuple[Frame, ImageFeatures]]]:
    """Frames with their features, encoded beside the work on earlier ones if the engine is to do so.

    What a GPU does in the thread that asks for the next ones then waits for the encoder. ``interrupt`` unblocks a read
    that is pending when the block is left.
    """
    encoded = _encode(engine, frames, timing)
    if not engine.encodes_ahead:
        yield _taken(encoded)
        return
    with ahead(encoded, engine.executor.frames_together, interrupt) as ready:
        yield _taken(ready)


def _taken(ready: Iterator[tuple[Frame, Handed[ImageFeatures]]]) -> Iterator[tuple[Frame, ImageFeatures]]:
    return ((frame, handed.take()) for frame, handed in ready)


def with_features(
    run: Undertaking, grid: Grid, frames: Generator[Read, None, None]
) -> Generator[tuple[int, Frame, ImageFeatures], None, None]:
    """Frames with their steps and features, read in a thread of their own."""
    with (
        device_errors(),
        ahead(frames, read_ahead(run.engine), run.source.interrupt) as images,
        encoded(run.engine, images, run.timing, run.source.interrupt) as ready,
    ):
        for frame, features in ready:
            yield grid.step(frame.number), frame, features


def _encode(
    engine: Engine, frames: Iterator[Read], timing: Timing
) -> Generator[tuple[Frame, Handed[ImageFeatures]], None, None]:
    """Encode frames, several at once if that is faster: features depend on no earlier frame."""
    executor = engine.executor
    while True:
        group, frames = first_frames(frames, executor.frames_together)
        if not group:
            return
        with engine.context(), executor.beside(), timing.measure("encode", len(group), engine.device):
            features = executor.encode([x.image for x in group])
            handed = [Handed(features.frame(i)) for i in range(len(group))]
        yield from zip((x.frame for x in group), handed, strict=True)


def first_frames(frames: Iterator[Read], count: int) -> tuple[list[Read], Iterator[Read]]:
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


def encode_prompts(engine: Engine, prompts: tuple[Prompt, ...]) -> Prompts:
    """Encode the texts. Raises :class:`UsageError` for one that is too long, naming what would be cut."""
    if not engine.config.words:
        raise WeightsProblem(
            f"{engine.weights.name} knows no words", "point at things with --mark, or use other weights"
        )
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
