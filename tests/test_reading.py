"""Every frame once, under its number, at its time, upright: in all containers and kinds that recorders make."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from av.video.frame import VideoFrame
from clips import H264, KINDS, PARTS, Clip, encode, evenly, ffmpeg, joined, make, number_of
from conftest import Cli

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.video import video_file
from resurgsam2_cli.video.decoding import Decoder
from resurgsam2_cli.video.ffmpeg import executable
from resurgsam2_cli.video.frames import Frame, Reading
from resurgsam2_cli.video.positions import Part, Position
from resurgsam2_cli.video.source import open_source
from resurgsam2_cli.video.video_file import VideoFile


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Clip]:
    """The clip of a kind, made once."""
    folder, made = tmp_path_factory.mktemp("clips"), dict[str, Clip]()

    def get(kind: str) -> Clip:
        if kind not in made:
            made[kind] = make(kind, folder / str(len(made)))
        return made[kind]

    return get


@pytest.fixture
def always_seeks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever does not begin with the first frame is reached by seeking."""
    monkeypatch.setattr(video_file, "_NEAR", 1)


def read(path: Path, start: int | str = 0, end: int | str | None = None, stride: int = 1) -> list[Frame]:
    part = Part(Position.parse(str(start)), None if end is None else Position.parse(str(end)), stride)
    return list(VideoFile(path).frames(part))


