"""``meta_expressions.json`` of Ref-EndoVis and Ref-YouTube-VOS: sentences, and the objects that they name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.text import one_line, read_json, shown

EXPRESSIONS = "meta_expressions.json"
_LAYOUT = 'expected {"videos": {name: {"expressions": {id: {"exp": text, "obj_id": n}}}}}'


@dataclass(frozen=True)
class Expression:
    """A sentence about a video."""

    text: str
    object_id: int | None
    """The object that it names in the annotations; None in files without ``obj_id``."""


def is_expressions(content: Any) -> bool:
    """Whether decoded JSON has the layout of ``meta_expressions.json``, as far as its top level shows."""
    return isinstance(content, dict) and isinstance(content.get("videos"), dict)


def read_expressions(path: Path) -> dict[str, list[Expression]]:
    """The expressions of each video. Raises :class:`InputError`."""
    return expressions_in(path, read_json(path, _LAYOUT))


def expressions_in(path: Path, content: Any) -> dict[str, list[Expression]]:
    """The same, from the decoded content of ``path``."""
    try:
        if not is_expressions(content):
            raise TypeError("there is no object of videos")
        return {
            one_line(name): [_expression(x) for x in video["expressions"].values()]
            for name, video in content["videos"].items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        cause = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(f"{path}: is not in the layout of Ref-EndoVis ({cause})", _LAYOUT) from error


def _expression(entry: Any) -> Expression:
    text, object_id = entry["exp"], entry.get("obj_id")
    if not isinstance(text, str) or not one_line(text):
        raise ValueError(f"the expression {shown(text)} is not a text")
    if isinstance(object_id, str) and re.fullmatch(r"\d{1,9}", object_id):
        object_id = int(object_id)
    if object_id is not None and (not isinstance(object_id, int) or isinstance(object_id, bool)):
        raise ValueError(f"the object id {shown(object_id)} is not a number")
    return Expression(one_line(text), object_id)
