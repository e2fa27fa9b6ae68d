"""What the command line says of wrong usage, and what a failure leaves behind."""

from __future__ import annotations

import ast
import os
import re
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli
from finished_runs import finished_run
from PIL import Image
from typer.main import get_command

from resurgsam2_cli import open_run, segment_video
from resurgsam2_cli.app import app
from resurgsam2_cli.errors import InputError, UsageError
from resurgsam2_cli.files.text import did_you_mean
from resurgsam2_cli.outputs import FrameResult, ObjectResult
from resurgsam2_cli.outputs.stages import stages
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.terminal.summary import summary_lines


@pytest.mark.parametrize(
    ("arguments", "cause", "remedy"),
    [
        (("segment", "x.mp4", "--strid", "2"), "segment: there is no option --strid", "did you mean '--stride'? "),
        (("segment", "x.mp4", "--qqqqqq"), "segment: there is no option --qqqqqq", ""),
        (("segment",), "segment: the argument 'source' is missing", "A video file, a folder of images, or - for a "),
        (("segment", "x.mp4", "--text"), "segment: --text needs a value", ""),
        (("segment", "x.mp4", "--overwrite=1"), "segment: --overwrite takes no value", ""),
        (("export", "runs", "-f", "coco"), "export: --out / -o is missing", "A folder to make, "),
        (("export", "runs", "-f", "cocoa", "-o", "x"), "export: --format / -f: 'cocoa' is not one of 'coco'", ""),
        (("doctor", "there"), "doctor: this is too much: there", ""),
        (("weights", "add"), "weights add: the argument 'path' is missing", "A .pth, "),
        (("weights", "fetc"), "there is no command 'weights fetc'", "did you mean 'fetch'? "),
        (("segmnt",), "there is no command 'segmnt'", "did you mean 'segment'? "),
        (("SEGMENT",), "there is no command 'SEGMENT'", "did you mean 'segment'? "),
        (("--versio",), "there is no option --versio", "did you mean '--version'? "),
        (("render", "x.mp4", "--height", "3"), "render: --height: ", ""),
        (("render", "x.mp4", "--height", "tall"), "render: --height: ", ""),
    ],
)
def test_usage_errors_look_like_all_others(arguments: tuple[str, ...], cause: str, remedy: str, cli: Cli) -> None:
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    first, second = done.err.splitlines()
    assert first.startswith(f"resurgsam2: {cause}")
    command = next((x for x in (arguments[0],) if x in ("segment", "export", "doctor", "weights", "render")), "")
    command += " add" if arguments == ("weights", "add") else ""
    assert second.startswith(f"  {remedy}")
    assert second.endswith(f"see: {' '.join(['resurgsam2', *command.split(), '--help'])}")


def test_no_arguments_show_the_help(cli: Cli) -> None:
    done = cli()
    assert "Usage:" in done.out + done.err
    assert "segment" in done.out + done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("segment", "clip.mp4", "-t", "kidney", "--device", "cuda:99"),
        ("segment", "clip.mp4", "-t", "kidney", "--weights", "none"),
        ("train", "--data", "empty", "--start", "none"),
        ("train", "--data", "empty"),
        ("export", "runs", "-f", "coco"),
    ],
)
def test_what_fails_leaves_no_empty_folder(
    arguments: tuple[str, ...], cli: Cli, video: Path, small_weights: Path
) -> None:
    os.link(video, "clip.mp4")
    Path("empty").mkdir()
    cli("segment", "clip.mp4", "-t", "kidney", "--weights", small_weights, "-q", "--no-overlay")
    before = sorted(Path.cwd().rglob("*"))
    if "--weights" not in arguments and arguments[0] == "segment":
        arguments = (*arguments, "--weights", str(small_weights))
    if arguments[0] == "export":
        Path("runs/clip/annotations.json").write_text("{")
    assert cli(*arguments, "-o", "new/deep").code > 1
    assert sorted(Path.cwd().rglob("*")) == before
    Path("new").mkdir()  # what was there stays, empty or not
    assert cli(*arguments, "-o", "new/deep").code > 1
    assert sorted(Path.cwd().rglob("*")) == sorted([*before, Path("new").absolute()])


@pytest.mark.parametrize("out", ["file", "file/below", "file/far/below"])
@pytest.mark.parametrize(
    "command",
    [
        "segment clip.mp4 -t kidney",
        "batch clip.mp4 -t kidney",
        "batch clip.mp4 -t kidney --dry-run",
        "batch clip.mp4 -t kidney --split-minutes 1",
        "export run -f davis",
        "export run -f coco",
        "train",
        "render",
    ],
)
def test_a_file_where_a_folder_is_expected(command: str, out: str, cli: Cli, video: Path) -> None:
    os.link(video, "clip.mp4")
    if command.startswith("export"):
        finished_run(Path("run"), video)
    Path("file").write_text("mine")
    before = sorted(Path.cwd().rglob("*"))
    option = [] if command == "render" else ["-o"]
    done = cli(*command.split(), *option, out)
    assert (done.code, done.out) == (6, "")
    remedy = "name a folder with -o" if option else "name another folder"
    assert done.err == f"resurgsam2: file: is a file where a folder is expected\n  {remedy}\n"
    assert sorted(Path.cwd().rglob("*")) == before
    assert Path("file").read_text() == "mine"


