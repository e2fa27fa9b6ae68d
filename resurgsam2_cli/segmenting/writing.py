"""The last stage, behind the network: masks in the video's size, and the outputs written from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from model.streams import on, stream_for
from resurgsam2_cli.outputs import Clip, FrameResult
from resurgsam2_cli.outputs.own_process import CannotStart, SinksApart
from resurgsam2_cli.outputs.sinks import Sinks, behind
from resurgsam2_cli.process.threads import Lane
from resurgsam2_cli.segmenting.engine import Engine, device_errors
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.rendering import Prediction, rendering
from resurgsam2_cli.segmenting.summary import Tally
from resurgsam2_cli.segmenting.timing import Timing

Watcher = Callable[[FrameResult], None]
"""Called with each frame, in the thread that called :func:`~resurgsam2_cli.segmenting.pipeline.segment`."""

_RENDERING = 2
"""Frames that a GPU renders while earlier ones are written."""


def _sinks(
    folder: Path, clip: Clip, engine: Engine, options: SegmentOptions, timing: Timing, lock: int | None
) -> Sinks | SinksApart:
    if engine.writes_apart:
        with suppress(CannotStart):
            return SinksApart(folder, clip, options.sinks, timing, lock)
    return Sinks(folder, clip, options.sinks, timing, lanes=engine.device.type != "cpu")


class Outputs:
    """Renders masks in the video's size in a thread, and feeds the sinks, which an engine may want in other processes.

    Without a GPU, one thread does it all: it keeps up with any network, and more would only take turns with it. Leaving
    the block without :meth:`finish` stops everything; what was written is then useless.

    ``lock`` is the locked file of ``folder``, if it has one (:attr:`~resurgsam2_cli.runs.folder.RunFolder.lock_file`).
    """

    def __init__(
        self,
        folder: Path,
        clip: Clip,
        engine: Engine,
        options: SegmentOptions,
        timing: Timing,
        lock: int | None = None,
    ) -> None:
        self.tally = Tally(clip.prompts)
        self._engine, self._timing = engine, timing
        self._threshold, self._cleaning = options.threshold, options.cleaning
        self._sinks = _sinks(folder, clip, engine, options, timing, lock)
        self._stream = stream_for("rendering", engine.device, urgent=True)
        self._written: deque[FrameResult] = deque()
        self._unfinished = 0 if engine.device.type == "cpu" else _RENDERING
        self._rendering: deque[Callable[[], FrameResult]] = deque()
        self._renderer: Lane[Prediction | None] = Lane(self._render, behind(clip))
        self._lanes: list[Lane[Any]] = [self._renderer]
        self._hand: Callable[[FrameResult], None] = self._hand_over
        if engine.device.type != "cpu":  # to hand a frame over takes about as long as to render it
            self._lanes.append(Lane(self._hand_over, 1))
            self._hand = self._lanes[-1].put
        self._finished = False

    def __enter__(self) -> Outputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._finished:
            return
        self._sinks.halt()
        for lane in self._lanes:
            lane.abort()
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
        self._hand(result)

    def _hand_over(self, result: FrameResult) -> None:
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
        for lane in self._lanes:
            lane.finish()
        self._show(watch)
        self._sinks.finish()
        self._finished = True
