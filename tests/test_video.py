"""Real encoded video: one mask per displayed frame, and an overlay that plays. Made and read back with ffmpeg."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import threading
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from clips import ffmpeg
from conftest import Cli
from PIL import Image

from resurgsam2_cli.errors import DeviceError, InputError, UsageError
from resurgsam2_cli.video.ffmpeg import executable
from resurgsam2_cli.video.positions import Part, Position
from resurgsam2_cli.video.source import open_source
from resurgsam2_cli.video.writer import Sound, VideoWriter

PICTURE = "testsrc2=size=160x120:rate=25"


def picture(path: Path, *options: str | Path, source: str = PICTURE, frames: int = 20) -> Path:
    ffmpeg("-f", "lavfi", "-i", source, "-frames:v", str(frames), *options, path)
    return path


H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")


def make(kind: str, folder: Path) -> tuple[Path, int, tuple[int, int]]:
    """Make a file of a kind; return how many frames it shows, and their height and width."""
    path, frames, size = folder / "clip.mp4", 20, (120, 160)
    if kind == "constant":
        picture(path, *H264)
    elif kind == "fraction":
        picture(path, *H264, source="testsrc2=size=160x120:rate=30000/1001")
    elif kind == "variable":
        # Shown at 0, 1, 4, 9, 16, ... fiftieths of a second.
        picture(path, *H264, "-vf", "settb=1/50,setpts=N*N", "-fps_mode", "passthrough", frames=12)
        frames = 12
    elif kind == "rotated":
        upright = picture(folder / "upright.mp4", *H264)
        ffmpeg("-display_rotation", "90", "-i", upright, "-c", "copy", path)
        size = (160, 120)
    elif kind == "odd":
        picture(path, "-c:v", "libx264", "-pix_fmt", "yuv444p", source="testsrc=size=97x81:rate=25")
        size = (81, 97)
    elif kind == "10 bit":
        picture(path, "-c:v", "libx264", "-pix_fmt", "yuv420p10le")
    elif kind == "audio":
        sound = ("-f", "lavfi", "-i", "sine=frequency=300:duration=0.8", "-c:a", "aac")
        ffmpeg("-f", "lavfi", "-i", PICTURE, *sound, "-frames:v", "20", *H264, path)
    elif kind == "one frame":
        picture(path, *H264, frames=1)
        frames = 1
    elif kind == "few hundred":
        picture(path, *H264, frames=300)
        frames = 300
    elif kind == "b-frames, late start":
        picture(path, *H264, "-bf", "3", "-output_ts_offset", "0.2")
    elif kind in ("mov", "mkv", "avi"):
        path = picture(folder / f"clip.{kind}", *H264)
    elif kind == "webm":
        path = picture(folder / "clip.webm", "-c:v", "libvpx", "-deadline", "realtime")
    elif kind == "gif":
        path = picture(folder / "clip.gif")
    else:
        raise AssertionError(kind)
    return path, frames, size


KINDS = [
    "constant",
    "fraction",
    "variable",
    "rotated",
    "odd",
    "10 bit",
    "audio",
    "one frame",
    "few hundred",
    "b-frames, late start",
    "mov",
    "mkv",
    "avi",
    "webm",
    "gif",
]


def decoded(path: Path) -> tuple[list[float], tuple[int, int], Fraction, str]:
    """Presentation times, (height, width), frame rate and the log of a video, straight from ffmpeg."""
    command = [executable(), "-hide_banner", "-nostdin", "-i", str(path), "-vf", "showinfo=checksum=0"]
    command += ["-fps_mode", "passthrough", "-f", "null", "-"]
    log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    times = [float(x) for x in re.findall(r" pts_time:([\d.]+)", log)]
    width, height = re.findall(r" s:(\d+)x(\d+) ", log)[0]
    num, den = re.findall(r"frame_rate: (\d+)/(\d+)", log)[0]
    return times, (int(height), int(width)), Fraction(int(num), int(den)), log


@pytest.mark.parametrize("kind", KINDS)
def test_every_displayed_frame_gets_a_mask(kind: str, cli: Cli, small_weights: Path, tmp_path: Path) -> None:
    path, frames, (height, width) = make(kind, tmp_path)
    done = cli("segment", path, "-t", "left grasper", "--weights", small_weights, "--json")
    assert done.code == 0, done.err
    record = json.loads(done.out)
    times, _, rate, _ = decoded(path)
    assert len(times) == frames
    assert (record["source"]["frames"], record["source"]["height"], record["source"]["width"]) == (
        frames,
        height,
        width,
    )
    assert Fraction(record["source"]["frame_rate"]) == rate
    lines = [json.loads(x) for x in Path("runs/clip/frames.jsonl").read_text().splitlines()]
    assert [x["frame"] for x in lines] == list(range(frames))
    assert [x["time"] for x in lines] == pytest.approx(times, abs=1e-5)
    masks = sorted(Path("runs/clip/masks").iterdir())
    assert [x.name for x in masks] == [f"{i:05d}.png" for i in range(frames)]
    assert {Image.open(x).size for x in masks} == {(width, height)}

    shown, size, shown_rate, log = decoded(Path("runs/clip/overlay.mp4"))
    assert len(shown) == frames
    assert size == (height + height % 2, width + width % 2)
    # The overlay begins with its first frame; times are true to a tick of the source's container.
    assert shown == pytest.approx([t - times[0] for t in times], abs=1.1e-3)
    if kind not in ("variable", "one frame"):  # a rate is guessed for these
        assert abs(shown_rate - rate) < Fraction(1, 1000)
    assert ("Audio: aac" in log) == (kind == "audio")
    assert "yuv420p" in log


def test_file_and_decoded_frames_give_the_same(cli: Cli, small_weights: Path, video: Path) -> None:
    Path("frames").mkdir()
    ffmpeg("-i", video, "-start_number", "0", "frames/%05d.png")
    run = ("-t", "left grasper", "--weights", small_weights, "--quiet")
    assert cli("segment", video, *run).code == 0
    assert cli("segment", "frames", *run).code == 0
    for image in Path("runs/clip/masks").iterdir():
        assert image.read_bytes() == (Path("runs/frames/masks") / image.name).read_bytes()
    ours, theirs = (
        [json.loads(x)["objects"] for x in Path(f"runs/{name}/frames.jsonl").read_text().splitlines()]
        for name in ("clip", "frames")
    )
    assert ours == theirs


def numbers(source: Path, start: str = "0", end: str | None = None, stride: int = 1) -> list[int]:
    part = Part(Position.parse(start), Position.parse(end) if end else None, stride)
    with open_source(str(source)) as opened:
        return [frame.number for frame in opened.frames(part)]


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_parts(kind: str, tmp_path: Path) -> None:
    if kind == "video":
        source = picture(tmp_path / "clip.mp4", *H264, frames=50)
    else:
        source = tmp_path / "frames"
        source.mkdir()
        for i in range(50):
            Image.new("RGB", (8, 8)).save(source / f"{i}.png")
    assert numbers(source) == list(range(50))
    assert numbers(source, "10", "20") == list(range(10, 20))
    assert numbers(source, "10", "20", 4) == [10, 14, 18]
    assert numbers(source, stride=7) == list(range(0, 50, 7))
    assert numbers(source, "0.4s", "0.8s") == list(range(10, 20))
    assert numbers(source, "0.41s", "0:00.8", 3) == [11, 14, 17]
    assert numbers(source, "0:01", stride=10) == [25, 35, 45]
    assert numbers(source, end="3") == [0, 1, 2]
    assert numbers(source, "45", "500") == list(range(45, 50))
    with pytest.raises(InputError, match="50 frames, none of them"):
        numbers(source, "50")
    with pytest.raises(InputError, match="50 frames, none of them"):
        numbers(source, "1:00")


def test_pixels_of_a_part_belong_to_its_numbers(tmp_path: Path) -> None:
    source = picture(tmp_path / "clip.mp4", *H264, frames=30)
    with open_source(str(source)) as opened:
        whole = {f.number: f.rgb for f in opened.frames(Part())}
        part = list(opened.frames(Part(Position(seconds=0.3), Position(frame=25), 3)))
    assert [f.number for f in part] == [8, 11, 14, 17, 20, 23]
    for frame in part:
        assert np.array_equal(frame.rgb, whole[frame.number])


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("120", Position(frame=120)),
        ("12.5s", Position(seconds=12.5)),
        (".5s", Position(seconds=0.5)),
        ("1:02:03", Position(seconds=3723)),
        ("1:30.5", Position(seconds=90.5)),
        ("90:00", Position(seconds=5400)),
        ("0:59:59.9", Position(seconds=3599.9)),
        ("99:59:59", Position(seconds=359999)),
        ("150s", Position(seconds=150)),
    ],
)
def test_positions(text: str, position: Position) -> None:
    assert Position.parse(text) == position


@pytest.mark.parametrize("text", ["", "-1", "1.5", "abc", "1:", "s", "1:2:3:4", "1e3s", "0:60", "1:60:00", "0:99:99"])
def test_no_positions(text: str) -> None:
    with pytest.raises(UsageError):
        Position.parse(text)


@pytest.mark.parametrize("name", ["-i.mp4", "a%05d b.mp4", 'it\'s: "x".mp4', "concat:a|b.mp4", "http:a.mp4"])
def test_names_are_taken_literally(name: str, tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(video.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert numbers(Path(name)) == list(range(24))
    writer = VideoWriter(Path(f"out {name}"), 10, 10, Fraction(25), sound=Sound(Path(name)))
    writer.write(np.zeros((10, 10, 3), np.uint8), Fraction(0))
    writer.close()
    assert len(decoded(tmp_path / f"out {name}")[0]) == 1


def test_playlists_do_not_reach_the_network(tmp_path: Path) -> None:
    """A server counts requests: without the guard, ffmpeg makes one."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        playlist = tmp_path / "list.m3u8"
        playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}/a.ts\n#EXT-X-ENDLIST\n")
        with pytest.raises(InputError):
            numbers(playlist)
        assert asked == []
        # The same without the guard: the server would have got a request.
        command = [executable(), "-hide_banner", "-protocol_whitelist", "file,http,tcp", "-i", str(playlist)]
        subprocess.run(command, capture_output=True, check=False, timeout=60)
        assert asked
    finally:
        server.shutdown()
        server.server_close()


