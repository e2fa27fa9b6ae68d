"""The server of the page: a table of addresses, and what each gives. All work is done in threads."""

from __future__ import annotations

import secrets
import socket
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from resurgsam2_cli.errors import InputError, UsageError, UserError
from resurgsam2_cli.files.text import parse_json
from resurgsam2_cli.review.guard import Guard
from resurgsam2_cli.review.opened import OpenRun, Stale

ASSETS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

WIDEST = 3840
"""Pixels of a picture, at most."""

_NARROWEST = 320


@dataclass(frozen=True)
class Page:
    """The page over some runs."""

    runs: Sequence[OpenRun]

    def application(self, token: str) -> Guard:
        """The page as an ASGI application, below ``/TOKEN/``."""
        one = "/api/runs/{run}"
        routes = [
            Route("/", _asset("index.html")),
            *(Route(f"/{x}", _asset(x)) for x in asset_names() if x != "index.html"),
            Route("/api/runs", self._answers(lambda _: self.overview())),
            Route(one, self._answers(lambda x: x.run.content.describe())),
            Route(f"{one}/state", self._answers(lambda x: x.run.state(x.window))),
            Route(f"{one}/masks", self._answers(lambda x: x.run.content.masks(x.number("first"), x.number("end")))),
            Route(f"{one}/counted", self._answers(lambda x: x.run.counted())),
            Route(f"{one}/places", self._answers(lambda x: x.run.content.place_list())),
            Route(f"{one}/lanes", self._answers(_cells)),
            Route(f"{one}/next", self._answers(_next)),
            Route(f"{one}/frames/{{step}}.jpg", self._answers(_picture)),
            Route(f"{one}/say", self._answers(lambda x: x.run.say(x.window, x.stamp, x.content)), methods=["POST"]),
            Route(f"{one}/undo", self._answers(lambda x: x.run.undo(x.window, x.stamp)), methods=["POST"]),
            Route(f"{one}/redo", self._answers(lambda x: x.run.redo(x.window, x.stamp)), methods=["POST"]),
            Route(
                f"{one}/follow", self._answers(lambda x: x.run.follow(x.window, x.stamp, x.content)), methods=["POST"]
            ),
            Route(f"{one}/add", self._answers(lambda x: x.run.add(x.window, x.stamp, x.content)), methods=["POST"]),
            Route(f"{one}/cancel", self._answers(lambda x: x.run.cancel(x.window)), methods=["POST"]),
            Route(f"{one}/take-over", self._answers(lambda x: x.run.take_over(x.window)), methods=["POST"]),
            Route(f"{one}/leave", self._answers(_left), methods=["POST"]),
        ]
        return Guard(Starlette(routes=routes), token)

    def overview(self) -> list[dict[str, Any]]:
        """All runs, with what is known of each without reading all of it."""
        return [x.summary() for x in self.runs]

    def _answers(self, give: Callable[[_Asked], Any]) -> Callable[[Request], Any]:
        """An endpoint that gives what ``give`` returns, as JSON if it is no response; errors are told in one line."""

        async def endpoint(request: Request) -> Response:
            body = await request.body()
            return await run_in_threadpool(self._answer, request, body, give)

        return endpoint

    def _answer(self, request: Request, body: bytes, give: Callable[[_Asked], Any]) -> Response:
        try:
            asked = _Asked(self.runs, request, _parsed(body))
            found = give(asked)
            if request.method == "POST" and found is None:
                found = asked.run.state(asked.window)
            return found if isinstance(found, Response) else JSONResponse(found)
        except Stale as error:
            return _error(error, 409)
        except UserError as error:
            return _error(error, 400)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            traceback.print_exception(error)
            return _error(UsageError("what the page sent cannot be read", "load it again"), 400)


class _Asked:
    """One request of the page."""

    def __init__(self, runs: Sequence[OpenRun], request: Request, content: Any) -> None:
        if not isinstance(content, dict):
            raise UsageError("what the page sent cannot be read", "load it again")
        self._runs, self.request, self.content = runs, request, content

    @property
    def run(self) -> OpenRun:
        """The run that it is about."""
        number = _whole("the run", self.request.path_params["run"])
        if not 0 <= number < len(self._runs):
            raise InputError("there is no such run on this page", "see the list")
        return self._runs[number]

    @property
    def window(self) -> str:
        """The name that the window gave itself."""
        return str(self.content.get("window", self.request.query_params.get("window", "")))[:64]

    @property
    def stamp(self) -> str:
        """The version that the window knows."""
        return str(self.content.get("stamp", ""))

    def number(self, name: str) -> int:
        """A whole number of the address. Raises :class:`UsageError`."""
        return _whole(name, self.request.query_params.get(name, ""))


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.removeprefix("-").isdecimal() and len(text) < 10):
        raise UsageError(f"{name} is no whole number", "load the page again")
    return int(text)


def _parsed(body: bytes) -> Any:
    """What the page sent. Raises :class:`UsageError`."""
    try:
        return parse_json(body.decode()) if body else {}
    except (ValueError, RecursionError) as error:
        raise UsageError("what the page sent cannot be read", "load it again") from error


def _cells(asked: _Asked) -> dict[str, Any]:
    return asked.run.content.lanes.cells(*(asked.number(x) for x in ("first", "end", "count")))


def _next(asked: _Asked) -> dict[str, Any]:
    content, row = asked.run.content, asked.number("object") - 1
    if not 0 <= row < len(content.run.objects):
        raise UsageError("the run has no such object", "choose one of the list")
    what = asked.request.query_params.get("what", "")
    return {"step": content.lanes.next_change(row, asked.number("step"), asked.number("direction"), what)}


def _left(asked: _Asked) -> dict[str, Any]:
    asked.run.leave(asked.window)
    return {}


def _picture(asked: _Asked) -> Response:
    content, step = asked.run.content, _whole("step", asked.request.path_params["step"])
    if not 0 <= step < content.run.frames:
        raise UsageError(f"there is no frame at {step}", "ask for another one")
    width = min(WIDEST, max(_NARROWEST, asked.number("width")))
    return Response(content.pictures.jpeg(step, width), media_type="image/jpeg")


def _error(error: UserError, status: int) -> JSONResponse:
    return JSONResponse({"error": error.message, "hint": error.hint, "sentences": f"{error.sentences}."}, status)


def asset_names() -> list[str]:
    """The files of the page."""
    return sorted(x.name for x in files(__package__).joinpath("page").iterdir() if _kind(x.name))


def _kind(name: str) -> str | None:
    return next((kind for suffix, kind in ASSETS.items() if name.endswith(suffix)), None)


def _asset(name: str) -> Callable[[Request], Any]:
    """An endpoint that gives one file of the page."""

    async def endpoint(request: Request) -> Response:
        content = files(__package__).joinpath("page", name).read_bytes()
        return Response(content, media_type=_kind(name))

    return endpoint


def serve(page: Page, port: int, tell: Callable[[str], None]) -> None:
    """Serve the page on this machine until the process is asked to end; ``tell`` is given its address.

    A ``port`` of 0 is one that is free. Raises :class:`UsageError` for one that is not.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError as error:
            raise UsageError(f"--port {port}: cannot be used ({error.strerror})", "choose another one, or 0") from error
        listening.listen()  # who has the address may ask at once
        token = secrets.token_urlsafe(24)
        # No limits on idle windows: one may be left open over night.
        config = uvicorn.Config(
            page.application(token),
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        tell(f"http://127.0.0.1:{listening.getsockname()[1]}/{token}/")
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            for run in page.runs:
                run.close()
