"""Ctrl-C and SIGTERM end the program soon, wherever it is, and leave nothing running."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clips import ffmpeg
from PIL import Image

from resurgsam2_cli.video.ffmpeg import executable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")

ROOT = Path(__file__).parents[1]
PROGRAM = [sys.executable, "-m", "resurgsam2_cli"]
SOON = 120.0
"""Seconds, on a machine that is busy with other work; the program itself takes at most two."""

Ready = Callable[[], bool]


def hears(process: int) -> bool:
    """Whether a process, which has just been started, handles SIGTERM."""
    (caught,) = (x.split()[1] for x in Path(f"/proc/{process}/status").read_text().splitlines() if "SigCgt" in x)
    return bool(int(caught, 16) & 1 << (signal.SIGTERM - 1))


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def processes_of(session: int) -> list[str]:
    """Command lines of the processes of a session, without zombies."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(command)
    return found


def interrupt(command: list[str], ready: Ready, tell: Callable[[int], None], cwd: Path, **more: str) -> tuple[int, str]:
    """Start a command, ``tell`` its process when it is ``ready``; return exit code and what it printed."""
    with (cwd / "said").open("w+") as said:
        process = subprocess.Popen(
            [*PROGRAM, *command], cwd=cwd, env=environment(**more), stderr=said, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while not (hears(process.pid) and ready()):
            assert process.poll() is None, (cwd / "said").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        tell(process.pid)
        code = process.wait(SOON)
    deadline = time.monotonic() + SOON
    while left := [x for x in processes_of(process.pid) if "resource_tracker" not in x and "forkserver" not in x]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    return code, (cwd / "said").read_text()


def once(process: int) -> None:
    os.kill(process, signal.SIGINT)


def twice(process: int) -> None:
    os.kill(process, signal.SIGINT)
    time.sleep(0.2)
    os.kill(process, signal.SIGINT)


def group(process: int) -> None:
    os.killpg(process, signal.SIGINT)


def term(process: int) -> None:
    os.kill(process, signal.SIGTERM)


HOW = pytest.mark.parametrize("tell", [once, twice, group, term], ids=lambda x: x.__name__)


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """An ffmpeg whose encoder hangs, with a child of its own; it decodes as usual."""
    path = tmp_path / "ffmpeg"
    encoding = f'if [ "$x" = libx264 ]; then touch "{tmp_path}/hangs"; sleep 1000; exit; fi'
    path.write_text(f'#!/bin/sh\nfor x in "$@"; do {encoding}; done\nexec "{executable()}" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def long_video(tmp_path: Path) -> Path:
    path = tmp_path / "long.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25", "-frames:v", "3000", "-pix_fmt", "yuv420p", path)
    return path


@HOW
def test_an_encoder_that_hangs(
    tell: Callable[[int], None], hanging: Path, long_video: Path, small_weights: Path, tmp_path: Path
) -> None:
    command = ["segment", str(long_video), "-t", "kidney", "--weights", str(small_weights)]
    code, said = interrupt(
        command,
        (tmp_path / "hangs").exists,
        tell,
        tmp_path,
        IMAGEIO_FFMPEG_EXE=str(hanging),
        IMAGEIO_FFMPEG_NO_TEST="1",
    )
    assert code == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    assert not (tmp_path / "runs" / "long").exists()


BUSY = """
import threading, time
import torch
import resurgsam2_cli.app
from resurgsam2_cli.__main__ import main
from resurgsam2_cli.process.interruption import Interrupted

def work():
    while True:
        torch.rand(100, 100) @ torch.rand(100, 100)

def app():
    for _ in range(4):
        threading.Thread(target=work, daemon=True).start()
    time.sleep(0.2)
    print("said before")
    raise Interrupted

resurgsam2_cli.app.app = app
main()
"""


def test_a_thread_that_is_in_pytorch_at_the_end() -> None:
    """Taking the interpreter apart under it aborts the process, in place of its exit code."""
    done = subprocess.run([sys.executable, "-c", BUSY], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stdout == "said before\n"
    assert done.stderr.startswith("resurgsam2: interrupted")


DEAF = """
import time
import resurgsam2_cli.app
from rich.live import Live
from resurgsam2_cli.__main__ import main
from resurgsam2_cli.terminal.console import console

def app():
    with Live("a live table", console=console(stderr=True), transient=True):
        while True:
            try:
                time.sleep(1000)
            except BaseException:
                pass

resurgsam2_cli.app.app = app
main()
"""


def test_the_last_words_come_after_a_live_table() -> None:
    """A hard end leaves what it says on the terminal, below the table, and the cursor as it was."""
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF], stderr=theirs, start_new_session=True, env=environment(TERM="xterm-256color")
    )
    os.close(theirs)
    shown = b""
    while b"a live table" not in shown:
        shown += os.read(ours, 65536)
    process.terminate()
    with contextlib.suppress(OSError):  # the other end is closed
        while more := os.read(ours, 65536):
            shown += more
    assert process.wait(SOON) == 130
    os.close(ours)
    assert shown.rstrip().endswith(b"interrupted; nothing unfinished was left under a final name")
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l") >= 0


