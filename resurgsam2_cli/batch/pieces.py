"""Long videos in pieces: each is a task like any other video, and the last task joins them to the whole run.

Pieces lie in a folder beside the run to be, and are kept until they are joined: what was done is not done again. A run
that is complete counts as done, however it was made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from resurgsam2_cli.batch.items import Cut, Item, Outcome, Piece, Progress
from resurgsam2_cli.batch.job import Job, watcher
from resurgsam2_cli.files.kinds import check_free
from resurgsam2_cli.joining.pieces import Split, cut
from resurgsam2_cli.runs.find import pieces_of
from resurgsam2_cli.runs.folder import RUN, Wanted
from resurgsam2_cli.runs.record import is_run
from resurgsam2_cli.video.frames import EmptyPart
from resurgsam2_cli.video.remote import RemoteSource
from resurgsam2_cli.video.source import Source

if TYPE_CHECKING:
    from resurgsam2_cli.segmenting.engine import Engine
    from resurgsam2_cli.segmenting.summary import Summary


@dataclass(frozen=True, kw_only=True)
class SplitJob(Job):
    """The work of a batch that cuts videos which are longer than a piece."""

    split: Split

    def _run(self, item: Item, engine: Engine, tell: Callable[[Progress], None]) -> Outcome | Cut:
        piece = item.piece
        if piece is None:
            outcome = super()._run(item, engine, tell)
            if isinstance(outcome, Cut) or not item.pieces or outcome.state != "done":
                return outcome
            notes = [f"joined from {len(item.pieces)} pieces", *filter(None, [outcome.note])]
            return replace(outcome, note="; ".join(notes))
        whole = self.out / piece.of
        if is_run(whole) and not self.overwrite:  # by another batch, in the meantime
            return Outcome(item.key, "skipped", str(whole))
        try:
            return self._of_piece(piece)._run(replace(item, below=PurePosixPath(item.below.name)), engine, tell)
        except EmptyPart:  # the header of the video promised more frames than there are
            return Outcome(item.key, "skipped", note="lies beyond the end of the video")

    def _of_piece(self, piece: Piece) -> _PieceJob:
        """The work of a piece, in the folder of the pieces."""
        from resurgsam2_cli.joining.join import options_of_piece

        options = options_of_piece(self.options, piece.part)
        asked = replace(self.asked, settings=options.record(self.reading))
        folder = pieces_of(self.out / piece.of)
        return _PieceJob(folder, options, asked, self.reading, overwrite=True, verbose=self.verbose, name=piece.name)

    def _made(
        self,
        item: Item,
        source: Source,
        wanted: Wanted,
        record: dict[str, Any] | None,
        engine: Engine,
        tell: Callable[[Progress], None],
    ) -> Summary | Cut:
        from resurgsam2_cli.joining.join import join

        path = wanted.find()[0]
        if item.pieces:
            with wanted.claim_instead_of(record) as run:
                watch = watcher(item, source.expected(self.options.part), tell)
                runs = [pieces_of(path) / name for name in item.pieces]
                return join(runs, source, item.prompts, self.options, self.split, run, watch)
        parts = cut(source, self.options.part, self.split)
        if len(parts) < 2:
            return super()._made(item, source, wanted, record, engine, tell)
        check_free(path, RUN, overwrite=record is not None)  # not only when all pieces are done
        of = path.relative_to(self.out)
        return Cut(tuple(replace(item, piece=Piece(i, len(parts), x, of)) for i, x in enumerate(parts, start=1)))


@dataclass(frozen=True, kw_only=True)
class _PieceJob(Job):
    """The work of one piece."""

    name: str

    def _wanted(self, item: Item, source: Source | RemoteSource) -> Wanted:
        wanted = super()._wanted(item, source)
        return replace(wanted, out=Path(self.out), name=self.name, others=frozenset())
