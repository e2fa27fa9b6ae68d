"""``resurgsam2 refine``: what is wrong in a finished run, and its correction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resurgsam2_cli.commands import options as shared
from resurgsam2_cli.errors import InputError, UsageError, WeightsProblem
from resurgsam2_cli.files.text import counted, one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from resurgsam2_cli.prompts.marks import Mark
    from resurgsam2_cli.refining.refine import BuildEngine
    from resurgsam2_cli.runs.record import Run
    from resurgsam2_cli.segmenting.engine import Engine

_REACH = "How far a correction is followed"
_LOOK = "Without changing anything"


def refine(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    mark: Annotated[
        list[str] | None,
        typer.Option(
            "--mark",
            help='What is true: "grasper@1:30 +320,240 -100,50" (clicks on and beside it), box x,y,w,h, mask FILE.png, '
            'absent, confirmed; "grasper@100-180 absent" for all frames from one to another. Repeat for more.',
        ),
    ] = None,
    marks: shared.MarksFile = None,
    edited: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Corrections made elsewhere: the run itself, if its images were edited; PNGs (DAVIS, SA-V), COCO, "
            "XML of CVAT, or a zip of one of these. Only what differs from the run counts.",
        ),
    ] = None,
    texts: Annotated[
        list[str] | None,
        typer.Option("--text", "-t", help='A new object, searched for by its words: "text" or "text=label".'),
    ] = None,
    new: Annotated[
        list[str] | None,
        typer.Option("--new", help="The name of a new object without words, which --mark or --marks then points at."),
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Go back to the version before this one; again, to the one before that.")
    ] = False,
    alike: Annotated[
        float,
        typer.Option(
            min=0.5,
            max=1,
            help="A new mask agrees with the old one if their IoU is at least this.",
            rich_help_panel=_REACH,
        ),
    ] = 0.98,
    agree_frames: Annotated[
        int,
        typer.Option(
            min=0,
            help="Stop after this many frames in a row that agree; 0: go on to the next frame that you corrected or "
            "confirmed, or to the end.",
            rich_help_panel=_REACH,
        ),
    ] = 10,
    reach: Annotated[
        int | None,
        typer.Option(min=0, help="Frames to track on each side, at most (default: no limit).", rich_help_panel=_REACH),
    ] = None,
    versions: Annotated[
        bool,
        typer.Option(
            "--versions", help="Print the versions: when each was made, and from how many marks.", rich_help_panel=_LOOK
        ),
    ] = False,
    places: Annotated[
        bool,
        typer.Option("--list", help="Print what is worth a look, the most urgent first.", rich_help_panel=_LOOK),
    ] = False,
    count_places: Annotated[
        int, typer.Option(min=1, help="With --list: places to print, at most.", rich_help_panel=_LOOK)
    ] = 20,
    sources: shared.Sources = None,
    weights: shared.WeightsOfRun = None,
    clip_weights: shared.ClipWeights = None,
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    quiet: shared.Quiet = False,
    as_json: shared.AsJson = False,
    verbose: shared.Verbose = False,
) -> None:
    """Correct a finished run: say what is true in a few frames, and the others follow.

    The masks that you give are kept for good. From each, the object is tracked in both directions, until that agrees
    with what is there. Other objects stay as they are, to the bit, and every earlier version can be had again.

    Examples

      resurgsam2 refine runs/video --mark "grasper@1:30 +320,240 -100,50"

      resurgsam2 refine runs/video --mark "left grasper@2:10-2:25 absent" --mark "left grasper@120 confirmed"

      resurgsam2 refine runs/video --marks corrections.json --reach 250

      resurgsam2 refine runs/video --from corrected-in-cvat.zip

      resurgsam2 refine runs/video --text "clip applier" --new needle --mark "needle@90 +320,240"

      resurgsam2 refine runs/video --undo
    """
    from resurgsam2_cli.runs.find import check_run
    from resurgsam2_cli.runs.record import read_run

    check_run(run)
    if (asked := sum((bool(mark or marks or edited or texts or new), undo, versions, places))) != 1:
        raise UsageError(
            "refine does one thing at a time" if asked else f"{run}: nothing says what to do with it",
            "give corrections (--mark, --marks, --from, --text, --new), or one of --undo, --versions and --list",
        )
    if places:
        _print_places(run, count_places, as_json=as_json)
        return
    if versions:
        _print_versions(run, as_json=as_json)
        return
    if undo:
        from resurgsam2_cli.refining.versions import undo as take_back

        number = take_back(run)
        _tell(
            {"run": str(run.absolute()), "version": number},
            f"{run.absolute()} is version {number} again",
            as_json,
            quiet,
        )
        return

    from resurgsam2_cli.prompts.prompt import Prompt
    from resurgsam2_cli.refining.kept import prompts_of
    from resurgsam2_cli.refining.refine import Given
    from resurgsam2_cli.refining.refine import refine as correct
    from resurgsam2_cli.refining.tracking import Reach
    from resurgsam2_cli.segmenting.engine import build_engine
    from resurgsam2_cli.terminal.bars import FramesBar

    said = _said(mark, marks)
    added = [*map(Prompt.parse, texts or ()), *(Prompt(x, x, words=False) for x in map(_label, new or ()))]
    if not said and edited is None and not added:
        raise InputError(f"{marks}: has no mark", "add one")
    for name in new or ():
        if edited is None and not any(x.name == _label(name) or x.name.isdigit() for x in said):
            raise UsageError(f"--new {name}: nothing points at it", f'add --mark "{name}@FRAME +X,Y", or another mark')
    found, before = read_run(run), _present(run)
    with FramesBar(found.name, (*prompts_of(found), *added), None, quiet=quiet or as_json) as bar:
        done = correct(
            run,
            Given(said, added, edited, Reach(alike, agree_frames, reach)),
            engines_of(found, weights, ctx.params, build_engine, quiet=quiet),
            sources=sources,
            watch=bar,
        )
    line = f"{done.folder.absolute()} is version {done.version} now: {counted(done.frames, 'frame')} changed"
    if edited is not None:
        line += f", with {counted(done.masks, 'mask')} taken from {edited}"
    if done.replaced:
        line += (
            f"\n{done.replaced} of these took the place of what earlier corrections had made: --undo takes that back"
        )
    if not done.frames and not added:
        line = f"{edited}: nothing differs from {done.folder.absolute()}, which stays as it is"
    for x in (x for x in found.objects if x.id in done.not_listed):
        line += f"\n{edited} does not list the label {x.label!r}: nothing was taken for object {x.id}"
    for name, count in _present(done.folder).items():
        if name in before and count != before[name]:
            line += f"\n{name} is in {counted(count, 'frame')} now, and was in {before[name]}"
    record = {"run": str(done.folder.absolute()), "version": done.version, "frames": done.frames, "masks": done.masks}
    _tell({**record, "timing": done.timing.record(done.frames)}, line, as_json, quiet)


def _present(run: Path) -> dict[str, int]:
    """In how many frames each object of a run is, by its id and label."""
    from resurgsam2_cli.runs.record import raw_record

    objects = raw_record(run).get("objects", ())
    return {f"{x['id']} ({x['label']})": x["frames_present"] for x in objects if type(x.get("frames_present")) is int}


def _label(text: str) -> str:
    label = one_line(text)
    if not label or (label.isascii() and label.isdecimal()):
        raise UsageError(f"--new {text!r}: is no label", "give the new object a name")
    return label


def _said(texts: list[str] | None, file: Path | None) -> list[Mark]:
    from resurgsam2_cli.prompts.marks import parse_mark, read_marks

    return [*(parse_mark(x) for x in texts or ()), *(read_marks(file) if file is not None else ())]


def engines_of(
    run: Run, name: str | None, parameters: dict[str, Any], load: Callable[..., Engine], *, quiet: bool
) -> BuildEngine:
    """Builds the engine of a run, or that of other weights. ``load`` is ``build_engine``, or as that."""
    from resurgsam2_cli.runs.record import raw_record

    recorded = raw_record(run.folder).get("weights", {})

    def build(words: bool) -> Engine:
        try:
            engine = load(
                name or str(recorded.get("name")),
                parameters["clip_weights"],
                parameters["device"],
                parameters["precision"],
                words=words,
            )
        except WeightsProblem as error:
            if name is not None:
                raise
            raise WeightsProblem(
                f"the weights of the run, {recorded.get('name')}: {error.message}", "name others: --weights NAME"
            ) from error
        if name is None and engine.weights.sha256 != recorded.get("sha256"):
            raise WeightsProblem(
                f"the run was made with other weights that were called {recorded.get('name')}",
                f"to go on with these all the same: --weights {recorded.get('name')}",
            )
        for line in () if quiet else engine.warnings:
            typer.echo(f"resurgsam2: {line}", err=True)
        return engine

    return build


def _print_versions(run: Path, *, as_json: bool) -> None:
    from dataclasses import asdict

    from resurgsam2_cli.refining.versions import versions_of

    found = versions_of(run)
    if as_json:
        print(json.dumps([asdict(x) for x in found]), flush=True)
        return
    for x in found:
        if not x.number:
            typer.echo("0  as it was segmented")
        else:
            by = f" by {x.weights}" if x.weights else ""
            typer.echo(f"{x.number}  {x.when}  {counted(x.marks, 'mark')}, {counted(x.frames, 'frame')} changed{by}")


def _print_places(path: Path, most: int, *, as_json: bool) -> None:
    from resurgsam2_cli.refining.places import worth_a_look
    from resurgsam2_cli.runs.record import read_run

    run = read_run(path)
    found = worth_a_look(run, most)
    if as_json:
        print(json.dumps([x.to_json() for x in found]), flush=True)
        return
    for x in found:
        span = f"{x.span[0]}-{x.span[1]}" if x.span[0] != x.span[1] else f"{x.frame}"
        done = "  (reviewed)" if x.reviewed else ""
        typer.echo(f"{run.objects[x.object_id - 1].label}@{x.frame}  (frames {span})  {x.reason}{done}")
    if not found:
        typer.echo(f"{run.name}: nothing stands out")


def _tell(record: dict[str, Any], line: str, as_json: bool, quiet: bool) -> None:
    if as_json:
        print(json.dumps(record), flush=True)
    elif not quiet:
        typer.echo(line, err=True)
