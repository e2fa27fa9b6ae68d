"""Replacing some frames of an overlay: the others stay what they were, bit for bit, and nothing moves in time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import ffmpeg, number_of, numbered
from killing import every_kill

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.kinds import is_partial_name
from resurgsam2_cli.process.interruption import start_process
from resurgsam2_cli.video.ffmpeg import executable
from resurgsam2_cli.video.marks import OVERLAY, holds_mark
from resurgsam2_cli.video.splicing import Groups, NotSpliceable, Part, groups_of, splice
from resurgsam2_cli.video.writer import Sound, VideoWriter

RATE = Fraction(30000, 1001)
NEW = 512
"""Added to the numbers that new pictures show."""


@dataclass(frozen=True)
class Form:
    """How an overlay is written."""

    frames: int = 300
    size: tuple[int, int] = (96, 160)
    rate: Fraction = RATE
    pixel_aspect: Fraction = Fraction(1)
    is_variable: bool = False
    sound: str = ""

    def times(self) -> list[Fraction]:
        steps = [Fraction(1 + 2 * (i % 3 == 1) + 5 * (i % 40 == 39)) / self.rate for i in range(self.frames)]
        steady = [i / self.rate for i in range(self.frames)]
        return [sum(steps[:i], Fraction(0)) for i in range(self.frames)] if self.is_variable else steady


FORMS = {
    "constant": Form(),
    "variable": Form(is_variable=True),
    "sound": Form(sound="sine", rate=Fraction(25)),
    "sound with chapters": Form(sound="chapters", is_variable=True),
    "odd": Form(size=(97, 161)),
    "stretched pixels": Form(pixel_aspect=Fraction(16, 15), rate=Fraction(24)),
    "fine ticks": Form(rate=Fraction(1000000, 33333)),
    "one frame": Form(frames=1),
    "two frames": Form(frames=2),
    "five frames": Form(frames=5, is_variable=True),
}


def write(path: Path, form: Form, sound: Sound | None = None) -> Path:
    """Write frames that show their number, with a change of scene (x264 begins a group there) at some of them."""
    writer = VideoWriter(path, *form.size, form.rate, sound=sound, pixel_aspect=form.pixel_aspect, comment=OVERLAY)
    for i, time in enumerate(form.times()):
        writer.write(shown(i, form), time)
    writer.close()
    return path


def code(number: int) -> int:
    """What a frame shows: its number, all bits turned over in every second scene of 47 frames."""
    return number ^ (NEW * 2 - 1) * (number % NEW // 47 % 2)


def shown(number: int, form: Form) -> np.ndarray:
    """A frame with its number in it. With the bits, x264 sees another scene, and begins a group."""
    return numbered(code(number), form.size)


@pytest.fixture(scope="module")
def overlays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("overlays")
    tone, chapters = folder / "tone.m4a", folder / "chapters.m4a"
    ffmpeg("-f", "lavfi", "-i", "sine=frequency=300:duration=14", "-c:a", "aac", tone)
    text = "[CHAPTER]\nTIMEBASE=1/1000\nSTART={}\nEND={}\ntitle={}\n"
    (folder / "chapters.txt").write_text(";FFMETADATA1\n" + text.format(0, 4000, "a") + text.format(4000, 9000, "b"))
    ffmpeg("-i", tone, "-i", folder / "chapters.txt", "-map_chapters", "1", "-c", "copy", chapters)
    sounds = {"": None, "sine": Sound(tone), "chapters": Sound(chapters, Fraction(1, 3), Fraction(10))}
    return {name: write(folder / f"{name}.mp4", form, sounds[form.sound]) for name, form in FORMS.items()}


def pictures(span: range, form: Form) -> Iterator[np.ndarray]:
    return (shown(x + NEW, form) for x in span)


def spliced(old: Path, new: Path, form: Form, changed: list[int]) -> list[range]:
    groups = groups_of(old)
    spans = groups.around(changed)
    splice(groups, new, ((x, pictures(x, form)) for x in spans), form.rate)
    return spans


@dataclass(frozen=True)
class Content:
    """What a file has in it."""

    header: dict[str, Any]
    frames: list[np.ndarray]
    packets: list[tuple[Any, ...]]
    """Of the video: the time stamp of decoding, the duration and the data."""
    pts: list[int]
    """In order of display."""
    sound: list[tuple[Any, ...]]


def content(path: Path) -> Content:
    with av.open(str(path)) as file:
        (video,), others = file.streams.video, list(file.streams)[1:]
        assert video.index == 0
        tags = {x: y for x, y in file.metadata.items() if x != "encoder"}  # libav's version
        header: dict[str, Any] = {
            "file": (tags, file.chapters(), file.duration),
            "video": (video.time_base, video.frames, video.duration, video.start_time, video.metadata),
            "picture": (video.codec_context.extradata, video.sample_aspect_ratio, video.average_rate),
            "colours": [getattr(video.codec_context, f"color_{x}") for x in ("range", "trc", "primaries")],
            "others": [(x.type, x.time_base, x.frames, x.duration, x.start_time, x.metadata) for x in others],
        }
        packets: list[tuple[Any, ...]] = []
        sound: list[tuple[Any, ...]] = []
        for packet in file.demux(video, *file.streams.audio):
            if packet.dts is None:
                continue
            entry = (packet.pts, packet.dts, packet.duration, bytes(packet), packet.is_keyframe)
            (packets if packet.stream_index == video.index else sound).append(entry)
    with av.open(str(path)) as file:
        frames = [(x.pts, x.to_ndarray(), x.rotation) for x in file.decode(video=0)]
    header["rotation"] = {x[2] for x in frames}
    return Content(
        header, [x[1] for x in frames], [x[1:] for x in packets], [x[0] for x in frames if x[0] is not None], sound
    )


def rgb(yuv: np.ndarray) -> np.ndarray:
    return av.VideoFrame.from_ndarray(yuv, "yuv420p").to_ndarray(format="rgb24")


def complaints(path: Path) -> str:
    """What ffmpeg's decoder says of a file."""
    command = [executable(), "-hide_banner", "-v", "error", "-xerror", "-i", str(path), "-f", "null", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode or done.stderr else ""


def box(path: Path, name: bytes) -> bytes:
    """The first box of a name in the header."""
    data = path.read_bytes()
    at = data.index(name)
    return data[at : at - 4 + int.from_bytes(data[at - 4 : at], "big")]


def check(old_path: Path, new_path: Path, form: Form, spans: list[range]) -> None:
    """All that must hold of a spliced file."""
    old, new = content(old_path), content(new_path)
    replaced = {x for span in spans for x in span}
    assert new.header == old.header
    assert box(new_path, b"tkhd") == box(old_path, b"tkhd")
    assert new.pts == old.pts
    assert len(new.frames) == len(old.frames) == form.frames
    assert new.sound == old.sound
    assert [x[:2] for x in new.packets] == [x[:2] for x in old.packets]
    for i, frame in enumerate(new.frames):
        if i in replaced:
            assert number_of(rgb(frame)) == code(i + NEW)
        else:
            assert np.array_equal(frame, old.frames[i]), i
            assert new.packets[i] == old.packets[i]  # in whole groups, numbers in decoding are those in display
    assert complaints(new_path) == ""
    assert holds_mark(new_path)
    data = new_path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("name", FORMS)
def test_some_groups_are_replaced(name: str, overlays: dict[str, Path], tmp_path: Path) -> None:
    form, old, new = FORMS[name], overlays[name], tmp_path / "new.mp4"
    before = old.read_bytes()
    changed = sorted({0, form.frames // 2, min(form.frames // 2 + 1, form.frames - 1), form.frames - 1})
    spans = spliced(old, new, form, changed)
    if form.frames > 5:
        assert len(spans) > 1
        assert sum(map(len, spans)) < form.frames
    check(old, new, form, spans)
    assert old.read_bytes() == before
    assert list(tmp_path.iterdir()) == [new]


CHANGES = {
    "first": [0],
    "last": [299],
    "a single one": [150],
    "everything": list(range(300)),
    "nothing": [],
    "several": [1, 100, 101, 299],
}


@pytest.mark.parametrize("name", ["constant", "sound with chapters"])
@pytest.mark.parametrize("change", CHANGES)
def test_where_frames_are_replaced(name: str, change: str, overlays: dict[str, Path], tmp_path: Path) -> None:
    form, new = FORMS[name], tmp_path / "new.mp4"
    spans = spliced(overlays[name], new, form, CHANGES[change])
    assert all(any(x in span for span in spans) for x in CHANGES[change])
    if change == "everything":
        assert spans == [range(300)]
    check(overlays[name], new, form, spans)


def test_a_spliced_file_is_spliced_again(overlays: dict[str, Path], tmp_path: Path) -> None:
    form, first, second = FORMS["constant"], tmp_path / "first.mp4", tmp_path / "second.mp4"
    spans = spliced(overlays["constant"], first, form, [10])
    more = spliced(first, second, form, [250])
    check(overlays["constant"], second, form, spans + more)


def test_groups() -> None:
    groups = Groups(Path("x"), [0, 10, 20, 35], np.arange(50))
    assert groups.around([]) == []
    assert groups.around([9]) == [range(10)]
    assert groups.around([49, 10]) == [range(10, 20), range(35, 50)]
    assert groups.around(iter([34, 10, 20])) == [range(10, 35)]
    for number in (-1, 50):
        with pytest.raises(IndexError):
            groups.around([number])


def test_groups_are_found(overlays: dict[str, Path]) -> None:
    """They begin where frames can be decoded by themselves: by PyAV, from a seek on."""
    groups = groups_of(overlays["constant"])
    assert groups.starts[0] == 0
    assert len(groups.starts) > 4
    assert groups.pts.tolist() == [i * 1001 for i in range(300)]
    whole = content(overlays["constant"]).frames
    with av.open(str(overlays["constant"])) as file:
        for start in groups.starts:
            file.seek(int(groups.pts[start]), stream=file.streams.video[0])
            frame = next(file.decode(video=0))
            assert frame.pts == groups.pts[start]
            assert np.array_equal(frame.to_ndarray(), whole[start])


def test_rotation_is_kept(overlays: dict[str, Path], tmp_path: Path) -> None:
    turned, new = tmp_path / "turned.mp4", tmp_path / "new.mp4"
    ffmpeg("-display_rotation", "90", "-i", overlays["constant"], "-c", "copy", "-movflags", "+faststart", turned)
    spans = spliced(turned, new, FORMS["constant"], [100])
    assert content(turned).header["rotation"] != {0}
    check(turned, new, FORMS["constant"], spans)


def test_how_long_the_last_frame_lasts(overlays: dict[str, Path], tmp_path: Path) -> None:
    """It is kept, though it is not the rate's."""
    longer, new = tmp_path / "longer.mp4", tmp_path / "new.mp4"
    rule = r"setts=pts=PTS:dts=DTS:duration=if(eq(N\,299)\,5*DURATION\,DURATION)"
    ffmpeg("-i", overlays["constant"], "-c", "copy", "-bsf:v", rule, "-movflags", "+faststart", longer)
    assert content(longer).packets[-1][1] == 5005
    spans = spliced(longer, new, FORMS["constant"], [299])
    check(longer, new, FORMS["constant"], spans)


# --- What is refused ---------------------------------------------------------------------------------------------


def with_setting(monkeypatch: pytest.MonkeyPatch, option: str, value: str) -> None:
    """Let the writer call ffmpeg with an option of its own changed, or added before the output."""

    def started(command: list[str], **options: Any) -> Any:
        return start_process([*command[:-3], option, value, *command[-3:]], **options)

    monkeypatch.setattr("resurgsam2_cli.video.writer.start_process", started)


@pytest.mark.parametrize("setting", [("-profile:v", "baseline"), ("-bf", "0"), ("-crf", "30"), ("-level", "5.1")])
def test_other_parameter_sets_are_refused(
    setting: tuple[str, str], overlays: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another ffmpeg or x264 may write them."""
    with_setting(monkeypatch, *setting)
    with pytest.raises(NotSpliceable, match="encodes in another way") as error:
        spliced(overlays["constant"], tmp_path / "new.mp4", FORMS["constant"], [100])
    assert "anew" in error.value.hint
    assert not list(tmp_path.iterdir())


def test_times_that_do_not_fit_are_refused(overlays: dict[str, Path], tmp_path: Path) -> None:
    """A file whose packets were all given one time for decoding and display."""
    path = tmp_path / "times.mp4"
    ffmpeg("-i", overlays["constant"], "-c", "copy", "-bsf:v", "setts=pts=DTS:dts=DTS", path)
    with pytest.raises(NotSpliceable, match="times"):
        spliced(path, tmp_path / "new.mp4", FORMS["constant"], [100])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("form", [Form(size=(96, 176)), Form(rate=Fraction(25))], ids=["size", "rate"])
def test_pictures_of_another_size_or_rate_are_refused(form: Form, overlays: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(NotSpliceable, match="encodes in another way"):
        spliced(overlays["constant"], tmp_path / "new.mp4", form, [100])
    assert not list(tmp_path.iterdir())


def test_open_groups_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_setting(monkeypatch, "-x264-params", "open-gop=1:keyint=24:scenecut=0")
    path = write(tmp_path / "open.mp4", Form())
    with pytest.raises(NotSpliceable, match="stand alone"):
        groups_of(path)


def test_groups_that_begin_without_an_idr_frame_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without B-frames, times do not show that a group is open."""
    with_setting(monkeypatch, "-x264-params", "intra-refresh=1:keyint=24:bframes=0")
    path = write(tmp_path / "open.mp4", Form())
    with pytest.raises(NotSpliceable, match="stand alone"):
        groups_of(path)


def test_parameter_sets_among_the_frames_are_refused(overlays: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "repeated.mp4"
    ffmpeg("-i", overlays["constant"], "-c", "copy", "-bsf:v", "h264_mp4toannexb", path)
    with pytest.raises(NotSpliceable, match="stand alone"):
        groups_of(path)


REMUXED = {
    "no mark": ("-map_metadata", "-1"),
    "sound first": ("-map", "0:a", "-map", "0:v"),
    "other codec": ("-c:v", "mpeg4"),
    "two videos": ("-map", "0:v", "-map", "0:v", "-map", "0:a"),
}


@pytest.mark.parametrize("kind", REMUXED)
def test_what_another_program_changed_is_refused(kind: str, overlays: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "changed.mp4"
    ffmpeg("-i", overlays["sound"], "-c", "copy", *REMUXED[kind], path)
    with pytest.raises(NotSpliceable, match="not an overlay" if kind == "no mark" else "another program"):
        groups_of(path)


@pytest.mark.parametrize("name", ["constant", "sound", "sound with chapters"])
@pytest.mark.parametrize("missing", [1, 100, 0.1, 0.5, 0.95])
def test_a_file_that_was_cut_is_refused(name: str, missing: float, overlays: dict[str, Path], tmp_path: Path) -> None:
    data, path = overlays[name].read_bytes(), tmp_path / "cut.mp4"
    path.write_bytes(data[: -int(missing if missing >= 1 else missing * len(data))])
    with pytest.raises(NotSpliceable):
        groups_of(path)


@pytest.mark.parametrize("name", ["constant", "sound"])
def test_a_file_that_was_cut_between_packets_is_refused(name: str, overlays: dict[str, Path], tmp_path: Path) -> None:
    with av.open(str(overlays[name])) as file:
        last = max((x for x in file.demux() if x.dts is not None), key=lambda x: x.pos or 0)
        assert last.stream.type == ("audio" if name == "sound" else "video")
        size = last.size
    path = tmp_path / "cut.mp4"
    path.write_bytes(overlays[name].read_bytes()[:-size])
    with pytest.raises(NotSpliceable, match="cut off"):
        groups_of(path)


def test_a_file_that_does_not_begin_with_a_group_is_refused(overlays: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "headless.mp4"
    ffmpeg("-i", overlays["constant"], "-c", "copy", "-bsf:v", "noise=drop=eq(n\\,0)", path)
    with pytest.raises(NotSpliceable, match="stand alone"):
        groups_of(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    with pytest.raises(NotSpliceable):
        groups_of(path)
    path.write_bytes(b"\0\0\0\x30moov" + OVERLAY.encode().ljust(40))
    assert holds_mark(path)
    with pytest.raises(NotSpliceable):
        groups_of(path)


def test_wrong_parts_are_errors(overlays: dict[str, Path], tmp_path: Path) -> None:
    groups, form, new = groups_of(overlays["constant"]), FORMS["constant"], tmp_path / "new.mp4"
    first, second, *_, last = groups.starts
    end = range(last, 300)
    wrong: list[list[Part]] = [
        [(range(first, second - 1), pictures(range(first, second - 1), form))],
        [(range(1, second), pictures(range(1, second), form))],
        [(range(0), pictures(range(0), form))],
        [(end, pictures(end, form)), (range(second), pictures(range(second), form))],
        [(end, pictures(end, form)), (end, pictures(end, form))],
        [(end, pictures(range(last + 1, 300), form))],
        [(end, pictures(range(last, 301), form))],
        [(end, iter(()))],
    ]
    for parts in wrong:
        with pytest.raises(ValueError, match=r"groups|shorter|longer"):
            splice(groups, new, parts, form.rate)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("the source is gone")], ids=["Ctrl-C", "source"])
def test_a_failing_picture_leaves_nothing(
    error: BaseException, overlays: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders: list[subprocess.Popen[bytes]] = []

    def started(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        encoders.append(start_process(command, **options))
        return encoders[-1]

    monkeypatch.setattr("resurgsam2_cli.video.writer.start_process", started)

    def failing() -> Iterator[np.ndarray]:
        yield shown(0, FORMS["sound"])
        raise error

    groups = groups_of(overlays["sound"])
    with pytest.raises(type(error)) as raised:
        splice(groups, tmp_path / "new.mp4", [(groups.around([100])[0], failing())], FORMS["sound"].rate)
    assert raised.value is error  # it is not taken for one of the overlay
    assert [x.returncode is not None for x in encoders] == [True]
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_is_an_error(overlays: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys\nfrom fractions import Fraction\nfrom pathlib import Path\n"
        "from resurgsam2_cli.errors import OutputError\n"
        "from resurgsam2_cli.video.splicing import groups_of, splice\n"
        "groups = groups_of(Path(sys.argv[1]))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000))\n"
        "try:\n    splice(groups, Path(sys.argv[2]), [], Fraction(25))\n"
        "except OutputError as error:\n    print(error.message)\n"
    )
    command = [sys.executable, "-c", code, str(overlays["sound"]), str(tmp_path / "new.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "cannot be written" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_kill_leaves_only_what_is_named_unfinished(overlays: dict[str, Path], tmp_path: Path) -> None:
    form = FORMS["five frames"]
    steps = 0

    def work(folder: Path) -> None:
        spliced(overlays["five frames"], folder / "new.mp4", form, [2])

    for folder in every_kill(lambda _: None, work, tmp_path / "work"):
        assert all(is_partial_name(x.name) for x in folder.iterdir())
        spans = spliced(overlays["five frames"], folder / "new.mp4", form, [2])
        check(overlays["five frames"], folder / "new.mp4", form, spans)
        assert [x.name for x in folder.iterdir()] == ["new.mp4"]
        steps += 1
    assert steps >= 3
