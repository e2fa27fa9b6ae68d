"""Where the frames of a run lie in its files, so that a few among many can be read, and replaced.

Both files have one item per line, as this program writes them; all that lies between two changed frames is copied as it
is, whatever it holds.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from resurgsam2_cli.files.text import parse_json
from resurgsam2_cli.runs.reading import RunFrame, check_files, masks_of, read_line
from resurgsam2_cli.runs.record import ANNOTATIONS, FRAMES, Run, as_written

_FRAME = re.compile(rb'\{"frame": (\d{1,18}), "')
_ITEM = re.compile(rb'\{"id": (\d{1,18}), "image_id": (\d{1,18}), "')
_LISTS = re.compile(rb'\], "annotations": \[')
"""Between the two lists; in a text, the quotes would be escaped."""
_SEPARATOR = b",\n"
_END = b"]}\n"
_CHUNK = 1 << 20


class RunIndex:
    """The two files of a run that say what is in each frame. Steps count the processed frames from 0.

    They may lie in another ``folder`` than that of the run. Raises :class:`~resurgsam2_cli.errors.InputError` if they
    are not as this program wrote them.
    """

    def __init__(self, run: Run, folder: Path | None = None) -> None:
        check_files(run)
        self.run, folder = run, folder or run.folder
        self._lines, self._numbers = array("q"), array("q")
        """Where the line of each frame begins, and the end; and its number in the source."""
        self._items, self._images, self.last_id = array("q"), array("q"), 0
        """Where each annotation begins, and the id of its image, which is its step and 1."""
        self._begin = self._end = 0
        """Where the list of annotations begins and ends."""
        with ExitStack() as files:
            self._frames = files.enter_context((folder / FRAMES).open("rb"))
            self._annotations = files.enter_context((folder / ANNOTATIONS).open("rb"))
            with as_written(run.folder / FRAMES):
                self._index_frames()
            with as_written(run.folder / ANNOTATIONS):
                self._index_annotations()
            self._files = files.pop_all()

    def __enter__(self) -> RunIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def __len__(self) -> int:
        """How many frames were processed."""
        return len(self._numbers)

    def number(self, step: int) -> int:
        """The number of a frame in the source."""
        return self._numbers[step]

    def step(self, number: int) -> int | None:
        """The place of a frame of the source; None if it was not processed."""
        at = bisect_left(self._numbers, number)
        return at if at < len(self) and self._numbers[at] == number else None

    def _index_frames(self) -> None:
        place = 0
        for line in self._frames:
            found = _FRAME.match(line)
            number = int(found[1]) if found else parse_json(line.decode())["frame"]
            if self._numbers and number <= self._numbers[-1]:
                raise ValueError(f"frame {number} after {self._numbers[-1]}")
            self._lines.append(place)
            self._numbers.append(number)
            place += len(line)
        self._lines.append(place)
        if len(self) != self.run.frames:
            raise ValueError(f"it has {len(self)} frames, not {self.run.frames}")

    def _index_annotations(self) -> None:
        place, inside = 0, False
        for line in self._annotations:
            begin = 0
            if not inside:
                border = _LISTS.search(line)
                if border is not None:
                    inside, begin = True, border.end()
                    self._begin = place + begin
            if inside and line[begin:] != _END:
                found = _ITEM.match(line, begin)
                if found is None or not (self._images or [1])[-1] <= int(found[2]) <= len(self):
                    raise ValueError("its annotations are not one per line, in the order of their frames")
                self._items.append(place + begin)
                self._images.append(int(found[2]))
                self.last_id = max(self.last_id, int(found[1]))
            place += len(line)
            last = line
        self._end = place - len(_END)
        if not inside or not last.endswith(_END):
            raise ValueError("its lists are not where they should be")

    def frame(self, step: int) -> RunFrame:
        """What the run says of a frame. Raises :class:`~resurgsam2_cli.errors.InputError`."""
        with as_written(self.run.folder / FRAMES):
            number, name, time, states = read_line(self.run, self._line(step).decode())
        with as_written(self.run.folder / ANNOTATIONS):
            masks = list(masks_of(self.run, self.annotations(step)))
        return RunFrame(number, name, time, states, masks)

    def annotations(self, step: int) -> list[dict[str, Any]]:
        """The annotations of a frame as they are in the file."""
        items = [parse_json(x.decode()) for x in self._items_of(step)]
        known = {x.id for x in self.run.objects}
        ids = [x["track_id"] for x in items]
        if len(set(ids)) < len(ids) or not known.issuperset(ids):
            raise ValueError(f"image {step + 1} has the objects {ids}")
        return items

    def _line(self, step: int) -> bytes:
        self._frames.seek(self._lines[step])
        return self._frames.read(self._lines[step + 1] - self._lines[step])

    def _items_of(self, step: int) -> list[bytes]:
        first, last = bisect_left(self._images, step + 1), bisect_left(self._images, step + 2)
        return [self._item(i) for i in range(first, last)]

    def _item(self, i: int) -> bytes:
        end = self._items[i + 1] - len(_SEPARATOR) if i + 1 < len(self._items) else self._end
        self._annotations.seek(self._items[i])
        return self._annotations.read(end - self._items[i])

    def write_frames(self, file: IO[bytes], lines: Iterable[tuple[int, str]]) -> None:
        """Write frames.jsonl anew, with other ``lines`` (without their ends) at some steps, which are in order."""
        done = 0
        for step, line in lines:
            self._copy(self._frames, self._lines[done], self._lines[step], file)
            file.write(line.encode() + b"\n")
            done = step + 1
        self._copy(self._frames, self._lines[done], self._lines[-1], file)

    def write_annotations(self, file: IO[bytes], items: Iterable[tuple[int, Sequence[str]]]) -> None:
        """Write annotations.json anew, with other annotations, as JSON, at some steps, which are in order."""
        self._copy(self._annotations, 0, self._begin, file)
        follows = False
        for part in self._parts(items):
            if isinstance(part, str):
                file.write((_SEPARATOR if follows else b"") + part.encode(errors="backslashreplace"))
            else:
                file.write(_SEPARATOR if follows else b"")
                self._copy(self._annotations, *part, file)
            follows = True
        file.write(_END)

    def _parts(self, items: Iterable[tuple[int, Sequence[str]]]) -> Iterator[str | tuple[int, int]]:
        """New annotations, and from where to where others lie between them."""
        done = 0
        for step, new in items:
            first, last = bisect_left(self._images, step + 1), bisect_left(self._images, step + 2)
            if first > done:
                yield self._items[done], self._items[first] - len(_SEPARATOR) if first < len(self._items) else self._end
            yield from new
            done = last
        if done < len(self._items):
            yield self._items[done], self._end

    @staticmethod
    def _copy(source: IO[bytes], begin: int, end: int, target: IO[bytes]) -> None:
        source.seek(begin)
        left = end - begin
        while left:
            chunk = source.read(min(left, _CHUNK))
            if not chunk:
                raise OSError(f"{source.name} has become shorter")
            target.write(chunk)
            left -= len(chunk)
