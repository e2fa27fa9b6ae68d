"""`resurgsam2 batch`: what is found, done, skipped, tried again, and recorded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import pytest
from clips import ffmpeg
from conftest import Cli
from PIL import Image

from model import room
from resurgsam2_cli.batch.executor import EngineRequest
from resurgsam2_cli.batch.find import find_items
from resurgsam2_cli.batch.here import Here
from resurgsam2_cli.batch.items import Cut, Item, Outcome, Progress
from resurgsam2_cli.batch.job import Job
from resurgsam2_cli.batch.processes import Processes
from resurgsam2_cli.batch.standing import Asked
from resurgsam2_cli.errors import InputError
from resurgsam2_cli.prompts.files import read_prompts
from resurgsam2_cli.prompts.prompt import parse_prompts
from resurgsam2_cli.segmenting.engine import Engine
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.terminal.batch_table import BatchTable

VIDEOS = 17


def make_videos(folder: Path, count: int, frames: int = 6) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        picture = f"testsrc2=size=64x48:rate=25,hue=h={20 * i}"
        ffmpeg("-f", "lavfi", "-i", picture, "-frames:v", str(frames), "-pix_fmt", "yuv420p", folder / f"v{i:02d}.mp4")
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("batch") / "videos", VIDEOS)


def contents(out: Path) -> dict[str, str]:
    """Sums of all files. Those of records leave out times and memory, which differ from run to run."""
    found = {}
    for path in sorted(x for x in out.rglob("*") if x.is_file()):
        data = path.read_bytes()
        if path.name in ("run.json", "batch.json"):
            record = json.loads(data)
            for key in ("timing", "peak_memory_mb"):
                record.pop(key, None)
            for x in record.get("videos", []):
                x["folder"] = x["folder"] and Path(x["folder"]).name
                x["seconds"], x["state"], x["note"], x["frames"] = None, None, None, None
            if "videos" in record:
                record["videos"].sort(key=lambda x: x["source"])
            data = json.dumps(record).encode()
        found[str(path.relative_to(out))] = hashlib.sha256(data).hexdigest()
    return found


def test_broken_ones_do_not_stop_the_others(
    cli: Cli, videos: Path, small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call does no work for what is complete, and tries the others again."""
    source = tmp_path / "source"
    shutil.copytree(videos, source)
    (source / "empty.mp4").touch()
    (source / "text.mp4").write_text("not a video")
    whole = (source / "v00.mp4").read_bytes()
    (source / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    arguments = ("batch", source, "-t", "left grasper=grasper", "-t", "kidney", "--weights", small_weights, "-o", "out")
    first = cli(*arguments)
    assert first.code == 1, first.err
    record = {Path(x["source"]).name: x for x in json.loads(Path("out/batch.json").read_text())["videos"]}
    failed = {name for name, x in record.items() if x["state"] == "failed"}
    assert failed == {"empty.mp4", "text.mp4", "cut.mp4"}
    assert "the file is empty" in record["empty.mp4"]["error"]
    assert all(name in first.err for name in failed)
    assert f"{VIDEOS} done, 0 skipped, 3 failed" in first.err
    stamps = {path: path.stat().st_mtime_ns for path in Path("out").glob("*/run.json")}
    assert len(stamps) == VIDEOS

    with monkeypatch.context() as forbidden:
        forbidden.setattr("resurgsam2_cli.segmenting.pipeline.segment", lambda *_: pytest.fail("does work again"))
        second = cli(*arguments)
    assert second.code == 1
    assert f"0 done, {VIDEOS} skipped, 3 failed" in second.err
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps

    shutil.copy(source / "v00.mp4", source / "cut.mp4")
    retried = cli(*arguments, "--retry-failed", "--json")
    assert retried.code == 1
    states = {Path(x["source"]).name: x["state"] for x in json.loads(retried.out)["videos"]}
    assert states == {"cut.mp4": "done", "empty.mp4": "failed", "text.mp4": "failed"}
    assert len(json.loads(Path("out/batch.json").read_text())["videos"]) == VIDEOS + 3

    kept = cli(*arguments, "--threshold", "0.5")
    assert kept.code == 1
    assert f"0 done, 0 skipped, {VIDEOS + 1} changed, 2 failed" in kept.err
    changed = cli(*arguments, "--threshold", "0.5", "--limit", "4", "--overwrite")
    assert "2 done, 0 skipped, 2 failed" in changed.err  # in the order of names: cut, empty, text, v00
    assert "replaced: threshold 0.0, now 0.5" in changed.err
    settings = [json.loads(Path(f"out/v{i:02d}/run.json").read_text())["settings"]["threshold"] for i in (0, 1)]
    assert settings == [0.5, 0.0]
    os.utime(source / "v07.mp4", (1, 1))
    plan = cli(*arguments, "--dry-run")
    assert plan.code == 1  # something would fail, and something is not what is asked for
    assert f"{source / 'v00.mp4'}: changed: threshold 0.5, now 0.0" in plan.out
    assert f"{source / 'v07.mp4'}: complete already" in plan.out  # a new time stamp changes nothing
    assert f"{source / 'v06.mp4'}: complete already, about 6 frames" in plan.out
    assert f"{source / 'empty.mp4'}: would fail" in plan.out


def test_same_names_in_different_folders(cli: Cli, videos: Path, small_weights: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for day in ("monday", "tuesday"):
        (source / day).mkdir(parents=True)
        shutil.copy(videos / f"v0{len(day) % 2}.mp4", source / day / "op.mp4")
    (source / "frames").mkdir()
    Image.new("RGB", (32, 32)).save(source / "frames" / "1.png")
    done = cli("batch", source, "-r", "-t", "kidney", "--weights", small_weights, "-o", "out", "-q", "--no-overlay")
    assert done.code == 0, done.err
    runs = {str(x.parent.relative_to("out")) for x in Path("out").rglob("run.json")}
    assert runs == {"monday/op", "tuesday/op", "frames"}
    flat = cli("batch", *source.glob("*day/op.mp4"), "-t", "kidney", "--weights", small_weights, "-o", "flat", "-q")
    assert flat.code == 0
    assert {x.parent.name for x in Path("flat").rglob("run.json")} == {"op", "op-2"}


def test_what_is_found(videos: Path, tmp_path: Path) -> None:
    def find(*sources: str | Path) -> list[str]:
        return [x.stem for x in find_items(list(map(str, sources)), out=tmp_path / "out", recursive=False).items]

    names = find(videos)
    assert names == [f"v{i:02d}" for i in range(VIDEOS)]
    listed = tmp_path / "list.txt"
    listed.write_text(f"# comment\n{videos / 'v01.mp4'}\n\n{videos / 'v00.mp4'}\n")
    assert find(listed, videos / "v0[01].mp4") == ["v01", "v00"]
    listed.write_text("nowhere.mp4\n")
    for sources, words in (
        ([str(listed)], "line 1: nowhere.mp4"),
        ([str(tmp_path / "none.mp4")], "no such file"),
        ([str(tmp_path / "*.mkv")], "nothing matches"),
        ([str(tmp_path)], "no video was found"),
    ):
        with pytest.raises(InputError, match=words.replace("*", r"\*")):
            find_items(sources, out=tmp_path / "out", recursive=False)


def test_what_is_not_there_stops_nothing(cli: Cli, videos: Path, small_weights: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(f"{videos / 'v00.mp4'}\nnone.mp4\n{videos / 'v01.mp4'}\n")
    command = ("batch", listed, "typo.mp4", "-t", "kidney", "--weights", small_weights, "-o", "out", "--no-overlay")
    plan = cli(*command, "--dry-run")
    assert plan.code == 1
    assert f"{tmp_path / 'none.mp4'}: would fail: " in plan.out
    done = cli(*command)
    assert done.code == 1
    assert f"resurgsam2: {listed}, line 2: none.mp4: no such file or folder; it counts as a failed video" in done.err
    states = {Path(x["source"]).name: x["state"] for x in json.loads(Path("out/batch.json").read_text())["videos"]}
    assert states == {"v00.mp4": "done", "none.mp4": "failed", "v01.mp4": "done", "typo.mp4": "failed"}
    shutil.copy(videos / "v02.mp4", tmp_path / "none.mp4")
    assert cli(*command, "--retry-failed").code == 1  # the other one is still not there
    assert Path("out/none/run.json").is_file()


def test_prompt_files(cli: Cli, videos: Path, small_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text("video,text,label\nv00,left grasper,grasper\nv00.mp4,ignored,\nv00,kidney,\n")
    found = read_prompts(path).prompts_of(["v00"])
    assert [(x.text, x.label) for x in found] == [("left grasper", "grasper"), ("kidney", "kidney")]
    meta = tmp_path / "meta_expressions.json"
    rows = {str(i): {"exp": text, "obj_id": i} for i, text in enumerate(("a is b", "c", "c"))}
    meta.write_text(json.dumps({"videos": {"v01": {"frames": [], "expressions": rows}}}))
    assert [x.text for x in read_prompts(meta).prompts_of(["v01"])] == ["a is b", "c"]
    plain = tmp_path / "prompts.json"
    plain.write_text('{"v00": ["left grasper=grasper"], "v01.mp4": ["kidney"]}')
    sources = (videos / "v00.mp4", videos / "v01.mp4", videos / "v02.mp4")
    done = cli("batch", *sources, "--prompts", plain, "--weights", small_weights, "-o", "out", "--no-overlay")
    assert done.code == 1
    assert "has nothing for 'v02'" in done.err
    texts = [json.loads(Path(f"out/v0{i}/run.json").read_text())["objects"][0]["text"] for i in (0, 1)]
    assert texts == ["left grasper=grasper", "kidney"]
    for content, words in (
        ("video,txt\n", "has no columns video and text"),
        ("video,text\nv00,\n", "line 2: has no video or no text"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=words):
            read_prompts(path)
    for content in ("[]", "{", '{"v": "text"}', '{"v": [""]}', '{"v": []}', '{"videos": {"a": 1}}'):
        plain.write_text(content)
        with pytest.raises(InputError):
            read_prompts(plain)
    assert cli("batch", videos, "--weights", small_weights).code == 2
    assert cli("batch", videos, "-t", "x", "--prompts", plain).code == 2


class Dying(Job):
    """Kills its process over one of the videos."""

    def run(self, item: Item, engine: Engine, tell: Callable[[Progress], None]) -> Outcome | Cut:
        if item.stem == "v01":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(item, engine, tell)


def test_several_devices(cli: Cli, videos: Path, small_weights: Path, tmp_path: Path) -> None:
    """Several devices make the same files as one; a process that dies takes one video with it."""
    arguments = ("batch", videos, "-t", "kidney", "--weights", small_weights)
    assert cli(*arguments, "-o", "one", "-q").code == 0
    several = cli(*arguments, "-o", "several", "--device", "cpu,cpu")
    assert several.code == 0, several.err
    assert f"{VIDEOS} done, 0 skipped, 0 failed" in several.err
    # Sums over fewer threads may differ in the last digit of a score.
    one, other = ({k: v for k, v in contents(Path(x)).items() if ".json" not in k} for x in ("one", "several"))
    assert len(one) == VIDEOS * 7  # compare label images and an overlay
    assert one == other
    limited = cli(*arguments, "-o", "few", "--device", "cpu,cpu", "--limit", "3", "--json")
    assert len(json.loads(limited.out)["videos"]) == 3
    assert len(list(Path("few").glob("*/run.json"))) == 3
    wrong = cli(*arguments, "-o", "none", "--device", "cpu,cuda:7")
    assert wrong.code == 5
    assert "--device cuda:7: this machine has" in wrong.err
    unknown = cli("batch", videos, "-t", "kidney", "--weights", "unknown", "--device", "cpu,cpu")
    assert unknown.code == 4
    assert "unknown" in unknown.err

    options = SegmentOptions(overlay=False)
    job = Dying(tmp_path / "dying", options, Asked(options.record(), {"name": "x", "sha256": "x"}, None, None))
    items = [Item(str(videos / f"v0{i}.mp4"), PurePosixPath(f"v0{i}.mp4"), parse_prompts(["kidney"])) for i in range(4)]
    items.append(replace(items[0], source=str(shutil.copy(videos / "v05.mp4", tmp_path / "v00.mp4"))))
    request, table = EngineRequest(str(small_weights), None, "auto"), BatchTable(5, quiet=True)
    outcomes = list(Processes(request, ["cpu", "cpu"]).run(job, items, table, None, lambda warning: None))
    assert {(Path(x.source).name, x.state) for x in outcomes} == {
        ("v00.mp4", "done"),
        ("v01.mp4", "failed"),
        ("v02.mp4", "done"),
        ("v03.mp4", "done"),
    }
    assert next(x.error for x in outcomes if x.state == "failed") in (
        "the process on cpu #1 ended (SIGKILL)",
        "the process on cpu #2 ended (SIGKILL)",
    )
    # If two videos share a name, the first gets it.
    sources = {
        x: json.loads((tmp_path / f"dying/{x}/run.json").read_text())["source"]["path"] for x in ("v00", "v00-2")
    }
    assert sources == {"v00": items[0].source, "v00-2": items[4].source}


@dataclass(frozen=True)
class Breaking(Job):
    """Breaks the device of its process over some videos: nothing works on it from then on, until the process ends."""

    breaks: tuple[str, ...] = ()

    def run(self, item: Item, engine: Engine, tell: Callable[[Progress], None]) -> Outcome | Cut:
        if item.stem in self.breaks:
            room.computes = lambda device: False
        if not room.computes(engine.device):
            return Outcome(item.key, "failed", error="the device failed")
        time.sleep(0.2)  # a broken one is faster
        return Outcome(item.key, "done")


@pytest.mark.parametrize(
    ("breaks", "devices", "failed"),
    [
        (("v01",), 2, {"v01": "the device failed"}),
        (("v01", "v05"), 1, dict.fromkeys(("v01", "v05"), "the device failed")),  # with some between that it did
        (
            tuple(f"v0{i}" for i in range(2, 8)),
            2,
            {f"v0{i}": "the device failed" if i < 6 else "no process is left to do it" for i in range(2, 8)},
        ),
        (("v02", "v05"), 0, dict.fromkeys(("v02", "v05"), "the device failed")),  # the rest in other processes
    ],
)
def test_a_device_that_fails_for_good(
    breaks: tuple[str, ...], devices: int, failed: dict[str, str], small_weights: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It takes one video with it, as another process may use it; where that fails at once, too, others do the rest."""
    monkeypatch.setattr(room, "computes", room.computes)
    asked = Asked(SegmentOptions().record(), {"name": "x", "sha256": "x"}, None, None)
    job = Breaking(tmp_path / "out", SegmentOptions(), asked, breaks=breaks)
    items = [Item(f"v0{i}.mp4", PurePosixPath(f"v0{i}.mp4"), parse_prompts(["kidney"])) for i in range(8)]
    request = EngineRequest(str(small_weights), None, "auto")
    executor = Processes(request, ["cpu"] * devices) if devices else Here(request, "cpu")
    outcomes = list(executor.run(job, items, BatchTable(8, quiet=True), None, lambda warning: None))
    assert sorted(Path(x.source).stem for x in outcomes) == [x.stem for x in items]
    assert {Path(x.source).stem: x.error for x in outcomes if x.state == "failed"} == failed


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_interrupted_on_several_devices(videos: Path, small_weights: Path, tmp_path: Path) -> None:
    """A terminal shows a live table; SIGTERM ends all processes and leaves nothing half done."""
    import pty

    arguments = ["batch", str(videos), "-t", "kidney", "--weights", str(small_weights), "--device", "cpu,cpu"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "resurgsam2_cli", *arguments, "-o", "out"],
        cwd=tmp_path,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "160", "LINES": "40"},
    )
    os.close(theirs)
    shown = b""
    while process.poll() is None and not re.search(rb"[1-9]\d* of 17 videos", shown):
        shown += os.read(ours, 65536)
    process.terminate()
    with contextlib.suppress(OSError):  # the other end is closed
        while more := os.read(ours, 65536):
            shown += more
    assert process.wait() == 130
    os.close(ours)
    assert b"on cpu #1" in shown
    assert b"on cpu #2" in shown
    assert shown.rstrip().endswith(b"interrupted; nothing unfinished was left under a final name")
    assert not [x for x in (tmp_path / "out").rglob("*") if x.suffix in (".partial", ".replaced", ".tmp")]
    for _ in range(300):  # Python's own helper process ends a little later
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("somebody of its session is left")


def test_the_whole_way_on_a_data_set(cli: Cli, small_weights: Path, tmp_path: Path) -> None:
    """Data in the layout of Ref-EndoVis goes in; runs and their exports measure alike."""
    size = ("--count-frames", "8", "--height", "64", "--width", "80")
    assert cli("render", "scenes", "--scenes", "2", *size).code == 0
    asked = ("--prompts", "scenes/meta_expressions.json", "--weights", small_weights, "--no-overlay", "-q")
    assert cli("batch", "scenes/JPEGImages", *asked, "-o", "results").code == 0
    scores = {}
    for name, options in (("sav", ()), ("davis", ("--split", "a=0.5,b=0.5"))):
        assert cli("export", "results", "-f", name, "-o", name, *options).code == 0
    assert cli("export", "results", "-f", "coco", "-o", "coco").code == 0
    for name in ("results", "sav", "davis"):
        done = cli("evaluate", name, "--truth", "scenes", "--json")
        assert done.code == 0, done.err
        scores[name] = json.loads(done.out)
    assert {x["text"] for x in scores["sav"]["objects"]} == {x["text"] for x in scores["results"]["objects"]}
    assert scores["sav"] == scores["results"]
    assert len(scores["davis"]["objects"]) == len(scores["sav"]["objects"])
    refused = cli("evaluate", "coco", "--truth", "scenes")
    assert refused.code == 3
    assert "coco: is an export as coco" in refused.err
