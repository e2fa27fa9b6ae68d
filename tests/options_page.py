"""docs/options.md: every option of every command, from the command line itself.

``python tests/options_page.py`` writes the page again; a test compares it.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from typer.main import get_command

from resurgsam2_cli.app import app

PAGE = Path(__file__).parents[1] / "docs" / "options.md"

_HEAD = """# All options

What `resurgsam2 COMMAND --help` says, on one page. Words that may not mean anything to you yet are in the
[glossary](glossary.md). Every command also takes `--help` or `-h`.

An option without a default is off, or its text says what holds without it. To change this page, change the help of the
command, then run `python tests/options_page.py`.
"""

_KINDS = {str: "text", int: "whole number", float: "number", Path: "path"}


def page() -> str:
    """The whole page."""
    tables = [_table(name, command) for name, command in _commands((), get_command(app))]
    return "\n".join([_HEAD, *tables]).rstrip("\n") + "\n"


def _commands(path: tuple[str, ...], command: Any) -> Iterator[tuple[str, Any]]:
    """The commands by the names that a user types, without the groups that hold them."""
    if not hasattr(command, "commands"):
        yield " ".join(path), command
        return
    for name, below in command.commands.items():
        yield from _commands((*path, name), below)


def _table(name: str, command: Any) -> str:
    summary = command.help.strip().partition("\n\n")[0]
    hints = get_type_hints(command.callback, include_extras=True)
    lines = [f"## {name}", "", " ".join(summary.split()), ""]
    if rows := [_row(x, hints[x.name]) for x in command.params if x.name in hints]:
        lines += ["| option | takes | default | what it does |", "| --- | --- | --- | --- |", *rows]
    return "\n".join([*lines, ""])


def _row(parameter: Any, hint: Any) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    if parameter.param_type_name == "argument":
        names = [parameter.name.upper()]
    help_ = parameter.help or ""
    cells = (", ".join(f"`{x}`" for x in names), _takes(*get_args(hint)), _default(parameter), help_)
    return f"| {' | '.join(' '.join(x.split()).replace('|', chr(92) + '|') for x in cells)} |"


def _takes(kind: Any, declared: Any) -> str:
    """What may be given, in words; nothing for what is only on or off."""
    (kind,) = [x for x in get_args(kind) if x is not type(None)] if isinstance(kind, UnionType) else [kind]
    several = get_origin(kind) is list
    (kind,) = get_args(kind) if several else [kind]
    if kind is bool:
        return ""
    said = ", ".join(f"`{x.value}`" for x in kind) if issubclass(kind, Enum) else _KINDS[kind]
    if declared.min is not None:
        said += f", at least {declared.min:g}"
    if declared.max is not None and declared.max < 2**31:
        said += f", at most {declared.max:g}"
    return f"{said}; one or more" if several else said


def _default(parameter: Any) -> str:
    if parameter.required:
        return "must be given"
    value = parameter.default
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Enum):
        value = value.value
    return "" if value is None or value == () else f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
