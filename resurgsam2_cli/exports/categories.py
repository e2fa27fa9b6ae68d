"""Categories of an export: labels or prompts of the runs mapped, merged, dropped, and their ids."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resurgsam2_cli.errors import InputError, UsageError
from resurgsam2_cli.files.text import one_line, read_json, shown
from resurgsam2_cli.outputs.coco import categories_of
from resurgsam2_cli.runs.record import RunObject

_HINT = "see docs/exports.md for the forms that --categories takes"
_MOST_BYTES = 2**29  # COCO's own annotations are this large
_LARGEST = 2**31  # readers keep ids in 32 bits


@dataclass(frozen=True)
class Category:
    """What objects of a kind are called."""

    id: int
    """From 1."""
    name: str
    supercategory: str = ""


@dataclass(frozen=True)
class CategoryRules:
    """What ``--categories`` says."""

    names: dict[str, str] = field(default_factory=dict)
    """Label or prompt to category name; empty for what is left out. Labels come first."""
    fixed: tuple[Category, ...] = ()
    """Categories with their ids; they are all exported, used or not."""
    pairs: frozenset[str] = frozenset()
    """Labels and prompts that were named on the command line: some run must have each."""

    @classmethod
    def parse(cls, arguments: list[str]) -> CategoryRules:
        """``label=name``, ``label=`` (leave out), or a JSON file; a prompt may stand for the label.

        The file has an object ``{label: name}``, or a list of ``{"id", "name", "labels"}``, or is a COCO file, whose
        categories are taken. Raises :class:`UsageError`, or :class:`InputError` for a file.
        """
        names: dict[str, str] = {}
        fixed: list[Category] = []
        pairs = set()
        for argument in arguments:
            if argument.lower().endswith(".json") and "=" not in Path(argument).name:
                more, listed = _read(Path(argument))
                names |= more
                fixed += listed
                continue
            label, equals, name = (" ".join(part.split()) for part in argument.partition("="))
            if not label or not equals:
                raise UsageError(f"--categories {argument!r} is neither label=name nor a .json file", _HINT)
            names[label] = name
            pairs.add(label)
        for what, values in (("id", [x.id for x in fixed]), ("name", [x.name for x in fixed])):
            twice, times = next(iter(Counter(values).most_common(1)), (None, 1))
            if times > 1:
                raise UsageError(f"--categories: two categories have the {what} {twice!r}", _HINT)
        return cls(names, tuple(fixed), frozenset(pairs))

    def resolve(
        self, objects: Sequence[RunObject]
    ) -> tuple[tuple[Category, ...], Callable[[RunObject], Category | None]]:
        """All categories by id, and what gives that of an object; None for one that is left out.

        Categories without a fixed id get the next ones in order of appearance. Raises :class:`UsageError`.
        """
        labels = {x.label for x in objects}
        named = self.names.keys() - ({x.name for x in self.fixed} - self.pairs)
        keys = {(x.label, x.text): _key(x, labels, named) for x in objects}
        self._check_pairs(objects, set(keys.values()))
        names = {key: self.names.get(key, key) for key in dict.fromkeys(keys.values())}
        known = {x.name: x for x in self.fixed}
        first = max((x.id for x in self.fixed), default=0)
        for name, number in categories_of(x for x in names.values() if x and x not in known).items():
            known[name] = Category(first + number, name)
        if not known:
            raise UsageError("--categories leaves out every object", "keep one of them")

        def category(x: RunObject) -> Category | None:
            name = names[keys[x.label, x.text]]
            return known[name] if name else None

        return tuple(sorted(known.values(), key=lambda x: x.id)), category

    def _check_pairs(self, objects: Sequence[RunObject], used: set[str]) -> None:
        """Raise :class:`UsageError` for a name of the command line that stands for no object."""
        labels, prompts = (
            [*dict.fromkeys(x)] for x in ([x.label for x in objects], [one_line(x.text) for x in objects])
        )
        for name in sorted(self.pairs - used):
            if name in prompts:
                raise UsageError(
                    f"--categories: the prompt {name!r} has no effect, as --categories names the labels of its objects",
                    "name labels or prompts, not both of one object",
                )
            near = [
                f"the nearest {noun}: {', '.join(_nearest(name, x))}"
                for noun, x in (("labels", labels), ("prompts", prompts))
            ]
            raise UsageError(f"--categories: no run has the label or prompt {name!r}", "; ".join(near))


def _key(x: RunObject, labels: set[str], named: set[str]) -> str:
    """What stands for an object in the rules: its label, or its prompt if that alone is named.

    A name that is a label in any run means the label. ``named`` are the names in the rules, but for categories of a
    file that stand for themselves: these never change what an object with another label is.
    """
    text = one_line(x.text)
    return text if text in named - labels and x.label not in named else x.label


def _nearest(name: str, known: list[str]) -> list[str]:
    """At most three of the known names, the most similar first, whatever their case."""
    return sorted(known, key=lambda x: -difflib.SequenceMatcher(None, name.casefold(), x.casefold()).ratio())[:3]


def _read(path: Path) -> tuple[dict[str, str], list[Category]]:
    content = read_json(path, _HINT, _MOST_BYTES)
    if isinstance(content, dict) and isinstance(content.get("categories"), list):
        content = content["categories"]
    if isinstance(content, dict):
        if not all(name is None or isinstance(name, str) for name in content.values()):
            raise InputError(f"{path}: a category's name is not a text", _HINT)
        return {one_line(label): one_line(name or "") for label, name in content.items()}, []
    if not isinstance(content, list):
        raise InputError(f"{path}: holds neither an object nor a list", _HINT)
    names: dict[str, str] = {}
    fixed = []
    for item in content:
        category, labels = _category(path, item)
        fixed.append(category)
        names |= dict.fromkeys((*labels, category.name), category.name)
    return names, fixed


def _category(path: Path, item: Any) -> tuple[Category, list[str]]:
    if not (
        isinstance(item, dict)
        and isinstance(item.get("name"), str)
        and one_line(item["name"])
        and isinstance(item.get("labels", []), list)
        and all(isinstance(x, str) for x in item.get("labels", []))
        and isinstance(item.get("supercategory", ""), str)
    ):
        raise InputError(f'{path}: {shown(item)} is not {{"id": 1, "name": "...", "labels": ["..."]}}', _HINT)
    number = item.get("id")
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number < _LARGEST:
        raise InputError(
            f"{path}: category {shown(item['name'])} has no id from 1 on", "CVAT and datumaro cannot read the id 0"
        )
    category = Category(number, one_line(item["name"]), one_line(item.get("supercategory", "")))
    return category, [one_line(x) for x in item.get("labels", [])]
