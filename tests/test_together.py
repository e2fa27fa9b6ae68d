"""Several programs at work below one folder, disks that fill up, and runs that a person changed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clips import ffmpeg
from conftest import Cli
from killing import contents
from PIL import Image

from resurgsam2_cli.batch.executor import EngineRequest
from resurgsam2_cli.batch.items import Cut, Item, Outcome
from resurgsam2_cli.batch.job import Job
from resurgsam2_cli.batch.processes import Processes
from resurgsam2_cli.batch.record import Record
from resurgsam2_cli.batch.standing import Asked
from resurgsam2_cli.errors import OutputError
from resurgsam2_cli.prompts.prompt import parse_prompts
from resurgsam2_cli.runs.find import find_runs
from resurgsam2_cli.runs.folder import Wanted
from resurgsam2_cli.runs.record import read_run
from resurgsam2_cli.runs.sums import corrections
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.terminal.batch_table import BatchTable
from resurgsam2_cli.training.data import annotated_videos

ROOT = Path(__file__).parents[1]
PROGRAM = [sys.executable, "-m", "resurgsam2_cli"]
VIDEOS = 6


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for i in range(VIDEOS):
        picture = f"testsrc2=size=64x48:rate=25,hue=h={40 * i}"
        ffmpeg("-f", "lavfi", "-i", picture, "-frames:v", "6", "-pix_fmt", "yuv420p", folder / f"v{i}.mp4")
    return folder


def start(cwd: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes: subprocess.Popen[str]) -> list[tuple[int, str]]:
    ends = [(x, x.communicate(timeout=300)) for x in processes]
    return [(x.returncode, out + err) for x, (out, err) in ends]


# --- Several programs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4])
def test_batches_into_one_folder(count: int, videos: Path, small_weights: Path, tmp_path: Path) -> None:
    """Every video is done once, all are in the record, and each program ends well."""
    command = ("batch", videos, "-t", "kidney", "--weights", small_weights, "-o", "out", "--no-overlay", "--json")
    ends = finish(*(start(tmp_path, *command) for _ in range(count)))
    assert [code for code, _ in ends] == [0] * count, ends
    rows = [x for _, said in ends for x in json.loads(said[said.index("{") :].splitlines()[0])["videos"]]
    assert len(rows) == count * VIDEOS
    assert sum(x["state"] == "done" for x in rows) == VIDEOS
    assert {x["state"] for x in rows} == {"done", "skipped"}
    record = json.loads((tmp_path / "out" / "batch.json").read_text())
    assert sorted(Path(x["source"]).name for x in record["videos"]) == [f"v{i}.mp4" for i in range(VIDEOS)]
    assert sorted(os.listdir(tmp_path / "out")) == ["batch.json", *(f"v{i}" for i in range(VIDEOS))]


def test_other_batches_are_kept_in_the_record(videos: Path, small_weights: Path, tmp_path: Path) -> None:
    """Two batches of different videos run at once."""
    halves = [[videos / f"v{i}.mp4" for i in part] for part in (range(3), range(3, 6))]
    command = ("-t", "kidney", "--weights", small_weights, "-o", "out", "--no-overlay", "-q")
    ends = finish(*(start(tmp_path, "batch", *half, *command) for half in halves))
    assert [code for code, _ in ends] == [0, 0], ends
    record = json.loads((tmp_path / "out" / "batch.json").read_text())
    assert len({x["source"] for x in record["videos"]}) == len(record["videos"]) == VIDEOS


def test_segments_of_one_name(videos: Path, small_weights: Path, tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"day{i}").mkdir()
        shutil.copy(videos / f"v{i}.mp4", tmp_path / f"day{i}" / "op.mp4")
    options = ("-t", "kidney", "--weights", small_weights, "--no-overlay", "-q")
    ends = finish(*(start(tmp_path, "segment", f"day{i}/op.mp4", *options) for i in range(3)))
    assert [code for code, _ in ends] == [0, 0, 0], ends
    assert sorted(os.listdir(tmp_path / "runs")) == ["op", "op-2", "op-3"]
    sources = {json.loads(x.read_text())["source"]["path"] for x in (tmp_path / "runs").glob("*/run.json")}
    assert sources == {str(tmp_path / f"day{i}" / "op.mp4") for i in range(3)}
    # The same video twice at once: one batch does it.
    ends = finish(*(start(tmp_path, "segment", "day0/op.mp4", *options, "-o", "same") for _ in range(2)))
    assert sorted(code for code, _ in ends) == [0, 6], ends
    assert os.listdir(tmp_path / "same") == ["op"]


def test_exports_and_trainings_at_once(videos: Path, small_weights: Path, tmp_path: Path) -> None:
    command = ("batch", videos, "-t", "kidney", "--weights", small_weights, "-o", "runs", "--no-overlay", "-q")
    assert finish(start(tmp_path, *command))[0][0] == 0
    ends = finish(*(start(tmp_path, "export", "runs", "-f", "davis", "-o", "davis") for _ in range(4)))
    assert sorted(code for code, _ in ends) == [0, 6, 6, 6], ends
    assert len(list((tmp_path / "davis").rglob("*.png"))) == VIDEOS * 6
    assert sorted(os.listdir(tmp_path)) == ["davis", "runs"]
    train = ("train", "-o", "trained", "--data", "runs", "--start", small_weights, "--validate-every", "0")
    steps = ("--detection-steps", "2", "--tracking-steps", "0", "--quiet")
    ends = finish(*(start(tmp_path, *train, *steps) for _ in range(2)))
    assert sorted(code for code, _ in ends) == [0, 6], ends
    assert "another program is working in it" in "".join(said for _, said in ends)
    assert not (tmp_path / "trained" / ".unfinished").exists()
    again = finish(start(tmp_path, *train, *steps))[0]
    assert again[0] == 0, again
    other = finish(start(tmp_path, *train, *steps, "--learning-rate", "1e-4"))[0]
    assert other[0] == 2
    assert "--learning-rate 5e-05, now 0.0001" in other[1]
    label = next((tmp_path / "runs" / "v0" / "masks").iterdir())
    Image.fromarray(np.eye(48, 64, dtype=np.uint8)).save(label)
    changed = finish(start(tmp_path, *train, *steps))[0]
    assert changed[0] == 2
    assert "--data with other content" in changed[1]
    assert "changed v0" in changed[1]
    assert finish(start(tmp_path, *train, *steps, "--overwrite"))[0][0] == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "log.csv").write_text("mine")
    foreign = finish(start(tmp_path, "train", "-o", "mine", "--overwrite", *train[3:], *steps))[0]
    assert foreign[0] == 6
    assert os.listdir(tmp_path / "mine") == ["log.csv"]


class Fragile(Job):
    """Kills its process over one video; the process that takes its place cannot start."""

    def run(self, item: Item, engine: object, tell: object) -> Outcome | Cut:
        if item.stem == "v1":
            (self.out / "broken").mkdir(parents=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(item, engine, tell)  # type: ignore[arg-type]


class BreakingRequest(EngineRequest):
    """A request whose weights are gone after a while."""

    def build(self, device: str) -> object:  # type: ignore[override]
        if Path(self.precision).exists():
            raise OutputError("the weights are gone")
        return EngineRequest(self.weights, None, "fp32").build(device)


@pytest.mark.parametrize("count", [1, 2])
def test_a_process_that_cannot_come_back(count: int, videos: Path, small_weights: Path, tmp_path: Path) -> None:
    """Its video fails; others continue, and videos that no process is left for are named."""
    options = SegmentOptions(overlay=False)
    job = Fragile(tmp_path / "out", options, Asked(options.record(), {"name": "x", "sha256": "x"}, None, None))
    items = [item_of(videos / f"v{i}.mp4") for i in range(4)]
    request = BreakingRequest(str(small_weights), None, str(tmp_path / "out" / "broken"))
    devices = ["cpu"] * count
    outcomes = list(Processes(request, devices).run(job, items, BatchTable(4, quiet=True), None, lambda _: None))
    states = {Path(x.source).stem: x.state for x in outcomes}
    if count == 2:
        assert states == {"v0": "done", "v1": "failed", "v2": "done", "v3": "done"}
    else:
        assert states == {"v0": "done", "v1": "failed", "v2": "failed", "v3": "failed"}
        assert {x.error for x in outcomes if x.source.endswith(("v2.mp4", "v3.mp4"))} == {"no process is left to do it"}


def item_of(path: Path) -> Item:
    from pathlib import PurePosixPath

    return Item(str(path), PurePosixPath(path.name), parse_prompts(["kidney"]))


ZYGOTE = """
import os, random, shutil, signal, sys, time
from pathlib import Path, PurePosixPath
import torch
from resurgsam2_cli.batch.here import Here
from resurgsam2_cli.batch.items import Item
from resurgsam2_cli.batch.job import Job
from resurgsam2_cli.batch.record import Record
from resurgsam2_cli.batch.standing import Asked
from resurgsam2_cli.prompts.prompt import parse_prompts
from resurgsam2_cli.runs.record import is_run
from resurgsam2_cli.segmenting.engine import build_engine
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.summary import weights_record
from resurgsam2_cli.terminal.batch_table import BatchTable

