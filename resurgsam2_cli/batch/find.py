"""Finds the videos in files, folders, globs and lists, and says what it leaves out and why."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from glob import glob, has_magic
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

from resurgsam2_cli.batch.items import Item
from resurgsam2_cli.batch.record import BATCH
from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.filling import TRASH
from resurgsam2_cli.files.kinds import PARTIAL, UNFINISHED
from resurgsam2_cli.files.text import read_text, readable
from resurgsam2_cli.files.urls import file_system, is_url, reading_from
from resurgsam2_cli.runs.find import TAKE_RUNS, read_export_record
from resurgsam2_cli.runs.record import RECORD, is_run
from resurgsam2_cli.video.image_folder import IMAGE_SUFFIXES
from resurgsam2_cli.video.marks import holds_mark
from resurgsam2_cli.video.source import LIST_SUFFIXES, VIDEO_SUFFIXES, holds_videos

_OF_SYSTEMS = {"@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information"}
"""Folders in which systems keep what is no user's."""
_RUN = "a run of this program"
_DEEPEST = 16  # levels of lists in lists


@dataclass(frozen=True)
class LeftOut:
    """Something in a source folder that is not taken."""

    path: str
    reason: str


@dataclass
class Found:
    """The videos, each once, in order; and what was left out."""

    items: list[Item] = field(default_factory=list)
    """Also sources that are not there: these fail, as a video does that cannot be read."""
    left_out: list[LeftOut] = field(default_factory=list)
    missing: list[InputError] = field(default_factory=list)
    """One for each source that is not there."""


def find_items(sources: list[str], *, out: Path, recursive: bool) -> Found:
    """Search sources: videos, folders, globs, and lists with a path per line.

    A folder of images is one video. A folder with videos in it stands for these, and any other for the folders of
    images in it; with ``recursive``, both also stand for what lies deeper. Results of this program, and whatever lies
    below ``out``, are left out. Raises :class:`InputError` if nothing is found.
    """
    search = _Search(out, recursive)
    for source in sources:
        search.take(source)
    found = search.found
    if found.missing and len(found.missing) == len(found.items):
        raise found.missing[0]
    found.items = _kept_apart(found.items)
    if not found.items:
        why = f" ({found.left_out[0].path}: {found.left_out[0].reason})" if found.left_out else ""
        runs = any(x.reason == _RUN for x in found.left_out)
        raise InputError(
            f"{', '.join(map(readable, sources))}: no video was found{why}",
            TAKE_RUNS if runs else "check the path, or add --recursive to look into folders of folders",
        )
    return found


def _kept_apart(items: list[Item]) -> list[Item]:
    """Tell each item which names in its folder are taken by folders of runs: beside ``op/x.mp4``, ``op.mp4``."""
    folders: defaultdict[PurePosixPath, set[str]] = defaultdict(set)
    for item in items:
        for folder in item.below.parents:
            folders[folder.parent].add(folder.name.lower())
    return [replace(x, beside=frozenset(folders[x.below.parent])) if folders[x.below.parent] else x for x in items]


