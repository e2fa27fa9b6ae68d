"""Frames that a program supplies one after the other: from a camera, a grabber, or an array."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sized
from contextlib import suppress

import numpy as np

from model import Rules
from model.streams import on, stream_for
from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.outputs import FrameResult
from resurgsam2_cli.process.threads import Watched, ahead
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.segmenting.engine import Engine, device_errors
from resurgsam2_cli.segmenting.pipeline import followed
from resurgsam2_cli.segmenting.reading import Read, encoded, network_image, read_ahead
from resurgsam2_cli.segmenting.rendering import Prediction, rendering
from resurgsam2_cli.segmenting.timing import Timing
from resurgsam2_cli.video.frames import DEFAULT_FOLDER_RATE, Frame

_BEHIND = 2
"""Predictions that wait until the caller takes their masks."""


def segment_frames(
    engine: Engine,
    frames: Iterable[np.ndarray | Frame],
    prompts: tuple[Prompt, ...],
    rules: Rules,
    threshold: float = 0.0,
) -> Generator[FrameResult, None, None]:
    """The result of each frame, in order; see :func:`resurgsam2_cli.api.segment_frames`.

    As in the whole pipeline, ``frames`` are taken, encoded, and followed in a thread each. The caller's thread makes
    the masks in the size of the frame, where that of the command would go on to write them.
    """
    count = len(frames) if isinstance(frames, Sized) else None
    short = count if count is not None and count < rules.pointers else None
    engine.executor.begin()
    stream = stream_for("rendering", engine.device, urgent=True)
    images = Watched(lambda beat: _read(engine, frames), read_ahead(engine), math.inf)
    try:
        predicted = _predicted(engine, images, prompts, rules, short)
        with ahead(predicted, _BEHIND, images.stop) as predictions:
            for prediction in predictions:
                with device_errors(), engine.context(threads=1), on(stream):
                    result = rendering(prediction, threshold, engine.executor.render)()
                yield result
    finally:
        images.close()  # waits no longer than a moment for a camera that gives no more frames


def _read(engine: Engine, frames: Iterable[np.ndarray | Frame]) -> Generator[Read, None, None]:
    """The frames, checked and made ready for the network."""
    for number, given in enumerate(frames):
        frame = given if isinstance(given, Frame) else _frame(number, given)
        yield Read(frame, network_image(engine, frame))


def _frame(number: int, rgb: np.ndarray) -> Frame:
    """A frame of its own: whoever reads into one array again and again is not to change one that waits."""
    with suppress(AttributeError, TypeError):
        if rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3 and rgb.size:
            return Frame(number, f"{number:05d}", number / DEFAULT_FOLDER_RATE, np.array(rgb, order="C"))
    found = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
    raise UsageError(f"frame {number} is {found}", "give RGB arrays (height, width, 3) of uint8")


def _predicted(
    engine: Engine, images: Watched[Read], prompts: tuple[Prompt, ...], rules: Rules, short: int | None
) -> Generator[Prediction, None, None]:
    timing = Timing()
    with device_errors(), encoded(engine, iter(images), timing, images.stop) as ready:
        yield from followed(engine, prompts, rules, ready, short, timing)
