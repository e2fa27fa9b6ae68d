"""The last stage, behind the network: masks in the video's size, and the outputs written from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
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


class Sinks:
    """The sinks of a run. With ``lanes``, each has a thread or a few; without, they write in the caller's.

    Call :meth:`finish` at the end, or :meth:`halt` and then :meth:`abort`; what was written is then useless.
    """

    def __init__(self, folder: Path, clip: Clip, names: Iterable[str], timing: Timing, *, lanes: bool) -> None:
        self.files: list[str] = []
        """The names of what was written, after :meth:`finish`."""
        self.sums: dict[str, str] = {}
        """The checksums of those that people may correct."""
        self._timing, self._sinks, self._lanes = timing, dict[str, Sink](), list[Lane[FrameResult]]()
        try:
            for name in names:
                self._sinks[name] = SINKS[name](folder, clip)
        except BaseException:
            self.abort()
            raise
        frame = clip.height * clip.width * (4 + len(clip.prompts))  # bytes of picture, label image and masks
        self.behind = max(1, min(_RESULTS_BEHIND, _BYTES_BEHIND // frame))
        """How many results may wait for an output."""
        writers = [self._writer(name, sink) for name, sink in self._sinks.items()]
        if lanes:
            for writer, sink in zip(writers, self._sinks.values(), strict=True):
                threads = min(sink.threads, self.behind)
                # Those that are being written side by side do not wait as well: no more of them are held.
                self._lanes.append(Lane(writer, self.behind + 1 - threads, threads))
        self._write: list[Callable[[FrameResult], None]] = [lane.put for lane in self._lanes] or writers

    def _writer(self, name: str, sink: Sink) -> Callable[[FrameResult], None]:
        def write(result: FrameResult) -> None:
            with self._timing.measure(f"write {name}"):
                sink.write(result)

        return write

    def write(self, result: FrameResult) -> None:
        """Write a frame, or hand it to those that do. Raises the error of an earlier one."""
        if self._lanes:
            _ = result.areas  # two outputs need them at once: one would do it again, or wait for the other
        for write in self._write:
            write(result)

    def join(self) -> None:
        """Wait until all frames are written. Raises the error of one."""
        for lane in self._lanes:
            lane.finish()

    def finish(self) -> None:
        """Complete the files. Raises the error of a frame."""
        self.join()
        for name, sink in self._sinks.items():
            with self._timing.measure(f"write {name}"):
                self.files += sink.finish()
            self.sums |= sink.sums

    def halt(self) -> None:
        """Write nothing more, except in the threads of others."""
        for sink in self._sinks.values():
            sink.interrupt()  # a lane may wait for an encoder that hangs
        for lane in self._lanes:
            lane.abort()

    def abort(self) -> None:
        """Close what was begun, when nobody writes any more."""
        for sink in self._sinks.values():
            sink.abort()


class Outputs:
    """Renders masks in the video's size and feeds the sinks: rendering has a thread, and each sink has one or a few.

    Without a GPU, one thread does it all: it keeps up with any network, and more would only take turns with it. Leaving
    the block without :meth:`finish` stops everything; what was written is then useless.
    """

    def __init__(self, folder: Path, clip: Clip, engine: Engine, options: SegmentOptions, timing: Timing) -> None:
        self.tally = Tally(clip.prompts)
        self._engine, self._timing = engine, timing
        self._threshold, self._cleaning = options.threshold, options.cleaning
        self._sinks = Sinks(folder, clip, options.sinks, timing, lanes=engine.device.type != "cpu")
        self._stream = stream_for("rendering", engine.device, urgent=True)
        self._written: deque[FrameResult] = deque()
        self._unfinished = 0 if engine.device.type == "cpu" else _RENDERING
        self._rendering: deque[Callable[[], FrameResult]] = deque()
        self._renderer: Lane[Prediction | None] = Lane(self._render, self._sinks.behind)
        self._finished = False

    def __enter__(self) -> Outputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._finished:
            return
        self._sinks.halt()
        self._renderer.abort()
        self._sinks.abort()

    @property
    def files(self) -> list[str]:
        """The names of what was written, after :meth:`finish`."""
        return self._sinks.files

    @property
    def sums(self) -> dict[str, str]:
        """The checksums of those that people may correct."""
        return self._sinks.sums

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
        self._sinks.write(result)
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
        self._sinks.join()
        self._show(watch)
        self._sinks.finish()
        self._finished = True
