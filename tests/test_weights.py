"""Weights in every layout, the cache, and downloads from a server on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from conftest import SMALL, Cli, published_state, small_state
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from model import ReSurgSAM2
from model.config import HIERA_SMALL
from resurgsam2_cli.cache import servers
from weights import store
from weights.errors import WeightsError
from weights.key_map import TOWER, UnknownKeys, clip_tower, published_network
from weights.loader import load_into, load_network, read_checkpoint, save_release

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def published() -> Tensors:
    return published_state()


def split(state: Tensors) -> tuple[Tensors, Tensors]:
    """(the network, the text tower) of a published checkpoint."""
    tower = {k: x for k, x in state.items() if k.startswith("language_model.")}
    return {k: x for k, x in state.items() if k not in tower}, tower


def as_hugging_face(tower: Tensors) -> Tensors:
    """The tower as in ``openai/clip-vit-base-patch32``, with what a whole CLIP has beside the text tower."""
    named = {k.replace("language_model.", "text_model.", 1): x for k, x in tower.items()}
    return named | {
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "vision_model.embeddings.class_embedding": torch.zeros(3),
        "visual_projection.weight": torch.zeros(2, 2),
        "text_projection.weight": torch.zeros(2, 2),
        "logit_scale": torch.zeros(()),
    }


def as_open_clip(tower: Tensors) -> Tensors:
    """The tower as OpenAI and open_clip have it: q, k and v in one matrix, other names."""
    named: Tensors = {
        "logit_scale": torch.zeros(()),
        "visual.proj": torch.zeros(2, 2),
        "text_projection": torch.zeros(2),
    }
    for key, x in tower.items():
        rest = key.removeprefix("language_model.")
        if rest.startswith("embeddings.token"):
            named["token_embedding.weight"] = x
        elif rest.startswith("embeddings.position"):
            named["positional_embedding"] = x
        elif rest.startswith("final_layer_norm"):
            named[rest.replace("final_layer_norm", "ln_final")] = x
        else:
            _, _, layer, *inner = rest.split(".")
            name = ".".join(inner)
            for theirs, ours in (
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
                ("self_attn.out_proj", "attn.out_proj"),
            ):
                name = name.replace(theirs, ours)
            if name.startswith("self_attn.q_proj"):
                kind = inner[-1]
                parts = [tower[key.replace("q_proj", f"{p}_proj")] for p in "qkv"]
                named[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
            elif not name.startswith("self_attn"):
                named[f"transformer.resblocks.{layer}.{name}"] = x
    return named


LAYOUTS = {
    "reference": lambda tower: tower | {"language_model.embeddings.position_ids": torch.arange(77)[None]},
    "hugging-face": as_hugging_face,
    "open-clip": as_open_clip,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_text_tower_outside_the_checkpoint(
    layout: str, suffix: str, published: Tensors, tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    network, tower = split(published)
    path, clip = tmp_path / "without.pth", tmp_path / f"clip.{suffix}"
    torch.save({"model": network}, path)
    tensors = LAYOUTS[layout](tower)
    save_file(tensors, clip) if suffix == "safetensors" else torch.save(tensors, clip)
    expected = load_network(checkpoints["modules"])[0].state_dict()
    loaded, info = load_network(path, clip)
    assert info.clip_path == clip
    actual = loaded.state_dict()
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[key], expected[key]) for key in expected)
    with torch.inference_mode():
        tokens = loaded.encode_text(["left grasper"]).tokens
    assert tokens.isfinite().all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_three_layouts_through_the_command_line(
    layout: str, cli: Cli, published: Tensors, video: Path, checkpoints: dict[str, Path]
) -> None:
    network, tower = split(published)
    torch.save(network, "without.pth")  # not under "model", as some save it
    torch.save(LAYOUTS[layout](tower), "clip.pt")
    run = (video, "-t", "left grasper", "--end", "2", "--no-overlay", "--quiet")
    assert cli("segment", *run, "--weights", checkpoints["modules"], "-o", "inside").code == 0
    missing = cli("segment", *run, "--weights", "without.pth", "-o", "outside")
    assert missing.code == 4
    assert "has no text tower" in missing.err
    done = cli("segment", *run, "--weights", "without.pth", "--clip-weights", "clip.pt", "-o", "outside")
    assert done.code == 0, done.err
    for name in ("frames.jsonl", "masks/00000.png", "masks/00001.png"):
        assert Path("inside/clip", name).read_bytes() == Path("outside/clip", name).read_bytes()
    assert "clip_sha256" in json.loads(Path("outside/clip/run.json").read_text())["weights"]


def test_the_file_that_is_damaged_is_named(published: Tensors, tmp_path: Path) -> None:
    """That of the text tower, if the fault is there."""
    network, tower = split(published)
    key = "language_model.final_layer_norm.bias"
    torch.save(network, tmp_path / "without.pth")
    for value, said in ((torch.full_like(tower[key], torch.nan), "not finite"), (tower[key][:3], "wrongly shaped")):
        torch.save(tower | {key: value}, tmp_path / "clip.pt")
        with pytest.raises(WeightsError, match=rf"clip.pt: 1 (tensors are )?{said}"):
            load_network(tmp_path / "without.pth", tmp_path / "clip.pt")
        with pytest.raises(WeightsError, match=rf"clip.pt: 1 (tensors are )?{said}"):
            load_into(ReSurgSAM2(HIERA_SMALL), tmp_path / "without.pth", tmp_path / "clip.pt")
    torch.save(tower, tmp_path / "clip.pt")
    network["no_mem_embed"] = network["no_mem_embed"] * torch.nan
    torch.save(network, tmp_path / "without.pth")
    with pytest.raises(WeightsError, match=r"without.pth: 1 tensors are not finite"):
        load_network(tmp_path / "without.pth", tmp_path / "clip.pt")


def test_a_tower_inside_the_checkpoint_with_position_ids(published: Tensors, tmp_path: Path) -> None:
    torch.save({"model": published | {"language_model.embeddings.position_ids": torch.arange(77)}}, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt").has_text_tower


def test_every_published_key_has_a_rule(published: Tensors) -> None:
    renamed = published_network(published)
    dropped = len(published) - len(renamed)
    # no_mem_pos_enc feeds nothing; q, k, v of 12 layers become one: 2 x 2 x 12 fewer.
    assert dropped == 1 + 48
    with pytest.raises(UnknownKeys) as error:
        published_network({**published, "image_encoder.trunk.head.weight": torch.zeros(1)})
    assert error.value.keys == ["image_encoder.trunk.head.weight"]
    with pytest.raises(UnknownKeys):
        clip_tower({"text_model.encoder.layers.0.something.weight": torch.zeros(1)})


def test_half_a_tower_is_an_error(published: Tensors, tmp_path: Path) -> None:
    network, tower = split(published)
    torch.save({"model": network}, tmp_path / "without.pth")
    tower.pop("language_model.encoder.layers.3.self_attn.k_proj.weight")
    torch.save(tower, tmp_path / "clip.pth")
    with pytest.raises(WeightsError, match=r"unknown tensors: encoder\.layers\.3\.self_attn\.q_proj\.weight"):
        load_network(tmp_path / "without.pth", tmp_path / "clip.pth")


def test_convert_and_add_and_verify(cli: Cli, published: Tensors, checkpoints: dict[str, Path]) -> None:
    network, tower = split(published)
    torch.save({"model": network}, "without.pth")
    torch.save(as_open_clip(tower), "clip.pt")
    assert cli("weights", "convert", "without.pth", "one.safetensors").code == 4
    assert cli("weights", "convert", "without.pth", "one.pth", "--clip-weights", "clip.pt").code == 2
    assert cli("weights", "convert", "without.pth", "one.safetensors", "--clip-weights", "clip.pt").code == 0
    again = cli("weights", "convert", "without.pth", "one.safetensors", "--clip-weights", "clip.pt")
    assert again.code == 6
    expected = load_network(checkpoints["modules"])[0].state_dict()
    actual = load_network(Path("one.safetensors"))[0].state_dict()
    assert all(torch.equal(actual[key], expected[key]) for key in expected)

    assert cli("weights", "add", "without.pth").code == 0
    assert cli("weights", "add", "clip.pt", "--name", "my-clip").code == 0
    listed = json.loads(cli("weights", "list", "--json").out)
    assert {(x["name"], x["kind"]) for x in listed["installed"]} == {
        ("without", "network"),
        ("my-clip", "clip"),
    }
    assert "without" in cli("weights", "list").out
    assert cli("weights", "verify").code == 0
    name, path, clip = store.resolve("auto", None)
    assert name == "without"
    assert clip is not None
    assert load_network(path, clip)[0].device.type == "cpu"
    assert cli("doctor").out.count("without") == 2

    path.write_bytes(path.read_bytes()[:-1] + b"x")
    changed = cli("weights", "verify", "without")
    assert changed.code == 4
    assert "has changed" in changed.err
    assert cli("weights", "verify", "nothing").code == 2


DAMAGE = {
    "half": b"{",
    "empty": b"",
    "zeros": bytes(300),
    "nothing-in-it": b"{}",
    "no-sum": b'{"name": "mine", "kind": "network", "path": "mine.safetensors", "size": 3}',
    "other-kind": b'{"name": "mine", "kind": 3, "path": "mine.safetensors", "sha256": "0", "size": 3, "source": "x"}',
    "no-file": b'{"name": "mine", "kind": "network", "path": "no.pth", "sha256": "0", "size": 3, "source": "x"}',
}


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_record_is_never_silent(content: bytes, cli: Cli, small_weights: Path, video: Path) -> None:
    for name in ("mine", "other"):
        assert cli("weights", "add", small_weights, "--name", name).code == 0
    record = store.home() / "mine.json"
    record.write_bytes(content)
    listed = json.loads(cli("weights", "list", "--json").out)
    assert [(x["name"], x["path"]) for x in listed["damaged"]] == [("mine", str(record))]
    assert [x["name"] for x in listed["installed"]] == ["other"]
    assert str(record) in cli("weights", "list").out
    segment = ("segment", video, "-t", "kidney", "--end", "1", "--no-overlay", "--weights")
    add = ("weights", "add", small_weights, "--name", "mine")
    for command in (("weights", "verify"), ("weights", "verify", "mine"), (*segment, "auto"), (*segment, "mine"), add):
        done = cli(*command)
        assert done.code == 4, command
        assert f"{record}: is damaged (" in done.err
        assert "weights remove mine " in done.err
        assert len(done.err.splitlines()) == 2
    assert "mine (damaged)" in cli("doctor").out
    assert cli(*segment, "other").code == 0
    assert cli("weights", "remove", "mine").code == 0
    assert sorted(os.listdir(store.home())) == ["other.json", "other.safetensors"]
    assert cli(*add).code == 0
    assert cli("weights", "verify").code == 0


def test_all_that_is_wrong_with_the_cache_is_said(cli: Cli, small_weights: Path) -> None:
    for name in ("a", "b", "c"):
        assert cli("weights", "add", small_weights, "--name", name).code == 0
    (store.home() / "c.json").write_text("{")
    (store.home() / "a.safetensors").write_bytes(b"x")
    done = cli("weights", "verify")
    assert done.code == 4
    assert "a.safetensors has changed" in done.err
    assert "c.json: is damaged" in done.err
    assert "b: good" in done.out


def test_a_damaged_release_is_named_before_a_download(cli: Cli, server: Server, small_release: store.Release) -> None:
    assert cli("weights", "fetch", "small").code == 0
    (store.home() / "small.json").write_text("{")
    server.ranges.clear()
    done = cli("weights", "fetch", "small")
    assert done.code == 4
    assert "weights remove small (then fetch it again)" in done.err
    assert server.ranges == []
    assert "damaged" in cli("weights", "list").out


def test_files_of_others_are_no_damaged_records(cli: Cli, small_weights: Path) -> None:
    """The folder of the cache may hold JSON files of someone else, also beside weights."""
    store.home().mkdir()
    for name, content in {"config.json": "{", "model.json": '{"layers": 3}', "list.json": "[1]"}.items():
        (store.home() / name).write_text(content)
    for name in ("model.safetensors", "list.pth", "config.yaml"):
        (store.home() / name).write_bytes(b"theirs")
    before = sorted(os.listdir(store.home()))
    assert json.loads(cli("weights", "list", "--json").out)["damaged"] == []
    for name in ("config", "model", "list"):
        assert cli("weights", "remove", name).code == 2
    assert store.resolve("auto", None)[0] == store.DEMO
    assert sorted(os.listdir(store.home())) == before


def test_add_refuses_what_does_not_fit(cli: Cli, published: Tensors) -> None:
    torch.save({"model": {**published, "no_mem_embed": torch.full((1, 1, 256), float("nan"))}}, "nan.pth")
    torch.save({"a": torch.zeros(1)}, "other.pth")
    torch.save(as_open_clip({k: x for k, x in split(published)[1].items() if ".11." not in k}), "short.pt")
    for path, words in (
        ("nan.pth", "not finite: no_memory"),
        ("other.pth", "is not a ReSurgSAM2 checkpoint"),
        ("short.pt", "12 missing tensors: text_encoder.tower.transformer.resblocks.11"),
        ("missing.pth", "no such weight file"),
    ):
        done = cli("weights", "add", path)
        assert done.code == 4
        assert words in done.err
    assert store.installed() == {}


@pytest.mark.parametrize("name", ["../escape", "a/b", "auto", "resurgsam2-ref-endovis18", "-x", ""])
def test_names_that_added_weights_cannot_have(name: str, cli: Cli, small_weights: Path) -> None:
    done = cli("weights", "add", small_weights, f"--name={name}")
    assert (done.code, store.installed()) == (2, {}) or (name == "" and done.code == 0)


def test_a_small_release_keeps_its_configuration(tmp_path: Path) -> None:
    state = small_state()
    save_release(tmp_path / "small.safetensors", SMALL, {k: x.half() for k, x in state.items()}, steps=3)
    network, _ = load_network(tmp_path / "small.safetensors")
    assert network.config == SMALL
    assert network.no_memory.dtype == torch.float32
    assert {k for k in state if k.startswith(TOWER)}


class Server:
    """Serves bytes under paths, with byte ranges; ``cut`` makes the next answers end early."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut = 0
        self.ranges: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                body = server.files.get(self.path.split("?")[0])
                if body is None:
                    self.send_error(404)
                    return
                wanted = self.headers.get("Range")
                start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
                if self.command == "GET":
                    server.ranges.append(wanted)
                self.send_response(206 if wanted else 200)
                if wanted:
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                self.send_header("Content-Length", str(len(body) - start))
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
                self.send_header("X-Repo-Commit", "0" * 40)
                self.end_headers()
                if self.command == "GET":
                    body = body[start:]
                    if server.cut:
                        server.cut -= 1
                        body = body[: len(body) // 2]
                        self.close_connection = True
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def small_release(server: Server, monkeypatch: pytest.MonkeyPatch, small_weights: Path) -> store.Release:
    """A release named "small" on the local server, as the only one."""
    server.files["/small.safetensors"] = small_weights.read_bytes()
    release = store.Release("small", "network", "a test", "none", [{"url": f"{server.address}/small.safetensors"}])
    offer(monkeypatch, release)
    return release


def offer(monkeypatch: pytest.MonkeyPatch, *offered: store.Release) -> None:
    monkeypatch.setattr(store, "releases", lambda: {x.name: x for x in offered})


def test_fetch(cli: Cli, server: Server, small_release: store.Release, video: Path) -> None:
    done = cli("weights", "fetch", "small")
    assert done.code == 0, done.err
    assert hashlib.sha256(server.files["/small.safetensors"]).hexdigest() in done.out
    assert "already here" in cli("weights", "fetch", "small").out
    assert cli("weights", "fetch", "other").code == 2
    assert cli("weights", "verify").code == 0
    assert sorted(os.listdir(store.home())) == ["small.json", "small.safetensors"]
    done = cli("segment", video, "-t", "kidney", "--end", "3", "--no-overlay", "--json")  # the default is auto
    assert json.loads(done.out)["weights"]["name"] == "small"


def test_fetch_goes_on_where_it_stopped(cli: Cli, server: Server, small_release: store.Release) -> None:
    server.cut = 1
    broken = cli("weights", "fetch", "small")
    if broken.code:  # gdown may also try again by itself
        assert broken.code == 4
        assert "the same command resumes it" in broken.err
        assert "Traceback" not in broken.err
        assert cli("weights", "fetch", "small").code == 0
    size = len(server.files["/small.safetensors"])
    assert any(r and 0 < int(r.removeprefix("bytes=").split("-")[0]) < size for r in server.ranges)
    assert store.installed()["small"].size == size


def test_fetch_of_a_damaged_file(
    cli: Cli, server: Server, small_release: store.Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = server.files["/small.safetensors"]
    for wrong, words in (
        (replace(small_release, sha256="0" * 64), "sum of the download is wrong"),
        (replace(small_release, size=5), f"has {len(good)} bytes instead of 5"),
    ):
        offer(monkeypatch, wrong)
        done = cli("weights", "fetch", "small")
        assert done.code == 4
        assert words in done.err
    offer(monkeypatch, small_release)
    server.files["/small.safetensors"] = b"<html>quota exceeded</html>"
    assert "is damaged" in cli("weights", "fetch", "small").err
    assert store.installed() == {}
    server.files["/small.safetensors"] = good
    right = replace(small_release, size=len(good), sha256=hashlib.sha256(good).hexdigest())
    offer(monkeypatch, right)
    assert cli("weights", "fetch", "small").code == 0


def test_fetch_from_nowhere(cli: Cli, server: Server, small_release: store.Release) -> None:
    server.files.clear()
    done = cli("weights", "fetch", "small")
    assert done.code == 4
    assert "could not be downloaded" in done.err
    assert "weights add PATH" in done.err
    assert len(done.err.splitlines()) == 2


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_fetch_of_an_archive_installs_all_of_it(
    kind: str, cli: Cli, server: Server, monkeypatch: pytest.MonkeyPatch, small_weights: Path, tmp_path: Path
) -> None:
    archive = tmp_path / f"both.{kind}"
    names = ["folder/a.safetensors", "folder/b.safetensors", "readme.txt"]
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for name in names:
                zipped.write(small_weights, name)
    else:
        with tarfile.open(archive, "w:gz") as tar:
            for name in names:
                tar.add(small_weights, name)
    server.files["/both"] = archive.read_bytes()
    source = {"url": f"{server.address}/both"}
    both = [store.Release(name, "network", "t", "l", [{**source, "member": f"{name}.safetensors"}]) for name in "ab"]
    offer(monkeypatch, *both)
    assert cli("weights", "fetch", "b").code == 0
    assert sorted(store.installed()) == ["a", "b"]


def test_a_checkpoint_that_is_no_archive_after_all(
    cli: Cli, server: Server, monkeypatch: pytest.MonkeyPatch, checkpoints: dict[str, Path]
) -> None:
    server.files["/file"] = checkpoints["modules"].read_bytes()
    source = {"url": f"{server.address}/file", "member": "x.pth"}
    offer(monkeypatch, store.Release("x", "network", "t", "l", [source]))
    done = cli("weights", "fetch", "x")
    assert done.code == 0, done.err
    assert cli("weights", "verify", "x").code == 0


def test_google_drive_is_asked_by_id(cli: Cli, monkeypatch: pytest.MonkeyPatch, small_weights: Path) -> None:
    asked = []

    def download(id: str, output: str, resume: bool) -> str:
        asked.append((id, resume))
        Path(output).write_bytes(small_weights.read_bytes())
        return output

    monkeypatch.setattr("gdown.download", download)
    monkeypatch.setattr("resurgsam2_cli.cache.download.size_at", lambda url: None)
    offer(
        monkeypatch,
        store.Release("x", "network", "t", "l", [{"google_drive": "abc", "member": "x.safetensors"}]),
    )
    assert cli("weights", "fetch", "x").code == 0
    assert asked == [("abc", True)]


def test_fetch_from_hugging_face(server: Server, small_weights: Path, tmp_path: Path) -> None:
    """This needs a process of its own: the library reads its end point when it is imported."""
    server.files["/owner/repository/resolve/main/b.safetensors"] = small_weights.read_bytes()
    code = """
import sys
from resurgsam2_cli.cache.download import fetch
from weights import store
from weights.loader import check_network
sources = [{"huggingface": "owner/repository", "file": f} for f in ("a.safetensors", "b.safetensors")]
release = store.Release("x", "network", "t", "l", sources)
print(fetch(release, check_network)[0].sha256)
"""
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.address,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "RESURGSAM2_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == hashlib.sha256(small_weights.read_bytes()).hexdigest()


def test_releases_are_well_formed() -> None:
    from model.config import CONFIGURATIONS

    for release in store.releases().values():
        assert release.kind in ("network", "clip")
        assert release.licence
        assert release.kind == "clip" or release.configuration in CONFIGURATIONS
        assert all({"url", "huggingface", "google_drive"} & s.keys() for s in release.sources)


def test_the_cache_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RESURGSAM2_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert store.home() == tmp_path / "resurgsam2"
    monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path / "mine"))
    assert store.home() == tmp_path / "mine"


