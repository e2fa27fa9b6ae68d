"""What stands before the page: only who has its address gets anything, and only from this machine's own names."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import PlainTextResponse

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HOSTS = ("127.0.0.1", "localhost", "[::1]")

MOST_BYTES = 2**24
"""Of a request."""

HEADERS = {
    # Nothing from elsewhere, nothing inline, no frames.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # pictures of patients stay out of the browser's files
}


class Guard:
    """Lets through what begins with ``/TOKEN/``, with that taken off, from this machine's own names.

    A page elsewhere cannot know the token. Should it leak, requests that another page makes are still refused: by
    their ``Host`` (a name that was bent to this machine), ``Origin`` and ``Sec-Fetch-Site``.
    """

    def __init__(self, app: App, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1008})
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                there = {name for name, _ in message.get("headers", [])}
                extra = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *(x for x in extra if x[0] not in there)]
            await send(message)

        refused = self._refused(scope)
        if refused is not None:
            await refused(scope, receive, with_headers)
            return
        body = await _whole(receive)
        if body is None:
            await PlainTextResponse("too large", 413)(scope, receive, with_headers)
            return

        async def given() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        path = scope["path"][len(self._token) + 1 :]
        await self._app({**scope, "path": path, "raw_path": path.encode(), "root_path": ""}, given, with_headers)

    def _refused(self, scope: Scope) -> PlainTextResponse | None:
        headers: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value.decode("latin-1"))
        hosts = headers.get(b"host", [])
        name = hosts[0].rsplit(":", 1)[0] if len(hosts) == 1 and not hosts[0].endswith("]") else "".join(hosts)
        if len(hosts) != 1 or name.lower() not in HOSTS:
            return PlainTextResponse("not a name of this page", 421)
        given = scope["path"].split("/", 2)
        is_known = len(given) == 3 and secrets.compare_digest(given[1].encode(), self._token.encode())
        if not is_known:
            return PlainTextResponse("not found: open the address that resurgsam2 review printed", 404)
        if any(x != f"http://{hosts[0]}" for x in headers.get(b"origin", [])):
            return PlainTextResponse("not from this page", 403)
        reads = scope["method"] in ("GET", "HEAD")
        follows_link = reads and headers.get(b"sec-fetch-mode") == ["navigate"]
        if not follows_link and any(x != "same-origin" for x in headers.get(b"sec-fetch-site", [])):
            return PlainTextResponse("not from this page", 403)
        if scope["method"] == "POST":
            if not headers.get(b"origin"):
                return PlainTextResponse("not from this page", 403)
            if [x.split(";")[0].strip() for x in headers.get(b"content-type", [])] != ["application/json"]:
                return PlainTextResponse("JSON is expected", 415)
        elif not reads:
            return PlainTextResponse("not allowed", 405)
        return None


async def _whole(receive: Receive) -> bytes | None:
    """The body of a request; None if it is too large."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MOST_BYTES:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)
