"""Marks: what a person points at in a frame, on the command line or in a file.

``OBJECT@FRAME WHAT``, such as ``"grasper@1:30 +320,240 -100,50"``: OBJECT is a label or an id, FRAME a number or a
time, WHAT any of ``+x,y`` (a click on it), ``-x,y`` (a click beside it), ``box x,y,w,h``, ``mask FILE.png``,
``absent``. Coordinates are pixels of the upright frame, from the top left corner of the picture, fractions allowed. Of
a finished run, ``confirmed`` says that a mask is right, and ``FRAME-FRAME`` makes "absent" and "confirmed" hold for all
frames from one to the other. In a file, clicks beside a mask say how the mask was made; the mask is what counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from resurgsam2_cli.errors import InputError, UsageError
from resurgsam2_cli.files.rle import check_rle
from resurgsam2_cli.files.text import one_line, read_json, shown
from resurgsam2_cli.prompts.prompt import MOST_PROMPTS, Prompt, checked
from resurgsam2_cli.video.positions import Position

_HINT = 'write OBJECT@FRAME WHAT, such as "grasper@1:30 +320,240 -100,50"; see: resurgsam2 segment --help'

_TIME = r"[\d.][\d.:]*s?"
_MARK = re.compile(rf"(?P<object>.+?)@(?P<frame>{_TIME})(?:-(?P<end>{_TIME}))?\s+(?P<what>\S.*)", re.DOTALL)

_NUMBER = r"\d{1,7}(?:\.\d{0,9})?"
_PLACE = re.compile(r"\d+(\.\d*)?,\d+(\.\d*)?$")
_WHAT = re.compile(
    rf"(?P<click>[+-]{_NUMBER},{_NUMBER})(?=\s|$)"
    rf"|box\s+(?P<box>-?{_NUMBER}(?:,-?{_NUMBER}){{3}})(?=\s|$)"
    r"|mask\s+(?P<mask>\S.*)"
    r"|(?P<absent>absent)(?=\s|$)"
    r"|(?P<confirmed>confirmed)(?=\s|$)"
)

MASK_FIELDS = {"size", "counts"}

_FIELDS = {"object", "frame", "end", "points", "box", "mask", "imported", "absent", "confirmed"}

_LONGEST_TIME = 40
"""Characters of the time at which something was said."""

Point = tuple[float, float, bool]
"""x, y, and whether it is on the object."""

Box = tuple[float, float, float, float]
"""left, top, width, height"""


@dataclass(frozen=True)
class Mark:
    """What one mark says of one object in one frame."""

    name: str
    """The object: its label, or its id."""
    position: Position
    points: tuple[Point, ...] = ()
    box: Box | None = None
    mask: Path | dict[str, Any] | None = None
    """A picture, or COCO's RLE."""
    absent: bool = False
    origin: str = ""
    """Where the mark was read, for errors about it."""
    confirmed: bool = False
    """Of a finished run: its mask is right."""
    end: Position | None = None
    """The last frame that it is about, if not the only one."""
    imported: bool = False
    """Whether the mask was drawn in another program."""
    when: str = ""
    """When it was said, in ISO 8601; empty for just now."""
    by_id: bool = False
    """Whether the name is an id, whatever labels there are."""
    seen: str = ""
    """Of "confirmed": a sum of the masks that the person saw; empty if it is not known."""

    def __str__(self) -> str:
        return self.origin

    def check(self, *, made_by_clicks: bool = False) -> None:
        """Raise :class:`UsageError` for a mark that says nothing, or too much.

        ``made_by_clicks`` allows a mask with the clicks that it was made by.
        """
        clicked, drawn = bool(self.points or self.box), self.mask is not None
        clicked = clicked and not (drawn and made_by_clicks)
        kinds = clicked + drawn + self.absent + self.confirmed
        if not kinds:
            raise UsageError(f"{self}: says nothing about the object", "add a click, a box, a mask, or 'absent'")
        if kinds > 1:
            said = {
                "clicks": clicked,
                "a mask": drawn,
                "absent": self.absent,
                "confirmed": self.confirmed,
            }
            raise UsageError(
                f"{self}: says both {' and '.join(x for x, there in said.items() if there)}", "say one of them"
            )
        if self.end is not None and not (self.absent or self.confirmed):
            raise UsageError(
                f"{self}: is about several frames", "only 'absent' and 'confirmed' hold for FRAME-FRAME; mark one frame"
            )
        if self.box is not None and not (self.box[2] > 0 and self.box[3] > 0):
            raise UsageError(f"{self}: the box has no area", "write box x,y,width,height, both above 0")

    def check_inside(self, width: int, height: int) -> None:
        """Raise :class:`UsageError` for a point outside of the picture."""
        outside = [(x, y) for x, y, _ in self.points if not (0 <= x < width and 0 <= y < height)]
        if self.box is not None:
            left, top, w, h = self.box
            begins = 0 <= left < width and 0 <= top < height
            if not (begins and left + w <= width + 0.5 and top + h <= height + 0.5):
                outside.append((left, top))
        if outside:
            x, y = outside[0]
            what = "its box reaches" if self.box is not None and (x, y) == self.box[:2] else f"the point {x:g},{y:g} is"
            raise UsageError(
                f"{self}: {what} outside of the picture, which is {width} x {height} pixels",
                "coordinates are pixels of the upright frame, from 0,0 in the top left corner",
            )

    def read_mask(self, width: int, height: int) -> np.ndarray:
        """The mask, (height, width) bool. Raises :class:`InputError` and :class:`UsageError`."""
        if isinstance(self.mask, dict):
            mask = _decoded(self, self.mask)
        else:
            assert self.mask is not None
            mask = _picture(self, self.mask)
        if mask.shape != (height, width):
            raise InputError(
                f"{self}: the mask is {mask.shape[1]} x {mask.shape[0]} pixels, the video {width} x {height}",
                "draw it on a frame in its full size",
            )
        if not mask.any():
            raise InputError(f"{self}: the mask is empty", "if the object is not in this frame, say 'absent'")
        return mask


