"""Releases downloaded into the cache; a broken download is resumed."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path

from resurgsam2_cli.cache.archives import extract
from resurgsam2_cli.cache.install import changing_cache, described, install
from resurgsam2_cli.errors import OutputError
from resurgsam2_cli.files.atomic import claim_folder, throw_away, writing
from weights import store
from weights.errors import WeightsError
from weights.store import Check, Installed, Release

_AGAIN = "run the same command again: the damaged download was removed"


def fetch(release: Release, check: Check) -> list[Installed]:
    """Download a release into the cache; a broken download is resumed.

    An archive may hold other releases, too: all of them are installed. Raises ``WeightsError``, and
    :class:`OutputError` if another process is downloading it or the cache cannot be written.
    """
    failures = []
    for source in release.sources:
        folder = _folder(source)
        with changing_cache():
            lock = claim_folder(folder)
        try:
            try:
                file = _download(source, folder)
            except WeightsError as error:
                failures.append(str(error))
                continue
            return _install_download(file, folder, release, source, check)
        finally:
            lock.release()
    raise WeightsError(
        f"{release.name}: could not be downloaded: {'; '.join(failures)}",
        "the same command resumes it; or get the file elsewhere and run: resurgsam2 weights add PATH",
    )


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


def _install_download(
    file: Path, folder: Path, release: Release, source: dict[str, str], check: Check
) -> list[Installed]:
    where = next(f"{kind}: {source[kind]}" for kind in ("url", "huggingface", "google_drive") if kind in source)

    def accept(path: Path, wanted: Release) -> Installed:
        item = described(path, wanted.name, wanted.kind, where)
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
            throw_away(folder)


def _other_members(source: dict[str, str]) -> dict[str, Release]:
    """The releases in the same archive, by their members."""
    return {
        s["member"]: release
        for release in store.releases().values()
        for s in release.sources
        if "member" in s and {**s, "member": ""} == {**source, "member": ""}
    }
