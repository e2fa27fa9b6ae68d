"""The stage of each object in a frame, in words."""

from __future__ import annotations

from collections import Counter

from resurgsam2_cli.outputs.base import FrameResult
from resurgsam2_cli.prompts.prompt import Prompt

_SHOWN = 4  # objects named one by one


def stages(prompts: tuple[Prompt, ...], result: FrameResult) -> str:
    """What happens to each object that the frame is about; counted, if there are many."""
    states = [x.stage if x.present else f"{x.stage} (absent)" for x in result.objects]
    if len(states) <= _SHOWN:
        return ", ".join(f"{prompts[x.id - 1].label}: {s}" for x, s in zip(result.objects, states, strict=True))
    return ", ".join(f"{n} {state}" for state, n in Counter(states).most_common())
