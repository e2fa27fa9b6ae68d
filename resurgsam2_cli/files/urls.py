"""What lies behind URLs (``s3://``, ``gs://``, ``memory://``), through fsspec, which is asked for nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from resurgsam2_cli.errors import InputError, OutputError, UsageError, UserError

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


def is_url(text: str) -> bool:
    """Whether this is a URL, not a path."""
    return bool(_URL.match(text))


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it, without a slash at its end. Raises :class:`UsageError`."""
    kind = url.partition("://")[0]
    try:
        import fsspec
    except ImportError as error:
        raise UsageError(f"{url}: URLs need fsspec, which is not installed", "pip install fsspec") from error
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UsageError(f"{url}: {error}", f"install what fsspec needs for {kind}://, or copy the files") from error
    except (ValueError, OSError) as error:
        raise UsageError(f"{url}: {error}", "fsspec knows s3://, gs://, az://, memory:// and others") from error
    if "file" in ([system.protocol] if isinstance(system.protocol, str) else system.protocol):
        raise UsageError(f"{url}: is on this machine", "write it as a path")
    return system, path.rstrip("/")


@contextmanager
def reading_from(url: str) -> Iterator[None]:
    """Turn what a file system says into :class:`InputError`."""
    with _errors(InputError, url, "read", "check the URL, and that you may read it"):
        yield


@contextmanager
def writing_to(url: str) -> Iterator[None]:
    """Turn what a file system says into :class:`OutputError`."""
    with _errors(OutputError, url, "written to", "check the URL, and that you may write there"):
        yield


@contextmanager
def _errors(kind: type[UserError], url: str, what: str, hint: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise kind(f"{url}: there is nothing", hint) from error
    except Exception as error:  # each file system has errors of its own
        raise kind(f"{url}: cannot be {what} ({type(error).__name__}: {error})", hint) from error
