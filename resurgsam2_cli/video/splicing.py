"""Replaces frames of an overlay without encoding the others again.

H.264 is a sequence of groups of pictures. Each begins with an IDR frame and, as :class:`VideoWriter` encodes it, needs
nothing from another group. So the groups around changed frames are encoded anew, and everything else is copied bit for
bit. x264 derives the time stamps of decoding from the times of the frames alone, whatever their types: a new packet
takes that of the old packet in its place, and they rise across the seams.

Groups that follow one another share the parameter sets in the header. If another version of ffmpeg or x264 writes
others, a decoder would show garbage, so such a file is refused.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Discard, Stream

from resurgsam2_cli.errors import InputError, OutputError
from resurgsam2_cli.files.atomic import replacing, scratch
from resurgsam2_cli.video.libav import Opened, cause, opened
from resurgsam2_cli.video.marks import holds_mark
from resurgsam2_cli.video.writer import VideoWriter

Part = tuple[range, Iterable[np.ndarray]]
"""Whole groups, as the numbers of their frames, and a picture (height, width, 3) uint8 for each of these frames."""

_IDR, _PARAMETERS = 5, {7, 8}
"""Types of H.264 units: a slice of an IDR frame; sequence and picture parameter sets."""


class NotSpliceable(InputError):
    """Frames of a video cannot be replaced one by one; encode all of it."""


def _refused(path: Path, why: str) -> NotSpliceable:
    return NotSpliceable(f"{path}: frames of it cannot be replaced ({why})", "write the whole overlay anew")


@dataclass(frozen=True)
class Groups:
    """The groups of pictures of an overlay. Its frames are numbered from 0, in order of display."""

    path: Path
    starts: list[int]
    """The first frame of each group, rising from 0."""
    pts: np.ndarray = field(repr=False)
    """(frames,) int64: when each frame is displayed, in ticks of the file, rising."""

    def around(self, changed: Iterable[int]) -> list[range]:
        """The groups that hold the changed frames; groups that follow one another are joined to one range.

        Raises ``IndexError`` if there is no such frame.
        """
        ends = [*self.starts[1:], len(self.pts)]
        spans: list[range] = []
        for group in sorted({self._group(x) for x in changed}):
            first = self.starts[group]
            if spans and spans[-1].stop == first:
                first = spans.pop().start
            spans.append(range(first, ends[group]))
        return spans

    def _group(self, number: int) -> int:
        if not 0 <= number < len(self.pts):
            raise IndexError(f"{self.path} has no frame {number}")
        return bisect_right(self.starts, number) - 1


def groups_of(path: Path) -> Groups:
    """Find the groups of a video that :class:`VideoWriter` wrote, with a comment that marks it as this program's.

    Reads the whole file once, without decoding it. Raises :class:`NotSpliceable` for any other file, and for one that
    was cut.
    """
    if not holds_mark(path):
        raise _refused(path, "it is not an overlay of this program")
    starts: list[int] = []
    pts: list[int] = []
    seen: Counter[int] = Counter()
    with _opened(path) as file:
        for packet in _packets(file):
            seen[packet.stream_index] += 1
            if packet.stream_index != file.stream.index:
                continue
            if packet.is_keyframe and _is_closed(packet):
                starts.append(len(pts))
            elif packet.is_keyframe or not starts:
                raise _refused(path, "its groups of pictures do not stand alone")
            assert packet.pts is not None  # MP4 has a time for every packet
            pts.append(packet.pts)
        if any(seen[x.index] != x.frames for x in _streams(file)):
            raise _refused(path, "it was cut off")
    return Groups(path, starts, np.sort(np.array(pts, np.int64)))


def splice(groups: Groups, new: Path, parts: Iterable[Part], rate: Fraction) -> None:
    """Write a copy of an overlay with new pictures in some of its groups.

    The parts come in order of their frames, and each is used up before the next one is asked for. ``rate`` is the one
    that the overlay was written with. All times stay as they were, those of decoding and of the sound too. ``new``
    appears when it is complete; its folder must be this process's own.

    Raises :class:`NotSpliceable` if the pictures have another size or the encoder's parameter sets have changed,
    ``ValueError`` for a part that is not made of whole groups or has too few or too many pictures,
    :class:`OutputError` and ``OSError``.
    """
    with _opened(groups.path) as old, replacing(new) as partial, scratch(new) as piece:
        with (
            _muxing(partial, old) as output,
            closing(_replacements(groups, old, parts, rate, piece)) as replacements,
        ):
            streams = {x.index: _copied(x, output) for x in _streams(old)}
            for packet in _packets(old):
                stream = streams[packet.stream_index]
                if packet.stream_index == old.stream.index:
                    packet = _in_place_of(packet, next(replacements, None), groups.path)
                packet.stream = stream
                output.mux_one(packet)
            next(replacements, None)  # a part that comes too late is an error
        _copy_display_size(groups.path, partial)


def _replacements(
    groups: Groups, old: Opened, parts: Iterable[Part], rate: Fraction, piece: Path
) -> Generator[Packet | None, None, None]:
    """The new packet for each frame, in order of decoding, with its time of display; None to keep the old one."""
    number = 0
    for span, pictures in parts:
        if span.start < number or groups.around(span) != [span]:
            raise ValueError(f"{span} is not made of whole groups, or does not come in order")
        yield from repeat(None, span.start - number)
        times = groups.pts[span.start : span.stop] - groups.pts[span.start]
        _encode(piece, old, [int(x) * _tick(old) for x in times], pictures, rate)
        with opened(piece) as fresh:
            # They include the unit of time.
            if fresh.stream.codec_context.extradata != old.stream.codec_context.extradata:
                raise _refused(groups.path, "this ffmpeg encodes in another way, or the size is another one")
            for packet in _packets(fresh):
                assert packet.pts is not None
                packet.pts += int(groups.pts[span.start])
                yield packet
        number = span.stop
    yield from repeat(None, len(groups.pts) - number)


def _encode(piece: Path, old: Opened, times: list[Fraction], pictures: Iterable[np.ndarray], rate: Fraction) -> None:
    """Encode pictures as the old file was, each shown from its time in seconds after the first one's 0."""
    writer: VideoWriter | None = None
    try:
        for time, rgb in zip(times, pictures, strict=True):
            if writer is None:
                aspect = old.stream.sample_aspect_ratio or Fraction(1)
                writer = VideoWriter(piece, rgb.shape[0], rgb.shape[1], rate, pixel_aspect=aspect)
            writer.write(rgb, time)
    except BaseException:
        if writer is not None:
            writer.abort()
        raise
    if writer is not None:
        writer.close()


