"""Imports go one way: the command line uses weights and model, weights uses model, model uses neither."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "model": {
        "weights",
        "resurgsam2_cli",
        "typer",
        "rich",
        "tqdm",
        "subprocess",
        "pathlib",
        "imageio_ffmpeg",
    },
    "weights": {"resurgsam2_cli", "typer", "rich", "subprocess", "imageio_ffmpeg"},
    "resurgsam2_cli": set(),
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {x.name.split(".")[0] for x in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_go_one_way(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert not imported(path) & FORBIDDEN[package], path


def test_no_module_is_named_as_its_package() -> None:
    for package in FORBIDDEN:
        assert not list((ROOT / package).rglob(f"{package}.py")) or package == "weights"
    assert not (ROOT / "weights" / "weights.py").exists()


@pytest.mark.slow
def test_the_wheel_works_beside_a_foreign_module(tmp_path: Path) -> None:
    """The installed program, in an empty folder that has a ``model.py`` and a ``weights.py`` of someone else."""
    wheels, work = tmp_path / "wheels", tmp_path / "work"
    work.mkdir()
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"weights/releases.toml", "weights/demo.safetensors"} <= set(names)
    assert not [x for x in names if x.startswith(("tests/", "benchmarks/"))]
    # An environment that sees the packages of this one, and our wheel before them.
    venv.create(tmp_path / "env", with_pip=False)
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    own = next(p for p in sys.path if p.endswith("site-packages"))
    (site / "others.pth").write_text(f"{own}\n")
    for name in ("model", "weights"):
        (work / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    script = tmp_path / "env/bin/resurgsam2"
    script.write_text(f"#!{tmp_path}/env/bin/python\nfrom resurgsam2_cli.__main__ import main\nmain()\n")
    script.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["RESURGSAM2_HOME"] = str(tmp_path / "home")
    for command in (["--version"], ["doctor"], ["weights", "list"]):
        done = subprocess.run(
            [str(script), *command], cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
