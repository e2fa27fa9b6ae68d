"""The sentences that a release learned: its categories, what they do, where they are, and how that is said.

A release whose words are not all known has an open vocabulary: its forms are known, and some of its words.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

FORMS = (
    "{category}",
    "{side} {category}",
    "{category} on the {side}",
    "{category} is {action}",
    "{category} is {action} on the {location}",
)
"""All forms that a vocabulary may have."""

_PLACES = frozenset(["left", "right", "top", "bottom", "upper", "lower", "center", "centre", "middle"])
"""Words that say where something is, in a text of which nothing else is known."""

_LONGEST = 200
"""Characters of a text that are compared: difflib's time grows with the square of the length."""

_ALIKE = 0.6
"""The ratio of difflib from which on two texts are alike; its own default."""


class Said(NamedTuple):
    """The parts of a text."""

    category: str
    action: str = ""
    location: str = ""


@dataclass(frozen=True)
class Vocabulary:
    """The words and forms of a release."""

    forms: tuple[str, ...]
    """Each one of :data:`FORMS`."""
    categories: dict[str, tuple[str, ...]]
    """What the forms are about, each with its actions."""
    locations: tuple[str, ...] = ()
    sides: tuple[str, ...] = ()
    """The locations that stand for ``{side}``."""
    tissue: tuple[str, ...] = ()
    """Categories that are named by their names alone, whatever the forms are."""
    complete: bool = True
    """Whether these are all words that the release learned."""

    @cached_property
    def _sentences(self) -> dict[str, None]:
        every = dict.fromkeys(self.tissue)
        for category in self.categories:
            every |= dict.fromkeys(self._filled(category, self.categories[category], self.locations))
        return every

    @cached_property
    def _actions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(x for own in self.categories.values() for x in own))

    def knows(self, text: str) -> bool:
        """Whether a text is among what was learned; with an open vocabulary, whether it has one of the forms."""
        text = _plain(text)
        return text in self._sentences or (not self.complete and text in self._alike(self._said(text)))

    def forms_of(self, text: str) -> list[str]:
        """What a text says, in the forms that were learned; those with the most of it come first.

        No form says of a place what the text does not say. One may say of an action what the text does not: some
        releases learned no instrument without. Empty if the text has no category that is known, or like a known one.
        """
        said = self._said(_plain(text))
        if said.category in self.tissue:
            return [said.category]
        if not said.category:
            return []
        found = self._alike(said)
        if self.tissue and not self.complete:  # it may be tissue that is not listed
            found.append(said.category)
        parts = [x for x in (said.location, said.action) if x]
        return sorted(dict.fromkeys(found), key=lambda x: -sum(_holds(x, y) for y in parts))

    def nearest(self, text: str, count: int = 3) -> list[str]:
        """Up to ``count`` sentences that were learned and are near a text but not the text; maybe none."""
        text = _plain(text)
        found = self.forms_of(text)
        if not found and self.complete:
            found = difflib.get_close_matches(text[:_LONGEST], self._sentences, count + 1, _ALIKE)
        return [x for x in found if x != text][:count]

    def _alike(self, said: Said) -> list[str]:
        """All sentences about a category that say no other action or place."""
        actions = self.categories.get(said.category, self._actions)
        if said.action and (said.action in actions or not self.complete):
            actions = (said.action,)
        return self._filled(said.category, actions, [said.location] if said.location else [])

    def _filled(self, category: str, actions: Iterable[str], locations: Sequence[str]) -> list[str]:
        """The forms with a category, for each of the actions and locations that they ask for."""
        found = []
        for form in self.forms:
            doing = actions if "{action}" in form else ("",)
            sides = [x for x in locations if x in self.sides] if "{side}" in form else [""]
            places = locations if "{location}" in form else [""]
            for action, side, place in product(doing, sides, places):
                found.append(form.format(category=category, action=action, side=side, location=place))
        return found

    def _said(self, text: str) -> Said:
        """The parts of a text in plain form; no category, if it has none that is known or like a known one."""
        found, names = _taken_apart(text[:_LONGEST]), (*self.categories, *self.tissue)
        category = _longest(names, found.category)
        if not self.complete:
            return found._replace(category=category or found.category)
        if not category:
            category = next(iter(difflib.get_close_matches(found.category, names, 1, _ALIKE)), "")
        return Said(category, _longest(self._actions, text), _longest(self.locations, text))


def parse_vocabulary(content: Any) -> Vocabulary:
    """The vocabulary of an entry in releases.toml. Raises ``ValueError``."""
    if not isinstance(content, dict) or not content.keys() <= {x.name for x in fields(Vocabulary)}:
        raise ValueError("a vocabulary does not have its fields")
    categories, complete = content.get("categories", {}), content.get("complete", True)
    if not isinstance(categories, dict) or not isinstance(complete, bool):
        raise ValueError("the categories of a vocabulary do not have their actions")
    forms, locations, sides, tissue = (_texts(content.get(x, [])) for x in ("forms", "locations", "sides", "tissue"))
    if not set(forms) <= set(FORMS):
        raise ValueError("a vocabulary has a form that is none")
    return Vocabulary(forms, {x: _texts(y) for x, y in categories.items()}, locations, sides, tissue, complete)


def rendered_vocabulary() -> Vocabulary:
    """That of a network which was trained on rendered scenes."""
    from model.training.scenes.sentences import LOCATIONS, actions_of
    from model.training.scenes.targets import CATEGORIES, OPPOSITE, TISSUES

    return Vocabulary(FORMS, {x: actions_of(x) for x in (*CATEGORIES, *TISSUES)}, LOCATIONS, tuple(OPPOSITE))


def _texts(content: Any) -> tuple[str, ...]:
    if not isinstance(content, list) or not all(isinstance(x, str) for x in content):
        raise ValueError("a list of words is none")
    return tuple(content)


def _plain(text: str) -> str:
    """A text as it is compared: the text encoder does not tell capitals from small letters, either."""
    return " ".join(text.lower().split())


def _holds(text: str, words: str) -> bool:
    return f" {words} " in f" {text} "


def _longest(names: Iterable[str], text: str) -> str:
    """The longest of some names that a text holds; empty if it holds none."""
    return max((x for x in names if _holds(text, x)), key=len, default="")


def _taken_apart(text: str) -> Said:
    """The parts of any text, by the words between them."""
    head, _, action = text.partition(" is ")
    if action:
        action, _, location = action.partition(" on the ")
    else:
        head, _, location = head.partition(" on the ")
    words, before = head.split(), []
    while len(words) > 1 and words[0] in {*_PLACES, "the"}:
        before.append(words.pop(0))
    return Said(" ".join(words), action, location or " ".join(x for x in before if x in _PLACES))
