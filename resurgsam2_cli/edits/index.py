"""What corrected files say, frame by frame: kept on the disk, so that memory does not grow with the video.

The files come in any order, and all of them are checked before anything is made of one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from resurgsam2_cli.files.text import composed, readable
from resurgsam2_cli.runs.reading import read_states
from resurgsam2_cli.runs.record import Run
from resurgsam2_cli.video.frames import frame_key

_TABLES = """
CREATE TABLE frames (number INTEGER PRIMARY KEY, name TEXT, key TEXT);
CREATE INDEX by_name ON frames (name);
CREATE INDEX by_key ON frames (key);
CREATE TABLE images (frame INTEGER, object INTEGER, file TEXT, PRIMARY KEY (frame, object));
CREATE TABLE listed (id TEXT PRIMARY KEY, folder TEXT, stem TEXT, number INTEGER, size TEXT, frame INTEGER);
CREATE TABLE covered (frame INTEGER PRIMARY KEY);
CREATE TABLE shapes (
    frame INTEGER, label TEXT, track INTEGER, joined TEXT, counts TEXT, bordered TEXT, origin TEXT
);
CREATE INDEX by_frame ON shapes (frame);
CREATE TABLE spans (frame INTEGER, track INTEGER, label TEXT, object_track INTEGER, visible INTEGER);
CREATE INDEX spans_by_frame ON spans (frame);
CREATE TABLE corrections (frame INTEGER, object INTEGER, counts TEXT, PRIMARY KEY (frame, object));
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a file says of one object in one frame."""

    label: str
    """As the file has it."""
    track: int | None
    """The file's id of the object, if it has one."""
    joined: str
    """Shapes with the same text, if it is not empty, are parts of one object."""
    counts: str
    """The mask, as compressed COCO RLE."""
    bordered: str
    """Of a polygon, which holds a mask up to rounding: the mask with the pixels below its border; else empty."""
    origin: str
    """How errors name it."""


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image that a file lists."""

    key: str
    """Its id."""
    folder: str
    """Of the video, as the file has it."""
    stem: str
    """Its name, without folder and ending."""
    number: int | None
    """The frame's number in the source, if the file says so."""
    size: str
    """``width x height``; empty if the file does not say."""


