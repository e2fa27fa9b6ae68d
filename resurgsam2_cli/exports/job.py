"""An export from runs to files: one video after the other, one frame at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resurgsam2_cli import __version__
from resurgsam2_cli.errors import InputError, UsageError
from resurgsam2_cli.exports import EXPORTERS
from resurgsam2_cli.exports.base import Dataset, Exporter, ExportFrame, ExportOptions, Mask, Video, VideoObject
from resurgsam2_cli.exports.categories import CategoryRules
from resurgsam2_cli.exports.splits import assign_splits
from resurgsam2_cli.exports.target import Target
from resurgsam2_cli.files.atomic import writing
from resurgsam2_cli.files.rle import decoded, encoded
from resurgsam2_cli.files.text import counted, did_you_mean, readable
from resurgsam2_cli.outputs.base import boxes_around
from resurgsam2_cli.outputs.cleaning import AS_SAID, Cleaning
from resurgsam2_cli.runs.reading import RunFrame, RunMask, check_files, read_frames
from resurgsam2_cli.runs.record import Run
from resurgsam2_cli.runs.source import opened_source, source_pictures
from resurgsam2_cli.video.frames import Frame
from resurgsam2_cli.video.image_folder import Original


@dataclass
class Tally:
    """What was exported, and what was left out on request."""

    frames: int = 0
    masks: int = 0
    below_score: int = 0
    below_area: int = 0
    cleaned: int = 0
    cleaned_away: int = 0
    of_left_out_labels: int = 0
    copied_pictures: int = 0


@dataclass(frozen=True)
class ExportSummary:
    """The end of an export."""

    path: Path
    record: dict[str, Any]
    """What export.json holds."""
    tally: Tally = field(repr=False)

    @property
    def notes(self) -> list[str]:
        """What was left out, and what the format could not hold; a line each."""
        return self.record["notes"]


Watcher = Callable[[Video], None]
"""Called with each video that is done."""


def plan(
    runs: list[Run], exporter: type[Exporter], options: ExportOptions, categories: CategoryRules, split: str | None
) -> Dataset:
    """What will be exported under which ids and names. Raises :class:`~resurgsam2_cli.errors.UserError`."""
    for run in runs:
        check_files(run)
    every, category_of = categories.resolve([x for run in runs for x in run.objects])
    _check_colors(options, [x.name for x in every])
    splits, split_of = assign_splits(split, runs) if split else ((), {})
    flat_names = _flat(runs)
    track_ids = itertools.count(1)
    videos = []
    for number, run in enumerate(runs, start=1):
        objects = {}
        for x in run.objects:
            category, track_id = category_of(x), next(track_ids)
            if category is not None:
                objects[x.id] = VideoObject(x.id, track_id, x.text, category, x.color)
        videos.append(Video(number, run, flat_names[run.name], split_of.get(run.name, ""), objects))
    return Dataset(every, splits, tuple(videos), options)


def _check_colors(options: ExportOptions, names: list[str]) -> None:
    for name, _ in options.colors:
        if name not in names:
            raise UsageError(
                f"--color: there is no category {name!r}", f"{did_you_mean(name, names)}there are: {', '.join(names)}"
            )


def _flat(runs: list[Run]) -> dict[str, str]:
    """Names without ``/``, unique even where file names ignore case."""
    flat: dict[str, str] = {}
    taken: set[str] = set()
    for run in runs:
        base = run.name.replace("/", "__")
        name = next(x for i in itertools.count(1) if (x := base if i == 1 else f"{base}-{i}").lower() not in taken)
        taken.add(name.lower())
        flat[run.name] = name
    return flat


def export(format_name: str, dataset: Dataset, target: Target, watch: Watcher) -> ExportSummary:
    """Write a data set to its target, which is complete afterwards or as it was.

    Raises a :class:`~resurgsam2_cli.errors.UserError`.
    """
    tally = Tally()
    with target.filling() as filling, writing(target.path):
        kind = EXPORTERS[format_name]
        target.begin(filling, kind.contents(dataset), kind.inner_suffixes)
        exporter = kind(filling.partial, dataset)
        try:
            for video in dataset.videos:
                exporter.add(video, _frames(video, exporter, tally))
                watch(video)
            exporter.finish()
        except BaseException:
            exporter.abort()
            raise
        record = _record(format_name, dataset, tally, [*_left_out(tally, dataset.options), *exporter.losses()])
        target.complete(filling, exporter.single_file() if target.is_file else "", record)
    return ExportSummary(target.path, record, tally)


def _frames(video: Video, exporter: Exporter, tally: Tally) -> Iterator[ExportFrame]:
    """The wanted frames with the wanted masks. Saves pictures along the way."""
    options = exporter.dataset.options
    if not (options.frames or exporter.needs_pictures):
        yield from _wanted(video, exporter, tally)
        return
    with opened_source(video.run, options.sources) as source:
        pictures = source_pictures(video.run, source, options.every, options.frames or "")
        for frame in _wanted(video, exporter, tally):
            picture = next(pictures, None)
            if picture is None or picture.number != frame.number:
                found = "ends before" if picture is None else f"has frame {picture.number} in place of"
                raise InputError(
                    f"{source.path}: {found} frame {frame.number} of {video.name}",
                    "the video is not the one that was segmented: segment it again",
                )
            if isinstance(picture, Original):
                frame = replace(frame, file_name=f"{frame.name}{picture.file.suffix}")
                tally.copied_pictures += 1
            if options.frames:
                _save(picture, exporter.root / exporter.picture_path(video, frame.file_name))
            yield replace(frame, picture=picture, source=source) if isinstance(picture, Frame) else frame


def _save(picture: Frame | Original, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(picture, Original):
        path.write_bytes(picture.content())
        return
    image = Image.fromarray(picture.rgb)
    if path.suffix == ".jpg":
        image.save(path, quality=95, subsampling=0)
    else:
        image.save(path, compress_level=3)


def _wanted(video: Video, exporter: Exporter, tally: Tally) -> Iterator[ExportFrame]:
    options = exporter.dataset.options
    for position, frame in enumerate(read_frames(video.run)):
        if position % options.every:
            continue
        masks = []
        found = frame.masks if not options.cleaning else _cleaned(video.run, frame, options.cleaning, tally)
        for x in found:
            video_object = video.objects.get(x.object_id)
            if video_object is None:
                tally.of_left_out_labels += 1
            elif x.score < options.min_score:
                tally.below_score += 1
            elif x.area < options.min_area:
                tally.below_area += 1
            else:
                masks.append(Mask(video_object, x.rle, x.area, x.box, x.score))
        tally.frames += 1
        tally.masks += len(masks)
        file_name = f"{frame.name}.{exporter.suffix}"
        yield ExportFrame(frame.number, frame.name, file_name, frame.time, frame.states, masks, None, None)


def _cleaned(run: Run, frame: RunFrame, cleaning: Cleaning, tally: Tally) -> list[RunMask]:
    """The masks of a frame as the export has them, less those of which nothing is left; what a person said stands."""
    said = {x["id"] for x in frame.states if x["stage"] in AS_SAID}
    kept = []
    for x in frame.masks:
        if x.object_id in said:
            kept.append(x)
            continue
        old = decoded(x.rle["counts"], (run.height, run.width))
        new = cleaning.masks(old[None], [x.box])[0]
        changed = not np.array_equal(old, new)
        tally.cleaned += changed
        if not changed:
            kept.append(x)
        elif (box := boxes_around(new[None])[0]) is not None:
            rle = {**x.rle, "counts": encoded(new)}
            kept.append(replace(x, rle=rle, area=float(new.sum()), box=box))
        else:
            tally.cleaned_away += 1
    return kept


def _left_out(tally: Tally, options: ExportOptions) -> list[str]:
    lines = []
    for number, why in (
        (tally.below_score, f"with a score below {options.min_score:g}"),
        (tally.below_area, f"of fewer than {options.min_area} pixels"),
        (tally.cleaned_away, f"that were parts of fewer than {options.cleaning.min_part} pixels"),
        (tally.of_left_out_labels, "of labels that --categories leaves out"),
    ):
        if number:
            lines.append(f"{counted(number, 'mask')} {why} left out")
    if tally.cleaned:
        lines.append(f"{counted(tally.cleaned, 'mask')} cleaned of specks and holes")
    if tally.copied_pictures:
        copied = counted(tally.copied_pictures, "picture")
        lines.append(f"{copied} copied as they are, with whatever else their files say (EXIF: times, devices, names)")
    return lines


def _record(format_name: str, dataset: Dataset, tally: Tally, notes: list[str]) -> dict[str, Any]:
    options = dataset.options
    return {
        "format": format_name,
        "version": __version__,
        "options": {
            "frames": options.frames,
            "every": options.every,
            "min_score": options.min_score,
            "min_area": options.min_area,
            **asdict(options.cleaning),
            **({"rle": options.rle} if format_name == "youtube-vis" else {}),
            **({"parts": options.parts} if format_name == "yolo-seg" else {}),
        },
        "frames": tally.frames,
        "masks": tally.masks,
        "notes": notes,
        "categories": [asdict(x) for x in dataset.categories],
        "videos": [
            {
                "id": video.id,
                "name": video.name,
                "folder_name": video.flat_name,
                **({"split": video.split} if video.split else {}),
                "run": readable(str(video.run.folder)),
                "objects": [
                    {"id": x.id, "track_id": x.track_id, "category_id": x.category.id, "text": x.text}
                    for x in video.objects.values()
                ],
            }
            for video in dataset.videos
        ],
    }
