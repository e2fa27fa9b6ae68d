"""From the finished pieces of a video to the whole run, as if it had been segmented in one."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.atomic import writing
from resurgsam2_cli.files.label_images import read_labels
from resurgsam2_cli.files.text import counted
from resurgsam2_cli.joining.accounts import made_of, source_of
from resurgsam2_cli.joining.checked import checked_pieces
from resurgsam2_cli.joining.identities import Rle, Sides, meet
from resurgsam2_cli.joining.pieces import Split
from resurgsam2_cli.outputs import FrameResult
from resurgsam2_cli.outputs.sinks import Sinks
from resurgsam2_cli.process.threads import ahead
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.runs.cuts import Cut
from resurgsam2_cli.runs.folder import RunFolder
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.runs.record import MASKS, RECORD, Run
from resurgsam2_cli.segmenting.known import known_result
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.pipeline import clip_of
from resurgsam2_cli.segmenting.summary import Summary, Tally, run_record
from resurgsam2_cli.segmenting.timing import Timing
from resurgsam2_cli.segmenting.writing import Watcher
from resurgsam2_cli.video.frames import Frame
from resurgsam2_cli.video.positions import Part
from resurgsam2_cli.video.source import Source

_AHEAD = 4  # decoded frames that wait


def options_of_piece(options: SegmentOptions, part: Part) -> SegmentOptions:
    """How a piece is segmented of a video that is wanted with ``options``: with what the whole run is made from."""
    return replace(options, part=part, coco=True, object_png=False, overlay=False)


def join(
    pieces: Sequence[Path],
    source: Source,
    prompts: tuple[Prompt, ...],
    options: SegmentOptions,
    split: Split,
    folder: RunFolder,
    watch: Watcher = lambda result: None,
) -> Summary:
    """Write the whole run of a video into ``folder``, from the finished runs of its ``pieces``, in order.

    The pieces are those of :func:`~resurgsam2_cli.joining.pieces.cut`, less those that lie beyond the end of the video,
    segmented with :func:`options_of_piece`. ``options`` are those of the whole; objects that are pointed at belong to
    no piece, so it has no marks. No network is needed. Two pieces and a few frames are held at a time. ``watch`` is
    called with each frame as it is written.

    The folder is complete afterwards, or was never there. Its run.json has the settings of a run in one, ``split``
    among them, and ``cuts``: for each place where two pieces meet, the frame, and each object with its IoU on the two
    sides or how it differs. Seconds are those of all pieces and of joining, peak memory is the largest of any. The
    pieces stay as they are. Raises a :class:`~resurgsam2_cli.errors.UserError` that names a piece which is not
    finished, ended early, or is not one of this video.
    """
    timing, cuts = Timing(), list[Cut]()
    runs = checked_pieces(pieces, source, prompts, options)
    with (
        _pictures(source, options) as pictures,
        closing(_results(_chosen(runs, cuts), pictures, options, timing)) as results,
        writing(folder.partial),
    ):
        first = next(results)
        begin = Frame(first.number, first.name, first.time, first.rgb)
        clip = replace(clip_of(folder.path.name, source, begin, prompts, options), demo_weights=runs[0].demo_weights)
        tally, sinks = Tally(prompts), Sinks(folder.partial, clip, options.sinks, timing, lanes=True)
        try:
            for result in itertools.chain([first], results):
                sinks.write(result)
                tally.add(result)
                watch(result)
            sinks.finish()
        except BaseException:
            sinks.halt()
            sinks.abort()
            raise
        settings = options.record(source.reading) | {"split": split.record()}
        found = source_of(source, clip, tally, runs)
        made = made_of(runs, timing.record(tally.frames), tally.frames, [*source.warnings, *_disagreements(cuts)])
        record = run_record(found, tally, settings, made, sinks.sums, complete=True)
        record["cuts"] = [x.to_json() for x in cuts]
        folder.complete(record)
    return Summary(folder.path, [folder.path / name for name in (*sinks.files, RECORD)], record)


def _disagreements(cuts: Sequence[Cut]) -> list[str]:
    """A line for the user if pieces do not agree where they meet."""
    differing = sum(any(x.differs for x in cut.objects) for cut in cuts)
    if not differing:
        return []
    return [f"the pieces do not agree at {differing} of {counted(len(cuts), 'cut')}: review shows where"]


class _Piece:
    """A piece that is open, and what its objects are called in the whole run."""

    def __init__(self, run: Run) -> None:
        self.run, self.index = run, RunIndex(run)
        self.ids = {x.id: x.id for x in run.objects}

    def close(self) -> None:
        """Close its files."""
        self.index.__exit__(None, None, None)

    def masks(self, step: int) -> dict[int, Rle]:
        """The masks in a frame by the ids of the whole run."""
        return {self.ids[x.object_id]: x.rle for x in self.index.frame(step).masks}

    def labels(self, name: str) -> np.ndarray:
        """The label image (height, width) uint8 of a frame, with the ids of the whole run."""
        path = self.run.folder / MASKS / f"{name}.png"
        labels = read_labels(path)
        if labels.shape != (self.run.height, self.run.width) or labels.max() > len(self.ids):
            raise InputError(f"{path}: is not as this program wrote it", "segment this piece again")
        return np.array([0, *(self.ids[i] for i in sorted(self.ids))], np.uint8)[labels]


class _Overlap(Sequence[Sides]):
    """The frames that two pieces have in common, read when they are looked at."""

    def __init__(self, before: _Piece, after: _Piece) -> None:
        self._before, self._after = before, after
        begin = before.index.step(after.index.number(0))
        if begin is None:
            raise InputError(f"{after.run.folder}: does not begin within the piece before", "segment both again")
        self._begin = begin

    def __len__(self) -> int:
        return min(len(self._before.index) - self._begin, len(self._after.index))

    def __getitem__(self, at: int) -> Sides:  # type: ignore[override]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        at %= len(self)
        number = self._after.index.number(at)
        if self._before.index.number(self._begin + at) != number:
            raise InputError(f"{self._after.run.folder}: has other frames than the piece before", "segment both again")
        return Sides(number, self._before.masks(self._begin + at), self._after.masks(at))


def _chosen(runs: Sequence[Run], cuts: list[Cut]) -> Generator[tuple[_Piece, int], None, None]:
    """The piece that each frame of the whole is taken from, and its step there; ``cuts`` gets where they change."""
    piece, begin = _Piece(runs[0]), 0
    try:
        for run in runs[1:]:
            after = _Piece(run)
            try:
                cut = meet(_Overlap(piece, after), len(run.objects))
                after.ids = cut.ids
                cuts.append(cut)
                end, follows = piece.index.step(cut.frame), after.index.step(cut.frame)
                assert end is not None
                assert follows is not None
                yield from ((piece, step) for step in range(begin, end))
            except BaseException:
                after.close()
                raise
            piece.close()
            piece, begin = after, follows
        yield from ((piece, step) for step in range(begin, len(piece.index)))
    finally:
        piece.close()


@contextmanager
def _pictures(source: Source, options: SegmentOptions) -> Iterator[Iterator[Frame] | None]:
    """The frames of the source, which only an overlay needs."""
    if not options.overlay:
        yield None
        return
    with ahead(source.frames(options.part), _AHEAD, source.interrupt) as frames:
        yield frames


def _results(
    chosen: Generator[tuple[_Piece, int], None, None],
    pictures: Iterator[Frame] | None,
    options: SegmentOptions,
    timing: Timing,
) -> Generator[FrameResult, None, None]:
    """The frames of the whole, with their pictures if there are any."""
    with closing(chosen):
        for piece, step in chosen:
            with timing.measure("join"):
                known = piece.index.frame(step)
                frame = Frame(known.number, known.name, Fraction(str(known.time)), _blank(piece.run))
                if pictures is not None:
                    frame = _same(next(pictures, None), frame, piece.run)
                labels = {"labels": piece.labels(known.name)} if options.png else {}
                result = known_result(piece.run, known, frame, piece.ids, **labels)
            yield result
        if pictures is not None and (more := next(pictures, None)) is not None:
            raise InputError(f"{piece.run.folder}: ended early, before frame {more.number}", "segment this piece again")


def _blank(run: Run) -> np.ndarray:
    """A black picture that takes no memory."""
    return np.broadcast_to(np.uint8(0), (run.height, run.width, 3))


def _same(picture: Frame | None, known: Frame, run: Run) -> Frame:
    """The picture of a frame. Raises :class:`InputError` if it is that of another one."""
    if (
        picture is None
        or (picture.number, picture.name) != (known.number, known.name)
        or picture.rgb.shape != known.rgb.shape
    ):
        raise InputError(
            f"{run.folder}: has frame {known.number} where the video has another one, or none",
            "segment this piece again",
        )
    return picture
