"""What a person corrected in another tool, or in the run's own files: only what differs from the run counts."""

from __future__ import annotations

import os
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from resurgsam2_cli.edits.coco import coco_edits
from resurgsam2_cli.edits.cvat import cvat_edits
from resurgsam2_cli.edits.files import FORMS, Files, FolderFiles, SingleFile, opened_files, reading
from resurgsam2_cli.edits.index import Index
from resurgsam2_cli.edits.label_studio import label_studio_edits
from resurgsam2_cli.edits.masks import ChangedMasks, Mask, OwnMasks
from resurgsam2_cli.edits.shapes import names_of
from resurgsam2_cli.edits.trees import ALL, TreeEdits
from resurgsam2_cli.errors import InputError, OutputError
from resurgsam2_cli.files.rle import decoded, encoded
from resurgsam2_cli.files.text import composed, counted, decode_text, one_line, parse_json, read_whole
from resurgsam2_cli.runs.find import EXPORT_RECORD
from resurgsam2_cli.runs.reading import RunFrame, check_files, read_frames
from resurgsam2_cli.runs.record import ANNOTATIONS, MASKS, OBJECTS, RECORD, Run
from resurgsam2_cli.runs.sums import file_sum, stream_sum, tree_sum


@dataclass(frozen=True)
class Correction:
    """The mask that a person gave an object in a frame."""

    frame: int
    """The frame's number in the source."""
    object_id: int
    mask: Mask
    """(height, width) bool; empty if the person removed the object there."""


class Edits(Protocol):
    """Edited files of any form, once they have been read."""

    not_listed: set[int]
    """The objects that the files say nothing of, though the run shows them in their frames; known after all frames."""

    def at(self, frame: RunFrame, own: OwnMasks) -> ChangedMasks:
        """The masks in a frame that differ from the run's. Raises :class:`InputError`."""


def read_corrections(
    path: Path, run: Run, tell_not_listed: Callable[[set[int]], None] = lambda _: None
) -> Iterator[Correction]:
    """What differs between ``path`` and a run, in order of frames and objects.

    ``path`` is the folder of the run or a copy of it, in which its label images or those of its objects were edited; a
    tree of PNGs in the layout of DAVIS or SA-V; COCO JSON; XML of CVAT 1.1; JSON of Label Studio; a folder that holds
    one of these files, as exports do; or a zip of any of these. It is recognised by its content.

    What a form cannot hold is not taken for a change: where objects overlap, label images show one of them, and
    polygons move borders by a pixel and fill holes. What is not there says nothing: a frame without an image, an object
    without a folder. A frame that a JSON or XML file lists is there as a whole, so an object that it does not show in
    it was removed; unless the file lists its labels, and that of the object is not among them. The ids of such objects
    go to ``tell_not_listed``.

    Nothing is given before all of it has been checked. Memory does not grow with the length of the video. Raises
    :class:`InputError` for what is damaged, does not belong to the run, or is said twice, and
    :class:`~resurgsam2_cli.errors.OutputError` if there is no room for temporary files.
    """
    check_files(run)
    with reading(str(run.folder / ANNOTATIONS)):
        _check_sum(run, file_sum(run.folder / ANNOTATIONS), str(run.folder / ANNOTATIONS))
    try:
        with opened_files(path) as files, closing(Index(run)) as index:
            edits = _recognised(files, index)
            for frame in read_frames(run):
                own = OwnMasks(run, frame)
                changes = {} if edits is None else edits.at(frame, own)
                for object_id, mask in changes.items():
                    index.keep(frame.number, object_id, encoded(mask))
            if edits is not None:
                tell_not_listed(edits.not_listed)
            for number, object_id, counts in index.corrections():
                yield Correction(number, object_id, decoded(counts, (run.height, run.width)))
    except sqlite3.Error as error:
        raise OutputError(
            f"{tempfile.gettempdir()}: corrections cannot be kept there meanwhile ({error})",
            "make room there, or name another folder: TMPDIR=FOLDER",
        ) from error


