"""Nothing of a user's is lost: in runs, exports, data sets, trainings and the cache, and around them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clips import ffmpeg
from conftest import SMALL, Cli, small_state
from finished_runs import finished_run
from killing import killed_at
from PIL import Image

from resurgsam2_cli.runs.folder import Wanted
from resurgsam2_cli.training.data import data_sums
from weights.loader import save_release
from weights.store import sha256


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "op.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25", "-frames:v", "4", path)
    return path


@pytest.mark.parametrize(
    "name", ["notes.txt", "masks/notes.txt", "masks/00000_fixed.png", "masks/backup/x.png", "objects/001/mine.png"]
)
def test_files_inside_a_run(name: str, cli: Cli, clip: Path, small_weights: Path) -> None:
    run = ("-t", "x", "--weights", small_weights, "--object-png", "--no-overlay")
    assert cli("segment", clip, *run).code == 0
    mine = Path("runs/op") / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    for command in (("segment", clip, "--overwrite"), ("batch", clip, "--overwrite", "--threshold", "1")):
        done = cli(*command, *run)
        assert done.code in (1, 6)
        assert "did not make" in done.err
        assert mine.read_text() == "mine"
    mine.unlink()
    Path("runs/op/masks/.DS_Store").touch()  # what systems leave is nobody's
    if "backup" in name:
        mine.parent.rmdir()
    assert cli("segment", clip, *run, "--overwrite").code == 0


def test_masks_drawn_into_a_run_without(cli: Cli, clip: Path, small_weights: Path) -> None:
    """What a run did not write is a user's, also under names that other runs write."""
    run = ("-t", "x", "--weights", small_weights, "--no-overlay", "--no-png", "--no-coco")
    assert cli("segment", clip, *run).code == 0
    for name in ("masks", "annotations.json", "overlay.mp4"):
        path = Path("runs/op") / name
        path.mkdir()
        assert cli("segment", clip, *run, "--overwrite").code == 6
        path.rmdir()
    assert cli("segment", clip, *run, "--overwrite").code == 0


@pytest.mark.parametrize("how", ["added", "added below", "changed", "removed"])
@pytest.mark.parametrize("kind", ["export", "render"])
def test_files_inside_exports_and_data_sets(kind: str, how: str, cli: Cli, clip: Path, tmp_path: Path) -> None:
    command: tuple[str | Path, ...] = ("render", "out", "--count-frames", "3", "--width", "64", "--height", "48")
    if kind == "export":
        finished_run(tmp_path / "runs" / "op", clip, overlay=False)
        command = ("export", tmp_path / "runs", "-f", "davis", "-o", "out")
    assert cli(*command).code == 0
    path = next(Path("out").rglob("00001.png"))
    if how == "added":
        (Path("out") / "notes.txt").write_text("mine")
    elif how == "added below":
        path.with_name("mine.png").write_text("mine")
        os.utime(path.with_name("mine.png"), (1, 1))
    elif how == "changed":
        later = path.stat().st_mtime + 60
        path.write_bytes(path.read_bytes())
        os.utime(path, (later, later))
    else:
        path.unlink()
    again = cli(*command, "--overwrite")
    assert again.code == 6, again.err
    assert "did not make" in again.err
    shutil.rmtree("out")
    assert cli(*command).code == 0
    assert cli(*command, "--overwrite").code == 0


def test_targets_called_partial(cli: Cli, clip: Path, tmp_path: Path) -> None:
    finished_run(tmp_path / "runs" / "op", clip, overlay=False)
    export = ("export", tmp_path / "runs", "-f", "davis", "-o")
    assert cli(*export, "ds.partial").code == 6
    assert cli(*export, "ds").code == 0
    Path("ds").rename("other.partial")  # a user's way of naming: not ours any more
    assert cli(*export, "other").code == 6
    assert cli(*export, "other", "--overwrite").code == 6
    assert len(list(Path("other.partial/op").iterdir())) == 4
    for target in (".", ""):
        done = cli("render", target, "--count-frames", "2")
        assert done.code == 6
        assert "is the present folder" in done.err


