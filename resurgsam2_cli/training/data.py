"""Videos with annotations to train on: a data set in the layout of Ref-EndoVis, or finished runs of this program.

Ref-EndoVis: ``JPEGImages/<video>/00000.png``, ``Annotations/<video>/00000.png`` (pixel = object id) and
``meta_expressions.json``. A run: its label images in ``masks/``, corrected by hand or not, with the frames of the
video that it was made from.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from model.training.clips import Clip, augmented, clip_times
from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.atomic import write_json, writing
from resurgsam2_cli.files.filling import fill, naming, settle
from resurgsam2_cli.files.kinds import Kind
from resurgsam2_cli.files.label_images import open_image, read_labels
from resurgsam2_cli.files.text import readable
from resurgsam2_cli.prompts.expressions import EXPRESSIONS, read_expressions
from resurgsam2_cli.runs.find import find_runs, has_runs
from resurgsam2_cli.runs.reading import read_states
from resurgsam2_cli.runs.record import MASKS, Run
from resurgsam2_cli.runs.source import opened_source, source_frames
from resurgsam2_cli.video.image_folder import IMAGE_SUFFIXES

_EXTRACTED = "frames.json"
"""The last file written into a folder of extracted frames."""

_HINT = "replace it, or take it out of the data"


def is_extracted(folder: Path) -> bool:
    """Whether this folder holds all frames of a run's video."""
    return (folder / _EXTRACTED).is_file()


_CACHE = Kind("a folder of frames", is_extracted, is_extracted)


@dataclass(frozen=True)
class AnnotatedVideo:
    """Frames, label images, and what sentences name in them."""

    name: str
    frames: tuple[Path, ...]
    labels: tuple[Path, ...]
    """One per frame."""
    sentences: tuple[tuple[str, int], ...]
    """Text and object id, in the order of the file."""
    left_out: int = 0
    """Frames of the run whose label image was deleted."""

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(height, width, 3) RGB and (height, width) ids of one frame. Raises :class:`InputError`."""
        frame = np.asarray(open_image(self.frames[index], _HINT).convert("RGB"))
        return frame, _labels(self.labels[index], *frame.shape[:2])


def _labels(path: Path, height: int, width: int) -> np.ndarray:
    """A label image of the size of its frame. Raises :class:`InputError`."""
    labels = read_labels(path, _HINT)
    if labels.shape != (height, width):
        raise InputError(
            f"{path}: is {labels.shape[1]} x {labels.shape[0]}, its frame {width} x {height}",
            "annotations have the size of their frames",
        )
    return labels


def annotated_videos(path: Path, cache: Path, sources: Path | None = None) -> list[AnnotatedVideo]:
    """All videos of a data set or of a folder of runs. ``cache`` receives the frames of the runs' videos.

    The videos of runs are where they were, or below the folder ``sources``. Raises :class:`InputError`, naming the file
    that is wrong.
    """
    if not os.path.isdir(path):
        raise InputError(f"{path}: no such folder", "give a data set in the layout of Ref-EndoVis, or a folder of runs")
    if (path / EXPRESSIONS).is_file():
        videos = list(_ref_endovis(path))
    else:
        videos = [_run(run, cache, sources) for run in find_runs([path])[0]] if has_runs(path) else []
    videos = [video for video in videos if video.frames and video.sentences]
    if not videos:
        raise InputError(
            f"{path}: holds neither {EXPRESSIONS} nor a finished run",
            "expected JPEGImages/, Annotations/ and meta_expressions.json, or folders with run.json and masks/",
        )
    return videos


def summary(videos: Sequence[AnnotatedVideo]) -> str:
    """What there is to train on, in one line."""
    counts = (
        (len(videos), "video"),
        (sum(len(x.frames) for x in videos), "frame"),
        (sum(len({number for _, number in x.sentences}) for x in videos), "object"),
        (sum(len(x.sentences) for x in videos), "sentence"),
    )
    return "training on " + ", ".join(f"{n:,} {name}{'s' * (n != 1)}" for n, name in counts)


def data_sums(videos: Sequence[AnnotatedVideo]) -> tuple[str, dict[str, str]]:
    """A checksum of what training learns from (names, sentences, labels and pictures), and one of each video."""
    total, each = hashlib.sha256(), {}
    for video in videos:
        of_video = hashlib.sha256()

        for content in _contents(video):
            total.update(content)
            of_video.update(content)
        each[readable(video.name)] = of_video.hexdigest()
    return total.hexdigest(), each


def _contents(video: AnnotatedVideo) -> Iterator[bytes]:
    yield json.dumps([video.name, video.sentences, [x.name for x in video.frames]]).encode()
    for frame, label in zip(video.frames, video.labels, strict=True):
        for path in (frame, label):
            with path.open("rb") as file:
                yield hashlib.file_digest(file, "sha256").digest()


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
        sentences = []
        for x in expressions:
            if x.object_id is None:
                raise InputError(
                    f"{root / EXPRESSIONS}: {x.text!r} of {name} has no obj_id",
                    "add it: it says which pixel value of the annotations is meant",
                )
            sentences.append((x.text, x.object_id))
        yield AnnotatedVideo(name, tuple(frames[x] for x in stems), tuple(labels[x] for x in stems), tuple(sentences))


def _run(run: Run, cache: Path, sources: Path | None) -> AnnotatedVideo:
    """A run's label images, with the frames of its video, which are extracted once."""
    names = [name for _, name, _, _ in read_states(run)]
    labels = {name: run.folder / MASKS / f"{name}.png" for name in names}
    there = [name for name in names if labels[name].is_file()]
    if not there:
        raise InputError(f"{run.folder}: has no masks/", "segment the video again with --png")
    _check_corrections(run, names, [labels[name] for name in there])
    frames = _extracted(run, cache, sources)
    return AnnotatedVideo(
        run.name,
        tuple(frames / f"{name}.jpg" for name in there),
        tuple(labels[name] for name in there),
        tuple((x.text, x.id) for x in run.objects),
        len(names) - len(there),
    )