def _decoded(mark: Mark, rle: dict[str, Any]) -> np.ndarray:
    size, counts = rle.get("size"), rle.get("counts")
    try:
        if not (isinstance(size, list) and len(size) == 2 and all(type(x) is int and 0 < x < 2**16 for x in size)):
            raise ValueError(f"its size is {shown(size)}")
        if isinstance(counts, list):
            if not all(type(x) is int and 0 <= x < 2**31 for x in counts) or sum(counts) != size[0] * size[1]:
                raise ValueError("its counts do not fill its size")
            rle = coco_mask.frPyObjects({"size": size, "counts": counts}, *size)
        else:
            check_rle(rle, *size)
        return coco_mask.decode(rle).astype(bool)
    except (ValueError, TypeError) as error:
        raise InputError(f"{mark}: its mask is no RLE of COCO ({error})", "write it with pycocotools") from error


def _picture(mark: Mark, path: Path) -> np.ndarray:
    hint = "give a PNG in the size of the video: black is outside, one other colour inside"
    try:
        with Image.open(path) as image:
            inside: np.ndarray
            if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16"):
                colours = np.asarray(image)
                inside = colours != 0
            else:
                colours = np.asarray(image.convert("RGBA"))
                inside = (colours[..., :3].any(axis=-1)) & (colours[..., 3] > 0)
    except FileNotFoundError as error:
        raise InputError(f"{mark}: {path}: no such file", "check the path") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{mark}: {path}: is no picture that can be read", hint) from error
    found = colours[inside]
    if len(found) and (found != found[0]).any():
        raise InputError(
            f"{mark}: {path} has several colours beside black, so it does not say what the object is",
            f"{hint}; save it without smooth edges, and not as a JPEG",
        )
    return inside


def parse_mark(text: str) -> Mark:
    """A mark as ``--mark`` takes it: ``OBJECT@FRAME WHAT``, such as ``"grasper@1:30 +320,240 -100,50"``.

    OBJECT is a label or an id, FRAME a number or a time, and WHAT clicks (``+x,y`` on the object, ``-x,y`` beside it),
    ``box x,y,w,h``, ``mask FILE.png`` or ``absent``, in pixels of the upright frame. Raises :class:`UsageError`.
    """
    origin = f"--mark {one_line(text)!r}"
    match = _MARK.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{origin}: is not a mark", _HINT)
    points: list[Point] = []
    end = None if match["end"] is None else _position(match["end"], origin)
    mark = Mark(_named(match["object"], origin), _position(match["frame"], origin), origin=origin, end=end)
    rest = match["what"]
    while rest:
        found = _WHAT.match(rest)
        if not found:
            word = rest.split()[0]
            hint = (
                f"put + before a click on the object, - before one beside it: +{word}" if _PLACE.match(word) else _HINT
            )
            raise UsageError(f"{origin}: {shown(word)} is no part of a mark", hint)
        if found["click"]:
            x, y = found["click"][1:].split(",")
            points.append((float(x), float(y), found["click"][0] == "+"))
        elif found["box"]:
            if mark.box is not None:
                raise UsageError(f"{origin}: has two boxes", "draw one box around the whole object")
            left, top, width, height = map(float, found["box"].split(","))
            mark = replace(mark, box=(left, top, width, height))
        elif found["mask"]:
            mark = replace(mark, mask=Path(found["mask"].strip()))
        elif found["absent"]:
            mark = replace(mark, absent=True)
        else:
            mark = replace(mark, confirmed=True)
        rest = rest[found.end() :].lstrip()
    mark = replace(mark, points=tuple(points))
    mark.check()
    return mark


