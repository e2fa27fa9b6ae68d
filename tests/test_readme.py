"""The Python examples of the README run as they stand."""

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

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)


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