def test_a_run_where_a_video_is_expected(cli: Cli, video: Path, small_weights: Path) -> None:
    assert cli("segment", video, "-t", "kidney", "--weights", small_weights, "-q", "--no-overlay").code == 0
    words = ("-t", "kidney")
    for source, cause in (
        ("runs", "runs: holds finished runs, not a video"),
        ("runs/clip", "runs/clip: is a finished run, so it is no video"),
        ("runs/clip/masks", "runs/clip/masks: lies in a finished run, so it is no video"),
        ("runs/clip/run.json", "runs/clip/run.json: is a file of a finished run, not a video"),
    ):
        for command in ("segment", "probe"):
            done = cli(command, source, *words)
            assert done.code == 3
            assert f"resurgsam2: {cause}\n  the commands for runs are review, refine, export and evaluate" in done.err
        with pytest.raises(InputError, match="finished run"):
            segment_video(source, "kidney")
    found = cli("batch", "runs", *words)
    assert found.code == 3
    assert "\n  the commands for runs are review, refine, export and evaluate" in found.err
    several = cli("refine", "runs", "--list")
    assert several.err == "resurgsam2: runs: holds runs, and is none itself\n  name one of them, such as runs/clip\n"
    assert "its folder: runs/clip" in cli("export", "runs/clip/run.json", "-f", "coco", "-o", "x.json").err
    assert "run.json: runs/clip" in cli("refine", "runs/clip/run.json", "--list").err


def test_a_list_is_for_batch(cli: Cli) -> None:
    Path("list.txt").write_text("a.mp4\n")
    done = cli("segment", "list.txt", "-t", "kidney")
    assert done.code == 3
    assert "list.txt: is a text file, not a video\n  for a list of videos: resurgsam2 batch" in done.err


def test_a_folder_of_images_that_holds_runs(cli: Cli, small_weights: Path) -> None:
    """The output folder may lie among the images."""
    Path("frames").mkdir()
    Image.new("RGB", (64, 48)).save("frames/1.png")
    run = ("segment", "frames", "-t", "kidney", "--weights", small_weights, "-q", "--no-overlay", "-o", "frames/runs")
    assert cli(*run).code == 0
    assert cli(*run, "--overwrite").code == 0


def test_equal_prompts(cli: Cli, video: Path, small_weights: Path) -> None:
    run = ("segment", video, "--weights", small_weights, "-q", "--no-overlay")
    for twice in (("-t", "kidney", "-t", " kidney "), ("-t", "kidney=organ", "-t", "kidney=organ")):
        done = cli(*run, *twice)
        assert done.code == 2
        assert "resurgsam2: 'kidney' is given twice, with the same label" in done.err
        assert cli("batch", *run[1:], *twice).code == 2
    assert cli(*run, "-t", "left grasper=grasper", "-t", "right grasper=grasper", "-t", "left grasper=left").code == 0
    again = cli("refine", "runs/clip", "--weights", small_weights, "-t", "left grasper=grasper")
    assert again.code == 2
    assert "the run has an object 'left grasper' already, with the same label 'grasper'" in again.err
    assert cli("probe", video, "--weights", small_weights, "-q", "-t", "kidney", "-t", "kidney").code == 0


def test_names_that_are_nearly_right(cli: Cli, video: Path, small_weights: Path) -> None:
    shutil.copy(video, "zwei.mp4")
    run = ("--weights", small_weights, "-q", "--no-overlay")
    Path("prompts.csv").write_text("video,text\nzwei.mp4,kidney\nzwie.mp4,left grasper\nother,left grasper\n")
    batch = cli("batch", "zwei.mp4", "--prompts", "prompts.csv", *run)
    assert batch.code == 0
    assert "prompts.csv: no video is called 'zwie.mp4'; did you mean 'zwei.mp4'?\n" in batch.err
    assert "prompts.csv: no video is called 'other'\n" in batch.err
    assert (
        "no video is called 'zwie.mp4'; did you mean"
        in cli("batch", "zwei.mp4", "--prompts", "prompts.csv", *run, "--retry-failed").err
    )
    shutil.copy(video, "zwei-2.mp4")
    mean = "\n  did you mean "
    assert f"{mean}'zwei.mp4'? add a row" in cli("segment", "zwei-2.mp4", "--prompts", "prompts.csv", *run).err
    assert f"{mean}'kidney'? its objects are" in cli("refine", "runs/zwei", "--mark", "kidny@3 absent").err
    with pytest.raises(UsageError) as error:
        open_run("runs/zwei").mask(0, "Kindey")
    assert error.value.hint.startswith("did you mean 'kidney'? its objects are")
    with pytest.raises(UsageError) as error:
        segment_video("zwei.mp4", "kidney", overlaye=False)  # type: ignore[call-arg]
    assert error.value.hint.startswith("did you mean 'overlay'? it has")
    export = ("export", "runs", "-o", "x.mp4", "-f", "overlay")
    assert f"{mean}'kidney'? there are: kidney" in cli(*export, "--color", "kidnee=#ff0000").err
    Path("split.json").write_text('{"train": ["zewi"]}')
    assert f"{mean}'zewi'? add it" in cli("export", "runs", "-f", "coco", "-o", "x", "--split", "split.json").err
    shutil.copy(small_weights, "mine.safetensors")
    cli("weights", "add", "mine.safetensors")
    assert f"{mean}'resurgsam2-ref-endovis18'? " in cli("weights", "fetch", "resurgsam2-ref-endovis1").err
    for action in (("verify",), ("remove",), ("remove", "mine")):
        assert f"{mean}'mine'? " in cli("weights", *action, "mien").err
    assert (
        f"{mean}'mine'? see: resurgsam2 weights list"
        in cli("segment", "zwei.mp4", "-t", "kidney", "-o", "new", "--weights", "mien").err
    )
    assert did_you_mean("grasper", ["kidney"]) == ""
    assert did_you_mean("x" * 10**6, ["x" * 10**6, ""]).startswith("did you mean 'xxx")