def test_a_correction_before_an_interrupted_replacement(cli: Cli, clip: Path, small_weights: Path) -> None:
    """The replacement was killed on its last step; the run was corrected since. Neither is lost."""
    run = ("-t", "x", "--weights", small_weights, "--no-overlay")
    assert cli("segment", clip, *run).code == 0
    shutil.copytree("runs/op", "runs/op.partial")
    Path("runs/op.partial/.unfinished").touch()
    drawn = Path("runs/op/masks/00000.png")
    Image.fromarray(np.eye(48, 64, dtype=np.uint8)).save(drawn)
    before = drawn.read_bytes()
    for command in (
        ("batch", clip),
        ("batch", clip, "--overwrite"),
        ("segment", clip),
        ("segment", clip, "--overwrite"),
    ):
        done = cli(*command, *run)
        assert done.code in (1, 6)
        assert "is complete, but op is in the way" in done.err
        assert drawn.read_bytes() == before
    shutil.move("runs/op", "corrected")
    assert cli("batch", clip, *run).code == 0
    assert os.listdir("runs") == ["batch.json", "op"] or sorted(os.listdir("runs")) == ["batch.json", "op"]


def test_kept_masks_that_were_corrected(cli: Cli, small_weights: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25", "-frames:v", "60", whole)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    run = ("-t", "x", "--weights", small_weights, "--no-overlay")
    assert cli("segment", cut, *run).code == 3
    assert cli("segment", cut, *run).code == 3  # untouched, they are made again
    for name in ("masks/00000.png", "notes.txt"):
        path = Path("runs/cut.partial") / name
        before = path.read_bytes() if path.exists() else b""
        path.write_bytes(b"mine")
        for command in (("segment", cut), ("segment", cut, "--overwrite"), ("batch", cut)):
            done = cli(*command, *run)
            assert done.code in (1, 6)
            assert "holds what a person changed or added" in done.err
            assert path.read_bytes() == b"mine"
        path.write_bytes(before)
        if not before:
            path.unlink()
    assert cli("segment", cut, *run).code == 3


def test_folders_of_others_are_no_trainings(cli: Cli) -> None:
    Path("mine/frames").mkdir(parents=True)
    Path("mine/frames/p.png").write_text("mine")
    Path("mine/log.csv").write_text("mine")
    for content in ('{"my": 1}', "[]", "?"):
        Path("mine/plan.json").write_text(content)
        for more in ((), ("--overwrite",)):
            done = cli("train", "-o", "mine", *more)
            assert done.code in (3, 6)
            assert "Traceback" not in done.err
            assert Path("mine/plan.json").read_text() == content
    Path("mine/plan.json").unlink()
    Path("mine/state.pt").write_text("mine")
    assert cli("train", "-o", "mine", "--overwrite").code == 6
    assert sorted(os.listdir("mine")) == ["frames", "log.csv", "state.pt"]


def test_records_of_others_in_the_cache(cli: Cli, small_weights: Path, tmp_path: Path) -> None:
    home = tmp_path / "weights-home"
    home.mkdir()
    (home / "w.json").write_text('{"mine": 1}')
    done = cli("weights", "add", small_weights, "--name", "w")
    assert done.code == 2
    assert "w.json: is in the way" in done.err
    assert (home / "w.json").read_text() == '{"mine": 1}'
    assert cli("weights", "add", small_weights, "--name", "v").code == 0
    none = cli("weights", "remove", "v", "nope")
    assert none.code == 2
    assert "nothing was removed" in none.err
    assert cli("weights", "remove", "v").code == 0


def test_a_record_with_more_in_it(cli: Cli, clip: Path, small_weights: Path) -> None:
    Path("out").mkdir()
    Path("out/batch.json").write_text('{"videos": [], "mine": "keep"}')
    assert cli("batch", clip, "-t", "x", "--weights", small_weights, "-o", "out").code == 6
    assert Path("out/batch.json").read_text() == '{"videos": [], "mine": "keep"}'


def test_a_trash_that_leads_elsewhere(cli: Cli, clip: Path, small_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    Path("runs").mkdir()
    Path("runs/.resurgsam2.trash").symlink_to(tmp_path / "precious")
    run = ("segment", clip, "-t", "x", "--weights", small_weights, "--no-overlay", "--overwrite")
    assert cli(*run).code == 0
    assert cli(*run).code == 6
    assert os.listdir(tmp_path / "precious") == ["file"]


def test_what_is_missing_is_said(cli: Cli, clip: Path, small_weights: Path) -> None:
    run = ("batch", clip, "-t", "x", "--weights", small_weights, "--no-overlay")
    assert cli(*run).code == 0
    shutil.rmtree("runs/op/masks")
    done = cli(*run)
    assert done.code == 1
    assert "masks is missing" in done.err
    assert cli(*run, "--overwrite").code == 0
    assert Path("runs/op/masks/00000.png").exists()


def test_a_dry_run_knows_what_fails(cli: Cli, clip: Path) -> None:
    run = ("batch", clip, "-t", "x", "--weights", "demo", "--dry-run")
    Path("out/op").mkdir(parents=True)
    Path("out/op/mine").touch()
    Path("file").touch()
    for more, code in (
        (("-o", "out"), 1),
        (("-o", "file"), 6),
        (("--device", "foo"), 2),
        (("--precision", "fp99"), 2),
        (("--start", "1000"), 1),
    ):
        assert cli(*run, *more).code == code, more
    several = cli(
        "batch", clip, shutil.copy(clip, "other.mkv"), "-t", "x", "--weights", "demo", "--dry-run", "--limit", "1"
    )
    assert len(several.out.splitlines()) == 2


def test_pictures_that_were_renamed_or_changed(cli: Cli, small_weights: Path, tmp_path: Path) -> None:
    Path("fr").mkdir()
    for i in range(3):
        Image.new("RGB", (32, 24), (80 * i, 0, 0)).save(f"fr/{i}.bmp")
    run = ("batch", "fr", "-t", "x", "--weights", small_weights, "--no-overlay")
    assert cli(*run).code == 0
    for i in range(3):
        Path(f"fr/{i}.bmp").rename(f"fr/f{5 * i}.bmp")
    done = cli(*run)
    assert done.code == 1
    assert "the source has changed" in done.err
    from resurgsam2_cli.training.data import AnnotatedVideo

    paths = tuple(Path("fr") / f"f{5 * i}.bmp" for i in range(3))
    video = AnnotatedVideo("v", paths, paths, (("x", 1),))
    before = data_sums([video])
    Image.new("RGB", (32, 24), (9, 9, 9)).save(paths[0])  # as large as before
    assert data_sums([video]) != before


def test_white_space_in_names(cli: Cli, small_weights: Path) -> None:
    Path("fr").mkdir()
    names = ["f  1", " f3", "f 2 "]
    for name in names:
        Image.new("RGB", (32, 24)).save(f"fr/{name}.png")
    assert cli("segment", "fr", "-t", "x", "--weights", small_weights, "--no-overlay").code == 0
    assert sorted(x.stem for x in Path("runs/fr/masks").iterdir()) == sorted(names)
    assert cli("evaluate", "runs", "--truth", "runs/fr").code in (0, 3)
    assert cli("export", "runs", "-f", "coco", "-o", "all.json", "--every", "1").code == 0


def test_results_do_not_go_into_runs(cli: Cli, clip: Path, small_weights: Path, tmp_path: Path) -> None:
    run = ("-t", "x", "--weights", small_weights, "--no-overlay")
    assert cli("segment", clip, *run).code == 0
    shutil.copy(clip, "top.mkv")
    for command in (
        ("segment", "top.mkv", *run, "-o", "runs/op"),
        ("segment", "top.mkv", *run, "-o", "runs/op/masks"),
        ("segment", "top.mkv", *run, "-o", "runs/op/new"),
        ("batch", "top.mkv", *run, "-o", "runs/op"),
        ("export", finished_run(tmp_path / "r" / "op", clip, overlay=False).folder, "-f", "davis", "-o", "runs/op/new"),
    ):
        done = cli(*command)
        assert done.code in (1, 2), done.err
        assert "lies inside the run" in done.err
    assert not Path("runs/op/new").exists()


def test_rows_by_path_with_globs(cli: Cli, clip: Path, small_weights: Path) -> None:
    for day in ("day1", "day2"):
        Path("vids", day).mkdir(parents=True)
        shutil.copy(clip, f"vids/{day}/op.mkv")
    Path("p.csv").write_text("video,text\nday1/op.mkv,a\nday2/op,b\n")
    options = ("--prompts", "p.csv", "--weights", small_weights, "--no-overlay", "--json")
    done = cli("batch", "vids/day*/*.mkv", *options)
    assert done.code == 0, done.err
    assert sorted(str(x.parent) for x in Path("runs").rglob("run.json")) == ["runs/day1/op", "runs/day2/op"]
    folders = cli("batch", "vids/day1", "vids/day2", *options, "-o", "other")
    assert folders.code == 0, folders.err
    texts = {x["source"]: x for x in json.loads(folders.out)["videos"]}
    assert len(texts) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="makes a named pipe")
def test_pipes_and_hidden_folders(cli: Cli, clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "v"
    (folder / ".thumbs").mkdir(parents=True)
    (folder / "@eaDir").mkdir()
    (folder / "empty").mkdir()
    for place in (folder / ".thumbs", folder / "@eaDir"):
        Image.new("RGB", (8, 8)).save(place / "1.jpg")
    shutil.copy(clip, folder)
    os.mkfifo(folder / "pipe.mp4")
    done = cli("batch", folder, "-t", "x", "--weights", "demo", "--dry-run", "--json", "-r")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [Path(x["source"]).name for x in found["videos"]] == ["op.mkv"]
    assert {Path(x["path"]).name for x in found["left_out"]} == {".thumbs", "@eaDir", "empty", "pipe.mp4"}
    for source in ("", "-"):
        assert cli("batch", source, "-t", "x").code == 3


def test_the_same_weights_are_the_same_file(tmp_path: Path) -> None:
    sums = set()
    for i in range(4):
        save_release(tmp_path / f"{i}.safetensors", SMALL, small_state(), made_from="x")
        sums.add(sha256(tmp_path / f"{i}.safetensors"))
    assert len(sums) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_is_full(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "RESURGSAM2_HOME": str(tmp_path)}
    for command in (["weights", "list", "--json"], ["doctor", "--json"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "resurgsam2_cli", *command],
                stdout=full,
                stderr=subprocess.PIPE,
                env=environment,
                text=True,
                check=False,
            )
        assert done.returncode == 6, done.stderr
        assert "standard output: cannot be written" in done.stderr
        assert "Traceback" not in done.stderr


def test_quiet_still_tells_what_failed(cli: Cli, clip: Path, small_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("?")
    done = cli("batch", clip, tmp_path / "bad.mp4", "-t", "x", "--weights", small_weights, "-q", "--no-overlay")
    assert done.code == 1
    assert [x for x in done.err.splitlines() if "bad.mp4: failed: " in x]
    assert len(done.err.splitlines()) == 1
    assert cli("batch", clip, "-t", "x", "--weights", small_weights, "-q", "--no-overlay").err == ""
    rows = {Path(x["source"]).name: x for x in json.loads(Path("runs/batch.json").read_text())["videos"]}
    assert rows["op.mkv"]["state"] == "skipped"
    assert rows["op.mkv"]["frames"] == 4  # what it took is not forgotten


def test_a_marker_that_a_kill_left_in_a_finished_run(tmp_path: Path) -> None:
    """Between the last rename and the removal of the marker: the run is there, and the marker goes."""

    def work(content: str) -> None:
        record = {
            "format": 1,
            "complete": True,
            "source": {"path": "/v.mp4", "size": 1},
            "settings": {"content": content},
            "objects": [],
        }
        with Wanted(tmp_path, "v", "/v.mp4", {"size": 1}).claim(overwrite=True) as folder:
            folder.complete(record)

    seen = 0
    for step in range(1, 60):
        shutil.rmtree(tmp_path / "v", ignore_errors=True)
        if not killed_at(step, lambda: work("new"), tmp_path):
            break
        seen += (tmp_path / "v" / ".unfinished").exists()
        assert Wanted(tmp_path, "v", "/v.mp4", {"size": 1}).find()[0] == tmp_path / "v"
        work("newer")
        assert sorted(x.name for x in (tmp_path / "v").iterdir()) == ["run.json"]
    assert seen
