"""The cache of weight files, and how they get there.

The folder follows the platform's habit (``~/.cache/resurgsam2`` on Linux) or ``RESURGSAM2_HOME``. Each file has a
record beside it, ``<name>.json``, with its sum and where it came from.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import platformdirs

from weights.errors import WeightsError

HOME_VARIABLE = "RESURGSAM2_HOME"

BUNDLED = Path(__file__).parent / "demo.safetensors"
"""The release that comes with the program: small, and trained on rendered scenes alone."""

DEMO = "demo"
"""Its name."""

Check = Callable[[Path], None]
"""Raises :class:`WeightsError` for a file that cannot be used."""


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


@dataclass(frozen=True)
class Installed:
    """A weight file in the cache."""

    name: str
    kind: str
    path: Path
    sha256: str
    size: int
    source: str


def home() -> Path:
    """The folder of the cache."""
    chosen = os.environ.get(HOME_VARIABLE)
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("resurgsam2", appauthor=False))


@lru_cache(maxsize=1)
def releases() -> dict[str, Release]:
    """What can be fetched, by name."""
    table = tomllib.loads((Path(__file__).parent / "releases.toml").read_text(encoding="utf-8"))
    return {name: Release(name, **entry) for name, entry in table.items()}


def installed() -> dict[str, Installed]:
    """What is in the cache, by name."""
    found = {}
    for record in sorted(home().glob("*.json")):
        try:
            entry = json.loads(record.read_text(encoding="utf-8"))
            item = Installed(**{**entry, "path": home() / entry["path"]})
        except (OSError, ValueError, TypeError, KeyError):
            continue  # not a record of ours
        if item.path.is_file():
            found[item.name] = item
    return found


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resolve(weights: str, clip_weights: Path | None) -> tuple[str, Path, Path | None]:
    """What ``--weights`` and ``--clip-weights`` mean: name, weight file, and CLIP file if there is one.

    ``weights`` is a file, a name of the cache, ``demo``, or ``auto``: the first release that was fetched, else
    whatever network was added, else the demo. Raises :class:`WeightsError` where there is none.
    """
    have = installed()
    clip = clip_weights
    if clip is None:
        clip = next((x.path for x in have.values() if x.kind == "clip"), None)
    elif not clip.is_file():
        raise WeightsError(f"{clip}: no such file", "check --clip-weights")
    if weights == "auto":
        names = [*releases(), *have]
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
    if weights in releases():
        raise WeightsError(f"{weights} is not here yet", f"get it with: resurgsam2 weights fetch {weights}")
    path = Path(weights)
    if not path.is_file():
        raise WeightsError(f"{weights}: neither a weight file nor a known name", "see: resurgsam2 weights list")
    return path.stem, path, clip


def install(path: Path, name: str, kind: str, source: str, check: Check, *, move: bool = False) -> Installed:
    """Check a file and take it into the cache under ``name``, replacing what had that name.

    Raises :class:`WeightsError` for a file that does not fit; the cache is then as it was.
    """
    check(path)
    folder = home()
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{name}{path.suffix or '.pth'}"
        partial = target.with_name(target.name + ".partial")
        (shutil.move if move else shutil.copyfile)(path, partial)
        item = Installed(name, kind, target, sha256(partial), partial.stat().st_size, source)
        before = installed().get(name)
        partial.replace(target)
        record = folder / f"{name}.json"
        temporary = record.with_name(record.name + ".partial")
        temporary.write_text(json.dumps({**asdict(item), "path": target.name}, indent=1) + "\n", encoding="utf-8")
        temporary.replace(record)
        if before is not None and before.path != target:
            before.path.unlink(missing_ok=True)
    return item


def fetch(release: Release, check: Check) -> list[Installed]:
    """Download a release into the cache; a broken download goes on where it stopped.

    An archive may hold other releases, too: all of them are installed. Raises :class:`WeightsError`.
    """
    failures = []
    for source in release.sources:
        try:
            with _writing(home()):
                file = _download(source)
        except WeightsError as error:
            failures.append(str(error))
            continue
        return _install_download(file, release, source, check)
    raise WeightsError(
        f"{release.name}: could not be downloaded: {'; '.join(failures)}",
        "the same command goes on where it stopped; or get the file elsewhere and run: resurgsam2 weights add PATH",
    )


def _install_download(file: Path, release: Release, source: dict[str, str], check: Check) -> list[Installed]:
    def accept(path: Path, wanted: Release) -> Installed:
        if wanted.size and path.stat().st_size != wanted.size:
            raise WeightsError(
                f"{wanted.name}: has {path.stat().st_size} bytes instead of {wanted.size}",
                "run the same command again: the damaged download was removed",
            )
        if wanted.sha256 and sha256(path) != wanted.sha256:
            raise WeightsError(
                f"{wanted.name}: the sum of the download is wrong",
                "run the same command again: the damaged download was removed",
            )
        return install(path, wanted.name, wanted.kind, where, check, move=True)

    where = next(f"{kind}: {source[kind]}" for kind in ("url", "huggingface", "google_drive") if kind in source)
    try:
        if "member" not in source:
            return [accept(file, release)]
        others = {
            s["member"]: r
            for r in releases().values()
            for s in r.sources
            if "member" in s and {**s, "member": ""} == {**source, "member": ""}
        }
        members = {**others, source["member"]: release}
        done = []
        for member, path in _extract(file, set(members)):
            done.append(accept(path, members[member]))
        if release.name not in {x.name for x in done}:
            # Not an archive after all: the file itself, then.
            done.append(accept(file.rename(file.with_name(source["member"])), release))
        return done
    finally:
        shutil.rmtree(file.parent, ignore_errors=True)


def _extract(archive: Path, members: set[str]) -> Iterator[tuple[str, Path]]:
    """The wanted members of a zip or tar archive, by their base names, one at a time beside the archive."""

    def unpack(name: str, stream: IO[bytes] | None) -> Iterator[tuple[str, Path]]:
        base = name.rsplit("/", 1)[-1]
        if stream is not None and base in members:
            path = archive.parent / f"member-{base}"
            with stream, path.open("wb") as file:
                shutil.copyfileobj(stream, file)
            yield base, path

    # A .pth file is a zip file as well: it just has none of the members.
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for name in zipped.namelist():
                yield from unpack(name, zipped.open(name))
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            for entry in tar:
                yield from unpack(entry.name, tar.extractfile(entry))


def _download(source: dict[str, str]) -> Path:
    """Download to a folder that the next attempt finds again. Raises :class:`WeightsError`."""
    key = hashlib.sha256(json.dumps({**source, "member": ""}, sort_keys=True).encode()).hexdigest()[:16]
    folder = home() / "downloads" / key
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if "huggingface" in source:
            from huggingface_hub import hf_hub_download

            return Path(hf_hub_download(source["huggingface"], source["file"], local_dir=folder))
        import gdown

        target = folder / Path(source.get("url", "").split("?")[0]).name if "url" in source else folder / "drive-file"
        if "url" in source:
            done = gdown.download(url=source["url"], output=str(target), resume=True)
        else:
            done = gdown.download(id=source["google_drive"], output=str(target), resume=True)
    except Exception as error:  # each library has its own errors, of the network, the server and the disk
        cause = str(error).strip().splitlines()
        raise WeightsError(cause[0] if cause else type(error).__name__) from error
    if done is None or not target.is_file():
        raise WeightsError("the server gave no file")
    return target


def verify(item: Installed, check: Check) -> None:
    """Check a cached file against its recorded sum and against the network. Raises :class:`WeightsError`."""
    if sha256(item.path) != item.sha256:
        raise WeightsError(
            f"{item.name}: {item.path} has changed since it was installed",
            f"get it again with: resurgsam2 weights fetch {item.name}" if item.name in releases() else "add it again",
        )
    check(item.path)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WeightsError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error})",
            f"make room there, or name another folder in {HOME_VARIABLE}",
        ) from error


def describe(item: Installed | Release) -> dict[str, Any]:
    """An entry as plain JSON types."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(item).items()}
