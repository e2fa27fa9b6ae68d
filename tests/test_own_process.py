"""Outputs in a process of their own: the same files, errors that arrive, and nothing that is left over."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from resurgsam2_cli.errors import OutputError
from resurgsam2_cli.files.filling import Busy, is_busy
from resurgsam2_cli.outputs import SINKS, Clip, FrameResult, ObjectResult, own_process
from resurgsam2_cli.outputs.own_process import CannotStart, SinksApart
from resurgsam2_cli.outputs.sinks import Sinks
from resurgsam2_cli.process.usage import StageTimes
from resurgsam2_cli.prompts.prompt import parse_prompts
from resurgsam2_cli.runs.folder import Wanted
from resurgsam2_cli.segmenting.engine import build_engine
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.pipeline import segment
from resurgsam2_cli.video.source import open_source

resource = pytest.importorskip("resource", reason="outputs have a process of their own on Linux only")

pytestmark = pytest.mark.skipif(not own_process.POSSIBLE, reason="outputs have a process of their own on Linux only")

PROMPTS = parse_prompts(["kidney", "grasper"])
CLIP = Clip("clip", 48, 70, Fraction(25), Fraction(0), None, None, PROMPTS)


@pytest.fixture(autouse=True)
def nobody_waits() -> Iterator[None]:
    """Each test starts its own processes, and ends them."""
    own_process._close_free()
    yield
    own_process._close_free()


def result(number: int) -> FrameResult:
    random = np.random.default_rng(number)
    masks = random.random((2, 48, 70)) > 0.7
    labels = np.where(masks[1], 2, masks[0]).astype(np.uint8)
    objects = [ObjectResult(i, "track", True, 2.0, 0.9, 0.8, (0,), ()) for i in (1, 2)]
    rgb = random.integers(0, 256, (48, 70, 3), np.uint8)
    return FrameResult(number, f"{number:05d}", Fraction(number, 25), rgb, masks, labels, objects)


def wait_until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def processes_of(sinks: SinksApart) -> list[subprocess.Popen[bytes]]:
    return [x._process for x in sinks._writers]


def process_of(sinks: SinksApart) -> subprocess.Popen[bytes]:
    (process,) = processes_of(sinks)
    return process


def files_in(folder: Path) -> dict[Path, bytes]:
    return {x.relative_to(folder): x.read_bytes() for x in folder.rglob("*") if x.is_file()}


def begun(folder: Path, names: tuple[str, ...] = ("frames", "png")) -> SinksApart:
    folder.mkdir()
    return SinksApart(folder, CLIP, names, StageTimes())


def test_all_files_are_those_of_this_process(tmp_path: Path) -> None:
    """Run after run in the same processes, two at once in others; with the seconds of each output."""
    (here := tmp_path / "here").mkdir()
    sinks = Sinks(here, CLIP, SINKS, StageTimes(), lanes=False)
    for i in range(30):
        sinks.write(result(i))
    sinks.finish()

    pids = []
    for name in ("first", "second"):
        times = StageTimes()
        (folder := tmp_path / name).mkdir()
        apart = SinksApart(folder, CLIP, list(SINKS), times)
        pids.append([x.pid for x in processes_of(apart)])
        for i in range(30):
            apart.write(result(i))
        apart.finish()
        assert files_in(folder) == files_in(here)
        assert (apart.files, apart.sums) == (sinks.files, sinks.sums)
        assert times.frames == {f"write {x}": 31 for x in SINKS}
        assert 20 < times.others_mb < 400  # this process has taken more: it has PyTorch
    assert pids[0] == pids[1]
    assert len({*pids[0], os.getpid()}) == 3

    both = [begun(tmp_path / name) for name in ("a", "b")]
    assert len({process_of(x).pid for x in both}) == 2
    for x in both:
        x.finish()


def test_each_process_has_its_own_time(tmp_path: Path) -> None:
    """While one is held up, no frame that it has not copied is overwritten."""
    (here := tmp_path / "here").mkdir()
    sinks = Sinks(here, CLIP, ("frames", "png", "overlay"), StageTimes(), lanes=False)
    for i in range(10):
        sinks.write(result(i))
    sinks.finish()
    for held_up in (0, 1):
        apart = begun(folder := tmp_path / str(held_up), ("frames", "png", "overlay"))
        process = processes_of(apart)[held_up]
        process.send_signal(signal.SIGSTOP)
        writing = threading.Thread(target=lambda apart=apart: [apart.write(result(i)) for i in range(10)])
        writing.start()
        time.sleep(0.3)
        assert writing.is_alive()
        process.send_signal(signal.SIGCONT)
        writing.join()
        apart.finish()
        assert files_in(folder) == files_in(here)


@pytest.mark.parametrize("names", [("frames", "png"), ("frames", "overlay"), ("overlay",)])
def test_pictures_go_to_those_who_look_at_them(names: tuple[str, ...], tmp_path: Path) -> None:
    """They are most of what a frame has."""
    (here := tmp_path / "here").mkdir()
    sinks = Sinks(here, CLIP, names, StageTimes(), lanes=False)
    apart = begun(folder := tmp_path / "apart", names)
    apart._slots[:] = 0
    for i in range(3):
        sinks.write(result(i))
        apart.write(result(i))
    for x in (sinks, apart):
        x.finish()
    sent = any(result(0).rgb.tobytes() in slot.tobytes() for slot in apart._slots)
    assert sent == ("overlay" in names)
    assert files_in(folder) == files_in(here)


@pytest.mark.parametrize("ended", [0, 1])
def test_when_one_of_the_processes_ends(ended: int, tmp_path: Path) -> None:
    apart = begun(tmp_path / "run", ("frames", "overlay"))
    processes = processes_of(apart)
    processes[ended].kill()
    with pytest.raises(OutputError, match=r"the process that writes the outputs ended \(SIGKILL\)"):
        for i in range(20):
            apart.write(result(i))
    apart.halt()
    apart.abort()
    assert all(x.poll() is not None for x in processes)
    assert not own_process._free


def test_a_process_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    """Although the other one is not done, and never will be."""
    apart = begun(tmp_path / "run", ("frames", "overlay"))
    hanging, ended = processes_of(apart)
    hanging.send_signal(signal.SIGSTOP)
    ended.kill()
    with pytest.raises(OutputError, match="SIGKILL"):
        apart.finish()
    apart.abort()


def test_errors_arrive(tmp_path: Path) -> None:
    """Of a frame at the latest when some more are written; also where a sink cannot begin."""
    apart = begun(tmp_path / "gone")
    (tmp_path / "gone" / "masks").rmdir()
    with pytest.raises(FileNotFoundError, match="masks/0000"):
        for i in range(20):
            apart.write(result(i))
    apart.halt()
    apart.abort()

    (tmp_path / "there" / "masks").mkdir(parents=True)
    with pytest.raises(FileExistsError):
        SinksApart(tmp_path / "there", CLIP, ["png"], StageTimes())

    apart = begun(tmp_path / "killed")
    apart.write(result(0))
    process_of(apart).kill()
    with pytest.raises(OutputError, match=r"the process that writes the outputs ended \(SIGKILL\)"):
        apart.finish()
    apart.abort()
    assert not own_process._free


def test_errors_that_look_as_if_the_other_process_had_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that is content before it has got a picture."""
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(ffmpeg_that("exit 0", tmp_path)))
    apart = begun(tmp_path / "run", ("overlay",))
    with pytest.raises(BrokenPipeError):
        for i in range(100):
            apart.write(result(i))
    apart.abort()


