"""The one place that knows how PyAV is set up: what may be opened, which stream is read, what libav says.

libav's log reaches Python through the lock that all threads share. A decoder's own threads log, too, so a decoder is
flushed, which waits for them without that lock, before it is let go of.
"""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

from resurgsam2_cli.errors import MORE_ROOM, DeviceError, InputError
from resurgsam2_cli.video.frames import MOST_PIXELS, too_large

FORMATS = (
    "3gp,aac,ac3,aiff,amr,apng,asf,av1,avi,avs2,avs3,cavsvideo,dhav,dirac,dnxhd,dts,dv,evc,flac,flic,flv,gif,gxf,h261,"
    "h263,h264,hevc,ingenient,ivf,kux,live_flv,lmlm4,m4v,matroska,mjpeg,mjpeg_2000,mov,mp3,mp4,mpeg,mpegts,mpegvideo,"
    "mpjpeg,mxf,nsv,nut,nuv,obu,ogg,pva,r3d,rm,roq,smjpeg,swf,thp,ty,vc1,vc1test,vivo,vvc,w64,wav,webm,wtv,xmv,"
    "yuv4mpegpipe"
)
"""The demuxers that may read a file. Those of playlists and patterns, which would open others, are not among them."""

MADE_FOR_GAPS = frozenset({"mpegts", "mpeg", "mpegvideo"})
"""Streams that are made to be received with gaps: a corrupt packet does not mean that the file was cut there."""

_INTERLEAVED = frozenset({"avi", "flv", "mxf"})
"""Containers that say nothing of a cut in a stream that is not read."""

_ROOM = 2**26
"""Bytes: about what a decoder may want at once."""


av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)  # else the second of two broken files would be silent
logging.getLogger("libav").setLevel(logging.CRITICAL + 1)  # what other threads of libav say is not for the user


def version() -> str:
    """The versions of PyAV and of the FFmpeg libraries that it brings."""
    return f"FFmpeg {av.ffmpeg_version_info} (PyAV {av.__version__})"


@dataclass(frozen=True)
class Opened:
    """A file that is open, and its video stream."""

    path: Path
    container: InputContainer
    stream: VideoStream
    messages: list[tuple[int, str, str]]
    """What libav has said: level, component, text."""

    @property
    def rate(self) -> Fraction | None:
        """Frames per second, as the header says or as the first frames suggest."""
        return self.stream.guessed_rate or None

    @property
    def made_for_gaps(self) -> bool:
        """Whether the container is one of :data:`MADE_FOR_GAPS`."""
        return self.container.format.name in MADE_FOR_GAPS

    @property
    def knows_length(self) -> bool:
        """Whether a part of the file can be told from the whole.

        Raw streams, those made for gaps, and fragmented MP4, whose index has no sample, do not know their length.
        """
        fragmented = "mp4" in self.container.format.name and not self.stream.frames
        return self.container.duration is not None and not self.made_for_gaps and not fragmented

    @property
    def heard(self) -> list[Stream]:
        """The streams to read: of containers that interleave, all, as the file may end in the sound."""
        return list(self.container.streams) if self.container.format.name in _INTERLEAVED else [self.stream]

    def frames(self) -> int | None:
        """About how many frames the header promises; None if it does not say."""
        if self.stream.frames:
            return self.stream.frames
        if self.container.duration is None or self.rate is None:
            return None
        return round(Fraction(self.container.duration, av.time_base) * self.rate)


