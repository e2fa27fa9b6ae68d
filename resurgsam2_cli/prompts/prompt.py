"""What the user asks for: texts, and the labels under which they are exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.files.text import one_line

MOST_PROMPTS = 255
"""Label images have one byte per pixel, and 0 is the background."""


@dataclass(frozen=True)
class Prompt:
    """A text and its category name in the exports."""

    text: str
    """Of an object without words, its label."""
    label: str
    words: bool = True
    """Whether the text is to be searched for. An object that is only pointed at has none."""

    @classmethod
    def parse(cls, argument: str) -> Prompt:
        """``text`` or ``text=label``; without a label, the text is the label. Raises :class:`UsageError`."""
        text, equals, label = (one_line(part) for part in argument.partition("="))
        if not text:
            raise UsageError(f"the prompt {argument!r} has no text", 'name what you mean: --text "left grasper"')
        if equals and not label:
            raise UsageError(f"the prompt {argument!r} has an empty label", "write text=label, or the text alone")
        return cls(text, label or text)


def parse_prompts(arguments: Sequence[str]) -> tuple[Prompt, ...]:
    """The prompts of a command line. Raises :class:`UsageError` if there are none, too many, or two that are equal."""
    prompts = checked(tuple(Prompt.parse(x) for x in arguments))
    check_different(prompts)
    return prompts


def check_different(prompts: Sequence[Prompt], known: Sequence[Prompt] = ()) -> None:
    """Raise :class:`UsageError` for a prompt that is there already: the same words would find the same thing twice."""
    for i, x in enumerate(prompts):
        if x in known or x in prompts[:i]:
            there = f"the run has an object {x.text!r} already" if x in known else f"{x.text!r} is given twice"
            raise UsageError(
                f"{there}, with the same label {x.label!r}",
                "leave it out; if you mean two things, use words that tell them apart, or point at each (--mark)",
            )


def checked(prompts: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
    """The prompts of one run, unchanged. Raises :class:`UsageError` if there are none, or too many."""
    if not prompts:
        raise UsageError("no prompt was given", 'name what you mean: --text "left grasper"')
    if len(prompts) > MOST_PROMPTS:
        raise UsageError(
            f"{len(prompts)} prompts are more than the {MOST_PROMPTS} that label images can hold", "make it two runs"
        )
    return prompts
