"""Frames of a video file, a folder of images, or standard input, as one stream.

All three give the same :class:`Frame` objects: RGB uint8, upright, numbered as in the source, with their true
presentation time. Nothing is read ahead but what the pipe holds.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from resurgsam2_cli.errors import InputError, OutputError, UsageError
from resurgsam2_cli.video import ffmpeg

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
DEFAULT_FOLDER_RATE = Fraction(25)

Image.MAX_IMAGE_PIXELS = None  # a guard for servers; here the files are the user's own


@dataclass(frozen=True)
class Frame:
    """One decoded frame."""

    number: int
    """In the source, from 0, whatever was skipped."""
    time: Fraction
    """Presentation time in seconds."""
    rgb: np.ndarray
    """(height, width, 3) uint8"""


@dataclass(frozen=True)
class Position:
    """A place in a video: a frame number or a time in seconds."""

    frame: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> Position:
        """``120`` is a frame; ``12.5s``, ``1:02`` and ``1:02:03.5`` are times. Raises :class:`UsageError`."""
        if re.fullmatch(r"\d+", text):
            return cls(frame=int(text))
        if re.fullmatch(r"\d+(\.\d*)?s|\.\d+s", text):
            return cls(seconds=float(text[:-1]))
        if re.fullmatch(r"(\d+:)?\d+:\d+(\.\d*)?", text):
            seconds = 0.0
            for part in text.split(":"):
                seconds = seconds * 60 + float(part)
            return cls(seconds=seconds)
        raise UsageError(f"{text!r} is no position in a video", "give a frame (120) or a time (12.5s, 1:02:03)")

    def reached(self, number: int, seconds: float) -> bool:
        """Whether a frame is at or after this position."""
        return number >= self.frame if self.frame is not None else seconds >= (self.seconds or 0.0)

    def __str__(self) -> str:
        return str(self.frame) if self.frame is not None else f"{self.seconds:.15g}s"


@dataclass(frozen=True)
class Part:
    """Which frames of a source are wanted."""

    start: Position = Position(frame=0)
    end: Position | None = None
    """The first frame that is not wanted any more."""
    stride: int = 1

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise UsageError(f"--stride must be at least 1, not {self.stride}")
        start, end = self.start, self.end
        if end is not None and (
            (start.frame is not None and end.frame is not None and end.frame <= start.frame)
            or (start.seconds is not None and end.seconds is not None and end.seconds <= start.seconds)
        ):
            raise UsageError(f"--end {end} is not after --start {start}", "leave one of them out")

    def count(self, frames: int | None, rate: Fraction) -> int | None:
        """About how many frames are wanted of a source with ``frames`` frames; for the progress bar."""

        def at(position: Position) -> int:
            return position.frame if position.frame is not None else int((position.seconds or 0) * rate)

        if frames is None and self.end is None:
            return None
        stop = min(x for x in (frames, at(self.end) if self.end else None) if x is not None)
        return max(0, -(-(stop - at(self.start)) // self.stride))

    def duration(self, first: Fraction, rate: Fraction) -> Fraction | None:
        """Seconds from ``first``, the time of the first frame, to the end; None where that is the source's end."""
        if self.end is None:
            return None
        end = self.end.frame / rate if self.end.frame is not None else Fraction(self.end.seconds or 0)
        return max(end - first, 1 / rate)


class _Chooser:
    """Applies a :class:`Part` to frames in order."""

    def __init__(self, part: Part) -> None:
        self._part, self._inside = part, 0

    def wanted(self, number: int, seconds: float) -> bool | None:
        """True, False, or None where the part is over."""
        part = self._part
        if part.end is not None and part.end.reached(number, seconds):
            return None
        if not part.start.reached(number, seconds):
            return False
        self._inside += 1
        return (self._inside - 1) % part.stride == 0


