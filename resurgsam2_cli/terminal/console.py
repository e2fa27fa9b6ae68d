"""Rich's consoles as this program uses them: they never read data as markup, nor wrap a file at a terminal's width."""

from __future__ import annotations

from rich.console import Console


def console(*, stderr: bool = False) -> Console:
    """A console on standard output, or on standard error."""
    made = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = 200
    return made
