"""JSON lists that are longer than memory should be: written item by item, and read item by item."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from resurgsam2_cli.files.text import NotFiniteError, finite, refuse_constant

_CHUNK = 1 << 20  # characters
_LONGEST = 1 << 28  # characters of a value
_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False).encode
_INK = re.compile(r"[^ \n\r\t]")

_HALVES = "backslashreplace"
"""How files are encoded: a half character, which UTF-8 cannot hold, becomes its escape in JSON."""


class JsonList:
    """A JSON list that grows in a file of its own, until it is moved into another one."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path
        self._file = path.open("w+", encoding="utf-8", errors=_HALVES)

    def add(self, item: dict[str, Any]) -> None:
        """Append an item."""
        self._file.write((",\n" if self.count else "") + _encode(item))
        self.count += 1

    def add_parts(self, head: dict[str, Any], lists: dict[str, Iterable[str]]) -> None:
        """Append an object: the members of ``head`` (at least one), then lists whose items are given as JSON."""
        self._file.write((",\n" if self.count else "") + _encode(head)[:-1])
        for name, items in lists.items():
            self._file.write(f', "{name}": [')
            for i, item in enumerate(items):
                self._file.write(", " + item if i else item)
            self._file.write("]")
        self._file.write("}")
        self.count += 1

    def move_into(self, file: IO[str]) -> None:
        """Write the list into ``file`` and remove its own."""
        self._file.seek(0)
        file.write("[")
        shutil.copyfileobj(self._file, file, _CHUNK)
        file.write("]")
        self.close()
        self._path.unlink()

    def close(self) -> None:
        """Close the file; what was written will not be used."""
        self._file.close()


def write_object(path: Path, head: dict[str, Any], lists: dict[str, JsonList]) -> None:
    """Write a JSON object: the members of ``head`` (at least one), then the lists, which it uses up."""
    with path.open("w", encoding="utf-8", errors=_HALVES) as file:
        file.write(_encode(head)[:-1])
        for name, items in lists.items():
            file.write(f', "{name}": ')
            items.move_into(file)
        file.write("}\n")


_TAIL = b"\n]}\n"


def write_open_list(path: Path, head: dict[str, Any], name: str, items: Iterable[dict[str, Any]]) -> None:
    """Write a JSON object whose last member is a list, one item per line, to which :func:`append_item` can add."""
    lines = ",\n".join(_encode(item) for item in items)
    text = f'{_encode(head)[:-1]}, "{name}": [\n{lines}'
    path.write_bytes(text.encode(errors=_HALVES) + _TAIL)


def append_item(path: Path, item: dict[str, Any]) -> bool:
    """Append an item to a list that :func:`write_open_list` wrote, at the same cost for any length.

    Returns False, and changes nothing, if the file does not end as that function leaves it. Raises ``OSError``, after
    which the list is as it was.
    """
    with path.open("rb+", buffering=0) as file:
        place = file.seek(0, os.SEEK_END) - len(_TAIL)
        if place < 1:
            return False
        file.seek(place - 1)
        before = file.read(len(_TAIL) + 1)
        if before[1:] != _TAIL:
            return False
        more = (b"" if before[:1] == b"\n" else b",\n") + _encode(item).encode(errors=_HALVES) + _TAIL
        try:
            file.seek(place)
            if file.write(more) != len(more):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.seek(place)
            file.write(_TAIL)  # into blocks that the file already has
            file.truncate()
            raise
        os.fsync(file.fileno())
    return True


def read_lists(path: Path) -> Iterator[tuple[str, Any]]:
    """The items of all lists among the members of the JSON object in a file; see :func:`lists_in`.

    Raises ``ValueError`` as that does, ``OSError`` if the file cannot be read.
    """
    with path.open(encoding="utf-8") as file:
        yield from lists_in(file)


def lists_in(file: IO[str]) -> Iterator[tuple[str, Any]]:
    """The items of all lists among the members of a JSON object, each with the name of its list.

    Other members are skipped. No more than an item and a chunk of the text is in memory. Raises ``ValueError`` if the
    text is not such an object.
    """
    text = _Text(file)
    text.expect("{")
    follows = text.next() != "}"
    while follows:
        key = text.value()
        if not isinstance(key, str):
            raise ValueError("the name of a member is not a text")
        text.expect(":")
        if text.next() == "[":
            text.expect("[")
            more = text.next() != "]"
            while more:
                yield key, text.value()
                more = text.goes_on("]")
            text.expect("]")
        else:
            text.value()
        follows = text.goes_on("}")
    text.expect("}")
    if text.next():
        raise ValueError("there is more after its end")


def list_in(file: IO[str]) -> Iterator[Any]:
    """The items of a JSON list, as :func:`lists_in` gives them. Raises ``ValueError`` if the text is no list."""
    text = _Text(file)
    text.expect("[")
    more = text.next() != "]"
    while more:
        yield text.value()
        more = text.goes_on("]")
    text.expect("]")
    if text.next():
        raise ValueError("there is more after its end")


class _Text:
    """JSON text that comes in chunks."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._text, self._at = file, "", 0
        self._decode = json.JSONDecoder(parse_constant=refuse_constant, parse_float=finite).raw_decode

    def _more(self) -> bool:
        if len(self._text) - self._at > _LONGEST:
            raise ValueError("a value in it has no end")
        # Doubled, so that a value of any size is tried only a few times.
        chunk = self._file.read(max(_CHUNK, len(self._text) - self._at))
        self._text, self._at = self._text[self._at :] + chunk, 0
        return bool(chunk)

    def next(self) -> str:
        """The next character that is not white space, without passing over it; empty at the end."""
        while True:
            if found := _INK.search(self._text, self._at):
                self._at = found.start()
                return found[0]
            self._at = len(self._text)
            if not self._more():
                return ""

    def expect(self, character: str) -> None:
        """Pass over a character. Raises ``ValueError`` if another one comes next."""
        found = self.next()
        if found != character:
            raise ValueError(f"{character!r} expected, {found!r} found" if found else "it ends early")
        self._at += 1

    def goes_on(self, end: str) -> bool:
        """Pass over a comma to what follows it; False if ``end`` comes instead. Raises ``ValueError``."""
        if self.next() == end:
            return False
        self.expect(",")
        self.next()
        return True

    def value(self) -> Any:
        """Pass over the next value and decode it. Raises ``ValueError``."""
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except RecursionError as error:
                raise ValueError("it is nested too deeply") from error
            except NotFiniteError:
                raise
            except ValueError as error:
                if _is_final(error, self._text) or not self._more():
                    raise
                continue
            length = end - self._at
            if end >= len(self._text) - 2 and self._more():
                continue  # a number may continue in the next chunk: 12|3, 12.|3, 12e+|3
            self._at += length
            return value


_SPLIT = 16
"""The most characters that a chunk may cut apart, other than in a text: ``-Infinity``, ``\\ud83d\\ude00``."""


def _is_final(error: ValueError, text: str) -> bool:
    """Whether a value is wrong however the text continues."""
    if not isinstance(error, json.JSONDecodeError) or error.msg.startswith("Unterminated string"):
        return False
    return error.pos < len(text) - _SPLIT