def check(frames: list[Frame], clip: Clip, expected: range) -> None:
    """Number, time, size and content of frames."""
    assert [x.number for x in frames] == list(expected)
    assert [number_of(x.rgb) for x in frames] == list(expected)
    assert {x.rgb.shape[:2] for x in frames} == {clip.size}
    times = [float(x.time) for x in frames]
    assert times == sorted(times)
    assert times == pytest.approx([float(clip.times[i]) for i in expected], abs=clip.tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_whole(kind: str, clip: Callable[[str], Clip]) -> None:
    made = clip(kind)
    check(read(made.path), made, range(made.frames))


@pytest.mark.usefixtures("always_seeks")
@pytest.mark.parametrize("kind", KINDS)
def test_parts_frames_and_spans(kind: str, clip: Callable[[str], Clip]) -> None:
    """Whatever way leads to a frame, it is the same, to the last bit and with the same time."""
    made = clip(kind)
    whole = read(made.path)
    last = made.frames - 1

    def check_same(frames: list[Frame], expected: range) -> None:
        assert [x.number for x in frames] == list(expected)
        for x in frames:
            assert x.time == whole[x.number].time
            assert np.array_equal(x.rgb, whole[x.number].rgb)

    video = VideoFile(made.path)
    for number in sorted({0, last // 4, (last + 2) // 2, last - 1, last} - {-1, last + 1}):
        check_same([video.frame(number)], range(number, number + 1))
    check_same(read(made.path, 0, None, 7), range(0, made.frames, 7))
    if last:
        check_same(read(made.path, 11, 24), range(11, 24))
        check_same(read(made.path, 9, None, 5), range(9, made.frames, 5))
        check_same(read(made.path, 8, 22, 3), range(8, 22, 3))
        middle = whole[13].time
        check_same(read(made.path, f"{float(middle):.6f}s" if middle else "0s", 20)[-3:], range(17, 20))
    with pytest.raises(InputError, match=rf"it has {made.frames} frames?, none of them"):
        read(made.path, made.frames)


SURE = [x for x in KINDS if x not in ("avi, h264", "gif", "raw h264", "raw hevc", "ps", "alpha")]


@pytest.mark.parametrize("kind", SURE)
def test_late_frames_are_reached_by_seeking(kind: str, clip: Callable[[str], Clip]) -> None:
    """What these containers cannot be asked is decoded from the start: AVI and raw streams have no times, and so on."""
    video = VideoFile(clip(kind).path)
    assert video.index(lambda: None).sure


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "avi", "ts", "h264", "flv"])
@pytest.mark.parametrize("change", PARTS)
def test_recordings_joined(change: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in mid-stream does not start the count again; what is of another size is scaled, and said."""
    made = joined(change, suffix, tmp_path)
    if suffix == "avi":
        made = Clip(made.path, [x + Fraction(2, 25) for x in made.times])
    video = VideoFile(made.path)
    whole = list(video.frames(Part()))
    check(whole, made, range(32))
    assert video.facts["scaled_frames"] == (20 if change == "size" else 0)
    assert any("scaled to 160 x 96" in x for x in video.warnings) == (change == "size")
    for x in whole:  # the colours of the original, whatever the file says of its own
        assert x.rgb[10:30, 10:30].mean((0, 1)) == pytest.approx((200, 40, 40), abs=12)
    monkeypatch.setattr(video_file, "_NEAR", 1)
    for part in (range(5, 8), range(10, 15), range(14, 20), range(30, 32)):
        for x in read(made.path, part.start, part.stop):
            assert np.array_equal(x.rgb, whole[x.number].rgb)
    assert [x.number for x in read(made.path, 0, None, 10)] == [0, 10, 20, 30]


def test_recordings_appended(tmp_path: Path) -> None:
    """Files that were written one behind the other: times do not start again, and numbers neither."""
    parts = [encode(tmp_path / f"{i}.ts", *H264, numbers=range(15 * i, 15 * i + 15)) for i in range(2)]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(x.read_bytes() for x in parts))
    check(read(path), Clip(path, evenly(), tolerance=0.05), range(30))
    (late,) = read(path, 20, 21)
    assert number_of(late.rgb) == 20


def test_tags_are_data(tmp_path: Path) -> None:
    tag = "comment= n: 0 pts: 0 a s:32x24 b"
    path = encode(tmp_path / "clip.mkv", *H264, "-metadata", tag, "-metadata:s:v", f"title={tag}")
    check(read(path), Clip(path, evenly()), range(30))


def test_the_default_stream_is_read(tmp_path: Path) -> None:
    first = encode(tmp_path / "a.mkv", *H264, numbers=range(500, 530), size=(48, 80))
    second = encode(tmp_path / "b.mkv", *H264)
    both = tmp_path / "both.mkv"
    chosen = ("-disposition:v:0", "0", "-disposition:v:1", "default")
    ffmpeg("-i", first, "-i", second, "-map", "0", "-map", "1", "-c", "copy", *chosen, both)
    check(read(both), Clip(both, evenly()), range(30))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_cover_art_is_no_video(suffix: str, tmp_path: Path) -> None:
    cover = encode(tmp_path / "cover.png", numbers=[7], size=(48, 80))
    video = encode(tmp_path / f"plain.{suffix}", *H264)
    both = tmp_path / f"both.{suffix}"
    if suffix == "mp4":
        kept = ("-i", video, "-map", "0", "-map", "1", "-c", "copy", "-disposition:v:0", "attached_pic")
        ffmpeg("-i", cover, *kept, both)
    else:
        attached = ("-attach", cover, "-metadata:s:t", "mimetype=image/png", "-metadata:s:t", "filename=cover.png")
        ffmpeg("-i", video, "-c", "copy", *attached, both)
    check(read(both), Clip(both, evenly()), range(30))


UNSTATED = ("-bsf:v", "h264_metadata=matrix_coefficients=2")


@pytest.mark.parametrize(
    ("size", "options", "matrix", "stated"),
    [
        ((480, 640), UNSTATED, "bt601", False),
        ((720, 1280), ("-vf", "scale=out_color_matrix=bt709", *UNSTATED), "bt709", False),
        ((480, 640), ("-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709"), "bt709", True),
        ((720, 1280), ("-vf", "scale=out_color_matrix=bt601", "-colorspace", "smpte170m"), "bt601", True),
        ((720, 1280), ("-vf", "scale=out_color_matrix=bt2020", "-colorspace", "bt2020nc"), "bt2020", True),
        ((480, 640), ("-vf", "scale=out_range=full", "-color_range", "pc"), "bt601", False),
    ],
)
def test_colors(size: tuple[int, int], options: tuple[str, ...], matrix: str, stated: bool, tmp_path: Path) -> None:
    """The matrix that the file states; where it does not, BT.709 for HD, as players do."""
    path = encode(tmp_path / "clip.mp4", *H264, "-crf", "10", *options, numbers=range(3), size=size)
    video = VideoFile(path)
    for frame in video.frames(Part()):
        assert frame.rgb[20:60, 20:60].mean((0, 1)) == pytest.approx((200, 40, 40), abs=4)
        assert frame.rgb[20:60, -60:-20].mean((0, 1)) == pytest.approx((40, 40, 200), abs=4)
    assert (video.facts["color_matrix"], video.facts["color_matrix_stated"]) == (matrix, stated)


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    """Masks keep the pixels that the file has; an overlay is displayed in the same shape."""
    path = encode(tmp_path / "clip.mp4", *H264, "-vf", "setsar=2")
    video = VideoFile(path)
    assert {x.rgb.shape[:2] for x in video.frames(Part())} == {(96, 160)}
    assert video.pixel_aspect == 2


def test_deinterlacing_keeps_the_count(clip: Callable[[str], Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    made = clip("mts")
    plain = VideoFile(made.path)
    whole = list(plain.frames(Part()))
    assert any("--deinterlace" in x for x in plain.warnings)
    video = VideoFile(made.path, reading=Reading(deinterlace=True))
    smooth = list(video.frames(Part()))
    check(smooth, made, range(30))
    assert video.warnings == []
    assert any(not np.array_equal(x.rgb, y.rgb) for x, y in zip(whole, smooth, strict=True))
    monkeypatch.setattr(video_file, "_NEAR", 1)
    for number in (1, 9, 16, 29):
        assert np.array_equal(video.frame(number).rgb, smooth[number].rgb)


def test_deinterlacing_leaves_progressive_frames_alone(clip: Callable[[str], Clip]) -> None:
    whole = read(clip("mp4").path)
    smooth = VideoFile(clip("mp4").path, reading=Reading(deinterlace=True)).frames(Part())
    assert all(np.array_equal(x.rgb, y.rgb) for x, y in zip(whole, smooth, strict=True))


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4", "concat.mp4", "a%05d.png", "a%05d.mp4", "movie.sdp"])
def test_a_source_names_no_others(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    other = encode(tmp_path / "other.ts", *H264)
    shutil.copy(encode(tmp_path / "picture.png", numbers=[1]), tmp_path / "a00001.png")
    shutil.copy(other, tmp_path / "a00001.mp4")
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\nother.ts\n#EXT-X-ENDLIST\n"
    contents = {"list.m3u8": playlist, "list.mp4": playlist, "concat.mp4": "ffconcat version 1.0\nfile other.ts\n"}
    Path(name).write_text(contents.get(name, "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"))
    with pytest.raises(InputError, match="cannot be read as"), open_source(name) as source:
        list(source.frames(Part()))


MAY_KNOW = {"flv", "variable, flv", "mp4, fragmented", "mxf"}
"""Their lengths are known in places: a cut inside of a tag or a fragment can be told, a cut between two cannot."""


@pytest.mark.parametrize("kind", KINDS)
def test_cut_anywhere(kind: str, clip: Callable[[str], Clip], tmp_path: Path) -> None:
    """What decodes is kept, with the right numbers, and no more; then an error, if the cut can be told."""
    made = clip(kind)
    data = made.path.read_bytes()
    before = 0
    for twentieth in range(1, 20):
        path = tmp_path / f"cut{made.path.suffix}"
        path.write_bytes(data[: len(data) * twentieth // 20])
        frames: list[Frame] = []
        failed = False
        try:
            frames.extend(VideoFile(path).frames(Part()))
        except InputError as error:
            failed = True
            assert error.message.startswith(str(path))
        assert [x.number for x in frames] == list(range(len(frames)))
        assert before - 1 <= len(frames) <= made.frames
        before = len(frames)
        whole = frames[:-2]  # pictures between the last two may be lost, and half of the last one of an endless stream
        assert [number_of(x.rgb) for x in whole] == list(range(len(whole)))
        if made.knows_length and len(frames) < made.frames:
            assert failed
        elif frames and not made.knows_length and kind not in MAY_KNOW:
            assert not failed


def test_a_decoder_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "clip.mp4", *H264)
    released = threading.Event()

    class Stuck(Decoder):
        def frames(self) -> Iterator[VideoFrame]:
            for i, frame in enumerate(super().frames()):
                if i == 5:
                    released.wait(60)
                yield frame

    monkeypatch.setattr(video_file, "Decoder", Stuck)
    monkeypatch.setattr(video_file, "PATIENCE", 0.5)
    frames = VideoFile(path).frames(Part())
    begin = time.monotonic()
    with pytest.raises(InputError, match="has not answered for"):
        list(frames)
    assert time.monotonic() - begin < 30
    released.set()


def test_errors_at_the_end_cost_only_what_is_damaged(tmp_path: Path) -> None:
    """Threads of a decoder tell of an error late: the frames behind it must come out all the same."""
    path = encode(tmp_path / "clip.mkv", *H264, "-x264-params", "keyint=8:min-keyint=8:scenecut=0:threads=1")
    data = bytearray(path.read_bytes())
    for place in range(len(data) - 700, len(data) - 600):
        data[place] ^= 0x5A
    damaged = tmp_path / "damaged.mkv"
    damaged.write_bytes(data)
    log_of_ffmpeg = tmp_path / "frames.rgb"
    ffmpeg("-i", damaged, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", log_of_ffmpeg)
    expected = log_of_ffmpeg.stat().st_size // (96 * 160 * 3)
    video = VideoFile(damaged)
    given = 0
    try:
        for _ in video.frames(Part()):
            given += 1
    except InputError:
        pass
    assert given >= expected


TONE_OF_A_SECOND = ("-f", "lavfi", "-i", "sine=frequency=300:duration=1")


@pytest.mark.parametrize("kind", ["avi", "mov"])
def test_sound_that_cannot_be_decoded(kind: str, cli: Cli, small_weights: Path, tmp_path: Path) -> None:
    """It costs the overlay its sound, with a word; never the masks."""
    path = tmp_path / f"clip.{kind}"
    if kind == "avi":  # the format tag of the sound, in its header
        encode(path, "-c:v", "mpeg4", "-c:a", "mp2", before=TONE_OF_A_SECOND)
        data = bytearray(path.read_bytes())
        place = data.index(b"strf", data.index(b"auds")) + 8
        data[place : place + 2] = b"\x77\x77"
    else:
        encode(path, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "pcm_s16le", before=TONE_OF_A_SECOND)
        data = bytearray(path.read_bytes().replace(b"sowt", b"apac"))
    path.write_bytes(data)
    done = cli("segment", path, "-t", "x", "--weights", small_weights)
    assert done.code == 0, done.err
    assert "note: the sound cannot be decoded" in done.err
    assert len(list(Path("runs/clip/masks").iterdir())) == 30
    log = subprocess.run([executable(), "-i", "runs/clip/overlay.mp4"], capture_output=True, text=True, check=False)
    assert "Video: h264" in log.stderr
    assert "Audio" not in log.stderr


def test_what_is_said_of_a_source(cli: Cli, small_weights: Path, tmp_path: Path) -> None:
    """In run.json, at the end of a run, and in the table of a batch."""
    path = joined("size", "mkv", tmp_path / "joined").path
    said = "20 frames of another size than the first scaled to 160 x 96"
    done = cli("segment", path, "-t", "x", "--weights", small_weights, "--no-overlay")
    assert done.code == 0
    assert f"note: {said}" in done.err
    record = json.loads(Path("runs/joined/run.json").read_text())
    assert record["warnings"] == [said]
    assert record["source"]["scaled_frames"] == 20
    batch = cli("batch", path, "-t", "x", "--weights", small_weights, "--no-overlay", "-o", "b", "--json")
    assert json.loads(batch.out)["videos"][0]["note"] == said


def test_deinterlacing_is_a_setting(cli: Cli, clip: Callable[[str], Clip], small_weights: Path) -> None:
    batch = ("batch", clip("mts").path, "-t", "x", "--weights", small_weights, "--no-overlay")
    assert cli(*batch).code == 0
    settings = json.loads(Path("runs/clip/run.json").read_text())["settings"]
    assert settings["deinterlace"] is False
    changed = cli(*batch, "--deinterlace")
    assert changed.code == 1
    assert "deinterlace False, now True" in " ".join(changed.err.split())
    record = json.loads(Path("runs/clip/run.json").read_text())
    del record["settings"]["deinterlace"]  # as older versions wrote it
    Path("runs/clip/run.json").write_text(json.dumps(record))
    assert cli(*batch).code == 0


def test_large_video_on_request(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mkv", *H264)
    with pytest.raises(InputError, match="is 160 x 96 pixels, more than is safe to open"):
        list(VideoFile(path, reading=Reading(most_pixels=10000)).frames(Part()))


def test_decoded_frames_do_not_pile_up(tmp_path: Path) -> None:
    """Cycles of references would keep them until Python looks for cycles: gigabytes of large pictures."""
    path = encode(tmp_path / "clip.mkv", *H264, numbers=range(120))

    def held() -> int:
        return sum(isinstance(x, VideoFrame) for x in gc.get_objects())

    gc.collect()
    gc.disable()
    others = held()
    try:
        for deinterlace in (False, True):
            for frame in VideoFile(path, reading=Reading(deinterlace=deinterlace)).frames(Part()):
                if frame.number == 100:
                    assert held() - others < 25
    finally:
        gc.enable()


def test_damaged_files(small_weights: Path, tmp_path: Path) -> None:
    """A sample of ``python -m benchmarks.damaged``: in time, in an error line or a whole run, and nothing else."""
    command = [sys.executable, "-m", "benchmarks.damaged", "--count", "25", "--seed", "7", "--only", " "]
    command += ["--weights", str(small_weights), "--keep", str(tmp_path / "kept")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "findings: 0" in done.stdout
