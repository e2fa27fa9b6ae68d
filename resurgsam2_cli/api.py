"""The command line's main job as a function, for notebooks and pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path

from resurgsam2_cli.engine import Engine, build_engine
from resurgsam2_cli.pipeline import SegmentOptions, Summary, Watcher, segment
from resurgsam2_cli.prompts import parse_prompts
from resurgsam2_cli.run_folder import RunFolder
from resurgsam2_cli.video.source import open_source, source_path


def segment_video(
    source: str | PathLike[str],
    prompts: Sequence[str],
    out: str | PathLike[str] = "runs",
    *,
    engine: Engine | None = None,
    options: SegmentOptions | None = None,
    overwrite: bool = False,
    watch: Watcher = lambda result: None,
) -> Summary:
    """Segment a video file or a folder of images, as ``resurgsam2 segment`` does; gives its folder, files and record.

    ``prompts`` are texts, or ``text=label``. For several videos, build the ``engine`` once, with
    :func:`~resurgsam2_cli.engine.build_engine`. ``watch`` is shown each frame with its masks, as a
    :class:`~resurgsam2_cli.outputs.FrameResult`. Raises a :class:`~resurgsam2_cli.errors.UserError`.
    """
    asked = parse_prompts(list(prompts))
    with open_source(fspath(source)) as video:
        folder = RunFolder(Path(out), video.name, source_path(video), overwrite=overwrite)
        engine = engine or build_engine("auto", None, "auto", "auto")
        return segment(engine, video, asked, options or SegmentOptions(), folder, watch)