def test_a_release_states_its_own_rules(cli: Cli, small_weights: Path, tmp_path: Path) -> None:
    """They hold unless an option says otherwise; a release that is converted keeps them."""
    stated = tmp_path / "stated.safetensors"
    rules = ["--rule", "long-term-min-iou=0.5", "--rule", "window=3"]
    assert cli("weights", "convert", small_weights, stated, *rules).code == 0
    assert store.stated_rules(stated) == {"long_term_min_iou": 0.5, "window": 3}
    assert store.stated_rules(small_weights) == {}
    assert load_network(stated)[1].rules == {"long_term_min_iou": 0.5, "window": 3}
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(6):
        Image.new("RGB", (64, 48), (i, 90, 90)).save(frames / f"{i}.png")
    args = ["segment", frames, "-t", "kidney", "--no-overlay", "--weights", stated]
    assert cli(*args, "--window", "4").code == 0
    settings = json.loads(Path("runs/frames/run.json").read_text())["settings"]
    assert (settings["long_term_min_iou"], settings["window"], settings["min_iou"]) == (0.5, 4, 0.7)
    again = tmp_path / "again.safetensors"
    assert cli("weights", "convert", stated, again, "--rule", "window=2").code == 0
    assert store.stated_rules(again) == {"long_term_min_iou": 0.5, "window": 2}
    for wrong in ("window", "window=x", "window=0", "min-iou=2", "speed=3"):
        done = cli("weights", "convert", small_weights, tmp_path / "x.safetensors", "--rule", wrong)
        assert done.code == 2
        assert f"--rule {wrong!r}" in done.err


