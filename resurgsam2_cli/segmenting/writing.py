"""The last stage, behind the network: masks in the video's size, and the outputs written from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from model import label_image, resize_masks
from model.preprocess import bits_and_labels
from model.streams import Handed, new_stream, on
from resurgsam2_cli.outputs import SINKS, Clip, FrameResult, ObjectResult, Sink
from resurgsam2_cli.outputs.base import boxes_of, region_of
from resurgsam2_cli.process.threads import Lane
from resurgsam2_cli.segmenting.engine import Engine, device_errors
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.summary import Tally
from resurgsam2_cli.segmenting.timing import Timing
from resurgsam2_cli.video.frames import Frame

Watcher = Callable[[FrameResult], None]
"""Called with each frame, in the thread that called :func:`~resurgsam2_cli.segmenting.pipeline.segment`."""

FRAMES_AHEAD = 4
"""Decoded frames that wait for the network (at least), and results that wait for each output (at most)."""

_BYTES_BEHIND = 2**27
"""Fewer results wait if they are large: many objects, or large pictures."""


@dataclass(frozen=True)
class Prediction:
    """What the network says about a frame."""

    frame: Frame
    mask_logits: Handed[torch.Tensor]
    """(objects, size / 4, size / 4) float32, on the device"""
    objects: list[ObjectResult]


def rendered(prediction: Prediction, threshold: float) -> FrameResult:
    """Masks and label image in the size of the video."""
    frame = prediction.frame
    height, width = frame.rgb.shape[:2]
    mask_logits = prediction.mask_logits.take()
    if mask_logits.is_cuda:
        bits, label_tensor = bits_and_labels(mask_logits, height, width, threshold)
        masks, boxes = unpacked(bits.cpu().numpy(), width)  # an eighth of the bytes to bring back
        labels = label_tensor.cpu().numpy()
    else:
        full = resize_masks(mask_logits, height, width)
        masks = (full > threshold).numpy()
        boxes = boxes_of(np.logical_or.reduce(masks, axis=2), np.logical_or.reduce(masks, axis=1))
        if len(masks) == 1:
            labels = masks[0].astype(np.uint8)
        else:
            labels = label_image(full, threshold, [region_of(box) for box in boxes]).numpy()
    return FrameResult(frame.number, frame.name, frame.time, frame.rgb, masks, labels, prediction.objects, boxes)


def unpacked(bits: np.ndarray, width: int) -> tuple[np.ndarray, list[list[float] | None]]:
    """Masks (objects, height, width) bool from their bits, of :func:`~model.preprocess.packed`, and their boxes.

    Only the boxes are unpacked: what is around them is memory that nobody has touched yet.
    """
    columns = np.unpackbits(np.bitwise_or.reduce(bits, axis=1), axis=-1, count=width).view(bool)
    boxes = boxes_of(np.logical_or.reduce(bits, axis=2), columns)
    masks = np.zeros((*bits.shape[:2], width), bool)
    for mask, packed_mask, box in zip(masks, bits, boxes, strict=True):
        if box is None:
            continue
        rows, inside = region_of(box)
        first, last = inside.start // 8, -(-inside.stop // 8)
        mask[rows, 8 * first : 8 * last] = np.unpackbits(
            packed_mask[rows, first:last], axis=-1, count=min(8 * last, width) - 8 * first
        ).view(bool)
    return masks, boxes


class Outputs:
    """Renders masks in the video's size and feeds the sinks: rendering has a thread, and each sink has one or a few.

    Without a GPU, one thread does it all: it keeps up with any network, and more would only take turns with it. Leaving
    the block without :meth:`finish` stops everything; what was written is then useless.
    """

    def __init__(self, folder: Path, clip: Clip, engine: Engine, options: SegmentOptions, timing: Timing) -> None:
        self.tally = Tally(clip.prompts)
        self.files: list[str] = []
        """The names of what was written, after :meth:`finish`."""
        self.sums: dict[str, str] = {}
        """The checksums of those that people may correct."""
        self._engine, self._timing, self._threshold = engine, timing, options.threshold
        self._sinks: dict[str, Sink] = {}
        try:
            for name in options.sinks:
                self._sinks[name] = SINKS[name](folder, clip)
        except BaseException:
            self._stop_sinks()
            raise
        frame = clip.height * clip.width * (4 + len(clip.prompts))  # bytes of picture, label image and masks
        behind = max(1, min(FRAMES_AHEAD, _BYTES_BEHIND // frame))
        writers = [self._writer(name, sink) for name, sink in self._sinks.items()]
        self._lanes: list[Lane[FrameResult]] = []
        if engine.device.type != "cpu":
            for writer, sink in zip(writers, self._sinks.values(), strict=True):
                threads = min(sink.threads, behind)
                # Those that are being written side by side do not wait as well: no more of them are held.
                self._lanes.append(Lane(writer, behind + 1 - threads, threads))
        self._write: list[Callable[[FrameResult], None]] = [lane.put for lane in self._lanes] or writers
        self._stream = new_stream(engine.device)
        self._written: deque[FrameResult] = deque()
        self._renderer = Lane(self._render, behind)
        self._finished = False

    def __enter__(self) -> Outputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._finished:
            return
        for sink in self._sinks.values():
            sink.interrupt()  # a lane may wait for an encoder that hangs
        for lane in self._lanes:
            lane.abort()
        self._renderer.abort()
        self._stop_sinks()

    def _stop_sinks(self) -> None:
        for sink in self._sinks.values():
            sink.abort()

    def _writer(self, name: str, sink: Sink) -> Callable[[FrameResult], None]:
        def write(result: FrameResult) -> None:
            with self._timing.measure(f"write {name}"):
                sink.write(result)

        return write

    def _render(self, prediction: Prediction) -> None:
        timed = self._timing.measure("render")
        with timed, device_errors(), self._engine.context(threads=1), on(self._stream):
            result = rendered(prediction, self._threshold)
            if self._lanes:
                _ = result.areas  # two outputs need them at once: one would do it again, or wait for the other
        for write in self._write:
            write(result)
        self._written.append(result)

    def put(self, prediction: Prediction, watch: Watcher) -> None:
        """Take a frame, and show those that are done. Raises the error of an earlier one."""
        self._renderer.put(prediction)
        self._show(watch)

    def _show(self, watch: Watcher) -> None:
        """Update the tally and call the watcher, in the caller's thread."""
        while self._written:
            result = self._written.popleft()
            self.tally.add(result)
            watch(result)

    def finish(self, watch: Watcher) -> None:
        """Complete the files. Raises the error of a frame."""
        self._renderer.finish()
        for lane in self._lanes:
            lane.finish()
        self._show(watch)
        for name, sink in self._sinks.items():
            with self._timing.measure(f"write {name}"):
                self.files += sink.finish()
            self.sums |= sink.sums
        self._finished = True
