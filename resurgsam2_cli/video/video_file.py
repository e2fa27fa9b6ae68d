"""A video file: what its header says, and its frames."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, suppress
from fractions import Fraction
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
from av.video.frame import VideoFrame

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.text import counted
from resurgsam2_cli.process.threads import Hung, Watched
from resurgsam2_cli.video import ffmpeg
from resurgsam2_cli.video.decoding import Clock, Decoder
from resurgsam2_cli.video.frames import (
    DEFAULT_FOLDER_RATE,
    Frame,
    LocalFile,
    Reading,
    content_sum,
    digits_for,
    empty_part,
    safe_name,
)
from resurgsam2_cli.video.libav import Opened, cause, check_room, opened
from resurgsam2_cli.video.pixels import Converter, deinterlaced, matrix
from resurgsam2_cli.video.positions import WHOLE, Chooser, Part, Position
from resurgsam2_cli.video.seeking import Index, Unsure, frames_from, index_of

_SHORT = 2**20
"""Bytes. A smaller file does not have a hundred thousand frames."""

_NEAR = 250
"""Frames. What begins before this is decoded from the start."""

_HEAD = 24
"""Frames at the start of a file by which its index is checked."""

_FIELDS_LEAD = 2
"""Frames before the first one that deinterlacing it looks at."""

_AHEAD = 2
"""Decoded frames that wait; the decoder's own threads hold some more."""

PATIENCE = 60.0
"""Seconds after which a decoder that does not answer is given up."""

Timed = tuple[int, Fraction]
"""The number and the time of a frame."""


class VideoFile:
    """Anything that libav reads from one file."""

    def __init__(
        self, path: Path, shown: Path | str | None = None, name: str | None = None, reading: Reading | None = None
    ) -> None:
        self.path: Path | str = shown or path
        self.name = name or safe_name(path.stem, "video")
        self.reading = reading or Reading()
        self._seen: list[str] = []
        self.facts: dict[str, Any] = {}
        self.pixel_aspect = Fraction(1)
        self._file = path.absolute()
        self._no_sound = False
        self._watched: Watched[Any] | None = None
        self._index: Index | None = None
        try:
            if self._file.stat().st_size == 0:
                raise InputError(f"{self.path}: the file is empty", "copy or record it again")
            with self._file.open("rb"):
                pass
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror}", "check that you may read it") from error
        ((self.rate, self._length, self._has_sound),) = self._in_thread(self._probe)

    def _probe(self, beat: Callable[[], None]) -> Generator[tuple[Fraction, int | None, bool], None, None]:
        """Read the header: the frame rate, about how many frames there are, and whether there is sound."""
        with self._opened() as file:
            sound = file.container.streams.audio
            if sound and all(x.codec_context is None for x in sound):
                self._no_sound = True
            yield file.rate or DEFAULT_FOLDER_RATE, file.frames(), any(x.codec_context is not None for x in sound)

    def _opened(self) -> AbstractContextManager[Opened]:
        return opened(self._file, shown=self.path, most_pixels=self.reading.most_pixels)

    def _in_thread(self, make: Callable[[Callable[[], None]], Generator[Any, None, None]]) -> Iterator[Any]:
        """What ``make`` yields, from a thread that is given up if libav hangs. Raises :class:`InputError`."""
        self._watched = watched = Watched(make, _AHEAD, PATIENCE)
        try:
            yield from watched
        except Hung:
            raise InputError(
                f"{self.path}: a decoder has not answered for {PATIENCE:.0f} seconds",
                "the file is damaged in a way that it cannot cope with: copy or record it again",
            ) from None
        finally:
            watched.close()

    @cached_property
    def audio(self) -> Path | None:
        """This file, if it has sound that ffmpeg can put into an overlay."""
        if not self._has_sound:
            return None
        if not ffmpeg.decodes_sound(self._file):
            self._no_sound = True
            return None
        return self._file

    @property
    def warnings(self) -> list[str]:
        """What the user should know of the sound, and of the pictures that :meth:`frames` gave last."""
        return [*self._seen, *(["the sound cannot be decoded: an overlay has none"] if self._no_sound else [])]

    def expected(self, part: Part) -> int | None:
        """About how many frames :meth:`frames` will give."""
        return part.count(self._length, self.rate)

    def within_reach(self) -> int | None:
        """How many frames there are, if the index is sure of them; else None. Raises :class:`InputError`."""

        def look(beat: Callable[[], None]) -> Generator[Index, None, None]:
            yield self.index(beat)

        (index,) = self._in_thread(look)
        return len(index.pts) or None

    def identity(self) -> dict[str, Any]:
        """``size`` and ``sum``. Raises :class:`InputError`."""
        try:
            return {"size": self._file.stat().st_size, "sum": content_sum([LocalFile(self._file)])}
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be read ({error.strerror})", "check that it is there, and that you may read it"
            ) from error

    def frame(self, number: int) -> Frame:
        """A single frame. Raises :class:`InputError` if there is none with this number."""
        (frame,) = self.frames(Part(Position(frame=number), Position(frame=number + 1)))
        return frame

    def frames(self, part: Part = WHOLE) -> Generator[Frame, None, None]:
        """Decode the wanted frames. A file that ends early yields what decodes, then raises :class:`InputError`."""
        work, given = _Pass(self, part), 0
        for frame in self._in_thread(work.frames):
            given += 1
            yield frame
        self.facts = work.facts()
        self._seen = work.warnings()
        if work.broken:
            raise InputError(
                f"{self.path}: the video breaks off after {counted(work.decoded, 'frame')} ({work.broken})",
                "copy or record it again",
            )
        if not work.decoded:
            raise InputError(f"{self.path}: no frame could be decoded", "check that it plays elsewhere")
        if not given:
            raise empty_part(self.path, None if work.over else work.decoded)

    def interrupt(self) -> None:
        """Stop libav, which may be far from the next wanted frame."""
        if self._watched is not None:
            self._watched.stop()

    def index(self, beat: Callable[[], None]) -> Index:
        """The index of this file, made when it is first wanted."""
        if self._index is None:
            with self._opened() as file:
                head = [x.pts for x in islice(Decoder(file, beat).frames(), _HEAD)]
            with self._opened() as file:
                self._index = index_of(Decoder(file, beat), head)
        return self._index


