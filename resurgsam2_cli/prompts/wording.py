"""What is said to a user whose words are not among those that the weights learned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from weights.vocabulary import Vocabulary

_SHOWN = 60
"""Characters of a text in a note."""


def wording_notes(vocabulary: Vocabulary | None, name: str, texts: Iterable[str]) -> list[str]:
    """A line for each text that the weights called ``name`` did not learn, with the nearest that they did learn."""
    if vocabulary is None:
        return []
    return [_note(vocabulary, name, x) for x in dict.fromkeys(texts) if not vocabulary.knows(x)]


def _note(vocabulary: Vocabulary, name: str, text: str) -> str:
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    near = vocabulary.nearest(text)
    if not vocabulary.complete:
        return f'{name} learned instruments in other forms than "{shown}"; near it: {_quoted(near)}'
    if near:
        return f'{name} did not learn "{shown}"; near it: {_quoted(near)}'
    return f'{name} did not learn "{shown}"; it knows: {", ".join([*vocabulary.categories, *vocabulary.tissue])}'


def _quoted(texts: Sequence[str]) -> str:
    return ", ".join(f'"{x}"' for x in texts)
