"""Which sentences find something: detection alone, in a few frames spread over a video."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from PIL import Image

from model import Rules
from model.initial_frame import is_credible, presence
from model.preprocess import masks_of
from model.states import finite, numbers_of
from resurgsam2_cli.errors import InputError
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.segmenting.engine import Engine, device_errors
from resurgsam2_cli.segmenting.reading import encode_prompts, network_image
from resurgsam2_cli.video.frames import Frame
from resurgsam2_cli.video.positions import Part, Position
from resurgsam2_cli.video.source import Source

_AHEAD = 48
"""Up to so many frames are decoded on the way to the next wanted one; a farther one is looked for in the file."""


@dataclass(frozen=True)
class Detection:
    """What the network says of one sentence in one frame."""

    present: bool
    credible: bool
    """Whether the object is present, and CIFS would count the frame."""
    presence: float
    """The probability that the object is there."""
    predicted_iou: float
    packed: bytes
    """The mask in the size of the frame's picture, a bit a pixel."""


@dataclass(frozen=True)
class Probed:
    """A frame that was searched."""

    number: int
    name: str
    time: Fraction
    picture: np.ndarray
    """(height, width, 3) uint8: small, in the shape in which the frame is displayed."""

    def mask(self, detection: Detection) -> np.ndarray:
        """The mask of a detection in this frame, (height, width) bool."""
        height, width = self.picture.shape[:2]
        bits = np.frombuffer(detection.packed, np.uint8)
        return np.unpackbits(bits, count=height * width).reshape(height, width).astype(bool)


@dataclass(frozen=True)
class Wording:
    """A sentence, and what it finds in each frame that was searched."""

    text: str
    detections: tuple[Detection, ...]

    @cached_property
    def credible(self) -> int:
        """In how many frames it finds something credible."""
        return sum(x.credible for x in self.detections)

    @cached_property
    def present(self) -> int:
        """In how many frames it finds something."""
        return sum(x.present for x in self.detections)

    @cached_property
    def mean_presence(self) -> float:
        """Over all frames."""
        return float(np.mean([x.presence for x in self.detections]))

    @cached_property
    def mean_iou(self) -> float | None:
        """The mean predicted IoU over the frames in which it finds something: elsewhere there is no mask."""
        found = [x.predicted_iou for x in self.detections if x.present]
        return float(np.mean(found)) if found else None

    @property
    def rank(self) -> tuple[float, float, float]:
        """The less, the better."""
        return -self.credible, -self.mean_presence, -(self.mean_iou or 0.0)


@dataclass(frozen=True)
class Probe:
    """What sentences find in some frames of a video."""

    frames: list[Probed]
    wordings: list[Wording]
    """The best first."""
    rules: Rules
    """Those of the release, by which a frame is credible."""
    notes: list[str]
    """What the user should know of the video."""


def probe(engine: Engine, source: Source, texts: Sequence[str], count: int, width: int) -> Probe:
    """Search ``count`` frames, spread evenly over a video, for each text; pictures are ``width`` pixels wide.

    Each frame is detected as a run detects it: with the frames just before it, as CSTMamba sees them. They cost little,
    as the decoder comes by on its way from a key frame, and nothing but the image encoder looks at them. Nothing is
    tracked. A video with fewer frames is searched in each of them. If it breaks off, the frames before that count, and
    a note says so. Raises a :class:`~resurgsam2_cli.errors.UserError`.
    """
    rules = Rules(**engine.weights.rules)
    frames: list[Probed] = []
    found: list[list[Detection]] = []
    notes: list[str] = []
    engine.executor.begin()
    with device_errors(), engine.context():
        prompts = encode_prompts(engine, tuple(Prompt(x, x) for x in texts))
        with closing(_windows(source, count, rules.context)) as windows:
            while True:
                try:
                    window = next(windows, None)
                except InputError as error:
                    if not frames:
                        raise
                    notes.append(error.message)
                    break
                if window is None:
                    break
                frames.append(_probed(window[-1], width, source.pixel_aspect))
                features = engine.executor.encode([network_image(engine, x) for x in window])
                *before, last = (features.frame(i) for i in range(len(window)))
                prediction = engine.executor.detect(last, [x.main for x in reversed(before)], prompts)
                numbers = finite(numbers_of(prediction), list(range(len(texts))), "detection")
                masks = masks_of(prediction.mask_logits, *frames[-1].picture.shape[:2])
                found.append([_detection(rules, *x, mask) for x, mask in zip(numbers, masks, strict=True)])
    if not frames:
        raise InputError(f"{source.path}: no frame could be read", "check that it plays elsewhere")
    wordings = [Wording(text, tuple(x[row] for x in found)) for row, text in enumerate(texts)]
    return Probe(frames, sorted(wordings, key=lambda x: x.rank), rules, [*source.warnings, *notes])


def _detection(rules: Rules, object_score: float, predicted_iou: float, mask: np.ndarray) -> Detection:
    present = object_score > 0
    credible = present and is_credible(rules, object_score, predicted_iou)
    return Detection(present, credible, presence(object_score), predicted_iou, np.packbits(mask).tobytes())


def _probed(frame: Frame, width: int, pixel_aspect: Fraction) -> Probed:
    rows, columns = frame.rgb.shape[:2]
    height = max(1, round(width * rows / (columns * pixel_aspect)))
    picture = Image.fromarray(frame.rgb).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return Probed(frame.number, frame.name, frame.time, np.array(picture))


def spread(count: int, total: int) -> list[int]:
    """The numbers of up to ``count`` of ``total`` frames: the middle ones of equal parts."""
    count = min(count, total)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def _windows(source: Source, count: int, before: int) -> Generator[list[Frame], None, None]:
    """Each wanted frame, behind up to ``before`` frames that come before it. Raises :class:`InputError`.

    Where frames can only be reached by decoding all before them, that is done once, and not once for each frame.
    """
    reach = source.within_reach()
    total = reach or source.expected(Part()) or _counted(source)
    frames: Generator[Frame, None, None] | None = None
    recent: deque[Frame] = deque(maxlen=before + 1)
    following = 0
    try:
        for number in spread(count, total):
            first = max(0, number - before)
            if frames is None or (reach and first > following + _AHEAD):
                if frames is not None:
                    frames.close()
                frames = source.frames(Part(Position(frame=first if reach else 0)))
                recent.clear()
            while not recent or recent[-1].number < number:
                frame = next(frames, None)
                if frame is None:
                    return
                recent.append(frame)
            following = number + 1
            yield list(recent)
    finally:
        if frames is not None:
            frames.close()


def _counted(source: Source) -> int:
    """How many frames there are, by decoding them all: some streams do not know their length."""
    return sum(1 for _ in source.frames(Part()))
