"""Which videos go into which part of a data set."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path

from resurgsam2_cli.errors import InputError, UsageError
from resurgsam2_cli.files.text import counted, did_you_mean, read_json
from resurgsam2_cli.runs.record import Run

_MOST = 1e9  # the largest share; the sum of larger ones may overflow

_HINT = 'write --split train=0.8,val=0.2, or name a JSON file {"train": ["video", ...], "val": [...]}'


def assign_splits(argument: str, runs: list[Run]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The splits in order, and that of each run by its name.

    Shares are filled in the order of a hash of the videos' names: the same videos always come out the same, in
    whatever order they were given. Runs of one video stay together. Raises :class:`UsageError`, or
    :class:`InputError` for a file.
    """
    if argument.lower().endswith(".json"):
        splits, chosen = _read(Path(argument))
        missing = [run.name for run in runs if run.name not in chosen]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            near = did_you_mean(missing[0], chosen.keys() - {run.name for run in runs})
            raise UsageError(f"{argument}: {missing[0]}{more} is in no split", f"{near}add it to the file")
        return splits, {run.name: chosen[run.name] for run in runs}
    shares = _shares(argument)
    videos: dict[str, list[str]] = {}
    for run in sorted(runs, key=lambda x: x.name):
        videos.setdefault(run.name if run.source == "-" else run.source, []).append(run.name)
    groups = sorted(videos.values(), key=lambda names: hashlib.sha256(names[0].encode()).digest())
    if len(groups) < len(shares):
        raise UsageError(
            f"--split: {counted(len(groups), 'video')} cannot fill {len(shares)} splits", "ask for fewer splits"
        )
    chosen = {}
    start = 0
    for split, count in zip(shares, _counts(list(shares.values()), len(groups)), strict=True):
        chosen |= {name: split for group in groups[start : start + count] for name in group}
        start += count
    return tuple(shares), chosen


def _counts(shares: list[float], total: int) -> list[int]:
    """Whole numbers as near to the shares as they can be, none of them 0."""
    exact = [share / sum(shares) * total for share in shares]
    counts = [max(1, math.floor(x)) for x in exact]
    while sum(counts) != total:
        step = 1 if sum(counts) < total else -1
        at = max((i for i in range(len(counts)) if counts[i] + step > 0), key=lambda i: step * (exact[i] - counts[i]))
        counts[at] += step
    return counts


def _shares(argument: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in argument.split(","):
        name, _, text = (x.strip() for x in part.partition("="))
        try:
            share = float(text.removesuffix("%"))
        except ValueError:
            share = 0.0
        if not 0 < share <= _MOST or name in shares:
            raise UsageError(f"--split {argument!r}: {part.strip()!r} is not a name with a share", _HINT)
        shares[_checked(name, argument)] = share
    return shares


def _read(path: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    content = read_json(path, _HINT)
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(names, list) and all(isinstance(x, str) for x in names) for names in content.values())
    ):
        raise InputError(f"{path}: is not an object of lists of names", _HINT)
    chosen: dict[str, str] = {}
    for split, names in content.items():
        for name in names:
            if chosen.setdefault(name, split) != split:
                raise InputError(f"{path}: {name} is in {chosen[name]} and in {split}", "keep it in one of them")
    return tuple(_checked(split, str(path)) for split in content), chosen


def _checked(name: str, where: str) -> str:
    """The name, if a folder may have it. Raises :class:`UsageError`."""
    if not re.fullmatch(r"[\w-]+", name):
        raise UsageError(f"--split {where}: {name!r} is not a name for a split", "use letters, digits, - and _")
    return name
