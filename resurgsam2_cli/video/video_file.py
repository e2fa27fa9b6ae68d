"""A video file: probed and decoded by ffmpeg as a program."""

from __future__ import annotations

import queue
import re
import subprocess
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.process.interruption import stop_process
from resurgsam2_cli.video import ffmpeg
from resurgsam2_cli.video.frames import DEFAULT_FOLDER_RATE, Frame, content_sum, digits_for, empty_part, safe_name
from resurgsam2_cli.video.positions import Chooser, Part, Position

_SHORT = 2**20
"""Bytes. A smaller file does not have a hundred thousand frames."""


class VideoFile:
    """Anything that ffmpeg reads."""

    def __init__(self, path: Path, shown: Path | None = None, name: str | None = None) -> None:
        self.path = shown or path
        self.name = name or safe_name(path.stem, "video")
        self._file = path.absolute()
        self.audio: Path | None = None
        self._reader: _Reader | None = None
        self._probe()

    def _probe(self) -> None:
        """Read the header. Raises :class:`InputError` if the file is not a video."""
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
        return part.count(self._length(), self.rate)

    def _length(self) -> int | None:
        """About how many frames the header promises."""
        return None if self._duration is None else round(self._duration * self.rate)

    def _digits(self) -> int:
        """The digits of frame names. If a stream does not tell its length, count it first, without decoding it."""
        frames = self._length()
        if frames is None and self._file.stat().st_size > _SHORT:
            frames = ffmpeg.count_packets(self._file)
        return digits_for(frames)

    def identity(self) -> dict[str, Any]:
        """``size`` and ``sum``. Raises :class:`InputError`."""
        try:
            return {"size": self._file.stat().st_size, "sum": content_sum([self._file])}
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})", "check the file") from error

    def frames(self, part: Part) -> Generator[Frame, None, None]:
        """Decode the wanted frames. A file that ends early yields what decodes, then raises :class:`InputError`."""
        digits = self._digits()
        self._reader = reader = _Reader(self._file, part, digits)
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
            raise empty_part(self.path, None if reader.over else reader.decoded)

    def interrupt(self) -> None:
        """Stop ffmpeg, which may be far from the next wanted frame."""
        if self._reader is not None:
            self._reader.stop()


def _cause(line: str) -> str:
    """The telling end of a line of ffmpeg's log."""
    return line.rsplit(": ", 1)[-1].strip().rstrip(".")


_CONFIG = re.compile(r"config in time_base: (\d+)/(\d+), frame_rate: (\d+)/(\d+)")
_FRAME = re.compile(r" n: *(\d+) pts: *(-?\d+|NOPTS) .* s:(\d+)x(\d+) ")
_CUT_OFF = re.compile(r"\[in#0/(?!mpeg).*(\[error\]|corrupt input packet)")
"""The container breaks off. Decoders recover from an error in one frame, but not from this.

MPEG streams are made to be received with gaps, so a corrupt packet does not mean that there. They, GIF, WMV, Ogg, raw
streams and fragmented MP4 do not know their length, so ffmpeg cannot tell that they were cut."""


_MADE_FOR_GAPS = re.compile(r"Input #0, mpeg")
_CUT_OFF_WITHIN = re.compile(r"File ended prematurely|partial file|corrupt input packet|Error during demuxing")
"""The same in a line that ``showinfo`` began: ffmpeg's threads share the log, and then do not say who they are."""


@dataclass(frozen=True)
class _Announced:
    """A wanted frame whose pixels follow on the pipe."""

    number: int
    time: Fraction
    width: int
    height: int


class _Reader:
    """ffmpeg as an iterator of frames. Afterwards ``failure`` says what broke the file off, if anything did.

    The ``showinfo`` filter prints on standard error what raw pixels lack: the number, the exact time stamp and
    the size of each frame, after rotation. ``select`` drops unwanted frames before they are converted, by the same
    arithmetic as :class:`Chooser`. ``-fps_mode passthrough`` keeps variable rates as they are.
    """

    def __init__(self, path: Path, part: Part, digits: int = 5) -> None:
        self._digits = digits
        self.rate = DEFAULT_FOLDER_RATE
        self.decoded = 0
        self.failure = ""
        self._chooser = Chooser(part)
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
                last_error = ""  # the decoder recovered
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
        """Take in what a line says about the frames; return whether it announces one.

        The line need not be marked as one of ``showinfo``: another thread of ffmpeg may have begun it.
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
            # If the stream changes size, ffmpeg scales later frames to the first one's.
            size = size or (announced.height, announced.width)
            rgb = np.empty((*size, 3), np.uint8)
            if not _read_into(self._process.stdout, rgb):
                break
            yield Frame(announced.number, f"{announced.number:0{self._digits}d}", announced.time, rgb)
        if not self.over:
            self._process.wait()
            self._listener.join()
            if announced is not None or (self._process.returncode and not self.failure):
                self.failure = self.failure or "ffmpeg ended early"

    def stop(self) -> None:
        """Stop ffmpeg; harmless if it has ended."""
        stop_process(self._process)

    def close(self) -> None:
        """Stop ffmpeg and let go of its pipes."""
        self.stop()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


def _select(part: Part) -> str:
    """The filters after showinfo that drop what :class:`Chooser` does not want."""
    filters = ""
    if part.start != Position(frame=0):
        expression = f"gte(n,{part.start.frame})" if part.start.frame is not None else f"gte(t,{part.start.seconds!r})"
        filters += f",select='{expression}'"
    if part.stride > 1:
        filters += f",select='not(mod(n,{part.stride}))'"
    return filters


def _read_into(pipe, array: np.ndarray) -> bool:  # type: ignore[no-untyped-def]
    """Fill ``array`` from a pipe; False if the pipe ends first."""
    view = array.data.cast("B")
    while view:
        got = pipe.readinto(view)
        if not got:
            return False
        view = view[got:]
    return True
