"""`resurgsam2 batch --engine ray` on a cluster of two machines: the same as here, whatever is lost on the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Cli
from ray_cluster import RAY, ROOT, Cluster, environment, processes_named, session
from test_batch import contents, make_videos

from resurgsam2_cli import __version__
from resurgsam2_cli.batch.executor import Queue, Spent
from resurgsam2_cli.batch.items import Item, Outcome
from resurgsam2_cli.batch.on_ray import _Batch
from resurgsam2_cli.prompts.prompt import parse_prompts
from resurgsam2_cli.terminal.batch_table import BatchTable

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'ray[default]'"),
    pytest.mark.skipif(sys.platform == "win32", reason="starts a cluster with POSIX signals"),
]
ACTOR = "ray::RayWorker"


STANDINS = {
    "hostname": "echo 127.0.0.1",
    "srun": """
while [ "$1" != ray ]; do shift; done
exec "$@" --node-ip-address=127.0.0.2""",
}
"""Of Slurm and of the network: a script's other machines are this one under another address."""


@pytest.mark.slow
@pytest.mark.parametrize("title", ["A cluster in five lines", "With Slurm"])
def test_the_page(title: str, small_weights: Path, tmp_path: Path) -> None:
    """Its lines start a cluster, do a batch on it, and end it. They come first: the last one ends all of Ray here."""
    if processes_named(str(Path(find_spec("ray").submodule_search_locations[0]))):  # type: ignore[union-attr,index]
        pytest.skip("another cluster runs on this machine")
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8").partition(f"## {title}")[2].partition("## ")[0]
    blocks = re.findall(r"^<!-- not run: [^\n]+ -->\n```sh\n(.*?)^```$", page, flags=re.S | re.M)
    script = "\n".join(x.strip() for x in blocks).replace("192.168.1.10", "127.0.0.1").replace("/data", str(tmp_path))
    assert script.count("ray start") == 2
    assert script.endswith("ray stop")
    videos = make_videos(tmp_path / "videos", 3)
    for name, body in STANDINS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    more = {
        "PATH": f"{tmp_path}{os.pathsep}{RAY.parent}{os.pathsep}{os.environ['PATH']}",
        "SLURM_CPUS_PER_TASK": "2",
        "SLURM_NNODES": "2",
        "RAY_TMPDIR": str(tmp_path.parents[1] / "t"),
        "HOME": str(tmp_path / "home"),
    }
    there = environment(**more)
    del there["RAY_AUTH_MODE"]  # as on any machine: by the token that is there, or none
    if title == "With Slurm":
        (tmp_path / "home" / ".ray").mkdir(parents=True)
        (tmp_path / "home" / ".ray" / "auth_token").write_text("5" * 64)
    command = ["bash", "-e", "-c", script.replace(" -o ", f" --weights {small_weights} -o ")]
    with (tmp_path / "said").open("w+") as said:
        process = subprocess.Popen(command, cwd=tmp_path, env=there, stdout=said, stderr=said, start_new_session=True)
    try:
        code = process.wait(300)
    finally:
        for pid in session(process.pid):  # as Slurm does at the end of a job
            os.kill(pid, signal.SIGKILL)
    text = (tmp_path / "said").read_text()
    assert code == 0, text
    assert "3 done, 0 skipped, 0 failed" in text
    assert ("Token authentication is enabled" in text) == (title == "With Slurm")
    assert len(list((tmp_path / "runs").glob("*/run.json"))) == len(list(videos.iterdir()))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # Paths of sockets have 107 bytes at most, of which Ray takes about 70.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        found = Cluster(Path(folder, "r"))
        try:
            for i in (1, 2):
                found.start(1, Path(folder, f"home{i}"))
            yield found
        finally:
            found.stop()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 videos, three of them broken."""
    folder = make_videos(tmp_path_factory.mktemp("batch") / "videos", 17)
    whole = (folder / "v00.mp4").read_bytes()
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a video")
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    return folder


def command(source: Path, out: str, weights: Path, address: str) -> list[str]:
    where = ["--engine", "ray", "--address", address, "--cpus-per-worker", "1"]
    return ["batch", str(source), "-t", "kidney", "-o", out, "--weights", str(weights), *where]


def start(arguments: list[str], cwd: Path) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "resurgsam2_cli", *arguments]
    return subprocess.Popen(
        program, cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def until(ready: Callable[[], bool], process: subprocess.Popen[str] | None = None, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def local(cli: Cli, source: Path, weights: Path) -> dict[str, str]:
    """What the batch is in this process, in the folder ``local``."""
    assert cli("batch", source, "-t", "kidney", "-o", "local", "--weights", weights).code in (0, 1)
    return contents(Path("local"))


def record(out: str) -> dict[str, str]:
    rows = json.loads((Path(out) / "batch.json").read_text())["videos"]
    return {Path(x["source"]).name: x["state"] for x in rows}


def test_as_here(cli: Cli, cluster: Cluster, videos: Path, small_weights: Path) -> None:
    expected = local(cli, videos, small_weights)
    process = start(command(videos, "out", small_weights, cluster.address), Path.cwd())
    said = process.communicate()[0]
    assert process.returncode == 1, said
    assert "17 done, 0 skipped, 3 failed" in said
    assert "Traceback" not in said
    assert "text.mp4" in said
    assert contents(Path("out")) == expected
    rows = {x: json.loads((Path(x) / "batch.json").read_text())["videos"] for x in ("out", "local")}
    for x in rows.values():
        x.sort(key=lambda row: row["source"])
    for a, b in zip(rows["out"], rows["local"], strict=True):
        assert a["folder"] is None or a["folder"] == b["folder"].replace("local", "out")
        assert {k: v for k, v in a.items() if k not in ("seconds", "folder")} == {
            k: v.replace("local", "out") if isinstance(v, str) else v
            for k, v in b.items()
            if k not in ("seconds", "folder")
        }
    before = {x: x.stat().st_mtime_ns for x in Path("out").rglob("*") if x.name != "batch.json" and x.is_file()}
    process = start(command(videos, "out", small_weights, cluster.address), Path.cwd())
    said = process.communicate()[0]
    assert process.returncode == 1, said
    assert "0 done, 17 skipped, 3 failed" in said
    assert before == {x: x.stat().st_mtime_ns for x in before}
    until(lambda: not processes_named(ACTOR))


def test_weights_reach_each_machine_once(cluster: Cluster, videos: Path, small_weights: Path, tmp_path: Path) -> None:
    """Where the path is another file, or none, a copy comes with the batch."""
    process = start(command(videos / "v00.mp4", "out", small_weights, cluster.address), tmp_path)
    assert not process.wait()
    homes = [Path(str(cluster._folder.parent / f"home{i}")) for i in (1, 2)]
    assert not any((x / "sent").exists() for x in homes)  # they see the same file
    script = f"""
