"""Pictures of a video for the page: any frame as JPEG, decoded in spans ahead and behind, never the whole video."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.runs.record import Run
from resurgsam2_cli.runs.source import opened_source
from resurgsam2_cli.segmenting.placing import Grid
from resurgsam2_cli.video.frames import Frame
from resurgsam2_cli.video.source import Source

_HELD = 2**27
"""Bytes of JPEG that are held."""

_AHEAD = 48
"""Up to so many frames are decoded on the way to one that is asked for; a farther one is looked for in the file."""

_BACK = 12
"""Frames before one that lies behind: who steps back wants these next."""

_QUALITY = 88


class Pictures:
    """The frames of a run's video. One thread at a time decodes; others wait for it."""

    def __init__(self, run: Run, grid: Grid, sources: Path | None) -> None:
        self._run, self._grid, self._sources = run, grid, sources
        self._lock = threading.Lock()
        self._open = ExitStack()
        self._source: Source | None = None
        self._frames: Generator[Frame, None, None] | None = None
        self._next = 0
        self._held: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._size = 0

    def jpeg(self, step: int, width: int) -> bytes:
        """The picture of a frame, at most ``width`` pixels wide. Raises :class:`InputError`."""
        with self._lock:
            found = self._held.get((step, width))
            if found is None:
                found = self._decoded(step, width)
            self._held.move_to_end((step, width))
            return found

    def image(self, step: int) -> NDArray[np.uint8]:
        """The picture of a frame as it is, (height, width, 3). Raises :class:`InputError`."""
        with self._lock:
            if self._frames is None or not self._next <= step < self._next + _AHEAD:
                self._begin(step)
            while self._next <= step:
                frame = self._frame()
            return frame.rgb

    def _decoded(self, step: int, width: int) -> bytes:
        if self._frames is None or not self._next <= step < self._next + _AHEAD:
            is_behind = self._frames is not None and step < self._next
            self._begin(max(0, step - _BACK) if is_behind else step)
        while self._next <= step:
            self._take(width)
        if (step, width) not in self._held:
            raise InputError(
                f"{self._run.source}: frame {self._grid.frame(step)} is not in the video",
                "it may be damaged: check that it plays elsewhere, or segment it again",
            )
        return self._held[step, width]

    def _begin(self, step: int) -> None:
        if self._source is None:
            self._source = self._open.enter_context(opened_source(self._run, self._sources))
        self._stop()
        self._frames, self._next = self._source.frames(self._grid.part(step)), step

    def _take(self, width: int) -> None:
        """Decode the next frame; others are held while there is room."""
        content = as_jpeg(Image.fromarray(self._frame().rgb), width)
        self._held[self._next - 1, width] = content
        self._size += len(content)
        while self._size > _HELD and len(self._held) > 1:
            _, dropped = self._held.popitem(last=False)
            self._size -= len(dropped)

    def _frame(self) -> Frame:
        """The next frame."""
        assert self._frames is not None
        try:
            frame = next(self._frames, None)
        except BaseException:
            self._stop()
            raise
        if frame is None:
            self._stop()
            raise InputError(
                f"{self._run.source}: ends before frame {self._grid.frame(self._next)}",
                "the video may be damaged: check that it plays elsewhere, or segment it again",
            )
        if frame.rgb.shape[:2] != (self._run.height, self._run.width):
            raise InputError(
                f"{self._run.source}: is {frame.rgb.shape[1]} x {frame.rgb.shape[0]}, but the masks are"
                f" {self._run.width} x {self._run.height}",
                "segment it again",
            )
        self._next = self._grid.step(frame.number) + 1
        return frame

    def _stop(self) -> None:
        if self._frames is not None:
            self._frames.close()
            self._frames = None

    def close(self) -> None:
        """Close the video."""
        with self._lock:
            self._stop()
            self._open.close()
            self._source = None


def as_jpeg(image: Image.Image, width: int, quality: int = _QUALITY) -> bytes:
    """A picture as JPEG, at most ``width`` pixels wide."""
    if image.width > width:
        height = max(1, round(image.height * width / image.width))
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()
