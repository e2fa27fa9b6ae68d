"""Imports go one way: the command line uses weights and model, weights uses model, model uses neither."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.util import find_spec
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
        "av",
    },
    "weights": {"resurgsam2_cli", "typer", "rich", "subprocess", "imageio_ffmpeg", "av"},
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


ROOMS = {
    "errors": set(),
    "files": {"errors"},
    "process": {"errors"},
    "video": {"files", "process"},
    "prompts": {"video", "files"},
    "runs": {"prompts", "video", "files"},
    "outputs": {"runs", "prompts", "video", "files", "process"},
    "cache": {"files"},
    "segmenting": {"outputs", "runs", "prompts", "video", "files", "process"},
    "joining": {"segmenting", "outputs", "runs", "prompts", "video", "files", "process"},
    "batch": {"joining", "segmenting", "outputs", "runs", "prompts", "video", "files", "process"},
    "exports": {"outputs", "runs", "prompts", "video", "files"},
    "edits": {"exports", "outputs", "runs", "prompts", "video", "files", "process"},
    "refining": {"edits", "segmenting", "outputs", "runs", "prompts", "video", "files", "process"},
    "review": {"refining", "segmenting", "outputs", "runs", "prompts", "video", "files"},
    "cvat": {"edits", "exports", "segmenting", "outputs", "prompts", "video", "files", "process"},
    "measuring": {"runs", "prompts", "video", "files"},
    "training": {"measuring", "runs", "prompts", "video", "files", "process"},
    "terminal": {"batch", "outputs", "prompts", "files"},
}
"""What the modules of each room of the command line may import, apart from the room itself and the errors."""

TOP = {"__init__", "__main__", "api", "app", "commands"}
"""These may import everything."""


def rooms_imported(path: Path) -> set[str]:
    """Rooms that a module imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("resurgsam2_cli."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {x.name.split(".")[1] for x in node.names if x.name.startswith("resurgsam2_cli.")}
    return found


def test_imports_between_rooms_go_one_way() -> None:
    package = ROOT / "resurgsam2_cli"
    there = {x.stem for x in package.iterdir() if x.suffix == ".py" or (x.is_dir() and x.name != "__pycache__")}
    assert there == set(ROOMS) | TOP
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        if room in ROOMS:
            assert rooms_imported(path) <= ROOMS[room] | {room, "errors"}, path
    ranks: dict[str, int] = {}
    while len(ranks) < len(ROOMS):  # the table itself has no circle
        free = [x for x in ROOMS if x not in ranks and ROOMS[x] <= set(ranks)]
        assert free
        ranks |= {x: len(ranks) for x in free}


def sources() -> list[Path]:
    return [path for package in FORBIDDEN for path in (ROOT / package).rglob("*.py")]


def test_no_import_goes_in_circles() -> None:
    """Modules do not import one another in circles when they are loaded."""
    names = {".".join(x.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): x for x in sources()}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        tree = ast.parse(path.read_text())
        graph[name] = set()
        for node in tree.body:  # skips imports inside functions, and those for types alone
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = {f"{node.module}.{x.name}" for x in node.names} & set(names)
                graph[name] |= modules or ({node.module} & set(names))
    over: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in over:
            for other in sorted(graph[name] - {name}):
                visit(other, (*above, name))
            over.add(name)

    for name in graph:
        visit(name, ())


def test_modules_and_functions_are_small() -> None:
    for path in sources():
        text = path.read_text()
        assert text.count("\n") <= 400, path
        tree = ast.parse(text)
        assert ast.get_docstring(tree), f"{path} does not say what lives there"
        is_command = path.parent.name == "commands"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and not is_command and "triton" not in path.name:
                arguments = node.args
                every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
                assert len([x for x in every if x.arg not in ("self", "cls")]) <= 8, f"{path}: {node.name}"


def test_one_module_replaces_and_deletes() -> None:
    """Only code that a kill cannot spoil replaces or deletes files."""
    methods = {"unlink", "rmdir", "rename"}  # methods of paths
    functions = {"os.replace", "os.rename", "os.remove", "os.unlink", "shutil.rmtree", "shutil.move"}
    allowed = {f"resurgsam2_cli/files/{x}.py" for x in ("atomic", "filling", "locks", "json_list")}
    for path in sources():
        if path.relative_to(ROOT).as_posix() in allowed:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert node.attr not in methods, f"{path}: {ast.unparse(node)}"
                assert ast.unparse(node) not in functions, f"{path}: {ast.unparse(node)}"


def test_every_package_is_installed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {".".join(x.parent.relative_to(ROOT).parts) for x in sources() if x.name == "__init__.py"}
    assert listed == there


def test_no_module_is_named_as_its_package() -> None:
    for package in FORBIDDEN:
        assert not list((ROOT / package).rglob(f"{package}.py")) or package == "weights"
    assert not (ROOT / "weights" / "weights.py").exists()


@pytest.mark.slow
def test_the_wheel_works_beside_a_foreign_module(tmp_path: Path) -> None:
    """The installed program runs in a folder that has only a ``model.py`` and a ``weights.py`` of someone else."""
    wheels, work = tmp_path / "wheels", tmp_path / "work"
    work.mkdir()
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"weights/releases.toml", "weights/demo.safetensors"} <= set(names)
    page = ROOT / "resurgsam2_cli" / "review" / "page"
    assert {f"resurgsam2_cli/review/page/{x.name}" for x in page.iterdir()} <= set(names)
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


def test_benchmarks_hide_no_package() -> None:
    """A script's folder comes first where Python looks for modules: `cuda.py` would stand in for NVIDIA's package."""
    names = [x.stem for x in (ROOT / "benchmarks").glob("*.py") if x.stem != "__init__"]
    assert names
    assert not [x for x in names if find_spec(x) is not None]