class _Pass:
    """One way through a file, for the wanted part of it."""

    def __init__(self, video: VideoFile, part: Part) -> None:
        self._video, self._part = video, part
        self._converter = Converter()
        self._interlaced = False
        self._first: VideoFrame | None = None
        self._lost = 0
        self.broken = ""
        """Why the file breaks off, if it does."""
        self.decoded = 0
        """The number of frames up to the last one that was decoded."""
        self.over = False
        """Whether the part ended before the file did."""

    def frames(self, beat: Callable[[], None]) -> Generator[Frame, None, None]:
        """The wanted frames, converted. Raises :class:`InputError` for one that cannot be."""
        digits = self._digits(beat)
        decoded = self._numbered(beat)
        if self._video.reading.deinterlace:
            decoded = deinterlaced(decoded)
        chooser = Chooser(self._part)
        for (number, time), frame in decoded:
            wanted = chooser.wanted(number, float(time))
            if wanted is None:
                self.over = True
                return
            if wanted:
                yield Frame(number, f"{number:0{digits}d}", time, self._converted(number, frame))

    def _converted(self, number: int, frame: VideoFrame) -> Any:
        try:
            return self._converter(frame)
        except av.FFmpegError as error:
            check_room(self._video.path, error)
            raise InputError(
                f"{self._video.path}: frame {number} cannot be turned into RGB ({cause(error)})",
                "convert the video first: ffmpeg -i FILE -crf 18 -pix_fmt yuv420p FILE.mp4",
            ) from error

    def _digits(self, beat: Callable[[], None]) -> int:
        """The digits of frame names. If a stream does not tell its length, count it first, without decoding it."""
        frames = self._video._length
        if frames is None and self._video._file.stat().st_size > _SHORT:
            frames = self._video.index(beat).packets
        return digits_for(frames)

    def _numbered(self, beat: Callable[[], None]) -> Iterator[tuple[Timed, VideoFrame]]:
        """Frames with their numbers and times, from the start of the file or from shortly before the part."""
        if not self._far():
            yield from self._from_start(beat)
            return
        try:
            yield from self._from_index(beat)
        except Unsure:
            yield from self._from_start(beat)

    def _far(self) -> bool:
        start = self._part.start
        return (start.frame if start.frame is not None else int((start.seconds or 0) * self._video.rate)) >= _NEAR

    def _from_start(self, beat: Callable[[], None]) -> Iterator[tuple[Timed, VideoFrame]]:
        with self._video._opened() as file:
            clock, decoder = Clock(file), Decoder(file, beat)
            for number, frame in enumerate(chain(decoder.frames(), self._tail(decoder, beat))):
                if not number:
                    self._settle(file, frame)
                yield (number, clock.time(frame, number)), self._seen(number, frame)
        self._end(decoder, decoder.lost)

    def _from_index(self, beat: Callable[[], None]) -> Iterator[tuple[Timed, VideoFrame]]:
        """Raises :class:`Unsure` before the first frame."""
        index = self._video.index(beat)
        if not index.sure:
            raise Unsure
        with self._video._opened() as file:
            clock, decoder = Clock(file), Decoder(file, beat)
            first = index.before(self._part.start, clock)
            if first >= len(index.pts):
                self.decoded, self.broken = len(index.pts), index.broken
                return
            self._settle(file, next(Decoder(file, beat).frames()))
            lead = _FIELDS_LEAD if self._video.reading.deinterlace else 0
            for number, frame in frames_from(decoder, index, max(0, first - lead)):
                yield (number, clock.time(frame, number)), self._seen(number, frame)
            for frame in self._tail(decoder, beat):
                yield (self.decoded, clock.time(frame, self.decoded)), self._seen(self.decoded, frame)
        self._end(decoder, decoder.damaged)  # after a seek, some pictures need what is before it

    def _tail(self, decoder: Decoder, beat: Callable[[], None]) -> Iterator[VideoFrame]:
        """The frames at the end that the decoder's threads have swallowed: decoded again, without threads."""
        if not decoder.swallowed:
            return
        with self._video._opened() as file:
            again = Decoder(file, beat, threads=1)
            last, key = decoder.last_pts, decoder.last_key
            if last is None or key is None:
                yield from islice(again.frames(), decoder.given, None)
            else:
                with suppress(av.FFmpegError, OSError):
                    file.container.seek(key, stream=file.stream)
                yield from (x for x in again.frames() if x.pts is not None and x.pts > last)
            decoder.broken = again.broken

    def _end(self, decoder: Decoder, lost: int) -> None:
        self.broken, self._lost = decoder.broken, lost

    def _settle(self, file: Opened, first: VideoFrame) -> None:
        """Take in the first frame of the file: all frames get its size."""
        self._first = first
        self._converter.settle(first)
        aspect = file.stream.sample_aspect_ratio or Fraction(1)
        self._video.pixel_aspect = 1 / aspect if self._converter.orientation(first)[0] else aspect

    def _seen(self, number: int, frame: VideoFrame) -> VideoFrame:
        self._interlaced = self._interlaced or frame.interlaced_frame
        self.decoded = number + 1
        return frame

    def facts(self) -> dict[str, Any]:
        """What run.json says of the pictures."""
        first = self._first
        if first is None:
            return {}
        name, stated = matrix(first)
        return {
            "pixel_format": first.format.name,
            "color_matrix": name,
            "color_matrix_stated": stated,
            "interlaced": self._interlaced,
            "scaled_frames": self._converter.scaled,
        }

    def warnings(self) -> list[str]:
        """What the user should know of the pictures."""
        found = []
        if scaled := self._converter.scaled:
            height, width = self._converter.size or (0, 0)
            found.append(f"{counted(scaled, 'frame')} of another size than the first scaled to {width} x {height}")
        if self._interlaced and not self._video.reading.deinterlace:
            found.append("interlaced video; --deinterlace removes the comb lines of what moves")
        if self._lost:
            found.append(f"{counted(self._lost, 'picture')} could not be decoded")
        return found
