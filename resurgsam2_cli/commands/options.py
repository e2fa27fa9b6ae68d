"""Options that ``segment`` and ``batch`` share: each is declared once."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resurgsam2_cli.errors import UsageError

if TYPE_CHECKING:
    from resurgsam2_cli.pipeline import SegmentOptions
    from resurgsam2_cli.video.source import Part

_RULES = "CIFS and DLM (published values by default)"
_OUTPUTS = "Outputs"
_PART = "Part of the video"
MODEL = "Model"

Weights = Annotated[
    str, typer.Option(help="A name of 'resurgsam2 weights list', a file, or auto.", rich_help_panel=MODEL)
]
ClipWeights = Annotated[
    Path | None, typer.Option(help="CLIP's text tower, where the checkpoint has none.", rich_help_panel=MODEL)
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.", rich_help_panel=MODEL)]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.", rich_help_panel=MODEL)]
Seed = Annotated[
    int,
    typer.Option(min=0, max=2**63 - 1, help="Of the random numbers (inference draws none).", rich_help_panel=MODEL),
]
Start = Annotated[str, typer.Option(help="First frame: a number, or a time (12.5s, 1:02:03).", rich_help_panel=_PART)]
End = Annotated[
    str | None,
    typer.Option(help="Where to stop, itself not included: a number or a time.", rich_help_panel=_PART),
]
Stride = Annotated[int, typer.Option(help="Take every n-th frame.", rich_help_panel=_PART)]
FrameRate = Annotated[
    str | None,
    typer.Option(help="Of a folder of images, as 25 or 30000/1001 (default 25).", rich_help_panel=_PART),
]
Png = Annotated[bool, typer.Option(help="masks/: label images.", rich_help_panel=_OUTPUTS)]
ObjectPng = Annotated[
    bool, typer.Option("--object-png", help="objects/: a binary image per object.", rich_help_panel=_OUTPUTS)
]
Coco = Annotated[bool, typer.Option(help="annotations.json: COCO RLE.", rich_help_panel=_OUTPUTS)]
Overlay = Annotated[bool, typer.Option(help="overlay.mp4: the video with masks.", rich_help_panel=_OUTPUTS)]
Threshold = Annotated[
    float, typer.Option(help="Mask logit above which a pixel belongs to the object.", rich_help_panel=_OUTPUTS)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.", rich_help_panel=_OUTPUTS)]
AsJson = Annotated[
    bool, typer.Option("--json", help="The summary as JSON on standard output.", rich_help_panel=_OUTPUTS)
]
MinPresence = Annotated[
    float, typer.Option(help="CIFS: presence of a credible frame is above this.", rich_help_panel=_RULES)
]
MinIou = Annotated[
    float, typer.Option(help="CIFS: predicted IoU of a credible frame is above this.", rich_help_panel=_RULES)
]
Window = Annotated[
    int, typer.Option(help="CIFS: credible frames in a row that start tracking.", rich_help_panel=_RULES)
]
LongTerm = Annotated[int, typer.Option(help="DLM: long-term frames, 0 for none.", rich_help_panel=_RULES)]
LongTermMinIou = Annotated[
    float,
    typer.Option(help="DLM: predicted IoU above which a frame is a candidate.", rich_help_panel=_RULES),
]
Pool = Annotated[int, typer.Option(help="DLM: candidates of which one is promoted.", rich_help_panel=_RULES)]


def check(threshold: float) -> None:
    """What can be said before torch is imported, which takes seconds. Raises :class:`UsageError`."""
    if not math.isfinite(threshold):
        raise UsageError(f"--threshold {threshold} is no number", "0 is the published value")


def segment_options(part: Part, rules: dict[str, Any], **rest: Any) -> SegmentOptions:
    """The options as the pipeline takes them. Raises :class:`UsageError`."""
    from model import Rules
    from resurgsam2_cli.pipeline import SegmentOptions

    try:
        return SegmentOptions(part=part, rules=Rules(**rules), **rest)
    except ValueError as error:
        raise UsageError(f"--{str(error).replace('_', '-')}", "see: resurgsam2 segment --help") from error


def rate(text: str | None) -> Fraction | None:
    """A frame rate, as a number or a fraction. Raises :class:`UsageError`."""
    if text is None:
        return None
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not Fraction(1, 100) <= value <= 1000:
        raise UsageError(f"{text!r} is no frame rate", "write --frame-rate 25 or --frame-rate 30000/1001")
    return value
