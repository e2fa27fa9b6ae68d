"""What training sees: short clips with a few sentences each, from rendered scenes or from anywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from model.training.scenes import Scene


@dataclass(frozen=True)
class Clip:
    """A few frames of one video, and what the sentences mean in each."""

    frames: list[np.ndarray]
    """(height, width, 3) uint8"""
    texts: list[str]
    masks: np.ndarray
    """(frames, texts, height, width) bool; empty where the thing is absent"""


def flipped(clip: Clip) -> Clip:
    """The mirror image; left and right change places in the sentences, too."""
    swap = {"left": "right", "right": "left"}
    texts = [" ".join(swap.get(word, word) for word in text.split(" ")) for text in clip.texts]
    return Clip([f[:, ::-1] for f in clip.frames], texts, clip.masks[..., ::-1])


def colour_jittered(clip: Clip, rng: np.random.Generator) -> Clip:
    """Other brightness, contrast and white balance; 5 % grey."""
    gain = rng.uniform(0.75, 1.25) * rng.uniform(0.9, 1.1, 3)
    offset = rng.uniform(-20, 20)
    levels = np.arange(256)[:, None] * gain + offset
    table = levels.clip(0, 255).astype(np.uint8)  # (256, 3)
    grey = rng.random() < 0.05
    frames = []
    for frame in clip.frames:
        frame = np.stack([table[frame[..., c], c] for c in range(3)], axis=-1)
        frames.append(frame.mean(axis=-1, keepdims=True).repeat(3, axis=-1).astype(np.uint8) if grey else frame)
    return Clip(frames, clip.texts, clip.masks)


class SceneClips:
    """An endless, seeded stream of clips from rendered scenes.

    A scene costs more than its frames, so each is used for several clips, and a few are open at once. Clips have
    ``length`` frames and ``prompts`` sentences, of which the last names nothing in the scene.
    """

    def __init__(self, seed: int, *, length: int, prompts: int, height: int = 256, width: int = 320) -> None:
        self.length, self.prompts = length, prompts
        self._rng = np.random.default_rng(seed)
        self._size = (height, width)
        self._open: list[tuple[Scene, int]] = []

    _KEPT, _USES = 12, 24

    def _scene(self) -> Scene:
        while len(self._open) < self._KEPT:
            seed = int(self._rng.integers(FIRST_TRAINING_SEED, 2**31))
            uses = int(self._rng.integers(self._USES // 2, self._USES + 1))
            self._open.append((Scene(seed, height=self._size[0], width=self._size[1], frames=300), uses))
        i = int(self._rng.integers(len(self._open)))
        scene, uses = self._open[i]
        if uses > 1:
            self._open[i] = (scene, uses - 1)
        else:
            self._open.pop(i)
        return scene

    def __iter__(self) -> Iterator[Clip]:
        while True:
            yield self._clip(self._scene())

    def _clip(self, scene: Scene) -> Clip:
        rng = self._rng
        stride = int(rng.integers(1, 4))
        first = int(rng.integers(0, scene.frames - stride * (self.length - 1)))
        times = [first + stride * i for i in range(self.length)]
        if rng.random() < 0.25:
            times.reverse()
        rendered = [scene.render(t) for t in times]
        chosen: list[tuple[str, int]] = []  # text and the label it means, 0 for nothing
        targets = [scene.targets[i] for i in rng.permutation(len(scene.targets))]
        for target in targets[: self.prompts - 1]:
            sentences = scene.sentences(target, times[-1] if self.length <= 3 else None)
            if sentences:
                chosen.append((str(rng.choice(sentences)), target.id))
        absent = scene.absent_sentences(rng, max(1, self.prompts - len(chosen)))
        chosen += [(text, 0) for text in absent[: self.prompts - len(chosen)]]
        masks = np.stack([[(labels == i) & (i > 0) for _, i in chosen] for _, labels in rendered])
        clip = Clip([frame for frame, _ in rendered], [text for text, _ in chosen], masks)
        clip = flipped(clip) if rng.random() < 0.5 else clip
        return colour_jittered(clip, rng) if rng.random() < 0.8 else clip


FIRST_TRAINING_SEED = 1_000_000
"""Seeds of scenes below this are for validation and tests, and never trained on."""
