"""Shows help texts as they are written: Rich would take ``[label]`` for markup."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class Command(TyperCommand):
    """A command whose texts are escaped before they are formatted."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        from rich.markup import escape

        self.help = escape(self.help or "")
        for parameter in self.params:
            if getattr(parameter, "help", None):
                parameter.help = escape(parameter.help)  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)
