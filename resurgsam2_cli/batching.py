"""Many videos: which there are, what is asked of each, and a record of what happened to it."""

from __future__ import annotations

import csv
import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from resurgsam2_cli import __version__
from resurgsam2_cli.errors import InputError, OutputError, UsageError, UserError
from resurgsam2_cli.prompts import Prompt, parse_prompts
from resurgsam2_cli.run_folder import RunFolder, read_record, writing
from resurgsam2_cli.video.source import IMAGE_SUFFIXES, Source, open_source, source_path

if TYPE_CHECKING:
    from resurgsam2_cli.engine import Engine
    from resurgsam2_cli.outputs import FrameResult
    from resurgsam2_cli.pipeline import SegmentOptions, Watcher

BATCH = "batch.json"
VIDEO_SUFFIXES = frozenset(
    f".{x}"
    for x in ("mp4", "mov", "mkv", "avi", "webm", "m4v", "mpg", "mpeg", "ts", "m2ts", "mts", "wmv", "flv", "ogv")
) | {".3gp", ".gif", ".vob"}

State = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class Item:
    """A source, the folder below the output folder in which its run goes, and what is asked of it."""

    source: str
    parent: Path
    prompts: tuple[Prompt, ...] = ()

    @property
    def name(self) -> str:
        """By which prompt files know it."""
        path = Path(self.source)
        return path.name if path.is_dir() else path.stem

    @property
    def key(self) -> str:
        """By which the record knows it."""
        return str(Path(self.source).absolute())

    @property
    def place(self) -> tuple[Path, str]:
        """Items of one place must be done one after the other, so that the first gets the name and the next ``-2``."""
        return self.parent, self.name.lower()


class Progress(NamedTuple):
    """How far a video is."""

    frames: int
    total: int | None
    """As expected; None where nothing says it."""
    stages: str
    """Of the objects, in words."""


@dataclass(frozen=True)
class Outcome:
    """What happened to one video."""

    source: str
    state: State
    folder: str | None = None
    frames: int | None = None
    seconds: float | None = None
    error: str | None = None
    note: str | None = None

    @property
    def frames_per_second(self) -> float | None:
        """None where nothing was segmented."""
        return self.frames / self.seconds if self.frames and self.seconds else None


# --- Which videos ---------------------------------------------------------------------------------------------


def find_items(sources: list[str], *, recursive: bool) -> list[Item]:
    """Videos of files, folders, globs and lists, in order, each once.

    A folder of images is one video; any other folder stands for the videos and folders of images in it, with
    ``recursive`` also for those below. Raises :class:`InputError` for what is not there.
    """
    found: dict[str, Item] = {}
    for source in sources:
        for item in _items(source, recursive):
            found.setdefault(item.key, item)
    if not found:
        raise InputError(f"{', '.join(sources)}: no video was found", "add --recursive to look into folders of folders")
    return list(found.values())


def _items(source: str, recursive: bool) -> Iterator[Item]:
    path = Path(source)
    if path.is_dir():
        if _holds_images(path):
            yield Item(source, Path())
        else:
            yield from _in_folder(path, Path(), recursive)
    elif path.suffix.lower() in (".txt", ".lst") and path.is_file():
        for number, line in enumerate(_lines(path), start=1):
            if line and not line.startswith("#"):
                if not (path.parent / line).exists():
                    raise InputError(
                        f"{path}, line {number}: {line}: no such file or folder", "paths count from the list"
                    )
                yield from _items(str(path.parent / line), recursive)
    elif path.exists():
        yield Item(source, Path())
    elif has_magic(source):
        matches = sorted(glob(source, recursive=True))
        if not matches:
            raise InputError(f"{source}: nothing matches", "check the pattern")
        for match in matches:
            yield from _items(match, recursive)
    else:
        raise InputError(f"{source}: no such file or folder", "check the path")


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})", "a list has a path per line") from error


def _holds_images(folder: Path) -> bool:
    return any(x.suffix.lower() in IMAGE_SUFFIXES and x.is_file() for x in folder.iterdir())


def _in_folder(folder: Path, parent: Path, recursive: bool) -> Iterator[Item]:
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and _holds_images(entry):
            yield Item(str(entry), parent)
        elif entry.is_dir() and recursive:
            yield from _in_folder(entry, parent / entry.name, recursive)
        elif entry.suffix.lower() in VIDEO_SUFFIXES:
            yield Item(str(entry), parent)


# --- What is asked --------------------------------------------------------------------------------------------


def read_prompts(path: Path) -> dict[str, tuple[Prompt, ...]]:
    """Prompts by video, from a CSV (``video,text[,label]``) or a JSON file.

    JSON is ``{video: [text, ...]}`` or ``meta_expressions.json`` as published. Raises :class:`InputError`.
    """
    try:
        if path.suffix.lower() == ".csv":
            table = _csv_prompts(path)
        else:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
            if isinstance(content, dict) and isinstance(content.get("videos"), dict):
                from resurgsam2_cli.evaluation import read_expressions

                # A text with "=" in it is still a text here.
                return {
                    name: tuple(Prompt(text, text) for text in dict.fromkeys(text for text, _ in rows))
                    for name, rows in read_expressions(path).items()
                }
            if not isinstance(content, dict) or not all(
                isinstance(texts, list) and all(isinstance(x, str) for x in texts) for texts in content.values()
            ):
                raise InputError(f"{path}: is no list of prompts", 'write {"video": ["left grasper", "kidney"]}')
            table = content
        return {name: parse_prompts(texts) for name, texts in table.items()}
    except UsageError as error:
        raise InputError(f"{path}: {error.message}", error.hint) from error
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error})", "expected CSV (video,text,label) or JSON") from error


