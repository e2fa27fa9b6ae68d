"""The review page, served in a thread, and asked as a browser asks."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from conftest import SMALL, small_state

from resurgsam2_cli.refining.refine import BuildEngine
from resurgsam2_cli.review.opened import OpenRun
from resurgsam2_cli.review.server import Page
from resurgsam2_cli.runs.record import read_run
from resurgsam2_cli.segmenting.engine import Engine, build_engine
from weights.loader import save_release

TOKEN = "a-token"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The small network, with which any click makes a mask."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_release(path, SMALL, small_state(score_bias=12.0))
    return build_engine(str(path))


class Browser:
    """What a window of the page asks for."""

    def __init__(self, port: int, window: str = "one") -> None:
        self.port, self.window = port, window
        self.host = f"127.0.0.1:{port}"
        self.address = f"http://{self.host}/{TOKEN}/"

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """One request, with what a browser adds to it, unless ``headers`` say otherwise; an empty one is left out."""
        own = {"Host": self.host, "Sec-Fetch-Site": "same-origin"}
        if method == "POST":
            own |= {"Origin": f"http://{self.host}", "Content-Type": "application/json"}
        own |= {key.replace("_", "-"): value for key, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for key, value in own.items():
                if value:
                    connection.putheader(key, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """JSON of the page's own server."""
        joined = "&" if "?" in path else "?"
        status, _, body = self.ask("GET", f"/{TOKEN}/api/{path}{joined}window={self.window}")
        found = json.loads(body)
        assert status == 200, found
        return found

    def post(self, path: str, status: int = 200, **content: Any) -> Any:
        """Say something; returns the state of the run, or the error."""
        if "stamp" not in content:
            content["stamp"] = self.get(path.rsplit("/", 1)[0])["stamp"]
        body = json.dumps({"window": self.window, **content}).encode()
        found, _, answer = self.ask("POST", f"/{TOKEN}/api/{path}", body)
        assert found == status, answer
        return json.loads(answer)

    def followed(self, run: str = "runs/0") -> Any:
        """The state once the correction that is on its way has ended."""
        for _ in range(1200):
            state = self.get(f"{run}/state")
            if not state["job"] or state["job"]["stage"] != "running":
                return state
            time.sleep(0.05)
        raise AssertionError("the correction does not end")

    def undo(self, run: str = "runs/0") -> Any:
        """Take back what was said last, or a version; returns the state after it."""
        self.post(f"{run}/undo")
        return self.followed(run)


@contextmanager
def served(folders: Sequence[Path], build: BuildEngine | None, sources: Path | None = None) -> Iterator[Browser]:
    """The page over some runs."""
    runs = [OpenRun(read_run(x), build, sources) for x in folders]
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            Page(runs).application(TOKEN),
            log_level="error",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Browser(listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()
            for run in runs:
                run.close()