def test_images_in_natural_order(tmp_path: Path) -> None:
    for i, name in enumerate(["f1.png", "f2.JPG", "f10.bmp", "g1.tif", "g02.webp"]):
        Image.new("RGB", (4, 4), (i * 40, i * 40, i * 40)).save(tmp_path / name)
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    with open_source(str(tmp_path)) as source:
        values = [int(f.rgb[0, 0, 0]) for f in source.frames(Part())]
    assert values == pytest.approx([0, 40, 80, 120, 160], abs=3)


def test_grey_palette_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    for i, mode in enumerate(["L", "P", "RGBA", "1"]):
        Image.new(mode, (4, 4)).save(tmp_path / f"{i}.png")
    with open_source(str(tmp_path)) as source:
        assert [f.rgb.shape for f in source.frames(Part())] == [(4, 4, 3)] * 4


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi"])
def test_a_truncated_file_gives_what_decodes_then_an_error(suffix: str, tmp_path: Path) -> None:
    header_first = ("-movflags", "+faststart") if suffix in ("mp4", "mov") else ()
    whole = picture(tmp_path / f"whole.{suffix}", *H264, *header_first, frames=60)
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    given = 0
    with open_source(str(cut)) as source, pytest.raises(InputError, match="breaks off after") as error:
        for _ in source.frames(Part()):
            given += 1
    assert 5 < given < 60
    assert f"after {given} frames" in error.value.message