def _csv_prompts(path: Path) -> dict[str, list[str]]:
    table: dict[str, list[str]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"video", "text"} <= set(rows.fieldnames or ()):
            raise InputError(f"{path}: has no columns video and text", "the first line is: video,text,label")
        for row in rows:
            if not row["video"] or not row["text"]:
                raise InputError(f"{path}, line {rows.line_num}: has no video or no text", "fill it, or take it out")
            label = row.get("label")
            table.setdefault(row["video"], []).append(f"{row['text']}={label}" if label else row["text"])
    return table


# --- What happens ---------------------------------------------------------------------------------------------

_TELL_EVERY = 0.2  # seconds


@dataclass(frozen=True)
class Job:
    """What is done with each item of a batch."""

    out: Path
    options: SegmentOptions
    frame_rate: Fraction | None
    """Of folders of images."""

    def plan(self, item: Item, engine: Engine) -> tuple[str, int | None]:
        """What :meth:`run` would do: "skip", "redo" or "new", and the number of frames where it is known.

        Raises a :class:`~resurgsam2_cli.errors.UserError` where it would fail.
        """
        _check_prompts(item)
        with self._source(item) as source:
            folder = RunFolder(self.out / item.parent, source.name, source_path(source), overwrite=True)
            return self._standing(folder, source, item.prompts, engine), source.expected(self.options.part)

    def run(self, item: Item, engine: Engine, tell: Callable[[Progress], None]) -> Outcome:
        """Segment one video, or skip it where that is done already with the same settings; never raises UserError.

        ``tell`` hears how far it is, a few times a second.
        """
        from resurgsam2_cli.pipeline import segment

        begin = time.perf_counter()
        try:
            _check_prompts(item)
            with self._source(item) as source:
                folder = RunFolder(self.out / item.parent, source.name, source_path(source), overwrite=True)
                standing = self._standing(folder, source, item.prompts, engine)
                if standing == "skip":
                    return Outcome(item.key, "skipped", str(folder.path), note="complete already")
                watch = _watcher(item.prompts, source.expected(self.options.part), tell)
                summary = segment(engine, source, item.prompts, self.options, folder, watch)
                return Outcome(
                    item.key,
                    "done",
                    str(summary.folder),
                    summary.record["source"]["frames"],
                    round(time.perf_counter() - begin, 3),
                    note="replaced a run with other settings" if standing == "redo" else None,
                )
        except UserError as error:
            return Outcome(item.key, "failed", error=error.message, note=error.hint or None)
        except Exception as error:  # a bug: the other videos are done all the same, and it keeps its traceback
            traceback.print_exc()
            return Outcome(item.key, "failed", error=f"{type(error).__name__}: {error}")

    def _source(self, item: Item) -> Any:
        return open_source(item.source, self.frame_rate if Path(item.source).is_dir() else None)

    def _standing(self, folder: RunFolder, source: Source, prompts: tuple[Prompt, ...], engine: Engine) -> str:
        """Whether there is a finished run of this very thing ("skip"), of another ("redo"), or none ("new")."""
        from resurgsam2_cli.pipeline import weights_record

        record = read_record(folder.path)
        if record is None:
            return "new"
        same = (
            record["settings"] == json.loads(json.dumps(self.options.record()))
            and record["weights"] == weights_record(engine)
            and [(x["text"], x["label"]) for x in record["objects"]] == [(x.text, x.label) for x in prompts]
            and record["source"].items() >= source.identity().items()
            and record["backend"]["precision"] == engine.precision
            # A video's own rate is known only once it is decoded, and is part of the file.
            and (not source.path.is_dir() or Fraction(record["source"]["frame_rate"]) == source.rate)
        )
        return "skip" if same else "redo"


def _check_prompts(item: Item) -> None:
    if not item.prompts:
        raise InputError(f"{item.source}: the prompt file has nothing for {item.name!r}", "add it, or leave it out")


def _watcher(prompts: tuple[Prompt, ...], total: int | None, tell: Callable[[Progress], None]) -> Watcher:
    from resurgsam2_cli.progress import stages

    frames, last = 0, time.monotonic()

    def watch(result: FrameResult) -> None:
        nonlocal frames, last
        frames += 1
        now = time.monotonic()
        if now - last >= _TELL_EVERY:
            last = now
            tell(Progress(frames, total, stages(prompts, result)))

    return watch


class Record:
    """batch.json: what this batch did, and what earlier ones did to other videos; whole after each video."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._before = {x["source"]: x for x in self._read()}
        self._now: dict[str, Outcome] = {}

    def failed_before(self, item: Item) -> bool:
        """Whether the last batch into this folder failed on it."""
        return bool(self._before.get(item.key, {}).get("state") == "failed")

    def add(self, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
        """Pass them on, each once it is written."""
        for outcome in outcomes:
            self._now[outcome.source] = outcome
            self._write()
            yield outcome

    def _write(self) -> None:
        rows = {**self._before, **{key: asdict(x) for key, x in self._now.items()}}
        text = json.dumps({"format": 1, "version": __version__, "videos": list(rows.values())}, indent=1)
        with writing(self._out):
            self._out.mkdir(parents=True, exist_ok=True)
            partial = self._out / f".{BATCH}.partial"
            partial.write_text(text + "\n", encoding="utf-8")
            partial.replace(self._out / BATCH)

    def _read(self) -> list[dict[str, Any]]:
        path = self._out / BATCH
        if not path.exists():
            return []
        try:
            return list(json.loads(path.read_text(encoding="utf-8"))["videos"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{path}: is not the record of a batch", "rename it, or choose another folder") from error