@pytest.mark.parametrize(
    ("rules", "said", "remedy"),
    [
        (["window"], "--rule 'window': is not NAME=VALUE", "write --rule window=3"),
        (["window="], "--rule 'window=': is not NAME=VALUE", "write --rule window=3"),
        (["=3"], "--rule '=3': is not NAME=VALUE", "write --rule window=3"),
        (["window=abc"], "--rule 'window=abc': 'abc' is not a whole number", "write --rule window=VALUE"),
        (["min-iou=x"], "--rule 'min-iou=x': 'x' is not a number", "write --rule min-iou=VALUE"),
        (["min_iou=2"], "--rule 'min_iou=2': min-iou must lie between 0 and 1", "--rule min-iou=VALUE"),
        (["windw=3"], "--rule 'windw=3': there is no rule 'windw'", "did you mean 'window'?"),
        (["long-term=2", "window=2", "long_term=2"], "--rule long-term is given twice", "leave one of them out"),
    ],
)
def test_rules_that_are_none(
    cli: Cli, small_weights: Path, tmp_path: Path, rules: list[str], said: str, remedy: str
) -> None:
    args = [x for rule in rules for x in ("--rule", rule)]
    done = cli("weights", "convert", small_weights, tmp_path / "x.safetensors", *args)
    assert done.code == 2
    first, hint = done.err.strip().splitlines()
    assert said in first
    assert remedy in hint
    assert not (tmp_path / "x.safetensors").exists()


