"""Wrong options and missing arguments as errors of this program: the cause, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.files.text import did_you_mean

_PARSING: type[Exception] = typer.BadParameter.__mro__[1]
"""What Typer's parser raises; Typer itself does not export it."""

_PROGRAM = "resurgsam2"

_PLAIN = (
    (r"^Value error, ", ""),
    (r"^Input should be ", "should be "),
    (r"greater than or equal to", "at least"),
    (r"less than or equal to", "at most"),
    (r"a valid integer.*", "a whole number"),
    (r"a valid number.*", "a number"),
    (r"^Got unexpected extra argument(?:\(s\)|s)? \((.*)\)", r"this is too much: \1"),
    (r"^Missing command", "no command is named"),
)
"""What the library that checks values writes, in plainer words."""


class Group(TyperGroup):
    """A group of commands whose usage errors are :class:`UsageError`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what stands before the command."""
        with usage_errors(ctx):
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is named."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            known = self.list_commands(ctx)
            hint = did_you_mean(name, known) or f"there are: {', '.join(known)}; "
            raise UsageError(
                f"there is no command {' '.join([*path_of(ctx).split()[1:], name])!r}", f"{hint}{_see(ctx)}"
            )
        with usage_errors(ctx):
            return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that is named, if one is."""
        with usage_errors(ctx):
            return super().invoke(ctx)


@contextmanager
def usage_errors(ctx: Any) -> Iterator[None]:
    """Turn what the parser raises into a :class:`UsageError` that names the command."""
    try:
        yield
    except _PARSING as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        cause, hint = _said(ctx, error)
        path = path_of(ctx)
        named = f"{path.removeprefix(f'{_PROGRAM} ')}: " if path != _PROGRAM else ""
        raise UsageError(f"{named}{cause}", f"{hint}{_see(ctx)}") from error


def path_of(ctx: Any) -> str:
    """The command as a user types it, whatever the program was started as."""
    names: list[str] = []
    while ctx.parent is not None:
        names.insert(0, ctx.info_name)
        ctx = ctx.parent
    return " ".join([_PROGRAM, *names])


def _see(ctx: Any) -> str:
    return f"see: {path_of(ctx)} --help"


def _said(ctx: Any, error: Any) -> tuple[str, str]:
    """The cause, and a hint that the way to the help is added to."""
    option, parameter = getattr(error, "option_name", None), getattr(error, "param", None)
    kind, message = type(error).__name__, str(error.message)
    if kind == "NoSuchOption":
        known = [x for p in ctx.command.params for x in (*p.opts, *p.secondary_opts) if x.startswith("--")]
        return f"there is no option {option}", did_you_mean(str(option), known)
    if kind == "BadOptionUsage":
        return f"{option} {'needs a value' if 'requires' in message else 'takes no value'}", ""
    if kind == "MissingParameter" and parameter is not None:
        about = f"{parameter.help} " if getattr(parameter, "help", None) else ""
        return f"{_name(parameter)} is missing", about
    for pattern, plain in _PLAIN:
        message = re.sub(pattern, plain, message)
    message = message.rstrip(".")
    return message if parameter is None else f"{_name(parameter)}: {message}", ""


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "option":
        return " / ".join(parameter.opts)
    return f"the argument {parameter.name!r}"
