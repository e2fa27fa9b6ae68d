"""Where the files of releases are, here or on a mirror, and whether these servers can be reached."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies, select_proxy

from resurgsam2_cli.errors import UsageError
from weights.errors import WeightsError

MIRROR_VARIABLE = "RESURGSAM2_MIRROR"

PATIENCE = 20.0
"""Seconds that a server has to answer."""


_SIZE = r"[0-9]{1,18}"


class Unreachable(WeightsError):
    """A server that cannot be reached at all, whatever it has."""


def address(source: dict[str, str]) -> str:
    """The URL of a source's file."""
    if "huggingface" in source:
        from huggingface_hub import hf_hub_url  # which knows HF_ENDPOINT

        return str(hf_hub_url(source["huggingface"], source["file"]))
    return source["url"] if "url" in source else f"https://drive.google.com/uc?id={source['google_drive']}"


def placed(source: dict[str, str]) -> dict[str, str]:
    """The source as it is on the mirror, if the environment names one.

    The mirror's address stands in place of the server's; the path stays. A file of Google Drive, where addresses have
    no path, has its id in place of it. Raises :class:`UsageError`.
    """
    base = _mirror()
    if not base:
        return source
    if "google_drive" in source:
        path = f"/{source['google_drive']}"
    elif "huggingface" in source:
        path = f"/{source['huggingface']}/resolve/main/{source['file']}"
    else:
        parts = urlsplit(source["url"])
        path = parts._replace(scheme="", netloc="").geturl()
    member = {"member": source["member"]} if "member" in source else {}
    return {"url": base + path, **member}


def _mirror() -> str:
    """The base URL in the environment, without a slash at its end; empty if there is none."""
    text = os.environ.get(MIRROR_VARIABLE, "").strip()
    if not text:
        return ""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  (raises ValueError if it is no number)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"[\s?#]", text)
        named = "@" in parts.netloc
    except ValueError:
        good = named = False
    if named:
        raise UsageError(
            f"{MIRROR_VARIABLE} has a name or a password in it, which would be shown", "put them into ~/.netrc instead"
        )
    if not good:
        raise UsageError(
            f"{MIRROR_VARIABLE}={text!r} is not the address of a server", "such as http://mirror.local/hf, or unset it"
        )
    return text.rstrip("/")


def size_at(url: str) -> int | None:
    """Ask the server of a file for its size in bytes; None if it does not say. Raises :class:`Unreachable`."""
    try:
        with requests.Session() as session:
            # Sizes are those of the bytes that will lie on the disk.
            headers = {"Accept-Encoding": "identity"}
            answer = session.head(url, headers=headers, timeout=PATIENCE, allow_redirects=True)
    except requests.exceptions.ProxyError as error:
        raise _unreachable(url, error) from error
    except requests.exceptions.SSLError:
        return None  # other libraries, which download, may know the certificate
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        raise _unreachable(url, error) from error
    except requests.exceptions.RequestException:
        return None  # whoever downloads it says what is wrong
    if answer.status_code == requests.codes.proxy_authentication_required:
        raise Unreachable(f"{_host(url)} cannot be reached: {_proxy(url)} asks for a name and a password")
    stated = [x.headers.get("X-Linked-Size") for x in answer.history]  # where Hugging Face redirects to storage
    if answer.ok and not answer.headers.get("Content-Type", "").startswith("text/html"):
        stated.append(answer.headers.get("Content-Length"))
    return next((int(x) for x in stated if x and re.fullmatch(_SIZE, x)), None)


def _unreachable(url: str, error: requests.exceptions.RequestException) -> Unreachable:
    """The error that says in plain words why a server cannot be reached."""
    if error.request is not None and isinstance(error.request.url, str):
        url = error.request.url  # another one after a redirect
    host, proxy = _host(url), _proxy(url)
    who = proxy or "it"
    chain = list(_causes(error))
    refusal = next((x[1] for cause in chain if (x := re.search(r"Tunnel connection failed: ([\w ]+)", str(cause)))), "")
    if refusal:
        why = f"{who} answers: {refusal.strip()}"
    elif any(isinstance(x, socket.gaierror) for x in chain):
        why = f"{f'the name of {proxy}' if proxy else 'its name'} is not known here (no internet, or no name server)"
    elif any(isinstance(x, ConnectionRefusedError) for x in chain):
        why = f"{who} refuses the connection"
    elif any(isinstance(x, TimeoutError | requests.exceptions.Timeout) for x in chain):
        why = f"{who} did not answer within {PATIENCE:g} s"
    else:
        found = next((x.strerror for x in chain if isinstance(x, OSError) and x.errno and x.strerror), "")
        why = f"the connection to {who} fails{f' ({found})' if found else ''}"
    return Unreachable(f"{host} cannot be reached: {why}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it. Libraries keep this in several places."""
    left, seen = [error], set()
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        left.extend(x for x in inner if isinstance(x, BaseException))


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


def _proxy(url: str) -> str:
    """The proxy that leads to a server, without names and passwords; empty if there is none."""
    chosen = select_proxy(url, get_environ_proxies(url))
    return f"the proxy {urlsplit(chosen).netloc.rpartition('@')[2] or chosen}" if chosen else ""
