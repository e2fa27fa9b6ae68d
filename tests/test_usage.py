"""What the command line says of wrong usage, and what a failure leaves behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import Cli


@pytest.mark.parametrize(
    ("arguments", "cause", "remedy"),
    [
        (("segment", "x.mp4", "--strid", "2"), "segment: there is no option --strid", "did you mean --stride? "),
        (("segment", "x.mp4", "--qqqqqq"), "segment: there is no option --qqqqqq", ""),
        (("segment",), "segment: the argument 'source' is missing", "A video file, a folder of images, or - for a "),
        (("segment", "x.mp4", "--text"), "segment: --text needs a value", ""),
        (("segment", "x.mp4", "--overwrite=1"), "segment: --overwrite takes no value", ""),
        (("export", "runs", "-f", "coco"), "export: --out / -o is missing", "A folder to make, "),
        (("export", "runs", "-f", "cocoa", "-o", "x"), "export: --format / -f: 'cocoa' is not one of 'coco'", ""),
        (("doctor", "there"), "doctor: this is too much: there", ""),
        (("weights", "add"), "weights add: the argument 'path' is missing", "A .pth, "),
        (("weights", "fetc"), "there is no command 'weights fetc'", "did you mean fetch? "),
        (("segmnt",), "there is no command 'segmnt'", "did you mean segment? "),
        (("--versio",), "there is no option --versio", "did you mean --version? "),
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
