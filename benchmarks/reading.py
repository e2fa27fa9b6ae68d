"""How fast video is read: an hour of 720p, decoding, and frames late in it.

    python benchmarks/reading.py [--minutes 60]

*Late* is the time to the picture of a frame from a file that nobody has read before, which makes its index, and from
one whose index is there. *Decode* is frames per second to RGB, next to the ffmpeg program that writes the same frames
into a pipe, in turns; the best of three of each. The hour is a minute repeated without encoding it again.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

from resurgsam2_cli.video.ffmpeg import executable
from resurgsam2_cli.video.positions import Part, Position
from resurgsam2_cli.video.video_file import VideoFile

_RATE = 30
_FRAMES = 900
"""That are decoded for a speed."""


def make_video(folder: Path, suffix: str, minutes: int) -> Path:
    """Repeat a minute of H.264 with noise, 1280 x 720, a key frame every 250 frames."""
    minute, path = folder / "minute.mp4", folder / f"long.{suffix}"
    command = [executable(), "-loglevel", "error", "-y"]
    if not minute.exists():
        picture = f"testsrc2=size=1280x720:rate={_RATE},noise=alls=6:allf=t"
        codec = ("-c:v", "libx264", "-preset", "superfast", "-crf", "28", "-pix_fmt", "yuv420p")
        subprocess.run([*command, "-f", "lavfi", "-i", picture, "-t", "60", *codec, str(minute)], check=True)
    loop = ("-stream_loop", str(minutes - 1), "-i", str(minute), "-c", "copy")
    subprocess.run([*command, *loop, str(path)], check=True)
    return path


def late(path: Path, number: int) -> tuple[float, float]:
    """Seconds to a frame without and with an index."""
    video = VideoFile(path)
    begin = time.perf_counter()
    video.frame(number)
    middle = time.perf_counter()
    video.frame(number)
    return middle - begin, time.perf_counter() - middle


def decoding(path: Path) -> tuple[float, float]:
    """Frames per second of this program, and of ffmpeg into a pipe."""
    ours, theirs = [], []
    for _ in range(3):
        begin = time.perf_counter()
        for _frame in VideoFile(path).frames(Part(end=Position(frame=_FRAMES))):
            pass
        ours.append(_FRAMES / (time.perf_counter() - begin))
        command = [executable(), "-loglevel", "error", "-i", str(path), "-frames:v", str(_FRAMES)]
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
        begin = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            while process.stdout.read(1280 * 720 * 3):
                pass
        theirs.append(_FRAMES / (time.perf_counter() - begin))
    return max(ours), max(theirs)


def main() -> None:
    """Print a line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=60)
    options = parser.parse_args()
    number = options.minutes * 100_000 // 60
    with tempfile.TemporaryDirectory() as name:
        for suffix in ("mp4", "mkv", "ts"):
            path = make_video(Path(name), suffix, options.minutes)
            first, again = late(path, number)
            print(
                f"{suffix}: frame {number} in {first:.2f} s, again in {again:.2f} s ({path.stat().st_size >> 20} MiB)"
            )
            if suffix == "mp4":
                ours, theirs = decoding(path)
                print(f"decode: {ours:.0f} frames/s, ffmpeg into a pipe {theirs:.0f}")
            path.unlink()


if __name__ == "__main__":
    main()