def _check_corrections(run: Run, names: list[str], labels: list[Path]) -> None:
    """Raise :class:`InputError` for a label image that has no frame or shows an object that the run does not have."""
    processed = {f"{name}.png" for name in names}
    for path in sorted((run.folder / MASKS).iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.name not in processed and not path.name.startswith("."):
            raise InputError(
                f"{path}: is not the label image of a frame that {run.name} has",
                f"name it as the run named that image ({names[0]}.png to {names[-1]}.png), or move it away",
            )
    for path in labels:
        values = _labels(path, run.height, run.width)
        wrong = next((int(x) for x in (values.max(), values.min()) if not 0 <= x <= len(run.objects)), None)
        if wrong is not None:
            raise InputError(
                f"{path}: has pixels of object {wrong}, and the objects of {run.name} are 1 to {len(run.objects)}",
                f"a pixel is the id of an object, or 0; {_HINT}",
            )


def _extracted(run: Run, cache: Path, sources: Path | None) -> Path:
    """The folder with the frames of a run's video. Raises :class:`InputError`."""
    # Keyed by content and part: two videos may share a name, and one video may have two runs.
    key = json.dumps([run.source, run.identity, str(run.rate), str(run.part), run.frames])
    folder = cache / f"{run.name.rpartition('/')[2]}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if cache.is_dir():
        with naming(cache), writing(folder):
            settle(folder, _CACHE)
    if not is_extracted(folder):
        with opened_source(run, sources) as source, fill(folder, _CACHE, overwrite=True) as filling, writing(folder):
            count = 0
            for frame in source_frames(run, source):
                Image.fromarray(frame.rgb).save(filling.partial / f"{frame.name}.jpg", quality=95)
                count += 1
            if count != run.frames:
                raise InputError(
                    f"{run.source}: gives {count} frames, but {run.name} has {run.frames}", "segment the video again"
                )
            write_json(filling.partial / _EXTRACTED, {"source": run.source, "frames": count})
            filling.complete()
    return folder


def check_lengths(videos: Sequence[AnnotatedVideo], length: int) -> list[AnnotatedVideo]:
    """The videos of which clips of ``length`` frames can be made. Raises :class:`InputError` if there are none."""
    enough = [video for video in videos if len(video.frames) >= length]
    if not enough:
        raise InputError(
            f"no video of the data has {length} annotated frames",
            "use a smaller --count-tracked, or annotate more frames",
        )
    return enough


class FolderClips:
    """An endless, seeded stream of clips from annotated videos.

    Clips have ``length`` frames (:func:`~model.training.clips.clip_times`) and ``prompts`` sentences. If other videos
    name things that this one lacks, the last sentence names one of those; it teaches the network to stay silent.
    """

    def __init__(
        self,
        videos: Sequence[AnnotatedVideo],
        seed: int | Sequence[int],
        *,
        length: int,
        prompts: int,
        apart: int = 0,
    ) -> None:
        self._videos = check_lengths(videos, length)
        self.length, self.prompts = length, prompts
        self._apart = apart
        self._rng = np.random.default_rng(seed)
        self._all = sorted({text for video in videos for text, _ in video.sentences})

    def __iter__(self) -> Iterator[Clip]:
        while True:
            yield self._clip(self._videos[int(self._rng.integers(len(self._videos)))])

    def _clip(self, video: AnnotatedVideo) -> Clip:
        rng = self._rng
        indices = clip_times(rng, len(video.frames), self.length, self._apart)
        frames, labels = zip(*(video.read(i) for i in indices), strict=True)
        chosen = self._sentences(video)
        masks = np.stack([[(x == ident) & (ident > 0) for _, ident in chosen] for x in labels])
        return augmented(Clip(list(frames), [text for text, _ in chosen], masks), rng)

    def _sentences(self, video: AnnotatedVideo) -> list[tuple[str, int]]:
        """Texts and ids, 0 for nothing; sentences repeat if there are few."""
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
