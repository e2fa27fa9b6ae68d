"""Features of single frames of a video: of those beside a corrected one, and of others that are remembered."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import closing

from model import ImageFeatures
from resurgsam2_cli.errors import InputError
from resurgsam2_cli.segmenting.engine import device_errors
from resurgsam2_cli.segmenting.placing import Grid
from resurgsam2_cli.segmenting.reading import read, with_features
from resurgsam2_cli.segmenting.summary import Undertaking

_HELD = 24


class EncodedFrames:
    """The features of frames by step; the last few are held. Raises :class:`InputError` for one that cannot be read."""

    def __init__(self, run: Undertaking, grid: Grid) -> None:
        self._run, self._grid = run, grid
        self._held: OrderedDict[int, ImageFeatures] = OrderedDict()

    def read(self, first: int, end: int) -> None:
        """Read the frames from ``first`` up to ``end`` together: a decoder that seeks begins at a key frame."""
        if all(step in self._held for step in range(first, end)):
            return
        frames = read(self._run.engine, self._run.source, self._grid.part(first, end), self._run.timing)
        with device_errors(), closing(with_features(self._run, self._grid, frames)) as ready:
            for step, _, features in ready:
                self._held[step] = features
        while len(self._held) > max(_HELD, end - first):
            self._held.popitem(last=False)

    def __getitem__(self, step: int) -> ImageFeatures:
        if step not in self._held:
            self.read(step, step + 1)
        if step not in self._held:
            raise InputError(
                f"{self._run.source.path}: frame {self._grid.frame(step)} cannot be read any more",
                "the file may be damaged: check that it plays elsewhere, or segment it again",
            )
        return self._held[step]
