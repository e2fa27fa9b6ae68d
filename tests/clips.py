"""Encoded video whose frames carry their number in their pixels, in every container and kind that recorders make."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from resurgsam2_cli.video.ffmpeg import executable

BITS = 10
SIZE = (96, 160)
"""Height and width of a frame."""


def numbered(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A frame (height, width, 3) uint8: its number in ten blocks below, red top left, blue top right, the rest grey."""
    height, width = size
    rgb = np.full((height, width, 3), 110, np.uint8)
    rgb[: height // 2, : width // 4] = (200, 40, 40)
    rgb[: height // 2, -(width // 4) :] = (40, 40, 200)
    for bit in range(BITS):
        left, right = (width * x // (BITS // 2) for x in (bit % 5, bit % 5 + 1))
        top, bottom = (height // 2 + height * x // 4 for x in (bit // 5, bit // 5 + 1))
        rgb[top:bottom, left:right] = 235 if number >> bit & 1 else 20
    return rgb


def number_of(rgb: np.ndarray) -> int:
    """The number in a frame of any size. Raises ``AssertionError`` if the frame is broken, or not upright."""
    height, width, _ = rgb.shape

    def mean(top: float, left: float) -> np.ndarray:
        y, x = int(height * top), int(width * left)
        return rgb[y - height // 24 : y + height // 24 + 1, x - width // 40 : x + width // 40 + 1].mean((0, 1))

    red, blue = mean(1 / 4, 1 / 8), mean(1 / 4, 7 / 8)
    if abs(red - red.mean()).max() > 20:  # else it is a grey picture, whose sides cannot be told apart by colour
        assert red[0] > red[2] + 50, "not upright"
        assert blue[2] > blue[0] + 50, "not upright"
    number = 0
    for bit in range(BITS):
        value = mean(1 / 2 + 1 / 8 + bit // 5 / 4, (bit % 5 + 0.5) / 5).mean()
        assert not 95 < value < 155, f"block {bit} is {value:.0f}"
        number |= int(value > 127) << bit
    return number


def ffmpeg(*arguments: str | Path, frames: bytes | None = None) -> None:
    """Run ffmpeg to make a test file."""
    command = [executable(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, input=frames)


def encode(
    path: Path,
    *options: str | Path,
    numbers: Sequence[int] = range(30),
    rate: str = "25",
    size: tuple[int, int] = SIZE,
    before: Sequence[str | Path] = (),
) -> Path:
    """Encode numbered frames; ``before`` are further inputs."""
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[1]}x{size[0]}", "-r", rate, "-i", "pipe:0")
    ffmpeg(*raw, *before, *options, path, frames=b"".join(numbered(x, size).tobytes() for x in numbers))
    return path


@dataclass(frozen=True)
class Clip:
    """An encoded file, and what must come out of it."""

    path: Path
    times: list[Fraction]
    """Seconds of the frames that are displayed, numbered from 0 in their pixels."""
    size: tuple[int, int] = SIZE
    tolerance: float = 0.0011
    """Seconds: the tick of the container."""
    knows_length: bool = False
    """Whether a part of the file can be told from the whole."""

    @property
    def frames(self) -> int:
        return len(self.times)


def evenly(frames: int = 30, rate: Fraction = Fraction(25)) -> list[Fraction]:
    return [i / rate for i in range(frames)]


H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "8", "-bf", "2")
HEVC = ("-c:v", "libx265", "-pix_fmt", "yuv420p", "-x265-params", "keyint=8:bframes=2:log-level=error")
TONE = ("-f", "lavfi", "-i", "sine=frequency=300:duration={}")
PAL = ("-vf", "scale=720:576:flags=neighbor,setsar=1", "-pix_fmt", "yuv420p")
PAL_SIZE = (576, 720)
"""DV and D-10 know no other size."""


@dataclass(frozen=True)
class Kind:
    """How to make a clip."""

    suffix: str
    options: tuple[str, ...] = H264
    size: tuple[int, int] = SIZE
    shown: tuple[int, int] | None = None
    """The size of a displayed frame, if that is another one."""
    rate: str = "25"
    frames: int = 30
    before: tuple[str, ...] = ()
    knows_length: bool = False
    tolerance: float = 0.0011
    then: Callable[[Path, Path], object] | None = field(default=None, compare=False)
    """Makes the file, the second path, from what was encoded, the first."""
    times: Callable[[], list[Fraction]] | None = field(default=None, compare=False)


def _remux(*options: str, before: tuple[str, ...] = ()) -> Callable[[Path, Path], object]:
    return lambda whole, path: ffmpeg(*before, "-i", whole, "-c", "copy", *options, path)


def _tone(seconds: float) -> tuple[str, ...]:
    return tuple(x.format(seconds) for x in TONE)


def _interlaced(*options: str) -> tuple[str, ...]:
    return ("-vf", "setfield=tff", "-flags", "+ildct+ilme", *options)


VARIABLE = "settb=1/1000,setpts='if(lt(N,15),N*66,990+(N-15)*33)'"
UNEVEN = [Fraction(i * 66 if i < 15 else 990 + (i - 15) * 33, 1000) for i in range(30)]
PASS = ("-fps_mode", "passthrough", "-enc_time_base", "1:1000")

KINDS: dict[str, Kind] = {
    "mp4": Kind("mp4", (*H264, "-movflags", "+faststart"), knows_length=True),
    "mp4, 30000/1001": Kind("mp4", (*H264, "-movflags", "+faststart"), rate="30000/1001", knows_length=True),
    "mp4, fragmented": Kind("mp4", (*H264, "-movflags", "+frag_keyframe+empty_moov")),
    "mov": Kind("mov", (*H264, "-movflags", "+faststart"), knows_length=True),
    "mkv": Kind("mkv", knows_length=True),
    "webm": Kind("webm", ("-c:v", "libvpx", "-deadline", "realtime", "-g", "8", "-b:v", "1M"), knows_length=True),
    "webm, vp9": Kind(
        "webm", ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-g", "8", "-b:v", "1M"), knows_length=True
    ),
    "avi": Kind("avi", ("-c:v", "mpeg4", "-q:v", "3", "-g", "8"), knows_length=True),
    "avi, h264": Kind("avi", knows_length=True, times=lambda: [x + Fraction(2, 25) for x in evenly()]),  # of decoding
    "avi, mjpeg": Kind("avi", ("-c:v", "mjpeg", "-q:v", "3"), knows_length=True),
    "flv": Kind("flv", (*H264, "-f", "flv")),
    "ts": Kind("ts"),
    "ps": Kind("mpg", ("-c:v", "mpeg2video", "-q:v", "3", "-g", "8", "-bf", "2"), tolerance=0.1),  # of ffmpeg's writer
    "mpeg-1": Kind("mpeg", ("-c:v", "mpeg1video", "-q:v", "3", "-g", "8", "-bf", "2")),
    "wmv": Kind("wmv", ("-c:v", "wmv2", "-q:v", "3", "-g", "8")),
    "ogg": Kind("ogv", ("-c:v", "libtheora", "-q:v", "8", "-g", "8")),
    "gif": Kind("gif", ()),
    "mxf": Kind("mxf", ("-c:v", "mpeg2video", "-q:v", "3", "-g", "8", "-bf", "2")),
    "raw h264": Kind("h264"),
    "raw hevc": Kind("hevc", HEVC),
    "mp4, hevc": Kind("mp4", (*HEVC, "-movflags", "+faststart"), knows_length=True),
    "vob": Kind("vob", _interlaced("-c:v", "mpeg2video", "-q:v", "3", "-g", "8", "-bf", "2")),
    "mts": Kind("mts", (*H264, "-x264-params", "interlaced=1", "-f", "mpegts", "-mpegts_m2ts_mode", "1")),
    "dv": Kind("dv", ("-c:v", "dvvideo", *PAL), shown=PAL_SIZE),
    "mpeg-2, interlaced": Kind("m2v", _interlaced("-c:v", "mpeg2video", "-q:v", "3", "-g", "8", "-bf", "2")),
    "variable, mp4": Kind("mp4", (*H264, "-vf", VARIABLE, *PASS), times=lambda: UNEVEN),
    "variable, mkv": Kind("mkv", (*H264, "-vf", VARIABLE, *PASS), times=lambda: UNEVEN, knows_length=True),
    "variable, flv": Kind("flv", (*H264, "-vf", VARIABLE, *PASS), times=lambda: UNEVEN),
    "rotated": Kind("mp4", size=(160, 96), shown=(96, 160)),
    "mirrored": Kind("mp4"),
    "odd": Kind("mp4", ("-c:v", "libx264", "-pix_fmt", "yuv444p", "-g", "8"), size=(81, 97)),
    "10 bit": Kind("mkv", ("-c:v", "libx264", "-pix_fmt", "yuv420p10le", "-g", "8"), knows_length=True),
    "4:4:4": Kind("mkv", ("-c:v", "libx264", "-pix_fmt", "yuv444p", "-g", "8"), knows_length=True),
    "4:2:2": Kind("mkv", ("-c:v", "libx264", "-pix_fmt", "yuv422p", "-g", "8"), knows_length=True),
    "full range": Kind("mp4", ("-c:v", "libx264", "-pix_fmt", "yuvj420p", "-g", "8")),
    "grey": Kind("mkv", ("-c:v", "ffv1", "-pix_fmt", "gray"), knows_length=True),
    "alpha": Kind("mov", ("-c:v", "qtrle", "-pix_fmt", "argb")),
    "rgb": Kind("mkv", ("-c:v", "libx264rgb", "-pix_fmt", "rgb24", "-g", "8"), knows_length=True),
    "prores": Kind("mov", ("-c:v", "prores_ks", "-pix_fmt", "yuv422p10le", "-vendor", "apl0")),
    "edit list": Kind("mp4", then=_remux(before=("-ss", "0.32")), frames=38, times=lambda: evenly(30)),
    "negative start": Kind(
        "mp4", then=_remux("-avoid_negative_ts", "disabled", "-output_ts_offset", "-0.12"), frames=33, times=evenly
    ),
    "late start": Kind("mp4", (*H264, "-bf", "3", "-output_ts_offset", "0.2")),
    "late start, ts": Kind("ts", (*H264, "-output_ts_offset", "700")),
    "one frame": Kind("mp4", frames=1, knows_length=False),
    "sound": Kind("mp4", (*H264, "-c:a", "aac", "-movflags", "+faststart"), before=_tone(1.2), knows_length=True),
    "longer sound": Kind("mp4", (*H264, "-c:a", "aac"), before=_tone(3)),
    "shorter sound": Kind("mkv", (*H264, "-c:a", "aac"), before=_tone(0.4), knows_length=True),
    "open groups": Kind("mp4", (*H264, "-x264-params", "open-gop=1:keyint=8:min-keyint=8:bframes=3:scenecut=0")),
    "open groups, ts": Kind("ts", (*H264, "-x264-params", "open-gop=1:keyint=8:min-keyint=8:bframes=3:scenecut=0")),
    "no b-frames": Kind("mp4", ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "0", "-g", "30")),
}


def make(kind: str, folder: Path) -> Clip:
    """Make a clip of a kind of :data:`KINDS`."""
    how = KINDS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"clip.{how.suffix}"
    skipped = how.frames - len(how.times()) if how.times else 0
    numbers = range(-skipped + 1024 if skipped else 0, how.frames - skipped + (1024 if skipped else 0))
    whole = path if how.then is None else folder / f"whole.{how.suffix}"
    if kind in ("rotated", "mirrored"):
        upright = [numbered(x, how.shown or how.size) for x in range(how.frames)]
        turned = [np.rot90(x) if kind == "rotated" else x[:, ::-1] for x in upright]
        height, width = turned[0].shape[:2]
        whole = folder / "whole.mp4"
        raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", how.rate, "-i", "pipe:0")
        ffmpeg(*raw, *how.options, whole, frames=b"".join(np.ascontiguousarray(x).tobytes() for x in turned))
        change = ("-display_rotation", "-90") if kind == "rotated" else ("-display_hflip",)
        ffmpeg(*change, "-i", whole, "-c", "copy", path)
    else:
        encode(
            whole, *how.options, numbers=[x % 1024 for x in numbers], rate=how.rate, size=how.size, before=how.before
        )
        if how.then is not None:
            how.then(whole, path)
    times = how.times() if how.times else evenly(how.frames, Fraction(how.rate))
    return Clip(path, times, how.shown or how.size, how.tolerance, how.knows_length)


PARTS: dict[str, tuple[tuple[tuple[int, int], tuple[str, ...]], ...]] = {
    "size": (((96, 160), H264), ((48, 80), H264)),
    "pixel format": (((96, 160), H264), ((96, 160), ("-c:v", "libx264", "-pix_fmt", "yuv444p", "-g", "8"))),
    "range": (((96, 160), H264), ((96, 160), ("-c:v", "libx264", "-pix_fmt", "yuvj420p", "-g", "8"))),
    "matrix": (((96, 160), H264), ((96, 160), (*H264, "-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709"))),
    "aspect": (((96, 160), H264), ((96, 160), (*H264, "-vf", "setsar=2"))),
}
"""What changes where two recordings are joined: size and options of each."""


def joined(change: str, suffix: str, folder: Path) -> Clip:
    """Two recordings of 12 and 20 frames, joined without encoding them again, as recorders do at every pause."""
    folder.mkdir(parents=True, exist_ok=True)
    lengths = (12, 20)
    first = 0
    for i, ((size, options), length) in enumerate(zip(PARTS[change], lengths, strict=True)):
        encode(folder / f"part{i}.mp4", *options, numbers=range(first, first + length), size=size)
        first += length
    (folder / "list.txt").write_text("file part0.mp4\nfile part1.mp4\n")
    path = folder / f"joined.{suffix}"
    ffmpeg("-f", "concat", "-i", folder / "list.txt", "-c", "copy", path)
    return Clip(path, evenly(sum(lengths)), PARTS[change][0][0], knows_length=suffix in ("mkv", "avi"))
