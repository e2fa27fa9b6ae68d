"""What is written of a video: one small class per format, and a registry of them.

Add a format by writing a :class:`~resurgsam2_cli.outputs.base.Sink` and naming it in :data:`SINKS`.
"""

from resurgsam2_cli.outputs.base import Clip, FrameResult, ObjectResult, Sink
from resurgsam2_cli.outputs.coco import CocoJson
from resurgsam2_cli.outputs.frames import FramesJsonl
from resurgsam2_cli.outputs.overlay import OverlayVideo
from resurgsam2_cli.outputs.png import LabelPngs, ObjectPngs

SINKS: dict[str, type[Sink]] = {
    "frames": FramesJsonl,
    "png": LabelPngs,
    "object_png": ObjectPngs,
    "coco": CocoJson,
    "overlay": OverlayVideo,
}

__all__ = ["SINKS", "Clip", "FrameResult", "ObjectResult", "Sink"]