class Source(Protocol):
    """What a pipeline needs of a video. Size, rate and times are known once :meth:`frames` gave the first frame."""

    path: Path
    """What is recorded; for standard input ``-``."""
    name: str
    """The stem of the output folder."""
    rate: Fraction
    """Frames per second."""
    audio: Path | None
    """A file with the sound of this video."""

    def frames(self, part: Part) -> Generator[Frame, None, None]:
        """The wanted frames in order. Raises :class:`InputError`."""
        ...

    def interrupt(self) -> None:
        """From another thread: end a frame that :meth:`frames` waits for; no other will come."""
        ...

    def expected(self, part: Part) -> int | None:
        """About how many frames :meth:`frames` will give."""
        ...

    def identity(self) -> dict[str, int]:
        """Size and time stamp: another value means another source."""
        ...


def source_path(source: Source) -> str:
    """The source's path as run.json has it: absolute, or ``-``."""
    return "-" if str(source.path) == "-" else readable(os.path.abspath(source.path))


def readable(text: str) -> str:
    """Text that UTF-8 can hold: a file name may have bytes that are none."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@contextmanager
def open_source(source: str, frame_rate: Fraction | None = None) -> Iterator[Source]:
    """Open a video file, a folder of images, or ``-``.

    ``frame_rate`` is for folders, which have none of their own (default 25). Raises :class:`InputError`.
    """
    if source == "-":
        # Copied to a file first: most MP4 files cannot be read without seeking, and the sound is needed later.
        if sys.stdin is None:
            raise InputError("-: there is no standard input", "pipe a video in, or name a file")
        with tempfile.NamedTemporaryFile(prefix="resurgsam2-", suffix=".stdin") as copy:
            try:
                shutil.copyfileobj(sys.stdin.buffer, copy)
                copy.flush()
            except OSError as error:
                raise OutputError(
                    f"{copy.name}: standard input cannot be copied ({error.strerror})",
                    "make room there, or name another folder in TMPDIR",
                ) from error
            yield VideoFile(Path(copy.name), shown=Path("-"), name="stdin")
        return
    path = Path(source)
    if not source:
        raise UsageError("the source is empty", "name a video, a folder of images, or -")
    if frame_rate is not None and not path.is_dir():
        raise UsageError("--frame-rate is for folders of images; a video has its own", "leave it out")
    if path.is_dir():
        yield ImageFolder(path, frame_rate or DEFAULT_FOLDER_RATE)
    elif path.is_file():
        yield VideoFile(path)
    elif path.exists():
        raise InputError(f"{source}: is neither a file nor a folder", "pipe it in: resurgsam2 segment - < ...")
    elif "://" in source:
        raise InputError(
            f"{source}: only local files are opened",
            "download it first, or pipe it in: ... | resurgsam2 segment -",
        )
    else:
        raise InputError(f"{source}: no such file or folder", "check the path; '-' reads standard input")


class VideoFile:
    """Anything that ffmpeg reads."""

    def __init__(self, path: Path, shown: Path | None = None, name: str | None = None) -> None:
        self.path = shown or path
        self.name = name or readable(path.stem).strip(". ") or "video"
        self._file = path.absolute()
        self.audio: Path | None = None
        self._reader: _Reader | None = None
        self._probe()

    def _probe(self) -> None:
        """Read the header. Raises :class:`InputError` for what is no video."""
        try:
            if self._file.stat().st_size == 0:
                raise InputError(f"{self.path}: the file is empty", "copy or record it again")
            with self._file.open("rb"):
                pass
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror}", "check its permissions") from error
        command = [ffmpeg.executable(), *ffmpeg.BASE, *ffmpeg.LOCAL_ONLY, "-i", ffmpeg.local(self._file)]
        log = subprocess.run(command, capture_output=True, check=False).stderr.decode(errors="replace")
        video = next((x for x in log.splitlines() if re.search(r"Stream #0:.*: Video: (?!.*attached pic)", x)), None)
        if video is None or " Video: ansi" in video:  # ffmpeg draws plain text as ANSI art
            if "Stream #0:" in log and video is None:
                raise InputError(f"{self.path}: has no video stream", "give a file with video in it")
            errors = [ffmpeg.clean(x) for x in log.splitlines() if ffmpeg.is_error(x)]
            cause = next((x for x in errors if "moov atom" in x), errors[-1] if errors else "not a video")
            raise InputError(
                f"{self.path}: cannot be read as a video ({_cause(cause)})",
                "check that it plays elsewhere; a copy may have been cut off",
            )
        if "Stream #0:" in log and re.search(r"Stream #0:.*: Audio: ", log):
            self.audio = self._file
        rate = re.search(r"([\d.]+)(k?) (?:fps|tbr)", video)
        self.rate = Fraction(rate[1]) * (1000 if rate[2] else 1) if rate else DEFAULT_FOLDER_RATE
        duration = re.search(r"Duration: (\d+):(\d+):([\d.]+)", log)
        self._duration = int(duration[1]) * 3600 + int(duration[2]) * 60 + float(duration[3]) if duration else None

    def expected(self, part: Part) -> int | None:
        """About how many frames :meth:`frames` will give."""
        frames = None if self._duration is None else round(self._duration * self.rate)
        return part.count(frames, self.rate)

    def identity(self) -> dict[str, int]:
        """Size and time stamp."""
        stat = self._file.stat()
        return {"size": stat.st_size, "modified_ns": stat.st_mtime_ns}

    def frames(self, part: Part) -> Generator[Frame, None, None]:
        """Decode. A file that ends early gives what decodes, then raises :class:`InputError`."""
        self._reader = reader = _Reader(self._file, part)
        given = 0
        try:
            for frame in reader:
                self.rate = reader.rate
                given += 1
                yield frame
        finally:
            reader.close()
        if reader.failure:
            raise InputError(
                f"{self.path}: the video breaks off after {reader.decoded} frames ({_cause(reader.failure)})",
                "copy or record it again",
            )
        if not reader.decoded:
            raise InputError(f"{self.path}: no frame could be decoded", "check that it plays elsewhere")
        if not given:
            raise _empty_part(self.path, None if reader.over else reader.decoded)

    def interrupt(self) -> None:
        """Stop ffmpeg, which may be far from the next wanted frame."""
        if self._reader is not None:
            self._reader.stop()


def _empty_part(path: Path, frames: int | None) -> InputError:
    found = "no frame lies" if frames is None else f"it has {frames} frames, none of them"
    return InputError(f"{path}: {found} in the part asked for", "change --start or --end")


def _cause(line: str) -> str:
    """The telling end of a line of ffmpeg's log."""
    return line.rsplit(": ", 1)[-1].strip().rstrip(".")


