"""What a person added stays, what is gone is missed, what is damaged is said, and no two things get one name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from clips import H264, encode
from conftest import Cli
from finished_runs import finished_run
from test_together import Fragile, item_of

from resurgsam2_cli.batch.executor import EngineRequest
from resurgsam2_cli.batch.processes import Processes
from resurgsam2_cli.batch.standing import Asked
from resurgsam2_cli.errors import DeviceError
from resurgsam2_cli.files.filling import Filling, naming, partial_of
from resurgsam2_cli.runs.folder import RUN, Wanted
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.terminal.batch_table import BatchTable


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return encode(tmp_path / "op.mkv", *H264, numbers=range(4), size=(48, 64))


RUN_OPTIONS = ("-t", "x", "--no-overlay")


def killed_run(out: Path, clip: Path, mine: str) -> Path:
    """What a kill leaves of a run at work, and a file that a person has put there since."""
    partial = out / "op.partial"
    (partial / "masks").mkdir(parents=True)
    (partial / ".unfinished").touch()
    (partial / "masks" / "00000.png").write_bytes(b"ours")
    (partial / ".frames.jsonl.partial").write_bytes(b"ours")
    record = {"format": 1, "complete": False, "source": {"path": str(clip), "size": 1, "sum": "x"}}
    (partial / "run.json").write_text(json.dumps(record))
    path = partial / mine
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    return path


@pytest.mark.parametrize("mine", ["notes.txt", "masks/mine.png", "masks/00000 (1).png", "backup/x.png"])
@pytest.mark.parametrize("verb", ["segment", "batch"])
def test_files_in_what_a_kill_left(verb: str, mine: str, cli: Cli, clip: Path, small_weights: Path) -> None:
    path = killed_run(Path("runs"), clip, mine)
    for more in ((), ("--overwrite",)):
        done = cli(verb, clip, *RUN_OPTIONS, "--weights", small_weights, *more)
        assert done.code in (1, 6)
        assert "holds what a person changed or added" in done.err
        assert path.read_text() == "mine"
    path.unlink()
    if "backup" in mine:
        path.parent.rmdir()
    assert cli(verb, clip, *RUN_OPTIONS, "--weights", small_weights).code == 0
    assert not Path("runs/op.partial").exists()


def test_files_added_while_a_run_is_written(tmp_path: Path) -> None:
    """An interrupted run throws away what it wrote, not what somebody else put beside it."""
    for mine in ("", "notes.txt"):
        path = tmp_path / f"op{len(mine)}"
        with naming(tmp_path):
            filling = Filling(path, RUN, overwrite=False)
            filling.begin()
        if mine:
            (filling.partial / mine).write_text("mine")
        filling.abandon()
        assert partial_of(path).exists() == bool(mine)


def test_emptied_runs_are_not_complete(cli: Cli, clip: Path, small_weights: Path) -> None:
    batch = ("batch", clip, "-t", "x", "--weights", small_weights)
    assert cli(*batch).code == 0
    shutil.copytree("runs/op", "whole")
    damages: dict[str, Callable[[], object]] = {
        "overlay.mp4": Path("runs/op/overlay.mp4").unlink,
        "masks": Path("runs/op/masks/00002.png").unlink,
        "annotations.json": lambda: Path("runs/op/annotations.json").write_text(""),
        "frames.jsonl": Path("runs/op/frames.jsonl").unlink,
    }
    for name, damage in damages.items():
        damage()
        done = cli(*batch)
        assert done.code == 1, name
        assert f"{name} is missing" in " ".join(done.err.split())
        shutil.rmtree("runs/op")
        shutil.copytree("whole", "runs/op")
        assert cli(*batch).code == 0


@pytest.mark.parametrize(
    "content", ["", '{"form', "[]", '{"complete": true}', '{"format": 99, "complete": true}', None]
)
def test_damaged_records_are_said(content: str | None, cli: Cli, clip: Path, tmp_path: Path) -> None:
    """A finished run whose record is damaged is not taken for an unfinished one."""
    for name in ("a", "b"):
        finished_run(tmp_path / "runs" / name, clip, overlay=False)
    record = tmp_path / "runs" / "a" / "run.json"
    if content is None:
        record.unlink()
    else:
        record.write_text(content)
    for command in (
        ("export", tmp_path / "runs", "-f", "coco", "-o", "x.json"),
        ("train", "-o", "t", "--data", tmp_path / "runs", "--validation", tmp_path / "runs"),
    ):
        done = cli(*command)
        assert done.code == 3
        assert str(record.parent) in done.err


def test_a_video_beside_a_folder_of_its_name(cli: Cli, clip: Path, small_weights: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "Op" / "deep").mkdir(parents=True)
    for name in ("op.mkv", "Op/x.mkv", "Op/deep/y.mkv"):
        shutil.copy(clip, source / name)
    batch = ("batch", source, "-r", *RUN_OPTIONS, "--weights", small_weights)
    assert cli(*batch, "--dry-run").code == 0
    for _ in range(2):
        done = cli(*batch)
        assert done.code == 0, done.err
        runs = {x.parent.relative_to("runs").as_posix() for x in Path("runs").rglob("run.json")}
        assert runs == {"op-2", "Op/x", "Op/deep/y"}


def test_a_run_around_the_present_folder(
    cli: Cli, clip: Path, small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("segment", clip, *RUN_OPTIONS, "--weights", small_weights)
    assert cli(*run, "-o", "r").code == 0
    there = Path("r").absolute()
    monkeypatch.chdir(there / "op")
    done = cli(*run, "-o", "..", "--threshold", "1", "--overwrite")
    assert done.code == 6
    assert "is the present folder, or one around it" in done.err
    assert sorted(os.listdir(there)) == ["op"]


def test_sources_that_lead_through_the_output_folder(
    cli: Cli, clip: Path, small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proj" / "here").mkdir(parents=True)
    (tmp_path / "vid").mkdir()
    shutil.copy(clip, tmp_path / "vid")
    monkeypatch.chdir(tmp_path / "proj" / "here")
    done = cli("batch", "../../vid", *RUN_OPTIONS, "--weights", small_weights, "-o", "..")
    assert done.code == 0, done.err
    assert (tmp_path / "proj" / "op" / "run.json").exists()
    again = cli("batch", "../../proj", *RUN_OPTIONS, "--weights", small_weights, "-o", "..")
    assert again.code == 3  # that is the output folder indeed


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("video,text\nop,blunt, curved scissors\n", "line 2: has 3 cells where the first line has 2"),
        ("video,text,label\nop,size, 5 mm trocar,trocar\n", "line 2: has 4 cells where the first line has 3"),
        ("video,text,text\nop,a,b\n", "has two columns text"),
    ],
)
def test_rows_with_too_many_cells(lines: str, said: str, cli: Cli, clip: Path) -> None:
    Path("p.csv").write_text(lines)
    done = cli("segment", clip, "--prompts", "p.csv")
    assert done.code == 3
    assert said in done.err


def test_rows_with_empty_cells_at_the_end(cli: Cli, clip: Path, small_weights: Path) -> None:
    Path("p.csv").write_text("video,text\nop,scissors,,\n")
    assert cli("segment", clip, "--prompts", "p.csv", "--weights", small_weights, "--no-overlay").code == 0


def test_accents_typed_in_two_ways(cli: Cli, clip: Path, small_weights: Path) -> None:
    shutil.copy(clip, "caf\u00e9.mkv")
    Path("p.csv").write_text("video,text\ncafe\u0301,scissors\n", encoding="utf-8")
    run = ("--prompts", "p.csv", "--weights", small_weights, "--no-overlay")
    assert cli("segment", "caf\u00e9.mkv", *run).code == 0


def test_frames_of_two_videos_do_not_share_a_file(cli: Cli, tmp_path: Path) -> None:
    for video, form in (("op", "1_{}"), ("op_1", "{}"), ("OP-", "1_{}")):
        folder = tmp_path / "pictures" / video
        encode(tmp_path / "picture.png", numbers=[3], size=(48, 64))
        folder.mkdir(parents=True)
        for i in range(3):
            shutil.copy(tmp_path / "picture.png", folder / f"{form.format(i)}.png")
        finished_run(tmp_path / "runs" / video, folder, overlay=False)
    done = cli("export", tmp_path / "runs", "-f", "yolo-seg", "--frames", "png", "-o", "y")
    assert done.code == 0, done.err
    for kind in ("labels", "images"):
        names = [x.stem for x in Path("y", kind, "train").iterdir()]
        assert len({x.casefold() for x in names}) == 9


class Dies(EngineRequest):
    """A request whose processes die while they start: as many as ``weights`` says, a file with a number in it."""

    def build(self, device: str) -> object:  # type: ignore[override]
        left = int(Path(self.weights).read_text())
        if left:
            Path(self.weights).write_text(str(left - 1))
            os._exit(9)
        return EngineRequest(str(self.clip_weights), None, "fp32").build(device)


@pytest.mark.parametrize("deaths", [1, 4])
def test_processes_that_die_while_they_start(deaths: int, clip: Path, small_weights: Path, tmp_path: Path) -> None:
    """Another takes the place of one; where none can start, nothing is done and the reason is said."""
    counter = tmp_path / "deaths"
    counter.write_text(str(deaths))
    options = SegmentOptions(overlay=False)
    job = Fragile(tmp_path / "out", options, Asked(options.record(), {"name": "x", "sha256": "x"}, None, None))
    request = Dies(str(counter), small_weights, "auto")
    processes = Processes(request, ["cpu", "cpu"])
    work = processes.run(job, [item_of(clip)], BatchTable(1, quiet=True), None, lambda warning: None)
    if deaths > 1:
        with pytest.raises(DeviceError, match="ended"):
            list(work)
    else:
        assert [x.state for x in work] == ["done"]
    assert Wanted(tmp_path / "out", "op", str(clip), {}).find()[1] is not None or deaths > 1
