"""What is done about each object in a frame, in the words of the overlay's legend, for the progress of a run."""

from __future__ import annotations

from collections import Counter

from resurgsam2_cli.outputs.base import FrameResult
from resurgsam2_cli.outputs.legend import names_of, state_word, state_words
from resurgsam2_cli.prompts.prompt import Prompt

_SHOWN = 4  # objects named one by one


def stages(prompts: tuple[Prompt, ...], result: FrameResult) -> str:
    """What is done about each object that the frame is about; counted, if there are many."""
    if len(result.objects) <= _SHOWN:
        names = names_of(prompts)
        return ", ".join(f"{names[x.id - 1]}: {state_words(x)}" for x in result.objects)
    return ", ".join(f"{n} {state}" for state, n in Counter(map(state_word, result.objects)).most_common())
