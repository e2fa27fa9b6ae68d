"""A mask that a person gives stands in its frame to the pixel, whatever the network's resolution and the options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import ffmpeg
from conftest import Cli
from PIL import Image
from pycocotools import mask as coco_mask

from resurgsam2_cli import VideoSession, build_engine, open_source

WIDTH, HEIGHT, FRAMES = 160, 120, 8
AT = 3
"""The frame in which masks are given."""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("given") / "v.mp4"
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=size={WIDTH}x{HEIGHT}:rate=25", "-frames:v", str(FRAMES), path)
    return path


def drawn(name: str) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    match name:
        case "bar":
            mask[60:61, 20:120] = True
        case "pixel":
            mask[17, 90] = True
        case "block":
            mask[40:90, 30:100] = True
        case "ring":
            mask[5:30, 5:30] = True
            mask[16, 16] = False
    return mask


def saved(name: str, folder: Path = Path()) -> Path:
    path = folder / f"{name}.png"
    Image.fromarray(drawn(name).astype(np.uint8) * 255).save(path)
    return path


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def states(run: Path, frame: int = AT) -> list[dict[str, Any]]:
    return json.loads((run / "frames.jsonl").read_text().splitlines()[frame])["objects"]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--threshold", "50"),
        ("--threshold", "-50"),
        ("--min-part", "20000", "--fill-holes", "500"),
        ("--direction", "both", "-t", "kidney"),
    ],
)
def test_masks_are_written_as_given(cli: Cli, video: Path, small_weights: Path, options: tuple[str, ...]) -> None:
    names = ["block", "bar", "pixel", "ring"]
    marks = [x for name in names for x in ("--mark", f"{name}@{AT} mask {saved(name)}")]
    done = cli("segment", video, *marks, "--mark", f"gone@{AT} absent", *options, "--weights", small_weights,
               "--object-png")  # fmt: skip
    assert done.code == 0, done.err
    run = Path("runs/v")
    coco = json.loads((run / "annotations.json").read_text())
    image = coco["images"][AT]["id"]
    found = {x["category_id"]: x for x in coco["annotations"] if x["image_id"] == image}
    first = 2 if "-t" in options else 1
    labels = picture(run / f"masks/{AT:05d}.png")
    for ident, name in enumerate(names, start=first):
        mask, state, entry = drawn(name), states(run)[ident - 1], found[ident]
        assert np.array_equal(picture(run / f"objects/{ident:03d}/{AT:05d}.png") > 0, mask)
        assert (state["stage"], state["present"], state["area"]) == ("drawn", True, int(mask.sum()))
        assert state["object_score"] > 0
        assert state["bbox"] == entry["bbox"] == coco_mask.toBbox(entry["segmentation"]).tolist()
        assert np.array_equal(coco_mask.decode(entry["segmentation"]), mask)
        assert entry["area"] == mask.sum()
        assert entry["score"] > 0.5
    # The bar crosses the block: the later object lies on top.
    assert (labels[drawn("bar")] == first + 1).all()
    assert (labels[drawn("block") & ~drawn("bar")] == first).all()
    assert (labels[drawn("pixel")] == first + 2).all()
    assert (labels[drawn("ring")] == first + 3).all()
    gone = states(run)[first + 3]
    assert (gone["stage"], gone["present"], gone["area"]) == ("absent", False, 0)
    assert first + 4 not in found


def test_clicks_after_a_mask_make_another(cli: Cli, video: Path, small_weights: Path) -> None:
    """Clicks that follow a mask in its frame make another, which is cleaned as all others are."""
    marks = ["--mark", f"a@{AT} mask {saved('block')}", "--mark", f"a@{AT} +60,60"]
    command = ("segment", video, *marks, "--weights", small_weights, "--no-overlay")
    assert cli(*command).code == 0
    assert states(Path("runs/v"))[0]["stage"] == "point"
    assert cli(*command, "--min-part", "20000", "-o", "cleaned").code == 0
    assert states(Path("cleaned/v"))[0]["area"] == 0


def test_a_session_gives_what_was_given(video: Path, small_weights: Path, tmp_path: Path) -> None:
    """Passes keep it, and a later mark in its frame replaces it."""
    engine = build_engine(str(small_weights), device="cpu")
    pixel = saved("pixel", tmp_path)
    with open_source(str(video)) as source, VideoSession(engine, source) as session:
        (mask,) = session.mark(f"a@{AT} mask {saved('bar', tmp_path)}")
        assert np.array_equal(mask, drawn("bar"))
        session.run()
        assert np.array_equal(session.masks(AT)[0], drawn("bar"))
        session.run(start=0)
        assert np.array_equal(session.masks(AT)[0], drawn("bar"))
        (mask,) = session.mark(f"a@{AT} mask {pixel}")
        assert np.array_equal(mask, drawn("pixel"))
        session.run()
        assert np.array_equal(session.masks(AT)[0], drawn("pixel"))
        (state,) = session.states(AT)
        assert state is not None
        assert (state.stage, state.present) == ("drawn", True)
        session.mark(f"a@{AT} +80,60")
        assert session.states(AT)[0].stage == "point"  # type: ignore[union-attr]
        assert not session.given(AT)
        session.mark(f"a@{AT} mask {pixel}")
        session.mark(f"a@{AT} absent")
        assert not session.masks(AT)[0].any()
        assert session.states(AT)[0].stage == "absent"  # type: ignore[union-attr]


def test_the_network_remembers_what_it_did(video: Path, small_weights: Path, tmp_path: Path) -> None:
    """What goes into memory is the mask in the network's resolution, where a pixel is nothing."""
    engine = build_engine(str(small_weights), device="cpu")
    with open_source(str(video)) as source, VideoSession(engine, source) as session:
        session.mark(f"a@{AT} mask {saved('pixel', tmp_path)}")
        logits, _ = session.results(AT)
        assert (logits < 0).all()


def test_an_export_leaves_what_a_person_said(cli: Cli, video: Path, small_weights: Path) -> None:
    """Its ``--min-part`` and ``--fill-holes`` are for the network's masks, not for drawn and confirmed ones."""
    marks = [x for name in ("ring", "pixel") for x in ("--mark", f"{name}@{AT} mask {saved(name)}")]
    assert not cli("segment", video, *marks, "--weights", small_weights, "--no-overlay").code
    run = Path("runs/v")
    assert not cli("refine", run, "--mark", f"ring@{AT + 2} confirmed", "--weights", small_weights).code
    for name, options in (("as_is", ()), ("clean", ("--min-part", "700", "--fill-holes", "5"))):
        assert not cli("export", run, "-f", "coco", "-o", f"{name}.json", *options).code
    before, after = (
        {(x["image_id"], x["track_id"]): x["segmentation"] for x in json.loads(Path(y).read_text())["annotations"]}
        for y in ("as_is.json", "clean.json")
    )
    assert before != after
    at = {(i + 1, x["id"]): x["stage"] for i in range(FRAMES) for x in states(run, i)}
    said = {x for x, stage in at.items() if stage in ("drawn", "confirmed") and x in before}
    assert {at[x] for x in said} == {"drawn", "confirmed"}
    assert all(after.get(x) == before[x] for x in said)