videos, weights, out, kills = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
engine = build_engine(weights, None, "cpu", "fp32")
options = SegmentOptions(overlay=False)
job = Job(out, options, Asked(options.record(), weights_record(engine), None, None))
items = [Item(str(x), PurePosixPath(x.name), parse_prompts(["kidney"])) for x in sorted(videos.iterdir())]

class Built:
    def build(self, device):
        return engine

def batch():
    child = os.fork()
    if child == 0:
        list(Record(out).add(Here(Built(), "cpu").run(job, items, BatchTable(9, quiet=True), None, lambda _: None)))
        Record(out).tidy()
        os._exit(0)
    return child

def partials():
    found = set()
    for path in out.glob("*.partial"):
        try:
            found.add(path.stat().st_ino)
        except OSError:
            pass
    return found

rng, midway = random.Random(0), 0
for _ in range(kills // 2):
    before = partials()
    pair = [batch(), batch()]
    deadline = time.monotonic() + 20
    while not partials() - before and time.monotonic() < deadline:
        time.sleep(0.002)
    for child in pair:
        time.sleep(rng.uniform(0, 0.3))
        midway += os.waitpid(child, os.WNOHANG) == (0, 0)
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
    done = sorted(x for x in out.iterdir() if x.is_dir() and x.suffix == "" and not x.name.startswith("."))
    assert all(is_run(x) for x in done), done
    for x in done[len(items) // 2 :]:  # so that there is always something left to do
        shutil.rmtree(x)
assert midway >= kills * 0.6, midway
os.waitpid(batch(), 0)
"""


@pytest.mark.slow
def test_a_hundred_kills(videos: Path, small_weights: Path, tmp_path: Path) -> None:
    """Kill two batches into one folder at random moments: they end with the same files as undisturbed. A minute."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for out, kills in (("whole", 0), ("killed", 100)):
        arguments = [str(videos), str(small_weights), str(tmp_path / out), str(kills)]
        subprocess.run([sys.executable, "-c", ZYGOTE, *arguments], env=environment, check=True, timeout=600)
    drop = {"run.json", "batch.json"}  # these have times in them
    whole, killed = (
        {k: v for k, v in contents(tmp_path / x).items() if Path(k).name not in drop} for x in ("whole", "killed")
    )
    assert killed == whole


# --- A disk that fills up -----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, if one can be made."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be made here")
    yield place
    subprocess.run(["umount", str(place)], check=False)


def test_a_full_disk(small_disk: Path, videos: Path, small_weights: Path, tmp_path: Path) -> None:
    """What was complete stays whole, and nothing is half."""
    options = ("-t", "kidney", "-t", "liver", "--weights", small_weights, "-o", small_disk / "out")
    assert finish(start(tmp_path, "segment", videos / "v0.mp4", *options, "--no-overlay"))[0][0] == 0
    before = contents(small_disk)
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    assert finish(start(tmp_path, "segment", videos / "v0.mp4", *options, "--overwrite"))[0][0] == 6
    code, said = finish(start(tmp_path, "segment", videos / "v1.mp4", *options))[0]
    assert code == 6, said
    assert "make room" in said
    assert "Traceback" not in said
    code, said = finish(start(tmp_path, "batch", videos, *options))[0]
    assert code in (1, 6), said
    code, said = finish(start(tmp_path, "export", small_disk / "out", "-f", "coco", "-o", small_disk / "all.json"))[0]
    assert code == 6, said
    assert "Traceback" not in said
    filler.unlink()
    after = {k: v for k, v in contents(small_disk).items() if Path(k).name != "batch.json"}
    assert after == before
    assert finish(start(tmp_path, "segment", videos / "v1.mp4", *options, "--no-overlay"))[0][0] == 0


# --- What a person did --------------------------------------------------------------------------------------------


def test_a_corrected_run_is_protected(cli: Cli, videos: Path, small_weights: Path, tmp_path: Path) -> None:
    source = tmp_path / "v.mp4"
    shutil.copy(videos / "v0.mp4", source)
    command = ("batch", source, "-t", "kidney", "--weights", small_weights, "-o", "out", "--no-overlay")
    assert cli(*command).code == 0
    run = read_run(Path("out/v"))
    assert set(run.sums) == {"annotations.json", "frames.jsonl", "masks"}
    assert corrections(run.folder) == []
    (Path("out/v/masks") / "Thumbs.db").write_text("x")
    assert corrections(run.folder) == []
    Image.fromarray(np.eye(48, 64, dtype=np.uint8)).save("out/v/masks/00000.png")
    drawn = Path("out/v/masks/00000.png").read_bytes()
    assert corrections(run.folder) == ["masks"]
    # A new time stamp is nothing; another setting, other weights, prompts or content are a change, with its reason.
    os.utime(source, (1, 1))
    assert cli(*command).code == 0
    ffmpeg("-i", videos / "v1.mp4", "-c", "copy", tmp_path / "other.mp4")
    for more, words in (
        (("--threshold", "0.5"), "threshold 0.0, now 0.5"),
        (("--weights", "demo"), "weights small, now demo"),
        (("-t", "liver"), "prompts 'kidney', now 'kidney', 'liver'"),
        (("--stride", "2"), "stride 1, now 2"),
        (("--precision", "bf16"), "precision fp32, now bf16"),
    ):
        done = cli(*command, *more)
        assert done.code == 1
        assert words in done.err
        assert "corrected by hand: masks" in done.err
        assert "--overwrite" in done.err
        assert Path("out/v/masks/00000.png").read_bytes() == drawn
        assert json.loads(Path("out/batch.json").read_text())["videos"][0]["state"] == "changed"
    shutil.copy(tmp_path / "other.mp4", source)
    changed = cli(*command, "--json")
    assert changed.code == 1
    assert "the source has changed" in json.loads(changed.out)["videos"][0]["note"]
    assert Path("out/v/masks/00000.png").read_bytes() == drawn
    assert cli("segment", source, "-t", "kidney", "--weights", small_weights, "-o", "out").code == 6
    Path("out/v/notes.txt").write_text("mine")
    kept = cli(*command, "--overwrite")
    assert kept.code == 1
    assert "did not make (notes.txt)" in kept.err
    Path("out/v/notes.txt").unlink()
    done = cli(*command, "--overwrite")
    assert done.code == 0
    assert "replaced: the source has changed; corrected by hand: masks" in done.err


def test_a_video_that_was_moved_is_the_same(cli: Cli, videos: Path, small_weights: Path, tmp_path: Path) -> None:
    for day in ("a", "b"):
        (tmp_path / day).mkdir()
    shutil.copy(videos / "v0.mp4", tmp_path / "a" / "op.mp4")
    options = ("-t", "kidney", "--weights", small_weights, "-o", "out", "--no-overlay", "--json")
    assert cli("batch", tmp_path / "a", *options).code == 0
    (tmp_path / "a" / "op.mp4").rename(tmp_path / "b" / "op.mp4")
    moved = json.loads(cli("batch", tmp_path / "b", *options).out)
    assert [x["state"] for x in moved["videos"]] == ["skipped"]
    shutil.copy(tmp_path / "b" / "op.mp4", tmp_path / "a" / "op.mp4")  # now two videos have the name
    both = json.loads(cli("batch", tmp_path / "a", tmp_path / "b", *options).out)
    assert [x["state"] for x in both["videos"]] == ["skipped", "done"]
    assert sorted(x for x in os.listdir("out") if x != "batch.json") == ["op", "op-2"]
    (tmp_path / "a" / "op.mp4").unlink()  # the run of each keeps its source, also if the other is gone
    left = json.loads(cli("batch", tmp_path / "b", *options).out)["videos"]
    assert [(x["state"], Path(x["folder"]).name) for x in left] == [("skipped", "op-2")]


def test_training_takes_the_right_pictures(cli: Cli, videos: Path, small_weights: Path, tmp_path: Path) -> None:
    """Two videos of one name keep theirs apart, part of an image folder at another rate has its own, stdin has none."""
    for i, day in enumerate(("monday", "tuesday")):
        (tmp_path / "v" / day).mkdir(parents=True)
        shutil.copy(videos / f"v{3 * i}.mp4", tmp_path / "v" / day / "op.mp4")
    (tmp_path / "frames").mkdir()
    for i in range(40):
        Image.new("RGB", (32, 24), (6 * i, 0, 0)).save(tmp_path / "frames" / f"p{i}.png")
    options = ("-t", "kidney", "--weights", small_weights, "-o", "out", "--no-overlay", "-q")
    assert cli("batch", tmp_path / "v", "-r", *options).code == 0
    rate = ("--frame-rate", "10", "--start", "2s")
    assert cli("segment", tmp_path / "frames", *options, *rate).code == 0
    found = {x.name: x for x in annotated_videos(Path("out"), Path("cache"))}
    assert set(found) == {"monday/op", "tuesday/op", "frames"}
    monday, tuesday = (found[x].read(0)[0].astype(int) for x in ("monday/op", "tuesday/op"))
    assert np.abs(monday - tuesday).mean() > 10
    assert [x.stem for x in found["frames"].frames] == [f"p{i}" for i in range(20, 40)]
    reds = [found["frames"].read(i)[0][..., 0].mean() for i in range(20)]
    assert reds == pytest.approx([6 * i for i in range(20, 40)], abs=4)
    assert len(os.listdir("cache")) == 3
    piped = subprocess.run(
        [*PROGRAM, "segment", "-", *map(str, options)],
        stdin=(videos / "v0.mp4").open("rb"),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert piped.returncode == 0
    done = cli("train", "--data", "out", "-o", "trained", "--detection-steps", "1", "--tracking-steps", "0")
    assert done.code == 3
    assert "came from standard input and was not kept" in done.err


# --- Files that are not as this program wrote them ----------------------------------------------------------------


def test_records_of_others(cli: Cli, videos: Path, small_weights: Path, tmp_path: Path) -> None:
    run = ("-t", "kidney", "--weights", small_weights, "-o", "out", "-q", "--no-overlay")
    for content in ('{"complete": true}', "[]", "[" * 100_000, '{"complete": true, "objects": [1], "source": 5}', "{}"):
        Path("out/v0").mkdir(parents=True)
        Path("out/v0/run.json").write_text(content)
        Path("out/v0/mine.txt").write_text("mine")
        for command in (("segment", videos / "v0.mp4"), ("segment", videos / "v0.mp4", "--overwrite")):
            done = cli(*command, *run)
            assert done.code == 6, done.err
            assert "is not replaced" in done.err
        done = cli("export", "out", "-f", "coco", "-o", "all.json")
        assert done.code == 3, done.err
        assert "Traceback" not in done.err
        assert Path("out/v0/mine.txt").read_text() == "mine"
        shutil.rmtree("out")
    for content in ('{"videos": [1]}', "{", '{"videos": [{"source": 1}]}', '{"videos": 5}', "[]", "\xff"):
        Path("out").mkdir(exist_ok=True)
        Path("out/batch.json").write_text(content, encoding="latin-1")
        done = cli("batch", videos / "v0.mp4", *run)
        assert done.code == 6, done.err
        assert "is not the record of a batch" in done.err
        assert Path("out/batch.json").read_text(encoding="latin-1") == content
        assert os.listdir("out") == ["batch.json"]


def test_files_of_a_user_stay(cli: Cli, tmp_path: Path, videos: Path) -> None:
    size = ("--count-frames", "2", "--width", "64", "--height", "48")
    Path("mine.mp4").write_bytes((videos / "v0.mp4").read_bytes())
    Path("notes.txt").write_text("mine")
    Path("folder").mkdir()
    Path("folder/notes.txt").write_text("mine")
    for target in ("mine.mp4", "notes.txt", "folder"):
        for more in ((), ("--overwrite",)):
            done = cli("render", target, *size, *more)
            assert done.code == 6, done.err
            said = "is a file where a folder is expected" if target == "notes.txt" else "not replaced"
            assert said in done.err
            assert "Traceback" not in done.err
    for target in ("scene.mp4", "scenes"):
        assert cli("render", target, *size).code == 0
        assert cli("render", target, *size).code == 6
        assert cli("render", target, *size, "--overwrite").code == 0
    Path("scenes/mine.txt").write_text("mine")
    assert cli("render", "scenes", *size, "--overwrite").code == 6
    Path("scenes/mine.txt").unlink()
    scores = ("evaluate", "scenes/Annotations", "--truth", "scenes/Annotations", "--seen-frames")
    for option in ("--csv-file", "--json-file"):
        for more in ((), ("--overwrite",)):
            assert cli(*scores, option, "notes.txt", *more).code == 6
        assert cli(*scores, option, f"own{option}").code == 0
        assert cli(*scores, option, f"own{option}").code == 6
        assert cli(*scores, option, f"own{option}", "--overwrite").code == 0
    assert Path("notes.txt").read_text() == "mine"
    assert Path("mine.mp4").read_bytes() == (videos / "v0.mp4").read_bytes()
    for command in (("train", "-o", "notes.txt"), ("train", "-o", "/proc/x"), ("render", "/proc/x", *size)):
        done = cli(*command)
        assert done.code == 6, done.err
        assert "Traceback" not in done.err


def test_a_scene_has_the_suffix_of_its_kind(cli: Cli) -> None:
    """As for exports: a suffix of files is refused, another dot belongs to the name of a folder."""
    for name in ("mine.avi", "mine.mkv", "mine.zip"):
        done = cli("render", name, "--count-frames", "1")
        assert done.code == 2
        assert "a file that ends in .mp4, or a folder" in done.err
        assert not Path(name).exists()
    assert cli("render", "scenes.v2", "--count-frames", "1", "--width", "64", "--height", "48").code == 0
    assert Path("scenes.v2/JPEGImages").is_dir()


def test_the_record_costs_the_same_for_every_video(tmp_path: Path) -> None:
    """The record of the last video takes as many bytes as that of the first."""
    record = Record(tmp_path)
    list(record.add(Outcome(f"/videos/{i:05d}.mp4", "done") for i in range(200)))
    assert len(json.loads((tmp_path / "batch.json").read_text())["videos"]) == 200
    sizes = []
    for i in range(2):
        before = (tmp_path / "batch.json").stat()
        list(record.add([Outcome(f"/videos/{300 + i:05d}.mp4", "done")]))
        after = (tmp_path / "batch.json").stat()
        assert after.st_ino == before.st_ino  # appended to, not written anew
        sizes.append(after.st_size - before.st_size)
    assert sizes[0] == sizes[1] < 300


def test_a_record_that_lost_its_end(tmp_path: Path) -> None:
    """A power cut may cause this: the entries that are whole are kept."""
    list(Record(tmp_path).add(Outcome(f"/v{i}", "failed") for i in range(5)))
    path = tmp_path / "batch.json"
    for cut in (4, 20, 60):
        path.write_bytes(path.read_bytes()[:-cut])
        list(Record(tmp_path).add([Outcome("/new", "done")]))
        rows = json.loads(path.read_text())["videos"]
        assert rows[0]["source"] == "/v0"
        assert rows[-1]["source"] == "/new"


def test_a_run_killed_on_its_last_steps_is_read(tmp_path: Path) -> None:
    """The kill comes between taking the old run away and putting the new one in place."""
    record = {
        "format": 1,
        "complete": True,
        "source": {"path": "/v.mp4", "size": 1, "width": 8, "height": 8, "frame_rate": "25/1", "frames": 1},
        "settings": {"start": "0", "end": None, "stride": 1},
        "objects": [],
    }
    (tmp_path / "v.partial").mkdir()
    (tmp_path / "v.partial" / "run.json").write_text(json.dumps(record))
    runs, unfinished = find_runs([tmp_path])
    assert [x.name for x in runs] == ["v"]
    assert unfinished == 0
    path, found = Wanted(tmp_path, "v", "/v.mp4", {"size": 1}).find()
    assert (path.name, found) == ("v", record)
