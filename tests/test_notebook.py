"""The notebook runs as it stands, beside its clip in an empty folder, and what is stored in it is worth looking at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "first_steps.ipynb"


def shown(cells: list[dict[str, Any]]) -> tuple[str, int]:
    """The text that cells print, and how many pictures they show."""
    text, pictures = "", 0
    for output in (x for cell in cells if cell["cell_type"] == "code" for x in cell["outputs"]):
        assert output["output_type"] != "error"
        text += "".join(output.get("text", ""))
        pictures += any(x.startswith("image/") for x in output.get("data", {}))
    return text, pictures


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="comes with the test extra")
    pytest.importorskip("ipykernel", reason="comes with the test extra")
    import nbformat

    (tmp_path / "empty").mkdir()
    shutil.copy(EXAMPLES / "scene.mp4", tmp_path / "empty")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path / "home"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path / "empty")}})
    client.execute()  # raises what a cell raises
    text, pictures = shown(notebook.cells)
    assert pictures == 3
    assert "the same mask: True" in text
    assert "60 pictures" in text
    assert "frame 19: track, track" in text
    assert [x.name for x in (tmp_path / "empty").iterdir()] == ["scene.mp4"]
    assert (next((tmp_path / "temporary").glob("*/scene")) / "run.json").is_file()


def test_what_is_stored() -> None:
    """Small pictures for whoever looks at it on the web, of no particular machine, in the order of a fresh start."""
    assert NOTEBOOK.stat().st_size < 300_000
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    text, pictures = shown(cells)
    assert pictures == 3
    assert "the same mask: True" in text
    assert "/tmp" not in text
    assert "/home" not in text
    code = [x for x in cells if x["cell_type"] == "code"]
    assert [x["execution_count"] for x in code] == list(range(1, len(code) + 1))
    assert not any("execution" in x["metadata"] for x in code)
