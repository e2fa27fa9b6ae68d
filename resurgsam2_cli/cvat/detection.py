"""A detection function for CVAT: what is named in words, in each image by itself.

docs/cvat.md has the commands.

An image is searched as the first frame of a video would be: CSTMamba has no earlier frame to look at, CIFS does not
wait for a credible one, and nothing is tracked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cvat_sdk.auto_annotation as cvat
from PIL import Image

from model.states import finite, numbers_of
from resurgsam2_cli.cvat.serving import Served, confidence, for_cvat, logger, served
from resurgsam2_cli.cvat.shapes import mask_points, polygon_points
from resurgsam2_cli.errors import UsageError, weights_errors
from resurgsam2_cli.prompts.files import read_prompts
from resurgsam2_cli.prompts.prompt import Prompt, check_different, checked, parse_prompts
from resurgsam2_cli.prompts.wording import wording_notes
from resurgsam2_cli.segmenting.reading import encode_prompts
from weights.store import vocabulary_of

_LONGEST_LABEL = 64
"""Characters that CVAT allows."""


@for_cvat
def create(
    text: str = "",
    prompts: str = "",
    weights: str = "auto",
    clip_weights: str = "",
    device: str = "auto",
    precision: str = "auto",
    min_part: int = 0,
    fill_holes: int = 0,
) -> Detection:
    """The function that ``cvat-cli`` serves.

    ``text`` is ``words`` or ``words=label``, as ``--text`` takes it; several are separated by ``;``. ``prompts`` is a
    prompt file: all that it has is searched for, of whatever video. Without a label, the words are the label. All else
    is as the options of these names. Raises :class:`~resurgsam2_cli.cvat.serving.FunctionProblem`.
    """
    wanted = _wanted(text, prompts)
    network = served(weights, clip_weights, device, precision, (min_part, fill_holes), words=True)
    found = network.engine.weights
    with weights_errors():
        notes = wording_notes(vocabulary_of(found.name, found.path), found.name, [x.text for x in wanted])
    for line in notes:
        logger.warning(line)
    return Detection(network, wanted)


def _wanted(text: str, file: str) -> tuple[Prompt, ...]:
    """The prompts, in order. Raises a :class:`~resurgsam2_cli.errors.UserError`."""
    if not text.strip(" ;") and not file:
        raise UsageError("there is nothing to look for", 'write -p text="str:left grasper=grasper; kidney"')
    wanted = parse_prompts([x for x in text.split(";") if x.strip()]) if text.strip(" ;") else ()
    if file:
        listed = tuple(dict.fromkeys(x for _, x in read_prompts(Path(file)).rows))
        check_different(listed, wanted)
        wanted = checked((*wanted, *listed))
    for x in wanted:
        if len(x.label) > _LONGEST_LABEL:
            raise UsageError(
                f"the label {x.label!r} has more than {_LONGEST_LABEL} characters, which CVAT does not allow",
                "give the words a short label: text=label",
            )
    return wanted


class Detection:
    """Searches images for words: a ``DetectionFunction`` of ``cvat_sdk``.

    Prompts with one label give as many shapes of that label. Without a threshold, all are returned that the network
    takes for present. A threshold is compared with the probability that the object is there times the predicted IoU
    of its mask, the two numbers by which CIFS judges how credible a frame is. An object that the network takes for
    absent has no mask, and is returned with no threshold.
    """

    def __init__(self, network: Served, prompts: Sequence[Prompt]) -> None:
        self._network = network
        labels = list(dict.fromkeys(x.label for x in prompts))
        self._labels = [labels.index(x.label) for x in prompts]
        self.spec = cvat.DetectionFunctionSpec(
            labels=[cvat.label_spec(name, i, type="mask") for i, name in enumerate(labels)]
        )
        """One label of the type "mask" for each label of the prompts."""
        with network.network():
            self._prompts = encode_prompts(network.engine, tuple(prompts))

    def detect(self, context: Any, image: Image.Image) -> list[Any]:
        """The shapes of an image: masks, or if ``context.conv_mask_to_poly`` says so, a polygon for each part of one.

        The polygons of one object have a group if they are several.
        """
        network, picture = self._network, self._network.picture(image)
        least = context.conf_threshold or 0.0
        shapes = []
        with network.network():
            found = network.engine.executor.detect(picture.features, [], self._prompts)
            numbers = finite(numbers_of(found), list(range(len(self._labels))), "detection")
            for row, (score, iou) in enumerate(numbers):
                if score <= 0 or confidence(score, iou) < least:
                    continue
                mask = network.mask(picture, found.mask_logits[row])
                if not mask.any():
                    continue
                if context.conv_mask_to_poly:
                    rings = polygon_points(mask)
                    group = {"group": row + 1} if len(rings) > 1 else {}
                    shapes += [cvat.polygon(self._labels[row], x, **group) for x in rings]
                else:
                    shapes.append(cvat.mask(self._labels[row], mask_points(mask)))
        return shapes
