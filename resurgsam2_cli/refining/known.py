"""What is known of the frames around a correction, and how a network gets to know it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from model.initial_frame import presence
from model.memory_bank import Direction
from model.preprocess import given_masks, masks_of
from model.session import Session
from model.states import ObjectState, Prompted, RestoredKind, Step
from model.text_encoder import Prompts
from resurgsam2_cli.files.rle import decoded
from resurgsam2_cli.outputs import ObjectResult
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.refining.changes import Changed, Changes
from resurgsam2_cli.refining.encoded import EncodedFrames
from resurgsam2_cli.refining.kept import Kept
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.segmenting.engine import device_errors
from resurgsam2_cli.segmenting.placing import grid_of_run
from resurgsam2_cli.segmenting.reading import encode_prompts
from resurgsam2_cli.segmenting.summary import Undertaking

_ENCODED = 64
"""Frames of objects that stay encoded: each takes 192 KiB with an input of 512 pixels."""

_REMEMBERED = 8
"""Kept frames, and conditioning frames of the run, that a correction is tracked with: each must be read and encoded."""


class Known:
    """The masks of a run with the ``changes`` so far, the frames that are ``kept``, and sessions that remember them."""

    def __init__(self, run: Undertaking, index: RunIndex, kept: Kept, changes: Changes) -> None:
        self.run, self.index, self.kept, self.changes = run, index, kept, changes
        self.grid = grid_of_run(index)
        self.features = EncodedFrames(run, self.grid)
        self._texts: dict[tuple[Prompt, ...], Prompts] = {}
        self._encoded: OrderedDict[tuple[int, int, str | None, bool, bool], Prompted] = OrderedDict()

    def kept_around(self, row: int, step: int) -> list[int]:
        """The kept steps that a corrected one is remembered with, and that itself, in order."""
        return sorted({*self.kept.nearest(row, step, _REMEMBERED), step})

    # What is remembered

    def read_around(self, step: int) -> None:
        """Read and encode a frame with those beside it that may be remembered."""
        recent = self.run.options.rules.recent
        self.features.read(max(0, step - recent), min(len(self.index), step + recent + 1))

    def condition(self, session: Session, row: int, k: int, step: int, *, run_too: bool) -> bool:
        """Give an object conditioning frames: kept ones, and if ``run_too``, those that it was tracked with.

        Returns whether there are any.
        """
        frames = set(self.kept.nearest(row, step, _REMEMBERED))
        if run_too:
            known = self._known(step, row, "conditioning_frames")
            frames |= set(sorted(known, key=lambda x: abs(x - step))[:_REMEMBERED])
        frames.discard(step)
        for other in sorted(frames):
            self.restore(session, row, k, other, "conditioning")
        return bool(frames)

    def remember(self, session: Session, row: int, k: int, step: int, direction: Direction) -> None:
        """Give an object the frames that a pass would just have gone over before ``step``."""
        rules = self.run.options.rules
        if direction == 1 and rules.long_term:
            for frame in self._known(step, row, "long_term_frames")[-rules.long_term :]:
                if not session.remembers(k, frame):
                    self.restore(session, row, k, frame, "long-term")
        for back in range(rules.recent, 0, -1):
            frame = step - back * direction
            if 0 <= frame < len(self.index) and not session.remembers(k, frame):
                self.restore(session, row, k, frame, "recent")

    def _known(self, step: int, row: int, name: str) -> list[int]:
        """Frames that the run, as it was, names for an object in a frame, as steps."""
        numbers = self.index.frame(step).states[row].get(name, [])
        return [x for x in map(self.index.step, numbers) if x is not None]

    def restore(self, session: Session, row: int, k: int, step: int, kind: RestoredKind) -> None:
        """Take a frame into the memory of an object, the ``k``-th of the session, with the mask that it has.

        Clicks that follow one another, and passes in both directions, remember the same frames: each is encoded once.
        """
        there, prompted = self.there(step, row), kind == "conditioning"
        state = ObjectState("track", there.state["object_score"], there.state["predicted_iou"], (), (), ())
        key = (row, step, there.counts, prompted, session.speaks(k))
        known = self._encoded.pop(key, None)
        if known is None:
            mask = self.for_network(self.decoded(there.counts))
            known = session.encode(k, self.features[step], mask, state, prompted)
        self._encoded[key] = known
        if len(self._encoded) > _ENCODED:
            self._encoded.popitem(last=False)
        session.restore(k, step, known._replace(result=(known.result[0], state)), kind)

    # Masks

    def there(self, step: int, row: int) -> Changed:
        """What is known of an object in a frame."""
        changed = self.changes.get(step, row)
        if changed is not None:
            return changed
        frame = self.index.frame(step)
        mask = next((x for x in frame.masks if x.object_id == row + 1), None)
        return Changed(
            frame.states[row], None if mask is None else mask.rle["counts"], 0.0 if mask is None else mask.score
        )

    def decoded(self, counts: str | None) -> np.ndarray:
        """The mask (height, width) bool of a compressed RLE; empty for None."""
        return decoded(counts, (self.grid.height, self.grid.width))

    def mask(self, step: int, row: int) -> np.ndarray:
        """The mask (height, width) bool of an object in a frame."""
        return self.decoded(self.there(step, row).counts)

    def result(self, row: int, state: ObjectState) -> ObjectResult:
        """What a session says of an object, with frames as numbers in the source."""
        frames, long_term = (
            tuple(self.grid.frame(x) for x in y) for y in (state.conditioning_frames, state.long_term_frames)
        )
        score = state.object_score
        return ObjectResult(
            row + 1,
            state.stage,
            state.present,
            score,
            state.predicted_iou,
            presence(score),
            frames,
            long_term,
            state.direction,
        )

    def rendered(self, found: Step) -> list[np.ndarray]:
        """The mask (height, width) bool of each object in a step."""
        with device_errors():
            masks = masks_of(found.mask_logits, self.grid.height, self.grid.width, self.run.options.threshold)
        return list(self.run.options.cleaning.masks(masks))

    def for_network(self, mask: np.ndarray) -> torch.Tensor:
        """A mask (height, width) bool in the size of the network's input, 0 or 1, on the device."""
        engine = self.run.engine
        return given_masks(mask[None], engine.config, engine.device)[0]

    # The network

    def speaks(self, row: int) -> bool:
        """Whether an object has words that the network reads."""
        return self.run.prompts[row].words and self.run.engine.config.words

    def session(self, rows: Sequence[int], silent: Collection[int] = ()) -> Session:
        """A session of some objects. Those whose words count come first: not those of ``silent`` ones."""
        run = self.run
        words = tuple(run.prompts[row] for row in rows if self.speaks(row) and row not in silent)
        with self.network("text"):
            if words and words not in self._texts:
                self._texts[words] = encode_prompts(run.engine, words)
            prompts = self._texts[words] if words else None
            session = Session(run.engine.executor, prompts, run.options.rules, self._clip_length(), keep="both")
        for _ in rows[len(words) :]:
            session.add()
        return session

    def _clip_length(self) -> int | None:
        frames = len(self.index)
        return frames if frames < self.run.options.rules.pointers else None

    @contextmanager
    def network(self, stage: str) -> Iterator[None]:
        """The engine's context, timed as ``stage``. Raises a :class:`~resurgsam2_cli.errors.UserError`."""
        engine = self.run.engine
        with device_errors(), engine.context(), self.run.timing.measure(stage, device=engine.device):
            yield


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two masks; 1 if both are empty."""
    either = np.count_nonzero(a | b)
    return 1.0 if not either else np.count_nonzero(a & b) / either