class _Search:
    def __init__(self, out: Path, recursive: bool) -> None:
        self.found = Found()
        self._out, self._recursive = Path(os.path.realpath(out)), recursive
        self._forbidden: Path | None = None
        """The output folder, while a folder around it is searched."""
        self._taken: dict[tuple[int, int], str] = {}
        self._lists: list[Path] = []
        """The lists that are being read, each named by the one before."""
        self._lines: list[tuple[Path, int, str]] = []
        """In each of them, the line that is being read, with its number."""
        self._read: set[Path] = set()
        self._outputs: dict[Path, str] = {}
        """Why a folder is a result, by its path; empty if it is not one."""

    def take(self, source: str) -> None:
        """Search one source as the user gave it."""
        path = Path(source)
        if not source:
            raise InputError("a source is empty", "name a video, a folder, a pattern or a list")
        if is_url(source) and not os.path.exists(source):
            self._behind(source)
            return
        if source == "-":
            raise InputError("-: batch does not read standard input", "segment does: resurgsam2 segment -")
        if os.path.isdir(path):
            self._begin(path)
            if not self._leave_out_if(path, self._output_around(path)):
                self._given_folder(path)
        elif path.suffix.lower() in LIST_SUFFIXES and os.path.isfile(path):
            self._list(path)
        elif os.path.lexists(path):
            self._begin(path.parent)
            self._file(path, PurePosixPath(path.name))
        elif has_magic(source):
            matches = sorted(glob(source, recursive=True))
            if not matches:
                self._miss(source, "nothing matches", "check the pattern")
                return
            root = Path(*takewhile(lambda part: not has_magic(part), Path(source).parts))
            self._begin(root)
            for match in map(Path, matches):
                below = PurePosixPath(match.relative_to(root).as_posix())
                if ".." in below.parts:
                    below = PurePosixPath(match.name)
                if os.path.isdir(match):
                    if not self._leave_out_if(match, self._output_around(match)):
                        self._given_folder(match, below)
                elif match.suffix.lower() in VIDEO_SUFFIXES:
                    self._file(match, below)
                else:
                    self._leave_out(match, "not a video")
        else:
            self._miss(source, "no such file or folder", "check the path")

    def _miss(self, source: str, why: str, hint: str) -> None:
        """Take a source that is not there, so that it is reported among the videos as one that failed."""
        if any(x.source == source for x in self.found.items):
            return
        where, named = "", readable(source)
        if self._lines:
            path, number, line = self._lines[-1]
            where, named, hint = f"{path}, line {number}: ", readable(line), "paths count from the list's folder"
        self.found.items.append(Item(source, PurePosixPath(Path(source).name)))
        self.found.missing.append(InputError(f"{where}{named}: {why}", hint))

    def _behind(self, url: str) -> None:
        """Search what is behind a URL: a video, a pattern, or a folder, as one of this machine."""
        system, path = file_system(url)
        with reading_from(url):
            if has_magic(path):
                matches = sorted(system.glob(path))
                if not matches:
                    self._miss(url, "nothing matches", "check the pattern")
                for match in matches:
                    if PurePosixPath(match).suffix.lower() in VIDEO_SUFFIXES:
                        self._add_remote(system, match, PurePosixPath(match).name)
            elif system.isfile(path):
                self._add_remote(system, path, PurePosixPath(path).name)
            elif system.isdir(path):
                self._remote_folder(system, path)
            else:
                self._miss(url, "there is nothing", "check the URL")

    def _remote_folder(self, system: Any, path: str) -> None:
        for folder, folders, files in system.walk(path, maxdepth=None if self._recursive else 2):
            below = PurePosixPath(folder.rstrip("/")).relative_to(path)
            videos, images = (
                sorted(x for x in files if PurePosixPath(x).suffix.lower() in kind and not x.startswith("."))
                for kind in (VIDEO_SUFFIXES, IMAGE_SUFFIXES)
            )
            if RECORD in files:
                self.found.left_out.append(LeftOut(system.unstrip_protocol(folder), _RUN))
                folders.clear()  # which is how walk is told not to look into them
            elif videos and (self._recursive or below == PurePosixPath()):
                for name in videos:
                    self._add_remote(system, f"{folder.rstrip('/')}/{name}", str(below / name))
            elif images and not videos:
                self._add_remote(system, folder, str(below) if below.name else PurePosixPath(path).name)

    def _add_remote(self, system: Any, path: str, below: str) -> None:
        url = system.unstrip_protocol(path.rstrip("/"))
        if not any(x.source == url for x in self.found.items):
            self.found.items.append(Item(url, PurePosixPath(below)))

    def _begin(self, root: Path) -> None:
        """Forbid what lies below ``-o``, unless the user named something there."""
        real = Path(os.path.realpath(root))
        self._forbidden = None if self._out in (real, *real.parents) else self._out

    def _list(self, path: Path) -> None:
        real = Path(os.path.realpath(path))
        if real in self._lists:
            raise InputError(f"{path}: is a list that names itself", "take that line out")
        if len(self._lists) == _DEEPEST:
            raise InputError(f"{path}: is a list in a list, {_DEEPEST} deep", "name the videos themselves")
        if real in self._read:  # its videos are taken already
            return
        self._read.add(real)
        self._lists.append(real)
        for number, line in enumerate(_lines(path), start=1):
            if line and not line.startswith("#"):
                if "\0" in line:
                    raise InputError(f"{path}, line {number}: is not a path", "a list has a path per line")
                self._lines.append((path, number, line))
                self.take(str(path.parent / line))
                self._lines.pop()
        self._lists.pop()

    def _given_folder(self, folder: Path, below: PurePosixPath | None = None) -> None:
        try:
            entries = _entries(folder)
        except OSError as error:
            raise InputError(f"{folder}: cannot be read ({error.strerror})", "get the right to read it") from error
        if not holds_videos(entries) and _images(entries):
            self._add(Item(str(folder), below or PurePosixPath(Path(os.path.realpath(folder)).name)))
        elif self._is_new(folder):
            self._walk(entries, below or PurePosixPath())

    def _walk(self, entries: list[Path], below: PurePosixPath) -> None:
        for entry in entries:
            here = below / entry.name
            if os.path.isdir(entry) and (entry.name.startswith(".") or entry.name in _OF_SYSTEMS):
                self._leave_out(entry, "a hidden folder")
            elif os.path.isdir(entry) and entry.name == "Annotations" and "JPEGImages" in {x.name for x in entries}:
                self._leave_out(entry, "the annotations of a data set")
            elif os.path.isdir(entry):
                self._folder(entry, here)
            elif entry.suffix.lower() in VIDEO_SUFFIXES:
                self._file(entry, here)
            elif entry.suffix.lower() in IMAGE_SUFFIXES:
                self._leave_out(entry, "a picture beside videos")
            elif not entry.name.startswith(".") and entry.name != BATCH:
                self._leave_out(entry, "not a video")

    def _folder(self, folder: Path, below: PurePosixPath) -> None:
        if self._leave_out_if(folder, self._output(folder)):
            return
        try:
            entries = _entries(folder)
        except OSError as error:
            self._leave_out(folder, f"cannot be read: {error.strerror}")
            return
        if not holds_videos(entries) and _images(entries):
            self._add(Item(str(folder), below))
        elif not entries:
            self._leave_out(folder, "is empty")
        elif not self._is_new(folder):
            self._leave_out(folder, "a link to a folder that is searched already")
        elif self._recursive:
            self._walk(entries, below)
        elif any(os.path.isdir(x) for x in entries) or holds_videos(entries):
            self._leave_out(folder, "a folder of folders or videos: add --recursive")
        else:
            self._leave_out(folder, "has no video and no images")

    def _file(self, path: Path, below: PurePosixPath) -> None:
        if path.name.startswith("._"):
            self._leave_out(path, "an AppleDouble file, not a video")
        elif not os.path.exists(path):
            self._leave_out(path, "a link that leads nowhere")
        elif not os.path.isfile(path):
            self._leave_out(path, "not a file")
        elif not self._leave_out_if(path, self._output_around(path)):
            if path.suffix.lower() in (".mp4", ".m4v", ".mov") and holds_mark(path):
                self._leave_out(path, "an overlay of this program")
            else:
                self._add(Item(str(path), below))

    def _add(self, item: Item) -> None:
        """Take a video, unless it was met under another name; prefer a file to links to it."""
        path, first = Path(item.source), self._seen(Path(item.source))
        if first is None:
            self.found.items.append(item)
        elif os.path.islink(first) and not os.path.islink(path):
            at = next((i for i, x in enumerate(self.found.items) if x.source == first), None)
            if at is not None:
                self.found.items[at] = item
                self._taken[_identity(path)] = item.source
                self._leave_out(Path(first), f"the same as {readable(item.source)}")
        elif Path(first).absolute() != path.absolute():
            self._leave_out(path, f"the same as {readable(first)}")

    def _seen(self, path: Path) -> str | None:
        """The path under which this file or folder was met before."""
        key = _identity(path)
        if not key[1]:  # the file system has no inodes
            return None
        before = self._taken.get(key)
        self._taken.setdefault(key, str(path))
        return before

    def _is_new(self, folder: Path) -> bool:
        return self._seen(folder) is None

    def _leave_out(self, path: Path, reason: str) -> None:
        self.found.left_out.append(LeftOut(readable(str(path)), reason))

    def _leave_out_if(self, path: Path, reason: str) -> bool:
        if reason:
            self._leave_out(path, reason)
        return bool(reason)

    def _output_around(self, path: Path) -> str:
        """Why something lies among results; empty if it does not."""
        absolute = path.absolute()
        if ".." in absolute.parts:  # the folders that it seems to lie in are not those that it lies in
            absolute = Path(os.path.realpath(path.parent)) / path.name
        return next((why for x in (absolute, *absolute.parents) if (why := self._output(x))), "")

    def _output(self, path: Path) -> str:
        """Why a folder is a result; empty if it is not one."""
        if self._forbidden is not None and Path(os.path.realpath(path)) == self._forbidden:
            return "the output folder"
        if path not in self._outputs:
            self._outputs[path] = _look(path)
        return self._outputs[path]


def _identity(path: Path) -> tuple[int, int]:
    """What all links to a file or folder have in common."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _look(path: Path) -> str:
    if path.name == TRASH:
        return "being deleted"
    if os.path.isfile(path / RECORD) and is_run(path):
        return _RUN
    if path.name.endswith(PARTIAL) and os.path.exists(path / UNFINISHED):
        return "an unfinished run of this program"
    return "an export of this program" if read_export_record(path) else ""


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def _images(entries: list[Path]) -> bool:
    return any(x.suffix.lower() in IMAGE_SUFFIXES and not x.name.startswith(".") and os.path.isfile(x) for x in entries)


def _lines(path: Path) -> Iterator[str]:
    try:
        return iter([line.strip() for line in read_text(path).splitlines()])
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})", "a list has a path per line") from error
