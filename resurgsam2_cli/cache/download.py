"""Releases downloaded into the cache; a broken download is resumed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from resurgsam2_cli.cache.archives import extract
from resurgsam2_cli.cache.install import changing_cache, described, install
from resurgsam2_cli.cache.servers import MIRROR_VARIABLE, Unreachable, address, placed, size_at
from resurgsam2_cli.errors import OutputError
from resurgsam2_cli.files.atomic import writing
from resurgsam2_cli.files.filling import claim_folder, throw_away
from weights import store
from weights.errors import WeightsError
from weights.store import Check, Installed, Release

Teller = Callable[[str, int | None], None]
"""Called before a download with the server and the size in bytes, if the server states it."""


@dataclass(frozen=True)
class Download:
    """A file that was downloaded."""

    file: Path
    folder: Path
    """Where it lies; deleted when all is done."""
    source: dict[str, str]
    """As releases.toml has it."""
    place: dict[str, str]
    """Where it came from: the source, or what stands for it on a mirror."""


_AGAIN = "run the same command again: the damaged download was removed"


def fetch(release: Release, check: Check, tell: Teller = lambda host, size: None) -> list[Installed]:
    """Download a release into the cache, from the mirror if the environment names one; a broken download is resumed.

    An archive may hold other releases, too: all of them are installed. Raises ``WeightsError``,
    :class:`~resurgsam2_cli.errors.UsageError` for an impossible mirror, and :class:`OutputError` if another process is
    downloading it or the cache cannot be written.
    """
    failures: list[WeightsError] = []
    for source in release.sources:
        place = placed(source)
        try:
            url = address(place)
            size = size_at(url)
        except Unreachable as error:
            failures.append(error)
            continue
        folder = _folder(place)
        with changing_cache():
            lock = claim_folder(folder)
        try:
            try:
                tell(urlsplit(url).hostname or url, size)
                file = _download(place, folder)
            except WeightsError as error:
                failures.append(error)
                continue
            return _install_download(Download(file, folder, source, place), release, check)
        finally:
            lock.release()
    raise WeightsError(
        f"{release.name}: could not be downloaded: {'; '.join(dict.fromkeys(map(str, failures)))}",
        _elsewhere(release.sources[0])
        if all(isinstance(x, Unreachable) for x in failures)
        else "the same command resumes it; or get the file elsewhere and run: resurgsam2 weights add PATH",
    )


def _elsewhere(source: dict[str, str]) -> str:
    """What to do where no server can be reached."""
    url = address(source)
    name = source.get("member") or Path(urlsplit(url).path).name
    what = f"{name} from it" if "member" in source else "the file"
    where = "without internet" if placed(source) is source else f"if {MIRROR_VARIABLE} is right"
    return f"{where}: get {url} on another machine, copy {what} here, and run: resurgsam2 weights add {name}"


def _folder(source: dict[str, str]) -> Path:
    """The folder of a download, which the next attempt finds again; all members of an archive share one."""
    key = hashlib.sha256(json.dumps({**source, "member": ""}, sort_keys=True).encode()).hexdigest()[:16]
    return store.home() / "downloads" / key


def _download(source: dict[str, str], folder: Path) -> Path:
    """Download the file of a source. Raises ``WeightsError``."""
    try:
        if "huggingface" in source:
            from huggingface_hub import hf_hub_download

            return Path(hf_hub_download(source["huggingface"], source["file"], local_dir=folder))
        import gdown

        if "url" in source:
            target = folder / (Path(source["url"].split("?")[0]).name or "download")
            done = gdown.download(url=source["url"], output=str(target), resume=True)
        else:
            target = folder / "drive-file"
            done = gdown.download(id=source["google_drive"], output=str(target), resume=True)
    except Exception as error:  # each library raises its own errors for network, server and disk
        cause = str(error).strip().splitlines()
        raise WeightsError(cause[0] if cause else type(error).__name__) from error
    if done is None or not target.is_file():
        raise WeightsError("the server gave no file")
    return target


def _install_download(download: Download, release: Release, check: Check) -> list[Installed]:
    file, source, place = download.file, download.source, download.place
    where = next(f"{kind}: {place[kind]}" for kind in ("url", "huggingface", "google_drive") if kind in place)
    size = file.stat().st_size

    def accept(path: Path, wanted: Release) -> Installed:
        item = replace(described(path, wanted.name, wanted.kind, where), download_size=size)
        if wanted.size and item.size != wanted.size:
            raise WeightsError(f"{wanted.name}: has {item.size} bytes instead of {wanted.size}", _AGAIN)
        if wanted.sha256 and item.sha256 != wanted.sha256:
            raise WeightsError(f"{wanted.name}: the sum of the download is wrong", _AGAIN)
        return install(item, check, overwrite=True)

    try:
        with changing_cache(), writing(file):
            if "member" not in source:
                return [accept(file, release)]
            members = {**_other_members(source), source["member"]: release}
            done = [accept(path, members[member]) for member, path in extract(file, set(members))]
            if release.name not in {x.name for x in done}:
                # The download is not an archive after all, but the file itself. Its suffix says how to read it.
                whole = file.with_name(f"whole-{source['member']}")
                shutil.copyfile(file, whole)
                done.append(accept(whole, release))
            return done
    finally:
        with suppress(OSError, OutputError):
            throw_away(download.folder)


def _other_members(source: dict[str, str]) -> dict[str, Release]:
    """The releases in the same archive, by their members."""
    return {
        s["member"]: release
        for release in store.releases().values()
        for s in release.sources
        if "member" in s and {**s, "member": ""} == {**source, "member": ""}
    }