_CONFIG = re.compile(r"config in time_base: (\d+)/(\d+), frame_rate: (\d+)/(\d+)")
_FRAME = re.compile(r" n: *(\d+) pts: *(-?\d+|NOPTS) .* s:(\d+)x(\d+) ")
_CUT_OFF = re.compile(r"\[in#0/(?!mpeg).*(\[error\]|corrupt input packet)")
"""The container breaks off: unlike an error in one frame, which decoders get over.

In MPEG streams, made to be received with gaps, a corrupt packet is nothing of the kind. They, GIF, WMV, Ogg, raw
streams and fragmented MP4 do not know their length, so ffmpeg cannot tell that they were cut."""


_MADE_FOR_GAPS = re.compile(r"Input #0, mpeg")
_CUT_OFF_WITHIN = re.compile(r"File ended prematurely|partial file|corrupt input packet|Error during demuxing")
"""The same in a line that ``showinfo`` had begun: ffmpeg's threads share the log, and then do not say who they are."""


@dataclass(frozen=True)
class _Announced:
    """A wanted frame whose pixels follow on the pipe."""

    number: int
    time: Fraction
    width: int
    height: int


class _Reader:
    """ffmpeg as an iterator of frames. Afterwards ``failure`` says what broke the file off, if anything did.

    The ``showinfo`` filter tells on standard error what no raw pixel carries: the number, the exact time stamp and
    the size of each frame, after rotation. ``select`` drops unwanted frames before they are converted, by the same
    arithmetic as :class:`_Chooser`. ``-fps_mode passthrough`` keeps variable rates as they are.
    """

    def __init__(self, path: Path, part: Part) -> None:
        self.rate = DEFAULT_FOLDER_RATE
        self.decoded = 0
        self.failure = ""
        self._chooser = _Chooser(part)
        self._time_base = Fraction(1, 1000)
        self._announced: queue.SimpleQueue[_Announced | None] = queue.SimpleQueue()
        self.over = False
        self._process = ffmpeg.start(
            [
                ffmpeg.executable(),
                *ffmpeg.BASE,
                *ffmpeg.LOCAL_ONLY,
                *("-i", ffmpeg.local(path)),
                *("-map", "0:V:0", "-vf", f"showinfo=checksum=0{_select(part)}"),
                *("-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self._listener = threading.Thread(target=self._listen, name="ffmpeg log", daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        """Read ffmpeg's log to its end; the last item on the queue is None."""
        assert self._process.stderr is not None
        cut_off, last_error, gaps = "", "", False
        for raw in self._process.stderr:
            line = raw.decode(errors="replace")
            announced = self._announce(line)
            if announced:
                last_error = ""  # the decoder got over it
            if announced or "showinfo" in line:
                if not gaps and (within := _CUT_OFF_WITHIN.search(line)):
                    cut_off = cut_off or within[0]
            elif _MADE_FOR_GAPS.search(line):
                gaps = True
            elif _CUT_OFF.search(line):
                cut_off = cut_off or ffmpeg.clean(line)
            elif ffmpeg.is_error(line):
                last_error = last_error or ffmpeg.clean(line)
        if not self.over:
            self.failure = cut_off or last_error
            self._announced.put(None)

    def _announce(self, line: str) -> bool:
        """Take in what a line tells of the frames; returns whether it is a frame.

        It need not be marked as a line of ``showinfo``: another thread of ffmpeg may have begun it.
        """
        if config := _CONFIG.search(line):
            base_num, base_den, num, den = (int(x) for x in config.groups())
            self._time_base = Fraction(base_num, base_den)
            if num and den:
                self.rate = Fraction(num, den)
        frame = _FRAME.search(line)
        if frame and not self.over:
            number, base = int(frame[1]), self._time_base
            self.decoded = number + 1
            if frame[2] == "NOPTS":
                time = number / self.rate
                seconds = float(time)
            else:
                time = int(frame[2]) * base
                seconds = int(frame[2]) * (base.numerator / base.denominator)  # as ffmpeg's select computes t
            wanted = self._chooser.wanted(number, seconds)
            if wanted:
                self._announced.put(_Announced(number, time, int(frame[3]), int(frame[4])))
            elif wanted is None:
                self.over = True
                self._announced.put(None)
        return frame is not None

    def __iter__(self) -> Iterator[Frame]:
        assert self._process.stdout is not None
        size: tuple[int, int] | None = None
        while (announced := self._announced.get()) is not None:
            # ffmpeg scales later frames to the first one's size where the stream changes.
            size = size or (announced.height, announced.width)
            rgb = np.empty((*size, 3), np.uint8)
            if not _read_into(self._process.stdout, rgb):
                break
            yield Frame(announced.number, announced.time, rgb)
        if not self.over:
            self._process.wait()
            self._listener.join()
            if announced is not None or (self._process.returncode and not self.failure):
                self.failure = self.failure or "ffmpeg ended early"

    def stop(self) -> None:
        """Stop ffmpeg; harmless when it has ended."""
        self._process.kill()

    def close(self) -> None:
        """Stop ffmpeg and let go of its pipes."""
        self.stop()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


def _select(part: Part) -> str:
    """The filters after showinfo that drop what :class:`_Chooser` does not want."""
    filters = ""
    if part.start != Position(frame=0):
        expression = f"gte(n,{part.start.frame})" if part.start.frame is not None else f"gte(t,{part.start.seconds!r})"
        filters += f",select='{expression}'"
    if part.stride > 1:
        filters += f",select='not(mod(n,{part.stride}))'"
    return filters


def _read_into(pipe, array: np.ndarray) -> bool:  # type: ignore[no-untyped-def]
    """Fill ``array`` from a pipe; False where the pipe ends before."""
    view = array.data.cast("B")
    while view:
        got = pipe.readinto(view)
        if not got:
            return False
        view = view[got:]
    return True


class ImageFolder:
    """Images in natural order: ``2.png`` comes before ``10.png``."""

    audio: Path | None = None

    def __init__(self, path: Path, rate: Fraction) -> None:
        self.path, self.rate = path, rate
        self.name = readable(path.resolve().name) or "frames"
        self._files = sorted(
            (x for x in path.iterdir() if x.suffix.lower() in IMAGE_SUFFIXES and not x.name.startswith(".")),
            key=lambda x: _natural(x.name),
        )
        if not self._files:
            raise InputError(
                f"{path}: no images in this folder",
                f"expected {', '.join(sorted(IMAGE_SUFFIXES))} files, one a frame",
            )
        # Headers only: a folder that does not fit together fails before any work is done.
        self._size = self._size_of(self._files[0])
        for file in self._files[1:]:
            size = self._size_of(file)
            if size != self._size:
                raise InputError(
                    f"{file}: is {size[0]} x {size[1]}, but {self._files[0].name} is {self._size[0]} x {self._size[1]}",
                    "all images of a folder must have one size: they are the frames of one video",
                )

    @staticmethod
    def _size_of(file: Path) -> tuple[int, int]:
        try:
            with Image.open(file) as image:
                turned = image.format in _TURNED and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
                return (image.height, image.width) if turned else image.size
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            raise _unreadable(file, error) from error

    def expected(self, part: Part) -> int | None:
        """How many frames :meth:`frames` will give."""
        return part.count(len(self._files), self.rate)

    def identity(self) -> dict[str, int]:
        """Number and total size of the images, and the newest time stamp."""
        stats = [file.stat() for file in self._files]
        return {
            "files": len(stats),
            "size": sum(s.st_size for s in stats),
            "modified_ns": max(s.st_mtime_ns for s in stats),
        }

    def frames(self, part: Part) -> Generator[Frame, None, None]:
        """Read the wanted images. Raises :class:`InputError` for one that cannot be read."""
        chooser, given = _Chooser(part), 0
        for number, file in enumerate(self._files):
            time = number / self.rate
            wanted = chooser.wanted(number, float(time))
            if wanted is None:
                break
            if wanted:
                given += 1
                try:
                    with Image.open(file) as image:
                        rgb = _rgb(image)
                except (OSError, SyntaxError, ValueError) as error:
                    raise _unreadable(file, error) from error
                yield Frame(number, time, rgb)
        if not given:
            raise _empty_part(self.path, len(self._files))

    def interrupt(self) -> None:
        """Nothing is waited for long."""


_ORIENTATION = 0x0112  # the EXIF tag
_TURNED = ("JPEG", "TIFF")  # where cameras write it; PIL would decode a whole PNG to look for it


def _rgb(image: Image.Image) -> np.ndarray:
    """Upright, (height, width, 3) uint8. Raises ``ValueError`` for pixels whose range is unknown."""
    if image.format in _TURNED:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels: save it with 8 bits")
    if image.mode.startswith("I"):  # 16 bits, which PIL would clip instead of scaling
        grey = (np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)
        return np.stack([grey] * 3, axis=-1)
    return np.array(image.convert("RGB"))


def _unreadable(file: Path, error: Exception) -> InputError:
    return InputError(f"{file}: cannot be read as an image ({error})", "replace or remove it")


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key by which numbers inside names count as numbers."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(x), x) if x.isdecimal() else (1, 0, x.lower()) for x in parts if x]
