"""What training sees: short clips with a few sentences each, from rendered scenes or from anywhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from model.training.scenes import CATEGORIES, OPPOSITE, TISSUES, Scene, Target

KINDS = CATEGORIES + TISSUES
SIDES = tuple(OPPOSITE)


@dataclass(frozen=True)
class Clip:
    """A few frames of one video, and what the sentences mean in each."""

    frames: list[np.ndarray]
    """(height, width, 3) uint8"""
    texts: list[str]
    masks: np.ndarray
    """(frames, texts, height, width) bool; empty where the thing is absent"""
    kinds: np.ndarray | None = None
    """(frames, height, width) uint8: 0 is nothing, 1 the first of :data:`KINDS`; None where not all is known."""
    sides: np.ndarray | None = None
    """Likewise, of :data:`SIDES`: where the instrument enters."""


def flipped(clip: Clip) -> Clip:
    """The mirror image; left and right change places in the sentences, too."""
    swap = {"left": "right", "right": "left"}
    texts = [" ".join(swap.get(word, word) for word in text.split(" ")) for text in clip.texts]
    kinds = None if clip.kinds is None else clip.kinds[..., ::-1]
    sides = clip.sides
    if sides is not None:
        ids = np.array([0, *(1 + SIDES.index(swap.get(side, side)) for side in SIDES)], dtype=np.uint8)
        sides = ids[sides[..., ::-1]]
    return Clip([f[:, ::-1] for f in clip.frames], texts, clip.masks[..., ::-1], kinds, sides)


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
    return replace(clip, frames=frames)


def affine(clip: Clip, rng: np.random.Generator) -> Clip:
    """Turned by up to 25 degrees and sheared by up to 20, about the middle; what comes in from outside is black."""
    height, width = clip.masks.shape[-2:]
    turn, shear = np.radians(rng.uniform(-25, 25)), np.tan(np.radians(rng.uniform(-20, 20)))
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.array([[1, shear], [0, 1]])
    middle = np.array([width / 2, height / 2])
    (a, b), (d, e) = matrix
    c, f = middle - matrix @ middle

    def moved(image: np.ndarray, resample: Image.Resampling) -> np.ndarray:
        picture = Image.fromarray(image)
        return np.asarray(picture.transform(picture.size, Image.Transform.AFFINE, (a, b, c, d, e, f), resample))

    frames = [moved(frame, Image.Resampling.BILINEAR) for frame in clip.frames]
    flat = clip.masks.reshape(-1, height, width).view(np.uint8)
    masks = [moved(mask, Image.Resampling.NEAREST).astype(bool) for mask in flat]
    return Clip(frames, clip.texts, np.stack(masks).reshape(clip.masks.shape))


def augmented(clip: Clip, rng: np.random.Generator) -> Clip:
    """The published augmentation: flip, affine, colour jitter, grey."""
    clip = flipped(clip) if rng.random() < 0.5 else clip
    return colour_jittered(affine(clip, rng), rng)


def clip_times(rng: np.random.Generator, frames: int, length: int, apart: int = 0) -> list[int]:
    """The frames of a clip of a video: evenly spaced, one to three apart, every fourth time backwards.

    Up to ``apart`` more lie between the first and the others.
    """
    steps = max(1, length - 1)
    stride = int(rng.integers(1, 1 + max(1, min(3, (frames - 1) // steps))))
    offsets = np.arange(length) * stride
    if apart:
        offsets[1:] += rng.integers(min(apart, frames - 1 - offsets[-1]) + 1)
    first = int(rng.integers(0, frames - offsets[-1]))
    if rng.random() < 0.25:
        offsets = offsets[-1] - offsets
    return [first + int(x) for x in offsets]


class SceneClips:
    """An endless, seeded stream of clips from rendered scenes.

    A scene costs more than its frames, so each is used for several clips, and a few are open at once. Clips have
    ``length`` frames (:func:`clip_times`) and ``prompts`` sentences, of which the last names nothing in the scene.
    Without prompts, a clip is single frames of all of a scene's parts, for the image encoder alone.
    """

    def __init__(
        self,
        seed: int | Sequence[int],
        *,
        length: int,
        prompts: int,
        height: int = 256,
        width: int = 320,
        apart: int = 0,
    ) -> None:
        self.length, self.prompts = length, prompts
        self._apart = apart
        self._rng = np.random.default_rng(seed)
        self._size = (height, width)
        self._open: list[tuple[Scene, int]] = []

    _KEPT, _USES = 12, 12

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
        times = self._times(scene)
        rendered = [scene.render(t) for t in times]
        labels = np.stack([x for _, x in rendered])
        sentences = self._sentences(scene, times[-1] if self.length <= 3 else None)
        masks = np.zeros((len(times), len(sentences), *self._size), dtype=bool)
        for k, (_, ident) in enumerate(sentences):
            masks[:, k] = (labels == ident) & (ident > 0)
        kinds, sides = np.zeros((2, len(scene.targets) + 1), dtype=np.uint8)
        for target in scene.targets:
            kinds[target.id] = 1 + KINDS.index(target.category)
            sides[target.id] = 1 + SIDES.index(target.side) if target.side in SIDES else 0
        clip = Clip(
            [frame for frame, _ in rendered], [text for text, _ in sentences], masks, kinds[labels], sides[labels]
        )
        clip = flipped(clip) if rng.random() < 0.5 else clip
        return colour_jittered(clip, rng) if rng.random() < 0.8 else clip

    def _times(self, scene: Scene) -> list[int]:
        rng = self._rng
        if not self.prompts:
            return [int(t) for t in rng.integers(0, scene.frames, self.length)]
        return clip_times(rng, scene.frames, self.length, self._apart)

    def _sentences(self, scene: Scene, t: int | None) -> list[tuple[str, int]]:
        """Texts and the labels they mean, 0 for nothing: about one in three or four, the last among them."""
        if not self.prompts:
            return []
        rng = self._rng
        absent = max(1, self.prompts // 3) + int(self.prompts > 3 and rng.random() < 0.3)
        t = t if rng.random() < 0.4 else None  # short sentences are what people type
        named: list[tuple[Target, list[str]]] = [(x, scene.sentences(x, t)) for x in scene.targets]
        named = [(target, texts) for target, texts in named if texts]
        chosen: list[tuple[str, int]] = []
        while named and len(chosen) < self.prompts - absent:
            for i in rng.permutation(len(named)):
                target, texts = named[i]
                chosen.append((str(rng.choice(texts)), target.id))
        chosen = chosen[: self.prompts - absent]
        missing = scene.absent_sentences(rng, self.prompts - len(chosen))
        return chosen + [(text, 0) for text in missing]


FIRST_TRAINING_SEED = 1_000_000
"""Seeds of scenes below this are for validation and tests, and never trained on."""
