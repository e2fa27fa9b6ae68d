"""Unpacks members of zip and tar archives without trusting what the archives say about themselves."""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

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
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                for entry in tar:
                    base = entry.name.rsplit("/", 1)[-1]
                    if base in members and entry.isreg() and (data := tar.extractfile(entry)) is not None:
                        with data:
                            path = _unpack(archive, base, data)
                        yield base, path


def _unpack(archive: Path, base: str, stream: IO[bytes]) -> Path:
    path = archive.with_name(f"member-{base}")
    left = max(_ALWAYS, _FACTOR * archive.stat().st_size)
    with path.open("wb") as file:
        while chunk := stream.read(2**20):
            left -= len(chunk)
            if left < 0:
                raise WeightsError(
                    f"{archive}: unpacks to more than {_FACTOR} times its size, which weights do not do",
                    "get the file again, from its authors",
                )
            file.write(chunk)
    return path


@contextmanager
def _archive_errors(archive: Path) -> Iterator[None]:
    try:
        yield
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        RuntimeError,  # an encrypted member
        NotImplementedError,  # a compression method that Python lacks
        ValueError,
        OverflowError,
    ) as error:
        cause = str(error).split("\n")[0][:120] or type(error).__name__
        raise WeightsError(f"{archive.name}: the archive cannot be unpacked ({cause})", "get the file again") from error
