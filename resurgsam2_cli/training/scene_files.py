"""Rendered scenes as files: an MP4, or a data set in the layout of Ref-EndoVis."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model.training.scenes import Scene
from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.atomic import write_json, writing
from resurgsam2_cli.files.filling import fill, new_file
from resurgsam2_cli.files.kinds import UNFINISHED, Kind, changed_files, check_folder, never, tree_state
from resurgsam2_cli.files.label_images import labels_png
from resurgsam2_cli.files.text import read_json
from resurgsam2_cli.prompts.expressions import EXPRESSIONS
from resurgsam2_cli.video.marks import RENDERED, holds_mark
from resurgsam2_cli.video.writer import VideoWriter

ABSENT = 99
"""Object id of expressions for things that a scene does not have."""


def _is_rendered(folder: Path) -> bool:
    """Whether a data set is ours: its expressions say so."""
    try:
        content = read_json(folder / EXPRESSIONS, "") if folder.is_dir() else {}
    except InputError:
        return False
    return isinstance(content, dict) and content.get("made_by") == RENDERED


def _foreign(folder: Path) -> list[str]:
    """What was added, changed or removed in a rendered data set."""
    if not _is_rendered(folder):
        return []
    state = read_json(folder / EXPRESSIONS, "").get("state")
    return changed_files(folder, EXPRESSIONS, state) if isinstance(state, str) else []


_VIDEO = Kind("a rendered scene", lambda path: holds_mark(path, (RENDERED,)), never, "name another file")
_DATASET = Kind("a rendered data set", _is_rendered, _is_rendered, "name another folder", _foreign)


def write_video(scene: Scene, path: Path, *, overwrite: bool = False) -> None:
    """Encode a scene as H.264. Raises :class:`~resurgsam2_cli.errors.OutputError`."""
    with new_file(path, _VIDEO, overwrite=overwrite) as partial:
        writer = VideoWriter(partial, scene.height, scene.width, Fraction(scene.fps), comment=RENDERED)
        try:
            for t in range(scene.frames):
                writer.write(scene.render(t)[0], Fraction(t, scene.fps))
        except BaseException:
            writer.abort()
            raise
        writer.close()


def write_dataset(
    scenes: Iterable[Scene],
    root: Path,
    *,
    absent: bool = True,
    overwrite: bool = False,
    watch: Callable[[str], None] = lambda name: None,
) -> None:
    """Write scenes as ``JPEGImages/``, ``Annotations/`` and ``meta_expressions.json``.

    Each thing gets the sentences that name it alone; with ``absent``, one more names something that is not there, and
    has the object id :data:`ABSENT`. Raises :class:`~resurgsam2_cli.errors.OutputError`.
    """
    check_folder(root, _DATASET.elsewhere)
    with fill(root, _DATASET, overwrite=overwrite) as filling, writing(root):
        table = {}
        for scene in scenes:
            name = f"scene_{scene.seed:06d}"
            table[name] = _write_scene(scene, name, filling.partial, absent=absent)
            watch(name)
        content = {"made_by": RENDERED, "state": tree_state(filling.partial, UNFINISHED), "videos": table}
        write_json(filling.partial / EXPRESSIONS, content)
        filling.complete()


def _write_scene(scene: Scene, name: str, root: Path, *, absent: bool) -> dict[str, Any]:
    """Write the frames of a scene; return its entry in ``meta_expressions.json``."""
    images, annotations = (root / part / name for part in ("JPEGImages", "Annotations"))
    images.mkdir(parents=True)
    annotations.mkdir(parents=True)
    first: dict[int, int] = {}
    for t in range(scene.frames):
        rgb, labels = scene.render(t)
        Image.fromarray(rgb).save(images / f"{t:05d}.png", compress_level=1)
        (annotations / f"{t:05d}.png").write_bytes(labels_png(labels))
        for ident in np.unique(labels).tolist():
            first.setdefault(ident, t)
    named = [(text, target.id) for target in scene.targets for text in scene.sentences(target)]
    if absent:
        named += [(text, ABSENT) for text in scene.absent_sentences(np.random.default_rng(scene.seed), 1)]
    return {
        "frames": [f"{t:05d}" for t in range(scene.frames)],
        "expressions": {str(i): {"exp": text, "obj_id": ident} for i, (text, ident) in enumerate(named)},
        "first_frame": {str(i): first.get(ident, 0) for i, (_, ident) in enumerate(named)},
    }
