"""What the user asks for: texts, and the labels under which they are exported."""

from __future__ import annotations

from dataclasses import dataclass

from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.video.source import readable

MOST_PROMPTS = 255
"""Label images have one byte a pixel, and 0 is the background."""


@dataclass(frozen=True)
class Prompt:
    """A text and its category name in the exports."""

    text: str
    label: str

    @classmethod
    def parse(cls, argument: str) -> Prompt:
        """``text`` or ``text=label``; the label is the text where it is left out. Raises :class:`UsageError`."""
        text, equals, label = (" ".join(part.split()) for part in readable(argument).partition("="))
        if not text:
            raise UsageError(f"the prompt {argument!r} has no text", 'name what you mean: --text "left grasper"')
        if equals and not label:
            raise UsageError(f"the prompt {argument!r} has an empty label", "write text=label, or the text alone")
        return cls(text, label or text)


def parse_prompts(arguments: list[str]) -> tuple[Prompt, ...]:
    """All prompts of a run. Raises :class:`UsageError` where there are none, or too many."""
    if not arguments:
        raise UsageError("no prompt was given", 'name what you mean: --text "left grasper"')
    if len(arguments) > MOST_PROMPTS:
        raise UsageError(
            f"{len(arguments)} prompts are more than the {MOST_PROMPTS} that label images can hold", "make it two runs"
        )
    return tuple(Prompt.parse(x) for x in arguments)