def progress(*objects: tuple[str, bool, float]) -> FrameResult:
    states = [
        ObjectResult(i, stage, present, 5.0 if present else -5.0, score, 1.0, (), ())
        for i, (stage, present, score) in enumerate(objects, start=1)
    ]
    empty = np.zeros((0, 0), np.uint8)
    return FrameResult(0, "00000", Fraction(0), empty, empty, empty, states)


def test_the_progress_speaks_as_the_overlay_does() -> None:
    few = progress(("track", True, 0.912), ("detect", False, 0.2), ("track", False, 0.1))
    prompts = tuple(map(Prompt.parse, ("left grasper=grasper", "right grasper=grasper", "kidney")))
    assert stages(prompts, few) == "left grasper: tracking 91 %, right grasper: searching, kidney: not seen"
    many = progress(("track", True, 0.9), ("track", True, 0.8), ("track", False, 0.1), *[("detect", True, 0.4)] * 3)
    assert stages((), many) == "3 searching, 2 tracking, 1 not seen"


def test_the_last_lines_are_plain() -> None:
    found = {"id": 1, "label": "kidney", "frames_present": 9, "first_present": 2, "marks": 0}
    record = {
        "source": {"frames": 12},
        "timing": {"seconds": 1.0, "frames_per_second": 12.0},
        "peak_memory_mb": {"process": 3},
        "backend": {"device": "cpu", "precision": "fp32"},
    }
    tracked, searched = {"initial_frame": 3, "decided_at": 6}, {"initial_frame": None, "decided_at": None}
    lines = summary_lines({**record, "objects": [{**found, **tracked}, {**found, **searched}]}, [])
    assert lines[0].endswith("in 9 of 12 frames, first in 2; tracked after frame 6, by what it looks like in frame 3")
    assert lines[1].endswith("first in 2; never sure enough to be tracked, so each frame was searched by itself")
    lost = {**found, "frames_present": 0, "first_present": None}
    for objects, words, marks in (([lost], 1, 0), ([{**lost, "marks": 1}], 0, 1), ([lost, {**lost, "marks": 2}], 1, 1)):
        said = "\n".join(summary_lines({**record, "objects": objects}, []))
        assert (said.count("other words may find"), said.count("where a mark is: add clicks")) == (words, marks)


def test_what_is_missing_is_said(cli: Cli, video: Path) -> None:
    finished = Path("run")
    finished_run(finished, video)
    nothing = cli("refine", finished)
    assert nothing.code == 2
    assert "nothing says what to do with it\n  give corrections (--mark" in nothing.err
    assert "refine does one thing at a time" in cli("refine", finished, "--undo", "--list").err
    assert "no prompt was given\n  name what you mean: --text" in cli("batch", finished).err
    both = cli("batch", finished, "-t", "kidney", "--prompts", "x.csv")
    assert "there are prompts in --text and in --prompts\n  give them in one of the two" in both.err


def options_of(command: Any) -> Iterator[str]:
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    for below in getattr(command, "commands", {}).values():
        yield from options_of(below)


def test_messages_name_options_that_there_are() -> None:
    known = {*options_of(get_command(app)), "--help"}
    root = Path(__file__).parents[1]
    found = 0
    for path in (*(root / "resurgsam2_cli").rglob("*.py"), *(root / "weights").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named = re.findall(r"(?<![\w-])--[a-z][a-z-]+", node.value)
                found += len(named)
                assert set(named) <= known, f"{path}: {node.value}"
    assert found > 100


def test_every_message_has_a_remedy() -> None:
    """Errors that are raised here have a cause and a hint, and neither is a bare word."""
    errors = {"UsageError", "InputError", "OutputError", "DeviceError", "WeightsProblem", "Busy"}
    root = Path(__file__).parents[1] / "resurgsam2_cli"
    raised = 0
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Raise):
                continue
            call = node.exc
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in errors:
                raised += 1
                assert len(call.args) + len(call.keywords) >= 2, f"{path}:{node.lineno}: no remedy"
    assert raised > 200
