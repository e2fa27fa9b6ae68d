"""The last stage, behind the network: masks in the video's size, and the outputs written from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from model.streams import on, stream_for
from resurgsam2_cli.outputs import SINKS, Clip, FrameResult, Sink
from resurgsam2_cli.process.threads import Lane
from resurgsam2_cli.segmenting.engine import Engine, device_errors
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.rendering import Prediction, rendering
from resurgsam2_cli.segmenting.summary import Tally
from resurgsam2_cli.segmenting.timing import Timing

Watcher = Callable[[FrameResult], None]
"""Called with each frame, in the thread that called :func:`~resurgsam2_cli.segmenting.pipeline.segment`."""

_RESULTS_BEHIND = 4
"""Results that wait for each output, at most."""

_RENDERING = 2
"""Frames that a GPU renders while earlier ones are written."""

_BYTES_BEHIND = 2**27
"""Fewer results wait if they are large: many objects, or large pictures."""


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
        self._engine, self._timing = engine, timing
        self._threshold, self._cleaning = options.threshold, options.cleaning
        self._sinks: dict[str, Sink] = {}
        try:
            for name in options.sinks:
                self._sinks[name] = SINKS[name](folder, clip)
        except BaseException:
            self._stop_sinks()
            raise
        frame = clip.height * clip.width * (4 + len(clip.prompts))  # bytes of picture, label image and masks
        behind = max(1, min(_RESULTS_BEHIND, _BYTES_BEHIND // frame))
        writers = [self._writer(name, sink) for name, sink in self._sinks.items()]
        self._lanes: list[Lane[FrameResult]] = []
        if engine.device.type != "cpu":
            for writer, sink in zip(writers, self._sinks.values(), strict=True):
                threads = min(sink.threads, behind)
                # Those that are being written side by side do not wait as well: no more of them are held.
                self._lanes.append(Lane(writer, behind + 1 - threads, threads))
        self._write: list[Callable[[FrameResult], None]] = [lane.put for lane in self._lanes] or writers
        self._stream = stream_for("rendering", engine.device, urgent=True)
        self._written: deque[FrameResult] = deque()
        self._unfinished = 0 if engine.device.type == "cpu" else _RENDERING
        self._rendering: deque[Callable[[], FrameResult]] = deque()
        self._renderer: Lane[Prediction | None] = Lane(self._render, behind)
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

    def _render(self, prediction: Prediction | None) -> None:
        """Start to render a frame, and write the one before those that a GPU is still busy with; None: write all."""
        timed = self._timing.measure("render")
        if prediction is not None:
            with timed, device_errors(), self._engine.context(threads=1), on(self._stream):
                self._rendering.append(rendering(prediction, self._threshold, self._engine.executor.render))
        while len(self._rendering) > (0 if prediction is None else self._unfinished):
            self._write_oldest()

    def _write_oldest(self) -> None:
        with self._timing.measure("render", 0), device_errors():
            result = self._cleaning.result(self._rendering.popleft()())
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
        self._renderer.put(None)
        self._renderer.finish()
        for lane in self._lanes:
            lane.finish()
        self._show(watch)
        for name, sink in self._sinks.items():
            with self._timing.measure(f"write {name}"):
                self.files += sink.finish()
            self.sums |= sink.sums
        self._finished = True
