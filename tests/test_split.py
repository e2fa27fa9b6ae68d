"""`resurgsam2 batch --split-minutes`: long videos in pieces, by any executor, resumed and joined."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from clips import ffmpeg
from conftest import Cli
from test_batch import contents

from resurgsam2_cli import open_run
from resurgsam2_cli.batch.executor import Queue
from resurgsam2_cli.batch.items import Cut, Item, Outcome, Piece
from resurgsam2_cli.video.positions import Part, Position

SPLIT = ("--split-minutes", "0.04", "--overlap", "0.4")  # 60 frames, of which 10 are common to two


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A long one, and a short one."""
    folder = tmp_path_factory.mktemp("split") / "videos"
    (folder / "day").mkdir(parents=True)
    for name, frames in (("day/long", 150), ("short", 20)):
        picture = f"testsrc2=size=64x48:rate=25,hue=h={frames}"
        ffmpeg("-f", "lavfi", "-i", picture, "-frames:v", str(frames), "-pix_fmt", "yuv420p", folder / f"{name}.mp4")
    return folder


@pytest.fixture
def batch(cli: Cli, videos: Path, small_weights: Path) -> Callable[..., Any]:
    def run(*more: str, out: str = "out") -> Any:
        return cli("batch", videos, "-r", "-t", "kidney", "--weights", small_weights, "-o", out, *SPLIT, *more)

    return run


def test_here_and_in_processes(batch: Callable[..., Any]) -> None:
    done = batch()
    assert not done.code, done.err
    assert "joined from 3 pieces" in done.err
    assert "2 done, 0 skipped, 0 failed" in done.err
    record = json.loads(Path("out/day/long/run.json").read_text())
    assert record["settings"]["split"] == {"minutes": 0.04, "overlap": 0.4}
    assert [50 <= x["frame"] < 60 or 100 <= x["frame"] < 110 for x in record["cuts"]] == [True, True]
    assert "split" not in json.loads(Path("out/short/run.json").read_text())["settings"]
    with open_run("out/day/long") as run:
        assert [x.number for x in run.frames()] == list(range(150))
    assert sorted(x.name for x in Path("out").rglob("*") if x.is_dir() and "masks" not in x.name) == [
        "day",
        "long",
        "short",
    ]
    rows = {Path(x["source"]).name: x for x in json.loads(Path("out/batch.json").read_text())["videos"]}
    assert rows["long.mp4"]["frames"] == 150
    assert len(rows) == 2

    assert not batch("--device", "cpu,cpu", out="two").code
    assert contents(Path("two")) == contents(Path("out"))
    again = batch()
    assert "0 done, 2 skipped, 0 failed" in again.err