def test_networks_without_words_are_the_last_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SAM 2.1 was fetched before a network of one's own was added: ``auto`` means the latter."""
    home = tmp_path
    monkeypatch.setenv("RESURGSAM2_HOME", str(home))
    for name in ("sam2.1-hiera-tiny", "zebra"):
        (home / f"{name}.pt").write_bytes(b"x")
        record = {"name": name, "kind": "network", "path": f"{name}.pt", "sha256": "0", "size": 1, "source": ""}
        (home / f"{name}.json").write_text(json.dumps(record))
    assert store.resolve("auto", None)[0] == "zebra"
    assert store.resolve("sam2.1-hiera-tiny", None)[1] == home / "sam2.1-hiera-tiny.pt"


def test_list_says_what_is_known_of_each_release(cli: Cli, server: Server, small_release: store.Release) -> None:
    with_use = replace(small_release, use="words and pointing", data="Ref-Nothing (nothing)", licence="a licence")
    other = replace(with_use, name="other", size=12_300_000, sources=[{"url": "http://x.invalid/x"}])
    packed = replace(other, name="packed", sources=[{"url": "http://x.invalid/x", "member": "x.pth"}])

    def listed() -> dict[str, tuple[bool, int | None, int | None]]:
        found = json.loads(cli("weights", "list", "--json").out)["releases"]
        assert all((x["use"], x["data"], x["licence"]) == (with_use.use, with_use.data, "a licence") for x in found)
        return {x["name"]: (x["here"], x["download_size"], x["size_on_disk"]) for x in found}

    with pytest.MonkeyPatch.context() as patch:
        offer(patch, with_use, other, packed)
        known = 12_300_000
        assert listed() == {
            "small": (False, None, None),
            "other": (False, known, known),
            "packed": (False, None, known),  # an archive has another size than what is in it
        }
        text = " ".join(cli("weights", "list").out.split())
        assert "unknown to download, unknown on disk" in text
        assert "12.3 MB to download, 12.3 MB on disk" in text
        assert "for: words and pointing; trained on Ref-Nothing (nothing)" in text
        assert "licence: a licence" in text
        size = len(server.files["/small.safetensors"])
        fetched = cli("weights", "fetch", "small")
        assert f"small: downloading {size / 1e6:.1f} MB from 127.0.0.1" in fetched.out
        assert listed()["small"] == (True, size, size)
        assert f"{size / 1e6:.1f} MB to download, {size / 1e6:.1f} MB on disk" in cli("weights", "list").out