class Index:
    """A database in a temporary file without a name, which is gone when it is closed."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._db = sqlite3.connect("", check_same_thread=False)
        self._db.executescript(_TABLES)
        self._db.executemany(
            "INSERT OR REPLACE INTO frames VALUES (?, ?, ?)",
            ((number, name, frame_key(composed(name))) for number, name, _, _ in read_states(run)),
        )

    def close(self) -> None:
        """Close the database, which removes it."""
        self._db.close()

    def _one(self, query: str, *values: Any) -> Any:
        row = self._db.execute(query, values).fetchone()
        return None if row is None else row[0]

    def frame_named(self, *names: str) -> int | None:
        """The number of the frame whose images have one of these names, else of the only one with its key."""
        for name in names:
            if (found := self._one("SELECT number FROM frames WHERE name = ?", readable(name))) is not None:
                return int(found)
        for name in names:
            if len(name) <= 255:  # longer ones are no numbers that Python reads
                key = frame_key(composed(readable(name)))
                rows = self._db.execute("SELECT number FROM frames WHERE key = ? LIMIT 2", (key,))
                if len(numbers := rows.fetchall()) == 1:
                    return int(numbers[0][0])
        return None

    def frame_numbered(self, number: int) -> int | None:
        """The number itself, if the run has that frame."""
        there = 0 <= number < 2**63 and self._one("SELECT 1 FROM frames WHERE number = ?", number)
        return number if there else None

    def any_name(self) -> str:
        """The name of the first frame, to tell people what names look like."""
        return str(self._one("SELECT name FROM frames ORDER BY number LIMIT 1"))

    # Images of PNG trees

    def add_image(self, frame: int, object_id: int, file: str) -> str | None:
        """Take note of an image of one object (0: of all); returns the file that has this place already, if any."""
        taken = self._one("SELECT file FROM images WHERE frame = ? AND object = ?", frame, object_id)
        if taken is None:
            self._db.execute("INSERT INTO images VALUES (?, ?, ?)", (frame, object_id, file))
        return taken

    def images(self, frame: int) -> list[tuple[int, str]]:
        """Objects (0: all) with the files that show them in a frame."""
        rows = self._db.execute("SELECT object, file FROM images WHERE frame = ? ORDER BY object", (frame,))
        return [(int(x), str(y)) for x, y in rows]

    # Images that a JSON or XML file lists

    def list_image(self, x: ListedImage) -> bool:
        """Take note of an image, whose frame is not known yet; False if its id has been there already."""
        values = (readable(x.key), readable(x.folder), readable(x.stem), x.number, readable(x.size))
        return self._db.execute("INSERT OR IGNORE INTO listed VALUES (?, ?, ?, ?, ?, NULL)", values).rowcount > 0

    def folders(self) -> list[str]:
        """The folders of the listed images."""
        return [str(x) for (x,) in self._db.execute("SELECT DISTINCT folder FROM listed ORDER BY folder")]

    def listed_in(self, folder: str) -> Iterator[ListedImage]:
        """The listed images of a folder, in the order of the file."""
        last = -1
        while rows := self._db.execute(
            "SELECT rowid, id, folder, stem, number, size FROM listed"
            " WHERE folder = ? AND rowid > ? ORDER BY rowid LIMIT 999",
            (folder, last),
        ).fetchall():  # page by page, as these rows are changed while they are gone through
            last = rows[-1][0]
            yield from (ListedImage(*row[1:]) for row in rows)

    def place_image(self, key: str, frame: int) -> bool:
        """Say which frame a listed image is; False if another one is that frame."""
        self._db.execute("UPDATE listed SET frame = ? WHERE id = ?", (frame, key))
        return self.cover(frame)

    def place_nowhere(self, key: str) -> None:
        """Say that a listed image is of this video, but of a frame that the run does not have."""
        self._db.execute("UPDATE listed SET frame = -1 WHERE id = ?", (key,))

    def listed_frame(self, key: str) -> tuple[bool, int | None]:
        """Whether an image is listed, and which frame it is; None if it is of another video, -1 if of no frame."""
        row = self._db.execute("SELECT frame FROM listed WHERE id = ?", (readable(key),)).fetchone()
        return row is not None, None if row is None else row[0]

    # What a JSON or XML file says

    def cover(self, frame: int) -> bool:
        """Say that the file has this frame, so that what it does not show there is absent; False if known."""
        return self._db.execute("INSERT OR IGNORE INTO covered VALUES (?)", (frame,)).rowcount > 0

    def cover_range(self, first: int, last: int, step: int) -> None:
        """Cover each ``step``-th frame from ``first`` to ``last``, as far as the run has it."""
        self._db.execute(
            "INSERT OR IGNORE INTO covered"
            " SELECT number FROM frames WHERE number BETWEEN ?1 AND ?2 AND (number - ?1) % ?3 = 0",
            (first, min(last, 2**63 - 1), step),
        )

    def is_covered(self, frame: int) -> bool:
        """Whether the file has this frame."""
        return self._one("SELECT 1 FROM covered WHERE frame = ?", frame) is not None

    def add_shape(self, frame: int, x: Shape) -> None:
        """Keep a shape of a frame."""
        values = (frame, readable(x.label), x.track, readable(x.joined), x.counts, x.bordered, readable(x.origin))
        self._db.execute("INSERT INTO shapes VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def shapes(self, frame: int) -> list[Shape]:
        """The shapes of a frame."""
        rows = self._db.execute("SELECT * FROM shapes WHERE frame = ? ORDER BY rowid", (frame,))
        return [Shape(*columns) for _, *columns in rows]

    def names_of_objects(self) -> Iterator[tuple[str, int | None, str]]:
        """Each label with each id that shapes have with it, and the origin of one of them."""
        yield from self._db.execute(
            "SELECT label, track, min(origin) FROM shapes GROUP BY label, track ORDER BY label, track"
        )

    def add_span(self, frame: int, track: int, label: str, object_track: int | None, *, visible: bool) -> None:
        """Say that from a frame on, until something else is said, a track of CVAT is visible or not."""
        self._db.execute(
            "INSERT INTO spans VALUES (?, ?, ?, ?, ?)", (frame, track, readable(label), object_track, visible)
        )

    def spans(self, after: int, last: int) -> list[tuple[int, int, str, int | None, bool]]:
        """Frame, track, label, id of the object and visibility of what is said after a frame, up to another one."""
        query = "SELECT * FROM spans WHERE frame > ? AND frame <= ? ORDER BY frame, visible"
        return self._db.execute(query, (after, last)).fetchall()

    # What comes of it

    def keep(self, frame: int, object_id: int, counts: str) -> None:
        """Keep the corrected mask of an object in a frame, as compressed RLE."""
        self._db.execute("INSERT INTO corrections VALUES (?, ?, ?)", (frame, object_id, counts))

    def corrections(self) -> Iterator[tuple[int, int, str]]:
        """Frame, object and mask of each correction, in order of frames and objects."""
        yield from self._db.execute("SELECT * FROM corrections ORDER BY frame, object")
