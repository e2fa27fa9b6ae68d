"""An interaction function for CVAT: clicks and a box in one image make a mask.

docs/cvat.md has the commands.
"""

from __future__ import annotations

from typing import Any

import cvat_sdk.auto_annotation as cvat
import torch
from cvat_sdk import models
from PIL import Image

from model.states import finite, numbers_of
from resurgsam2_cli.cvat.serving import Picture, Served, clicks_on, confidence, for_cvat, on_device, served
from resurgsam2_cli.cvat.shapes import box_inside, mask_points


@for_cvat
def create(
    weights: str = "auto", device: str = "auto", precision: str = "auto", min_part: int = 0, fill_holes: int = 0
) -> Interaction:
    """The function that ``cvat-cli`` serves; its parameters are as the options of these names.

    Raises :class:`~resurgsam2_cli.cvat.serving.FunctionProblem`.
    """
    return Interaction(served(weights, "", device, precision, (min_part, fill_holes), words=False))


class Interaction:
    """Makes a mask of what is pointed at: an ``InteractionFunction`` of ``cvat_sdk``.

    One click suffices, and so does a box; more clicks, on the object and beside it, make it clearer. Each call looks at
    all of them anew, as CVAT sends them.
    """

    def __init__(self, network: Served) -> None:
        self._network = network
        # No single kind is needed: a box alone suffices. Without a click on the object and a box, nothing is found.
        self.spec = cvat.InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)

    def preprocess_image(self, context: Any, image: Image.Image) -> Picture:
        """Encode an image. The agent keeps it for ten minutes, so it lies in the memory of the host."""
        picture = self._network.picture(image)
        with self._network.network():
            return picture._replace(features=on_device(picture.features, torch.device("cpu")))

    def detect(self, context: Any, pp_image: Picture, prompts: Any) -> list[Any]:
        """The mask of what is pointed at, with its confidence (:func:`~.serving.confidence`); none if nothing is there.

        Raises :class:`~.serving.FunctionProblem` for a box that is outside of the picture.
        """
        network, engine = self._network, self._network.engine
        if not prompts.pos_points and prompts.bounding_box is None:
            return []
        with network.network():
            box = None
            if prompts.bounding_box is not None:
                corners = [x for corner in prompts.bounding_box for x in corner]
                box = box_inside(corners, pp_image.height, pp_image.width)
            clicks = clicks_on(pp_image, engine.device, box, prompts.pos_points, prompts.neg_points)
            found = engine.executor.point(on_device(pp_image.features, engine.device), clicks)
            ((score, iou),) = finite(numbers_of(found), [0], "pointing")
            mask = network.mask(pp_image, found.mask_logits[0])
        if not mask.any():
            return []
        sure = models.AttributeValRequest(
            spec_id=int(cvat.InteractionResultAttributes.CONFIDENCE), value=f"{confidence(score, iou):.4f}"
        )
        return [cvat.InteractionResultShape(type="mask", points=mask_points(mask), attributes=[sure])]
