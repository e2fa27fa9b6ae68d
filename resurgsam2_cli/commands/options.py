"""Options that commands share: each is declared once, and one function turns them into what the pipeline takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resurgsam2_cli.errors import Causes, UsageError, weights_errors
from weights.store import RULES as RULES

if TYPE_CHECKING:
    from resurgsam2_cli.segmenting.options import SegmentOptions
    from resurgsam2_cli.video.frames import Reading
    from resurgsam2_cli.video.positions import Part

_RULES = "CIFS (when something counts as found) and DLM (what is remembered); by default as the weights state it"
OUTPUTS = "Outputs"
_PART = "Part of the video"
_NOTES = 10
"""Texts of which it is said that the weights did not learn them; a prompt file may have hundreds."""
MODEL = "Model"


def _show_causes(wanted: bool) -> bool:
    Causes.shown = Causes.shown or wanted
    return wanted


Texts = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        "-t",
        help='What to segment, such as "left grasper"; repeat for each object. "text=label" sets the name in exports.',
    ),
]
PromptFilePath = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        help='A prompt file: CSV (video,text,label), JSON {"video": ["text", ...]}, or meta_expressions.json.',
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        help="A name from 'resurgsam2 weights list', or a file; auto: what you fetched or added, else the demo.",
        rich_help_panel=MODEL,
    ),
]
WeightsOfRun = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="A name from 'resurgsam2 weights list', or a file; by default, those of the run.",
        rich_help_panel=MODEL,
    ),
]
MOVED = "The folder that the videos, or the folders of images, are in now, if they were moved."
Sources = Annotated[Path | None, typer.Option("--sources", help=MOVED)]
ClipWeights = Annotated[
    Path | None,
    typer.Option(help="A file with CLIP's text tower, for a checkpoint that has none.", rich_help_panel=MODEL),
]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1 or mps.", rich_help_panel=MODEL)]
Precision = Annotated[
    str, typer.Option(help="Number format of the network: auto, fp32, bf16 or fp16.", rich_help_panel=MODEL)
]
Seed = Annotated[
    int,
    typer.Option(
        min=0,
        max=2**63 - 1,
        help="Recorded in run.json. Segmenting uses no random numbers, so it changes no mask.",
        rich_help_panel=MODEL,
    ),
]
Start = Annotated[str, typer.Option(help="First frame: a number, or a time (12.5s, 1:02:03).", rich_help_panel=_PART)]
End = Annotated[
    str | None,
    typer.Option(help="Stop before this frame: a number, or a time.", rich_help_panel=_PART),
]
Stride = Annotated[int, typer.Option(help="Take every n-th frame.", rich_help_panel=_PART)]
FrameRate = Annotated[
    str | None,
    typer.Option(
        help="Frames per second of a folder of images, such as 25 or 30000/1001 (default 25).", rich_help_panel=_PART
    ),
]
Deinterlace = Annotated[
    bool,
    typer.Option(
        "--deinterlace",
        help="Remove the comb lines of interlaced video; the number of frames stays the same.",
        rich_help_panel=_PART,
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(min=1, help="Open pictures of up to this many pixels (default 89 million).", rich_help_panel=_PART),
]
Png = Annotated[bool, typer.Option(help="Write masks/: label images, pixel = object id.", rich_help_panel=OUTPUTS)]
ObjectPng = Annotated[
    bool,
    typer.Option("--object-png", help="Write objects/: a binary image per object and frame.", rich_help_panel=OUTPUTS),
]
Coco = Annotated[bool, typer.Option(help="Write annotations.json: COCO with RLE masks.", rich_help_panel=OUTPUTS)]
Overlay = Annotated[
    bool, typer.Option(help="Write overlay.mp4: the video with the masks drawn in.", rich_help_panel=OUTPUTS)
]
Legend = Annotated[
    bool,
    typer.Option(
        help='Name the objects in the overlay, with the state of each, such as "searching" or "not there".',
        rich_help_panel=OUTPUTS,
    ),
]
Threshold = Annotated[
    float,
    typer.Option(
        help="Mask logit above which a pixel belongs to the object; less than 0 makes masks larger.",
        rich_help_panel=OUTPUTS,
    ),
]
MinPart = Annotated[
    int, typer.Option(min=0, help="Remove parts of a mask that have fewer pixels than this.", rich_help_panel=OUTPUTS)
]
FillHoles = Annotated[
    int, typer.Option(min=0, help="Fill holes in a mask that have fewer pixels than this.", rich_help_panel=OUTPUTS)
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace earlier output, if this program made it.", rich_help_panel=OUTPUTS),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.", rich_help_panel=OUTPUTS)]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the summary as JSON on standard output.", rich_help_panel=OUTPUTS)
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", help="If there is an error, show what led to it.", callback=_show_causes, rich_help_panel=OUTPUTS
    ),
]
MinPresence = Annotated[
    float | None,
    typer.Option(
        help="CIFS: a frame is credible if the probability that the object is there is above this (default 0.9).",
        rich_help_panel=_RULES,
    ),
]
MinIou = Annotated[
    float | None,
    typer.Option(help="CIFS: and its predicted IoU must be above this (default 0.7).", rich_help_panel=_RULES),
]
Window = Annotated[
    int | None,
    typer.Option(
        help="CIFS: how many credible frames in a row it takes to start tracking (default 5).", rich_help_panel=_RULES
    ),
]
LongTerm = Annotated[
    int | None,
    typer.Option(help="DLM: frames in the long-term memory, 0 for none (default 3).", rich_help_panel=_RULES),
]
LongTermMinIou = Annotated[
    float | None,
    typer.Option(
        help="DLM: predicted IoU above which a frame is a candidate for the long-term memory (default 0.95).",
        rich_help_panel=_RULES,
    ),
]
Pool = Annotated[
    int | None,
    typer.Option(
        help="DLM: how many candidates come together before one of them is kept (default 5).", rich_help_panel=_RULES
    ),
]

_PASSES = "Passes"
Marks = Annotated[
    list[str] | None,
    typer.Option(
        "--mark",
        help='Point at an object: "grasper@1:30 +320,240 -100,50" (clicks on and beside it), or box x,y,w,h, '
        "mask FILE.png, absent. Repeat for more objects and frames; --text is not needed then.",
    ),
]
MarksFile = Annotated[Path | None, typer.Option("--marks", help="Many marks: a JSON file, such as a run's marks.json.")]
Direction = Annotated[
    str,
    typer.Option(
        help="forward, or both: frames before the one where an object is found are tracked backwards from there.",
        rich_help_panel=_PASSES,
    ),
]
FindAgain = Annotated[
    bool,
    typer.Option("--find-again", help="Search again for what tracking has lost.", rich_help_panel=_PASSES),
]
LostAfter = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="With --find-again: an object is lost after this many frames of absence (default 10).",
        rich_help_panel=_PASSES,
    ),
]
SearchEvery = Annotated[
    int | None,
    typer.Option(
        min=1, help="With --find-again: frames from one search to the next (default 5).", rich_help_panel=_PASSES
    ),
]


def check(parameters: Mapping[str, Any]) -> Part:
    """Check what can be checked before torch is imported, which takes seconds; return the wanted part of the video.

    Raises :class:`UsageError`.
    """
    from resurgsam2_cli.video.positions import Part, Position

    if not math.isfinite(parameters["threshold"]):
        raise UsageError(f"--threshold {parameters['threshold']} is not a number", "0 is the published value")
    rate(parameters["frame_rate"])
    if parameters["direction"] not in ("forward", "both"):
        raise UsageError(f"unknown direction {parameters['direction']!r}", "use --direction forward or both")
    for name in ("lost_after", "search_every"):
        if parameters[name] is not None and not parameters["find_again"]:
            raise UsageError(f"--{name.replace('_', '-')} is for --find-again", "leave it out, or add --find-again")

    def position(name: str) -> Position:
        try:
            return Position.parse(parameters[name])
        except UsageError as error:
            raise UsageError(f"--{name}: {error.message}", error.hint) from error

    return Part(position("start"), None if parameters["end"] is None else position("end"), parameters["stride"])


def segment_options(parameters: Mapping[str, Any]) -> SegmentOptions:
    """The parameters of ``segment`` and ``batch`` as the pipeline takes them. Raises :class:`UsageError`."""
    part = check(parameters)

    from model import Rules
    from model.finding_again import FindAgain
    from resurgsam2_cli.outputs.cleaning import Cleaning
    from resurgsam2_cli.segmenting.options import SegmentOptions

    when = {"after": parameters["lost_after"], "every": parameters["search_every"]}
    again = FindAgain(**{x: y for x, y in when.items() if y is not None}) if parameters["find_again"] else None
    given = {name: parameters[name] for name in RULES if parameters[name] is not None}
    try:
        Rules(**given)
        rules = Rules(**{**_stated_rules(parameters), **given})
    except (ValueError, TypeError) as error:
        raise UsageError(f"--{str(error).replace('_', '-')}", "see: resurgsam2 segment --help") from error
    same = ("threshold", "png", "object_png", "coco", "overlay", "legend", "seed", "direction")
    cleaning = Cleaning(parameters["min_part"], parameters["fill_holes"])
    options = SegmentOptions(part=part, rules=rules, find_again=again, cleaning=cleaning)
    return replace(options, **{name: parameters[name] for name in same})


def _stated_rules(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The values that the chosen weights state for themselves; whoever loads them says what is wrong with them."""
    from weights.errors import WeightsError
    from weights.store import resolve, stated_rules

    try:
        return stated_rules(resolve(parameters["weights"], parameters["clip_weights"])[1])
    except WeightsError:
        return {}


