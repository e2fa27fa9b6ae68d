"""The command line as a user runs it."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import ffmpeg
from conftest import SMALL, Cli, Scenario, small_state
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from model import Rules
from resurgsam2_cli.commands import options
from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.palette import davis_palette
from resurgsam2_cli.runs.folder import Wanted
from resurgsam2_cli.video.positions import Part
from resurgsam2_cli.video.source import open_source
from weights.loader import save_release

PROGRAM = [sys.executable, "-m", "resurgsam2_cli"]


@pytest.mark.parametrize("name", ["detection", "tracking"])
def test_scenario(name: str, cli: Cli, scenarios: dict[str, Scenario], checkpoints: dict[str, Path]) -> None:
    """The command line repeats the recorded runs of the published implementation, through files."""
    scenario = scenarios[name]
    Path(name).mkdir()
    for i, frame in enumerate(scenario.frames):
        Image.fromarray(frame).save(f"{name}/{i}.png")
    texts = [x for text in scenario.texts for x in ("--text", text)]
    run = ("--device", "cpu", "--precision", "fp32", "--object-png", "--quiet")
    done = cli("segment", name, *texts, "--weights", checkpoints[name], *run)
    assert done.code == 0, done.err
    lines = Path(f"runs/{name}/frames.jsonl").read_text().splitlines()
    wrong = 0
    for t, (line, row) in enumerate(zip(lines, scenario.trace, strict=True)):
        for k, (x, expected) in enumerate(zip(json.loads(line)["objects"], row["objects"], strict=True)):
            for key in ("stage", "conditioning_frames", "long_term_frames"):
                assert x[key] == expected[key], f"frame {t}, object {k}"
            assert x["object_score"] == pytest.approx(expected["object_score"], abs=5e-4)
            assert x["predicted_iou"] == pytest.approx(expected["predicted_iou"], abs=2e-5)
            assert x["area"] == pytest.approx(expected["area"], abs=5)
            image = np.asarray(Image.open(f"runs/{name}/objects/{k + 1:03d}/{t}.png"))
            assert set(np.unique(image)) <= {0, 255}
            wrong += int(((image > 0) != scenario.masks[t, k]).sum())
    assert wrong <= 1e-4 * scenario.masks.size


TWO = ("-t", "left grasper=Greifer für Gewebe", "-t", "kidney")


def test_outputs(cli: Cli, small_weights: Path, video: Path) -> None:
    done = cli("segment", video, *TWO, "--weights", small_weights, "--object-png")
    assert done.code == 0
    assert done.out == ""
    folder = Path("runs/clip").absolute()
    assert sorted(x.name for x in folder.iterdir()) == [
        "annotations.json",
        "frames.jsonl",
        "masks",
        "objects",
        "overlay.mp4",
        "run.json",
    ]
    assert os.listdir("runs") == ["clip"]
    for name in ("annotations.json", "frames.jsonl", "masks", "objects", "overlay.mp4", "run.json"):
        assert str(folder / name) in done.err
    record = json.loads((folder / "run.json").read_text())
    assert record["complete"] is True
    assert record["source"]["path"] == str(video)
    assert record["source"]["frame_rate"] == "30000/1001"
    assert [(x["id"], x["text"], x["label"]) for x in record["objects"]] == [
        (1, "left grasper", "Greifer für Gewebe"),
        (2, "kidney", "kidney"),
    ]
    assert record["backend"]["scan"] in ("c", "torch")
    written = {f"write {name}" for name in ("frames", "png", "object_png", "coco", "overlay")}
    assert set(record["timing"]["stages"]) == {"decode", "text", "encode", "segment", "render", *written}
    lines = [json.loads(x) for x in (folder / "frames.jsonl").read_text().splitlines()]
    for summary, k in zip(record["objects"], range(2), strict=True):
        states = [x["objects"][k] for x in lines]
        assert summary["frames_present"] == sum(x["present"] for x in states)
        decided = [x["frame"] for x in lines if x["objects"][k]["conditioning_frames"]]
        assert summary["decided_at"] == (decided[0] if decided else None)

    coco = COCO(str(folder / "annotations.json"))
    data = coco.dataset
    assert [x["name"] for x in data["categories"]] == ["Greifer für Gewebe", "kidney"]
    assert [x["id"] for x in data["categories"]] == [1, 2]
    assert data["videos"] == [{"id": 1, "name": "clip", "width": 160, "height": 120, "length": 24}]
    assert [x["file_name"] for x in data["images"]] == [f"clip/{i:05d}.png" for i in range(24)]
    found = {(x["image_id"], x["track_id"]): x for x in data["annotations"]}
    assert len(found) == len(data["annotations"]) > 0
    for t, line in enumerate(lines):
        label = np.asarray(Image.open(folder / "masks" / f"{t:05d}.png"))
        union = np.zeros(label.shape, bool)
        for k, x in enumerate(line["objects"]):
            own = np.asarray(Image.open(folder / "objects" / f"{k + 1:03d}" / f"{t:05d}.png")) > 0
            union |= own
            assert x["area"] == own.sum()
            annotation = found.get((t + 1, k + 1))
            assert (annotation is None) == (not own.any())
            if annotation is None:
                assert x["bbox"] is None
                continue
            assert isinstance(annotation["segmentation"]["counts"], str)
            assert np.array_equal(coco.annToMask(annotation).astype(bool), own)
            assert annotation["bbox"] == x["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()
            assert annotation["area"] == own.sum()
            assert annotation["iscrowd"] == 0
            assert annotation["attributes"] == {"track_id": k + 1, "score": annotation["score"]}
            presence = 1 / (1 + np.exp(-x["object_score"]))
            assert annotation["score"] == pytest.approx(presence * x["predicted_iou"], abs=1e-5)
            assert (own[label == k + 1]).all()  # the label image takes nothing from outside the mask
        assert np.array_equal(label > 0, union)
    image = Image.open(folder / "masks" / "00000.png")
    assert image.mode == "P"
    assert bytes(image.getpalette() or [])[:9] == davis_palette()[:9] == bytes([0, 0, 0, 128, 0, 0, 0, 128, 0])


def test_the_order_of_prompts_changes_only_ids(cli: Cli, small_weights: Path, video: Path) -> None:
    run = ("--weights", small_weights, "--no-overlay", "--object-png")
    assert cli("segment", video, "-t", "kidney", "-t", "left grasper", "-o", "a", *run).code == 0
    assert cli("segment", video, "-t", "left grasper", "-t", "kidney", "-o", "b", *run).code == 0
    for t in range(24):
        for ours, theirs in (("001", "002"), ("002", "001")):
            assert Path(f"a/clip/objects/{ours}/{t:05d}.png").read_bytes() == (
                Path(f"b/clip/objects/{theirs}/{t:05d}.png").read_bytes()
            )


def test_only_what_is_asked_for(cli: Cli, small_weights: Path, video: Path) -> None:
    done = cli("segment", video, *TWO, "--weights", small_weights, "--no-png", "--no-coco", "--no-overlay", "--json")
    assert done.code == 0
    assert sorted(os.listdir("runs/clip")) == ["frames.jsonl", "run.json"]
    record = json.loads(done.out)
    assert record["files"] == [str(Path("runs/clip", x).absolute()) for x in ("frames.jsonl", "run.json")]


def test_bfloat16_on_the_cpu(cli: Cli, small_weights: Path, video: Path) -> None:
    run = ("--weights", small_weights, "--device", "cpu", "--precision", "bf16", "--json")
    done = cli("segment", video, "-t", "kidney", *run)
    assert json.loads(done.out)["backend"]["precision"] == "bf16"


def test_threshold_and_rules_reach_the_result(cli: Cli, small_weights: Path, video: Path) -> None:
    run = ("-t", "kidney", "--weights", small_weights, "--no-overlay", "--json")
    plain = json.loads(cli("segment", video, *run, "-o", "a").out)
    high = json.loads(cli("segment", video, *run, "-o", "b", "--threshold", "1000").out)
    strict = json.loads(cli("segment", video, *run, "-o", "c", "--min-presence", "1").out)
    eager = json.loads(
        cli("segment", video, *run, "-o", "d", "--min-presence", "0", "--min-iou", "0", "--window", "2").out
    )
    assert plain["settings"]["threshold"] == 0
    areas = [json.loads(x)["objects"][0]["area"] for x in Path("b/clip/frames.jsonl").read_text().splitlines()]
    assert high["settings"]["threshold"] == 1000
    assert set(areas) == {0}
    assert strict["objects"][0]["initial_frame"] is None
    assert eager["objects"][0]["decided_at"] == 1


def test_standard_input(small_weights: Path, video: Path, tmp_path: Path) -> None:
    run = ["segment", "-", "-t", "kidney", "--weights", str(small_weights), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        PROGRAM + run,
        input=video.read_bytes(),
        capture_output=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["source"]["path"] == "-"
    assert record["source"]["frames"] == 24
    assert (tmp_path / "runs/stdin/overlay.mp4").is_file()


def test_another_source_of_the_same_name(cli: Cli, small_weights: Path, video: Path) -> None:
    run = ("-t", "kidney", "--weights", small_weights, "--no-overlay", "--quiet")
    assert cli("segment", video, *run).code == 0
    Path("other").mkdir()
    Path("other/clip.mp4").write_bytes(video.read_bytes())
    assert cli("segment", "other/clip.mp4", *run).code == 0
    assert sorted(os.listdir("runs")) == ["clip", "clip-2"]
    again = cli("segment", "other/clip.mp4", *run)
    assert again.code == 6
    assert "clip-2" in again.err


def test_what_is_there_is_not_lost(cli: Cli, small_weights: Path, video: Path) -> None:
    run = ("-t", "kidney", "--weights", small_weights, "--no-overlay", "--quiet")
    assert cli("segment", video, *run).code == 0
    before = Path("runs/clip/run.json").read_bytes()
    again = cli("segment", video, *run)
    assert again.code == 6
    assert "runs/clip: is already there" in again.err
    assert "--overwrite" in again.err
    assert Path("runs/clip/run.json").read_bytes() == before
    # A replacement that fails leaves the old run.
    assert cli("segment", video, "-t", "kidney", "--weights", video, "--overwrite").code == 4
    assert Path("runs/clip/run.json").read_bytes() == before
    assert cli("segment", video, *run, "--overwrite").code == 0
    assert Path("runs/clip/run.json").read_bytes() != before
    assert os.listdir("runs") == ["clip"]
    # A folder of someone else's is never replaced.
    Path("mine/clip").mkdir(parents=True)
    Path("mine/clip/notes.txt").write_text("keep me")
    assert cli("segment", video, *run, "-o", "mine", "--overwrite").code == 6
    assert Path("mine/clip/notes.txt").read_text() == "keep me"


def check_error(cli: Cli, code: int, words: str, *arguments: str | Path) -> None:
    done = cli("segment", *arguments)
    assert done.code == code, done.err
    lines = done.err.strip().splitlines()
    assert words in lines[0], done.err
    assert len(lines) <= 2, done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert not Path("runs").exists() or not any(Path("runs").iterdir())


@pytest.fixture
def bad_input(tmp_path: Path, video: Path) -> Path:
    """A folder with one of each kind of input that cannot be read."""
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is\nno video at all\n" * 50)
    (folder / "notes.txt").write_text("this is\nno video at all\n" * 50)
    (folder / "truncated.mp4").write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", folder / "sound.mp4")
    (folder / "nothing").mkdir()
    for name in ("sizes", "broken", "header"):
        (folder / name).mkdir()
        for i in range(3):
            Image.effect_noise((32, 24), 50).save(folder / name / f"{i}.png")
    Image.new("RGB", (33, 24)).save(folder / "sizes/1.png")
    broken = folder / "broken/1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    (folder / "header/1.png").write_text("no image")
    return folder


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("missing.mp4", "no such file"),
        ("empty.mp4", "empty"),
        ("text.mp4", "cannot be read as a video"),
        ("notes.txt", "is a text file, not a video"),
        ("truncated.mp4", "cannot be read as a video (moov atom not found)"),
        ("sound.mp4", "no video stream"),
        ("nothing", "no images"),
        ("sizes", "1.png: is 33 x 24, but 0.png is 32 x 24"),
        ("broken", "1.png: cannot be read as an image"),
        ("header", "1.png: cannot be read as an image"),
    ],
)
def test_bad_input(source: str, words: str, cli: Cli, small_weights: Path, bad_input: Path) -> None:
    done = cli("segment", bad_input / source, "-t", "kidney", "--weights", small_weights)
    assert done.code == 3, done.err
    assert words in done.err.splitlines()[0]
    assert "Traceback" not in done.err
    assert not Path("runs", Path(source).stem).exists()


def test_a_video_that_breaks_off_keeps_what_was_decoded(cli: Cli, small_weights: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25", "-frames:v", "60", whole)
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    done = cli("segment", tmp_path / "cut.mkv", "-t", "kidney", "--weights", small_weights)
    assert done.code == 3
    assert os.listdir("runs") == ["cut.partial"]
    lines = Path("runs/cut.partial/frames.jsonl").read_text().splitlines()
    assert f"breaks off after {len(lines)} frames" in done.err
    assert len(os.listdir("runs/cut.partial/masks")) == len(lines) > 5
    assert json.loads(Path("runs/cut.partial/run.json").read_text())["complete"] is False
    assert COCO("runs/cut.partial/annotations.json").dataset["videos"][0]["length"] == len(lines)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("-t", ""), 2, "has no text"),
        (("-t", "  =label"), 2, "has no text"),
        (("-t", "kidney="), 2, "empty label"),
        (("-t", "grasper " * 80 + "left"), 2, "left' would be cut off"),
        (("-t", "kidney", "--start", "500"), 3, "it has 24 frames, none of them in the part asked for"),
        (("-t", "kidney", "--start", "20", "--end", "10"), 2, "--end 10 comes before --start 20, so no frame"),
        (("-t", "kidney", "--start", "1:10", "--end", "70s"), 2, "--end 70s is the same as --start 70s"),
        (("-t", "kidney", "--start", "0:99:99"), 2, "--start: the time '0:99:99' has 99 where 0 to 59 belongs"),
        (("-t", "kidney", "--end", "1:60"), 2, "--end: the time '1:60' has 60 where 0 to 59 belongs"),
        (("-t", "kidney", "--stride", "0"), 2, "--stride 0 is below 1"),
        (("-t", "kidney", "--start", "soon"), 2, "is not a position"),
        (("-t", "kidney", "--frame-rate", "0"), 2, "is not a frame rate"),
        (("-t", "kidney", "--frame-rate", "25"), 2, "is for folders of images"),
        (("-t", "kidney", "--threshold", "nan"), 2, "is not a number"),
        (("-t", "kidney", "--start", "5", "--end", "0.1s"), 3, "no frame lies in the part asked for"),
        (("-t", "kidney", "--device", "gpu"), 2, "unknown device 'gpu'"),
        (("-t", "kidney", "--device", "cuda:77"), 5, "--device cuda:77: this machine has"),
        (("-t", "kidney", "--device", "cuda:"), 2, "unknown device 'cuda:'"),
        (("-t", "kidney", "--precision", "int8"), 2, "unknown precision"),
        (("-t", "kidney", "--device", "cpu", "--precision", "fp16"), 2, "not for the CPU"),
        (("-t", "kidney", "--min-presence", "2"), 2, "--min-presence must lie between 0 and 1"),
        (("-t", "kidney", "--window", "0"), 2, "--window must be at least 1"),
    ],
)
def test_bad_options(
    arguments: tuple[str, ...], code: int, words: str, cli: Cli, small_weights: Path, video: Path
) -> None:
    check_error(cli, code, words, video, "--weights", small_weights, *arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_that_is_not_there(cli: Cli, small_weights: Path, video: Path) -> None:
    words = "--device cuda: this machine has no CUDA device"
    check_error(cli, 5, words, video, "-t", "kidney", "--weights", small_weights, "--device", "cuda")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
    ids=["Python", "system", "threads", "loader"],
)
def test_a_machine_without_memory(error: Exception, cli: Cli, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it runs out."""

    def fails(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("resurgsam2_cli.app.app", fails)
    check_error(cli, 5, "this machine has not enough memory for that", video, "-t", "kidney")


def test_errors_of_the_program_are_no_errors_of_memory(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("resurgsam2_cli.app.app", fails)
    with pytest.raises(RuntimeError, match="a bug"):
        cli("doctor")


def test_no_prompt_and_no_such_option(cli: Cli, video: Path) -> None:
    assert cli("segment", video).code == 2
    assert cli("segment", video, "-t", "kidney", "--no-such-option").code == 2
    assert cli("segmemt").code == 2


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch EVIL",)


def test_bundled_weights(
    cli: Cli, small_weights: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundled ones are used if there are no others, with a line that says so; then never again."""
    monkeypatch.setattr("weights.store.BUNDLED", small_weights)
    arguments = ("segment", video, "-t", "kidney", "--end", "2", "--no-overlay", "--overwrite")
    assert "demo" in cli("weights", "list").out
    done = cli(*arguments)
    assert done.code == 0
    assert done.err.count("rendered scenes only") == 1
    assert json.loads(Path("runs/clip/run.json").read_text())["weights"]["name"] == "demo"
    assert "rendered scenes" not in cli(*arguments, "--weights", "demo").err
    assert "rendered scenes" not in cli(*arguments, "--quiet").err
    assert cli("weights", "add", small_weights, "--name", "demo").code == 2
    assert cli("weights", "add", small_weights, "--name", "mine").code == 0
    assert "rendered scenes" not in cli(*arguments).err
    assert json.loads(Path("runs/clip/run.json").read_text())["weights"]["name"] == "mine"


def test_bad_weights(
    cli: Cli, small_weights: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weights.store.BUNDLED", tmp_path / "none.safetensors")

    def expect(words: str, path: Path) -> None:
        check_error(cli, 4, words, video, "-t", "kidney", "--weights", path)

    expect("neither a weight file nor a known name", Path("nowhere.pth"))
    expect("is not here yet", Path("resurgsam2-ref-endovis17"))
    check_error(cli, 4, "no weights yet", video, "-t", "kidney")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(small_weights.read_bytes()[:-1000])
    expect("is damaged", damaged)
    noise = tmp_path / "noise.pth"
    noise.write_bytes(os.urandom(2000))
    expect("is damaged", noise)
    evil = tmp_path / "evil.pth"
    torch.save({"model": _Evil()}, evil)
    expect("could run code", evil)
    text = tmp_path / "text.pth"
    text.write_text("root:x:0:0:root\n" * 9)
    expect("is damaged", text)
    assert not Path("EVIL").exists()
    clip = tmp_path / "clip.pth"
    torch.save({"text_model.embeddings.token_embedding.weight": torch.zeros(2, 2)}, clip)
    expect("is not a ReSurgSAM2 checkpoint", clip)
    state = small_state()
    without = {key: x for key, x in state.items() if key != "no_memory"}
    for words, changed in (
        ("1 missing tensors: no_memory", without),
        (
            "12 unknown tensors: x0, x1, x10, x11, x2, x3, x4, x5, x6, x7 and 2 more",
            state | {f"x{i}": torch.zeros(1) for i in range(12)},
        ),
        ("no_memory is (3,), not (1, 1, 64)", state | {"no_memory": torch.zeros(3)}),
    ):
        path = tmp_path / "changed.safetensors"
        save_release(path, SMALL, changed)
        expect(words, path)


def test_no_right_to_write(cli: Cli, small_weights: Path, video: Path) -> None:
    run = (video, "-t", "kidney", "--weights", small_weights)
    Path("file").touch()
    done = cli("segment", *run, "-o", "file")
    assert done.code == 6
    assert "file" in done.err
    done = cli("segment", *run, "-o", "/proc/here")
    assert done.code == 6, done.err
    assert "cannot be written" in done.err


@pytest.mark.parametrize("outputs", [(), ("--no-overlay",), ("--no-png", "--no-coco"), ("--direction", "both")])
def test_no_space(outputs: tuple[str, ...], small_weights: Path, video: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: writing fails in the middle."""
    run = ["segment", str(video), "-t", "kidney", "-t", "liver", "--weights", str(small_weights), *outputs]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        PROGRAM + run,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)),
    )
    assert done.returncode == 6, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interruption_leaves_nothing_half_done(how: int, small_weights: Path, tmp_path: Path) -> None:
    source = tmp_path / "long.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25", "-frames:v", "3000", source)
    run = ["segment", str(source), "-t", "kidney", "--weights", str(small_weights)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(PROGRAM + run, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)
    partial = tmp_path / "runs/long.partial/masks"
    deadline = time.monotonic() + 120
    while not (partial.is_dir() and len(os.listdir(partial)) > 20):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_stale_partial_folders_are_not_mixed_in(cli: Cli, small_weights: Path, video: Path) -> None:
    Path("runs/clip.partial/masks").mkdir(parents=True)
    Path("runs/clip.partial/.unfinished").touch()  # as a killed run leaves it
    Path("runs/clip.partial/masks/99999.png").touch()
    assert cli("segment", video, "-t", "kidney", "--weights", small_weights, "--quiet").code == 0
    assert os.listdir("runs") == ["clip"]
    assert not Path("runs/clip/masks/99999.png").exists()


def test_a_folder_that_another_run_is_filling(cli: Cli, small_weights: Path, video: Path) -> None:
    with Wanted(Path("runs"), "clip", str(video), {}).claim(overwrite=False) as other:
        theirs = other.partial / "annotations.json"
        theirs.touch()
        done = cli("segment", video, "-t", "kidney", "--weights", small_weights)
        assert done.code == 6
        assert "another run is writing it" in done.err
        assert theirs.exists()
    assert cli("segment", video, "-t", "kidney", "--weights", small_weights).code == 0


def test_folders_of_someone_else_are_left_alone(cli: Cli, small_weights: Path, video: Path) -> None:
    name = "clip.partial"
    Path("runs", name).mkdir(parents=True)
    Path("runs", name, "notes.txt").write_text("keep me")
    done = cli("segment", video, "-t", "kidney", "--weights", small_weights)
    assert done.code == 6
    assert f"{name}: is in the way" in done.err
    assert Path("runs", name, "notes.txt").read_text() == "keep me"


def test_sixteen_bits_and_orientation(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "0.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 40), (255, 0, 0)).save(tmp_path / "1.jpg", exif=exif)
    with open_source(str(tmp_path)) as source:
        first, second = (f.rgb for f in source.frames(Part()))
    assert np.abs(first[..., 0].astype(int) - ramp // 257).max() == 0
    assert second.shape == (30, 40, 3)
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "2.tif")
    with open_source(str(tmp_path)) as source, pytest.raises(InputError, match="floating-point"):
        list(source.frames(Part()))


def test_a_break_among_the_first_frames(cli: Cli, small_weights: Path, bad_input: Path) -> None:
    done = cli("segment", bad_input / "broken", "-t", "kidney", "--weights", small_weights)
    assert done.code == 3
    assert "the mask of 1 frame is kept" in done.err
    assert os.listdir("runs") == ["broken.partial"]


def test_a_name_that_is_no_unicode(cli: Cli, small_weights: Path, video: Path) -> None:
    name = os.fsdecode(b"bad\xff.mp4")
    Path(name).write_bytes(video.read_bytes())
    done = cli("segment", name, "-t", "kidney", "--weights", small_weights, "--end", "3")
    assert done.code == 0, done.err
    assert json.loads(Path("runs/bad\ufffd/run.json").read_text())["source"]["path"].endswith("bad\ufffd.mp4")


def test_progress_elsewhere_than_in_a_terminal(
    cli: Cli, small_weights: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resurgsam2_cli.terminal.bars.PLAIN_INTERVAL", 0.0)
    done = cli("segment", video, *TWO, "--weights", small_weights, "--no-overlay")
    lines = [x for x in done.err.splitlines() if x.startswith("clip: ")]
    assert len(lines) == 24
    assert "24 of about 24 frames" in lines[-1]
    assert "kidney: " in lines[-1]
    assert cli("segment", video, *TWO, "--weights", small_weights, "--overwrite", "--quiet").err == ""


def test_progress_in_a_terminal(monkeypatch: pytest.MonkeyPatch, cli: Cli, small_weights: Path, video: Path) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("rich.console.Console.is_terminal", property(lambda self: True))
    monkeypatch.setattr("rich.console.Console.file", property(lambda self: screen))
    monkeypatch.setenv("COLUMNS", "200")
    odd = Path("[red]x {y} [.mp4")
    odd.write_bytes(video.read_bytes())
    labels = ("-t", "left grasper=[bold]a[/b] {0}", "-t", "kidney")
    assert cli("segment", odd, *labels, "--weights", small_weights, "--no-overlay").code == 0
    shown = screen.getvalue()
    assert "frames/s" in shown
    assert "24/24" in shown
    assert "[red]x {y} [" in shown
    assert "[bold]a[/b] {0}: " in shown


@pytest.mark.parametrize("command", [(), ("segment",), ("weights",), ("weights", "fetch"), ("doctor",)])
def test_help(command: tuple[str, ...], cli: Cli) -> None:
    done = cli(*command, "--help")
    assert done.code == 0
    assert "Usage" in done.out


def test_help_imports_little() -> None:
    """The help is quick because it does not load what takes time."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    code = """
import sys
from resurgsam2_cli.__main__ import main
sys.argv = ["resurgsam2", "segment", "--help"]
try:
    main()
except SystemExit:
    pass
slow = {"torch", "numpy", "PIL", "model", "av", "matplotlib", "pycocotools", "open_clip", "huggingface_hub", "gdown"}
sys.exit(str(slow & set(sys.modules)) if slow & set(sys.modules) else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_shows_what_is_written(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brackets and braces are not markup."""
    monkeypatch.setenv("COLUMNS", "300")
    for command, words in (
        ("segment", ('JSON {"video": ["text", ...]}', "Examples", "resurgsam2 segment frames/ -t scissors")),
        ("export", ('[{"id": 1, "name": "...", "labels": [...]}]', '{"label": "name"}')),
        ("evaluate", ('{"name": [object ids]}',)),
    ):
        shown = " ".join(cli(command, "--help").out.split())
        for text in words:
            assert text in shown, (command, text)
        assert "[bold]" not in shown


def test_published_values_in_help(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers in the help are the defaults of the rules."""
    monkeypatch.setenv("COLUMNS", "300")
    shown = cli("segment", "--help").out
    for name in options.RULES:
        (line,) = [x for x in shown.splitlines() if f"--{name.replace('_', '-')} " in x]
        assert f"(default {getattr(Rules(), name)})" in line


def test_verbose_shows_the_cause(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("{")
    run = ("batch", tmp_path, "--prompts", tmp_path / "p.json")
    assert "Traceback" not in cli(*run).err
    shown = cli(*run, "--verbose").err
    assert "Traceback" in shown
    assert "InputError" in shown
    assert "Traceback" not in cli(*run).err


@pytest.mark.parametrize(
    "command",
    ["segment", "batch", "export", "evaluate", "train", "render", "weights fetch", "weights add", "weights convert"],
)
def test_options_mean_one_thing(command: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command that writes has these options."""
    monkeypatch.setenv("COLUMNS", "300")
    shown = cli(*command.split(), "--help").out
    wanted = {"--quiet", "--json", "--verbose", "--overwrite"}
    if command == "weights fetch":
        wanted.remove("--overwrite")  # it never replaces anything
    for option in wanted:
        assert option in shown, option


def test_version_and_doctor(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("--version").out.startswith("resurgsam2 0.")
    report = json.loads(cli("doctor", "--json").out)
    assert report["scan"] in ("c", "torch", "triton", "mamba-ssm")
    assert "ffmpeg version" in report["ffmpeg"]
    assert report["weights chosen"] == "demo"
    assert cli("doctor").out.count("\n") == len(report)
    monkeypatch.setattr("weights.store.BUNDLED", tmp_path / "none.safetensors")
    assert "weights fetch" in json.loads(cli("doctor", "--json").out)["weights chosen"]


def test_bench(cli: Cli, small_weights: Path, video: Path) -> None:
    """Each stage has its speed, and the slowest of what runs side by side is the bottleneck. Few objects come first."""
    options = ("--weights", small_weights, "--count-frames", "8", "--device", "cpu")
    done = cli("bench", video, *options, "--count-objects", "3", "--count-objects", "1", "--json")
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert (record["width"], record["height"], record["frames"]) == (160, 120, 8)
    assert record["start_up_seconds"] > 0
    assert set(record["stages"]) == {"decode", "encode"}
    assert [x["objects"] for x in record["objects"]] == [1, 3]
    for row in record["objects"]:
        seconds = {name: x["seconds"] for name, x in {**record["stages"], **row["stages"]}.items()}
        assert set(seconds) > {"detect", "track", "render", "write frames", "write png", "write coco", "write overlay"}
        assert min(seconds.values()) > 0
        network = seconds.pop("encode") + seconds.pop("track")
        decode = seconds.pop("decode")
        seconds.pop("detect")
        side_by_side = {"decode": decode, "network": network, "outputs": sum(seconds.values())}
        slowest = max(side_by_side.items(), key=lambda x: x[1])
        assert row["bottleneck"] == slowest[0]
        assert row["of_bottleneck"] == pytest.approx(row["end_to_end"]["seconds"] / slowest[1])
    told = cli("bench", *options, "--size", "64x48", "--count-objects", "1")
    assert told.code == 0, told.err
    assert "the bottleneck is" in told.out
    assert cli("bench", *options, "--size", "64").code == 2


def test_a_folder_that_may_not_be_read(cli: Cli, small_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, who may read everything: the refusal is made."""
    Path("closed").mkdir()

    def refuse(self: Path) -> object:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    for command in (("segment", "closed", "-t", "x"), ("evaluate", "closed", "--truth", "closed")):
        done = cli(*command)
        assert done.code == 3
        assert done.err.splitlines()[0].endswith("closed: Permission denied")
        assert "Traceback" not in done.err
