"""``batch.json``: what happened to each video, in all batches into one folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from resurgsam2_cli import __version__
from resurgsam2_cli.batch.items import Item, Outcome
from resurgsam2_cli.errors import OutputError
from resurgsam2_cli.files.atomic import replacing, writing
from resurgsam2_cli.files.filling import naming
from resurgsam2_cli.files.json_list import append_item, write_open_list
from resurgsam2_cli.files.text import parse_json, read_text

BATCH = "batch.json"
_HEAD = {"format": 1, "version": __version__}
_MOST_BYTES = 2**29


class Record:
    """The record of an output folder; several batches may add to it at once.

    A video is added in one step at the end of the file. The last entry of a video counts; :meth:`tidy` drops others.
    """

    def __init__(self, out: Path) -> None:
        self._out, self._path = out, out / BATCH
        try:
            rows = self._read()
        except OutputError:  # another batch may be adding to it just now
            with naming(self._out):
                rows = self._read()
        self._failed = {key for key, x in rows.items() if x.get("state") == "failed"}

    def failed_before(self, item: Item) -> bool:
        """Whether the last batch failed on it."""
        return item.key in self._failed

    def add(self, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
        """Pass outcomes on, each once it is written. Raises :class:`OutputError`."""
        for outcome in outcomes:
            with naming(self._out), writing(self._path):
                if not (self._path.exists() and append_item(self._path, asdict(outcome))):
                    self._write([*self._read().values(), asdict(outcome)])
            yield outcome

    def tidy(self) -> None:
        """Leave one entry per video. Raises :class:`OutputError`."""
        if self._path.exists():
            with naming(self._out), writing(self._path):
                self._write(self._read().values())

    def _write(self, rows: Iterable[dict[str, Any]]) -> None:
        with replacing(self._path) as partial:
            write_open_list(partial, _HEAD, "videos", rows)

    def _read(self) -> dict[str, dict[str, Any]]:
        """The last entry of each video, by its source. Raises :class:`OutputError`."""
        if not self._path.exists():
            return {}
        rows: dict[str, dict[str, Any]] = {}
        try:
            for row in _entries(read_text(self._path, _MOST_BYTES)):
                texts = isinstance(row["source"], str) and isinstance(row["state"], str)
                if not texts or any(isinstance(x, (dict, list)) for x in row.values()):
                    raise TypeError("an entry is not that of a video")
                before = rows.pop(row["source"], {})
                if row["state"] == "skipped":  # what it took was told when it was done
                    row |= {key: row.get(key) or before.get(key) for key in ("frames", "seconds")}
                rows[row["source"]] = row
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{self._path}: is not the record of a batch", "rename it, or choose another folder with -o"
            ) from error
        return rows


def _entries(text: str) -> list[dict[str, Any]]:
    """The entries of a record; if its end was lost, as by a power cut, those that are whole."""
    try:
        content = parse_json(text)
        if set(content) - {"format", "version", "videos"}:
            raise TypeError("it holds something else, too")
        return list(content["videos"])
    except ValueError:
        head, *lines = text.splitlines()
        if not (head.startswith('{"format": ') and head.endswith('"videos": [')):
            raise
        whole = [x.rstrip(",") for x in lines if x.rstrip(",").endswith("}")]
        return [parse_json(x) for x in whole if x.startswith("{")]
