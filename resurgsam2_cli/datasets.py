"""Videos with annotations to train on: a data set in the layout of Ref-EndoVis, or finished runs of this program.

Ref-EndoVis: ``JPEGImages/<video>/00000.png``, ``Annotations/<video>/00000.png`` (pixel = object id) and
``meta_expressions.json``. A run: its label images in ``masks/``, corrected by hand or not, with the frames of the
video that it was made of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from model.training.clips import Clip, augmented
from resurgsam2_cli.errors import InputError
from resurgsam2_cli.evaluation import EXPRESSIONS, read_expressions
from resurgsam2_cli.run_folder import RECORD, read_record, writing
from resurgsam2_cli.video.source import IMAGE_SUFFIXES, Part, Position, open_source


@dataclass(frozen=True)
class AnnotatedVideo:
    """Frames, label images, and what sentences name in them."""

    name: str
    frames: tuple[Path, ...]
    labels: tuple[Path, ...]
    """Of each frame."""
    sentences: tuple[tuple[str, int], ...]
    """Text and object id, in the order of the file."""

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(height, width, 3) RGB and (height, width) ids of one frame. Raises :class:`InputError`."""
        frame = np.asarray(_opened(self.frames[index]).convert("RGB"))
        image = _opened(self.labels[index])
        if image.mode not in ("P", "L", "I", "I;16", "1"):
            raise InputError(
                f"{self.labels[index]}: is an image in {image.mode}, not of labels",
                "save it as a palette or grey PNG, pixel = object id",
            )
        labels = np.asarray(image)
        if labels.shape != frame.shape[:2]:
            raise InputError(
                f"{self.labels[index]}: is {labels.shape[1]} x {labels.shape[0]}, its frame "
                f"{frame.shape[1]} x {frame.shape[0]}",
                "annotations have the size of their frames",
            )
        return frame, labels


def _opened(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise InputError(f"{path}: cannot be read ({error})", "replace it, or take it out of the data") from error
    return image


def annotated_videos(path: Path, cache: Path) -> list[AnnotatedVideo]:
    """All videos of a data set or of a folder of runs. ``cache`` takes the frames of runs' videos.

    Raises :class:`InputError`, naming the file that is wrong.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder", "give a data set in the layout of Ref-EndoVis, or a folder of runs")
    if (path / EXPRESSIONS).is_file():
        videos = list(_ref_endovis(path))
    else:
        runs = sorted({x.parent for x in path.rglob(RECORD)})
        videos = [_run(folder, cache) for folder in runs if read_record(folder) is not None]
    videos = [video for video in videos if video.frames and video.sentences]
    if not videos:
        raise InputError(
            f"{path}: holds neither {EXPRESSIONS} nor a finished run",
            "expected JPEGImages/, Annotations/ and meta_expressions.json, or folders with run.json and masks/",
        )
    return videos


def _ref_endovis(root: Path) -> Iterator[AnnotatedVideo]:
    for name, expressions in read_expressions(root / EXPRESSIONS).items():
        images, annotations = root / "JPEGImages" / name, root / "Annotations" / name
        for folder in (images, annotations):
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder, though {EXPRESSIONS} names it", "complete the data set")
        labels = {x.stem: x for x in sorted(annotations.glob("*.png"))}
        frames = {x.stem: x for x in sorted(images.iterdir()) if x.suffix.lower() in IMAGE_SUFFIXES}
        stems = [stem for stem in frames if stem in labels]  # sparse annotations: the other frames teach nothing
        if not stems:
            raise InputError(
                f"{annotations}: no annotation has the name of a frame", "name both by frame, as 00000.png"
            )
        yield AnnotatedVideo(
            name,
            tuple(frames[stem] for stem in stems),
            tuple(labels[stem] for stem in stems),
            tuple(expressions),
        )


def _run(folder: Path, cache: Path) -> AnnotatedVideo:
    """A run's label images, with the frames of its video, which are extracted once."""
    record = read_record(folder) or {}
    labels = {x.stem: x for x in sorted((folder / "masks").glob("*.png"))}
    if not labels:
        raise InputError(f"{folder}: has no masks/", "segment the video again with --png")
    frames = cache / f"{folder.name}-{record['weights']['sha256'][:8]}"
    if not all((frames / f"{stem}.jpg").exists() for stem in labels):
        with writing(frames):
            frames.mkdir(parents=True, exist_ok=True)
        settings = record["settings"]
        end = settings["end"]
        part = Part(Position.parse(settings["start"]), end and Position.parse(end), settings["stride"])
        with open_source(record["source"]["path"], None) as source:
            for frame in source.frames(part):
                if f"{frame.number:05d}" in labels:
                    with writing(frames):
                        Image.fromarray(frame.rgb).save(frames / f"{frame.number:05d}.jpg", quality=95)
    stems = [stem for stem in labels if (frames / f"{stem}.jpg").exists()]
    return AnnotatedVideo(
        folder.name,
        tuple(frames / f"{stem}.jpg" for stem in stems),
        tuple(labels[stem] for stem in stems),
        tuple((str(x["text"]), int(x["id"])) for x in record["objects"]),
    )


class FolderClips:
    """An endless, seeded stream of clips from annotated videos.

    Clips have ``length`` frames and ``prompts`` sentences. Where other videos name things that this one does not
    have, the last sentence is one of those: it teaches to stay silent.
    """

    def __init__(
        self, videos: Sequence[AnnotatedVideo], seed: int | Sequence[int], *, length: int, prompts: int
    ) -> None:
        self._videos = [video for video in videos if len(video.frames) >= length]
        if not self._videos:
            raise InputError(f"no video of the data has {length} annotated frames", "train with fewer --tracked frames")
        self.length, self.prompts = length, prompts
        self._rng = np.random.default_rng(seed)
        self._all = sorted({text for video in videos for text, _ in video.sentences})

    def __iter__(self) -> Iterator[Clip]:
        while True:
            yield self._clip(self._videos[int(self._rng.integers(len(self._videos)))])

    def _clip(self, video: AnnotatedVideo) -> Clip:
        rng = self._rng
        stride = int(rng.integers(1, 1 + max(1, min(3, (len(video.frames) - 1) // max(1, self.length - 1)))))
        first = int(rng.integers(0, len(video.frames) - stride * (self.length - 1)))
        indices = [first + stride * i for i in range(self.length)]
        if rng.random() < 0.25:
            indices.reverse()
        frames, labels = zip(*(video.read(i) for i in indices), strict=True)
        chosen = self._sentences(video)
        masks = np.stack([[(x == ident) & (ident > 0) for _, ident in chosen] for x in labels])
        return augmented(Clip(list(frames), [text for text, _ in chosen], masks), rng)

    def _sentences(self, video: AnnotatedVideo) -> list[tuple[str, int]]:
        """Texts and ids, 0 for nothing; sentences come again where there are few."""
        rng = self._rng
        here = {_category(text) for text, _ in video.sentences}
        foreign = [text for text in self._all if _category(text) not in here]
        count = self.prompts - (1 if foreign and self.prompts > 1 else 0)
        chosen: list[tuple[str, int]] = []
        while len(chosen) < count:
            chosen += [video.sentences[int(i)] for i in rng.permutation(len(video.sentences))]
        chosen = chosen[:count]
        return chosen if count == self.prompts else [*chosen, (str(rng.choice(foreign)), 0)]


def _category(text: str) -> str:
    """What a sentence is about: the published ones read ``<category> is <action> on the <location>``."""
    words = text.lower().split(" is ")[0].split(" on the ")[0].split()
    return " ".join(word for word in words if word not in ("left", "right", "top", "bottom", "upper", "lower"))
