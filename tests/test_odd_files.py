"""Files that are not what they say: a frame late in them is the one that a whole run gives, or none is lost."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import H264, HEVC, KINDS, encode, ffmpeg, number_of, numbered
from conftest import Cli
from PIL import Image
from test_images import frames as image_frames

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.video import video_file
from resurgsam2_cli.video.frames import Frame, Reading
from resurgsam2_cli.video.positions import Part, Position
from resurgsam2_cli.video.video_file import VideoFile

X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")
OPEN = "open-gop=1:keyint=8:min-keyint=8:bframes=3:scenecut=0"
MPEG2 = ("-c:v", "mpeg2video", "-q:v", "3", "-g", "8", "-bf", "2")
MPEG4 = ("-c:v", "mpeg4", "-q:v", "3", "-g", "8")
TONE = ("-f", "lavfi", "-i", "sine=frequency=300:duration=1.6")

Edit = Callable[[int, Any], Any]


def whole(path: Path, reading: Reading | None = None) -> list[Frame]:
    return list(VideoFile(path, reading=reading).frames(Part()))


def contents(frames: list[Frame]) -> list[int]:
    return [number_of(x.rgb) for x in frames]


def changed(packet: Any, data: bytes | None = None, **fields: Any) -> Any:
    """A copy of a packet with other content or times."""
    copy = av.Packet(bytes(packet) if data is None else data)
    for name in ("pts", "dts", "time_base", "is_keyframe", "duration"):
        setattr(copy, name, fields.get(name, getattr(packet, name)))
    return copy


def remux(source: Path, path: Path, edit: Edit) -> Path:
    """Write the packets of a file into another, some of them edited."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        target = new.add_stream_from_template(stream)
        for i, packet in enumerate(x for x in old.demux(stream) if x.size):
            out = edit(i, packet) or packet
            out.stream = target
            new.mux(out)
    return path


def concatenated(folder: Path, suffix: str, parts: Sequence[Path]) -> Path:
    (folder / "list.txt").write_text("".join(f"file {x.name}\n" for x in parts))
    path = folder / f"joined.{suffix}"
    ffmpeg("-f", "concat", "-i", folder / "list.txt", "-c", "copy", path)
    return path


def joined_open_groups(folder: Path, suffix: str, size: tuple[int, int] = (96, 160)) -> Path:
    """The parameters of the second recording come with its first picture only."""
    options = (*X264, "-x264-params", f"{OPEN}:cabac=0:8x8dct=0:ref=5:weightp=0")
    first = encode(folder / "p0.mp4", *H264, numbers=range(20))
    second = encode(folder / "p1.mp4", *options, numbers=range(20, 90), size=size)
    return concatenated(folder, suffix, [first, second])


def joined_mpeg2(folder: Path, suffix: str) -> Path:
    first = encode(folder / "p0.ts", *MPEG2, numbers=range(20))
    second = encode(folder / "p1.ts", *MPEG2, numbers=range(20, 90), size=(48, 80))
    return concatenated(folder, suffix, [first, second])


def zeroed(folder: Path, suffix: str) -> Path:
    """A picture in the middle is nothing but zeros."""
    vp8 = ("-c:v", "libvpx", "-deadline", "realtime", "-g", "8", "-b:v", "1M")
    source = encode(folder / f"s.{suffix}", *(vp8 if suffix == "webm" else H264), numbers=range(90))
    return remux(source, folder / f"z.{suffix}", lambda i, x: changed(x, bytes(x.size)) if i == 42 else None)


def not_coded(folder: Path, suffix: str) -> Path:
    """Pictures of MPEG-4 that say that nothing has changed."""
    source = encode(folder / "s.avi", *MPEG4, numbers=range(90))

    def picture(i: int) -> bytes:
        bits = "01" + "0" + "1" + format(i % 25, "05b") + "1" + "0" + "0"
        return b"\0\0\1\xb6" + int(bits.ljust(16, "1"), 2).to_bytes(2, "big")

    return remux(source, folder / f"n.{suffix}", lambda i, x: changed(x, picture(i)) if i in (43, 45) else None)


