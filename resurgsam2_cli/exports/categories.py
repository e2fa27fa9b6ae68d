"""Categories of an export: labels of the runs mapped, merged, dropped, and their ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resurgsam2_cli.errors import InputError, UsageError
from resurgsam2_cli.files.text import one_line, read_json, shown
from resurgsam2_cli.outputs.coco import categories_of

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
    """Label to category name; empty for labels that are left out."""
    fixed: tuple[Category, ...] = ()
    """Categories with their ids; they are all exported, used or not."""
    pairs: frozenset[str] = frozenset()
    """Labels that were named on the command line: some run must have each."""

    @classmethod
    def parse(cls, arguments: list[str]) -> CategoryRules:
        """``label=name``, ``label=`` (leave out), or a JSON file.

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

    def resolve(self, labels: Iterable[str]) -> tuple[tuple[Category, ...], dict[str, Category | None]]:
        """All categories by id, and that of each label; None for those that are left out.

        Categories without a fixed id get the next ones in order of appearance. Raises :class:`UsageError`.
        """
        found = list(dict.fromkeys(labels))
        for label in sorted(self.pairs):
            if label not in found:
                raise UsageError(f"--categories: no run has the label {label!r}", f"there are: {', '.join(found)}")
        names = {label: self.names.get(label, label) for label in found}
        known = {x.name: x for x in self.fixed}
        first = max((x.id for x in self.fixed), default=0)
        for name, number in categories_of(x for x in names.values() if x and x not in known).items():
            known[name] = Category(first + number, name)
        if not known:
            raise UsageError("--categories leaves out every object", "keep one of them")
        return tuple(sorted(known.values(), key=lambda x: x.id)), {
            label: known[name] if name else None for label, name in names.items()
        }


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
