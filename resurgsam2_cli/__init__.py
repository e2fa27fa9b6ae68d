"""The command line of ReSurgSAM2: video and text in, masks out. In Python: :func:`segment_video`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resurgsam2_cli.api import segment_video

__version__ = "0.1.0"
__all__ = ["__version__", "segment_video"]


def __getattr__(name: str) -> Any:
    if name == "segment_video":  # imported late: it brings torch, which takes seconds
        from resurgsam2_cli.api import segment_video

        return segment_video
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