import sys
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any
from resurgsam2_cli.batch import ray_worker
sent = ray_worker.Sent
ray_worker.Sent = lambda path, sum_, content: sent(Path("/nowhere") / path.name, sum_, content)
from resurgsam2_cli.__main__ import main
sys.argv = {["resurgsam2", *command(videos, "sent", small_weights, cluster.address)]!r}
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert "17 done" in done.stderr, done.stderr
    copies = [list((x / "sent").glob("small-*.safetensors")) for x in homes]
    assert [len(x) for x in copies] == [1, 1]
    assert all(x.read_bytes() == small_weights.read_bytes() for (x,) in copies)
    runs = sorted((tmp_path / "sent").glob("*/run.json"))
    assert {json.loads(x.read_text())["weights"]["name"] for x in runs} == {"small"}


def test_a_lost_worker(cli: Cli, cluster: Cluster, small_weights: Path, tmp_path: Path) -> None:
    """Its video is done again, by a worker that Ray starts in its place."""
    source = make_videos(tmp_path / "long", 4, frames=200)
    expected = local(cli, source, small_weights)
    process = start([*command(source, "out", small_weights, cluster.address), "--json"], Path.cwd())
    until(lambda: bool(list(Path("out").glob("*.partial/masks/*.png"))), process)
    os.kill(processes_named(ACTOR)[0], signal.SIGKILL)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    lines = said.strip().splitlines()  # of both streams, and nothing of Ray's
    assert [x["state"] for x in json.loads(lines[-1])["videos"]] == ["done"] * 4
    told = ("was lost: what it did is done again", "did not learn", "has no room for a worker now")
    assert [x for x in lines[:-1] if not any(part in x for part in told)] == []
    assert contents(Path("out")) == expected
    until(lambda: not processes_named(ACTOR))


