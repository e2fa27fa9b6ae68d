"""From a file's packets to its frames, in the order in which they are displayed, each with its true time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from resurgsam2_cli.video.frames import DEFAULT_FOLDER_RATE
from resurgsam2_cli.video.libav import Opened, cause, check_room, missing_of_riff, start_decoder

_CUT_OFF = ("File ended prematurely", "partial file")
"""What the demuxers of Matroska, MP4 and MXF say where the file ends before its content does."""

_RECENT = 64
"""Packets. An error further back has come out of every thread of a decoder."""

_SLACK = 3
"""Frames by which a length in seconds may be wrong."""

_GENERATE_TIMES = 1
"""AVFMT_FLAG_GENPTS, which PyAV sets: it makes up times for AVI, which has none, that are not in order."""

_NEW_RECORDING = 4
"""Frames. Times that go back further than this belong to another recording, which was appended."""


class Decoder:
    """The frames of an open file from where it stands.

    A decoder recovers from an error in one frame. It does not from a file that is cut off: ``broken`` then says so, if
    the container knows its length. MPEG streams, GIF, WMV, Ogg, raw streams and fragmented MP4 do not.

    ``beat`` is called before each call of libav; an error that it raises ends the work. ``threads`` are those of the
    decoder, 0 for as many as are good.
    """

    def __init__(self, file: Opened, beat: Callable[[], None] = lambda: None, threads: int = 0) -> None:
        self.file, self._beat, self._threads = file, beat, threads
        self.broken = ""
        self.damaged = 0
        """Pictures that could not be decoded."""
        self.given = 0
        """Frames."""
        self.last_pts: int | None = None
        """The time stamp of the last of them."""
        self._keys: deque[tuple[int, int]] = deque(maxlen=4 * _RECENT)
        self._sent = 0
        self._colors: tuple[int, int] | None = None
        self._failed_at = -_RECENT
        self._errors = av.logging.get_last_error()[0]
        self._last_error = ""
        if file.container.format.name == "avi":
            file.container.flags &= ~_GENERATE_TIMES

    def frames(self) -> Iterator[VideoFrame]:
        """Decode to the end of the file."""
        for packet in self.packets():
            yield from self.decode(packet)

    def packets(self) -> Iterator[Packet[VideoStream] | None]:
        """The packets of the video stream that have something in them; None stands for the end."""
        file = self.file
        ended = Fraction(0)
        try:
            for packet in file.container.demux(*file.heard):
                self._beat()
                self._listen()
                if packet.dts is None and not packet.size:  # the demuxer's own, at the end of each stream
                    continue
                if packet.is_corrupt and not file.made_for_gaps:  # half a packet, and the last one
                    self._cut("corrupt input packet")
                    break
                if packet.pts is not None:
                    ended = max(ended, (packet.pts + (packet.duration or 0)) * packet.time_base)
                if packet.stream is not file.stream:
                    continue
                if not packet.size:  # an empty sample stands for a frame that the recorder dropped
                    continue
                if packet.is_keyframe and packet.pts is not None and packet.dts is not None:
                    self._keys.append((packet.pts, packet.dts))
                yield packet  # type: ignore[misc]
            else:
                self._cut(self._less_than_promised(ended))
        except (av.FFmpegError, OSError) as error:
            check_room(self.file.path, error)
            self.broken = self.broken or cause(error)
        yield None

    def _cut(self, why: str) -> None:
        """Note that the file ends here, which is an error if it knows its length."""
        if self.file.knows_length:
            self.broken = self.broken or why

    def _less_than_promised(self, ended: Fraction) -> str:
        """Why the file is taken to be cut between two packets; ``ended`` is the last time in it, in seconds."""
        file = self.file
        if file.container.format.name == "avi" and (bytes_missing := missing_of_riff(file.path)):
            return f"{bytes_missing} bytes are missing"
        length = file.container.duration
        if file.container.format.name in ("flv", "mxf") and length is not None:
            missing = Fraction(length + (file.container.start_time or 0), av.time_base) - ended
            if file.container.format.name == "flv":  # its length counts from zero
                missing = min(missing, Fraction(length, av.time_base) - ended)
            if missing > _SLACK / (file.rate or DEFAULT_FOLDER_RATE):
                return f"{float(missing):.2f} s are missing"
        return ""

    def _listen(self) -> None:
        """Take in what the demuxer has said."""
        for _, _, text in self.file.messages:
            self._cut(next((words for words in _CUT_OFF if words in text), ""))
        self.file.messages.clear()

    def decode(self, packet: Packet[VideoStream] | None) -> Iterator[VideoFrame]:
        """The frames that a packet completes; at the end of the file, all that are left."""
        self._beat()
        frames: list[VideoFrame] = []
        context = self.file.stream.codec_context
        try:
            if not context.is_open:
                start_decoder(self.file.stream, self._threads)
            frames = context.decode(packet)
        except EOFError:
            pass
        except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
            check_room(self.file.path, error)
            self.damaged += 1
            self._failed_at, self._last_error = self._sent, cause(error)
        errors = av.logging.get_last_error()[0]
        if errors != self._errors:
            self._errors, self._failed_at = errors, self._sent
        self._sent += packet is not None and not packet.is_discard
        for frame in frames:
            self.given, self.last_pts, self._last_error = self.given + 1, frame.pts, ""
            self._keep_colors(frame)
            yield frame
        if packet is None and self.file.knows_length:
            self.broken = self.broken or self._last_error

    def _keep_colors(self, frame: VideoFrame) -> None:
        """What a stream states of its colours holds from a key frame on.

        Where it changes, libavcodec says the new of some frames before, which the decoder still held.
        """
        if frame.key_frame or self._colors is None:
            self._colors = frame.colorspace, frame.color_range
        frame.colorspace, frame.color_range = self._colors

    @property
    def last_key(self) -> int | None:
        """Where to seek to for the last given frame; None if that is not known."""
        return max((dts for pts, dts in self._keys if self.last_pts is not None and pts <= self.last_pts), default=None)

    @property
    def lost(self) -> int:
        """At the end: pictures that gave no frame, where each packet is known to hold one."""
        one_each = "mp4" in self.file.container.format.name and self.file.stream.codec_context.name in ("h264", "hevc")
        return max(self.damaged, self._sent - self.given if one_each else 0)

    @property
    def swallowed(self) -> bool:
        """Whether frames may be missing at the end.

        A decoder with several threads tells of an error late, and PyAV does not ask for the frames behind it.
        """
        return self.given < self._sent and self._failed_at > self._sent - _RECENT


class Clock:
    """Presentation times in seconds since the start of the file, which never go back.

    Raw streams have none: their frames follow one another at the frame rate. AVI has those of decoding, as in ffmpeg.
    """

    def __init__(self, file: Opened) -> None:
        self._base = file.stream.time_base or Fraction(1, 1000)
        self._tick = 1 / (file.rate or DEFAULT_FOLDER_RATE)
        start = file.container.start_time
        self._farthest = max(Fraction(2), 64 * self._tick)
        self._has_times = start is not None
        self._start = round(Fraction(start or 0, av.time_base) / self._base)
        self._shifts = [Fraction(0)]
        """What is added to the times of each recording."""
        self._last: Fraction | None = None

    def at(self, pts: int) -> Fraction:
        """The time of a time stamp."""
        return (pts - self._start) * self._base

    def time(self, frame: VideoFrame, number: int) -> Fraction:
        """The time of the next frame."""
        following = Fraction(0) if self._last is None else self._last + self._tick
        stamp = self._stamp(frame)
        if not self._has_times:
            time = number * self._tick
        elif stamp is None:
            time = following
        elif self._last is None:
            time = self.at(stamp)
        else:
            # Where recordings were appended, late frames of one may come out between the first ones of the next.
            time = min((self.at(stamp) + x for x in self._shifts[-2:]), key=lambda x: abs(x - following))
            if self._last - time > _NEW_RECORDING * self._tick:
                self._shifts.append(following - self.at(stamp))
                time = following
            time = max(time, self._last)
        self._last = time
        return time

    def _stamp(self, frame: VideoFrame) -> int | None:
        """When a frame is displayed, in ticks; when it is decoded, if that is not said, or cannot be."""
        if frame.pts is None or frame.dts is None or abs(frame.pts - frame.dts) * self._base <= self._farthest:
            return frame.pts if frame.pts is not None else frame.dts
        return frame.dts
