"""A source behind a URL: known without being fetched, and copied to this machine's own disk before it is opened."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from resurgsam2_cli.errors import InputError, OutputError
from resurgsam2_cli.files.text import readable
from resurgsam2_cli.files.urls import file_system, reading_from
from resurgsam2_cli.video.frames import content_sum, natural_order, safe_name
from resurgsam2_cli.video.image_folder import IMAGE_SUFFIXES, frame_names


class RemoteFile:
    """A file behind a URL, as far as :func:`~resurgsam2_cli.video.frames.content_sum` needs it."""

    def __init__(self, system: Any, path: str, size: int) -> None:
        self._system, self._path, self.size = system, path, size
        self.name = PurePosixPath(path).name

    def part(self, begin: int, most: int) -> bytes:
        """Up to so many bytes from a place on."""
        return self._system.cat_file(self._path, start=begin, end=min(self.size, begin + most))

    def copy_to(self, path: Path) -> None:
        """Fetch the file."""
        self._system.get_file(self._path, str(path))


class RemoteSource:
    """A video file, one image, or a folder of images, behind a URL. Raises :class:`InputError`."""

    def __init__(self, url: str) -> None:
        self.path = url.rstrip("/")
        """The URL, as the path of a :class:`~resurgsam2_cli.video.source.Source`."""
        system, path = file_system(url)
        with reading_from(url):
            self.is_folder = system.isdir(path)
            entries = system.ls(path, detail=True) if self.is_folder else [system.info(path)]
            files = [RemoteFile(system, x["name"], int(x["size"])) for x in entries if x["type"] == "file"]
        if self.is_folder:
            images = [x for x in files if PurePosixPath(x.name).suffix.lower() in IMAGE_SUFFIXES]
            files = sorted((x for x in images if not x.name.startswith(".")), key=lambda x: natural_order(x.name))
            if not files:
                raise InputError(f"{url}: no images in this folder", "name a video, or a folder of images")
        self._files = files
        base = PurePosixPath(path)
        self.name = safe_name(base.name, "frames") if self.is_folder else safe_name(base.stem, "video")

    def identity(self) -> dict[str, Any]:
        """As that of the copy: three megabytes of it are read, at most."""
        with reading_from(self.path):
            sizes = [x.size for x in self._files]
            if self.is_folder:
                names = frame_names([x.name for x in self._files])
                return {"files": len(sizes), "size": sum(sizes), "sum": content_sum(self._files, names)}
            return {"size": sizes[0], "sum": content_sum(self._files)}

    @contextmanager
    def fetched(self) -> Iterator[Path]:
        """A copy on this machine, until the end of the block. Raises :class:`InputError` and :class:`OutputError`."""
        with tempfile.TemporaryDirectory(prefix="resurgsam2-") as place:
            folder = Path(place) / self.name if self.is_folder else Path(place)
            try:
                folder.mkdir(exist_ok=True)
                with reading_from(self.path):
                    for x in self._files:
                        x.copy_to(folder / x.name)
            except OSError as error:
                raise OutputError(
                    f"{place}: {readable(self.path)} cannot be copied here ({error.strerror})",
                    "make room there, or name another folder in TMPDIR",
                ) from error
            yield folder if self.is_folder else folder / self._files[0].name
