"""The files that a person corrected, in a folder, alone, or in a zip; nothing that they say is trusted."""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.text import one_line

FORMS = (
    "give the run's folder, a tree of PNG masks as davis or sav, COCO JSON, XML of CVAT 1.1 (for images or for video),"
    " JSON of Label Studio, or a zip of one of these"
)
"""The hint of errors about what corrections are read from."""

_WANTED = (".png", ".json", ".jsonl", ".xml")
"""What corrections are read from, and what tells that it is a run."""

_PICTURES = (".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")

_DEEPEST = 5
"""Folders between the given one and a mask: ``train/Annotations/<video>/<object>/`` are four."""

_FACTOR = 200
"""How many times its own size a zip may unpack to. The XML of a video without objects takes about sixty."""

_ALWAYS = 2**26  # bytes that any zip may unpack to

_MOST_MEMBERS = 2**22


@contextmanager
def reading(where: str, hint: str = "correct that, or export it again") -> Iterator[None]:
    """Turn whatever a damaged file can cause into :class:`InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror or one_line(str(error))})", hint) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is not text in UTF-8", "save it in UTF-8, or export it again") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        cause = f"{error} is missing" if isinstance(error, KeyError) else one_line(str(error))
        raise InputError(f"{where}: {cause}", hint) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{where}: is damaged, or encrypted ({one_line(str(error))})", hint) from error


class Files(ABC):
    """Files below one place, known by their paths there, with ``/`` between folders."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def names(self) -> Iterator[str]:
        """The paths of all files that corrections may be read from, and of pictures that are none."""

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """Open a file that :meth:`names` gave. Raises ``OSError``, and what :func:`reading` takes."""

    def where(self, name: str) -> str:
        """How errors name a file."""
        return str(self.path / name) if name else str(self.path)


class FolderFiles(Files):
    """The files of a folder."""

    def names(self) -> Iterator[str]:
        """Folder by folder, in the order of their names. Links to folders are not followed."""
        for here, below, files in os.walk(self.path):
            parts = Path(here).relative_to(self.path).parts
            below[:] = sorted(x for x in below if not x.startswith(".")) if len(parts) < _DEEPEST else []
            yield from ("/".join((*parts, x)) for x in sorted(files) if _is_wanted(x))

    def open(self, name: str) -> IO[bytes]:
        return _opened(self.path / name)


class SingleFile(Files):
    """One file; its path below itself is empty."""

    def names(self) -> Iterator[str]:
        yield ""

    def open(self, name: str) -> IO[bytes]:
        return _opened(self.path)


class ZipFiles(Files):
    """The members of a zip, which are never unpacked to the disk."""

    def __init__(self, path: Path, zipped: zipfile.ZipFile) -> None:
        super().__init__(path)
        self._zip = zipped
        self._members: dict[str, zipfile.ZipInfo] = {}
        for x in zipped.infolist():
            if x.is_dir() or "__MACOSX/" in x.filename or not _is_wanted(x.filename.rpartition("/")[2]):
                continue
            if not _is_safe(x.filename):
                raise ValueError(f"has a member with the name {one_line(x.filename)!r}, which leads out of it")
            if x.filename in self._members:
                raise ValueError(f"has {one_line(x.filename)} twice")
            if x.flag_bits & 1:
                raise ValueError(f"{one_line(x.filename)} in it is encrypted")
            self._members[x.filename] = x
        if len(self._members) > _MOST_MEMBERS:
            raise ValueError(f"has {len(self._members)} members, more than any run needs")
        # zipfile reads no more of a member than its directory says: what that adds up to is all that can come.
        size, whole = path.stat().st_size, sum(x.file_size for x in self._members.values())
        if whole > max(_ALWAYS, size * _FACTOR):
            raise ValueError(f"unpacks to more than {_FACTOR} times its own size, which masks do not")

    def names(self) -> Iterator[str]:
        yield from sorted(self._members)

    def open(self, name: str) -> IO[bytes]:
        return self._zip.open(self._members[name])


@contextmanager
def opened_files(path: Path) -> Iterator[Files]:
    """The files in a folder or a zip, or the one file that ``path`` is. Raises :class:`InputError`."""
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file or folder", FORMS)
    if path.is_dir():
        yield FolderFiles(path)
        return
    with reading(str(path), FORMS):
        with _opened(path) as file:
            is_zip = file.read(2) == b"PK"
        files: Files = SingleFile(path)
        zipped = zipfile.ZipFile(path) if is_zip else None
    if zipped is None:
        yield files
        return
    with zipped:
        with reading(str(path), FORMS):
            files = ZipFiles(path, zipped)
        yield files


def _opened(path: Path) -> IO[bytes]:
    """A regular file: a pipe or a device would never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("is not a file")
    return path.open("rb")


def _is_wanted(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith((*_WANTED, *_PICTURES))


def is_picture(name: str) -> bool:
    """Whether a file is a picture in a format that masks are not read from."""
    return name.lower().endswith(_PICTURES)


def _is_safe(name: str) -> bool:
    parts = name.split("/")
    return not (re.search(r"[\\\x00-\x1f]", name) or re.match("[A-Za-z]:", name) or {"", ".", ".."} & set(parts))
