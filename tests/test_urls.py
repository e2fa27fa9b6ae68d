"""Sources and output folders behind URLs: in memory, and in an object store as S3 has it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from clips import ffmpeg
from conftest import Cli
from ray_cluster import ROOT, free_port
from test_batch import contents, make_videos

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
S3 = pytest.mark.skipif(
    find_spec("s3fs") is None or find_spec("moto") is None, reason="s3fs and moto[server] are not installed"
)


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_videos(tmp_path_factory.mktemp("urls") / "videos", 3)
    (folder / "text.mp4").write_text("not a video")
    whole = tmp_path_factory.mktemp("whole") / "whole.mp4"
    picture = ("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25", "-frames:v", "60")
    ffmpeg(*picture, "-pix_fmt", "yuv420p", "-movflags", "+faststart", whole)
    data = whole.read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) * 3 // 4])
    frames = folder / "frames"
    frames.mkdir()
    from PIL import Image

    for i in range(4):
        Image.new("RGB", (64, 48), (60 * i, 80, 90)).save(frames / f"p{i}.png")
    return folder


def fetched(system: Any, path: str, into: Path) -> Path:
    for x in system.find(path):
        local = into / x[len(system._strip_protocol(path)) + 1 :]
        local.parent.mkdir(parents=True, exist_ok=True)
        system.get_file(x, str(local))
    return into


def without_sources(out: Path) -> dict[str, str]:
    """Sums of the files of an output folder, whose records do not say where the sources are."""
    for path in out.rglob("run.json"):
        record = json.loads(path.read_text())
        record["source"]["path"] = Path(record["source"]["path"]).name
        path.write_text(json.dumps(record))
    (out / "batch.json").unlink(missing_ok=True)
    return contents(out)


def test_the_whole_way(cli: Cli, memory: Any, videos: Path, small_weights: Path) -> None:
    for x in videos.rglob("*.*"):
        memory.put_file(str(x), f"/in/{x.relative_to(videos).as_posix()}")
    common = ("-t", "kidney", "--weights", small_weights)
    here = cli("batch", videos, *common, "-o", "local")
    there = cli("batch", "memory://in", *common, "-o", "memory://out")
    assert (here.code, there.code) == (1, 1), there.err
    assert "4 done, 0 skipped, 2 failed" in there.err, there.err
    rows = {x["source"]: x for x in json.loads(memory.cat_file("/out/batch.json"))["videos"]}
    assert rows["memory:///in/v00.mp4"]["folder"] == "memory://out/v00"
    assert "are kept in memory://out/cut.partial" in rows["memory:///in/cut.mp4"]["note"]
    runs = fetched(memory, "/out", Path("out"))
    record = json.loads((runs / "v00" / "run.json").read_text())
    assert record["source"]["path"] == "memory:///in/v00.mp4"
    assert without_sources(runs) == without_sources(Path("local"))

    before = {
        x: memory.info(x)["created"] for x in memory.find("/out") if "batch.json" not in x and ".partial" not in x
    }
    reads: list[str] = []
    get_file = type(memory).get_file

    def seen(self: Any, path: str, *rest: Any, **more: Any) -> Any:
        reads.append(path)
        return get_file(self, path, *rest, **more)

    type(memory).get_file = seen
    try:
        again = cli("batch", "memory://in", *common, "-o", "memory://out", "--json")
        plan = cli("batch", "memory://in", *common, "-o", "memory://out", "--dry-run", "--json")
    finally:
        type(memory).get_file = get_file
    states = [x["state"] for x in json.loads(again.out)["videos"]]
    assert sorted(states) == ["failed", "failed", "skipped", "skipped", "skipped", "skipped"]
    assert sorted(x["state"] for x in json.loads(plan.out)["videos"]) == ["new", "new", *["skipped"] * 4]
    assert before == {x: memory.info(x)["created"] for x in before}
    assert not [x for x in reads if x.endswith(".png") or ("/v0" in x.replace("/out/", "") and x.endswith(".mp4"))]

    memory.rm_file("/out/v01/masks/00003.png")
    done = cli("batch", "memory://in/v01.mp4", *common, "-o", "memory://out")
    assert "changed (masks is missing" in done.err, done.err
    done = cli("batch", "memory://in/v0*.mp4", *common, "-o", "memory://out", "--overwrite")
    assert "1 done, 2 skipped" in done.err, done.err
    assert memory.isfile("/out/v01/masks/00003.png")
    memory.pipe_file("/out/v00/notes.txt", b"mine")
    memory.pipe_file("/out/v00/masks/notes.txt", b"mine, too")
    done = cli("batch", "memory://in/v00.mp4", *common, "-o", "memory://out", "--overwrite", "--threshold", "1")
    assert done.code == 1
    assert "notes.txt" in done.err
    assert json.loads(memory.cat_file("/out/v00/run.json"))["settings"]["threshold"] == 0
    memory.mv("/out/v00/notes.txt", "/notes.txt")
    memory.pipe_file("/out/v00/draft.json", b'{"marks": [{"object": 1}]}')
    done = cli("batch", "memory://in/v00.mp4", *common, "-o", "memory://out", "--overwrite", "--threshold", "1")
    assert not done.code, done.err
    assert "corrected by hand: draft.json" in done.err
    assert memory.cat_file("/out/v00/masks/notes.txt") == b"mine, too"
    assert json.loads(memory.cat_file("/out/v00/run.json"))["settings"]["threshold"] == 1
    assert not cli("batch", "memory://in/v00.mp4", *common, "-o", "memory://out", "--overwrite").code
    memory.rm_file("/out/v02/run.json")  # as when an upload is cut short
    done = cli("batch", "memory://in/v0*.mp4", *common, "-o", "memory://out")
    assert "1 done, 2 skipped" in done.err, done.err


def test_one_name_twice(cli: Cli, memory: Any, videos: Path, small_weights: Path) -> None:
    for folder, name in (("a", "v00"), ("b", "v01")):
        memory.put_file(str(videos / f"{name}.mp4"), f"/{folder}/op.mp4")
    for folder in ("a", "b", "a", "b"):
        done = cli("batch", f"memory://{folder}/op.mp4", "-t", "x", "--weights", small_weights, "-o", "memory://out")
        assert not done.code, done.err
    sources = {name: json.loads(memory.cat_file(f"/out/{name}/run.json"))["source"]["path"] for name in ("op", "op-2")}
    assert sources == {"op": "memory:///a/op.mp4", "op-2": "memory:///b/op.mp4"}
    assert not memory.exists("/out/op-3")


def test_other_commands(cli: Cli, memory: Any, videos: Path, small_weights: Path) -> None:
    memory.put_file(str(videos / "v00.mp4"), "/in/v00.mp4")
    assert not cli("segment", "memory://in/v00.mp4", "-t", "x", "--weights", small_weights).code
    done = cli("export", "runs/v00", "-f", "coco", "--frames", "png", "-o", "set")
    assert not done.code, done.err
    assert len(list(Path("set").rglob("*.png"))) == 6


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("memory://none/x.mp4", 3, "there is nothing"),
        ("nosuch://x/y.mp4", 2, "nosuch"),
        ("file:///tmp/x.mp4", 2, "write it as a path"),
    ],
)
def test_errors(cli: Cli, memory: Any, small_weights: Path, url: str, code: int, words: str) -> None:
    for command in ("segment", "batch"):
        done = cli(command, url, "-t", "x", "--weights", small_weights)
        assert done.code == code, done.err
        assert words in done.err
        assert "Traceback" not in done.err


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket of a server that speaks S3."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    try:
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        system = s3fs.S3FileSystem()
        deadline = time.monotonic() + 60
        while True:
            try:
                system.mkdir("lab")
                break
            except Exception:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield system
    finally:
        server.kill()
        server.wait()


@S3
@pytest.mark.slow
def test_killed_and_resumed(bucket: Any, tmp_path: Path, small_weights: Path) -> None:
    """The whole way on an object store: killed in the middle, resumed, and equal to a batch on this machine."""
    source = make_videos(tmp_path / "videos", 4, frames=70)
    bucket.put(str(source), "lab/videos", recursive=True)
    program = [sys.executable, "-m", "resurgsam2_cli", "batch"]
    common = ["-t", "kidney", "--weights", str(small_weights)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*program, *arguments, *common], env=environment, cwd=tmp_path, text=True, stderr=subprocess.PIPE
        )

    process = start("s3://lab/videos", "-o", "s3://lab/out")
    deadline = time.monotonic() + 120
    while not bucket.find("lab/out"):
        bucket.invalidate_cache()
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    bucket.invalidate_cache()
    done = {x for x in bucket.find("lab/out") if x.endswith("/run.json")}
    process = start("s3://lab/videos", "-o", "s3://lab/out")
    said = process.communicate()[1]
    assert process.returncode == 0, said
    assert f"{4 - len(done)} done, {len(done)} skipped" in said
    process = start(str(source), "-o", "local")
    assert not process.wait()
    bucket.invalidate_cache()
    expected = without_sources(tmp_path / "local")
    assert without_sources(fetched(bucket, "lab/out", tmp_path / "out")) == expected
    if find_spec("ray") is None:
        return
    ray = ("--engine", "ray", "--address", "local", "--cpus-per-worker", "1")
    for _ in range(3):
        process = start("s3://lab/videos", "-o", "s3://lab/on-ray", *ray)
        said = process.communicate()[1]
        if "timed out during startup" not in said:  # Ray's own limit, which a busy machine may not keep
            break
        assert process.returncode == 5, said
        assert "Traceback" not in said
    assert process.returncode == 0, said
    bucket.invalidate_cache()
    assert without_sources(fetched(bucket, "lab/on-ray", tmp_path / "on-ray")) == expected
