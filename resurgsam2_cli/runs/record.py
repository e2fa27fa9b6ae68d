"""``run.json``: what a run was made of, with what, and what it found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from resurgsam2_cli.errors import InputError, UsageError
from resurgsam2_cli.files.text import is_name, parse_json, read_text, readable, shown
from resurgsam2_cli.prompts.prompt import MOST_PROMPTS
from resurgsam2_cli.runs.cuts import Cut, parse_cuts
from resurgsam2_cli.video.positions import Part, Position, parse_rate

RECORD = "run.json"
"""Written last: its presence means complete."""

ANNOTATIONS = "annotations.json"
FRAMES = "frames.jsonl"
MASKS = "masks"
OBJECTS = "objects"
MARKS = "marks.json"
"""What a person said about the masks."""
DRAFT = "draft.json"
"""What a person said on the review page, and was not tracked from yet."""
HISTORY = "history"
"""What it takes to go back to earlier versions."""
FORMAT = 1

_MOST_PIXELS = 2**28
"""Pixels of a picture: ffmpeg decodes none that are larger."""


@dataclass(frozen=True)
class RunObject:
    """An object that was asked for."""

    id: int
    """From 1."""
    text: str
    label: str
    color: tuple[int, int, int]
    """RGB in the run's overlay."""
    words: bool = True
    """Whether its text was searched for."""


@dataclass(frozen=True)
class Run:
    """A finished run, without its frames."""

    folder: Path
    name: str
    """Unique among the runs that are read together; its parts, joined by ``/``, mirror the folders."""
    source: str
    """The video's path when it was segmented; ``-`` for standard input."""
    identity: dict[str, Any]
    """``size`` (bytes), ``sum`` and, for a folder, ``files`` of the source then. Runs of older versions have no sum."""
    height: int
    width: int
    rate: Fraction
    """Frames per second of the source."""
    frames: int
    """How many were processed."""
    part: Part
    """The part of the source that was processed."""
    objects: tuple[RunObject, ...]
    deinterlaced: bool = False
    """Whether the frames were deinterlaced."""
    outputs: tuple[str, ...] = ()
    """Names of the outputs that were written."""
    sums: dict[str, str] = field(default_factory=dict)
    """Sum of each file and folder as it was written; see :mod:`resurgsam2_cli.runs.sums`."""
    legend: bool = True
    """Whether the overlay names the objects."""
    demo_weights: bool = False
    """Whether the bundled demo network made the masks."""
    cuts: tuple[Cut, ...] = ()
    """Where its pieces meet, if it was joined from several."""


def raw_record(folder: Path) -> dict[str, Any]:
    """The content of ``run.json``; empty if there is none, or if it is not a JSON object."""
    try:
        record = parse_json(read_text(folder / RECORD))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def is_record(record: dict[str, Any]) -> bool:
    """Whether this is the record of a finished run of this program."""
    return (
        record.get("complete") is True
        and record.get("format") == FORMAT
        and all(isinstance(record.get(key), dict) for key in ("source", "settings"))
        and isinstance(record.get("objects"), list)
    )


def is_run(folder: Path) -> bool:
    """Whether a folder holds a finished run."""
    return is_record(raw_record(folder))


def read_run(folder: Path, name: str | None = None) -> Run:
    """A finished run, every field checked. Raises :class:`InputError`."""
    path = folder / RECORD
    with as_written(path):
        record = parse_json(read_text(path))
        if not isinstance(record, dict) or not is_record(record):
            raise ValueError("it is not the record of a finished run")
        source, settings = record["source"], record["settings"]
        end = settings["end"]
        objects = tuple(_object(x) for x in record["objects"])
        if [x.id for x in objects] != list(range(1, len(objects) + 1)):
            raise ValueError("the ids of its objects do not count from 1")
        if len(objects) > MOST_PROMPTS:
            raise ValueError(f"it has {len(objects)} objects, and label images hold {MOST_PROMPTS}")
        height, width = _whole(source["height"], 1), _whole(source["width"], 1)
        if height * width > _MOST_PIXELS:
            raise ValueError(f"a picture of {shown(width)} x {shown(height)}")
        return Run(
            folder=folder,
            name=name or readable(folder.resolve().name),
            source=_text(source["path"]),
            identity={key: source[key] for key in ("size", "sum", "files") if key in source},
            height=height,
            width=width,
            rate=parse_rate(source["frame_rate"]),
            frames=_whole(source["frames"], 1),
            part=Part(
                Position.parse(_text(settings["start"])),
                None if end is None else Position.parse(_text(end)),
                _whole(settings["stride"], 1),
            ),
            deinterlaced=settings.get("deinterlace") is True,
            objects=objects,
            outputs=tuple(_text(x) for x in settings.get("outputs", ())),
            sums={_name(key): _text(value) for key, value in record.get("sums", {}).items()},
            legend=settings.get("legend") is not False,
            demo_weights=any(map(is_of_demo, _all_weights(record))),
            cuts=parse_cuts(record.get("cuts", []), [x.id for x in objects]),
        )


def _all_weights(record: dict[str, Any]) -> list[Any]:
    """The weights that made a run, and those that made later versions of it, as far as they are others."""
    return [record.get("weights"), *(x.get("weights") for x in record.get("versions", []))]


def is_of_demo(weights: Any) -> bool:
    """Whether these are the weights of the bundled demo network. Older records only have their name."""
    return isinstance(weights, dict) and weights.get("demo", weights.get("name") == "demo") is True


def have_made(record: dict[str, Any], weights: dict[str, Any]) -> bool:
    """Whether a run, as it was segmented, was made by these weights."""
    own = record.get("weights")
    return isinstance(own, dict) and own.get("sha256") == weights["sha256"]


def _object(entry: Any) -> RunObject:
    return RunObject(
        _whole(entry["id"], 1),
        _text(entry["text"]),
        _text(entry["label"]),
        parse_color(entry["color"]),
        entry.get("words") is not False,
    )


def _whole(value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
        raise ValueError(f"{shown(value)} where a whole number from {least} on is expected")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} where a text is expected")
    return readable(value)


def _name(value: str) -> str:
    """The name of something in the folder: a path could lead to files that are not masks."""
    if not is_name(value):
        raise ValueError(f"{shown(value)} where the name of a file is expected")
    return value


def raw_marks(path: Path) -> list[dict[str, Any]]:
    """The items of ``marks.json`` or ``draft.json`` as they stand; none if there is no such file.

    Raises :class:`InputError`.
    """
    if not path.exists():
        return []
    try:
        marks = parse_json(read_text(path))["marks"]
        if not isinstance(marks, list) or not all(isinstance(x, dict) for x in marks):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not as this program wrote it", "restore it, or move it away") from error
    return marks


def color_text(color: tuple[int, int, int]) -> str:
    """RGB as ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def parse_color(text: str) -> tuple[int, int, int]:
    """``#rrggbb`` as RGB. Raises ``ValueError``."""
    value = bytes.fromhex(text.removeprefix("#"))
    if len(value) != 3:
        raise ValueError(f"{text!r} is not #rrggbb")
    return value[0], value[1], value[2]


@contextmanager
def as_written(path: Path) -> Iterator[None]:
    """Turn whatever can be wrong with a file of a run into :class:`InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})", "segment the video again") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, UsageError, ArithmeticError) as error:
        cause = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(
            f"{path}: is not as this program wrote it ({cause})", "segment the video again, or leave this run out"
        ) from error
