"""A Ray cluster of two machines on loopback, each with its own part of the cores, that can be killed one by one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

RAY = Path(sys.executable).parent / "ray"
ROOT = Path(__file__).parents[1]
_PATIENCE = 120.0  # seconds, beside other work
_STARTS = 3


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(**more: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        # A lost machine is noticed within a few seconds.
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "12",
        "RAY_health_check_initial_delay_ms": "0",
        **more,
    }


class Cluster:
    """``nodes`` are started one after the other; the first is the head."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self.address = f"127.0.0.1:{self._port}"
        self.nodes: list[subprocess.Popen[bytes]] = []

    def start(self, cpus: int, home: Path, **more: str) -> None:
        """Start a node with these cores, a cache of weights of its own, and ``more`` in its environment."""
        number = len(self.nodes) + 1
        command = [str(RAY), "start", "--block", f"--num-cpus={cpus}", "--num-gpus=0", "--disable-usage-stats"]
        command += [f"--node-ip-address=127.0.0.{number}", "--object-store-memory=100000000"]
        if number == 1:
            command += ["--head", f"--port={self._port}", "--include-dashboard=false", f"--temp-dir={self._folder}"]
            command += [f"--ray-client-server-port={free_port()}"]
        else:
            command += [f"--address={self.address}"]
        path = self._folder.parent / f"node{number}.log"
        for _ in range(_STARTS):  # beside other work, one may be too slow for Ray
            with path.open("wb") as log:
                node = subprocess.Popen(
                    command,
                    env=environment(RESURGSAM2_HOME=str(home), **more),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self.nodes.append(node)
            deadline = time.monotonic() + _PATIENCE
            while node.poll() is None and time.monotonic() < deadline:
                if b"Ray runtime started" in path.read_bytes():
                    return
                time.sleep(0.1)
            self.kill(number - 1)
            self.nodes.pop()
        raise AssertionError(path.read_text())

    def kill(self, node: int) -> None:
        """Kill a machine: everything on it at once, without a word."""
        with suppress(ProcessLookupError):
            for pid in session(self.nodes[node].pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.nodes[node].wait()

    def stop(self) -> None:
        for node in reversed(range(len(self.nodes))):
            self.kill(node)


def session(leader: int) -> list[int]:
    """The processes of a session."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == leader:
                    found.append(int(folder.name))
    return found


def processes_named(name: str) -> list[int]:
    """Processes whose command line begins so, such as those of actors."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                if (folder / "cmdline").read_bytes().startswith(name.encode()):
                    found.append(int(folder.name))
    return found
