"""Text from files and names: decoding, and only characters that every output can hold."""

from __future__ import annotations

import difflib
import json
import math
import re
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from resurgsam2_cli.errors import InputError

_SURROGATES = re.compile("[\ud800-\udfff]")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

MOST_BYTES = 2**26
"""The largest file that is read whole. This program's are far smaller; a video given by mistake is larger."""

_PIECE = 2**16

_DEEPEST = 64
"""Levels of JSON. Comparing or showing anything deeper could run out of stack."""

_COMPARED = 200
"""Characters of names that are compared: difflib's time grows with the square of the length."""

_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = _shortened.maxlong = 60


def readable(text: str) -> str:
    """Text that UTF-8 can hold: file names may contain bytes that are not text, JSON may contain half characters."""
    return _SURROGATES.sub("\ufffd", text)


def composed(text: str) -> str:
    """Text with each accent in one way: some systems change how the names of files have them."""
    return unicodedata.normalize("NFC", text)


def printable(text: str) -> str:
    """Readable text with a space for each line break and control character."""
    return _CONTROLS.sub(" ", readable(text))


def one_line(text: str) -> str:
    """Readable text without line breaks, control characters or repeated spaces."""
    return " ".join(printable(text).split())


def xml_text(text: str) -> str:
    """Text with a replacement character for each character that XML cannot hold."""
    return _NOT_IN_XML.sub("\ufffd", text)


def first_line(error: BaseException) -> str:
    """The first line of an error; the name of its class if it has no words."""
    return one_line(str(error).partition("\n")[0]) or type(error).__name__


def shown(value: Any) -> str:
    """Decoded JSON as a message shows it: a few words, whatever its size and depth."""
    return _shortened.repr(value)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known name that is most like another, as the beginning of a hint: ``did you mean 'grasper'? ``; maybe empty.

    Capitals and small letters count as the same.
    """
    alike = {x.casefold()[:_COMPARED]: x for x in known if x}
    near = difflib.get_close_matches(name.casefold()[:_COMPARED], alike, 1)
    return f"did you mean {one_line(alike[near[0]])!r}? " if near else ""


def is_name(value: Any) -> bool:
    """Whether this may be the name of a file: one part of a path, of characters that every file system takes."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= 255
        and value not in (".", "..")
        and not re.search(r"[/\\]", value)
        and not _CONTROLS.search(value)
        and not _SURROGATES.search(value)
    )


def decode_text(data: bytes) -> str:
    """UTF-8 with or without a byte order mark, or UTF-16 with one. Raises ``ValueError``."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    return data.decode("utf-8-sig")


class TooLargeError(ValueError):
    """A file that is not read, because of its size."""


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """Read and decode a file of at most ``most`` bytes. Raises ``OSError`` and ``ValueError``."""
    with path.open("rb") as file:
        return decode_text(read_whole(file, most))


def read_whole(file: IO[bytes], most: int = MOST_BYTES) -> bytes:
    """The rest of a file, of at most ``most`` bytes. Raises ``OSError`` and :class:`TooLargeError`.

    In pieces: Python takes memory for as much as is asked for before it reads.
    """
    pieces, left = [], most + 1
    while left and (piece := file.read(min(left, _PIECE))):
        pieces.append(piece)
        left -= len(piece)
    if not left:
        raise TooLargeError(f"it has more than {most / 2**20:g} MiB")
    return b"".join(pieces)


def parse_json(text: str, *, unique_names: bool = False) -> Any:
    """Decode JSON. Raises ``ValueError``, also for text nested too deeply and for numbers that are not finite.

    If members of an object share a name, the last one counts, unless ``unique_names`` makes that an error.
    """
    try:
        value = json.loads(
            text,
            parse_constant=refuse_constant,
            parse_float=finite,
            object_pairs_hook=_unique if unique_names else None,
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if text.count("[") + text.count("{") > _DEEPEST:
        _check_depth(value)
    return value


def refuse_constant(name: str) -> Any:
    """For a decoder's ``parse_constant``: NaN and Infinity are not JSON."""
    raise NotFiniteError(f"{name} is not a number in JSON")


def finite(digits: str) -> float:
    """For a decoder's ``parse_float``: 1e999 is valid JSON, but too large to keep."""
    value = float(digits)
    if not math.isfinite(value):
        raise NotFiniteError(f"{digits[:20]} is too large a number")
    return value


class NotFiniteError(ValueError):
    """A number that is not finite."""


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(members)
    if len(table) < len(members):
        twice, _ = Counter(name for name, _ in members).most_common(1)[0]
        raise ValueError(f"{shown(twice)} appears twice")
    return table


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        below = (x.values() if isinstance(x, dict) else x for x in level)
        level = [x for members in below for x in members if isinstance(x, (dict, list))]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def read_json(path: Path, hint: str, most: int = MOST_BYTES, unread: str = "check the path") -> Any:
    """Read a JSON file. Raises :class:`InputError`, with ``hint`` if it cannot be decoded, ``unread`` if not read."""
    try:
        return parse_json(read_text(path, most))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})", unread) from error
    except TooLargeError as error:
        raise InputError(f"{path}: is too large ({error})", unread) from error
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error})", hint) from error


def counted(number: int, noun: str) -> str:
    """``1 mask``, ``2 masks``."""
    return f"{number} {noun}" + ("s" if number != 1 else "")
