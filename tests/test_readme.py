"""The Python examples of the README and of docs/ run as they stand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from resurgsam2_cli import segment_video
from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.prompts.marks import parse_mark, read_marks

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)


def test_pointing(video: Path, small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With made-up weights: the bundled ones know words alone."""
    monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path / "home"))
    subprocess.run([sys.executable, "-m", "resurgsam2_cli", "weights", "add", str(small_weights)], check=True)
    monkeypatch.chdir(tmp_path)
    shutil.copy(video, "video.mp4")
    page = (README.parent / "docs" / "pointing.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    (marks,) = re.findall(r"```json\n(.*?)```", page, flags=re.S)
    Path("marks.json").write_text(marks)
    assert [x.name for x in read_marks(Path("marks.json"))] == ["grasper", "needle", "needle", "grasper"]
    for text in re.findall(r'--mark "([^"]+)"', page):
        parse_mark(text)
    names: dict[str, Any] = {}
    exec(compile(example, "pointing", "exec"), names)
    assert names["mask"].shape == names["masks"][0].shape == (120, 160)
    assert names["states"][0].conditioning_frames == (10, 15)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number: int, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    shutil.copy(video, "video.mp4")
    names: dict[str, Any] = {}
    exec(compile(EXAMPLES[number], f"example {number}", "exec"), names)
    if "segment_video" in names:
        assert Path("results/video/run.json").exists()
    else:
        assert names["masks"].shape == (2, 240, 320)


def test_function_equals_command(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path / "home"))
    run = segment_video(video, ["left grasper"], tmp_path / "function")
    command = [sys.executable, "-m", "resurgsam2_cli", "segment", str(video), "-t", "left grasper", "-q"]
    subprocess.run([*command, "-o", str(tmp_path / "command")], check=True)
    for name in ("annotations.json", "frames.jsonl"):
        assert (run.folder / name).read_bytes() == (tmp_path / "command" / "clip" / name).read_bytes()
    assert json.loads((run.folder / "run.json").read_text()) == run.record
    with pytest.raises(UsageError, match="no prompt"):
        segment_video(video, [], tmp_path)


def test_import_is_light() -> None:
    code = "import sys, resurgsam2_cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