def test_a_worker_whose_device_failed() -> None:
    """Counts as lost: Ray starts another, and its video is done again, but not for ever."""
    item = Item("v.mp4", PurePosixPath("v.mp4"), parse_prompts(["kidney"]))
    spent = Spent(Outcome(item.key, "failed", error="the device failed", note="start it again"))
    let_go: list[Any] = []
    crew: Any = SimpleNamespace(
        ray=SimpleNamespace(get=lambda x: x), workers=[], let_go=let_go.append, grow=lambda videos: None
    )
    queue, lines = Queue([], None), list[str]()
    table = BatchTable(1, quiet=True)
    batch = _Batch(crew, queue, table, lines.extend)
    for losses in (1, 2, 3):
        worker: Any = SimpleNamespace(name=f"worker {losses}", answer=spent, item=item)
        table.begin(worker.name, item)
        ended = batch._take(worker)
        assert let_go[-1] is worker
        assert (ended is None) == (losses < 3)
        if losses < 3:
            assert queue.take() == item
    assert ended == spent.outcome
    assert lines == [f"worker {i} was lost: what it did is done again" for i in (1, 2)]


def test_ctrl_c(cluster: Cluster, small_weights: Path, tmp_path: Path) -> None:
    source = make_videos(tmp_path / "long", 4, frames=500)
    process = start(command(source, "out", small_weights, cluster.address), tmp_path)
    until(lambda: len(list(tmp_path.glob("out/*.partial/masks/*.png"))) > 5, process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
    until(lambda: not processes_named(ACTOR))
    assert not list(tmp_path.glob("out/*.partial"))


def test_a_long_video_in_pieces(cli: Cli, cluster: Cluster, small_weights: Path, tmp_path: Path) -> None:
    source = make_videos(tmp_path / "long", 1, frames=150)
    split = ["--split-minutes", "0.04", "--overlap", "0.4"]
    assert not cli("batch", source, "-t", "kidney", "-o", "local", "--weights", small_weights, *split).code
    process = start([*command(source, "out", small_weights, cluster.address), *split], Path.cwd())
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "joined from 3 pieces" in said
    assert contents(Path("out")) == contents(Path("local"))
    assert not list(Path("out").glob("*.partial"))


@pytest.mark.slow
def test_a_machine_with_another_version(cluster: Cluster, videos: Path, small_weights: Path, tmp_path: Path) -> None:
    """Is named once and left out; the others do its share."""
    for name in ("resurgsam2_cli", "model", "weights"):
        shutil.copytree(ROOT / name, tmp_path / "other" / name, ignore=shutil.ignore_patterns("__pycache__"))
    package = tmp_path / "other" / "resurgsam2_cli" / "__init__.py"
    package.write_text(package.read_text().replace(f'__version__ = "{__version__}"', '__version__ = "0.0.1"'))
    cluster.start(1, tmp_path / "home3", PYTHONPATH=str(tmp_path / "other"))
    try:
        process = start(command(videos, "out", small_weights, cluster.address), tmp_path)
        said = process.communicate()[0]
    finally:
        cluster.kill(2)
    assert "17 done, 0 skipped, 3 failed" in said, said
    assert said.count("a worker less: ") == 1
    assert f"has resurgsam2 0.0.1, and the batch is of {__version__}" in said


def test_two_drivers(cli: Cli, cluster: Cluster, videos: Path, small_weights: Path) -> None:
    """On one folder at once: each video is done by one of them."""
    expected = local(cli, videos, small_weights)
    both = [
        start([*command(videos, "out", small_weights, cluster.address), "--workers", "1"], Path.cwd()) for _ in "12"
    ]
    said = [x.communicate()[0] for x in both]
    assert [x.returncode for x in both] == [1, 1], said
    assert contents(Path("out")) == expected
    assert not list(Path("out").glob("*.partial*"))


def test_errors_come_as_they_are(cli: Cli, cluster: Cluster, videos: Path, tmp_path: Path) -> None:
    weights = tmp_path / "bad.safetensors"
    weights.write_bytes(b"nothing")
    process = start(command(videos, "out", weights, cluster.address), tmp_path)
    said = process.communicate()[0]
    assert process.returncode == 4, said
    assert "bad.safetensors" in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) <= 4
    done = cli(*command(videos, "out", videos / "v00.mp4", "127.0.0.1:1"), "--device", "cuda:1")
    assert done.code == 2
    done = cli("batch", videos, "-t", "x", "--workers", "2")
    assert done.code == 2
    assert "--workers is for --engine ray" in done.err
    process = start([*command(videos, "out", weights, cluster.address), "--cpus-per-worker", "8"], tmp_path)
    said = process.communicate()[0]
    assert process.returncode == 5, said
    assert "no machine of the cluster has room for a worker (cores: 8)" in said
    done = cli(*command(videos, "memory://x", weights, cluster.address))
    assert done.code == 2
    assert "memory:// is there for one process alone" in done.err


