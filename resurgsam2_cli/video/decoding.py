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
from resurgsam2_cli.video.libav import Opened, cause, start_decoder

_CUT_OFF = ("File ended prematurely", "partial file")
"""What the demuxers of Matroska, MP4 and MXF say where the file ends before its content does."""

_RECENT = 64
"""Packets. An error further back has come out of every thread of a decoder."""

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

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """The packets of the video stream; an empty one stands for the end."""
        try:
            for packet in self.file.container.demux(self.file.stream):
                self._beat()
                self._listen()
                if not packet.size and packet.dts is None:
                    break
                if packet.is_corrupt and not self.file.made_for_gaps:  # half a picture, and the last one
                    self.broken = self.broken or "corrupt input packet"
                    break
                if packet.is_keyframe and packet.pts is not None and packet.dts is not None:
                    self._keys.append((packet.pts, packet.dts))
                yield packet
        except (av.FFmpegError, OSError) as error:
            self.broken = self.broken or cause(error)
        yield Packet()  # type: ignore[misc]

    def _listen(self) -> None:
        """Take in what the demuxer has said."""
        for _, _, text in self.file.messages:
            self.broken = self.broken or next((words for words in _CUT_OFF if words in text), "")
        self.file.messages.clear()

    def decode(self, packet: Packet[VideoStream]) -> Iterator[VideoFrame]:
        """The frames that a packet completes; at the end of the file, all that are left."""
        end = not packet.size
        self._beat()
        frames: list[VideoFrame] = []
        context = self.file.stream.codec_context
        try:
            if not context.is_open:
                start_decoder(self.file.stream, self._threads)
            frames = context.decode(None if end else packet)
        except EOFError:
            pass
        except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
            self.damaged += 1
            self._failed_at, self._last_error = self._sent, cause(error)
        errors = av.logging.get_last_error()[0]
        if errors != self._errors:
            self._errors, self._failed_at = errors, self._sent
        self._sent += not end and not packet.is_discard
        for frame in frames:
            self.given, self.last_pts, self._last_error = self.given + 1, frame.pts, ""
            self._keep_colors(frame)
            yield frame
        knows_its_end = self.file.container.duration is not None and not self.file.made_for_gaps
        if end and knows_its_end:
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
        self._has_times = start is not None
        self._start = round(Fraction(start or 0, av.time_base) / self._base)
        self._shift = Fraction(0)
        self._last: Fraction | None = None

    def at(self, pts: int) -> Fraction:
        """The time of a time stamp."""
        return (pts - self._start) * self._base

    def time(self, frame: VideoFrame, number: int) -> Fraction:
        """The time of the next frame."""
        following = Fraction(0) if self._last is None else self._last + self._tick
        stamp = frame.pts if frame.pts is not None else frame.dts
        if not self._has_times:
            time = number * self._tick
        elif stamp is None:
            time = following
        else:
            time = self.at(stamp) + self._shift
            if self._last is not None and time < self._last:
                if self._last - time > _NEW_RECORDING * self._tick:
                    self._shift += following - time
                    time = following
                else:
                    time = self._last
        self._last = time
        return time