def late_time(folder: Path, suffix: str) -> Path:
    """One picture is to be displayed forty seconds too late."""
    source = encode(folder / f"s.{suffix}", *H264, numbers=range(90))
    return remux(source, folder / f"t.{suffix}", lambda i, x: changed(x, pts=x.pts + 512_000) if i == 42 else None)


def all_called_keys(folder: Path, suffix: str) -> Path:
    """The table of key frames is missing, so that all count as such."""
    options = {"m4.mp4": MPEG4, "m2.mp4": MPEG2, "wmv2.avi": ("-c:v", "wmv2", "-g", "60")}[suffix]
    source = encode(folder / suffix.replace("avi", "wmv"), *options, numbers=range(90))
    if suffix.endswith("avi"):
        return remux(source, folder / "keys.avi", lambda i, x: changed(x, is_keyframe=True))
    path = folder / "keys.mp4"
    path.write_bytes(source.read_bytes().replace(b"stss", b"free"))
    return path


def plain(*options: str) -> Callable[[Path, str], Path]:
    return lambda folder, suffix: encode(folder / f"p.{suffix}", *options, numbers=range(90))


ODD: dict[str, tuple[Callable[[Path, str], Path], str]] = {
    "joined, open groups, mp4": (joined_open_groups, "mp4"),
    "joined, open groups, mkv": (joined_open_groups, "mkv"),
    "joined, open groups, ts": (joined_open_groups, "ts"),
    "joined, open groups, sizes": (lambda folder, suffix: joined_open_groups(folder, suffix, (48, 80)), "mp4"),
    "joined, mpeg-2, ts": (joined_mpeg2, "ts"),
    "joined, mpeg-2, mkv": (joined_mpeg2, "mkv"),
    "joined, mpeg-2, mxf": (joined_mpeg2, "mxf"),
    "zeroed, mp4": (zeroed, "mp4"),
    "zeroed, mkv": (zeroed, "mkv"),
    "zeroed, webm": (zeroed, "webm"),
    "not coded, avi": (not_coded, "avi"),
    "not coded, mp4": (not_coded, "mp4"),
    "late time": (late_time, "mp4"),
    "all called keys, mpeg-4": (all_called_keys, "m4.mp4"),
    "all called keys, mpeg-2": (all_called_keys, "m2.mp4"),
    "all called keys, wmv2": (all_called_keys, "wmv2.avi"),
    "drawn over": (plain("-c:v", "rpza", "-g", "20"), "mov"),
    "no keys": (plain("-c:v", "flv", "-q:v", "3"), "swf"),
    "intra refresh": (plain(*X264, "-x264-params", "intra-refresh=1:keyint=10:bframes=0:scenecut=0"), "mp4"),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_late_frame_is_that_of_a_whole_run(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, suffix = ODD[kind]
    path = make(tmp_path, suffix)
    expected = whole(path)
    assert len(expected) >= 85
    times = [float(x.time) for x in expected]
    assert times == sorted(times)
    assert times[-1] < 3.7
    monkeypatch.setattr(video_file, "_NEAR", 1)
    video = VideoFile(path)
    for number in (1, 12, 30, 41, 50, 63, 77, len(expected) - 1):
        frame = video.frame(number)
        assert (frame.number, frame.time) == (number, expected[number].time)
        assert np.array_equal(frame.rgb, expected[number].rgb)


def test_recordings_appended_in_mid_group(tmp_path: Path) -> None:
    """Late frames of the first come out between those of the second: the gap between them is counted once."""
    first = encode(tmp_path / "a.ts", *H264, "-output_ts_offset", "10", numbers=range(40)).read_bytes()
    second = encode(tmp_path / "b.ts", *H264, "-output_ts_offset", "500", numbers=range(40, 140)).read_bytes()
    path = tmp_path / "both.ts"
    path.write_bytes(first + second[len(second) // 188 // 3 * 188 :])
    times = [float(x.time) for x in whole(path)]
    assert times == sorted(times)
    assert 490 < times[-1] < 500


@pytest.mark.parametrize("kind", ["avi, mpeg-4", "avi, mjpeg", "flv", "mxf"])
def test_cut_with_sound(kind: str, tmp_path: Path) -> None:
    """The file may end in the sound: that is a cut, too."""
    codecs: dict[str, tuple[str, ...]] = {
        "avi, mpeg-4": (*MPEG4, "-c:a", "pcm_s16le"),
        "avi, mjpeg": ("-c:v", "mjpeg", "-q:v", "3", "-c:a", "pcm_s16le"),
        "flv": (*H264, "-c:a", "aac"),
        "mxf": ("-c:v", "mpeg2video", "-ar", "48000", "-c:a", "pcm_s16le"),
    }
    path = encode(tmp_path / f"s.{kind[:3]}", *codecs[kind], numbers=range(40), before=TONE)
    assert contents(whole(path)) == list(range(40))
    data = path.read_bytes()
    for part in range(20, 40):
        path.write_bytes(data[: len(data) * part // 42])
        frames: list[Frame] = []
        failed = False
        try:
            frames.extend(VideoFile(path).frames(Part()))
        except InputError:
            failed = True
        assert failed or len(frames) >= (37 if kind == "flv" else 40)  # whose length is in seconds, and not exact


def test_fragments_know_no_length(tmp_path: Path) -> None:
    how = KINDS["mp4, fragmented"]
    path = encode(tmp_path / "f.mp4", *how.options, numbers=range(40))
    data = path.read_bytes()
    for part in range(8, 20):
        path.write_bytes(data[: len(data) * part // 20])
        try:
            assert contents(whole(path))
        except InputError as error:
            assert "breaks off" not in error.message


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("mov", ("-c:v", "mjpeg", "-q:v", "3")), ("mov", ("-c:v", "png")), ("mp4", HEVC), ("mp4", MPEG4)],
)
def test_empty_samples_end_nothing(suffix: str, options: tuple[str, ...], tmp_path: Path) -> None:
    """QuickTime has one for a frame that was dropped."""
    path = encode(tmp_path / f"e.{suffix}", *options, numbers=range(60))
    data = bytearray(path.read_bytes())
    sizes = data.index(b"stsz") + 16
    before, size = (struct.unpack_from(">I", data, sizes + 4 * i)[0] for i in (39, 40))
    struct.pack_into(">II", data, sizes + 4 * 39, before + size, 0)
    path.write_bytes(data)
    found = contents(whole(path))
    assert len(found) == 59
    assert found[-1] == 59


def test_orientation_that_only_some_frames_have(tmp_path: Path) -> None:
    turned = [np.ascontiguousarray(np.rot90(numbered(i))) for i in range(40)]
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "96x160", "-r", "25", "-i", "pipe:0")
    ffmpeg(*raw, *H264, tmp_path / "r.ts", frames=b"".join(x.tobytes() for x in turned))
    say = ("-c", "copy", "-bsf:v", "h264_metadata=display_orientation=insert:rotate=-90")
    ffmpeg("-i", tmp_path / "r.ts", *say, tmp_path / "o.ts")
    assert contents(whole(tmp_path / "o.ts")) == list(range(40))


@pytest.mark.parametrize("suffix", ["mjpeg", "avi", "mov"])
def test_jpeg_with_the_words_of_a_camera(suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    pictures = []
    for i in range(10):
        picture = io.BytesIO()
        Image.fromarray(numbered(i)).save(picture, "JPEG", exif=exif, quality=95)
        pictures.append(picture.getvalue())
    path = tmp_path / "e.mjpeg"
    path.write_bytes(b"".join(pictures))
    if suffix != "mjpeg":
        ffmpeg("-i", path, "-c", "copy", tmp_path / f"e.{suffix}")
    assert contents(whole(tmp_path / f"e.{suffix}")) == list(range(10))


def test_pictures_too_small_for_fields(tmp_path: Path) -> None:
    path = tmp_path / "small.nut"
    fields = ("-vf", "setfield=tff", "-c:v", "rawvideo", "-pix_fmt", "yuv420p", "-field_order", "tt")
    encode(path, *fields, numbers=range(4), size=(5, 7))
    assert len(whole(path, Reading(deinterlace=True))) == 4


def test_images_that_are_damaged(cli: Cli, tmp_path: Path) -> None:
    """Whatever Pillow raises is one line; in a batch, it costs that source alone."""
    for kind, suffix in (("TIFF", "tif"), ("MPO", "jpg"), ("PNG", "png"), ("WEBP", "webp")):
        whole_file = io.BytesIO()
        pages = {} if kind == "PNG" else {"save_all": True, "append_images": [Image.fromarray(numbered(1))]}
        Image.fromarray(numbered(0)).save(whole_file, kind, **pages)
        rng = np.random.default_rng(0)
        for _ in range(150):
            data = bytearray(whole_file.getvalue())
            for place in rng.integers(0, min(len(data), 400), 6):
                data[place] = rng.integers(256)
            path = tmp_path / f"d.{suffix}"
            path.write_bytes(data[: rng.integers(8, len(data) + 1)])
            try:
                image_frames(path)
            except InputError as error:
                assert error.message.startswith(str(path))
    source = tmp_path / "source"
    (source / "pictures").mkdir(parents=True)
    picture = io.BytesIO()
    Image.fromarray(numbered(0)).save(picture, "TIFF")
    (source / "pictures" / "0.tif").write_bytes(picture.getvalue()[:60])
    encode(source / "b.mp4", *H264)
    done = cli("batch", source, "-r", "-t", "x", "--dry-run")
    assert done.code == 1
    assert "Traceback" not in done.err


def test_samples_of_32_bits(tmp_path: Path) -> None:
    """Nobody knows which value is white."""
    Image.fromarray(np.full((8, 8), 200, np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(InputError, match="pixels of 32 bits"):
        image_frames(tmp_path / "i.tif")


def test_the_fallback_of_an_animation_is_no_frame(tmp_path: Path) -> None:
    more = [Image.fromarray(numbered(i)) for i in range(4)]
    Image.fromarray(numbered(9)).save(tmp_path / "a.png", save_all=True, append_images=more, default_image=True)
    assert contents(image_frames(tmp_path / "a.png")) == [0, 1, 2, 3]


def test_lost_pictures_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they were not even errors: of HEVC joined with other parameters, none that the decoder reports."""
    parts = [
        encode(tmp_path / f"{i}.mp4", *HEVC, numbers=range(30 * i, 30 * i + 30), size=size)
        for i, size in enumerate(((96, 160), (48, 80)))
    ]
    video = VideoFile(concatenated(tmp_path, "mp4", parts))
    given = len(list(video.frames(Part())))
    lost = 60 - given
    said = [x for x in video.warnings if "could not be decoded" in x]
    assert len(said) == (lost > 0)
    source = encode(tmp_path / "s.mp4", *H264, numbers=range(90))
    damaged = VideoFile(remux(source, tmp_path / "z.mp4", lambda i, x: changed(x, bytes(x.size)) if i == 42 else None))
    assert len(list(damaged.frames(Part()))) == 89
    assert damaged.warnings == ["1 picture could not be decoded"]
    clean = VideoFile(source)
    assert len(list(clean.frames(Part()))) == 90
    assert clean.warnings == []
    path = encode(tmp_path / "o.mp4", *X264, "-x264-params", OPEN, numbers=range(90))
    monkeypatch.setattr(video_file, "_NEAR", 1)
    late = VideoFile(path)
    assert len(list(late.frames(Part(Position(frame=44))))) == 46
    assert late.warnings == []