def read_marks(path: str | PathLike[str]) -> list[Mark]:
    """The marks of a file. Raises a :class:`~resurgsam2_cli.errors.UserError`."""
    path = Path(path)
    hint = 'write {"marks": [{"object": "grasper", "frame": 120, "points": [[320, 240, 1]]}, ...]}'
    content = read_json(path, hint)
    items = content.get("marks") if isinstance(content, dict) else content
    if not isinstance(items, list):
        raise InputError(f"{path}: has no list of marks", hint)
    return [mark_of(item, path, i) for i, item in enumerate(items, start=1)]


def mark_of(item: Any, path: Path, number: int) -> Mark:
    """The ``number``-th mark of a file. Raises a :class:`~resurgsam2_cli.errors.UserError` that names it."""
    origin = f"{path}: mark {number}"
    if not isinstance(item, dict) or "object" not in item or "frame" not in item:
        raise InputError(f"{origin}: needs an object and a frame", _HINT_FILE)
    unknown = sorted(set(item) - _FIELDS - {"time", "when", "seen"})
    if unknown:
        raise InputError(f"{origin}: has the unknown field {shown(unknown[0])}", f"use {', '.join(sorted(_FIELDS))}")
    origin += f" ({shown(item['object'])} in frame {shown(item['frame'])})"
    named, frame, mask = item["object"], item["frame"], item.get("mask")
    if isinstance(mask, str) and mask:
        mask = path.parent / mask
    elif mask is not None and not isinstance(mask, dict):
        raise InputError(f"{origin}: its mask is {shown(mask)}", "give the path of a PNG, or COCO's RLE")
    end = item.get("end")
    for name, value in (("frame", frame), ("end", 0 if end is None else end)):
        if type(value) not in (str, int):
            raise InputError(f"{origin}: its {name} is {shown(value)}", 'give a number (120) or a time ("12.5s")')
    for name in ("absent", "confirmed", "imported"):
        if not isinstance(item.get(name, False), bool):
            raise InputError(f"{origin}: {name} is {shown(item[name])}", "use true or false")
    mark = Mark(
        _named(str(named) if type(named) in (str, int) else "", origin),
        _position(str(frame), origin),
        tuple(_point(x, origin) for x in _list(item.get("points"), origin, "points")),
        _box(item.get("box"), origin),
        mask,
        item.get("absent", False),
        origin,
        item.get("confirmed", False),
        None if end is None else _position(str(end), origin),
        item.get("imported", False),
        when if isinstance(when := item.get("when"), str) and len(when) <= _LONGEST_TIME else "",
        type(named) is int,
        seen if isinstance(seen := item.get("seen"), str) else "",
    )
    mark.check(made_by_clicks=True)
    return mark


_HINT_FILE = '{"object": "grasper", "frame": 120, "points": [[320, 240, 1]]}'


def _named(name: str, origin: str) -> str:
    name = one_line(name)
    if not name:
        raise UsageError(f"{origin}: names no object", _HINT)
    return name


def _position(text: str, origin: str) -> Position:
    try:
        return Position.parse(text)
    except UsageError as error:
        raise UsageError(f"{origin}: {error.message}", error.hint) from error


def _list(value: Any, origin: str, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise InputError(f"{origin}: {name} is {shown(value)}", _HINT_FILE)
    return value


def _point(value: Any, origin: str) -> Point:
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(_is_place(x) for x in value[:2])
        or value[2] not in (0, 1)
    ):
        raise InputError(
            f"{origin}: has the point {shown(value)}", "write [x, y, 1] on the object, [x, y, 0] beside it"
        )
    return float(value[0]), float(value[1]), bool(value[2])


def _box(value: Any, origin: str) -> Box | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 4 or not all(_is_place(x) for x in value):
        raise InputError(f"{origin}: has the box {shown(value)}", "write [x, y, width, height]")
    left, top, width, height = map(float, value)
    return left, top, width, height


def _is_place(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e7


def objects_of(marks: Sequence[Mark], prompts: Sequence[Prompt]) -> tuple[tuple[Prompt, ...], list[int]]:
    """All objects of a run, those with words first, and the row that each mark is about.

    A label that no prompt has makes an object without words. Raises :class:`UsageError`.
    """
    objects = list(prompts)
    rows = []
    for mark in marks:
        named = [row for row, x in enumerate(objects) if x.label == mark.name and not mark.by_id]
        if len(named) > 1:
            ids = " or ".join(str(row + 1) for row in named)
            raise UsageError(f"{mark}: {len(named)} objects are called {mark.name!r}", f"use the id: {ids}")
        if named:
            rows.append(named[0])
        elif mark.name.isascii() and mark.name.isdecimal():
            row = int(mark.name[:9]) - 1
            if not 0 <= row < len(objects):
                raise UsageError(f"{mark}: there is no object {mark.name}", "ids count from 1; a new one needs a name")
            rows.append(row)
        else:
            rows.append(len(objects))
            objects.append(Prompt(mark.name, mark.name, words=False))
    if len(objects) > MOST_PROMPTS or not objects:
        checked(tuple(objects))
    return tuple(objects), rows
