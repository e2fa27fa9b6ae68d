"""The command line's main job as a function, for notebooks and pipelines."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from fractions import Fraction
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from model import Rules
from model.finding_again import FindAgain
from resurgsam2_cli.commands.options import rate
from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.files.text import did_you_mean
from resurgsam2_cli.outputs import FrameResult
from resurgsam2_cli.outputs.cleaning import Cleaning
from resurgsam2_cli.prompts.marks import Mark, parse_mark
from resurgsam2_cli.prompts.prompt import Prompt, check_different, checked
from resurgsam2_cli.runs.find import check_no_run
from resurgsam2_cli.runs.folder import Wanted
from resurgsam2_cli.runs.reader import RunReader
from resurgsam2_cli.segmenting import engine as engines
from resurgsam2_cli.segmenting.engine import DEMO_WARNING, Engine
from resurgsam2_cli.segmenting.options import SegmentOptions, Way, check_way
from resurgsam2_cli.segmenting.pipeline import segment
from resurgsam2_cli.segmenting.placing import with_marks
from resurgsam2_cli.segmenting.session import VideoSession
from resurgsam2_cli.segmenting.streaming import segment_frames as stream
from resurgsam2_cli.segmenting.summary import Summary
from resurgsam2_cli.segmenting.writing import Watcher
from resurgsam2_cli.video.frames import Frame, Reading
from resurgsam2_cli.video.positions import Position
from resurgsam2_cli.video.source import open_source, source_path

__all__ = ["VideoSession", "build_engine", "open_run", "open_source", "parse_mark", "segment_frames", "segment_video"]

open_run = RunReader
"""Reads a finished run."""


class Settings(TypedDict, total=False):
    """Options of ``resurgsam2 segment`` by their names."""

    start: int | str
    """The first frame, or a time (``"12.5s"``, ``"1:02:03"``)."""
    end: int | str
    """The first frame that is not wanted any more, or a time."""
    stride: int
    frame_rate: int | float | str | Fraction
    """Of a folder of images, such as 25 or ``"30000/1001"``."""
    deinterlace: bool
    max_pixels: int
    threshold: float
    min_part: int
    fill_holes: int
    png: bool
    object_png: bool
    coco: bool
    overlay: bool
    legend: bool
    seed: int
    direction: Way
    find_again: bool
    lost_after: int
    """With ``find_again``: frames of absence after which an object is lost."""
    search_every: int
    """With ``find_again``: frames from one search to the next."""
    min_presence: float
    min_iou: float
    window: int
    long_term: int
    long_term_min_iou: float
    pool: int


def build_engine(
    weights: str = "auto",
    clip_weights: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    *,
    words: bool = True,
) -> Engine:
    """The network with its weights on a device, chosen as the options of these names do in the command.

    ``weights`` is a name of ``resurgsam2 weights list``, a file, or "auto"; ``clip_weights`` a file with CLIP's text
    tower; ``device`` "auto", "cpu", "cuda", "cuda:1" or "mps"; ``precision`` "auto", "fp32", "bf16" or "fp16".
    Without ``words``, nothing is loaded that only texts need: objects are pointed at. A Python warning says if these
    are the bundled demo weights. Raises a :class:`~resurgsam2_cli.errors.UserError`.
    """
    engine = engines.build_engine(weights, clip_weights, device, precision, words=words)
    _warn_of_demo(engine)
    return engine


def _warn_of_demo(engine: Engine) -> None:
    """Warn whoever called the function that calls this."""
    if engine.is_demo:
        warnings.warn(DEMO_WARNING, stacklevel=3)


def segment_video(
    source: str | PathLike[str],
    prompts: str | Prompt | Mark | Sequence[str | Prompt | Mark],
    out: str | PathLike[str] = "runs",
    *,
    engine: Engine | None = None,
    options: SegmentOptions | None = None,
    reading: Reading | None = None,
    overwrite: bool = False,
    watch: Watcher = lambda result: None,
    **settings: Unpack[Settings],
) -> Summary:
    """Segment a video file or a folder of images as ``resurgsam2 segment`` does; return its folder, files and record.

    ``prompts`` are texts, ``text=label``, those of a prompt file, or marks, such as ``parse_mark("grasper@90
    +320,240")``. For several videos, build the ``engine`` once, with :func:`build_engine`. Without one, a Python
    warning says if the bundled demo weights make the masks. ``watch`` is called with each frame and its masks, as a
    :class:`~resurgsam2_cli.outputs.FrameResult`. Options of the command are keywords (``start="1:30"``,
    ``overlay=False``, ``find_again=True``: :class:`Settings`); they are laid over ``options`` and ``reading``. Raises a
    :class:`~resurgsam2_cli.errors.UserError`.
    """
    has_rules = options is not None
    prompts = [prompts] if isinstance(prompts, (str, Prompt, Mark)) else prompts
    said = [x for x in prompts if isinstance(x, Mark)]
    texts = [x for x in prompts if not isinstance(x, Mark)]
    asked = _asked(texts) if texts or not said else ()
    options = _options(options or SegmentOptions(), settings)
    if options.find_again is not None and not asked:
        raise UsageError("find_again searches for texts, and there are none", "leave it out, or add a text")
    check_no_run(fspath(source))
    with open_source(source, _reading(reading or Reading(), settings)) as video:
        objects, where = with_marks(video, options.part, asked, said)
        wanted = Wanted(Path(out), video.name, source_path(video), video.identity())
        with wanted.claim(overwrite=overwrite) as folder:
            if engine is None:
                engine = engines.build_engine(words=bool(asked))
                _warn_of_demo(engine)
            if not has_rules:
                options = replace(options, rules=Rules(**{**engine.weights.rules, **_rules(settings)}))
            return segment(engine, video, objects, replace(options, marks=where), folder, watch)


def segment_frames(
    frames: Iterable[np.ndarray | Frame],
    prompts: str | Prompt | Sequence[str | Prompt],
    *,
    engine: Engine | None = None,
    rules: Rules | None = None,
    threshold: float = 0.0,
) -> Generator[FrameResult, None, None]:
    """Segment frames as they come, RGB arrays (height, width, 3) of uint8, and give the result of each; write nothing.

    A result has ``masks`` (objects, height, width) bool, ``labels`` (height, width) uint8, and what is said of each of
    its ``objects``. The masks are those of the command. Frames are taken in a thread of their own, a few ahead of the
    results, so that the network works on the next one meanwhile: the first result is there as soon as its frame is
    (with a GPU, which takes several at once, some frames later). Clips of fewer than 16 frames should have a length, as
    a list has. Frames of :func:`open_source` keep their numbers and times; arrays are counted from 0, at 25 a second.
    ``engine`` is as in :func:`segment_video`, and ``rules`` are the release's own. Close the generator if you stop
    before its end. Raises a :class:`~resurgsam2_cli.errors.UserError`.
    """
    texts = [prompts] if isinstance(prompts, (str, Prompt, Mark)) else prompts
    if marks := [x for x in texts if isinstance(x, Mark)]:
        raise UsageError(
            f"segment_frames searches for texts alone, and there is the mark {marks[0].name!r}",
            "give texts, or point at objects in a video: segment_video, VideoSession",
        )
    asked = _asked(texts)
    if engine is None:
        engine = engines.build_engine()
        _warn_of_demo(engine)
    return stream(engine, frames, asked, rules or Rules(**engine.weights.rules), threshold)


def _asked(prompts: Sequence[str | Prompt]) -> tuple[Prompt, ...]:
    """What is to be searched for. Raises :class:`UsageError`."""
    for x in prompts:
        if not isinstance(x, (str, Prompt)):
            raise UsageError(
                f"{x!r} is not a prompt", 'give texts, such as "left grasper", or parse_mark("grasper@90 ...")'
            )
    asked = checked(tuple(Prompt.parse(x) if isinstance(x, str) else x for x in prompts))
    check_different(asked)
    return asked


_PART = ("start", "end", "stride")
_READING = ("frame_rate", "deinterlace", "max_pixels")
_AGAIN = {"lost_after": "after", "search_every": "every"}
_RULES, _CLEANING = ({x.name for x in fields(kind)} for kind in (Rules, Cleaning))


def _rules(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key in _RULES}


def _options(options: SegmentOptions, settings: Mapping[str, Any]) -> SegmentOptions:
    """The options with the settings laid over them. Raises :class:`UsageError`."""
    known = Settings.__annotations__
    for name in settings:
        if name not in known:
            raise UsageError(
                f"segment_video has no option {name!r}", f"{did_you_mean(name, known)}it has {', '.join(known)}"
            )
    part = {key: value for key, value in settings.items() if key in _PART}
    for key in ("start", "end"):
        if key in part:
            part[key] = Position.parse(str(part[key]))
    apart = {*_PART, *_READING, "find_again", *_AGAIN, *_RULES, *_CLEANING}
    others = {key: value for key, value in settings.items() if key not in apart}
    check_way(settings.get("direction", options.direction))
    try:
        again = _again(options.find_again, settings)
        rules = replace(options.rules, **_rules(settings))
        cleaning = replace(options.cleaning, **{x: settings[x] for x in _CLEANING if x in settings})
    except (TypeError, ValueError) as error:
        raise UsageError(str(error), "see: resurgsam2 segment --help") from error
    others |= {"rules": rules, "find_again": again, "cleaning": cleaning}
    return replace(options, part=replace(options.part, **part), **others)


def _again(before: FindAgain | None, settings: Mapping[str, Any]) -> FindAgain | None:
    """When to search again, if at all. Raises :class:`UsageError`, and ``TypeError`` and ``ValueError``."""
    given = [name for name in _AGAIN if name in settings]
    if settings.get("find_again", before is not None):
        return replace(before or FindAgain(), **{_AGAIN[name]: settings[name] for name in given})
    if given:
        raise UsageError(f"{given[0]} is for find_again", "leave it out, or add find_again=True")
    return None


def _reading(reading: Reading, settings: Mapping[str, Any]) -> Reading:
    """The reading with the settings laid over it. Raises :class:`UsageError`."""
    given: dict[str, Any] = {}
    if "frame_rate" in settings:
        given["frame_rate"] = rate(str(settings["frame_rate"]))
    if "deinterlace" in settings:
        given["deinterlace"] = settings["deinterlace"]
    if (most := settings.get("max_pixels")) is not None:
        if most < 1:
            raise UsageError(f"max_pixels is {most}", "give the pixels of the largest picture, such as 10**9")
        given["most_pixels"] = most
    return replace(reading, **given)
