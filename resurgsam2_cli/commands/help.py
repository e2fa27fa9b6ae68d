"""Shows help texts as they are written: Rich would take ``[label]`` for markup."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from resurgsam2_cli.commands.usage import usage_errors


class Command(TyperCommand):
    """A command whose texts are escaped before they are formatted, and whose usage errors are those of the program."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse options and arguments."""
        with usage_errors(ctx):
            return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        from rich.markup import escape

        self.help = escape(self.help or "")
        for parameter in self.params:
            if getattr(parameter, "help", None):
                parameter.help = escape(parameter.help)  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)
