"""All sinks of a run, fed frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from resurgsam2_cli.outputs import SINKS
from resurgsam2_cli.outputs.base import Clip, FrameResult, Sink
from resurgsam2_cli.process.threads import Lane
from resurgsam2_cli.process.usage import StageTimes

_RESULTS_BEHIND = 4
"""Results that wait for each output, at most."""

_BYTES_BEHIND = 2**27
"""Fewer results wait if they are large: many objects, or large pictures."""


def bytes_of(clip: Clip) -> int:
    """Of the picture, the label image and the masks of a frame, unless the masks are packed."""
    return clip.height * clip.width * (4 + len(clip.prompts))


def behind(clip: Clip) -> int:
    """How many results may wait for an output."""
    return max(1, min(_RESULTS_BEHIND, _BYTES_BEHIND // bytes_of(clip)))


def draw(names: Iterable[str]) -> bool:
    """Whether one of these sinks looks at the picture."""
    return any(SINKS[name].draws for name in names)


class Sinks:
    """The sinks of a run. With ``lanes``, each has a thread or a few; without, they write in the caller's.

    Call :meth:`finish` at the end, or :meth:`halt` and then :meth:`abort`; what was written is then useless.
    """

    def __init__(self, folder: Path, clip: Clip, names: Iterable[str], times: StageTimes, *, lanes: bool) -> None:
        self.files: list[str] = []
        """The names of what was written, after :meth:`finish`."""
        self.sums: dict[str, str] = {}
        """The checksums of those that people may correct."""
        self._times, self._sinks, self._lanes = times, dict[str, Sink](), list[Lane[FrameResult]]()
        try:
            for name in names:
                self._sinks[name] = SINKS[name](folder, clip)
        except BaseException:
            self.abort()
            raise
        self._write: list[Callable[[FrameResult], None]] = []
        waiting = behind(clip)
        for name, sink in self._sinks.items():
            prepare, add = self._timed(name, sink.prepare, 0), self._timed(name, sink.add)
            if lanes:
                threads = min(sink.threads, waiting)
                # Those that are being prepared side by side do not wait as well: no more of them are held.
                waits = max(1, waiting - threads)
                prepares = None if type(sink).prepare is Sink.prepare else prepare
                self._lanes.append(Lane(add, waits, prepares, threads))
                self._write.append(self._lanes[-1].put)
            else:
                self._write.append(lambda result, prepare=prepare, add=add: add(prepare(result)))  # type: ignore[misc]

    def _timed(self, name: str, work: Callable[[Any], Any], frames: int = 1) -> Callable[[Any], Any]:
        def timed(x: Any) -> Any:
            with self._times.measure(f"write {name}", frames):
                return work(x)

        return timed

    def write(self, result: FrameResult) -> None:
        """Write a frame, or hand it to those that do. Raises the error of an earlier one."""
        if len(self._lanes) > 1:
            _ = result.areas  # two outputs need them at once: one would do it again, or wait for the other
        for write in self._write:
            write(result)

    def finish(self) -> None:
        """Complete the files. Raises the error of a frame."""
        for lane in self._lanes:
            lane.finish()
        for name, sink in self._sinks.items():
            with self._times.measure(f"write {name}"):
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