@dataclass
class _Survey:
    """What there is in a folder or a zip."""

    folders: set[str] = field(default_factory=set)
    """Those that hold PNGs."""
    runs: list[str] = field(default_factory=list)
    """The folders of runs."""
    tables: list[str] = field(default_factory=list)
    """Files that may have masks in them."""

    @classmethod
    def of(cls, files: Files) -> _Survey:
        survey = cls()
        for name in files.names():
            folder, _, file = name.rpartition("/")
            ending = file.lower().rpartition(".")[2]
            if file == RECORD:
                survey.runs.append(folder)
            elif ending == "png":
                survey.folders.add(folder)
            elif ending not in ("json", "xml") or file == EXPORT_RECORD or len(survey.tables) == _MOST_TABLES:
                continue
            elif ending == "json" or not _is_label_config(files, name):
                survey.tables.append(name)
        return survey


_MOST_TABLES = 100
"""More are not told apart anyway."""


def _is_label_config(files: Files, name: str) -> bool:
    """Whether an XML file says how Label Studio shows its tasks, and holds no masks."""
    with reading(files.where(name)), files.open(name) as file:
        return _LABEL_CONFIG.match(file.read(4096)) is not None


_LABEL_CONFIG = re.compile(rb"(?:\xef\xbb\xbf|\s|<\?.*?\?>|<!--.*?-->)*+<View[\s/>]", re.DOTALL)


def _recognised(files: Files, index: Index) -> Edits | None:
    """Read the edited files; None if they are those that the run wrote. Raises :class:`InputError`."""
    run = index.run
    if isinstance(files, SingleFile):
        is_own = os.path.samefile(files.path, run.folder / ANNOTATIONS)
        return None if is_own else _table(files, "", index)
    survey = _Survey.of(files)
    copies = [x for x in survey.runs if x == "" or composed(x.rpartition("/")[2]) in names_of(run)]
    if len(copies) == 1:
        return _run_copy(files, copies[0], index)
    if survey.runs:
        named = ", ".join(map(one_line, survey.runs[:3]))
        raise InputError(
            f"{files.path}: holds {counted(len(survey.runs), 'run')} ({named})",
            f"name the folder of the one that is a copy of {run.name}",
        )
    layout = _layout(files, survey, run)
    tables = [*survey.tables, *(["PNG masks"] if layout else [])]
    if len(tables) > 1:
        raise InputError(
            f"{files.path}: holds {len(tables)} things that may be meant ({', '.join(map(one_line, tables[:3]))})",
            "name the one file or folder that has the masks of this run",
        )
    if layout:
        return _edited_images(files, index, [layout])
    if tables:
        return _table(files, tables[0], index)
    there = ", ".join(sorted(one_line(x) for x in survey.folders)[:5])
    raise InputError(
        f"{files.path}: has no masks of {run.name}" + (f"; it has PNGs in: {there}" if there else ""),
        "name the folder of its images, or the file that has its masks" if there else FORMS,
    )


@dataclass(frozen=True)
class _Layout:
    """Where the masks of a run are in a tree of PNGs."""

    folder: str
    per_object: bool
    """Whether they are in a folder for each object, which its number names, or in label images."""


def _layout(files: Files, survey: _Survey, run: Run) -> _Layout | None:
    """Where the masks are; None if nothing has the name of the run. Raises :class:`InputError`."""
    names = names_of(run)
    own_name = composed(files.path.resolve().name)
    found: set[_Layout] = set()
    for folder in survey.folders:
        above, _, last = folder.rpartition("/")
        parts = composed(folder).split("/")
        if parts[0] == "images" or "JPEGImages" in parts:
            continue  # the frames themselves, in exports with pictures
        video = parts[-2] if above else own_name
        # A run may have a number for a name, too.
        per_object = object_number(last) is not None and (last not in names or video in names)
        layout = _Layout(above if per_object else folder, per_object)
        if layout.folder == "" or parts[-2 if per_object else -1] in names:
            found.add(layout)
    if len(found) > 1:
        several = ", ".join(sorted(one_line(x.folder) or "the folder itself" for x in found)[:3])
        raise InputError(f"{files.path}: has several folders that may be meant ({several})", "name one of them")
    if _Layout("", False) in found and object_number(own_name) is not None and own_name not in names:
        raise InputError(
            f"{files.path}: is the folder of one object", "name the folder above it, which has all objects"
        )
    return next(iter(found), None)


