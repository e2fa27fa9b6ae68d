"""H.264 out: frames with their true times, and the sound of the source."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np

from resurgsam2_cli.errors import OutputError
from resurgsam2_cli.process.interruption import start_process, stop_process
from resurgsam2_cli.video import ffmpeg

if sys.platform == "linux":
    import fcntl

_NANOSECOND = 10**9
_PIPE = 2**20  # bytes: what Linux lets any user have


@dataclass(frozen=True)
class Sound:
    """The first sound track of a file, or a part of it."""

    path: Path
    start: Fraction = Fraction(0)
    """Seconds."""
    length: Fraction | None = None
    """Seconds; None for all there is."""


class VideoWriter:
    """Encodes RGB frames as H.264, yuv420p, faststart, each shown at the time it is given.

    ffmpeg reads raw video at a constant rate only, so the frames travel in Matroska (a few bytes around each), which
    carries a time for every one: variable rates come out as they went in. Odd sizes are padded by one pixel of edge
    colour, never rescaled.

    ``pixel_aspect`` is the width of a displayed pixel over its height. ``comment`` is kept in the file.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        rate: Fraction,
        *,
        sound: Sound | None = None,
        pixel_aspect: Fraction = Fraction(1),
        comment: str = "",
    ) -> None:
        self._pad = (height % 2, width % 2)
        self._rate = rate
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close)
        scale = -(-10_000 // rate.numerator)  # ticks of at most 0.1 ms, in which the rate is exact
        timescale = rate.numerator * scale
        heard: list[str] = []
        if sound is not None:
            length = ["-t", f"{float(sound.length):.6f}"] if sound.length is not None else []
            start = ["-ss", f"{float(sound.start):.6f}"]
            heard = [*ffmpeg.LOCAL_ONLY, *start, *length, "-i", ffmpeg.local(sound.path)]
        command = [
            ffmpeg.executable(),
            *ffmpeg.BASE,
            "-y",
            *("-f", "matroska", "-i", "pipe:0"),
            *heard,
            *("-map", "0:v", *(("-map", "1:a:0", "-c:a", "aac") if sound else ())),
            *("-fps_mode", "passthrough", "-enc_time_base", f"1:{timescale}"),
            # Players guess the standard of untagged video by its size: say which it is.
            *("-vf", f"scale=out_color_matrix=bt709:out_range=tv,setsar={pixel_aspect}", "-colorspace", "bt709"),
            *("-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"),
            # Half the time of veryfast at 20, for nearly its quality (SSIM 0.987, not 0.988) in files a seventh larger.
            *("-c:v", "libx264", "-preset", "superfast", "-crf", "22", "-pix_fmt", "yuv420p"),
            *("-video_track_timescale", str(timescale), "-movflags", "+faststart"),
            *(("-metadata", f"comment={comment}") if comment else ()),
            *("-f", "mp4", ffmpeg.local(path)),
        ]
        self._path = path
        self._process = start_process(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._log)
        _widen(self._process.stdin)
        self._send(_matroska_header(height + self._pad[0], width + self._pad[1], rate))

    def write(self, rgb: np.ndarray, time: Fraction) -> None:
        """Add a frame (height, width, 3) uint8, shown from ``time`` in seconds after the first one's 0."""
        if any(self._pad):
            rgb = np.pad(rgb, ((0, self._pad[0]), (0, self._pad[1]), (0, 0)), mode="edge")
        self._send(_matroska_cluster(round(time * _NANOSECOND), rgb.nbytes))
        self._send(np.ascontiguousarray(rgb).data.cast("B"))

    def _send(self, data: bytes | memoryview) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
        except (BrokenPipeError, OSError):
            self.close()  # raises with ffmpeg's own words
            raise

    def close(self) -> None:
        """Finish the file. Raises :class:`OutputError` if ffmpeg could not write it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        code = self._process.wait()
        self._log.seek(0)
        log = [ffmpeg.clean(line) for line in self._log.read().decode(errors="replace").splitlines()]
        self._log.close()
        if code:
            cause = next((line for line in log if line), "ffmpeg failed")
            raise OutputError(
                f"{self._path.name}: cannot be written ({cause})", "make room on the disk, or write elsewhere with -o"
            )

    def interrupt(self) -> None:
        """From another thread: kill the encoder, so that a ``write`` that waits for it fails."""
        stop_process(self._process)

    def abort(self) -> None:
        """Stop encoding; the file is not usable."""
        stop_process(self._process)
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._log.close()


def _widen(pipe: IO[bytes] | None) -> None:
    """Let a pipe hold more than Linux's 64 KiB, of which a frame has dozens: fewer turns for writer and reader."""
    if pipe is not None and sys.platform == "linux":
        with contextlib.suppress(OSError):  # a user's pipes may hold only so much together
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)


def _element(identifier: str, payload: bytes) -> bytes:
    """An EBML element with an eight-byte size."""
    return bytes.fromhex(identifier) + b"\x01" + len(payload).to_bytes(7, "big") + payload


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def _matroska_header(height: int, width: int, rate: Fraction) -> bytes:
    """The start of a live Matroska stream with one track of raw RGB frames, times in nanoseconds."""
    video = _element("B0", _number(width)) + _element("BA", _number(height)) + _element("2EB524", b"RGB\x18")
    track = (
        _element("D7", _number(1))  # number
        + _element("73C5", _number(1))  # unique id
        + _element("83", _number(1))  # type: video
        + _element("23E383", _number(round(_NANOSECOND / rate)))  # duration of a frame: of the last one, too
        + _element("86", b"V_UNCOMPRESSED")
        + _element("E0", video)
    )
    return (
        _element("1A45DFA3", _element("4282", b"matroska"))
        + bytes.fromhex("18538067")  # a segment of unknown length
        + b"\x01\xff\xff\xff\xff\xff\xff\xff"
        + _element("1549A966", _element("2AD7B1", _number(1)))
        + _element("1654AE6B", _element("AE", track))
    )


def _matroska_cluster(nanoseconds: int, size: int) -> bytes:
    """A cluster of one frame, up to where its pixels begin."""
    time = _element("E7", _number(nanoseconds))
    block = bytes.fromhex("A3") + b"\x01" + (4 + size).to_bytes(7, "big") + b"\x81\x00\x00\x80"
    return bytes.fromhex("1F43B675") + b"\x01" + (len(time) + len(block) + size).to_bytes(7, "big") + time + block