def say_wording(name: str, path: Path, texts: Iterable[str], *, quiet: bool) -> None:
    """Say on standard error which texts the weights did not learn, a line for each of the first few."""
    if quiet:
        return
    from resurgsam2_cli.prompts.wording import wording_notes
    from weights.store import vocabulary_of

    with weights_errors():
        notes = wording_notes(vocabulary_of(name, path), name, texts)
    for line in notes[:_NOTES]:
        typer.echo(f"resurgsam2: {line}", err=True)
    if len(notes) > _NOTES:
        typer.echo(f"resurgsam2: and {len(notes) - _NOTES} more texts that {name} did not learn", err=True)


def reading(parameters: Mapping[str, Any]) -> Reading:
    """How the source is read. Raises :class:`UsageError`."""
    from resurgsam2_cli.video.frames import MOST_PIXELS, Reading

    return Reading(rate(parameters["frame_rate"]), parameters["deinterlace"], parameters["max_pixels"] or MOST_PIXELS)


def rate(text: str | None) -> Fraction | None:
    """A frame rate, as a number or a fraction. Raises :class:`UsageError`."""
    if text is None:
        return None
    from resurgsam2_cli.video.positions import parse_rate

    try:
        value = parse_rate(text.strip())
    except ValueError:
        value = Fraction(0)
    if not Fraction(1, 100) <= value <= 1000:
        raise UsageError(f"{text!r} is not a frame rate", "give frames per second, such as 25 or 30000/1001")
    return value
