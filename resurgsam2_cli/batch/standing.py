"""Whether a finished run is what is asked for now, and if not, how it differs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from resurgsam2_cli.files.text import one_line
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.runs.folder import same_content
from resurgsam2_cli.video.positions import parse_rate

_LONGEST = 2000  # characters; a record may hold texts of any length


_LATER = {
    "deinterlace": False,
    "direction": "forward",
    "find_again": None,
    "marks": 0,
    "legend": True,
    "min_part": 0,
    "fill_holes": 0,
}
"""Settings that came later, as they were before."""


@dataclass(frozen=True)
class Asked:
    """What decides the result, apart from the video itself."""

    settings: dict[str, Any]
    """The settings, as in ``run.json``."""
    weights: dict[str, Any]
    """``name`` and ``sha256``, and ``clip_sha256`` of the text tower that goes with weights that lack one."""
    precision: str | None
    """None for whatever suits the device that a video is done on."""
    frame_rate: Fraction | None
    """Frames per second of folders of images, if it was given."""


def difference(record: dict[str, Any], asked: Asked, prompts: tuple[Prompt, ...], identity: dict[str, Any]) -> str:
    """How the recorded run differs from what is asked, in words; empty if it does not."""
    try:
        return one_line("; ".join(_differences(record, asked, prompts, identity)))[:_LONGEST].rstrip()
    except (KeyError, TypeError, ValueError, AttributeError):
        return "its record was written by another version"


def _differences(
    record: dict[str, Any], asked: Asked, prompts: tuple[Prompt, ...], identity: dict[str, Any]
) -> list[str]:
    found = []
    source, weights = record["source"], record["weights"]
    if not same_content(source, identity):
        found.append("the source has changed")
    if "files" in identity and asked.frame_rate is not None and parse_rate(source["frame_rate"]) != asked.frame_rate:
        found.append(f"frame rate {source['frame_rate']}, now {asked.frame_rate}")
    if [(x["text"], x["label"]) for x in record["objects"]] != [(x.text, x.label) for x in prompts]:
        named = ", ".join(_named(x["text"], x["label"]) for x in record["objects"])
        found.append(f"prompts {named}, now {', '.join(_named(x.text, x.label) for x in prompts)}")
    before = {**_LATER, **record["settings"]}
    for name, value in json.loads(json.dumps(asked.settings)).items():
        if before.get(name) != value:
            found.append(f"{name.replace('_', ' ')} {_shown(before.get(name))}, now {_shown(value)}")
    if weights["sha256"] != asked.weights["sha256"] or (
        "clip_sha256" in weights and weights["clip_sha256"] != asked.weights.get("clip_sha256")
    ):
        found.append(f"weights {weights['name']}, now {asked.weights['name']}")
    if asked.precision is not None and record["backend"]["precision"] != asked.precision:
        found.append(f"precision {record['backend']['precision']}, now {asked.precision}")
    return found


def _named(text: str, label: str) -> str:
    """A prompt as it is written on the command line."""
    return repr(text if text == label else f"{text}={label}")


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return " ".join(value) if isinstance(value, list) else str(value)
