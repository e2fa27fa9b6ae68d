"""Finished runs in other formats: one small class per format, and a registry of them.

Add a format by writing an :class:`~resurgsam2_cli.exports.base.Exporter` and naming it in :data:`EXPORTERS`. Nothing
here needs the model, or torch.
"""

from resurgsam2_cli.exports.base import Exporter, ExportOptions
from resurgsam2_cli.exports.coco import CocoExport
from resurgsam2_cli.exports.cvat import CvatExport
from resurgsam2_cli.exports.label_images import DavisExport, SavExport
from resurgsam2_cli.exports.label_studio import LabelStudioExport
from resurgsam2_cli.exports.overlay import OverlayExport
from resurgsam2_cli.exports.yolo import YoloExport
from resurgsam2_cli.exports.youtube_vis import YouTubeVisExport

EXPORTERS: dict[str, type[Exporter]] = {
    "coco": CocoExport,
    "youtube-vis": YouTubeVisExport,
    "davis": DavisExport,
    "sav": SavExport,
    "yolo-seg": YoloExport,
    "cvat": CvatExport,
    "label-studio": LabelStudioExport,
    "overlay": OverlayExport,
}

__all__ = ["EXPORTERS", "ExportOptions", "Exporter"]
