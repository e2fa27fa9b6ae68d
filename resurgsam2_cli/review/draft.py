"""What a person said on the page and was not tracked from yet: each word is on the disk before it is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.atomic import write_json, writing
from resurgsam2_cli.prompts.marks import Mark, mark_of
from resurgsam2_cli.runs.record import DRAFT, MARKS, raw_marks

Entry = dict[str, Any]
"""An item as marks.json has them; ``object`` is an id."""


class Draft:
    """The draft of one run, oldest first; ``draft.json`` in its folder has it, in the form of marks.json.

    Later entries take the place of earlier ones for the same object and frame, which are there for :meth:`undo`.
    Raises a :class:`~resurgsam2_cli.errors.UserError`.
    """

    def __init__(self, folder: Path, undone: Sequence[Entry] = ()) -> None:
        self.path = folder / DRAFT
        self._stamp = _stamp(self.path)
        entries, said = raw_marks(self.path), {x.get("when") for x in raw_marks(folder / MARKS)}
        # A version takes all entries that are there, and a kill may leave them in both files.
        taken = max((i for i, x in enumerate(entries, start=1) if x.get("when") in said), default=0)
        self.entries = entries[taken:]
        for i, x in enumerate(self.entries, start=1):
            mark = mark_of(x, self.path, i)
            numbers = [x["object"], *_frames(x)]
            if not all(type(y) is int for y in numbers) or numbers[2] < numbers[1]:
                raise InputError(f"{mark}: is not as the page wrote it", f"correct {DRAFT}, or move it away")
        self.undone = list(undone)
        """What was taken back, the last one last."""

    @property
    def is_stale(self) -> bool:
        """Whether somebody else has written the file since."""
        return _stamp(self.path) != self._stamp

    def add(self, entry: Entry) -> None:
        """Take an entry; what was undone before cannot be had again."""
        self._write([*self.entries, {**entry, "when": now()}])
        self.undone.clear()

    def undo(self) -> bool:
        """Take the last entry back; returns whether there was one."""
        if self.entries:
            last = self.entries[-1]
            self._write(self.entries[:-1])
            self.undone.append(last)
            return True
        return False

    def redo(self) -> bool:
        """Say again what was undone last; returns whether there was anything."""
        if self.undone:
            self._write([*self.entries, self.undone[-1]])
            self.undone.pop()
            return True
        return False

    def lapse(self, still_right: Callable[[Entry], bool]) -> None:
        """Drop every "confirmed" whose masks are not those that the person saw."""
        left = [x for x in self.entries if not x.get("confirmed") or still_right(x)]
        if len(left) < len(self.entries):
            self._write(left)

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Take entries of a version that is taken back, before those that are there."""
        self._write([*entries, *self.entries])

    def save(self) -> None:
        """Write it as it is: what has become part of a version was left out when it was read."""
        self._write(self.entries)

    def at(self, object_id: int, frame: int) -> list[Entry]:
        """The entries of an object in one frame since the last that says something else of it, oldest first."""
        found: list[Entry] = []
        for x in self.entries:
            if _is_about(x, object_id, frame) and not (found and x.get("confirmed")):
                found = [*found, x] if _is_of_one_frame(x) else []
        return found

    def last(self, object_id: int, frame: int, stride: int) -> Entry | None:
        """The entry that says what mask an object has in one frame; None if no one does."""
        about = (x for x in self.resolved(stride) if _is_about(x, object_id, frame) and not x.get("confirmed"))
        return next(about, None)

    def resolved(self, stride: int) -> list[Entry]:
        """What counts of all entries: the last for each object and frame.

        "Confirmed" says nothing about frames that have another entry. ``stride`` is that of the run.
        """
        found: list[Entry] = []
        for x in self.entries:
            if x.get("confirmed"):
                parts = [x]
                for y in found:
                    parts = [z for part in parts for z in _without(part, y, stride)]
                found += parts
            else:
                found = [z for y in found for z in _without(y, x, stride)] + [x]
        return found

    def marks(self, stride: int) -> list[Mark]:
        """The same, as marks."""
        return [mark_of(x, self.path, i) for i, x in enumerate(self.resolved(stride), start=1)]

    def _write(self, entries: list[Entry]) -> None:
        with writing(self.path):
            write_json(self.path, {"marks": entries})
        self.entries, self._stamp = entries, _stamp(self.path)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def now() -> str:
    """The time, precise enough to tell two entries apart."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _frames(x: Entry) -> tuple[Any, Any]:
    """The first and the last frame that an entry is about."""
    return x["frame"], x["end"] if "end" in x else x["frame"]


def _is_about(x: Entry, object_id: int, frame: int) -> bool:
    first, last = _frames(x)
    return bool(x["object"] == object_id and first <= frame <= last)


def _is_of_one_frame(x: Entry) -> bool:
    return "end" not in x


def _without(x: Entry, other: Entry, stride: int) -> Iterator[Entry]:
    """The parts of an entry that lie outside of another one's frames."""
    (first, last), (begin, end) = _frames(x), _frames(other)
    if x["object"] != other["object"] or end < first or begin > last:
        yield x
        return
    part = {key: value for key, value in x.items() if key != "seen"}  # that is a sum over all of its frames
    if first < begin:
        yield {**part, "end": begin - stride}
    if end < last:
        yield {**part, "frame": end + stride, "end": last}