def ffmpeg_that(does: str, folder: Path) -> Path:
    """A program that is as good as ffmpeg until it gets something to do."""
    program = folder / "ffmpeg"
    program.write_text(f"#!/bin/sh\nif [ $1 = -version ]; then echo ffmpeg version 7; exit; fi\n{does}\n")
    program.chmod(0o755)
    return program


def test_an_encoder_that_hangs_ends_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = ffmpeg_that(f"echo $$ > {tmp_path}/pid\nexec sleep 60", tmp_path)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(hanging))
    apart = begun(tmp_path / "run", ("overlay",))
    apart.write(result(0))
    pid_file = tmp_path / "pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    began = time.monotonic()
    apart.halt()
    apart.abort()
    assert time.monotonic() - began < 30  # of 60
    wait_until(lambda: not Path(f"/proc/{int(pid_file.read_text())}").exists())


LOCKED = """
import os, signal, sys, time
from pathlib import Path
from resurgsam2_cli.outputs.own_process import SinksApart
from resurgsam2_cli.process.usage import StageTimes
from resurgsam2_cli.runs.folder import Wanted
from tests.test_own_process import CLIP, result

folder = Wanted(Path(sys.argv[1]), "clip", "source", {}).claim(overwrite=False)
apart = SinksApart(folder.partial, CLIP, ["frames", "png"], StageTimes(), folder.lock_file)
os.mkfifo(folder.partial / "masks" / "00001.png")  # which waits until somebody reads it
for i in range(2):
    apart.write(result(i))
while not (folder.partial / "masks" / "00000.png").exists():
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_is_taken_as_long_as_the_process_lives(tmp_path: Path) -> None:
    """Whoever started it may be killed: until it has ended, too, nobody else fills its folder."""
    killed = subprocess.run([sys.executable, "-c", LOCKED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    partial = tmp_path / "clip.partial"
    time.sleep(0.5)
    assert is_busy(partial)
    with pytest.raises(Busy):
        Wanted(tmp_path, "clip", "source", {}).claim(overwrite=False)
    (partial / "masks" / "00001.png").read_bytes()
    wait_until(lambda: not is_busy(partial))
    Wanted(tmp_path, "clip", "source", {}).claim(overwrite=False).__exit__(None, None, None)


HUNG = """
import os, signal, sys
from pathlib import Path
from resurgsam2_cli.outputs.own_process import SinksApart
from resurgsam2_cli.process.usage import StageTimes
from resurgsam2_cli.runs.folder import Wanted
from tests.test_own_process import CLIP, result

