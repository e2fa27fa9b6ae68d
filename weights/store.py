"""The cache of weight files: what is there, and what can be fetched. Nothing here changes it.

The folder is the platform's usual one (``~/.cache/resurgsam2`` on Linux) or ``RESURGSAM2_HOME``. Each file has a
record beside it, ``<name>.json``, with its sum and where it came from.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import shlex
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import platformdirs

from weights.errors import WeightsError
from weights.vocabulary import Vocabulary, parse_vocabulary, rendered_vocabulary

HOME_VARIABLE = "RESURGSAM2_HOME"

BUNDLED = Path(__file__).parent / "demo.safetensors"
"""The release that comes with the program: small, and trained on rendered scenes alone."""

DEMO = "demo"
"""The name of the bundled release."""

KINDS = ("network", "clip")

WITHOUT_WORDS = "sam2.1-"
"""Configurations of this kind are of networks that can only be pointed at."""

_MOST_BYTES = 2**20  # of a record

_MOST_HEADER = 2**24  # bytes, of a weight file

RULES = ("min_presence", "min_iou", "window", "long_term", "long_term_min_iou", "pool")
"""What a release may state of :class:`model.Rules`."""

Check = Callable[[Path], None]
"""Called with a file; raises :class:`WeightsError` if the file cannot be used."""


@dataclass(frozen=True)
class Release:
    """An entry of releases.toml, whose head explains the fields."""

    name: str
    kind: str
    title: str
    licence: str
    sources: list[dict[str, str]]
    configuration: str = ""
    sha256: str = ""
    size: int = 0
    vocabulary: Vocabulary | None = None
    use: str = ""
    data: str = ""


@dataclass(frozen=True)
class Installed:
    """A weight file in the cache."""

    name: str
    kind: str
    path: Path
    sha256: str
    size: int
    source: str
    download_size: int = 0
    """Bytes of the download, perhaps of an archive, that it came from; 0 if that was not recorded."""


@dataclass(frozen=True)
class Damaged:
    """A record in the cache that does not describe a weight file any more."""

    name: str
    path: Path
    """The record."""
    files: tuple[Path, ...]
    """The weight files that only this record can have described."""
    cause: str


def home() -> Path:
    """The folder of the cache."""
    chosen = os.environ.get(HOME_VARIABLE)
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("resurgsam2", appauthor=False))


@lru_cache(maxsize=1)
def releases() -> dict[str, Release]:
    """What can be fetched, by name. Raises :class:`WeightsError` if the list was changed to something else."""
    path = Path(__file__).parent / "releases.toml"
    try:
        return parse_releases(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: is not a list of releases ({error})", "install the program again") from error


def parse_releases(text: str) -> dict[str, Release]:
    """The entries of releases.toml by name. Raises ``ValueError``."""
    try:
        found = {name: _release(name, entry) for name, entry in tomllib.loads(text).items()}
    except (TypeError, RecursionError) as error:
        raise ValueError("an entry does not have the fields of a release") from error
    for x in found.values():
        texts = (x.kind, x.title, x.licence, x.configuration, x.sha256, x.use, x.data)
        if not all(isinstance(text, str) for text in texts) or x.kind not in KINDS or not _is_size(x.size):
            raise ValueError(f"the fields of {x.name} are not of their kind")
        if not isinstance(x.sources, list) or not x.sources or not all(map(_is_source, x.sources)):
            raise ValueError(f"{x.name} has no source")
    return found


def _release(name: str, entry: dict[str, Any]) -> Release:
    release = Release(name, **entry)
    if release.vocabulary is None:
        return release
    return replace(release, vocabulary=parse_vocabulary(release.vocabulary))


def _is_source(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and all(isinstance(x, str) for x in entry.values())
        and bool({"url", "google_drive"} & entry.keys() or {"huggingface", "file"} <= entry.keys())
    )


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 2**63


def installed() -> dict[str, Installed]:
    """What is in the cache, by name."""
    return _cache()[0]


def damaged() -> dict[str, Damaged]:
    """The records in the cache that cannot be used any more, by name; the files of others are none."""
    return _cache()[1]


def _cache() -> tuple[dict[str, Installed], dict[str, Damaged]]:
    good: dict[str, Installed] = {}
    bad: dict[str, str] = {}
    for record in sorted(home().glob("*.json")):
        try:
            good[record.stem] = _read_record(record)
        except ValueError as error:
            bad[record.stem] = str(error)
    used = {x.path for x in good.values()}
    files = {
        name: tuple(x for x in _files_of(name) if x not in used and x.stem not in {*good, *bad} - {name})
        for name in bad
    }
    return good, {
        name: Damaged(name, home() / f"{name}.json", files[name], cause)
        for name, cause in bad.items()
        if _is_ours(home() / f"{name}.json", beside=bool(files[name]))
    }


def _read_record(path: Path) -> Installed:
    """What a record says. Raises ``ValueError`` with what is wrong with it, in a few words."""
    try:
        entry = _content(path)
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not valid JSON") from error
    try:
        entry.pop("replaced", None)  # a file that is about to be deleted
        item = Installed(**{**entry, "path": home() / Path(entry["path"]).name})
        texts = (item.name, item.kind, item.sha256, item.source, entry["path"])
        sizes = (item.size, item.download_size)
        if not all(isinstance(x, str) for x in texts) or item.kind not in KINDS or not all(map(_is_size, sizes)):
            raise ValueError("a field is not of its kind")
        if item.name != path.stem:
            raise ValueError("it is named otherwise")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError("it does not describe a weight file") from error
    if not os.path.isfile(item.path):
        raise ValueError(f"its weight file, {item.path.name[:60]}, is missing")
    return item


def _content(record: Path) -> Any:
    """The JSON in a record. Raises ``OSError``, ``ValueError`` and ``RecursionError``."""
    with record.open("rb") as file:
        return json.loads(file.read(_MOST_BYTES))


def _files_of(name: str) -> list[Path]:
    """The files that may be the weights of a name: installing gives them no other names."""
    pattern = re.compile(rf"{re.escape(name)}(-[0-9a-f]{{8}})?\.(pth|pt|bin|ckpt|safetensors)")
    return sorted(x for x in home().iterdir() if pattern.fullmatch(x.name) and x.is_file())


def _is_ours(record: Path, *, beside: bool) -> bool:
    """Whether a file that is no good record was one: there may be JSON files of others in the folder.

    ``beside`` says whether weights of its name lie there.
    """
    try:
        with record.open("rb") as file:
            if b'"sha256"' in file.read(_MOST_BYTES):
                return True
        entry = _content(record)
    except (OSError, ValueError, RecursionError):
        return beside
    known = {x.name for x in fields(Installed)}
    return beside and (not entry or (isinstance(entry, dict) and len(known & entry.keys()) > 1))


def damage(records: Iterable[Damaged]) -> WeightsError:
    """The error that names damaged records."""
    records = list(records)
    names = " ".join(shlex.quote(x.name) for x in records)
    it = "it" if len(records) == 1 else "them"
    how = "fetch" if all(x.name in releases() for x in records) else "add"
    return WeightsError(
        "; ".join(f"{x.path}: is damaged ({x.cause})" for x in records),
        f"take {it} out with: resurgsam2 weights remove {names}   (then {how} {it} again)",
    )


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stated_rules(path: Path) -> dict[str, Any]:
    """The values of CIFS and DLM that a single-file release states for itself, by the names of :class:`model.Rules`.

    Empty if there are none. Whether they are possible is for :class:`model.Rules` to say.
    """
    if path.suffix != ".safetensors":
        return {}
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, _MOST_HEADER)))
        rules = json.loads(header["__metadata__"]["rules"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}  # whoever loads the weights says what is wrong with the file
    return {x: y for x, y in rules.items() if x in RULES} if isinstance(rules, dict) else {}


def known_sum(path: Path) -> str:
    """The SHA-256 of a weight file: the recorded one, if it is in the cache."""
    return next((x.sha256 for x in installed().values() if x.path == path), None) or sha256(path)


@lru_cache(maxsize=1)
def _bundled_sum() -> str:
    return sha256(BUNDLED)


def is_demo(path: Path, sum_: str) -> bool:
    """Whether a weight file with this SHA-256 is the bundled release, or a copy of it."""
    return path == BUNDLED or (BUNDLED.is_file() and sum_ == _bundled_sum())


def resolve(weights: str, clip_weights: Path | None) -> tuple[str, Path, Path | None]:
    """What ``--weights`` and ``--clip-weights`` mean: name, weight file, and CLIP file if there is one.

    ``weights`` is a file, a name of the cache, ``demo``, or ``auto``: the first release with words that was fetched,
    else whatever network was added, else one without words, else the demo. Raises :class:`WeightsError` if there is
    none. A damaged record could be of the weights that ``auto`` means, so ``auto`` refuses rather than run others.
    """
    have, broken = _cache()
    clip = clip_weights
    if clip is None:
        clip = next((x.path for x in have.values() if x.kind == "clip"), None)
    elif not os.path.isfile(clip):
        raise WeightsError(f"{clip}: no such file", "check --clip-weights")
    if weights == "auto":
        if broken:
            raise damage(broken.values())
        known = releases()
        without_words = [x for x in known if known[x].configuration.startswith(WITHOUT_WORDS)]
        names = [*(x for x in [*known, *have] if x not in without_words), *without_words]
        chosen = next((have[n] for n in names if n in have and have[n].kind == "network"), None)
        if chosen is not None:
            return chosen.name, chosen.path, clip
        weights = DEMO
    if weights == DEMO:
        if not BUNDLED.is_file():
            raise WeightsError(
                "there are no weights yet", "get them with: resurgsam2 weights fetch   (or: weights add PATH)"
            )
        return DEMO, BUNDLED, None
    if weights in have:
        if have[weights].kind != "network":
            raise WeightsError(f"{weights} is a text tower, not a network", "see: resurgsam2 weights list")
        return weights, have[weights].path, clip
    if weights in broken:
        raise damage([broken[weights]])
    if weights in releases():
        raise WeightsError(f"{weights} is not here yet", f"get it with: resurgsam2 weights fetch {weights}")
    path = Path(weights)
    if not os.path.isfile(path):
        near = difflib.get_close_matches(weights[:200], [DEMO, *have, *releases()], 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise WeightsError(f"{weights}: neither a weight file nor a known name", f"{hint}see: resurgsam2 weights list")
    return path.stem, path, clip


def vocabulary_of(name: str, path: Path) -> Vocabulary | None:
    """What the weights learned to read that :func:`resolve` gave, if that is known.

    A checkpoint that was not fetched is recognised by the name that its authors gave it.
    """
    if os.path.realpath(path) == os.path.realpath(BUNDLED):
        return rendered_vocabulary()
    known = releases()
    published = {Path(y["member"]).stem: x for x in known.values() for y in x.sources if "member" in y}
    release = known.get(name) or published.get(name)
    return None if release is None else release.vocabulary


def verify(item: Installed, check: Check) -> None:
    """Check a cached file against its recorded sum and against the network. Raises :class:`WeightsError`."""
    if sha256(item.path) != item.sha256:
        raise WeightsError(
            f"{item.name}: {item.path} has changed since it was installed",
            f"get it again with: resurgsam2 weights fetch {item.name}" if item.name in releases() else "add it again",
        )
    check(item.path)


def download_size(release: Release, item: Installed | None) -> int | None:
    """Bytes to download for a release, which may be here; None where they are not known."""
    if item is not None and item.download_size:
        return item.download_size
    return None if any("member" in x for x in release.sources) else release.size or None


def size_on_disk(release: Release, item: Installed | None) -> int | None:
    """Bytes of a release in the cache, where it may be; None where they are not known."""
    return item.size if item is not None else release.size or None


def describe(item: Installed | Release | Damaged) -> dict[str, Any]:
    """An entry as plain JSON types."""
    return {k: _plain(v) for k, v in asdict(item).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(x) for x in value]
    return str(value) if isinstance(value, Path) else value
