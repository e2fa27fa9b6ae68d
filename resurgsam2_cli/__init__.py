"""The command line of ReSurgSAM2: video and text in, masks out.

In Python: :func:`segment_video` for whole videos, :func:`segment_frames` for frames as they come, :func:`open_run` to
read what was written, :class:`VideoSession` to point, look and correct, and :func:`build_engine` for several of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resurgsam2_cli.api import (
        VideoSession,
        build_engine,
        open_run,
        open_source,
        parse_mark,
        segment_frames,
        segment_video,
    )

__version__ = "0.1.0"
__all__ = [
    "VideoSession",
    "__version__",
    "build_engine",
    "open_run",
    "open_source",
    "parse_mark",
    "segment_frames",
    "segment_video",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Imported late: they bring torch, which takes seconds, and reads some settings as it starts.
    from resurgsam2_cli.process.tuning import prepare_environment

    prepare_environment()
    from resurgsam2_cli import api

    return getattr(api, name)
