from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import ffmpeg
from reference_weights import reference_tensor
from torch import Tensor

from model import NetworkConfig, ReSurgSAM2
from model.config import DecoderConfig, FusionConfig, HieraConfig, MemoryConfig, TextConfig
from resurgsam2_cli.__main__ import main
from weights.loader import load_network, save_release

DATA = Path(__file__).parent / "data"

_START_RAY = ("test_ray", "test_urls")
_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _PROCESSES > 1:  # they, and what they start, share the cores
    threads = max(1, (os.cpu_count() or 1) // _PROCESSES)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    torch.set_num_threads(threads)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Tests of a file run in one process, for what they share; so do all that start Ray, one machine at a time."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc,no-any-unimported,unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return "ray" if Path(file).stem in _START_RAY else file

    return ByFile(config, log)


def published_state(head_edits: dict[str, list[float]] | None = None, model: str | None = None) -> dict[str, Tensor]:
    """The made-up weights under the published names, text tower included; ``model`` is one of SAM 2.1's own."""
    names = "checkpoint_keys.json" if model is None else "sam21_keys.json"
    shapes: dict[str, Any] = json.loads((DATA / names).read_text())
    shapes = shapes if model is None else shapes[model]
    state = {key: torch.from_numpy(reference_tensor(key, tuple(shape))) for key, shape in shapes.items()}
    for head, (scale, shift) in (head_edits or {}).items():
        last = f"sam_mask_decoder.{head}.layers.2"
        state[f"{last}.weight"] = state[f"{last}.weight"] * scale
        state[f"{last}.bias"] = state[f"{last}.bias"] * scale + shift
    return state


class Scenario:
    """One of the recorded runs of the published implementation."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.record: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
        arrays = np.load(DATA / f"{name}.npz")
        self.frames: np.ndarray = arrays["frames"]
        self.low_res_logits: np.ndarray = arrays["low_res_logits"].astype(np.float32)
        width = self.record["width"]
        self.masks: np.ndarray = np.unpackbits(arrays["masks"], axis=-1)[..., :width].astype(bool)
        self.texts: list[str] = self.record["texts"]
        self.trace: list[dict[str, Any]] = self.record["trace"]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoint files in the published layout, by scenario; "modules" has no head edits."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {}
    for name in ("modules", "detection", "tracking"):
        edits = json.loads((DATA / f"{name}.json").read_text()).get("head_edits")
        paths[name] = folder / f"{name}.pth"
        torch.save({"model": published_state(edits)}, paths[name])
    return paths


@pytest.fixture(scope="session")
def scenarios() -> dict[str, Scenario]:
    return {name: Scenario(name) for name in ("detection", "tracking")}


@pytest.fixture(scope="session")
def network(checkpoints: dict[str, Path]) -> ReSurgSAM2:
    """The full-size network with the made-up weights."""
    return load_network(checkpoints["modules"])[0]


SMALL = NetworkConfig(
    image_size=128,
    dim=64,
    hiera=HieraConfig(
        embed_dim=16, stages=(1, 1, 2, 1), windows=(8, 4, 4, 4), global_blocks=(3,), position_grid=(4, 4)
    ),
    text=TextConfig(width=32, layers=2, heads=2, projection_hidden=64),
    fusion=FusionConfig(mlp_hidden=64, mamba_mlp_hidden=64, heads=4, state=4, dt_rank=4),
    memory=MemoryConfig(dim=16, layers=2, mlp_hidden=64, fuser_hidden=64),
    decoder=DecoderConfig(heads=4, mlp_hidden=64, prompt_hidden=64),
    pointing=True,
)
"""The same code, at a hundredth of the work."""


def small_state(seed: int = 0, score_bias: float = 0.0) -> dict[str, Tensor]:
    """Made-up weights of the small network, under our names. ``score_bias`` shifts the object score."""
    with torch.device("meta"):
        shapes = {key: tuple(x.shape) for key, x in ReSurgSAM2(SMALL).state_dict().items()}
    state = {key: torch.from_numpy(reference_tensor(key, shape, seed)) for key, shape in shapes.items()}
    state["mask_decoder.object_score_head.layers.2.bias"] += score_bias
    return state


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network as a release file, in which every object is present."""
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    save_release(path, SMALL, small_state(score_bias=4.0))
    return path


@dataclass(frozen=True)
class Outcome:
    """How a run of the command line ended."""

    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Run the program in this process, in an empty folder and with an empty cache of weights."""
    home = tmp_path / "weights-home"
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("RESURGSAM2_HOME", str(home))
    monkeypatch.delenv("RESURGSAM2_MIRROR", raising=False)

    def run(*arguments: str | Path) -> Outcome:
        capfd.readouterr()
        monkeypatch.setattr("sys.argv", ["resurgsam2", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capfd.readouterr()
        return Outcome(int(end.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short H.264 file with sound: 24 frames of 160 x 120 at 30000/1001."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    picture = "testsrc2=size=160x120:rate=30000/1001"
    ffmpeg(
        *("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", "sine=frequency=300"),
        *("-frames:v", "24", "-t", "0.8", "-pix_fmt", "yuv420p", path),
    )
    return path


os.environ.setdefault("TQDM_DISABLE", "1")