def test_the_size_of_an_archive_is_that_of_the_download(
    cli: Cli, server: Server, monkeypatch: pytest.MonkeyPatch, small_weights: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "one.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.write(small_weights, "a.safetensors")
        zipped.writestr("more.bin", bytes(10_000))
    server.files["/one"] = archive.read_bytes()
    source = {"url": f"{server.address}/one", "member": "a.safetensors"}
    offer(monkeypatch, store.Release("a", "network", "t", "l", [source]))
    assert cli("weights", "fetch", "a").code == 0
    assert store.installed()["a"].download_size == archive.stat().st_size != store.installed()["a"].size
    assert cli("weights", "add", small_weights, "--name", "mine").code == 0
    assert store.installed()["mine"].download_size == 0
    # A record of an older version does not have it.
    record = store.home() / "mine.json"
    entry = json.loads(record.read_text())
    del entry["download_size"]
    record.write_text(json.dumps(entry))
    assert store.installed()["mine"].download_size == 0


PUBLISHED = "https://nowhere.invalid/weights/small.safetensors?download=true"


@pytest.fixture
def published_release(monkeypatch: pytest.MonkeyPatch) -> store.Release:
    """A release on a server that does not exist."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    release = store.Release("small", "network", "a test", "none", [{"url": PUBLISHED}])
    offer(monkeypatch, release)
    return release


def no_names(*_: object, **__: object) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def unreachable(cli: Cli) -> tuple[str, str]:
    """The two lines of a fetch that reaches no server."""
    done = cli("weights", "fetch", "small")
    assert done.code == 4
    assert store.installed() == {}
    first, second = done.err.splitlines()
    return first, second


def test_fetch_without_a_name_server(
    cli: Cli, published_release: store.Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    first, second = unreachable(cli)
    start = "resurgsam2: small: could not be downloaded: nowhere.invalid cannot be reached: "
    assert first == f"{start}its name is not known here (no internet, or no name server)"
    assert second.strip() == (
        f"without internet: get {PUBLISHED} on another machine, copy the file here, and run:"
        " resurgsam2 weights add small.safetensors"
    )


def test_fetch_from_hugging_face_without_internet(
    cli: Cli, published_release: store.Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said at once, and in one line, although the library would try for half a minute."""
    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    sources = [{"huggingface": "owner/repository", "file": f"x{i}.bin"} for i in (1, 2)]
    offer(monkeypatch, replace(published_release, sources=sources))
    begin = time.monotonic()
    first, second = unreachable(cli)
    assert time.monotonic() - begin < 20
    assert first.count("cannot be reached") == 1
    assert "/owner/repository/resolve/main/x1.bin on another machine" in second


def test_fetch_of_an_archive_without_internet(
    cli: Cli, published_release: store.Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    offer(monkeypatch, replace(published_release, sources=[{"google_drive": "abc", "member": "ref.pth"}]))
    first, second = unreachable(cli)
    assert "drive.google.com cannot be reached" in first
    assert "get https://drive.google.com/uc?id=abc on another machine, copy ref.pth from it here" in second
    assert second.endswith("weights add ref.pth")


def test_fetch_from_a_server_that_is_off(
    cli: Cli, published_release: store.Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, replace(published_release, sources=[{"url": f"http://127.0.0.1:{closed_port()}/x.pth"}]))
    first, _ = unreachable(cli)
    assert first.endswith("127.0.0.1 cannot be reached: it refuses the connection")


def test_fetch_from_a_server_that_is_silent(
    cli: Cli, published_release: store.Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "PATIENCE", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x.pth"
        offer(monkeypatch, replace(published_release, sources=[{"url": url}]))
        first, _ = unreachable(cli)
    assert first.endswith("127.0.0.1 cannot be reached: it did not answer within 0.3 s")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_fetch_through_a_proxy_that_is_off(
    scheme: str, cli: Cli, published_release: store.Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = closed_port()
    monkeypatch.setenv(f"{scheme}_proxy", f"http://me:secret@127.0.0.1:{port}")
    offer(monkeypatch, replace(published_release, sources=[{"url": f"{scheme}://nowhere.invalid/x.pth"}]))
    first, _ = unreachable(cli)
    proxy = f"the proxy 127.0.0.1:{port}"
    assert first.endswith(f"nowhere.invalid cannot be reached: {proxy} refuses the connection")


@pytest.mark.parametrize(
    ("scheme", "words"), [("http", "asks for a name and a password"), ("https", "answers: 407 Give a name")]
)
def test_fetch_through_a_proxy_that_wants_a_password(
    scheme: str, words: str, cli: Cli, published_release: store.Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Proxy(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(407, "Give a name")

        def do_CONNECT(self) -> None:
            self.do_HEAD()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        monkeypatch.setenv(f"{scheme}_proxy", f"http://127.0.0.1:{http.server_port}")
        offer(monkeypatch, replace(published_release, sources=[{"url": f"{scheme}://nowhere.invalid/x.pth"}]))
        first, _ = unreachable(cli)
        http.shutdown()
    assert first.endswith(f"nowhere.invalid cannot be reached: the proxy 127.0.0.1:{http.server_port} {words}")


def test_a_server_without_the_file_can_be_reached(cli: Cli, server: Server, small_release: store.Release) -> None:
    server.files.clear()
    done = cli("weights", "fetch", "small")
    assert "cannot be reached" not in done.err
    assert "without internet" not in done.err


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ({"url": PUBLISHED}, "/weights/small.safetensors"),
        (
            {"huggingface": "owner/repository", "file": "a/b.safetensors"},
            "/owner/repository/resolve/main/a/b.safetensors",
        ),
        ({"google_drive": "aB-9", "member": "x.safetensors"}, "/aB-9"),
    ],
)
@pytest.mark.parametrize("base", ["", "/hf", "/hf/"])
def test_fetch_from_a_mirror(
    base: str,
    source: dict[str, str],
    path: str,
    cli: Cli,
    server: Server,
    published_release: store.Release,
    small_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = small_weights.read_bytes()
    server.files[f"{base.rstrip('/')}{path}"] = content
    monkeypatch.setenv("RESURGSAM2_MIRROR", f"{server.address}{base}")
    right = replace(published_release, sources=[source], size=len(content), sha256=hashlib.sha256(content).hexdigest())
    offer(monkeypatch, replace(right, sha256="0" * 64))
    wrong = cli("weights", "fetch", "small")
    assert wrong.code == 4
    assert "the sum of the download is wrong" in wrong.err
    assert store.installed() == {}
    offer(monkeypatch, right)
    done = cli("weights", "fetch", "small")
    assert done.code == 0, done.err
    assert store.installed()["small"].source.startswith(f"url: {server.address}{base.rstrip('/')}{path}")
    assert cli("weights", "verify", "small").code == 0


def test_a_mirror_that_is_off(cli: Cli, published_release: store.Release, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of the public servers then."""
    monkeypatch.setenv("RESURGSAM2_MIRROR", f"http://127.0.0.1:{closed_port()}/hf")
    first, second = unreachable(cli)
    assert "127.0.0.1 cannot be reached: it refuses the connection" in first
    assert "nowhere.invalid" not in first
    assert f"if RESURGSAM2_MIRROR is right: get {PUBLISHED} on another machine" in second


@pytest.mark.parametrize(
    "value",
    ["mirror.local", "ftp://mirror.local/x", "http://", "http://a:b/", "http://a/?x=1", "http://a b/", "http://[a"],
)
def test_what_is_no_mirror(
    value: str, cli: Cli, published_release: store.Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESURGSAM2_MIRROR", value)
    done = cli("weights", "fetch", "small")
    assert done.code == 2
    assert f"RESURGSAM2_MIRROR={value!r} is not the address of a server" in done.err
    assert len(done.err.splitlines()) == 2


def test_a_mirror_with_a_password(cli: Cli, published_release: store.Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESURGSAM2_MIRROR", "http://me:secret@mirror.local/hf")
    done = cli("weights", "fetch", "small")
    assert done.code == 2
    assert "~/.netrc" in done.err
    assert "secret" not in done.err


def test_the_help_of_fetch_names_the_mirror(cli: Cli) -> None:
    assert "RESURGSAM2_MIRROR" in cli("weights", "fetch", "--help").out
