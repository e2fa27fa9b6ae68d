"""Prompt files as people and programs write them."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import pytest
from clips import ffmpeg
from conftest import Cli

from resurgsam2_cli.batch.items import Item
from resurgsam2_cli.errors import InputError, UsageError
from resurgsam2_cli.prompts.files import PromptFile, read_prompts
from resurgsam2_cli.prompts.prompt import MOST_PROMPTS, Prompt, checked, parse_prompts


def asked(file: PromptFile, *names: str) -> list[tuple[str, str]]:
    return [(x.text, x.label) for x in file.prompts_of(names)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "prompts.csv"


EXPECTED = [("left grasper", "grasper"), ("kidney", "kidney")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_csv_of_every_kind(encoding: str, delimiter: str, ending: str, path: Path) -> None:
    rows = [
        ["Video", "TEXT", " Label "],
        ["op1", "left grasper", "grasper"],
        ["", "", ""],
        ["op1.mp4", "kidney", ""],
        [],
        ["op2", "süße Leber", "肝臓"],
        ["", "", ""],
    ]
    text = ending.join(delimiter.join(row) for row in rows)
    if encoding == "utf-16-le-bom":
        path.write_bytes(b"\xff\xfe" + text.encode("utf-16-le"))
    else:
        path.write_bytes(text.encode(encoding))
    file = read_prompts(path)
    assert asked(file, "op1", "op1.mp4") == EXPECTED
    assert asked(file, "op2") == [("süße Leber", "肝臓")]


def test_text_is_text(path: Path) -> None:
    """An equals sign means something only on the command line."""
    path.write_text('video,text,label\nop1,size = 5 mm trocar,trocar\nop1,"a, ""b""",\nop1,x=y,\n')
    expected = [("size = 5 mm trocar", "trocar"), ('a, "b"', 'a, "b"'), ("x=y", "x=y")]
    assert asked(read_prompts(path), "op1") == expected
    json_file = path.with_suffix(".json")
    json_file.write_text('{"op1": ["x=y", " two \\n lines "]}')
    assert asked(read_prompts(json_file), "op1") == [("x=y", "x=y"), ("two lines", "two lines")]
    assert parse_prompts(["x=y"]) == (Prompt("x", "y"),)


def test_columns_in_any_order_and_the_sign_of_excel(path: Path) -> None:
    path.write_text("sep=;\nnote;label;text;video\nfirst;grasper;left grasper;op1\n;;;\n;;kidney;op1\n")
    assert asked(read_prompts(path), "op1") == EXPECTED


def test_expressions_with_and_without_objects(path: Path) -> None:
    meta = path.with_name("meta_expressions.json")
    for extra in ({}, {"obj_id": 3}, {"obj_id": "3"}):
        rows = {"0": {"exp": "left grasper", **extra}, "1": {"exp": "a = b", **extra}}
        meta.write_text(json.dumps({"videos": {"op1": {"frames": [], "expressions": rows}}}))
        assert asked(read_prompts(meta), "op1") == [("left grasper", "left grasper"), ("a = b", "a = b")]


def test_videos_by_name_stem_and_path(path: Path, tmp_path: Path) -> None:
    path.write_text("video,text\nday1/op.mp4,a\nday2/op,b\nop,c\nday3\\op.mp4,d\nop9,e\nday1/op.mp4,a\n")
    file = read_prompts(path)

    def prompts(below: str) -> list[str]:
        item = Item(str(tmp_path / "videos" / below), PurePosixPath(below))
        return [x.text for x in file.prompts_of(item.names)]

    assert prompts("day1/op.mp4") == ["a", "c"]
    assert prompts("day2/op.mkv") == ["b", "c"]
    assert prompts("day3/op.mp4") == ["c", "d"]
    assert prompts("day4/other.mp4") == []
    assert file.unmatched() == ["op9"]
    (tmp_path / "scope.v2").mkdir()  # a folder has no suffix
    assert "scope" not in Item(str(tmp_path / "scope.v2"), PurePosixPath("scope.v2")).names


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("video,txt\nop1,x\n", "has no columns video and text"),
        ("video,text\nop1,\n", "line 2: has no video or no text"),
        ("video,text\n\n,x\n", "line 3: has no video or no text"),
        ("video,text\n", "has no prompts"),
        ("", "has no prompts"),
        ('video,text\nop1,"x\n', "line 2: is not CSV"),
    ],
)
def test_bad_csv(content: str, words: str, path: Path) -> None:
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        read_prompts(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "is not an object of prompts"),
        ("{", "is not valid JSON"),
        ('{"v": "text"}', "does not have a list of texts"),
        ('{"v": [""]}', "does not have a list of texts"),
        ('{"v": []}', "has no prompts"),
        ('{"videos": {"a": 1}}', "is not in the layout"),
        ('{"v": ["a"], "v": ["b"]}', "'v' appears twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"videos": {"v": {"expressions": {"0": {"exp": 5}}}}}', "the expression 5 is not a text"),
    ],
)
def test_bad_json(content: str, words: str, path: Path) -> None:
    path = path.with_suffix(".json")
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        read_prompts(path)