def test_overlay_sound_follows_the_part(cli: Cli, small_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    sound = ("-f", "lavfi", "-i", "sine=frequency=300:duration=4", "-c:a", "aac")
    ffmpeg("-f", "lavfi", "-i", PICTURE, *sound, "-frames:v", "100", *H264, path)
    run = ("-t", "kidney", "--weights", small_weights, "--start", "1s", "--end", "2s", "--stride", "5")
    assert cli("segment", path, *run).code == 0
    times, _, rate, log = decoded(Path("runs/clip/overlay.mp4"))
    assert times == pytest.approx([0, 0.2, 0.4, 0.6, 0.8], abs=1e-3)
    assert rate == 5
    duration = re.search(r"Duration: 00:00:(\d+\.\d+)", log)
    assert duration is not None
    assert float(duration[1]) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("damage", ["head", "middle"])
def test_memory_that_runs_out_is_not_the_fault_of_the_file(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libav fails for want of memory as it does for damage; whether there is some is found out by asking for it."""
    path = tmp_path / "a.mp4"
    picture = "testsrc2=size=160x120:rate=25"
    ffmpeg("-f", "lavfi", "-i", picture, "-frames:v", "30", "-g", "10", "-pix_fmt", "yuv420p", path)
    content = bytearray(path.read_bytes())
    begin = 0 if damage == "head" else content.index(b"mdat") + 3000
    content[begin : begin + 2000] = bytes(2000)
    path.write_bytes(content)

    def read() -> int:
        with open_source(path) as source:
            return sum(1 for _ in source.frames(Part()))

    if damage == "head":
        with pytest.raises(InputError, match="cannot be read as a video"):
            read()
    else:
        assert read() > 10

    def refused(*arguments: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", refused)
    with pytest.raises(DeviceError, match=r"a\.mp4: there is not enough memory to read it"):
        read()
