"""``resurgsam2 evaluate``: J, F, J&F and Dice of masks against a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resurgsam2_cli.commands import options as shared
from resurgsam2_cli.errors import InputError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from resurgsam2_cli.measuring.scores import Evaluation, Score


def evaluate(
    predictions: Annotated[
        Path, typer.Argument(help="A folder of runs, or of PNG masks in the layout of DAVIS or SA-V.")
    ],
    truth: Annotated[
        Path,
        typer.Option(
            "--truth", help="A data set in the layout of Ref-EndoVis, or its PNG annotations (DAVIS or SA-V layout)."
        ),
    ],
    groups: Annotated[
        str | None,
        typer.Option(help='ref-endovis17, ref-endovis18, or a JSON file {"name": [object ids]}.'),
    ] = None,
    all_frames: Annotated[
        bool | None,
        typer.Option(
            "--all-frames/--seen-frames",
            help="Count frames before an object is first seen as right if they are empty (as Ref-EndoVis's own "
            "evaluation does), or not at all (as vos-benchmark does). Defaults to the former for data sets with "
            "expressions.",
        ),
    ] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Measure what was predicted, and leave out the rest.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json-file", help="Write all scores as JSON.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv-file", help="Write all scores as CSV.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON on standard output.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes (default: one per core).")] = None,
    overwrite: shared.Overwrite = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table.")] = False,
    verbose: shared.Verbose = False,
) -> None:
    """Measure masks: J (region), F (boundary), their mean, and Dice, per object, video, group and overall.

    A prompt is measured against the object that the data set's expressions give its text; without expressions, and
    for PNG masks, against the object of the same number.

    Examples

      resurgsam2 evaluate runs --truth Ref-EndoVis18/valid --groups ref-endovis18

      resurgsam2 evaluate masks --truth DAVIS/Annotations --csv-file scores.csv
    """
    from tqdm import tqdm

    from resurgsam2_cli.files.atomic import writing
    from resurgsam2_cli.measuring.evaluation import evaluate as run
    from resurgsam2_cli.measuring.scores import check_writable, write_scores

    chosen = _groups(groups, truth)
    if json_file is not None and csv_file is not None and json_file.absolute() == csv_file.absolute():
        raise UsageError(f"{csv_file}: cannot be CSV and JSON at once", "name two files")
    for path in (json_file, csv_file):
        if path is not None:
            check_writable(path, is_json=path is json_file, overwrite=overwrite)
    with tqdm(unit="video", disable=quiet or as_json or None, leave=False) as bar:
        found = run(
            predictions,
            truth,
            groups=chosen,
            all_frames=all_frames,
            skip_missing=skip_missing,
            workers=workers,
            watch=lambda _: bar.update() and None,
        )
    if json_file is not None:
        write_scores(json_file, found.json(), overwrite=overwrite)
    if csv_file is not None:
        write_scores(csv_file, found.csv(), overwrite=overwrite)
    if as_json:
        with writing(Path("standard output")):
            print(found.json(), flush=True)
    elif not quiet:
        from resurgsam2_cli.terminal.console import console

        screen = console()
        screen.print(_table(found))
        screen.print(
            "frames before an object is first seen count when they are empty (--all-frames)"
            if found.all_frames
            else "an object counts from the first frame that shows it (--seen-frames)"
        )


def _groups(text: str | None, truth: Path) -> dict[str, tuple[int, ...]]:
    """The groups that an option names; without it, those of the published data set that a folder is named after."""
    from resurgsam2_cli.files.text import did_you_mean, one_line, read_json
    from resurgsam2_cli.measuring.evaluation import GROUPS

    if text is None:
        parts = [x.lower() for x in truth.absolute().parts]
        return next((GROUPS[name] for name in GROUPS if name in parts), {})
    if text.lower() in GROUPS:
        return GROUPS[text.lower()]
    path = Path(text)
    if not os.path.isfile(path):
        raise UsageError(
            f"--groups {text}: neither a file nor one of {', '.join(GROUPS)}",
            f"{did_you_mean(text, GROUPS)}see: resurgsam2 evaluate --help",
        )
    hint = 'write {"name": [object ids]}'
    content = read_json(path, hint)
    if not isinstance(content, dict) or not all(
        isinstance(ids, list) and all(isinstance(x, int) for x in ids) for ids in content.values()
    ):
        raise InputError(f"{path}: is not an object of groups", hint)
    return {one_line(name): tuple(ids) for name, ids in content.items()}


def _table(found: Evaluation) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in ("video", "object", "text"):
        table.add_column(name)
    for name in ("J&F", "J", "F", "Dice", "absent & empty", "frames"):
        table.add_column(name, justify="right")

    def add(name: str, x: Score, style: str | None = None) -> None:
        numbers = (x.j_and_f, x.j, x.f, x.dice, x.absent_empty)
        cells = ["-" if value is None else f"{value:.1f}" for value in numbers]
        table.add_row(*map(Text, (name, x.object, x.text, *cells, str(x.frames))), style=style)

    for video in found.videos:
        members = [x for x in found.objects if x.video == video.video]
        for x in members:
            add(x.video, x)
        if len(members) > 1:
            add(video.video, video, "bold")
    for name, x in found.groups.items():
        add(name, x, "bold")
    add("overall", found.overall, "bold")
    return table
