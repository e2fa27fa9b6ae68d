"""Reaches a frame late in a file without decoding what is before it.

The index of a file is made of its packets alone. It says which number a frame has: how many are displayed before it. It
counts only where that is sure to be what decoding from the start would count: every packet has a time of its own and,
as far as :mod:`resurgsam2_cli.video.packets` can tell, a picture; and the first frames are those that the index says.
Elsewhere a file is decoded from its start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import av
import numpy as np
from av.video.frame import VideoFrame

from resurgsam2_cli.video.decoding import Clock, Decoder
from resurgsam2_cli.video.frames import DEFAULT_FOLDER_RATE
from resurgsam2_cli.video.packets import PacketCheck
from resurgsam2_cli.video.positions import Position

_FARTHEST = 64
"""Frames between the time stamps of decoding and of display. More is a mistake of the file."""


@dataclass(frozen=True)
class Index:
    """The packets of a file, in order of display."""

    packets: int
    """How many the video stream has."""
    pts: np.ndarray = field(repr=False)
    """(frames,) int64: the time stamps of the displayed frames, rising. Empty if the index is not sure."""
    key_pts: np.ndarray = field(repr=False)
    """(keys,) int64, rising."""
    key_dts: np.ndarray = field(repr=False)
    """(keys,) int64: their time stamps of decoding, by which some containers are searched."""

    broken: str = ""
    """Why the file breaks off, if it does."""

    @property
    def sure(self) -> bool:
        """Whether the numbers of frames are known."""
        return len(self.pts) > 0

    def before(self, position: Position, clock: Clock) -> int:
        """The number of a frame at or shortly before a position."""
        if position.frame is not None:
            return position.frame
        low, high = 0, len(self.pts)
        while low < high:
            middle = (low + high) // 2
            if position.reached(middle, float(clock.at(int(self.pts[middle])))):
                high = middle
            else:
                low = middle + 1
        return max(0, low - 1)


def index_of(decoder: Decoder, head: list[int | None]) -> Index:
    """The index of a file that stands at its start; ``head`` are the time stamps of the first decoded frames."""
    pts: list[int] = []
    keys: list[tuple[int, int]] = []
    packets, last, sure = 0, None, True
    check = PacketCheck(decoder.file.container.format.name, decoder.file.stream)
    farthest = _FARTHEST / ((decoder.file.rate or DEFAULT_FOLDER_RATE) * (decoder.file.stream.time_base or 1))
    for packet in decoder.packets():
        if packet is None:
            break
        packets += 1
        if not sure:
            continue
        check.add(packet)
        goes_back = packet.dts is not None and last is not None and packet.dts < last
        if packet.pts is None or packet.is_corrupt or goes_back or not check.sure:
            sure = False
            continue
        if packet.dts is not None:
            last = packet.dts
            sure = abs(packet.pts - packet.dts) <= farthest
        if packet.is_keyframe:
            keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
        if not packet.is_discard:
            pts.append(packet.pts)
    order = np.unique(np.array(pts, np.int64))
    decoded = np.array([x for x in head if x is not None], np.int64)
    sure = sure and check.finish() and len(order) == len(pts) and 0 < len(decoded) == len(head)
    if sure:
        order = order[np.searchsorted(order, decoded[0]) :]  # what cannot be decoded is not displayed
        sure = np.array_equal(order[: len(decoded)], decoded)
    by_time = np.array(sorted(keys), np.int64).reshape(-1, 2)
    return Index(packets, order if sure else order[:0], by_time[:, 0], by_time[:, 1], decoder.broken)


class Unsure(Exception):
    """A seek did not land where the index says: decode from the start."""


def frames_from(decoder: Decoder, index: Index, number: int) -> Iterator[tuple[int, VideoFrame]]:
    """Frames with their numbers, from ``number`` on. Raises :class:`Unsure` before the first one."""
    if not index.sure or number >= len(index.pts):
        raise Unsure
    key = int(np.searchsorted(index.key_pts, index.pts[number], "right")) - 1
    if key < 0:
        raise Unsure
    for timestamp in _targets(index, key):
        try:
            yield from _landed(decoder, index, number, timestamp)
            return
        except _Missed:
            continue
    raise Unsure


def _targets(index: Index, key: int) -> Iterator[int]:
    """Where to seek to for a key frame: by one of its time stamps, else for others before it."""
    for at in (key, key - 1, key - 3, 0):
        if at >= 0:
            yield int(index.key_pts[at])
            yield int(index.key_dts[at])


class _Missed(Exception):
    """A seek landed too late, or on a frame that cannot be decoded by itself."""


def _landed(decoder: Decoder, index: Index, number: int, timestamp: int) -> Iterator[tuple[int, VideoFrame]]:
    """Seek, and number what is decoded from the first key frame on. Raises :class:`_Missed` before ``number``."""
    try:
        decoder.file.container.seek(timestamp, stream=decoder.file.stream)
    except (av.FFmpegError, OSError) as error:
        raise _Missed from error
    started: int | None = None
    following = 0
    for packet in decoder.packets():
        if started is None:
            if packet is None:
                raise _Missed
            if not packet.is_keyframe or packet.pts is None:
                continue
            started = int(packet.pts)
            following = int(np.searchsorted(index.pts, started))
            if following > number or started not in index.key_pts:
                raise _Missed
        for frame in decoder.decode(packet):
            if following <= number:
                if frame.pts is not None and frame.pts < started:
                    continue  # it needs what is before the key frame
                if frame.pts != index.pts[following]:
                    raise _Missed
            if following >= number:
                yield following, frame
            following += 1
    if following <= number:
        raise _Missed
