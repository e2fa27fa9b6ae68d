"""``resurgsam2 export``: finished runs in another format."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from resurgsam2_cli.commands import options as shared
from resurgsam2_cli.errors import UsageError

_WHAT = "What is exported"
_LOOKS = "Overlay"


class Format(StrEnum):
    """The names in :data:`resurgsam2_cli.exports.EXPORTERS`; here so that --help is quick."""

    COCO = "coco"
    YOUTUBE_VIS = "youtube-vis"
    DAVIS = "davis"
    SAV = "sav"
    YOLO_SEG = "yolo-seg"
    CVAT = "cvat"
    LABEL_STUDIO = "label-studio"
    OVERLAY = "overlay"


class Pictures(StrEnum):
    """How pictures are saved."""

    JPG = "jpg"
    PNG = "png"


class Rle(StrEnum):
    """How YouTube-VIS stores masks."""

    COMPRESSED = "compressed"
    UNCOMPRESSED = "uncompressed"


def export(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of finished runs, or folders that hold runs at any depth.")
    ],
    format_: Annotated[Format, typer.Option("--format", "-f", help="The format to write.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="A folder to make, or a file for coco and youtube-vis (.json), cvat (.xml) and the overlay of one run"
            " (.mp4).",
        ),
    ],
    categories: Annotated[
        list[str] | None,
        typer.Option(
            help='"label=name" renames or merges, "label=" leaves out; repeat for each. A prompt may stand for the'
            ' label. Or a .json file: {"label": "name"}, or [{"id": 1, "name": "...", "labels": [...]}] for fixed ids,'
            " or a COCO file.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    frames: Annotated[
        Pictures | None,
        typer.Option(
            help="Also write the pictures, as jpg or png: a complete data set. Image files of that kind are copied.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    sources: Annotated[
        Path | None,
        typer.Option(help=shared.MOVED, rich_help_panel=_WHAT),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help='Split by video: shares such as train=0.8,val=0.2, or a .json file {"train": ["video", ...], ...}.',
            rich_help_panel=_WHAT,
        ),
    ] = None,
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out masks with a score below this.", rich_help_panel=_WHAT)
    ] = 0.0,
    min_area: Annotated[
        int, typer.Option(min=0, help="Leave out masks with fewer pixels than this.", rich_help_panel=_WHAT)
    ] = 0,
    min_part: shared.MinPart = 0,
    fill_holes: shared.FillHoles = 0,
    every: Annotated[int, typer.Option(min=1, help="Take every n-th of the frames.", rich_help_panel=_WHAT)] = 1,
    rle: Annotated[
        Rle,
        typer.Option(
            help="youtube-vis: TrackEval wants results compressed, ground truth uncompressed.", rich_help_panel=_WHAT
        ),
    ] = Rle.COMPRESSED,
    parts: Annotated[
        bool,
        typer.Option("--parts", help="yolo-seg: a polygon for each connected part of a mask.", rich_help_panel=_WHAT),
    ] = False,
    color: Annotated[
        list[str] | None,
        typer.Option(help='"category=#rrggbb"; repeat for each.', rich_help_panel=_LOOKS),
    ] = None,
    opacity: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Opacity of the inside of masks (default 0.45).", rich_help_panel=_LOOKS),
    ] = None,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="The video on the left, masks on the right.", rich_help_panel=_LOOKS)
    ] = False,
    legend: Annotated[
        bool,
        typer.Option(help="Name the objects in the picture, with the state of each.", rich_help_panel=_LOOKS),
    ] = True,
    overwrite: shared.Overwrite = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")] = False,
    as_json: shared.AsJson = False,
    verbose: shared.Verbose = False,
) -> None:
    """Turn finished runs into another format, without the model.

    Examples

      resurgsam2 export runs -f coco -o all.json

      resurgsam2 export runs -f yolo-seg -o dataset --frames jpg --split train=0.8,val=0.2

      resurgsam2 export runs -f cvat -o cvat --frames png --categories "left grasper=grasper"

      resurgsam2 export runs/clip -f overlay -o clip.mp4 --side-by-side --color "grasper=#00e5ff"
    """
    from resurgsam2_cli.exports import EXPORTERS, ExportOptions
    from resurgsam2_cli.exports.categories import CategoryRules
    from resurgsam2_cli.exports.job import export as run
    from resurgsam2_cli.exports.job import plan
    from resurgsam2_cli.exports.target import Target, check_suffix
    from resurgsam2_cli.files.atomic import writing
    from resurgsam2_cli.files.text import counted
    from resurgsam2_cli.outputs.cleaning import Cleaning
    from resurgsam2_cli.runs.find import find_runs
    from resurgsam2_cli.terminal.bars import VideosBar

    exporter = EXPORTERS[format_.value]
    options = ExportOptions(
        frames=frames.value if frames else None,
        sources=sources,
        every=every,
        min_score=min_score,
        min_area=min_area,
        cleaning=Cleaning(min_part, fill_holes),
        rle=rle.value,
        parts=parts,
        colors=tuple(_color(x) for x in color or ()),
        opacity=0.45 if opacity is None else opacity,
        side_by_side=side_by_side,
        legend=legend,
    )
    if not exporter.has_pictures and (frames or split):
        option = "--frames" if frames else "--split"
        raise UsageError(f"{option} makes no sense for {format_.value}", "leave it out")
    looks = {"color": bool(color), "opacity": opacity is not None, "side-by-side": side_by_side}
    looks["no-legend"] = not legend
    if format_ is not Format.OVERLAY and any(looks.values()):
        option = next(name for name, given in looks.items() if given)
        raise UsageError(f"--{option} is for --format overlay", "leave it out")
    if format_ is not Format.YOUTUBE_VIS and rle is not Rle.COMPRESSED:
        raise UsageError("--rle is for --format youtube-vis", "leave it out")
    if format_ is not Format.YOLO_SEG and parts:
        raise UsageError("--parts is for --format yolo-seg", "leave it out")
    check_suffix(out, format_.value, exporter.file_suffix)
    rules = CategoryRules.parse(categories or [])
    target = Target(out, exporter.file_suffix, overwrite=overwrite)
    found, unfinished = find_runs(runs)
    if target.is_file and (frames or split or (format_ is Format.OVERLAY and len(found) > 1)):
        why = "--frames" if frames else "--split" if split else f"the overlays of {len(found)} runs"
        raise UsageError(f"{out}: is one file, and {why} makes several", "name a folder with -o")
    dataset = plan(found, exporter, options, rules, split)
    with VideosBar(format_.value, len(found), quiet=quiet or as_json) as bar:
        summary = run(format_.value, dataset, target, lambda video: bar(video.name))
    notes = [*summary.notes, *([f"{counted(unfinished, 'unfinished run')} left out"] if unfinished else [])]
    if as_json:
        with writing(Path("standard output")):
            print(json.dumps({"path": str(summary.path), **summary.record, "notes": notes}), flush=True)
    elif not quiet:
        for note in notes:
            typer.echo(f"  {note}", err=True)
        typer.echo(
            f"{counted(len(found), 'video')}, {counted(summary.tally.frames, 'frame')},"
            f" {counted(summary.tally.masks, 'mask')} as {format_.value}",
            err=True,
        )
        typer.echo(str(summary.path), err=True)


def _color(argument: str) -> tuple[str, tuple[int, int, int]]:
    from resurgsam2_cli.runs.record import parse_color

    name, _, value = argument.rpartition("=")
    try:
        if not name:
            raise ValueError
        return name, parse_color(value)
    except ValueError as error:
        raise UsageError(f"--color {argument!r} is not category=#rrggbb", 'as "grasper=#00e5ff"') from error
