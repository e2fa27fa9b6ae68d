"""``resurgsam2 probe``: which wording finds something in a video, before a run is made."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resurgsam2_cli.commands import options as shared
from resurgsam2_cli.errors import UsageError, weights_errors

if TYPE_CHECKING:
    from resurgsam2_cli.outputs.sheet import Row
    from resurgsam2_cli.segmenting.probing import Detection, Probe, Wording
    from weights.loader import WeightsInfo

_WIDE, _WIDEST = 240, 9600
"""Pixels of a picture on the sheet, and of all pictures of a row at most."""

_ROWS = 40
"""Sentences on the sheet, at most."""


def probe(
    source: Annotated[str, typer.Argument(help="A video file, a folder of images, or - for standard input.")],
    text: Annotated[
        list[str] | None, typer.Option("--text", "-t", help="A wording to try; repeat for each one.")
    ] = None,
    frames: Annotated[
        int,
        typer.Option("--frames", "--count-frames", min=1, max=100, help="Frames to search, spread over the video."),
    ] = 12,
    templates: Annotated[
        bool, typer.Option("--templates", help="Also try each wording in the forms that the weights learned.")
    ] = False,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Where to write the contact sheet, a PNG.", rich_help_panel=shared.OUTPUTS),
    ] = Path("sheet.png"),
    weights: shared.Weights = "auto",
    clip_weights: shared.ClipWeights = None,
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    deinterlace: shared.Deinterlace = False,
    max_pixels: shared.MaxPixels = None,
    overwrite: shared.Overwrite = False,
    quiet: shared.Quiet = False,
    as_json: shared.AsJson = False,
    verbose: shared.Verbose = False,
) -> None:
    """Find out in seconds which wording works: a few frames are searched for each one, and nothing is tracked.

    The table has the best wording first: in how many of the frames it finds something credible, by the rules of the
    weights for a first frame (CIFS), and how sure the network is. The contact sheet shows what was found where.

    Examples

      resurgsam2 probe video.mp4 -t "left grasper" -t grasper -t "grasper on the left"

      resurgsam2 probe video.mp4 -t "left grasper" --templates -o left-grasper.png

      resurgsam2 probe frames/ -t kidney -t liver --frames 30 --json
    """
    from resurgsam2_cli.files.atomic import writing
    from resurgsam2_cli.files.kinds import check_free
    from resurgsam2_cli.outputs.sheet import SHEET, write_sheet
    from resurgsam2_cli.prompts.prompt import MOST_PROMPTS, parse_prompts
    from resurgsam2_cli.runs.find import check_no_run
    from resurgsam2_cli.video.frames import MOST_PIXELS, Reading
    from resurgsam2_cli.video.source import open_source, source_path

    check_no_run(source)
    asked = [x.text for x in parse_prompts(list(dict.fromkeys(text or [])))]
    if out.suffix.lower() != ".png":
        raise UsageError(f"{out}: the contact sheet is a PNG", "give it a name that ends in .png")
    check_free(out, SHEET, overwrite=overwrite)
    with open_source(source, Reading(None, deinterlace, max_pixels or MOST_PIXELS)) as video:
        from resurgsam2_cli.segmenting.engine import build_engine
        from resurgsam2_cli.segmenting.probing import probe as search

        engine = build_engine(weights, clip_weights, device, precision)
        for line in () if quiet else engine.warnings:
            typer.echo(f"resurgsam2: {line}", err=True)
        shared.say_wording(engine.weights.name, engine.weights.path, asked, quiet=quiet)
        tried = _with_templates(engine.weights, asked) if templates else asked
        tried = list(dict.fromkeys(tried))
        if len(tried) > MOST_PROMPTS:
            raise UsageError(f"{len(tried)} wordings are more than {MOST_PROMPTS}", "try fewer at a time")
        begin = time.perf_counter()
        result = search(engine, video, tried, frames, min(_WIDE, _WIDEST // frames))
        seconds = time.perf_counter() - begin
        path = source_path(video)
    titles = [f"{x.name}  {_clock(float(x.time))}" for x in result.frames]
    shown = result.wordings[:_ROWS]
    write_sheet(out, titles, [x.picture for x in result.frames], [_row(result, x) for x in shown], overwrite=overwrite)
    if as_json:
        record = {
            "source": path,
            "weights": engine.weights.name,
            "backend": engine.record(),
            **_record(result, asked),
            "seconds": round(seconds, 3),
            "sheet": str(out.absolute()),
        }
        with writing(Path("standard output")):
            print(json.dumps(record), flush=True)
    elif not quiet:
        _say(result)
        for line in result.notes:
            typer.echo(f"note: {line}", err=True)
        more = f", with the best {_ROWS} of {len(result.wordings)} wordings" if len(result.wordings) > _ROWS else ""
        typer.echo(f"{len(result.frames)} frames in {seconds:.1f} s", err=True)
        typer.echo(f"{out.absolute()}{more}", err=True)


def _with_templates(weights: WeightsInfo, asked: list[str]) -> list[str]:
    """The wordings, and what each of them says in the forms that the weights learned."""
    from weights.store import vocabulary_of

    with weights_errors():
        vocabulary = vocabulary_of(weights.name, weights.path)
    if vocabulary is None:
        raise UsageError(f"the forms that {weights.name} learned are not known", "leave --templates out")
    return [x for text in asked for x in (text, *vocabulary.forms_of(text))]


def _row(result: Probe, wording: Wording) -> Row:
    from resurgsam2_cli.outputs.sheet import Cell, Row

    lines = [f"credible in {wording.credible} of {len(result.frames)}", f"presence {wording.mean_presence:.2f}"]
    if wording.mean_iou is not None:
        lines.append(f"predicted IoU {wording.mean_iou:.2f}")
    cells = [Cell(x.mask(y), _line(y), y.credible) for x, y in zip(result.frames, wording.detections, strict=True)]
    return Row(wording.text, tuple(lines), cells)


def _line(x: Detection) -> str:
    return f"{x.presence:.2f}, IoU {x.predicted_iou:.2f}" if x.present else f"{x.presence:.2f}, absent"


def _record(result: Probe, asked: list[str]) -> dict[str, Any]:
    """What was found, as plain JSON types."""
    rules = result.rules
    return {
        "rules": {"min_presence": rules.min_presence, "min_iou": rules.min_iou},
        "frames": [{"frame": x.number, "name": x.name, "time": float(x.time)} for x in result.frames],
        "wordings": [
            {
                "text": x.text,
                "asked": x.text in asked,
                "frames_credible": x.credible,
                "frames_present": x.present,
                "mean_presence": x.mean_presence,
                "mean_predicted_iou": x.mean_iou,
                "detections": [
                    {
                        "present": y.present,
                        "credible": y.credible,
                        "presence": y.presence,
                        "predicted_iou": y.predicted_iou,
                    }
                    for y in x.detections
                ],
            }
            for x in result.wordings
        ],
        "notes": result.notes,
    }


def _say(result: Probe) -> None:
    from rich.table import Table
    from rich.text import Text

    from resurgsam2_cli.terminal.console import console

    table = Table("wording", "credible in", "presence", "predicted IoU", box=None, pad_edge=False)
    for x in result.wordings:
        iou = "" if x.mean_iou is None else f"{x.mean_iou:.2f}"
        table.add_row(Text(x.text), f"{x.credible} of {len(result.frames)} frames", f"{x.mean_presence:.2f}", iou)
    console().print(table)


def _clock(seconds: float) -> str:
    """A time as a title has room for: 1:02:03.5."""
    tenths = round(10 * seconds)
    hours, minutes, rest = tenths // 36000, tenths // 600 % 60, tenths % 600 / 10
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
