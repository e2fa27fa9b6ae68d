"""All objects of one video, pointed at or found by their words, and followed in both directions.

A session holds what is remembered of each object, and knows the rules; the caller brings the features of any frame, in
any order. A person's prompts come one by one (:meth:`Session.point`, :meth:`Session.adopt`); a pass
(:meth:`Session.begin`, then :meth:`Session.step` for each of its frames) follows all objects from there. An object with
words and without a prompt is searched for (CSTMamba) in a pass forwards, until CIFS has chosen a credible frame, and
tracked (memory attention over DLM) from the next frame on.

Source: SAM 2's video predictor, with every prompted frame a conditioning frame (its option
``add_all_frames_to_correct_as_cond``); ReSurgSAM2 for what has words.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from model.config import Rules
from model.finding_again import FindAgain, Finder
from model.image_encoder import ImageFeatures
from model.initial_frame import Candidate, InitialFrameSelector
from model.layers import to_device
from model.memory import Memory, Recalled
from model.memory_bank import MOST_CONDITIONING, Direction, Keep, MemoryBank
from model.network import ABSENT_LOGIT, Prediction
from model.prompt_tokens import Clicks
from model.started import Started, Tracked
from model.states import (
    Evidence,
    FoundAgain,
    ObjectState,
    Prompted,
    RestoredKind,
    SessionObject,
    Stage,
    Step,
    evidence_of,
    finite,
    numbers_of,
    overlap,
)
from model.text_encoder import Prompts
from model.verbs import Verbs


class Session:
    """All objects of one video. Frame numbers count from 0.

    ``prompts`` are the words of the first objects, one row each; :meth:`add` makes objects without words.
    ``clip_length`` is the number of frames of the video, if it is known. It matters in short ones only: see
    :class:`~model.memory_bank.MemoryBank`. ``keep`` says what stays in memory of the frames that a pass went over:
    with "all", each may be corrected, and a frame of an object takes 192 KiB with an input of 512 pixels.
    ``find_again`` looks for objects with words that tracking lost, in passes forwards.
    """

    def __init__(
        self,
        network: Verbs,
        prompts: Prompts | None = None,
        rules: Rules | None = None,
        clip_length: int | None = None,
        *,
        keep: Keep = "all",
        find_again: FindAgain | None = None,
    ) -> None:
        self._network, self._prompts, self._keep = network, prompts, keep
        self._rules = rules or Rules()
        config = network.config
        if self._rules.recent >= config.memory.slots:
            raise ValueError(f"recent must be below {config.memory.slots}, the network's temporal slots")
        if config.words and self._rules.context >= config.fusion.frames:
            raise ValueError(f"context must be below {config.fusion.frames}, the network's frames in detection")
        self._clip_length = clip_length
        self._finder: Finder[Evidence] | None = None if find_again is None else Finder(find_again, self._rules)
        self.found_again: list[FoundAgain] = []
        """In the last step."""
        self._direction: Direction = 1
        self._earlier: deque[Tensor] = deque(maxlen=self._rules.context)
        self._worded = 0 if prompts is None else len(prompts.summary)
        self._objects = [SessionObject(InitialFrameSelector(self._rules)) for _ in range(self._worded)]
        self._memory: Memory | None = None
        self._started: deque[Started] = deque()
        self._selected: tuple[list[int], Prompts | None] = (list(range(self._worded)), prompts)

    def add(self) -> int:
        """Make an object without words; returns its row."""
        self._objects.append(SessionObject(None))
        return len(self._objects) - 1

    def drop(self) -> None:
        """Take the last object away again. Raises ``ValueError`` for one that has words, or that a pass went over."""
        row = len(self._objects) - 1
        if row < self._worded or self._objects[row].bank is not None:
            raise ValueError(f"object {row + 1} cannot be taken away")
        self._objects.pop()

    def conditioning_frames(self, row: int) -> tuple[int, ...]:
        """The conditioning frames of an object, with those that the next pass makes such."""
        item = self._objects[row]
        return (*item.conditioning_frames, *(x for x in item.prompted if x not in item.conditioning_frames))

    def speaks(self, row: int) -> bool:
        """Whether an object has words."""
        return row < self._worded

    def is_marked(self, row: int) -> bool:
        """Whether a person ever pointed at an object."""
        return self._objects[row].marked

    # What a person says

    def point(self, row: int, frame: int, features: ImageFeatures, clicks: Clicks, *, afresh: bool = False) -> Step:
        """Click on an object, or draw a box around it; returns its mask in this frame.

        ``clicks`` are of one object. They come after the earlier ones of the frame, unless they begin ``afresh``, as a
        box always does. They correct the mask that the object has in the frame.
        """
        item = self._objects[row]
        if not afresh and frame in item.clicks and not (clicks.labels > 1).any():
            clicks = Clicks(*(torch.cat(x, dim=1) for x in zip(item.clicks[frame], clicks, strict=True)))
        before = item.has_mask(frame)
        prediction = self._network.point(
            features,
            clicks,
            self._recalled_again(row, frame),
            None if before is None else before[None],
            self._select([row]),
        )
        item.clicks[frame] = clicks
        return self._prompted(row, frame, features, prediction, "point")

    def adopt(self, row: int, frame: int, features: ImageFeatures, mask: Tensor) -> Step:
        """Give an object's mask in a frame, (size, size) in that of the network's input, 0 or 1; empty if it is absent.

        It is taken as it is, and replaces the clicks of the frame.
        """
        prediction = self._network.adopt(features, mask[None], self._select([row]))
        self._objects[row].clicks.pop(frame, None)
        return self._prompted(row, frame, features, prediction, "drawn" if bool(mask.any()) else "absent")

    def take_back(self, row: int, frame: int) -> None:
        """Take back the prompts of a frame; it counts as a tracked one, with the mask that it has.

        Raises ``KeyError`` if it has no prompt.
        """
        item = self._objects[row]
        if frame not in item.prompted and frame not in item.conditioning_frames:
            raise KeyError(f"object {row + 1} has no prompt in frame {frame}")
        item.clicks.pop(frame, None)
        item.prompted.pop(frame, None)
        if item.bank is not None and frame in item.conditioning_frames:
            item.bank.take_back(frame)

    def encode(self, row: int, features: ImageFeatures, mask: Tensor, state: ObjectState, prompted: bool) -> Prompted:
        """What is remembered of a frame with the mask (size, size) that an object had there in an earlier session.

        Only the mask, 0 or 1, was kept, so the pointer is made from that.
        """
        prediction = self._network.adopt(features, mask[None], self._select([row]))
        logits, score = prediction.mask_logits, prediction.object_score
        remembered = self._network.memorize(features.main, logits, score, prompted=prompted)
        return Prompted(remembered, prediction.pointer, (logits[0], state))

    def restore(self, row: int, frame: int, known: Prompted, kind: RestoredKind) -> None:
        """Take a frame into memory that was encoded.

        Conditioning frames come first, then the pass begins, then the frames come that it has just gone over: long-term
        ones, and recent ones in the order of the pass.
        """
        item = self._objects[row]
        if kind == "conditioning":
            item.prompted[frame] = known
            return
        bank = item.memory
        bank.remember(frame, 0.0)
        if kind == "long-term":
            bank.promote(frame)
        self._held().write({row: frame}, known.features, known.pointer)
        item.results[frame] = known.result

    def remembers(self, row: int, frame: int) -> bool:
        """Whether a frame is in the memory of an object."""
        bank = self._objects[row].bank
        return bank is not None and frame in bank.frames

    def _recalled_again(self, row: int, frame: int) -> Recalled | None:
        bank = self._objects[row].bank
        recall = None if bank is None else bank.recall_again(frame)
        return None if recall is None else self._held().recalled(row, recall)

    def _prompted(self, row: int, frame: int, features: ImageFeatures, prediction: Prediction, stage: Stage) -> Step:
        item = self._objects[row]
        item.marked = True
        remembered = self._network.memorize(
            features.main, prediction.mask_logits, prediction.object_score, prompted=True
        )
        ((score, iou),) = finite(numbers_of(prediction), [row], "pointing")
        conditioning = dict.fromkeys((*self.conditioning_frames(row), frame))
        state = ObjectState(stage, score, iou, tuple(conditioning)[-MOST_CONDITIONING:], (), ())
        item.prompted[frame] = Prompted(remembered, prediction.pointer, (prediction.mask_logits[0], state))
        return Step(prediction.mask_logits, [state])

    # Passes

    def begin(self, direction: Direction = 1) -> None:
        """Begin a pass: what was prompted is remembered now. Raises ``ValueError`` for an object that nothing names."""
        self._direction = direction
        self._earlier.clear()
        if self._finder is not None:
            self._finder.begin()
        for row, item in enumerate(self._objects):
            if item.selector is None and not item.conditioning_frames and not item.prompted:
                raise ValueError(f"object {row + 1} has neither words nor a prompt")
            for frame, (features, pointer, result) in item.prompted.items():
                self._condition(row, frame)
                item.results[frame] = result
                self._held().write({row: frame}, features, pointer)
            item.prompted.clear()
            if item.bank is not None:
                item.bank.begin(direction)
            if item.selector is not None and not item.conditioning_frames:
                item.selector = InitialFrameSelector(self._rules)

    def step(self, frame: int, features: ImageFeatures, rows: Sequence[int] | None = None) -> Step:
        """Go on to a frame. ``features`` is one frame of ``network.encode_image``, batch axis kept.

        Without ``rows``, all objects that the pass can follow; it searches only forwards.
        """
        return self.start(frame, features, rows).step()

    def start(self, frame: int, features: ImageFeatures, rows: Sequence[int] | None = None) -> Started:
        """Begin to go on to a frame, as :meth:`step` does: ask for its step once the next frame is started.

        The network is busy then, while the host decides. Before anything else than to start the next frame is done with
        the session, ask for the step.
        """
        self.found_again.clear()
        rows = range(len(self._objects)) if rows is None else rows
        # Stages are settled before anything runs: an object found in this frame is tracked from the next one on.
        known = {row: self._objects[row].conditioning_frames for row in rows}
        kept = [row for row, frames in known.items() if frame in frames]
        tracking = [row for row, frames in known.items() if frames and frame not in frames]
        searching = [row for row, frames in known.items() if not frames and self._direction == 1]
        looking = self._finder is not None and self._direction == 1
        at_once = bool(kept or searching or looking or self._keep == "all")
        while self._started and (len(self._started) > 1 or at_once or self._started[0].decisive):
            self._started.popleft().step()

        parts: list[tuple[list[int], Step | Tracked]] = [(kept, self._keep_frame(frame, kept))] if kept else []
        if searching:
            parts.append((searching, self._search(frame, features, searching)))
        for part in (
            [row for row in tracking if row < self._worded],
            [row for row in tracking if row >= self._worded],
        ):
            if part:
                parts.append((part, self._track(frame, features, part)))
        started = Started(parts)
        if not at_once:
            started.come_after(self._started)
            self._started.append(started)
            return started

        step = started.step()
        if self._keep == "all":
            for row, result in zip(sorted(rows), zip(*step, strict=True), strict=True):
                if row in tracking:
                    self._objects[row].results[frame] = result
        if looking:
            step = self._look_again(frame, features, step, [row for row in tracking if row < self._worded], list(rows))
        # Only the search looks at earlier frames: once all objects are tracked, no more are kept.
        if searching or looking:
            self._earlier.appendleft(features.main)
        return Started([(sorted(rows), step)])

    def _keep_frame(self, frame: int, rows: list[int]) -> Step:
        """Conditioning frames stay as they are."""
        logits, states = zip(*(self._objects[row].results[frame] for row in rows), strict=True)
        for row in rows:
            self._objects[row].memory.keep(frame)
        return Step(torch.stack(logits), list(states))

    def _search(self, frame: int, features: ImageFeatures, rows: list[int]) -> Step:
        """Detect the objects in ``rows``, and start the memory of those whose conditioning frame is now settled."""
        prediction, numbers = self._detect(features, rows)
        found: dict[int, Candidate[Evidence]] = {}
        for k, (row, (score, iou)) in enumerate(zip(rows, numbers, strict=True)):
            selector = self._objects[row].selector
            assert selector is not None
            candidate = selector.observe(frame, score, iou, evidence_of(features, prediction, k, score))
            if candidate is not None:
                found[row] = candidate
        if found:
            self._start(found)
        objects = [
            ObjectState("detect", score, iou, (found[row].frame,) if row in found else (), (), ())
            for row, (score, iou) in zip(rows, numbers, strict=True)
        ]
        return Step(prediction.mask_logits, objects)

    def _detect(self, features: ImageFeatures, rows: list[int]) -> tuple[Prediction, list[tuple[float, float]]]:
        prompts = self._select(rows)
        assert prompts is not None
        prediction = self._network.detect(features, list(self._earlier), prompts)
        return prediction, finite(numbers_of(prediction), rows, "detection")

    def _look_again(self, frame: int, features: ImageFeatures, step: Step, tracked: list[int], rows: list[int]) -> Step:
        """Look for what tracking lost, and for what it says that it has again."""
        assert self._finder is not None
        at = {row: rows.index(row) for row in tracked}
        due = self._finder.due(frame, {row: step.objects[k].present for row, k in at.items()})
        if not due:
            return step
        prediction, numbers = self._detect(features, due)
        mask_logits, states = step.mask_logits.clone(), list(step.objects)
        for i, (row, (score, iou)) in enumerate(zip(due, numbers, strict=True)):
            k = at[row]
            evidence = evidence_of(features, prediction, i, score)
            since = self._finder.since(row)
            candidates = self._finder.observe(row, frame, score, iou, evidence)
            if candidates:
                again = self._found_again(row, since, candidates)
                self.found_again.append(again)
                mask_logits[k], states[k] = again.results[frame]
            elif states[k].present:
                both, either = overlap(mask_logits[k], prediction.mask_logits[i])
                if both >= self._finder.when.agreement * max(either, 1):
                    self._finder.found(row)
                else:  # something else that looks like it
                    mask_logits[k] = ABSENT_LOGIT
                    states[k] = replace(states[k], object_score=-abs(states[k].object_score))
                    self._objects[row].memory.forget([frame])
        return Step(mask_logits, states)

    def _found_again(self, row: int, since: int, candidates: list[Candidate[Evidence]]) -> FoundAgain:
        """Make the chosen frame a conditioning frame; the credible ones after it keep what the words found."""
        chosen = candidates[0]
        bank = self._objects[row].memory
        self._start({row: chosen})
        bank.forget(x.frame for x in candidates[1:])
        results = {
            x.frame: (
                x.evidence.mask_logits,
                ObjectState("detect", x.evidence.score, x.predicted_iou, bank.conditioning_frames, (), ()),
            )
            for x in candidates
        }
        return FoundAgain(row, since, results)

    def _start(self, found: Mapping[int, Candidate[Evidence]]) -> None:
        """Start the memory of objects with their conditioning frames.

        The chosen frame may lie before this one. The frames from there to here keep their detected masks and never
        become memories, as published.
        """
        main, mask_logits, object_score, pointers, scores = zip(*(x.evidence for x in found.values()), strict=True)
        features = self._network.memorize(torch.cat(main), torch.stack(mask_logits), torch.stack(object_score))
        for (row, candidate), logits, score in zip(found.items(), mask_logits, scores, strict=True):
            self._condition(row, candidate.frame)
            state = ObjectState("detect", score, candidate.predicted_iou, (candidate.frame,), (), ())
            self._objects[row].results[candidate.frame] = logits, state
        self._held().write({row: x.frame for row, x in found.items()}, features, torch.stack(pointers))

    def _condition(self, row: int, frame: int) -> None:
        item = self._objects[row]
        if item.bank is None:
            words = row < self._worded
            item.bank = MemoryBank(self._rules, frame, self._clip_length, long_term=words, keep=self._keep)
        else:
            item.bank.condition(frame)

    def _track(self, frame: int, features: ImageFeatures, rows: list[int]) -> Tracked:
        """Track the objects in ``rows``, and remember this frame for each of them."""
        memory = self._held()
        banks = {row: self._objects[row].memory for row in rows}
        recalls = [bank.recall(frame) for bank in banks.values()]
        table = memory.table(rows, recalls, frame)
        followed = self._network.follow(features, memory.buffers, table, self._select(rows))
        return Tracked(memory, banks, recalls, followed, frame, self._direction)

    def _held(self) -> Memory:
        if self._memory is None:
            self._memory = self._network.memory(len(self._objects), self._rules)
        return self._memory

    def _select(self, rows: list[int]) -> Prompts | None:
        """The prompts of these objects, all of which have words or none; the last selection is kept."""
        if self._prompts is None or rows[0] >= self._worded:
            return None
        if len(rows) == self._worded:
            return self._prompts
        if self._selected[0] != rows:
            self._selected = rows, self._prompts.select(to_device(rows, self._prompts.valid.device))
        return self._selected[1]
