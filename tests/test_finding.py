"""Which videos a batch takes from files, folders, globs and lists, and what it says about the rest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from clips import ffmpeg
from conftest import Cli
from finished_runs import finished_run
from PIL import Image

from resurgsam2_cli.batch.find import Found, find_items
from resurgsam2_cli.errors import InputError
from resurgsam2_cli.video.source import VIDEO_SUFFIXES


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(path))


def find(*sources: Path | str, out: Path | str = "/nowhere", recursive: bool = False) -> Found:
    return find_items(list(map(str, sources)), out=Path(out), recursive=recursive)


def taken(found: Found) -> list[str]:
    return [str(x.below) for x in found.items]


def reasons(found: Found) -> dict[str, str]:
    return {Path(x.path).name: x.reason for x in found.left_out}


def test_a_snapshot_beside_videos(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "snapshot.jpg", tmp_path / "notes.txt")
    found = find(tmp_path)
    assert taken(found) == ["a.mp4", "b.mp4"]
    assert reasons(found) == {"notes.txt": "not a video", "snapshot.jpg": "a picture beside videos"}


def test_a_folder_of_images_is_one_video(tmp_path: Path) -> None:
    touch(tmp_path / "day" / "1.jpg", tmp_path / "day" / "2.PNG", tmp_path / "day" / "Thumbs.db")
    assert taken(find(tmp_path / "day")) == ["day"]
    assert taken(find(tmp_path)) == ["day"]


def test_suffixes_of_recorders(tmp_path: Path) -> None:
    names = ["a.asf", "b.dv", "c.m2t", "d.mxf", "e.MOD", "f.MTS", "g.m2ts", "h.vob", "i.wmv", "j.TOD", "k.h264"]
    touch(*(tmp_path / x for x in names))
    assert taken(find(tmp_path)) == sorted(names)
    assert ".mp4" in VIDEO_SUFFIXES
    assert ".txt" not in VIDEO_SUFFIXES


def test_files_of_the_finder(tmp_path: Path) -> None:
    touch(tmp_path / "op.mp4", tmp_path / "._op.mp4", tmp_path / ".DS_Store", tmp_path / "frames/1.png")
    touch(tmp_path / "frames/._1.png", tmp_path / "only/._1.png")
    found = find(tmp_path)
    assert taken(found) == ["frames", "op.mp4"]
    assert "AppleDouble" in reasons(found)["._op.mp4"]
    assert taken(find(tmp_path / "*.mp4")) == ["op.mp4"]


@pytest.mark.parametrize("recursive", [False, True])
def test_links_that_lead_back(recursive: bool, tmp_path: Path) -> None:
    touch(tmp_path / "a" / "op.mp4")
    (tmp_path / "a" / "back").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "same.mp4").symlink_to(tmp_path / "a" / "op.mp4")
    os.link(tmp_path / "a" / "op.mp4", tmp_path / "a" / "hard.mp4")
    (tmp_path / "a" / "broken.mp4").symlink_to(tmp_path / "none.mp4")
    found = find(tmp_path / "a", recursive=recursive)
    assert taken(found) == ["hard.mp4"]
    assert "the same as" in reasons(found)["op.mp4"]
    assert "the same as" in reasons(found)["same.mp4"]
    assert "leads nowhere" in reasons(found)["broken.mp4"]
    assert taken(find(tmp_path / "a", tmp_path / "a" / "same.mp4", tmp_path / "*" / "op.mp4")) == ["hard.mp4"]
    touch(tmp_path / "b" / "op.mp4")  # the file is taken, though a link to it comes first
    (tmp_path / "b" / "another.mp4").symlink_to(tmp_path / "b" / "op.mp4")
    found = find(tmp_path / "b")
    assert taken(found) == ["op.mp4"]
    assert "the same as" in reasons(found)["another.mp4"]


def test_results_are_not_taken(tmp_path: Path, video: Path) -> None:
    source = tmp_path / "videos"
    source.mkdir()
    (source / "op.mp4").write_bytes(video.read_bytes())
    finished_run(source / "results" / "op", source / "op.mp4")
    found = find(source, out=source / "results", recursive=True)
    assert taken(found) == ["op.mp4"]
    assert reasons(found) == {"results": "the output folder"}
    # Results are recognised even without -o, and if their folders were moved or are named.
    found = find(source, recursive=True)
    assert taken(found) == ["op.mp4"]
    assert reasons(found)["op"] == "a run of this program"
    assert taken(find(source / "**" / "*.mp4")) == ["op.mp4"]
    overlay = source / "results" / "op" / "overlay.mp4"
    with pytest.raises(InputError, match="a run of this program"):
        find(overlay)
    with pytest.raises(InputError, match="a run of this program"):
        find(source / "results" / "op" / "masks")
    (source / "seen.mp4").write_bytes(overlay.read_bytes())
    assert reasons(find(source))["seen.mp4"] == "an overlay of this program"
    # The runs may go to the very folder of the videos.
    assert taken(find(source, out=source)) == ["op.mp4"]
    partial = source / "op.partial"
    touch(partial / ".unfinished", partial / "overlay.mp4")
    assert reasons(find(source, recursive=True))["op.partial"] == "an unfinished run of this program"


def test_exports_are_not_taken(cli: Cli, tmp_path: Path, video: Path) -> None:
    source = tmp_path / "videos"
    source.mkdir()
    (source / "op.mp4").write_bytes(video.read_bytes())
    finished_run(tmp_path / "runs" / "op", source / "op.mp4", overlay=False)
    for name, out in (("overlay", "overlays"), ("overlay", "one.mp4"), ("davis", "davis")):
        frames = ("--frames", "jpg") if name == "davis" else ()
        assert cli("export", tmp_path / "runs", "-f", name, "-o", source / out, *frames).code == 0
    found = find(source, recursive=True)
    assert taken(found) == ["op.mp4"]
    assert reasons(found) == {
        "overlays": "an export of this program",
        "davis": "an export of this program",
        "one.mp4": "an overlay of this program",
    }


def test_rendered_scenes_are_taken(cli: Cli, tmp_path: Path) -> None:
    """Rendered scenes are made to be segmented, unlike overlays."""
    assert cli("render", tmp_path / "scene.mp4", "--count-frames", "3", "--width", "64", "--height", "48").code == 0
    assert taken(find(tmp_path)) == ["scene.mp4"]


def test_folders_of_folders(tmp_path: Path) -> None:
    touch(
        tmp_path / "v/a.mp4", tmp_path / "v/day1/op.mp4", tmp_path / "v/day2/scope/1.png", tmp_path / "v/day2/x/y.mkv"
    )
    found = find(tmp_path / "v")
    assert taken(found) == ["a.mp4"]
    assert "add --recursive" in reasons(found)["day1"]
    assert "add --recursive" in reasons(found)["day2"]
    found = find(tmp_path / "v", recursive=True)
    assert taken(found) == ["a.mp4", "day1/op.mp4", "day2/scope", "day2/x/y.mkv"]
    assert [str(x.parent) for x in found.items] == [".", "day1", "day2", "day2/x"]
    assert not found.left_out


def test_lists(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "day/b.mp4", tmp_path / "day/c.mp4")
    path = tmp_path / "list.txt"
    path.write_bytes("# videos\r\n\r\nday\r\na.mp4\r\nday/*.mp4\r\n".encode("utf-16"))
    assert taken(find(path)) == ["b.mp4", "c.mp4", "a.mp4"]
    path.write_text("a.mp4\nother.txt\n")
    (tmp_path / "other.txt").write_text("day/b.mp4\nlist.txt\n")
    with pytest.raises(InputError, match=r"list\.txt: is a list that names itself"):
        find(path)
    path.write_text("none.mp4\n")
    with pytest.raises(InputError, match=r"list\.txt, line 1: none\.mp4: no such file"):
        find(path)
    path.write_text("a.mp4\n# later\nnone.mp4\nday/*.mkv\nnone.mp4\n")
    found = find(path, tmp_path / "typo.mp4")
    assert taken(found) == ["a.mp4", "none.mp4", "*.mkv", "typo.mp4"]
    assert [str(x) for x in found.missing] == [
        f"{path}, line 3: none.mp4: no such file or folder",
        f"{path}, line 4: day/*.mkv: nothing matches",
        f"{tmp_path / 'typo.mp4'}: no such file or folder",
    ]


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, who can read every folder, so the refusal is simulated."""
    touch(tmp_path / "a.mp4", tmp_path / "closed/b.mp4")
    plain = Path.iterdir

    def refuse(self: Path) -> object:
        if self.name == "closed":
            raise PermissionError(13, "Permission denied", str(self))
        return plain(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    found = find(tmp_path, recursive=True)
    assert taken(found) == ["a.mp4"]
    assert reasons(found) == {"closed": "cannot be read: Permission denied"}
    with pytest.raises(InputError, match="closed: cannot be read"):
        find(tmp_path / "closed")


def test_odd_names(tmp_path: Path) -> None:
    names = ["-x.mp4", "a%05d.mp4", "[x].mp4", 'b\'s "c".mp4', os.fsdecode(b"bad\xff.mp4"), "x [b] y.mp4"]
    touch(*(tmp_path / x for x in names))
    assert len(find(tmp_path).items) == len(names)
    assert taken(find(tmp_path / "[x].mp4")) == ["[x].mp4"]  # a file before a pattern


def test_a_dry_run_touches_nothing(cli: Cli, tmp_path: Path) -> None:
    for name in ("a", "b"):
        ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25", "-frames:v", "5", tmp_path / f"{name}.mkv")
    (tmp_path / "broken.mp4").write_bytes(b"?")
    before = sorted(x.relative_to(tmp_path) for x in tmp_path.rglob("*"))
    arguments = ("batch", tmp_path, "-t", "kidney", "--weights", "demo", "-o", "out", "--dry-run")
    done = cli(*arguments)
    assert done.code == 1
    assert "broken.mp4: would fail: " in done.out
    assert "about 10 frames to do" in done.out
    assert sorted(x.relative_to(tmp_path) for x in tmp_path.rglob("*")) == before
    listed = json.loads(cli(*arguments, "--json").out)
    assert [(Path(x["source"]).name, x["state"], x["frames"]) for x in listed["videos"]] == [
        ("a.mkv", "new", 5),
        ("b.mkv", "new", 5),
        ("broken.mp4", "failed", None),
    ]
    assert any(Path(x["path"]).name == "work" for x in listed["left_out"]) or listed["left_out"] == []
    (tmp_path / "broken.mp4").unlink()
    assert cli(*arguments).code == 0


def test_snapshot_and_videos_through_the_program(cli: Cli, small_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    for name in ("a", "b"):
        ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25", "-frames:v", "3", tmp_path / "v" / f"{name}.mkv")
    Image.new("RGB", (64, 48)).save(tmp_path / "v" / "snapshot.jpg")
    done = cli("batch", tmp_path / "v", "-t", "kidney", "--weights", small_weights, "--no-overlay", "--json")
    assert done.code == 0, done.err
    assert [x["state"] for x in json.loads(done.out)["videos"]] == ["done", "done"]
    assert "left out: " in done.err
    assert "snapshot.jpg (a picture beside videos)" in done.err
    one = cli("segment", tmp_path / "v", "-t", "kidney", "--weights", small_weights)
    assert one.code == 3
    assert "is a folder of videos" in one.err