@pytest.mark.parametrize("address", ["foo", "", "http://x:80", "127.0.0.1:99999", "ray://x"])
def test_addresses(cli: Cli, videos: Path, small_weights: Path, address: str) -> None:
    done = cli(*command(videos, "out", small_weights, address))
    assert done.code == 2, done.err
    assert "write HOST:PORT" in done.err


def test_another_server(cli: Cli, videos: Path, small_weights: Path) -> None:
    """Something that is no Ray listens there."""
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        begin = time.monotonic()
        done = cli(*command(videos, "out", small_weights, f"127.0.0.1:{server.server_port}"))
        server.shutdown()
    assert done.code == 5, done.err
    assert "no Ray cluster answers" in done.err
    assert time.monotonic() - begin < 60


def test_no_cluster(cli: Cli, videos: Path, small_weights: Path, tmp_path: Path) -> None:
    process = start(command(videos, "out", small_weights, "127.0.0.1:1"), tmp_path)
    said = process.communicate()[0]
    assert process.returncode == 5, said
    assert "127.0.0.1:1: no Ray cluster answers" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_lost_machine(cli: Cli, cluster: Cluster, small_weights: Path, tmp_path: Path) -> None:
    """The other one does its video again. It does not come back for tests after this one."""
    source = make_videos(tmp_path / "long", 6, frames=200)
    expected = local(cli, source, small_weights)
    process = start(command(source, "out", small_weights, cluster.address), Path.cwd())
    until(lambda: len({x.parents[1] for x in Path("out").glob("*.partial/masks/*.png")}) == 2, process)
    cluster.kill(1)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "6 done" in said
    assert contents(Path("out")) == expected
    assert not list(Path("out").glob("*.partial*"))
    until(lambda: not processes_named(ACTOR))


def test_a_node_that_does_not_start(
    cli: Cli, videos: Path, small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray raises bare exceptions of its own: one line all the same."""
    import ray

    def slow(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen")

    monkeypatch.setattr(ray, "init", slow)
    done = cli(*command(videos, "out", small_weights, "local"))
    assert done.code == 5
    assert "local: Ray cannot connect (The current node timed out during startup. This could happen)" in done.err
    assert "Traceback" not in done.err
