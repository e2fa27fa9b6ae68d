"""What the functions share: parameters that are checked, a network, pictures that it has seen, and masks of them."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar, get_type_hints

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model import ImageFeatures, Rules
from model.initial_frame import presence
from model.preprocess import masks_of
from model.prompt_tokens import BOTTOM_RIGHT, NEGATIVE, POSITIVE, TOP_LEFT, Clicks
from model.room import computes
from resurgsam2_cli.cvat.shapes import Box
from resurgsam2_cli.errors import InputError, UsageError, UserError, weights_errors
from resurgsam2_cli.files.text import did_you_mean, shown
from resurgsam2_cli.outputs.cleaning import Cleaning
from resurgsam2_cli.segmenting.engine import Engine, build_engine, device_errors
from resurgsam2_cli.video.images import colours
from weights.store import resolve

try:
    from cvat_cli._internal.common import CriticalError
except ImportError:  # a program uses the functions with cvat_sdk alone
    CriticalError = Exception

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("resurgsam2_cli.cvat")
"""Its warnings are lines on standard error, also in the agent's worker process."""

_KINDS = {str: ("text", "str"), int: ("whole number", "int")}
"""Of parameters: what they are, and how ``-p`` calls that."""


class FunctionProblem(UserError, CriticalError):  # type: ignore[misc]
    """A problem of the user that ``cvat-cli`` prints as one line, rather than as a traceback."""

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


@contextmanager
def _as_problems() -> Iterator[None]:
    try:
        yield
    except FunctionProblem:
        raise
    except UserError as error:
        raise FunctionProblem(error.message, error.hint) from error


def for_cvat(create: Callable[P, T]) -> Callable[P, T]:
    """Check the parameters of a function's ``create``, and raise :class:`FunctionProblem` for what a user can mend."""

    @wraps(create)
    def created(*args: P.args, **kwargs: P.kwargs) -> T:
        with _as_problems():
            _check(create, kwargs)
            return create(*args, **kwargs)

    return created


def _check(create: Callable[..., object], parameters: dict[str, object]) -> None:
    """Raise :class:`UsageError` for a parameter that is unknown, or not of its type."""
    known = {name: kind for name, kind in get_type_hints(create).items() if name != "return"}
    for name, value in parameters.items():
        if name not in known:
            raise UsageError(
                f"-p {name}: there is no such parameter", f"{did_you_mean(name, known)}it takes {', '.join(known)}"
            )
        if type(value) is not known[name]:
            what, called = _KINDS[known[name]]
            raise UsageError(f"-p {name}: {shown(value)} is not a {what}", f"write -p {name}={called}:VALUE")


class Picture(NamedTuple):
    """An image that the network has seen. It depends on no object, and holds no pixels."""

    height: int
    width: int
    features: ImageFeatures


@dataclass(frozen=True)
class Served:
    """A network that serves a function."""

    engine: Engine
    cleaning: Cleaning

    @property
    def rules(self) -> Rules:
        """Those of the release."""
        return Rules(**self.engine.weights.rules)

    @contextmanager
    def network(self) -> Iterator[None]:
        """Use the network in this block. Errors of users, and what a device lacks, become :class:`FunctionProblem`.

        An agent's process ends if its device has failed for good: the agent starts another one in place of it.
        """
        try:
            with _as_problems(), device_errors(), self.engine.context():
                yield
        except FunctionProblem as problem:
            if multiprocessing.parent_process() is not None and not computes(self.engine.device):
                logger.error(f"{problem.message}: this process ends, for another one to take its place")
                os._exit(1)
            raise

    def picture(self, image: Image.Image) -> Picture:
        """Encode an image of any size and mode. Raises :class:`FunctionProblem` for one whose pixels have no range."""
        with self.network():
            try:
                rgb = colours(image)
            except ValueError as error:
                raise InputError(f"an image of CVAT: {error}", "use pictures of 8 or 16 bits") from error
            self.engine.executor.begin()
            height, width, _ = rgb.shape
            return Picture(height, width, self.engine.executor.encode([rgb]))

    def mask(self, picture: Picture, mask_logits: Tensor) -> np.ndarray:
        """The mask (height, width) bool of logits (size / 4, size / 4), in the size of the image, cleaned if asked."""
        return self.cleaning.masks(masks_of(mask_logits[None], picture.height, picture.width))[0]


def served(
    weights: str, clip_weights: str, device: str, precision: str, cleaning: tuple[int, int], *, words: bool
) -> Served:
    """Load a network as the commands do; ``cleaning`` is ``min_part`` and ``fill_holes``.

    Without ``words`` it must be one that can be pointed at. What the user should know is logged. Raises a
    :class:`~resurgsam2_cli.errors.UserError`.
    """
    if min(cleaning) < 0:
        raise UsageError("min_part and fill_holes are numbers of pixels", "write 0 or more")
    with weights_errors():
        found = resolve(weights, Path(clip_weights) if clip_weights else None)
    engine = build_engine(weights, None, device, precision, words=words, found=found)
    if words and not engine.config.words:
        raise UsageError(
            f"{engine.weights.name} knows no words",
            "use other weights (resurgsam2 weights list); .interaction and .tracking need no words",
        )
    if not words:
        engine.check_pointing("use other weights (resurgsam2 weights list)")
    for line in engine.warnings:
        logger.warning(line)
    return Served(engine, Cleaning(*cleaning))


def confidence(object_score: float, predicted_iou: float) -> float:
    """How sure the network is of a mask, 0 to 1: the probability that the object is there, times the predicted IoU."""
    return presence(object_score) * min(max(predicted_iou, 0.0), 1.0)


def clicks_on(
    picture: Picture,
    device: torch.device,
    box: Box | None,
    on: Sequence[tuple[float, float]] = (),
    beside: Sequence[tuple[float, float]] = (),
) -> Clicks:
    """A box, clicks on an object and clicks beside it, in pixels of the image; a click outside counts at its edge."""
    corners = [] if box is None else [box[:2], box[2:]]
    labels = [*[TOP_LEFT, BOTTOM_RIGHT][: len(corners)], *[POSITIVE] * len(on), *[NEGATIVE] * len(beside)]
    clicks = Clicks.at([*corners, *on, *beside], labels, picture.width, picture.height, device)
    return clicks._replace(points=clicks.points.clamp(0, 1))


def on_device(features: ImageFeatures, device: torch.device) -> ImageFeatures:
    """Features on a device; those that are there are not copied."""
    return ImageFeatures(*(x.to(device) for x in features))
