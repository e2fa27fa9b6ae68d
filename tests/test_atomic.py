"""Everything appears whole or not at all, even if the program is killed at any step, and nothing of a user's goes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import SMALL, Cli
from finished_runs import finished_run
from killing import contents, every_kill, killed_at
from torch import nn

from model.training.trainer import Recipe
from resurgsam2_cli.batch.items import Outcome
from resurgsam2_cli.batch.record import Record
from resurgsam2_cli.cache.install import described, install, remove
from resurgsam2_cli.errors import OutputError, UserError
from resurgsam2_cli.exports import EXPORTERS, ExportOptions
from resurgsam2_cli.exports.base import Exporter
from resurgsam2_cli.exports.categories import CategoryRules
from resurgsam2_cli.exports.job import export, plan
from resurgsam2_cli.exports.target import Target
from resurgsam2_cli.files.atomic import replacing
from resurgsam2_cli.files.filling import LOCK, TRASH, Busy, fill, naming, new_file, throw_away
from resurgsam2_cli.files.json_list import append_item, write_open_list
from resurgsam2_cli.files.kinds import Kind, file_that_holds, never
from resurgsam2_cli.files.locks import Lock
from resurgsam2_cli.runs.find import find_runs
from resurgsam2_cli.runs.folder import Wanted
from resurgsam2_cli.training.folder import Log, TrainingFolder
from resurgsam2_cli.training.plan import Phase, TrainingPlan

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")

Work = Callable[[Path], Any]


def write_run(out: Path, content: str, *, overwrite: bool = True, fail: bool = False) -> None:
    with Wanted(out, "clip", "/videos/clip.mp4", {"size": 1}).claim(overwrite=overwrite) as folder:
        (folder.partial / "masks").mkdir()
        for i in range(3):
            (folder.partial / "masks" / f"{i:05d}.png").write_text(f"{content}{i}")
        if fail:
            raise KeyError
        folder.complete(
            {
                "format": 1,
                "complete": True,
                "source": {"path": "/videos/clip.mp4", "size": 1},
                "settings": {"content": content},
                "objects": [],
            }
        )


def nothing(folder: Path) -> None:
    pass


def compared(files: dict[str, bytes | None]) -> dict[str, bytes | None]:
    """Contents without the headers of safetensors files, whose members come in any order."""
    return {
        name: x[8 + int.from_bytes(x[:8], "little") :] if x and name.endswith("release.safetensors") else x
        for name, x in files.items()
    }


def check_every_kill(prepare: Work, work: Work, root: Path, whole: Callable[[Path], bool] = lambda _: True) -> int:
    """After a kill at any step, the next start ends with the same files as an undisturbed one."""
    quiet = root / "undisturbed"
    quiet.mkdir(parents=True)
    prepare(quiet)
    work(quiet)
    expected = contents(quiet)
    assert not [x for x in expected if x.endswith((LOCK, TRASH)) or ".partial" in x]
    steps = 0
    for folder in every_kill(prepare, work, root):
        assert whole(folder), contents(folder)
        try:
            work(folder)
        except OutputError as error:  # it was done, and must not be done again
            assert "already there" in error.message
        assert compared(contents(folder)) == compared(expected), f"killed at {folder.name}"
        steps += 1
    return steps


def test_runs_are_killed_at_every_step(tmp_path: Path) -> None:
    def state(out: Path) -> str:
        """Which version of the run is there: under its final name, or complete and on its way to it."""
        for folder in (out / "clip", out / "clip.partial"):
            if (folder / "run.json").exists() and json.loads((folder / "run.json").read_text())["complete"]:
                version = json.loads((folder / "run.json").read_text())["settings"]["content"]
                masks = [(folder / "masks" / f"{i:05d}.png").read_text() for i in range(3)]
                assert masks == [f"{version}{i}" for i in range(3)]
                return str(version)
        return ""

    def old(out: Path) -> None:
        write_run(out, "old")

    assert check_every_kill(nothing, lambda x: write_run(x, "new", overwrite=False), tmp_path / "new") > 8
    assert check_every_kill(old, lambda x: write_run(x, "new"), tmp_path / "replaced", lambda x: state(x) != "") > 12

    def failing(out: Path) -> None:
        with pytest.raises(KeyError):
            write_run(out, "new", fail=True)

    assert check_every_kill(old, failing, tmp_path / "failing", lambda x: state(x) == "old") > 10


def test_a_run_is_killed_twice(tmp_path: Path) -> None:
    """A kill may also hit the program that tidies up."""
    for step in range(1, 40):
        for again in (1, 2, 3, 5, 8):
            out = tmp_path / f"{step}-{again}"
            write_run(out, "old")
            killed_at(step, lambda out=out: write_run(out, "new"), out)  # type: ignore[misc]
            killed_at(again, lambda out=out: write_run(out, "new"), out)  # type: ignore[misc]
            write_run(out, "new")
            assert sorted(x.name for x in out.iterdir()) == ["clip"]


def test_exports_are_killed_at_every_step(tmp_path: Path, video: Path) -> None:
    finished_run(tmp_path / "runs" / "clip", video, overlay=False)
    runs, _ = find_runs([tmp_path / "runs"])

    def exporting(name: str, path: str, every: int) -> Work:
        options = ExportOptions(every=every)

        def work(folder: Path) -> None:
            target = Target(folder / path, EXPORTERS[name].file_suffix, overwrite=True)
            export(name, plan(runs, EXPORTERS[name], options, CategoryRules(), None), target, lambda _: None)

        return work

    for name, path in (("davis", "out"), ("coco", "all.json"), ("cvat", "out")):
        steps = check_every_kill(exporting(name, path, 8), exporting(name, path, 5), tmp_path / f"{name}-{path}")
        assert steps > 10


@pytest.mark.parametrize("name", EXPORTERS)
@pytest.mark.parametrize("splits", [False, True])
def test_what_a_killed_export_wrote_is_known(name: str, splits: bool, tmp_path: Path, video: Path) -> None:
    """The next export throws that away, and nothing else."""
    finished_run(tmp_path / "runs" / "clip", video, overlay=False)
    runs, _ = find_runs([tmp_path / "runs"])
    exporter, out, partial = EXPORTERS[name], tmp_path / "out", tmp_path / "out.partial"
    options = ExportOptions(frames="png" if splits and exporter.has_pictures else None)
    split = "train=1" if splits and exporter.has_pictures else None

    def exporting(finish: Callable[[Exporter], None] = exporter.finish) -> None:
        class Killed(exporter):  # type: ignore[valid-type,misc]
            pass

        Killed.finish = finish
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(EXPORTERS, name, Killed)
            data = plan(runs, exporter, options, CategoryRules(), split)
            export(name, data, Target(out, exporter.file_suffix, overwrite=True), lambda _: None)

    def kill(self: Exporter) -> None:
        exporter.finish(self)
        shutil.copytree(partial, tmp_path / "kept")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exporting(kill)
    assert not partial.exists()
    written = {x.relative_to(tmp_path / "kept") for x in (tmp_path / "kept").rglob("*") if x.is_file()}
    inner = next(iter(sorted(x.parent for x in written if x.parent != Path())), Path("somewhere"))
    for theirs in ("notes.md", f"{inner}/notes.md", f"{inner}/below/notes.csv", ""):
        shutil.copytree(tmp_path / "kept", partial)
        if theirs:
            (partial / theirs).parent.mkdir(exist_ok=True, parents=True)
            (partial / theirs).write_text("a user's")
            with pytest.raises(OutputError, match=rf"changed or added \({re.escape(theirs)}\)"):
                exporting()
            assert (partial / theirs).read_text() == "a user's"
            assert not out.exists()
            shutil.rmtree(partial)
    exporting()
    assert not partial.exists()
    there = {x.relative_to(out) for x in out.rglob("*") if x.is_file()}
    assert there == written - {Path(".unfinished")}


def test_a_file_in_what_a_killed_export_left_stays(cli: Cli, video: Path) -> None:
    """Also if the export was to be a file, or was killed before it wrote anything."""
    finished_run(Path("runs/clip"), video, overlay=False)
    for out in ("all.json", "out"):
        partial = Path(f"{out}.partial")
        partial.mkdir()
        (partial / ".unfinished").touch()
        (partial / "notes.txt").write_text("a user's")
        done = cli("export", "runs", "-f", "coco", "-o", out)
        assert done.code == 6
        assert "(notes.txt), so it is not thrown away\n  rename it, or choose another path with -o\n" in done.err
        assert (partial / "notes.txt").read_text() == "a user's"
        (partial / "notes.txt").unlink()
        assert cli("export", "runs", "-f", "coco", "-o", out).code == 0


def test_weights_are_killed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {name: tmp_path / name / "x.safetensors" for name in ("old", "new")}
    for name, file in files.items():
        file.parent.mkdir()
        file.write_text(name)

    def adding(name: str) -> Work:
        def work(home: Path) -> None:
            monkeypatch.setenv("RESURGSAM2_HOME", str(home))
            install(described(files[name], "x", "network", "here"), lambda _: None, overwrite=True)
            # The folder, and so the path, differs in every run.
            (home / "x.json").write_text((home / "x.json").read_text().replace(str(home), "HOME"))

        return work

    def whole(home: Path) -> bool:
        """Every file that a record describes is there."""
        record = home / "x.json"
        if not record.exists():
            return True
        entry = json.loads(record.read_text())
        return bool((home / entry["path"]).read_text() in ("old", "new"))

    def removing(home: Path) -> None:
        monkeypatch.setenv("RESURGSAM2_HOME", str(home))
        try:
            remove("x")
        except UserError as error:
            assert "is not here" in error.message

    assert check_every_kill(nothing, adding("new"), tmp_path / "added") > 5
    assert check_every_kill(adding("old"), adding("new"), tmp_path / "replaced", whole) > 8
    assert check_every_kill(adding("old"), removing, tmp_path / "removed") > 5

    def damaging(home: Path) -> None:
        adding("old")(home)
        (home / "x.json").write_text("{")

    assert check_every_kill(damaging, removing, tmp_path / "damaged") > 5


def test_training_is_killed_at_every_step(tmp_path: Path) -> None:
    torch.set_num_threads(1)  # a forked process could not use the others
    network = nn.Linear(2, 2)
    network.config = SMALL  # type: ignore[assignment]
    made = TrainingPlan(SMALL, (Phase(2, 64, 1, 1),), Recipe(steps=2))

    def save(folder: TrainingFolder, step: int) -> None:
        trainer = SimpleNamespace(step=step, network=network, state_dict=lambda: {"step": step})
        folder.save(made, trainer)  # type: ignore[arg-type]

    def training(steps: int) -> Work:
        def work(path: Path) -> None:
            with TrainingFolder(path / "out") as folder:
                folder.begin(overwrite=False)
                folder.agree(made.record([], 1))
                state = torch.load(path / "out/state.pt") if (path / "out/state.pt").exists() else {"step": 0}
                begin = int(state["step"])
                with Log(folder.path, begin) as log:
                    for step in range(begin + 1, steps + 1):
                        log.add(step, 3, {"loss": float(step)}, 0.0)
                        save(folder, step)
                save(folder, steps)

        return work

    def whole(path: Path) -> bool:
        state = path / "out/state.pt"
        return not state.exists() or torch.load(state)["step"] in (1, 2)

    assert check_every_kill(nothing, training(2), tmp_path, whole) > 12


def test_the_record_of_a_batch_is_killed_at_every_step(tmp_path: Path) -> None:
    def adding(path: Path) -> None:
        record = Record(path)
        for i in range(3):
            list(record.add([Outcome(f"/v{i}", "done", note="é" * i)]))
        record.tidy()

    def whole(path: Path) -> bool:
        json.loads((path / "batch.json").read_text()) if (path / "batch.json").exists() else None
        return True

    def old(path: Path) -> None:
        (path / "batch.json").write_text(json.dumps({"videos": [{"source": "/v1", "state": "failed"}]}, indent=1))

    assert check_every_kill(nothing, adding, tmp_path / "new", whole) > 5
    assert check_every_kill(old, adding, tmp_path / "old", whole) > 5


# --- What is not ours ---------------------------------------------------------------------------------------------

MINE = Kind("a note", file_that_holds("by me"), never)


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("a user's")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="is not replaced"), new_file(path, MINE, overwrite=overwrite):
            pytest.fail("is begun")
    assert path.read_text() == "a user's"
    path.write_text("by me, once")
    with pytest.raises(OutputError, match="already there"), new_file(path, MINE, overwrite=False):
        pytest.fail("is begun")
    with new_file(path, MINE, overwrite=True) as partial:
        partial.write_text("by me, again")
        assert path.read_text() == "by me, once"
    assert path.read_text() == "by me, again"
    assert os.listdir(tmp_path) == ["notes.txt"]
    with pytest.raises(KeyError), new_file(path, MINE, overwrite=True) as partial:
        partial.write_text("half")
        raise KeyError
    assert path.read_text() == "by me, again"
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_what_comes_in_the_meantime_stays(tmp_path: Path) -> None:
    """Checks made before hours of work may no longer hold after it."""
    path = tmp_path / "notes.txt"
    with pytest.raises(OutputError, match="is not replaced"), new_file(path, MINE, overwrite=True) as partial:
        partial.write_text("by me")
        path.write_text("a user's")
    assert path.read_text() == "a user's"
    out = tmp_path / "runs"
    with (
        pytest.raises(OutputError, match=r"all is kept in .*clip\.partial"),
        Wanted(out, "clip", "/videos/clip.mp4", {}).claim(overwrite=False) as folder,
    ):
        (out / "clip").mkdir()
        (out / "clip" / "notes.txt").write_text("a user's")
        folder.complete(
            {"format": 1, "complete": True, "source": {"path": "/videos/clip.mp4"}, "settings": {}, "objects": []}
        )
    assert (out / "clip" / "notes.txt").read_text() == "a user's"
    (out / "clip").rename(tmp_path / "saved")
    write_run(out, "new")
    assert sorted(os.listdir(out)) == ["clip"]


def test_links_are_not_followed_when_deleting(tmp_path: Path) -> None:
    """A run that was moved to another disk and linked is replaced; the files on the other disk stay."""
    out = tmp_path / "runs"
    write_run(out, "old")
    (out / "clip").rename(tmp_path / "elsewhere")
    (out / "clip").symlink_to(tmp_path / "elsewhere")
    write_run(out, "new")
    assert (out / "clip" / "masks" / "00000.png").read_text() == "new0"
    assert (tmp_path / "elsewhere" / "masks" / "00000.png").read_text() == "old0"


def test_empty_folders_are_ours(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip.partial").mkdir()
    write_run(tmp_path, "new", overwrite=False)
    assert os.listdir(tmp_path) == ["clip"]


# --- Several at once ----------------------------------------------------------------------------------------------


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    """Threads all take the lock, remove its file, and give it back: there are never two inside."""
    inside, most, turns = 0, 0, []

    def work() -> None:
        nonlocal inside, most
        for _ in range(25):
            with naming(tmp_path):
                inside += 1
                most = max(most, inside)
                time.sleep(0.0005)
                turns.append(1)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert len(turns) == 100
    assert os.listdir(tmp_path) == []


def test_a_lock_comes_back_from_the_dead(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from resurgsam2_cli.files.locks import Lock
lock = Lock(Path({str(tmp_path / "lock")!r}))
assert lock.acquire()
print("held", flush=True)
time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    lock = Lock(tmp_path / "lock")
    assert not lock.acquire()
    process.kill()
    process.wait()
    process.stdout.close()
    assert lock.acquire(5)
    lock.release()
    assert os.listdir(tmp_path) == []


def test_one_fills_a_target(tmp_path: Path) -> None:
    path, kind = tmp_path / "x", Kind("a thing", lambda x: (x / "done").exists(), lambda x: (x / "done").exists())
    with fill(path, kind, overwrite=False) as first:
        with pytest.raises(Busy, match="another run is writing it"):
            fill(path, kind, overwrite=False)
        (first.partial / "done").touch()
        first.complete()
    with fill(path, kind, overwrite=True), pytest.raises(Busy):
        fill(path, kind, overwrite=True)
    assert sorted(x.name for x in tmp_path.rglob("*")) == ["done", "x"]


def test_names_are_given_under_a_lock(tmp_path: Path) -> None:
    """Sources of one name come all at once: each gets a folder of its own, and the same one when it comes again."""
    folders: dict[str, str] = {}

    def work(source: str) -> None:
        with Wanted(tmp_path, "op", source, {"size": 1}).claim(overwrite=False) as folder:
            time.sleep(0.05)
            folder.complete({"format": 1, "complete": True, "source": {"path": source}, "settings": {}, "objects": []})
            folders[source] = folder.path.name

    sources = [str(tmp_path / f"day{i}.mp4") for i in range(6)]
    for source in sources:
        Path(source).touch()
    threads = [threading.Thread(target=work, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(folders.values()) == ["op", "op-2", "op-3", "op-4", "op-5", "op-6"]
    for source, name in folders.items():
        path, record = Wanted(tmp_path, "op", source, {"size": 1}).find()
        assert path.name == name
        assert record is not None


def test_folders_that_come_and_go(tmp_path: Path) -> None:
    """Several work in a folder that is made and removed again all the time, and none is told of the others."""
    folder = tmp_path / "new" / "deep"
    problems: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(40):
                with naming(folder):
                    path = folder / f"{number}-{i}"
                    path.touch()
                    path.unlink()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    (tmp_path / "there").mkdir()
    with naming(tmp_path / "there" / "inside" / "it"):
        pass
    assert os.listdir(tmp_path / "there") == []
    with naming(tmp_path / "there" / "inside"):
        (tmp_path / "there" / "inside" / "file").touch()
    assert (tmp_path / "there" / "inside" / "file").exists()


# --- Full disks ---------------------------------------------------------------------------------------------------


def test_an_append_that_fails_leaves_the_list_whole(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    write_open_list(path, {"format": 1}, "items", [])
    for i in range(5):
        assert append_item(path, {"i": i, "text": "é]}"})
    assert [x["i"] for x in json.loads(path.read_text())["items"]] == list(range(5))
    before = path.read_bytes()
    code = f"""
import resource
from pathlib import Path
from resurgsam2_cli.files.json_list import append_item
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 5}, {len(before) + 5}))
try:
    append_item(Path({str(path)!r}), {{"i": 5, "text": "x" * 100}})
except OSError:
    raise SystemExit(3)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 3
    assert path.read_bytes() == before
    path.write_text('{"items": []}')
    assert not append_item(path, {})
    assert path.read_text() == '{"items": []}'


def test_nothing_half_is_left_of_files_that_fail(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as partial:
        partial.write_text("half")
        raise KeyError
    assert contents(tmp_path) == {"state": b"old"}
    with replacing(path) as partial:
        partial.write_text("new")
    assert contents(tmp_path) == {"state": b"new"}
    throw_away(path)
    assert contents(tmp_path) == {}
