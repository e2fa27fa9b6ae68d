"""Decoded frames as a person sees them: upright, in RGB, of one size, and on request without comb lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, TypeVar, cast

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter

_HD = (1280, 576)
"""Width from which, and height above which, players take a picture whose matrix is not stated for BT.709."""

_NAMES = {0: "rgb", 1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
"""AVCOL_SPC, of H.273, by the names that swscale has tables for."""

_TICK = Fraction(1, 25)
"""A filter wants times. These only count the frames."""

T = TypeVar("T")


class Converter:
    """Turns frames into RGB of one size: that of the first frame that it is given."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._layout: tuple[float, int, int] | None = None
        self._turned = (False, False, False)
        self.size: tuple[int, int] | None = None
        """(height, width) of what comes out."""
        self.scaled = 0
        """Frames that had another size."""

    def settle(self, frame: VideoFrame) -> None:
        """Take the size of a frame as that of all."""
        swapped = self.orientation(frame)[0]
        self.size = (frame.width, frame.height) if swapped else (frame.height, frame.width)

    def orientation(self, frame: VideoFrame) -> tuple[bool, bool, bool]:
        """How a frame is turned to stand upright: rows and columns swapped, then mirrored in x, then in y.

        It holds until a frame says something else: H.264 may say it of some frames only. It is read again where the
        stream changes: a frame whose side data were looked at stays in memory until Python looks for cycles.
        """
        before, layout = self._layout, (frame.rotation, frame.width, frame.height)
        if before is None or layout[1:] != before[1:] or layout[0] not in (0, before[0]):
            self._layout = layout
            a, b, c, d = _display_matrix(frame)
            sideways = abs(b) + abs(c) > abs(a) + abs(d)
            self._turned = (True, c < 0, b < 0) if sideways else (False, a < 0, d < 0)
        return self._turned

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """(height, width, 3) uint8, contiguous. Raises :class:`av.FFmpegError`."""
        if self.size is None:
            self.settle(frame)
        assert self.size is not None
        swapped, flip_x, flip_y = self.orientation(frame)
        height, width = self.size[::-1] if swapped else self.size
        self.scaled += (frame.height, frame.width) != (height, width)
        rgb = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=_table(frame),
            interpolation="BICUBIC",
            threads=1,
        ).to_ndarray()
        if swapped:
            rgb = rgb.transpose(1, 0, 2)
        return np.ascontiguousarray(rgb[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Where a pixel is displayed: (x, y) is (a x + c y, b x + d y). DISPLAYMATRIX of libavutil without its shift."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # beside it, the frame has something that PyAV does not know: of JPEG, what cameras write
        turns = round(frame.rotation / 90) % 4
        return ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))[turns]
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(cast(Any, data)), np.int32, 5).tolist()
    return a, b, c, d


def matrix(frame: VideoFrame) -> tuple[str, bool]:
    """The matrix between Y'CbCr and RGB, and whether the frame states it.

    Where it does not, it is BT.601 for standard and BT.709 for high definition, as mpv and browsers have it: recorders
    of operating theatres often do not say.
    """
    if frame.format.is_rgb:
        return "rgb", True
    if frame.colorspace in _NAMES:
        return _NAMES[frame.colorspace], True
    return ("bt709" if frame.width >= _HD[0] or frame.height > _HD[1] else "bt601"), False


def _table(frame: VideoFrame) -> int | None:
    """The table of swscale for a frame whose own matrix it would not know; None for the frame's own."""
    name, stated = matrix(frame)
    if stated:
        return None
    return int(Colorspace.ITU709 if name == "bt709" else Colorspace.ITU601)


def deinterlaced(frames: Iterator[tuple[T, VideoFrame]]) -> Iterator[tuple[T, VideoFrame]]:
    """Each interlaced frame with one of its fields filled in from the other, its neighbours and their motion (bwdif).

    As many frames come out as go in. A frame needs the one before and the one after.
    """
    graph: Graph | None = None
    layout: tuple[str, int, int] | None = None
    waiting: deque[T] = deque()

    def pulled() -> Iterator[tuple[T, VideoFrame]]:
        assert graph is not None
        while waiting:
            try:
                frame = graph.vpull()
            except (av.BlockingIOError, EOFError):
                return
            yield waiting.popleft(), frame

    for count, (name, frame) in enumerate(frames):
        if layout != (frame.format.name, frame.width, frame.height):
            if graph is not None:
                graph.vpush(None)
                yield from pulled()
            layout = (frame.format.name, frame.width, frame.height)
            graph = Graph()
            source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_TICK)
            filters = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
            try:
                graph.link_nodes(source, filters, graph.add("buffersink")).configure()
            except av.FFmpegError:  # too small to have fields
                graph = None
        if graph is None:
            yield name, frame
            continue
        frame.pts, frame.time_base = count, _TICK
        waiting.append(name)
        graph.vpush(frame)
        yield from pulled()
    if graph is not None:
        graph.vpush(None)
        yield from pulled()