folder = Wanted(Path(sys.argv[1]), "clip", "source", {}).claim(overwrite=False)
apart = SinksApart(folder.partial, CLIP, ["overlay"], StageTimes(), folder.lock_file)
signal.setitimer(signal.ITIMER_REAL, 2)  # when the pipe to the encoder and all that waits before it are full
signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
for i in range(1000):
    apart.write(result(i % 5))
"""


def test_an_encoder_that_hangs_does_not_outlive_the_program(tmp_path: Path) -> None:
    """Where that is killed: the process that waits for the encoder would have the folder's lock for good."""
    hanging = ffmpeg_that(f"echo $$ > {tmp_path}/pid\nexec sleep 600", tmp_path)
    environment = {**os.environ, "IMAGEIO_FFMPEG_EXE": str(hanging)}
    killed = subprocess.run([sys.executable, "-c", HUNG, str(tmp_path)], check=False, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert is_busy(tmp_path / "clip.partial")
    wait_until(lambda: not is_busy(tmp_path / "clip.partial"))
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_without_another_process_outputs_are_written_in_this_one(
    video: Path, small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole run, with such a process, and where none can be started: it is no program of Python, or not there."""
    engine = replace(build_engine(str(small_weights), None, "cpu", "fp32"), writes_apart=True)
    folders: list[dict[Path, bytes]] = []
    for program in (None, "/bin/false", "/nowhere/python"):
        if program is not None:
            monkeypatch.setattr(own_process, "get_executable", lambda program=program: program)
            own_process._close_free()
            with pytest.raises(CannotStart):
                begun(tmp_path / Path(program).name)
        with (
            open_source(str(video)) as source,
            Wanted(tmp_path / str(len(folders)), "clip", str(video), {}).claim(overwrite=False) as folder,
        ):
            summary = segment(engine, source, PROMPTS, SegmentOptions(), folder, lambda _: None)
        folders.append({k: v for k, v in files_in(summary.folder).items() if k.name != "run.json"})
        assert bool(own_process._free) == (program is None)
    assert folders[0] == folders[1] == folders[2]
    assert len(folders[0]) > 20


def test_where_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In programs that have put more than text into the path, and with a Python that was built on an old system."""
    monkeypatch.setattr(sys, "path", [*sys.path, Path("/path"), b"/bytes", "/not/UTF-8/\udcff"])
    monkeypatch.delattr(os, "memfd_create", raising=False)
    begun(tmp_path / "run").finish()


@pytest.mark.parametrize("lack", ["executable", "file in memory", "room"])
def test_where_it_cannot_start(lack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a program that Python is a part of, and on a system that has no such memory, or allows small files alone."""
    if lack == "executable":
        monkeypatch.setattr(own_process, "get_executable", lambda: None)
    elif lack == "file in memory":
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if lack == "room":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(CannotStart):
            begun(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


FORKED = """
import multiprocessing, sys, time
from pathlib import Path
from tests.test_own_process import begun

begun(Path(sys.argv[1])).finish()
multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,), daemon=True).start()
"""


def test_a_process_that_was_forked_off_holds_nobody_up(tmp_path: Path) -> None:
    """As those that load data for PyTorch: it has all that its parent had open, also at the parent's end."""
    subprocess.run([sys.executable, "-c", FORKED, str(tmp_path / "run")], check=True, timeout=60)


KILLED = """
import os, signal
from multiprocessing.connection import Connection
from resurgsam2_cli.outputs import own_process

Connection.poll = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
own_process._writer().wait_until_ready()
"""


def test_it_ends_without_a_word_when_nobody_is_there_any_more() -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, check=False, timeout=60)
    assert (killed.returncode, killed.stdout, killed.stderr) == (-signal.SIGKILL, b"", b"")


def test_ctrl_c_is_for_the_process_that_started_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Also where it gets there: it ends when that one says so."""
    apart = begun(tmp_path / "run")
    apart.write(result(0))
    process_of(apart).send_signal(signal.SIGINT)
    apart.write(result(1))
    apart.finish()
    own_process._close_free()
    assert capfd.readouterr() == ("", "")
