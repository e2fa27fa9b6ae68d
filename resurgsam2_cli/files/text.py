"""Text from files and names: decoding, and only characters that every output can hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from resurgsam2_cli.errors import InputError

_SURROGATES = re.compile("[\ud800-\udfff]")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def readable(text: str) -> str:
    """Text that UTF-8 can hold: file names may contain bytes that are not text, JSON may contain half characters."""
    return _SURROGATES.sub("\ufffd", text)


def one_line(text: str) -> str:
    """Readable text without line breaks, control characters or repeated spaces."""
    return " ".join(_CONTROLS.sub(" ", readable(text)).split())


def decode_text(data: bytes) -> str:
    """UTF-8 with or without a byte order mark, or UTF-16 with one. Raises ``ValueError``."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    return data.decode("utf-8-sig")


def parse_json(text: str) -> Any:
    """Decode JSON. Raises ``ValueError``, also for text nested too deeply and for numbers that are not finite."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")


def read_json(path: Path, hint: str) -> Any:
    """Read a JSON file. Raises :class:`InputError` with ``hint`` if there is none or it cannot be decoded."""
    try:
        return parse_json(decode_text(path.read_bytes()))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})", hint) from error
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error})", hint) from error
