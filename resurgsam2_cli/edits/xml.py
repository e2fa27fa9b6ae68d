"""XML of any length, element by element, from files that nobody vouches for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO, Any
from xml.parsers import expat

_CHUNK = 1 << 18  # bytes
_LONGEST = 1 << 24
"""Bytes between two elements. Expat starts an element anew with each chunk, so a long one takes the square of this."""

_DEEPEST = 32
_LONGEST_TEXT = 1 << 16  # characters of an element's text that are kept


@dataclass(frozen=True, slots=True)
class Element:
    """The start or the end of an element."""

    path: tuple[str, ...]
    """Its tags, from the root on."""
    attributes: dict[str, str]
    is_start: bool
    text: str = ""
    """At its end, what stands in it, other elements left out."""


def elements(file: IO[bytes]) -> Iterator[Element]:
    """Starts and ends of the elements in a file, in order; memory does not grow with its length.

    A document type, which entities are declared in, is refused: they can grow without bound, and read other files.
    Raises ``ValueError``, also for what ends early.
    """
    found: list[Element] = []
    stack: list[Element] = []
    texts: list[str] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if len(stack) >= _DEEPEST:
            raise ValueError("it is nested too deeply")
        stack.append(Element((*(stack[-1].path if stack else ()), tag), attributes, True))
        texts.append("")
        found.append(stack[-1])

    def end(tag: str) -> None:
        found.append(replace(stack.pop(), is_start=False, text=texts.pop()))

    def text(characters: str) -> None:
        if texts and len(texts[-1]) < _LONGEST_TEXT:
            texts[-1] += characters

    def refuse(*_: Any) -> None:
        raise ValueError("it declares a document type, which is not read")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    waiting = 0
    while True:
        chunk = file.read(_CHUNK)
        try:
            parser.Parse(chunk, not chunk)
        except expat.ExpatError as error:
            raise ValueError(f"it is not valid XML ({error})") from error
        waiting = 0 if found else waiting + len(chunk)
        if waiting > _LONGEST:
            raise ValueError("an element in it has no end")
        yield from found
        found.clear()
        if not chunk:
            return
