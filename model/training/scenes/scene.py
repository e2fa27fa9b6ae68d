"""The scene: its cast, and its frames as pictures, labels and sentences."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.training.scenes.camera import Camera
from model.training.scenes.drawing import draw_shadows, stamp
from model.training.scenes.instruments import Instrument, make_instruments
from model.training.scenes.seeds import Stream, random_numbers
from model.training.scenes.sentences import Sighting, absent, location, names
from model.training.scenes.sutures import Suture, make_suture
from model.training.scenes.sway import Mesh, Sway
from model.training.scenes.targets import CATEGORIES, OPPOSITE, ORGANS, SUTURES, TISSUES, Target
from model.training.scenes.tissue import World


def _cast(rng: np.random.Generator) -> list[tuple[str, str | None]]:
    """The category and side of everything in a scene, tissue first; at most one pair, on opposite sides."""
    sides = [str(s) for s in rng.choice(["left", "right", "top", "bottom"], 4, p=[0.34, 0.34, 0.14, 0.18])]
    kinds = [str(kind) for kind in rng.permutation(CATEGORIES)]
    if rng.random() < 0.3:
        instruments: list[tuple[str, str | None]] = [(kinds[0], sides[0]), (kinds[0], OPPOSITE[sides[0]])]
        more = int(rng.choice(3, p=[0.4, 0.4, 0.2]))
    else:
        instruments, more = [], int(rng.choice([1, 2, 3, 4], p=[0.15, 0.4, 0.33, 0.12]))
    instruments += list(zip(kinds[1 : more + 1], sides[1:] + sides[:1], strict=False))
    some = rng.permutation(TISSUES)[: int(rng.choice(3, p=[0.35, 0.4, 0.25]))]
    tissues = sorted((str(tissue) for tissue in some), key=TISSUES.index)
    edge = str(rng.choice(["left", "right", "top", "bottom"], p=[0.2, 0.2, 0.5, 0.1]))
    return [(tissue, edge if tissue == "liver edge" else None) for tissue in tissues] + instruments


class Scene:
    """A video of `frames` frames (height, width) at `fps` a second; the seed decides everything in it."""

    def __init__(self, seed: int, *, height: int = 256, width: int = 320, frames: int = 200, fps: int = 25) -> None:
        self.seed, self.height, self.width, self.frames, self.fps = seed, height, width, frames, fps
        rng = random_numbers(seed, Stream.CAST)
        cast = _cast(rng)
        ids = rng.permutation(len(cast)) + 1  # shuffled, so that an id says nothing of the drawing order
        drawn = [Target(int(i), category, side) for i, (category, side) in zip(ids, cast, strict=True)]
        organs, threads, tools = (
            [target for target in drawn if target.category in categories]
            for categories in (ORGANS, SUTURES, CATEGORIES)
        )
        self.targets: list[Target] = sorted(drawn, key=lambda target: target.id)
        self._sway = Sway(rng, height, width, fps)
        self._world = World(seed, height, width, organs)
        self._camera = Camera(seed, height, width, frames, fps)
        sutures = [make_suture(target, rng, self._sway, width / height, frames) for target in threads]
        instruments = make_instruments(tools, rng, width / height, frames, fps)
        self._actors: list[Instrument | Suture] = [*sutures, *instruments]

    def render(self, t: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Frame t: (height, width, 3) RGB, and (height, width) ids of the targets as far as they can be seen."""
        mesh = self._mesh(t)
        picture = self._world.seen(mesh)
        self._camera.gloss(picture, t)
        labels = self._draw(mesh, picture, t)
        return np.array(self._camera.expose(picture, t)), labels

    def labels(self, t: int) -> NDArray[np.uint8]:
        """The labels of :meth:`render` alone, which takes less time."""
        return self._draw(self._mesh(t), None, t)

    def _mesh(self, t: int) -> Mesh:
        if not 0 <= t < self.frames:
            raise IndexError(f"frame {t} of a scene of {self.frames} frames")
        return self._sway.mesh(t, self._world.margin, self._world.finer)

    def _draw(self, mesh: Mesh, picture: Image.Image | None, t: int) -> NDArray[np.uint8]:
        """Draw the actors onto a picture of the tissue, in place, and give the labels."""
        labels = self._world.seen_labels(mesh)
        shapes = [(actor, actor.shapes(t)) for actor in self._actors]
        if picture is not None:
            above = [shape for actor, group in shapes if isinstance(actor, Instrument) for shape in group]
            draw_shadows(above, picture)
        for actor, group in shapes:
            if group:
                stamp(group, actor.target.id, picture, labels)
        self._camera.black_out(labels)
        return np.array(labels)

    def action(self, target: Target, t: int) -> str:
        """What a target does in frame t, one of :data:`~model.training.scenes.ACTIONS`; organs are idle."""
        return next((actor.action(t) for actor in self._actors if actor.target.id == target.id), "idle")

    def sentences(self, target: Target, t: int | None = None) -> list[str]:
        """The sentences that name this target and no other of the scene.

        With a frame, there are also some that say what the target does there, if it can be seen.
        """
        labels = None if t is None else self.labels(t)

        def fitting(x: Target) -> list[str]:
            place = None if labels is None else location(labels == x.id)
            return names(x, None if t is None or place is None else Sighting(self.action(x, t), place))

        taken = {sentence for other in self.targets if other.id != target.id for sentence in fitting(other)}
        return [sentence for sentence in fitting(target) if sentence not in taken]

    def absent_sentences(self, rng: np.random.Generator, count: int) -> list[str]:
        """Sentences that name nothing in the scene: another category, or one that is there but on the other side."""
        return absent(self.targets, rng, count)
