"""Pieces that are to be joined: whether they are what was asked for, and whether nothing is missing between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from resurgsam2_cli.errors import InputError, UsageError
from resurgsam2_cli.joining.pieces import first_frame
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.runs.folder import same_content
from resurgsam2_cli.runs.record import RECORD, Run, as_written, is_record, raw_record, read_run
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.video.source import Source

_AGAIN = "segment this piece again"

_OF_PIECES = ("start", "end", "outputs", "legend")
"""Settings that a piece has for itself."""


def checked_pieces(
    folders: Sequence[Path], source: Source, prompts: tuple[Prompt, ...], options: SegmentOptions
) -> list[Run]:
    """The finished runs in ``folders``, which are all pieces of what is wanted, in order.

    Raises :class:`InputError` for one that is not finished, ended early, or is of something else.
    """
    if not folders:
        raise UsageError("there are no pieces to join", "segment them first")
    runs = [_finished(x) for x in folders]
    identity, settings = source.identity(), json.loads(json.dumps(options.record(source.reading)))
    for run in runs:
        if not same_content(run.identity, identity):
            raise _wrong(run, f"is not a piece of {source.path}")
        if [(x.text, x.label) for x in run.objects] != [(x.text, x.label) for x in prompts]:
            raise _wrong(run, "was made with other prompts")
        if run.rate != source.rate:
            raise _wrong(run, f"was read at {run.rate} frames per second, not {source.rate}")
        _check_made(run, runs[0], settings)
        if options.png and "png" not in run.outputs:
            raise _wrong(run, "was made with --no-png, and label images are joined from those of the pieces")
    if len(runs) == 1 and (runs[0].part.start, runs[0].part.end) == (options.part.start, options.part.end):
        return runs
    for run in runs:
        if run.part.start.frame is None:
            raise _wrong(run, "does not begin at a frame, as the pieces of a video do")
    for run in runs[:-1]:
        if run.part.end is None or run.part.end.frame is None:
            raise _wrong(run, "goes to the end of the video, but is not the last piece")
        # A video that is shorter than its header promises may end in the last overlap.
        if not _is_whole(run) and (run is not runs[-2] or _last(run) != _last(runs[-1])):
            raise _wrong(run, f"ended early: it has {run.frames} frames, and others follow")
    for before, after in pairwise(runs):
        if not _begin(before) < _begin(after) < _end(before) or (_begin(after) - _begin(before)) % before.part.stride:
            raise _wrong(after, f"does not overlap with {before.folder} as neighbouring pieces do")
    for before, after in zip(runs, runs[2:], strict=False):
        if _begin(after) < _end(before):
            raise _wrong(after, f"overlaps with {before.folder}, which is not its neighbour")
    if _begin(runs[0]) != first_frame(source, options.part):
        raise _wrong(runs[0], "is not the first piece")
    if runs[-1].part.end != options.part.end and _is_whole(runs[-1]):
        raise _wrong(runs[-1], "is not the last piece: the video goes on behind it")
    return runs


def _wrong(run: Run, why: str) -> InputError:
    return InputError(f"{run.folder}: {why}", _AGAIN)


def _finished(folder: Path) -> Run:
    record = raw_record(folder)
    if not (folder / RECORD).exists() or record.get("complete") is False:
        raise InputError(f"{folder}: is not finished, or its video broke off", _AGAIN)
    if not is_record(record):
        raise InputError(f"{folder}: is not a finished run", _AGAIN)
    return read_run(folder)


def _check_made(run: Run, first: Run, wanted: dict[str, Any]) -> None:
    """Raise :class:`InputError` unless a piece was made as is wanted, and as the first one was."""
    if (run.height, run.width) != (first.height, first.width):
        raise _wrong(run, f"is {run.width} x {run.height}, and {first.folder} {first.width} x {first.height}")
    record, other = raw_record(run.folder), raw_record(first.folder)
    with as_written(run.folder / RECORD):
        different = [x for x in wanted if x not in _OF_PIECES and record["settings"].get(x) != wanted[x]]
        has_others = _weights(record) != _weights(other)
    if different:
        raise _wrong(run, f"was made with another {different[0].replace('_', ' ')}")
    if has_others:
        raise _wrong(run, f"was made with other weights than {first.folder}")


def _weights(record: dict[str, Any]) -> tuple[Any, Any]:
    return record["weights"]["sha256"], record["weights"].get("clip_sha256")


def _begin(run: Run) -> int:
    assert run.part.start.frame is not None
    return run.part.start.frame


def _last(run: Run) -> int:
    """The last frame that a piece has."""
    return _begin(run) + (run.frames - 1) * run.part.stride


def _end(run: Run) -> int:
    """The first frame behind a piece that is not the last."""
    assert run.part.end is not None
    assert run.part.end.frame is not None
    return run.part.end.frame


def _is_whole(run: Run) -> bool:
    """Whether a piece has all frames of its part; False if it may go on to the end of the video."""
    if run.part.end is None or run.part.end.frame is None:
        return False
    return run.frames == -(-(run.part.end.frame - _begin(run)) // run.part.stride)