@pytest.mark.slow
@HOW
def test_several_processes(tell: Callable[[int], None], long_video: Path, small_weights: Path, tmp_path: Path) -> None:
    """The signal comes while two processes work."""
    os.link(long_video, tmp_path / "other.mp4")
    (tmp_path / "third.mp4").write_bytes(long_video.read_bytes())
    command = ["batch", str(long_video), str(tmp_path / "third.mp4"), "-t", "kidney", "--device", "cpu,cpu"]

    def ready() -> bool:
        return all(len(list(tmp_path.glob(f"runs/{x}.partial/masks/*.png"))) > 3 for x in ("long", "third"))

    code, said = interrupt([*command, "--weights", str(small_weights)], ready, tell, tmp_path)
    assert code == 130
    assert "Traceback" not in said
    assert not list((tmp_path / "runs").glob("*/run.json"))


@pytest.mark.parametrize("tell", [once, group], ids=lambda x: x.__name__)
def test_evaluate(tell: Callable[[int], None], tmp_path: Path) -> None:
    """The signal comes while processes measure large pictures, each for a long time."""
    labels = np.random.default_rng(0).integers(0, 9, (60, 80), np.uint8)
    Image.fromarray(np.repeat(np.repeat(labels, 16, 0), 16, 1)).save(tmp_path / "labels.png")
    for video in ("a", "b", "c"):
        (tmp_path / "truth" / video).mkdir(parents=True)
        for t in range(60):
            os.link(tmp_path / "labels.png", tmp_path / "truth" / video / f"{t:05d}.png")

    def ready() -> bool:
        return sum(map(is_ours, Path("/proc").glob("[0-9]*"))) > 2

    def is_ours(process: Path) -> bool:
        try:
            command = (process / "cmdline").read_bytes()
            return (process / "cwd").samefile(tmp_path) and (b"spawn" in command or b"evaluate" in command)
        except OSError:
            return False

    command = ["evaluate", "truth", "--truth", "truth", "--workers", "2", "--csv-file", "scores.csv"]
    code, said = interrupt(command, ready, tell, tmp_path)
    assert code == 130, said
    assert not (tmp_path / "scores.csv").exists()


@pytest.mark.parametrize("tell", [once, group, term], ids=lambda x: x.__name__)
@pytest.mark.parametrize("moment", ["starting", "training"])
def test_processes_that_train(moment: str, tell: Callable[[int], None], tmp_path: Path) -> None:
    """The signal comes while the other process starts, or while both train."""

    def ready() -> bool:
        if moment == "training":
            log = tmp_path / "out" / "log.csv"
            return log.exists() and log.read_text().count("\n") > 1
        return any(is_worker(x) for x in Path("/proc").glob("[0-9]*"))

    def is_worker(process: Path) -> bool:
        try:
            same_place = os.readlink(process / "cwd") == str(tmp_path)
            return same_place and b"spawn_main" in (process / "cmdline").read_bytes()
        except OSError:
            return False

    code, said = interrupt(["train", "-o", "out", "--processes", "2", "-q"], ready, tell, tmp_path)
    assert code == 130, said
    assert said.splitlines() == ["resurgsam2: interrupted; nothing unfinished was left under a final name"]


@HOW
def test_while_it_starts(tell: Callable[[int], None], long_video: Path, tmp_path: Path) -> None:
    """The signal comes among imports, which take seconds."""
    code, said = interrupt(["segment", str(long_video), "-t", "kidney"], lambda: True, tell, tmp_path)
    assert code == 130, said
    assert "Traceback" not in said


def test_work_that_does_not_hear(tmp_path: Path) -> None:
    """If a library does not return in time, the program ends all the same, and its children with it."""
    code = """
import signal, time
from resurgsam2_cli.process.interruption import HardEnd, interruptible, start_process
hard_end = HardEnd(130, patience=0.3, last_words=lambda: print("last words", flush=True))
with interruptible(signal.SIGINT, hard_end=hard_end):
    child = start_process(["sleep", "1000"])
    said = False
    while True:
        try:
            if not said:
                said = True
                print(child.pid, flush=True)
            time.sleep(1000)
        except BaseException:
            pass
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment(), start_new_session=True, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    assert process.wait(SOON) == 130
    assert process.stdout.read() == "last words\n"
    process.stdout.close()
    deadline = time.monotonic() + SOON
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)