def _in_place_of(old: Packet, new: Packet | None, path: Path) -> Packet:
    """The packet to write: the new one, if there is one, to be decoded when the old one was."""
    if new is None:
        return old
    assert new.pts is not None
    assert old.dts is not None
    if new.pts < old.dts:
        raise _refused(path, "its times are not those that it was encoded with")
    new.dts, new.duration = old.dts, old.duration
    return new


def _tick(file: Opened) -> Fraction:
    """Seconds."""
    assert file.stream.time_base is not None  # only streams that are made anew have none
    return file.stream.time_base


# --- Files -------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[Opened]:
    """Open an overlay. Raises :class:`NotSpliceable` if this program did not write it."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(opened(path))
        except InputError as error:
            raise _refused(path, error.message.removeprefix(f"{path}: ")) from error
        for stream in file.container.streams.audio:
            stream.discard = Discard.default
        # ffmpeg takes chapters over from where the sound comes from: they are a stream of data.
        others = [x for x in file.container.streams if x not in _streams(file) and x.type != "data"]
        if file.stream.codec_context.name != "h264" or file.stream.index or others:
            raise _refused(path, "another program has changed it")
        yield file


def _streams(file: Opened) -> list[Stream]:
    return [file.stream, *file.container.streams.audio]


def _packets(file: Opened) -> Iterator[Packet]:
    """All packets of video and sound, in the order of the file. Raises :class:`NotSpliceable` for a broken one."""
    try:
        for packet in file.container.demux(_streams(file)):
            if packet.is_corrupt:
                raise _refused(file.path, "it was cut off")
            if packet.dts is not None:  # else it tells a decoder that the file has ended
                yield packet
    except av.FFmpegError as error:
        raise _refused(file.path, cause(error)) from error


def _is_closed(packet: Packet) -> bool:
    """Whether a packet is an IDR frame, which nothing behind it looks past, with the parameter sets of the header."""
    data, place = bytes(packet), 0
    kinds = set()
    while place + 4 < len(data):  # each unit has its length in four bytes before it
        kinds.add(data[place + 4] & 31)
        place += 4 + int.from_bytes(data[place : place + 4], "big")
    return _IDR in kinds and not kinds & _PARAMETERS


@contextmanager
def _muxing(path: Path, old: Opened) -> Iterator[OutputContainer]:
    """Open an MP4 file like the old one for writing. Raises :class:`OutputError` if it cannot be written."""
    options = {"movflags": "+faststart", "movie_timescale": str(_tick(old).denominator)}
    try:
        with av.open(f"file:{os.path.abspath(path)}", "w", format="mp4", options=options) as output:
            output.metadata.update(old.container.metadata)
            output.set_chapters(old.container.chapters())
            yield output
    except av.FFmpegError as error:
        raise OutputError(
            f"{path.name}: cannot be written ({cause(error)})", "make room on the disk, or get the right to write there"
        ) from error


def _copied(stream: Stream, output: OutputContainer) -> Stream:
    copied = output.add_stream_from_template(stream, opaque=True)
    copied.metadata.update(stream.metadata)
    return copied


def _copy_display_size(old: Path, new: Path) -> None:
    """Write the width and height at which the old video is displayed into the new one, in place.

    They stand in the header of the track, 16.16 each. libav computes them from a pixel aspect that PyAV cannot set.
    """
    with old.open("rb") as source, new.open("rb+") as target:
        size = _read(source, _end_of_track_header(source) - 8, 8)
        target.seek(_end_of_track_header(target) - 8)
        target.write(size)


def _end_of_track_header(file: BinaryIO) -> int:
    """Where the header of the first track of an MP4 file ends: that of the video."""
    place, end = 0, 0
    for name in (b"moov", b"trak", b"tkhd"):
        while True:
            head = _read(file, place, 16)
            size = int.from_bytes(head[:4], "big")
            if head[4:8] == name:
                break
            place += int.from_bytes(head[8:], "big") if size == 1 else size
        place, end = place + 8, place + size
    return end


def _read(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)
