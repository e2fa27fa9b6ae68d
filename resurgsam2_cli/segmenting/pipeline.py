"""One video from source to outputs: frames, features, predictions, outputs; data flows one way.

Reading, the network, and what is made of its masks each have a thread; with a GPU, so does the image encoder, and the
outputs have a process of their own.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace

import torch

from model import ImageFeatures, Rules, Segmenter
from model.initial_frame import presence
from model.precision import exact_products
from model.segmenter import ObjectState
from model.started import Started
from model.streams import Handed
from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.atomic import write_json, writing
from resurgsam2_cli.outputs import Clip, ObjectResult
from resurgsam2_cli.outputs.base import Searched
from resurgsam2_cli.process.threads import ahead
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.runs.folder import RunFolder
from resurgsam2_cli.runs.record import MARKS, RECORD
from resurgsam2_cli.segmenting.engine import Engine, device_errors
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.placing import marks_record
from resurgsam2_cli.segmenting.reading import Read, encode_prompts, encoded, first_frames, read, read_ahead
from resurgsam2_cli.segmenting.rendering import Prediction
from resurgsam2_cli.segmenting.session import VideoSession
from resurgsam2_cli.segmenting.summary import Summary, Undertaking
from resurgsam2_cli.segmenting.timing import Timing, forget_peak
from resurgsam2_cli.segmenting.writing import Outputs, Watcher
from resurgsam2_cli.video.frames import Frame
from resurgsam2_cli.video.source import Source


def segment(
    engine: Engine,
    source: Source,
    prompts: tuple[Prompt, ...],
    options: SegmentOptions,
    folder: RunFolder,
    watch: Watcher,
    passing: Watcher = lambda result: None,
) -> Summary:
    """Segment one video into ``folder``, which is complete afterwards or was never there.

    ``watch`` is called with each frame as it is written. If that has to wait for all passes, ``passing`` is called
    with each frame of these, without masks. Raises a :class:`~resurgsam2_cli.errors.UserError`. If a video breaks off,
    the frames decoded before that are kept in a folder beside, whose name ends in ``.partial``.
    """
    forget_peak(engine.device)
    engine.executor.begin()
    run = Undertaking(engine, source, prompts, options, Timing())
    # Held throughout: to set it and set it back with each frame takes longer than all else that its contexts do.
    with exact_products(), _passes(run, folder, passing) as session:
        return _written(run, folder, watch, session)


def _write_marks(run: Undertaking, folder: RunFolder) -> bool:
    """Keep what a person pointed at."""
    marks = run.options.marks
    if marks:
        write_json(folder.partial / MARKS, marks_record(marks, run.prompts))
    return bool(marks)


@contextmanager
def _passes(run: Undertaking, folder: RunFolder, passing: Watcher) -> Iterator[VideoSession | None]:
    """All passes over the video, if one forwards is not enough."""
    options = run.options
    if not options.in_passes:
        yield None
        return

    with (
        writing(folder.partial),
        VideoSession(run.engine, run.source, run.prompts, options, "both", folder.partial, run.timing) as session,
    ):
        if options.marks:
            session.prompt(options.marks)
        with suppress(InputError):  # of a video that breaks off: the writing will say so
            session.run(options.direction, watch=passing)
        yield session


def _written(run: Undertaking, folder: RunFolder, watch: Watcher, session: VideoSession | None) -> Summary:
    """Write the outputs, of what is predicted now or was in ``session``."""
    engine, source, options = run.engine, run.source, run.options
    with ahead(read(engine, source, options.part, run.timing), read_ahead(engine), source.interrupt) as frames:
        clip, clip_length, frames = _look_ahead(run, folder.path.name, frames)
        with (
            writing(folder.partial),
            Outputs(folder.partial, clip, engine, options, run.timing, folder.lock_file) as outputs,
            closing(
                predict(run, frames, clip_length) if session is None else stored(run, frames, session)
            ) as predictions,
        ):
            try:
                for prediction in predictions:
                    outputs.put(prediction, watch)
                outputs.finish(watch)
            except InputError as error:
                raise _broken_off(error, run, clip, outputs, folder, watch) from error
            record = run.record(clip, outputs.tally, outputs.sums, complete=True)
            files = [*outputs.files, RECORD]
            if _write_marks(run, folder):
                files.insert(0, MARKS)
            if session is not None:
                session.close()
            folder.complete(record)
    return Summary(folder.path, [folder.path / name for name in files], record)


def _broken_off(
    error: InputError, run: Undertaking, clip: Clip, outputs: Outputs, folder: RunFolder, watch: Watcher
) -> InputError:
    """Keep what there is of a video that breaks off; return the error that says where."""
    outputs.finish(watch)
    count = outputs.tally.frames
    if not count:
        return error
    _write_marks(run, folder)
    folder.keep(run.record(clip, outputs.tally, outputs.sums, complete=False))
    masks = "the mask of 1 frame is" if count == 1 else f"the masks of {count} frames are"
    return InputError(error.message, f"{masks} kept in {folder.partial}; {error.hint}")


def _look_ahead(run: Undertaking, name: str, frames: Iterator[Read]) -> tuple[Clip, int | None, Iterator[Read]]:
    """What the outputs must know before the first frame, the length of a short clip, and all frames.

    Only clips shorter than the pointer memory need their length known: see :mod:`model.memory_bank`.
    """
    longest = run.options.rules.pointers
    head, rest = first_frames(frames, longest)
    clip_length = len(head) if len(head) < longest else None
    clip = clip_of(name, run.source, head[0].frame, run.prompts, run.options)
    return replace(clip, demo_weights=run.engine.is_demo), clip_length, itertools.chain(head, rest)


def clip_of(name: str, source: Source, first: Frame, prompts: tuple[Prompt, ...], options: SegmentOptions) -> Clip:
    """What the outputs must know of a video, given its first wanted frame."""
    part = options.part
    return Clip(
        name=name,
        height=first.rgb.shape[0],
        width=first.rgb.shape[1],
        rate=source.rate / part.stride,
        start=first.time,
        length=part.duration(first.time, source.rate),
        audio=source.audio if options.overlay else None,
        pixel_aspect=source.pixel_aspect,
        prompts=prompts,
        legend=options.legend,
    )


def predict(run: Undertaking, frames: Iterator[Read], clip_length: int | None) -> Generator[Prediction, None, None]:
    """Turn frames into mask logits. ``clip_length`` is the number of frames if it is known to be small."""
    engine, timing = run.engine, run.timing
    with device_errors(), encoded(engine, frames, timing, run.source.interrupt) as ready:
        yield from followed(engine, run.prompts, run.options.rules, ready, clip_length, timing)


def followed(
    engine: Engine,
    prompts: tuple[Prompt, ...],
    rules: Rules,
    ready: Iterator[tuple[Frame, ImageFeatures]],
    clip_length: int | None,
    timing: Timing,
) -> Generator[Prediction, None, None]:
    """Search for objects, and track them, in frames that are encoded."""
    named = _Named(rules)
    begun: deque[tuple[Frame, Started, Handed[torch.Tensor]]] = deque()
    broken: InputError | None = None

    def oldest() -> Prediction:
        frame, started, mask_logits = begun.popleft()
        return Prediction(frame, mask_logits, named.results(frame, started.step().objects))

    with engine.context(), timing.measure("text"):
        segmenter = Segmenter(engine.executor, encode_prompts(engine, prompts), rules, clip_length)
    try:
        for frame, features in ready:
            with engine.context(), timing.measure("segment", device=engine.device):
                started = segmenter.start(features)
                begun.append((frame, started, Handed(started.mask_logits)))
                if engine.starts_ahead and len(begun) == 1:
                    continue
                prediction = oldest()
            yield prediction
    except InputError as error:  # of the source, which comes after its last frame
        broken = error
    if begun:
        with engine.context():
            prediction = oldest()
        yield prediction
    if broken is not None:
        raise broken


def stored(run: Undertaking, frames: Iterator[Read], session: VideoSession) -> Generator[Prediction, None, None]:
    """Turn frames into the mask logits that passes over the video gave."""
    for step, x in enumerate(frames):
        mask_logits, found = session.results(step)
        states = [y.state for y in found]
        results = object_results(states, {n: session.source_frame(n) for s in states for n in _frames_named(s)})
        results = [
            result
            if y.search is None
            else replace(result, search=Searched(y.search.present, y.search.object_score, y.search.predicted_iou))
            for result, y in zip(results, found, strict=True)
        ]
        with device_errors():
            handed = Handed(mask_logits.to(run.engine.device))
        yield Prediction(x.frame, handed, results, session.given(step))


def object_results(states: list[ObjectState], numbers: Mapping[int, int]) -> list[ObjectResult]:
    """What the segmenter says about each object, with the ``numbers`` that its steps have in the source."""
    return [
        ObjectResult(
            id=i,
            stage=state.stage,
            present=state.present,
            object_score=state.object_score,
            predicted_iou=state.predicted_iou,
            presence=presence(state.object_score),
            conditioning_frames=tuple(numbers[x] for x in state.conditioning_frames),
            long_term_frames=tuple(numbers[x] for x in state.long_term_frames),
            direction=state.direction,
        )
        for i, state in enumerate(states, start=1)
    ]


def _frames_named(state: ObjectState) -> tuple[int, ...]:
    return (*state.conditioning_frames, *state.long_term_frames)


class _Named:
    """The numbers in the source of the frames that results name: those that a later one may still name."""

    def __init__(self, rules: Rules) -> None:
        self._rules, self._numbers = rules, dict[int, int]()
        self._steps = itertools.count()

    def results(self, frame: Frame, states: list[ObjectState]) -> list[ObjectResult]:
        """What is said of the next frame."""
        step = next(self._steps)
        self._numbers[step] = frame.number
        results = object_results(states, self._numbers)
        keep = {x for s in states for x in (*_frames_named(s), *s.long_term_candidates)}
        keep.update(range(step - self._rules.window, step + 1))
        for old in self._numbers.keys() - keep:
            del self._numbers[old]
        return results