def test_pieces_that_are_done_are_not_done_again(batch: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from resurgsam2_cli.joining import join

    def broken(*_: Any) -> None:
        raise RuntimeError("the power fails")

    with monkeypatch.context() as patch:
        patch.setattr(join, "join", broken)
        done = batch("--json")
    states = {Path(x["source"]).name: x["state"] for x in json.loads(done.out)["videos"]}
    assert states == {"long.mp4": "failed", "short.mp4": "done"}
    pieces = Path("out/day/long.pieces.partial")
    assert sorted(x.name for x in pieces.iterdir()) == ["00001", "00002", "00003"]
    before = {x: (pieces / x / "run.json").stat().st_mtime_ns for x in ("00001", "00003")}
    shutil.rmtree(pieces / "00002")
    kept: dict[str, int] = {}
    whole = join.join

    def watched(folders: list[Path], *rest: Any) -> Any:
        kept.update({x.name: (x / "run.json").stat().st_mtime_ns for x in folders})
        return whole(folders, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(join, "join", watched)
        done = batch()
    assert "1 done, 1 skipped, 0 failed" in done.err, done.err
    assert {x: kept[x] for x in before} == before
    assert not pieces.exists()


def test_pieces_go_with_a_run_in_one(
    batch: Callable[..., Any], cli: Cli, videos: Path, small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resurgsam2_cli.joining import join

    with monkeypatch.context() as patch:
        patch.setattr(join, "join", lambda *_: 1 / 0)
        batch()
    assert Path("out/day/long.pieces.partial").exists()
    done = cli("batch", videos, "-r", "-t", "kidney", "--weights", small_weights, "-o", "out")
    assert "1 done, 1 skipped, 0 failed" in done.err, done.err
    assert not Path("out/day/long.pieces.partial").exists()


def test_a_run_that_may_not_be_replaced(batch: Callable[..., Any]) -> None:
    """Is refused before its pieces are done."""
    assert not batch().code
    Path("out/day/long/notes.txt").write_text("mine")
    done = batch("--threshold", "0.5", "--overwrite")
    assert done.code == 1
    assert "notes.txt" in done.err
    assert not Path("out/day/long.pieces.partial").exists()
    assert Path("out/day/long/notes.txt").read_text() == "mine"


def test_exports_leave_pieces_out(batch: Callable[..., Any], cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from resurgsam2_cli.joining import join

    monkeypatch.setattr(join, "join", lambda *_: 1 / 0)
    batch()
    done = cli("export", "out", "-f", "coco", "-o", "a.json")
    assert "1 unfinished run left out" in done.err
    assert [x["name"] for x in json.loads(Path("a.json").read_text())["videos"]] == ["short"]


def test_a_video_that_breaks_off(cli: Cli, small_weights: Path, tmp_path: Path) -> None:
    """Fails as a whole, with what is wrong with it."""
    whole = tmp_path / "whole.mp4"
    picture = ("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25", "-frames:v", "150")
    ffmpeg(*picture, "-pix_fmt", "yuv420p", "-movflags", "+faststart", whole)
    data = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 3 // 4])
    done = cli("batch", tmp_path / "cut.mp4", "-t", "x", "--weights", small_weights, *SPLIT)
    assert done.code == 1
    assert "breaks off" in done.err
    assert "0 done, 0 skipped, 1 failed" in done.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--overlap", "2"), "--overlap is for --split-minutes"),
        (("--split-minutes", "0"), "longer than 0"),
        (("--split-minutes", "1", "--overlap", "31"), "less than half"),
        (("--split-minutes", "1", "-o", "memory://x"), "not a URL"),
    ],
)
def test_options(cli: Cli, videos: Path, options: tuple[str, ...], words: str) -> None:
    done = cli("batch", videos, "-r", "-t", "x", *options)
    assert done.code == 2
    assert words in done.err


def item(name: str) -> Item:
    return Item(f"/videos/{name}.mp4", PurePosixPath(f"{name}.mp4"))


def pieces(of: Item, count: int) -> Cut:
    parts = [Part(Position(frame=10 * i)) for i in range(count)]
    return Cut(
        tuple(Item(of.source, of.below, piece=Piece(i, count, x, Path(of.stem))) for i, x in enumerate(parts, start=1))
    )


def test_pieces_in_the_queue() -> None:
    """They come before other videos; the limit counts videos; a piece that fails fails its video once."""
    a, b, c = map(item, "abc")
    queue = Queue([a, b, c], 2)
    assert queue.take() == a
    assert queue.settle(a, pieces(a, 3)) is None
    one, two = queue.take(), queue.take()
    assert one is not None
    assert two is not None
    assert (one.piece.name, two.piece.name) == ("00001", "00002")  # type: ignore[union-attr]
    three = queue.take([one, two])
    assert three is not None
    assert queue.take([one, two, three]) == b
    assert queue.take([one, two, three, b]) is None  # c would be the third
    done = Outcome(a.key, "done", "folder", 10, 1.5)
    assert queue.settle(three, done) is None
    assert queue.settle(one, done) is None
    assert not queue.is_over
    assert queue.settle(two, Outcome(a.key, "skipped")) is None  # it lies beyond the end
    whole = queue.take([b])
    assert whole is not None
    assert whole.pieces == ("00001", "00003")
    assert queue.settle(whole, done) == Outcome(a.key, "done", "folder", 10, 4.5)
    assert queue.settle(b, Outcome(b.key, "skipped", "folder")) is not None
    assert queue.take() == c
    assert queue.settle(c, pieces(c, 2)) is None
    one, two = queue.take(), queue.take()
    assert one is not None
    assert two is not None
    assert queue.settle(one, Outcome(c.key, "failed", error="why")) is None
    assert queue.settle(two, done) == Outcome(c.key, "failed", error="why")
    assert queue.is_over
