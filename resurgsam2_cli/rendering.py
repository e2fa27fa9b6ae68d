"""Rendered scenes as files: an MP4, or a data set in the layout of Ref-EndoVis."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from model.training.scenes import Scene
from resurgsam2_cli.evaluation import EXPRESSIONS
from resurgsam2_cli.palette import davis_palette
from resurgsam2_cli.run_folder import writing
from resurgsam2_cli.video.writer import VideoWriter

ABSENT = 99
"""Object id of expressions for things that a scene does not have."""


def write_video(scene: Scene, path: Path) -> None:
    """Encode a scene as H.264. Raises :class:`~resurgsam2_cli.errors.OutputError`."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    writer = VideoWriter(partial, scene.height, scene.width, Fraction(scene.fps))
    try:
        for t in range(scene.frames):
            writer.write(scene.render(t)[0], Fraction(t, scene.fps))
        writer.close()
        with writing(path):
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_dataset(
    scenes: Iterable[Scene], root: Path, *, absent: bool = True, watch: Callable[[str], None] = lambda name: None
) -> None:
    """Write scenes as ``JPEGImages/``, ``Annotations/`` and, last, ``meta_expressions.json``.

    Each thing gets the sentences that name it alone; with ``absent``, one more names something that is not there, and
    has the object id :data:`ABSENT`. Raises :class:`~resurgsam2_cli.errors.OutputError`.
    """
    table = {}
    for scene in scenes:
        name = f"scene_{scene.seed:06d}"
        folders = [root / part / name for part in ("JPEGImages", "Annotations")]
        first: dict[int, int] = {}
        with writing(root):
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            for t in range(scene.frames):
                rgb, labels = scene.render(t)
                Image.fromarray(rgb).save(folders[0] / f"{t:05d}.png", compress_level=1)
                image = Image.fromarray(labels)
                image.putpalette(davis_palette())
                image.save(folders[1] / f"{t:05d}.png")
                for ident in np.unique(labels).tolist():
                    first.setdefault(ident, t)
        named = [(text, target.id) for target in scene.targets for text in scene.sentences(target)]
        if absent:
            named += [(text, ABSENT) for text in scene.absent_sentences(np.random.default_rng(scene.seed), 1)]
        table[name] = {
            "frames": [f"{t:05d}" for t in range(scene.frames)],
            "expressions": {str(i): {"exp": text, "obj_id": ident} for i, (text, ident) in enumerate(named)},
            "first_frame": {str(i): first.get(ident, 0) for i, (_, ident) in enumerate(named)},
        }
        watch(name)
    with writing(root):
        partial = root / f".{EXPRESSIONS}.partial"
        partial.write_text(json.dumps({"videos": table}, indent=1) + "\n", encoding="utf-8")
        partial.replace(root / EXPRESSIONS)