def test_bytes_that_are_not_text(path: Path) -> None:
    path.write_bytes(b"video,text\nop,\xff\xfe\x00\n")
    with pytest.raises(InputError, match="is not a text in UTF-8"):
        read_prompts(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(path.parent)


def test_too_many(path: Path) -> None:
    prompts = tuple(Prompt(str(i), str(i)) for i in range(MOST_PROMPTS + 1))
    assert checked(prompts[1:]) == prompts[1:]
    with pytest.raises(UsageError, match="256 prompts are more than the 255"):
        checked(prompts)


def test_half_characters_and_markup(cli: Cli, small_weights: Path, tmp_path: Path) -> None:
    """Texts that UTF-8 cannot hold, and texts that Rich would read as markup, come through to the files."""
    texts = ["\ud800", "x [/b] y", "[red]z[/red]", ":smile: {0} %s"]
    (tmp_path / "p.json").write_text(json.dumps({"clip": texts, "none [/]": ["x"]}))
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25", "-frames:v", "3", tmp_path / "clip.mkv")
    done = cli("batch", tmp_path / "clip.mkv", "--prompts", tmp_path / "p.json", "--weights", small_weights)
    assert done.code == 0, done.err
    assert "no video is called 'none [/]'" in done.err
    record = json.loads(Path("runs/clip/run.json").read_text(encoding="utf-8"))
    assert [x["text"] for x in record["objects"]] == ["\ufffd", *texts[1:]]
    assert cli("export", "runs", "-f", "cvat", "-o", "out.xml").code == 0
    assert cli("evaluate", "runs", "--truth", "runs/clip/masks").code == 3
    Path("truth").mkdir()
    Path("runs/clip/masks").rename("truth/clip")
    shown = cli("evaluate", "runs", "--truth", "truth")
    assert shown.code == 0, shown.err
    assert all(x in shown.out for x in texts[1:])


def test_one_video_with_too_many(cli: Cli, small_weights: Path, tmp_path: Path) -> None:
    """That video fails; the other is done."""
    for name in ("a", "b"):
        ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25", "-frames:v", "3", tmp_path / f"{name}.mkv")
    videos = {x: {"expressions": {str(i): {"exp": f"text {i}"} for i in range(n)}} for x, n in (("a", 300), ("b", 1))}
    (tmp_path / "meta_expressions.json").write_text(json.dumps({"videos": videos}))
    sources = (tmp_path / "a.mkv", tmp_path / "b.mkv")
    done = cli("batch", *sources, "--prompts", tmp_path / "meta_expressions.json", "--weights", small_weights, "--json")
    assert done.code == 1
    states = [(x["state"], x["error"]) for x in json.loads(done.out)["videos"]]
    assert states[0][0] == "failed"
    assert "300 prompts are more than the 255" in states[0][1]
    assert states[1] == ("done", None)


def test_segment_takes_a_prompt_file(cli: Cli, small_weights: Path, tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25", "-frames:v", "3", tmp_path / "clip.mkv")
    (tmp_path / "p.csv").write_text("video;text;label\nother;x;\nclip;left grasper;grasper\n")
    run = ("segment", tmp_path / "clip.mkv", "--weights", small_weights, "--json")
    done = cli(*run, "--prompts", tmp_path / "p.csv")
    assert done.code == 0, done.err
    assert [(x["text"], x["label"]) for x in json.loads(done.out)["objects"]] == [("left grasper", "grasper")]
    (tmp_path / "p.csv").write_text("video;text\nother;x\n")
    none = cli(*run, "--prompts", tmp_path / "p.csv", "-o", "again")
    assert none.code == 3
    assert "has nothing for 'clip'" in none.err
    assert cli(*run, "--prompts", tmp_path / "p.csv", "-t", "x").code == 2
    several = cli("segment", tmp_path / "clip.mkv", tmp_path / "clip.mkv", "-t", "x")
    assert several.code == 2
    assert "resurgsam2 batch" in several.err