def object_number(name: str) -> int | None:
    """The object that a folder of the layout of SA-V is named by; None if it is named by none."""
    return int(name) if name.isascii() and name.isdecimal() and len(name) <= 9 else None


def _edited_images(files: Files, index: Index, layouts: list[_Layout]) -> TreeEdits:
    def images() -> Iterator[tuple[int, str]]:
        for name in files.names():
            folder, _, file = name.rpartition("/")
            if file.lower().endswith((".json", ".jsonl", ".xml")):
                continue
            for layout in layouts:
                above, _, last = folder.rpartition("/")
                if layout.per_object and above == layout.folder and (number := object_number(last)) is not None:
                    yield number, name
                elif not layout.per_object and folder == layout.folder:
                    yield ALL, name

    return TreeEdits(files, index, images())


def _run_copy(files: Files, folder: str, index: Index) -> Edits | None:
    """The label images and the objects' images of a run, or of a copy of it."""
    run, prefix = index.run, f"{folder}/" if folder else ""
    where = files.where(prefix + RECORD)
    with reading(where, "name the folder of this run, or a copy of it"):
        with files.open(prefix + RECORD) as file:
            record = parse_json(decode_text(read_whole(file)))
        objects = [(x["id"], x["label"]) for x in record["objects"]]
        if objects != [(x.id, x.label) for x in run.objects]:
            raise ValueError(f"its objects are not those of {run.name}")
    if prefix + ANNOTATIONS in files.names():
        with reading(where), files.open(prefix + ANNOTATIONS) as file:
            _check_sum(run, stream_sum(file), files.where(prefix + ANNOTATIONS))
    layouts = []
    for layout in (_Layout(prefix + MASKS, False), _Layout(prefix + OBJECTS, True)):
        # What has the sum of what was written need not be decoded: an hour of masks.
        name = layout.folder.rpartition("/")[2]
        tree = files.path / layout.folder
        if not isinstance(files, FolderFiles) or (tree.is_dir() and tree_sum(tree) != run.sums.get(name)):
            layouts.append(layout)
    return _edited_images(files, index, layouts) if layouts else None


def _check_sum(run: Run, found: str, where: str) -> None:
    """Raise :class:`InputError` if annotations.json, which edits are compared with, is not as it was written."""
    if run.sums.get(ANNOTATIONS, found) != found:
        raise InputError(
            f"{where}: was changed, or is of another version of {run.name}: what was edited cannot be told from it",
            "edit a copy of the run as it is now, or give the edited images or file alone: all that differs counts",
        )


_MARKS_FILE = re.compile(rb'\{\s*"marks"\s*:')


def _table(files: Files, name: str, index: Index) -> Edits:
    """Read a JSON or XML file."""
    where = files.where(name)
    with reading(where), files.open(name) as file:
        head = file.read(4096).lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")
    if _MARKS_FILE.match(head):
        raise InputError(f"{where}: has marks, not masks", f"give it as marks: --marks {where}")
    if head.startswith(b"{"):
        return coco_edits(files, name, index)
    if head.startswith(b"["):
        return label_studio_edits(files, name, index)
    if head.startswith(b"<"):
        return cvat_edits(files, name, index)
    if head.startswith(b"\x89PNG"):
        raise InputError(
            f"{where}: is one picture", "name the folder that has it, with the number of its frame as name"
        )
    raise InputError(f"{where}: is in none of the forms that corrections are read from", FORMS)
