"""Unpacks members of zip and tar archives without trusting what the archives say about themselves."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from weights.errors import WeightsError

_FACTOR = 20
"""Weights hardly compress: an archive that unpacks to far more does not hold weights."""

_ALWAYS = 2**26  # bytes that any archive may unpack to


def extract(archive: Path, members: set[str]) -> Iterator[tuple[str, Path]]:
    """Unpack the wanted members, known by their base names, one at a time beside the archive.

    A file that is not an archive has none. Raises ``WeightsError`` for an archive that is damaged, encrypted or a bomb.
    """
    with _archive_errors(archive):
        if zipfile.is_zipfile(archive):  # a .pth file is also a zip file, but has none of the members
            with zipfile.ZipFile(archive) as zipped:
                for info in zipped.infolist():
                    if (base := info.filename.rsplit("/", 1)[-1]) in members and not info.is_dir():
                        with zipped.open(info) as stream:
                            path = _unpack(archive, base, stream)
                        yield base, path
        else:
            for tar, entry in _tar_entries(archive):
                base = entry.name.rsplit("/", 1)[-1]
                if base in members and entry.isreg() and (data := tar.extractfile(entry)) is not None:
                    with data:
                        path = _unpack(archive, base, data)
                    yield base, path


def _tar_entries(archive: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The entries of a tar archive, compressed or not; none of what is no such archive."""
    with archive.open("rb") as file:
        head = file.read(6)
    openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
    opener = next((x for magic, x in openers.items() if head.startswith(magic)), open)
    with opener(archive, "rb") as plain:
        limited: Any = _Limited(archive, plain)
        try:
            tar = tarfile.open(fileobj=limited, mode="r:")  # noqa: SIM115  (closed below)
        except tarfile.ReadError:
            return
        with tar:
            for entry in tar:
                if entry.size < 0:  # the next entry would be an earlier one
                    raise tarfile.ReadError("the size of a member is negative")
                yield tar, entry


class _Limited:
    """A file that ends with an error where an archive has unpacked to more than weights do.

    The names, sizes and maps of holes in a tar archive are read into memory, whatever their length.
    """

    def __init__(self, archive: Path, file: IO[bytes]) -> None:
        self._archive, self._file, self._end = archive, file, _most(archive)

    def read(self, size: int = -1) -> bytes:
        """Read at most ``size`` bytes."""
        if not 0 <= size <= self._end - self._file.tell():
            raise _bomb(self._archive)
        return self._file.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        """Go to a place."""
        if place > self._end:
            raise _bomb(self._archive)
        return self._file.seek(place, whence)

    def tell(self) -> int:
        """The present place."""
        return self._file.tell()


def _most(archive: Path) -> int:
    return max(_ALWAYS, _FACTOR * archive.stat().st_size)


def _bomb(archive: Path) -> WeightsError:
    return WeightsError(
        f"{archive}: unpacks to more than {_FACTOR} times its size, which weights do not do",
        "get the file again, from its authors",
    )


def _unpack(archive: Path, base: str, stream: IO[bytes]) -> Path:
    path = archive.with_name(f"member-{base}")
    left = _most(archive)
    with path.open("wb") as file:
        while chunk := stream.read(2**20):
            left -= len(chunk)
            if left < 0:
                raise _bomb(archive)
            file.write(chunk)
    return path


@contextmanager
def _archive_errors(archive: Path) -> Iterator[None]:
    try:
        yield
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        struct.error,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        RuntimeError,  # an encrypted member
        NotImplementedError,  # a compression method that Python lacks
        ValueError,
        OverflowError,
        IndexError,  # a map of holes that ends early
        OSError,
    ) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # of the disk; gzip and bz2 give no number, and zipfile goes to places before the beginning
        cause = str(error).split("\n")[0][:120] or type(error).__name__
        raise WeightsError(f"{archive.name}: the archive cannot be unpacked ({cause})", "get the file again") from error
