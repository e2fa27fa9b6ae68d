"""A tracking function for CVAT: a shape that a person drew, followed from frame to frame.

docs/cvat.md has the commands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cvat_sdk.auto_annotation as cvat
from PIL import Image

from model.preprocess import given_masks
from model.session import Session
from resurgsam2_cli.cvat.serving import Picture, Served, clicks_on, for_cvat, served
from resurgsam2_cli.cvat.shapes import box_inside, box_of, shape_mask, shape_points


@for_cvat
def create(
    weights: str = "auto", device: str = "auto", precision: str = "auto", min_part: int = 0, fill_holes: int = 0
) -> Tracking:
    """The function that ``cvat-cli`` serves; its parameters are as the options of these names.

    Raises :class:`~resurgsam2_cli.cvat.serving.FunctionProblem`.
    """
    return Tracking(served(weights, "", device, precision, (min_part, fill_holes), words=False))


@dataclass
class TrackedObject:
    """One object that is followed. It shares nothing with others, and takes as much memory after any number of frames.

    That is the memory of 25 frames: 3.3 MiB with a network of 512 x 512 pixels. CVAT's agent keeps it for eight hours
    after its last use.
    """

    session: Session
    frame: int = 0
    """The last frame, counted from that of the shape: CVAT gives images in order, without their numbers."""


class Tracking:
    """Follows shapes: a ``TrackingFunction`` of ``cvat_sdk``.

    A mask and a polygon are taken as they are, and a rectangle is a box around what is meant. Each is followed as an
    object that a person pointed at in one frame, by the rules of ``resurgsam2 segment --mark``, forwards.
    """

    def __init__(self, network: Served) -> None:
        self._network = network
        self.spec = cvat.TrackingFunctionSpec(supported_shape_types={"mask", "polygon", "rectangle"})

    def preprocess_image(self, context: Any, image: Image.Image) -> Picture:
        """Encode an image, once for all shapes in it."""
        return self._network.picture(image)

    def init_tracking_state(self, context: Any, pp_image: Picture, shape: Any) -> TrackedObject:
        """Take a shape for an object. Raises :class:`~.serving.FunctionProblem` for one without any pixels."""
        network, (height, width, features) = self._network, pp_image
        engine = network.engine
        with network.network():
            session = Session(engine.executor, None, network.rules, keep="pass")
            row = session.add()
            if shape.type == "rectangle":
                box = box_inside(shape.points, height, width)
            else:
                mask = shape_mask(shape.type, shape.points, height, width)
                given = given_masks(mask[None], engine.config, engine.device)[0]
                box = box_of(mask)
            # What is smaller than a pixel of the network is no mask there: then the box around it says where it is.
            if shape.type != "rectangle" and bool(given.any()):
                session.adopt(row, 0, features, given)
            else:
                session.point(row, 0, features, clicks_on(pp_image, engine.device, box))
            session.begin()
        return TrackedObject(session)

    def track(self, context: Any, pp_image: Picture, state: TrackedObject) -> Any:
        """The shape in the next frame, of the type that was drawn; None if the object is not there."""
        network = self._network
        with network.network():
            state.frame += 1
            found = state.session.step(state.frame, pp_image.features)
            mask = network.mask(pp_image, found.mask_logits[0])
        if not mask.any():
            return None
        kind = context.original_shape_type
        return cvat.TrackableShape(type=kind, points=shape_points(kind, mask))