@contextmanager
def opened(path: Path, *, shown: Path | str | None = None, most_pixels: int = MOST_PIXELS) -> Iterator[Opened]:
    """Open a local file and choose its video stream; for one thread at a time.

    ``shown`` is the path for messages. Raises :class:`InputError` for what is not a video.
    """
    shown = shown or path
    with av.logging.Capture() as messages:
        try:
            container = av.open(
                f"file:{os.path.abspath(path)}",
                options={"protocol_whitelist": "file", "format_whitelist": FORMATS, "max_pixels": str(most_pixels)},
                metadata_errors="replace",
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            check_room(shown, error)
            raise _not_a_video(shown, messages, error) from error
        try:
            stream = _video_stream(container, shown)
            _check_size(stream, shown, most_pixels)
            stream.codec_context.options = {"max_pixels": str(most_pixels)}
            yield Opened(path, container, stream, messages)
        finally:
            for other in container.streams.video:
                with suppress(av.FFmpegError):
                    if other.codec_context is not None:
                        other.codec_context.flush_buffers()
            container.close()


def check_room(shown: Path | str, error: Exception | None = None) -> None:
    """Raise :class:`DeviceError` if libav has failed as there is no memory: else it would be the file's fault.

    What libav says does not tell: of damaged files, too, it says that there is none.
    """
    try:
        mmap.mmap(-1, _ROOM).close()
    except (OSError, MemoryError):
        raise DeviceError(f"{shown}: there is not enough memory to read it", MORE_ROOM) from error


def _video_stream(container: InputContainer, shown: Path | str) -> VideoStream:
    """The default video stream, or the first one; the others are not read unless a cut in them would be missed."""
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    found = [x for x in container.streams.video if not x.disposition & pictures]
    if not found:
        raise InputError(f"{shown}: has no video stream", "give a file with video in it")
    stream = min(found, key=lambda x: not x.disposition & Disposition.default)
    if stream.codec_context is None:
        raise InputError(
            f"{shown}: nothing here decodes its video", "convert it first: ffmpeg -i FILE -crf 18 FILE.mp4"
        )
    if stream.codec_context.pix_fmt is None:
        check_room(shown)
        raise InputError(
            f"{shown}: cannot be read as a video (no picture could be made out)",
            "check that it plays elsewhere; a copy may have been cut off",
        )
    for other in container.streams:
        if other is not stream and container.format.name not in _INTERLEAVED:
            other.discard = Discard.all
    return stream


def _check_size(stream: VideoStream, shown: Path | str, most_pixels: int) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > most_pixels:
        raise too_large(shown, width, height)


def start_decoder(stream: VideoStream, threads: int = 0) -> None:
    """Open the decoder, with as many threads as are good. Raises what PyAV raises."""
    context = stream.codec_context
    context.thread_type = "SLICE" if threads == 1 else "AUTO"
    context.thread_count = threads
    context.open(strict=False)


def _not_a_video(shown: Path | str, messages: list[tuple[int, str, str]], error: Exception) -> InputError:
    errors = [(name, text.strip()) for level, name, text in messages if level <= av.logging.ERROR]
    for name, text in errors:
        if "not on whitelist" in text:
            return InputError(
                f"{shown}: cannot be read as a video (it is of the kind {name!r})",
                "a source is one video file, which names no others, or a folder of images",
            )
    texts = [text for _, text in errors]
    why = next((x for x in texts if "moov atom" in x), texts[-1] if texts else cause(error))
    return InputError(
        f"{shown}: cannot be read as a video ({telling(why)})",
        "check that it plays elsewhere; a copy may have been cut off",
    )


def missing_of_riff(path: Path) -> int:
    """How many bytes an AVI file is shorter than the sizes in it say; 0 if they do not say."""
    size, place = path.stat().st_size, 0
    with path.open("rb") as file:
        while True:
            file.seek(place)
            head = file.read(8)
            if len(head) < 8 or head[:4] != b"RIFF":
                return 0
            length = int.from_bytes(head[4:], "little")
            if length in (0, 2**32 - 1):  # written by a program that could not go back
                return 0
            place += 8 + length
            if place > size:
                return place - size


def cause(error: BaseException) -> str:
    """What an error of libav says, without its number and the file's name."""
    return str(getattr(error, "strerror", None) or error)


def telling(text: str) -> str:
    """The telling end of a message of libav's log."""
    return text.strip().rsplit(": ", 1)[-1].strip().rstrip(".")
