"""Whatever stands in a file or on the command line: a result, or an error that tells the user in one line.

Each property takes a valid input and damages it in its structure, its text and its bytes. ``python -m benchmarks.fuzz``
runs all of them for as long as is wanted, each in a process that a crash or a flood of memory may end.
"""

from __future__ import annotations

import copy
import csv
import io
import itertools
import json
import math
import os
import pickle
import re
import shutil
import tarfile
import tempfile
import tracemalloc
import warnings
import xml.etree.ElementTree as ElementTree
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from conftest import SMALL, Cli
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from safetensors.torch import load, save

from model import NetworkConfig, ReSurgSAM2, Rules
from model.config import from_dict, to_dict
from model.memory_bank import MemoryBank
from model.text_encoder import Prompts
from resurgsam2_cli.batch.find import find_items
from resurgsam2_cli.batch.items import Outcome
from resurgsam2_cli.batch.record import BATCH, Record
from resurgsam2_cli.batch.standing import Asked, difference
from resurgsam2_cli.cache import servers
from resurgsam2_cli.cache.archives import extract
from resurgsam2_cli.commands.bench import _parse_size
from resurgsam2_cli.commands.evaluate import _groups
from resurgsam2_cli.commands.export import _color
from resurgsam2_cli.commands.options import rate
from resurgsam2_cli.edits.corrections import read_corrections
from resurgsam2_cli.errors import InputError, UserError, WeightsProblem
from resurgsam2_cli.exports import EXPORTERS, ExportOptions
from resurgsam2_cli.exports.categories import CategoryRules
from resurgsam2_cli.exports.job import export, plan
from resurgsam2_cli.exports.splits import assign_splits
from resurgsam2_cli.exports.target import Target
from resurgsam2_cli.exports.youtube_vis import uncompressed
from resurgsam2_cli.files import json_list
from resurgsam2_cli.files.json_list import JsonList, append_item, read_lists, write_object, write_open_list
from resurgsam2_cli.files.rle import check_rle, run_lengths
from resurgsam2_cli.files.text import TooLargeError, decode_text, one_line, parse_json, read_text, refuse_constant
from resurgsam2_cli.measuring.masks import run_reader
from resurgsam2_cli.measuring.matching import Truth, match
from resurgsam2_cli.outputs.coco import (
    MaskEntry,
    annotation_entry,
    category_entry,
    coco_head,
    image_entry,
    video_entry,
)
from resurgsam2_cli.prompts.files import read_prompts
from resurgsam2_cli.prompts.prompt import Prompt, parse_prompts
from resurgsam2_cli.prompts.wording import wording_notes
from resurgsam2_cli.refining.places import worth_a_look
from resurgsam2_cli.runs.find import MADE_BY, find_runs, read_export_record
from resurgsam2_cli.runs.folder import Wanted
from resurgsam2_cli.runs.reading import read_frames
from resurgsam2_cli.runs.record import Run, RunObject, raw_record, read_run
from resurgsam2_cli.runs.sums import corrections, foreign, missing
from resurgsam2_cli.training.curves import _columns as columns
from resurgsam2_cli.training.folder import LOG, Log, TrainingFolder
from resurgsam2_cli.video.marks import OVERLAY, holds_mark
from resurgsam2_cli.video.positions import Part, Position
from weights import store
from weights.errors import WeightsError
from weights.key_map import PUBLISHED_RULES, UnknownKeys, clip_tower, published_network
from weights.loader import FORMAT, check_network, load_network, read_checkpoint, read_clip, read_tensors, save_release
from weights.vocabulary import rendered_vocabulary

EXAMPLES = int(os.environ.get("RESURGSAM2_FUZZ_EXAMPLES", "100"))


def examples(share: float = 1.0) -> Any:
    """How many inputs are tried; a share of them by properties that take long."""
    return settings(max_examples=max(1, int(EXAMPLES * share)), deadline=None, suppress_health_check=list(HealthCheck))


@lru_cache(maxsize=1)
def _scratch(process: int) -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


@contextmanager
def folder() -> Iterator[Path]:
    """An empty folder, for the time of one input."""
    path = Path(_scratch(os.getpid()).name) / "here"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def politely() -> Iterator[None]:
    """Errors that are meant for users pass, if they can be shown; no others do."""
    try:
        yield
    except UserError as error:
        check_message(error)
    except WeightsError as error:
        check_message(WeightsProblem(str(error), error.hint))


def check_message(error: UserError) -> None:
    assert error.message
    for line in (error.message, error.hint):
        assert len(line) < 2100
        assert not re.search("[\x00-\x1f\x7f-\x9f\u2028]", line)


def check_finite(value: Any) -> None:
    """NaN and infinity are nowhere in what was read."""
    if isinstance(value, float):
        assert math.isfinite(value)
    elif isinstance(value, dict):
        for x in value.values():
            check_finite(x)
    elif isinstance(value, (list, tuple)):
        for x in value:
            check_finite(x)


# --- Inputs -----------------------------------------------------------------------------------------------------------

ODD_TEXTS = (
    *(
        "",
        " ",
        ".",
        "..",
        "../../x",
        "/dev/zero",
        "a/b",
        "a\\b",
        "\ud800",
        "a\0b",
        "\x1b[31m",
        "a\nb",
        "\u2028",
        "x" * 300,
    ),
    *("9" * 5000, "1e999999999", "1/0", "nan", "inf", "-1", "0", "25", "30000/1001", "٣", "²", "=", "a=b", "#00e5ff"),
    *("12.5s", "1:02:03", "9" * 400 + "s", "0.00001s", "true", "left grasper", "[/x]", "%s{0}"),
)
ODD_NUMBERS = (0, -1, 1, 2, 255, 256, 2**31, 2**53 + 1, 2**63, 2**64, 10**400, -(10**400))
ODD_FLOATS = (0.5, -0.0, 1.0, 1e308, 5e-324, math.inf, -math.inf, math.nan)

texts = st.one_of(st.sampled_from(ODD_TEXTS), st.text(st.characters(exclude_categories=()), max_size=8))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(ODD_NUMBERS),
    st.integers(-10, 300),
    st.sampled_from(ODD_FLOATS),
    texts,
)
values = st.one_of(
    st.recursive(
        scalars,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
        max_leaves=6,
    ),
    st.sampled_from(({"complete": True}, {"videos": [1]}, {"videos": {}}, {"a": []}, [[[]]])),
    st.builds(lambda x: [x] * 300, scalars),
    st.builds(lambda depth: json.loads("[" * depth + "]" * depth), st.integers(50, 400)),
)
SNIPPETS = (
    "1e999",
    "NaN",
    "-Infinity",
    "[" * 3000,
    '{"a":' * 3000,
    "}",
    "]",
    ",",
    '"',
    "\\",
    "\\ud800",
    "\0",
    '"a": 1, ',
    "9" * 5000,
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Each container with each of its keys, at any depth."""
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        here = todo.pop()
        for key in list(here) if isinstance(here, dict) else range(len(here)):
            found.append((here, key))
            if isinstance(here[key], (dict, list)):
                todo.append(here[key])
    return found


def _edit(draw: Any, value: Any) -> Any:
    whole = [value]
    places = _places(whole)
    here, key = places[draw(st.integers(0, len(places) - 1))]
    what = draw(st.sampled_from(("replace", "replace", "remove", "add", "wrap", "repeat", "other type")))
    old = here[key]
    if what == "remove" and here is not whole:
        del here[key]
    elif what == "add" and isinstance(old, dict):
        old[draw(texts)] = copy.deepcopy(draw(values))
    elif what == "add" and isinstance(old, list):
        old.insert(draw(st.integers(0, len(old))), copy.deepcopy(draw(values)))
    elif what == "wrap":
        here[key] = draw(st.sampled_from(([old], {"a": old})))
    elif what == "repeat":
        here[key] = [copy.deepcopy(old)] * 2
    elif what == "other type":
        here[key] = draw(st.sampled_from((json.dumps(old), [old], True, 1.0, None)))
    else:
        here[key] = copy.deepcopy(draw(values))
    return whole[0]


@st.composite
def changed(draw: Any, valid: Any) -> Any:
    """A value with up to three changes of its structure."""
    value = copy.deepcopy(valid)
    for _ in range(draw(st.integers(0, 3))):
        value = _edit(draw, value)
    return value


@st.composite
def damaged(draw: Any, content: st.SearchStrategy[str | bytes]) -> bytes:
    """A text in some encoding, or bytes, perhaps cut, perhaps with something else in it."""
    data = draw(content)
    if isinstance(data, str):
        if draw(st.integers(0, 3)) == 0:
            at = draw(st.integers(0, len(data)))
            end = draw(st.sampled_from((at, at + 1, len(data))))
            data = data[:at] + draw(st.one_of(st.sampled_from(SNIPPETS), texts)) + data[end:]
        data = data.encode(draw(st.sampled_from(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16"))), "surrogatepass")
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=8)) + data[at + draw(st.integers(0, 8)) :]
    if draw(st.integers(0, 7)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    return data


def json_files(valid: Any) -> st.SearchStrategy[bytes]:
    """JSON files that were once the valid one."""
    return damaged(st.builds(lambda x, ascii_: json.dumps(x, ensure_ascii=ascii_), changed(valid), st.booleans()))


# --- Prompts ----------------------------------------------------------------------------------------------------------

TABLE = {"clip": ["left grasper", "kidney"], "day1/op.mp4": ["x=y"]}
EXPRESSIONS = {
    "videos": {
        "clip": {"expressions": {"0": {"exp": "left grasper", "obj_id": 1}, "1": {"exp": "kidney", "obj_id": "2"}}}
    }
}


@st.composite
def tables(draw: Any) -> str:
    """CSV with odd cells."""
    file = io.StringIO(newline="")
    table = csv.writer(file, delimiter=draw(st.sampled_from(",;\t")))
    table.writerow(draw(st.sampled_from((["video", "text", "label"], ["VIDEO", "Text"], ["text", "video"], ["a"], []))))
    cells = texts.filter(lambda x: "\0" not in x)
    for row in draw(st.lists(st.lists(st.one_of(cells, st.just("clip")), max_size=4), max_size=5)):
        table.writerow(row)
    return file.getvalue()


@examples()
@given(
    st.sampled_from(("p.csv", "p.json", "p.txt", "p")),
    st.one_of(json_files(TABLE), json_files(EXPRESSIONS), damaged(tables()), st.binary(max_size=40)),
)
@example("p.json", b'{"a": ["x"], "b": ["y"], "a": ["z"]}')
@example("p.json", b'{"videos": {"a": {"expressions": {"0": {"exp": ' + b"[" * 500 + b"]" * 500 + b"}}}}}")
@example("p.json", json.dumps({"videos": {"a": {"expressions": {str(i): {"exp": "x"} for i in range(300)}}}}).encode())
def test_prompt_files(name: str, data: bytes) -> None:
    with folder() as here, politely():
        (here / name).write_bytes(data)
        found = read_prompts(here / name)
        assert found.rows
        for video, prompt in found.rows:
            assert one_line(video) == video
            assert all(x and one_line(x) == x for x in (prompt.text, prompt.label))
        found.prompts_of(["clip", "op"])
        found.unmatched()


@examples()
@given(st.lists(texts, max_size=3))
def test_prompts_of_the_command_line(arguments: list[str]) -> None:
    with politely():
        assert all(x.text and x.label for x in parse_prompts(arguments))
    for x in arguments:
        with politely():
            Prompt.parse(x)


# --- Options ----------------------------------------------------------------------------------------------------------

digits = st.one_of(
    st.integers(0, 99).map(str), st.integers(0, 10**20).map(str), st.sampled_from(("9" * 400, "9" * 5000))
)
times = st.one_of(
    digits,
    st.builds("{}.{}s".format, digits, digits),
    st.builds("{}:{}".format, digits, digits),
    st.builds("{}:{}:{}.{}".format, digits, digits, digits, digits),
    st.floats(0, 1e6, allow_subnormal=False).map("{:.12f}s".format),
    texts,
)


@examples(3)
@given(times, st.none() | times, st.integers(-1, 2**70))
@example("9" * 5000, None, 1)
@example("0", "9" * 400 + "s", 1)
@example("0.00001s", None, 1)
def test_positions(start: str, end: str | None, stride: int) -> None:
    with politely():
        part = Part(Position.parse(start), None if end is None else Position.parse(end), stride)
        for position in (part.start, part.end or part.start):
            assert str(Position.parse(str(position))) == str(position)
        for frame_rate in (Fraction(1, 100), Fraction(30000, 1001), Fraction(10**18)):
            part.count(1000, frame_rate)
            part.count(None, frame_rate)
            length = part.duration(Fraction(1, 3), frame_rate)
            assert length is None or math.isfinite(float(length))


@examples()
@given(st.one_of(texts, st.builds("{}/{}".format, digits, digits), st.builds("{}e{}".format, digits, digits)))
@example("1e999999999")
@example("1/" + "9" * 5000)
def test_frame_rates(text: str) -> None:
    with politely():
        found = rate(text)
        assert found is not None
        assert Fraction(1, 100) <= found <= 1000


@examples()
@given(st.one_of(texts, st.builds("{}x{}".format, digits, digits)))
@example("9" * 5000 + "x100")
def test_sizes(text: str) -> None:
    with politely():
        assert all(16 <= x <= 8192 for x in _parse_size(text))


@examples()
@given(st.one_of(texts, st.builds("{}=#{}".format, texts, st.text("0123456789abcdef ", max_size=7))))
def test_colors(text: str) -> None:
    with politely():
        name, color = _color(text)
        assert name
        assert all(0 <= x <= 255 for x in color)


def some_runs(*names: str) -> list[Run]:
    return [Run(Path(x), x, f"/{x}.mp4", {}, 9, 12, Fraction(25), 4, Part(), ()) for x in names]


@examples()
@given(
    st.one_of(st.lists(st.builds("{}={}".format, texts, texts), max_size=4).map(",".join), texts),
    json_files({"train": ["a", "b"], "val": ["c"]}),
)
@example("a=1e308,b=1e308", b"{}")
@example("a=1", b'{"train": ["a"], "val": [[["b"]]]}')
def test_splits(text: str, data: bytes) -> None:
    runs = some_runs("a", "b", "c")
    with folder() as here:
        (here / "s.json").write_bytes(data)
        for argument in (text, str(here / "s.json")):
            with politely():
                splits, chosen = assign_splits(argument, runs)
                assert set(chosen) == {"a", "b", "c"}
                assert set(chosen.values()) <= set(splits)


CATEGORIES = [{"id": 1, "name": "tool", "labels": ["grasper"], "supercategory": "x"}, {"id": 7, "name": "kidney"}]
NAMED_OBJECTS = [("left grasper", "grasper"), ("kidney", "kidney"), ("x", "y"), ("grasper", "x")]


@examples()
@given(
    st.lists(st.one_of(texts, st.builds("{}={}".format, texts, texts)), max_size=3),
    st.one_of(
        json_files(CATEGORIES), json_files({"categories": CATEGORIES}), json_files({"grasper": "tool", "x": None})
    ),
)
@example([], b'[{"id": ' + b"9" * 4300 + b', "name": "a"}]')
@example([], b'[{"id": 1, "name": "a", "supercategory": ' + b"[" * 500 + b"]" * 500 + b"}]")
def test_categories(arguments: list[str], data: bytes) -> None:
    with folder() as here:
        (here / "c.json").write_bytes(data)
        for chosen in (arguments, [str(here / "c.json")]):
            with politely():
                rules = CategoryRules.parse(chosen)
                objects = [RunObject(i, x, y, (0, 0, 0)) for i, (x, y) in enumerate(NAMED_OBJECTS, start=1)]
                every, category_of = rules.resolve(objects)
                assert len({x.id for x in every}) == len(every)
                assert all(0 < x.id < 2**32 and x.name == one_line(x.name) for x in every)
                assert {category_of(x) for x in objects} - {None} <= set(every)


@examples()
@given(texts, json_files({"tools": [1, 2], "tissue": [11]}))
@example("x" * 300, b'{"\\ud800\\n": [1]}')
def test_groups(text: str, data: bytes) -> None:
    with folder() as here:
        (here / "g.json").write_bytes(data)
        for argument in (text, str(here / "g.json")):
            with politely():
                assert all(name == one_line(name) for name in _groups(argument, here))


# --- Batches ----------------------------------------------------------------------------------------------------------

lines = st.one_of(
    st.sampled_from(
        ("a.mp4", "b.mkv", "sub", "sub/c.mp4", "*.mp4", "sub/*", "list.txt", "other.txt", "# x", "", "[", "a\0*")
    ),
    texts,
).filter(lambda x: not x.startswith("/") and ".." not in x)


@examples()
@given(damaged(st.lists(lines, max_size=6).map("\n".join)), st.lists(lines, max_size=4), st.booleans())
@example(b"a\0*", [], False)
@example(b"other.txt\nother.txt", ["a.mp4"], False)
@example(b"none.mp4\na.mp4\nnone.mp4\n*.mov", [], False)
def test_lists_of_videos(data: bytes, others: list[str], recursive: bool) -> None:
    if b".." in data or b"/" in data.replace(b"sub/", b""):
        return  # not to search this machine
    with folder() as here:
        (here / "sub").mkdir()
        for name in ("a.mp4", "b.mkv", "sub/c.mp4"):
            (here / name).write_bytes(name.encode())
        (here / "list.txt").write_bytes(data)
        (here / "other.txt").write_text("\n".join(others), encoding="utf-8", errors="replace")
        with politely():
            found = find_items([str(here / "list.txt")], out=here / "out", recursive=recursive)
            assert 1 <= len(found.items) - len(found.missing) <= 3
            assert all(x.names for x in found.items)


def test_lists_that_name_lists(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    for i in range(15):  # two to the fifteenth power of ways lead to the video
        (tmp_path / f"{i}.txt").write_text(f"{i + 1}.txt\n{i + 1}.txt\n")
    (tmp_path / "15.txt").write_text("a.mp4")
    assert len(find_items([str(tmp_path / "0.txt")], out=tmp_path / "out", recursive=False).items) == 1
    (tmp_path / "15.txt").write_text("16.txt")
    (tmp_path / "16.txt").write_text("a.mp4")
    with pytest.raises(InputError, match="a list in a list"):
        find_items([str(tmp_path / "0.txt")], out=tmp_path / "out", recursive=False)


OUTCOMES = {
    "format": 1,
    "version": "1",
    "videos": [
        {"source": "/a.mp4", "state": "done", "frames": 3, "seconds": 0.5},
        {"source": "/b.mp4", "state": "failed", "error": "x"},
    ],
}


@examples()
@given(json_files(OUTCOMES), st.lists(texts, min_size=1, max_size=3))
@example(b'{"videos": [{"source": "\\ud800", "state": "done", "note": 1e999}]}', ["\ud800"])
def test_records_of_batches(data: bytes, notes: list[str]) -> None:
    with folder() as here, politely():
        (here / BATCH).write_bytes(data)
        record = Record(here)
        list(record.add(Outcome("/c.mp4", "done", note=x) for x in notes))
        record.tidy()
        content = parse_json((here / BATCH).read_text(encoding="utf-8"))
        assert content["videos"][-1] == {**content["videos"][-1], "source": "/c.mp4", "note": notes[-1]}


# --- Runs -------------------------------------------------------------------------------------------------------------

HEIGHT, WIDTH, LENGTH = 9, 12, 4


def draw_run() -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """What run.json, the lines of frames.jsonl, and annotations.json hold."""
    images: list[Any] = []
    annotations: list[Any] = []
    frames: list[Any] = []
    for t in range(LENGTH):
        images.append(image_entry(t + 1, f"clip/{t:05d}.png", HEIGHT, WIDTH, 1, 2 * t))
        states = []
        for k in (1, 2):
            mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
            mask[k : k + 4, t + k : t + 5] = 1
            mask[k + 1, t + k + 1] = 0
            rle = coco_mask.encode(mask)
            entry = MaskEntry(
                {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()},
                float(mask.sum()),
                coco_mask.toBbox(rle).tolist(),
                k,
                0.9,
            )
            annotations.append(annotation_entry(len(annotations) + 1, t + 1, k, entry))
            scores = {"object_score": 4.5, "predicted_iou": 0.9}
            states.append({"id": k, "stage": "track", "present": True, **scores, "area": 12, "bbox": entry.box})
        frames.append({"frame": 2 * t, "name": f"{2 * t:05d}", "time": t / 25, "objects": states})
    categories = [category_entry(1, "grasper"), category_entry(2, "kidney")]
    head = coco_head("clip", [video_entry(1, "clip", HEIGHT, WIDTH, LENGTH)], categories)
    record = {
        "format": 1,
        "complete": True,
        "source": {
            "path": "/clip.mp4",
            "width": WIDTH,
            "height": HEIGHT,
            "frame_rate": "25",
            "frames": LENGTH,
            "size": 5,
            "sum": "a",
        },
        "objects": [
            {"id": i, "text": x, "label": x, "color": "#00e5ff"} for i, x in enumerate(("grasper", "kidney"), 1)
        ],
        "settings": {"start": "0", "end": "12.5s", "stride": 2, "outputs": ["frames", "coco"]},
        "weights": {"name": "demo", "sha256": "0"},
        "backend": {"precision": "fp32"},
        "sums": {"annotations.json": "0", "masks": "1"},
        "cuts": [
            {
                "frame": 4,
                "overlap": [2, 4],
                "objects": [
                    {"id": 1, "was": 2, "iou": 0.75, "differs": None},
                    {"id": 2, "was": 1, "iou": 0.25, "differs": "elsewhere"},
                ],
            }
        ],
    }
    return record, frames, {**head, "images": images, "annotations": annotations}


RECORD, FRAMES, ANNOTATIONS = draw_run()
ASKED = Asked(RECORD["settings"], RECORD["weights"], "fp32", Fraction(25))
PROMPTS = (Prompt("grasper", "grasper"), Prompt("kidney", "kidney"))


def write_run(
    here: Path, record: bytes | None = None, frames: bytes | None = None, annotations: bytes | None = None
) -> Path:
    run = here / "clip"
    run.mkdir()
    (run / "run.json").write_bytes(record or json.dumps(RECORD).encode())
    (run / "frames.jsonl").write_bytes(frames or "".join(json.dumps(x) + "\n" for x in FRAMES).encode())
    (run / "annotations.json").write_bytes(annotations or json.dumps(ANNOTATIONS).encode())
    return run


@examples(2)
@given(json_files(RECORD))
@example(json.dumps({**RECORD, "source": {**RECORD["source"], "frame_rate": "1e999999999"}}).encode())
@example(json.dumps({**RECORD, "source": {**RECORD["source"], "height": 10**9}}).encode())
@example(json.dumps({**RECORD, "sums": {"/dev/zero": "0"}}).encode())
@example(json.dumps({**RECORD, "sums": {"a\0b": "0"}}).encode())
@example(json.dumps({**RECORD, "settings": {**RECORD["settings"], "start": "9" * 5000}}).encode())
@example(json.dumps({**RECORD, "objects": RECORD["objects"] * 300}).encode())
@example(json.dumps({**RECORD, "settings": {**RECORD["settings"], "end": "x " * 2000}}).encode())
def test_records_of_runs(data: bytes) -> None:
    with folder() as here:
        run = write_run(here, record=data)
        raw = raw_record(run)
        check_finite(raw)
        for x in (None, Fraction(25)):
            asked = Asked(ASKED.settings, ASKED.weights, ASKED.precision, x)
            why = difference(raw, asked, PROMPTS, {"size": 5, "sum": "a", "files": 3})
            assert why == one_line(why)
        Wanted(here, "clip", "/other.mp4", {"size": 5, "sum": "a"}).find()
        with politely():
            found, _ = find_runs([here])
            assert found == [read_run(run, found[0].name)]
            assert found[0].height * found[0].width <= 2**28
            assert len(found[0].objects) <= 255
            for look in (corrections, foreign, missing):
                look(found[0].folder)


frame_lines = damaged(
    changed(FRAMES).map(lambda x: "\n".join(json.dumps(y) for y in (x if isinstance(x, list) else [x])))
)


def check_run(run: Path) -> None:
    """What is read of a run is fit for every use."""
    found = read_run(run)
    for frame in read_frames(found):
        check_finite([frame.time, frame.states, [(x.area, x.box, x.score) for x in frame.masks]])
        assert (run / f"{frame.name}.png").parent == run
        for x in frame.masks:
            mask = coco_mask.decode(x.rle)
            assert mask.shape == (found.height, found.width)
            assert mask.sum() == x.area > 0
    for place in worth_a_look(found):
        check_finite(place.to_json())
        assert 0 <= place.score <= 1
        assert place.reason == one_line(place.reason)


@examples(2)
@given(st.none() | json_files(RECORD), st.none() | frame_lines, st.none() | json_files(ANNOTATIONS))
@example(None, json.dumps({**FRAMES[0], "name": "a\0b"}).encode(), None)
@example(None, json.dumps({**FRAMES[0], "objects": [{"id": 1}, {"id": 2}]}).encode(), None)
@example(None, None, json.dumps(ANNOTATIONS).replace(f"[{HEIGHT}, {WIDTH}]", "[9.0, 12.0]").encode())
@example(None, None, json.dumps(ANNOTATIONS).replace('"bbox": [1.0, 1.0', '"bbox": [5.0, 5.0').encode())
def test_frames_of_runs(record: bytes | None, frames: bytes | None, annotations: bytes | None) -> None:
    with folder() as here, politely():
        check_run(write_run(here, record, frames, annotations))


@examples(0.5)
@given(
    st.sampled_from(sorted(set(EXPORTERS) - {"overlay"})),
    st.none() | json_files(RECORD),
    st.none() | frame_lines,
    st.none() | json_files(ANNOTATIONS),
)
def test_exports_of_runs(kind: str, record: bytes | None, frames: bytes | None, annotations: bytes | None) -> None:
    with folder() as here:
        run = write_run(here, record, frames, annotations)
        with politely():
            exporter, options = EXPORTERS[kind], ExportOptions()
            dataset = plan(find_runs([here])[0], exporter, options, CategoryRules(), None)
            export(kind, dataset, Target(here / "out", exporter.file_suffix, overwrite=False), lambda _: None)
            for path in (here / "out").rglob("*.json"):
                check_finite(parse_json(path.read_text(encoding="utf-8")))
        with politely():
            read = run_reader(run)
            read("0", 1)
            read("2", 3)


# --- Edited masks -----------------------------------------------------------------------------------------------------

UNEDITED = {**RECORD, "sums": {}}


def check_corrections(here: Path, path: Path) -> None:
    """Whatever was made of the files, what is read of them is fit for the run, or it is an error."""
    folder_of_run = here / "runs"
    folder_of_run.mkdir()
    run = read_run(write_run(folder_of_run, json.dumps(UNEDITED).encode()))
    own = {x.number: {y.object_id: coco_mask.decode(y.rle).astype(bool) for y in x.masks} for x in read_frames(run)}
    with politely():
        last = (-1, 0)
        for x in read_corrections(path, run):
            assert (x.frame, x.object_id) > last
            last = x.frame, x.object_id
            assert x.mask.dtype == bool
            assert x.mask.shape == (HEIGHT, WIDTH)
            assert not np.array_equal(x.mask, own[x.frame][x.object_id])


def _with_polygons() -> dict[str, Any]:
    data = copy.deepcopy(ANNOTATIONS)
    for i, x in enumerate(data["annotations"][:4]):
        left, top, width, height = x["bbox"]
        x["segmentation"] = [[left, top, left + width, top, left + width, top + height, left, top + height]]
        if i % 2:
            x["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [10, 20, HEIGHT * WIDTH - 30]}
            del x["track_id"]
    return data


@examples()
@given(json_files(ANNOTATIONS) | json_files(_with_polygons()))
@example(json.dumps(ANNOTATIONS).encode())
@example(json.dumps({**ANNOTATIONS, "images": ANNOTATIONS["images"] * 2}).encode())
def test_edited_coco(data: bytes) -> None:
    with folder() as here:
        (here / "a.json").write_bytes(data)
        check_corrections(here, here / "a.json")


@st.composite
def xml_files(draw: Any, valid: str) -> bytes:
    """XML whose attributes and tags were changed, once valid."""
    root = ElementTree.fromstring(valid)
    every = list(root.iter())
    for _ in range(draw(st.integers(0, 3))):
        here = draw(st.sampled_from(every))
        what = draw(st.sampled_from(("attribute", "attribute", "remove", "tag", "text", "repeat")))
        text = re.sub("[^\t -\ud7ff]", "?", draw(texts))
        keys = sorted(here.attrib)
        if what in ("attribute", "remove") and keys:
            key = draw(st.sampled_from(keys))
            here.attrib.pop(key) if what == "remove" else here.set(key, text)
        elif what == "tag":
            here.tag = draw(st.sampled_from(("mask", "polygon", "box", "image", "track", "attribute", "meta", "x")))
        elif what == "text":
            here.text = text
        elif what == "repeat":
            draw(st.sampled_from(every)).append(copy.deepcopy(here))
    return draw(damaged(st.just(ElementTree.tostring(root, encoding="unicode"))))


_SHAPES = (
    '<mask label="grasper" left="1" top="2" width="3" height="2" rle="1, 4, 1"><attribute name="track_id">1</attribute>'
    '</mask><polygon label="kidney" points="1.5,2;5,2;5,6" group_id="1"/><polygon label="kidney" group_id="1"'
    ' points="0,0;3,0;3,3"/>'
)
CVAT_IMAGES = (
    f'<annotations><version>1.1</version><image id="0" name="clip/00000.png" width="{WIDTH}" height="{HEIGHT}">'
    f'{_SHAPES}</image><image id="1" name="frame_000002">{_SHAPES}</image></annotations>'
)
CVAT_VIDEO = (
    "<annotations><meta><task><start_frame>0</start_frame><stop_frame>6</stop_frame><frame_filter>step=2</frame_filter>"
    f"<original_size><width>{WIDTH}</width><height>{HEIGHT}</height></original_size></task></meta>"
    '<track id="0" label="grasper"><mask frame="0" outside="0" left="1" top="2" width="3" height="2" rle="1, 4, 1"/>'
    '<polygon frame="4" outside="0" points="1.5,2;5,2;5,6"><attribute name="track_id">1</attribute></polygon>'
    '<polygon frame="5" outside="1" points="1.5,2;5,2;5,6"/></track></annotations>'
)


@examples()
@given(xml_files(CVAT_IMAGES))
@example(CVAT_IMAGES.encode())
@example(b'<!DOCTYPE a [<!ENTITY a "b">]><annotations>&a;</annotations>')
@example(b"<annotations>" * 10**5)
def test_edited_cvat_images(data: bytes) -> None:
    with folder() as here:
        (here / "a.xml").write_bytes(data)
        check_corrections(here, here / "a.xml")


@examples()
@given(xml_files(CVAT_VIDEO))
@example(CVAT_VIDEO.encode())
@example(CVAT_VIDEO.replace('frame="4"', f'frame="{2**70}"').encode())
def test_edited_cvat_video(data: bytes) -> None:
    with folder() as here:
        (here / "a.xml").write_bytes(data)
        check_corrections(here, here / "a.xml")


def _png(mode: str, size: tuple[int, int], value: int) -> bytes:
    made = io.BytesIO()
    Image.new(mode, size, value).save(made, "PNG")
    return made.getvalue()


pngs = damaged(
    st.builds(
        _png,
        st.sampled_from(("P", "P", "L", "1", "I;16", "RGB", "RGBA")),
        st.sampled_from(((WIDTH, HEIGHT), (WIDTH, HEIGHT), (WIDTH, HEIGHT), (1, 1))),
        st.sampled_from((0, 1, 2, 3, 255)),
    )
)
frame_files = st.sampled_from(("00000.png", "2.png", "00004.PNG", "00006.png", "00007.png", "x.png", "0.jpg"))
trees = st.dictionaries(
    st.one_of(
        frame_files,
        st.builds("{}/{}".format, st.sampled_from(("clip", "001", "003", "masks", "x", "JPEGImages")), frame_files),
        st.builds("clip/{}/{}".format, st.sampled_from(("001", "2", "003", "objects/001", "masks")), frame_files),
        st.sampled_from(("run.json", "clip/run.json", "a.json", "annotations/a.xml")),
    ),
    pngs | st.sampled_from((json.dumps(UNEDITED).encode(), json.dumps(ANNOTATIONS).encode(), CVAT_IMAGES.encode())),
    max_size=4,
)


@examples()
@given(trees)
@example({"clip/00000.png": _png("L", (WIDTH, HEIGHT), 1), "clip/00002.png": b""})
@example({"00000.png": _png("L", (20000, 20000), 0)})
def test_edited_trees(files: dict[str, bytes]) -> None:
    with folder() as here:
        for name, content in files.items():
            path = here / "edited" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        check_corrections(here, here / "edited")


@st.composite
def zips(draw: Any) -> bytes:
    made = io.BytesIO()
    method = draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    with zipfile.ZipFile(made, "w", method) as file:
        for name, content in draw(trees).items():
            file.writestr(draw(st.sampled_from(("", "", "", "top/", "../", "/"))) + name, content)
    return draw(damaged(st.just(made.getvalue())))


@examples()
@given(zips())
@example(b"PK\x05\x06" + bytes(18))
def test_edited_zips(data: bytes) -> None:
    with folder() as here:
        (here / "a.zip").write_bytes(data)
        check_corrections(here, here / "a.zip")


@examples(2)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_rle_of_masks(height: int, width: int, data: st.DataObject) -> None:
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.asfortranarray(np.array(bits, np.uint8).reshape(height, width))
    rle = coco_mask.encode(mask)
    rle = {**rle, "counts": rle["counts"].decode()}
    check_rle(rle, height, width)
    lengths = run_lengths(rle["counts"])
    assert np.array_equal(np.repeat(np.arange(len(lengths)) % 2, lengths), mask.ravel(order="F"))
    again = coco_mask.frPyObjects(uncompressed(rle), height, width)
    assert again["counts"].decode() == rle["counts"]


counts = st.one_of(
    st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=16),
    st.text(st.sampled_from("0123OPQ_`abnop\0é~"), max_size=30),
    texts,
)


@examples(4)
@given(
    values | st.fixed_dictionaries({"size": st.just([3, 4]), "counts": counts | values}),
    st.sampled_from(((3, 4), (2**14, 2**14))),
)
@example({"size": [3.0, 4.0], "counts": "<"}, (3, 4))
@example({"size": [3, 4], "counts": "<" + 2 * "PPPPPPPPPPP8" + 62 * "0"}, (3, 4))  # a sum of 12 + 2**64
@example({"size": [3, 4], "counts": "PPPPPP0<"}, (3, 4))
@example({"size": [3, 4], "counts": ""}, (3, 4))
def test_rle_from_elsewhere(rle: Any, size: tuple[int, int]) -> None:
    try:
        check_rle(rle, *size)
    except ValueError:
        return
    lengths = run_lengths(rle["counts"])
    mask = coco_mask.decode(rle)
    assert mask.shape == size
    assert np.array_equal(np.repeat(np.arange(len(lengths)) % 2, lengths), mask.ravel(order="F"))


EXPORTED = {
    "made_by": MADE_BY,
    "format": "sav",
    "contents": ["clip"],
    "videos": [{"name": "day1/clip", "folder_name": "clip", "split": "", "objects": [{"id": 1, "text": "grasper"}]}],
}


@examples()
@given(json_files(EXPORTED), st.none() | json_files(EXPRESSIONS))
@example(json.dumps({**EXPORTED, "videos": [{**EXPORTED["videos"][0], "folder_name": "gone"}]}).encode(), None)  # type: ignore[dict-item]
def test_records_of_exports(data: bytes, expressions: bytes | None) -> None:
    with folder() as here:
        for name in ("export/clip/001", "truth/Annotations/clip"):
            (here / name).mkdir(parents=True)
        (here / "export/export.json").write_bytes(data)
        if expressions is not None:
            (here / "truth/meta_expressions.json").write_bytes(expressions)
        read_export_record(here / "export")
        with politely():
            for task in match(here / "export", Truth.find(here / "truth"), all_frames=True, skip_missing=False):
                assert task.prediction.folder.is_dir()
                assert all(isinstance(x.predicted, int) and isinstance(x.true, int) for x in task.pairs or ())


LONG = "x" * 300  # no file can have this name


@pytest.mark.parametrize(
    "arguments",
    [
        ("segment", LONG, "-t", "a"),
        ("segment", ".", "-t", "a", "--weights", LONG),
        ("batch", LONG, "-t", "a", "-o", "o"),
        ("batch", ".", "--prompts", LONG, "-o", "o"),
        ("export", LONG, "-f", "coco", "-o", "o"),
        ("evaluate", LONG, "--truth", "."),
        ("evaluate", ".", "--truth", LONG),
        ("train", "-o", "o", "--data", LONG),
        ("weights", "add", LONG),
    ],
    ids=lambda x: " ".join(x).replace(LONG, "x"),
)
def test_paths_that_no_file_can_have(arguments: tuple[str, ...], cli: Cli) -> None:
    done = cli(*arguments)
    assert done.code in (2, 3, 4, 6)
    assert len(done.err.splitlines()) == 2


# --- Text and lists ---------------------------------------------------------------------------------------------------


@examples()
@given(damaged(texts))
def test_text(data: bytes) -> None:
    with suppress(ValueError):
        text = one_line(decode_text(data))
        assert text == one_line(text)
        text.encode()


@examples()
@given(json_files({"a": [1, {"b": None}], "c": 0.5}))
@example(b"1e999")
@example(b"[" * 100 + b"]" * 100)
def test_json(data: bytes) -> None:
    with suppress(ValueError):
        check_finite(parse_json(decode_text(data)))


class _Members(list):
    """Those of an object, in order; a name may stand there twice."""


def _plain(value: Any) -> Any:
    if isinstance(value, _Members):
        return {key: _plain(x) for key, x in value}
    return [_plain(x) for x in value] if isinstance(value, list) else value


@examples(3)
@given(
    json_files(
        {
            "info": {"a": [1, 2]},
            "images": [{"id": 1}, {"id": 2, "x": "\ud83d\ude00\n"}],
            "n": 12345,
            "b": [-1.5e10, [], {}],
        }
    ),
    st.integers(1, 40),
)
@example(b'{"a": [1],}', 8)
@example(b'{"a": [1]} x', 8)
@example(b"{1: [1]}", 8)
@example(b'{"a": [1e999]}', 2)
def test_lists_in_chunks(data: bytes, chunk: int) -> None:
    with folder() as here, mock.patch.object(json_list, "_CHUNK", chunk):
        (here / "x.json").write_bytes(data)
        try:
            members = json.loads(data.decode(), object_pairs_hook=_Members, parse_constant=refuse_constant)
            check_finite(_plain(members))
        except (ValueError, RecursionError, AssertionError):
            members = None
        if isinstance(members, _Members):
            expected = [(key, _plain(x)) for key, value in members if type(value) is list for x in value]
            assert list(read_lists(here / "x.json")) == expected
        else:
            with pytest.raises(ValueError):  # noqa: PT011  (in any words)
                list(read_lists(here / "x.json"))


def test_a_wrong_value_is_not_read_to_the_end(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": [{]' + " " * 10**6)
    with mock.patch.object(json_list, "_CHUNK", 1000), pytest.raises(ValueError, match="double quotes"):
        for _ in read_lists(tmp_path / "x.json"):
            pass
    (tmp_path / "x.json").write_text('{"a": ["' + "x" * 10**5)
    with mock.patch.multiple(json_list, _CHUNK=1000, _LONGEST=10**4), pytest.raises(ValueError, match="no end"):
        list(read_lists(tmp_path / "x.json"))


@examples()
@given(
    st.lists(st.dictionaries(texts, values, max_size=3), max_size=4),
    st.lists(st.dictionaries(texts, values, max_size=3), max_size=4),
)
def test_lists_as_written(first: list[dict[str, Any]], more: list[dict[str, Any]]) -> None:
    with folder() as here:
        path = here / "x.json"
        try:
            write_open_list(path, {"format": 1}, "videos", first)
            for i, item in enumerate(more):
                assert append_item(path, item)
                assert parse_json(path.read_text(encoding="utf-8"))["videos"] == [*first, *more[: i + 1]]
            items = JsonList(here / "items")
            for item in more:
                items.add(item)
            write_object(here / "y.json", {"a": 1}, {"items": items})
        except (ValueError, RecursionError):  # numbers that are not finite, or values too deep to be read again
            return
        assert json.loads((here / "y.json").read_text(encoding="utf-8")) == {"a": 1, "items": more}


TRAINED = {
    "phases": [{"steps": 3}],
    "seed": 0,
    "processes": 1,
    "start": None,
    "text tower": None,
    "data": "0",
    "data folder": "/data",
    "videos": {"a": "0", "b": "2"},
}


@examples()
@given(json_files({"made_by": "x", "plan": {**TRAINED, "videos": {"a": "1", "c": "3"}}}))
@example(b'{"plan": {"seed": ' + b"[" * 500 + b"]" * 500 + b"}}")
def test_plans_of_trainings(data: bytes) -> None:
    with folder() as here, politely():
        (here / "plan.json").write_bytes(data)
        (here / "state.pt").touch()  # without a state, no plan counts
        TrainingFolder(here).agree(TRAINED)


cells = st.one_of(digits, st.sampled_from(("nan", "1e999", "-0.5", "", '"', "x")))


@examples()
@given(
    damaged(
        st.lists(st.lists(cells, max_size=3).map(",".join), max_size=5).map(lambda x: "\n".join(["step,loss", *x, ""]))
    )
)
@example(b"step,loss\n1\n" + b"9" * 5000 + b",1\n\xff,2\n3,nan\n4,0.5\n")
def test_logs_of_trainings(data: bytes) -> None:
    with folder() as here:
        (here / LOG).write_bytes(data)
        for x in columns(here / LOG, "step").values():
            assert np.isfinite(x).all()
        with Log(here, 3):
            pass
        assert all(
            int(x.split(",")[0]) <= 3
            for x in (here / LOG).read_text(encoding="utf-8", errors="replace").splitlines()[1:]
        )


boxes = st.builds(
    lambda size, kind, body: size.to_bytes(4, "big") + kind + body,
    st.sampled_from((0, 1, 7, 8, 16, 40, 2**31, 2**32 - 1)),
    st.sampled_from((b"ftyp", b"moov", b"mdat", b"free")),
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from((b"\xff" * 8, bytes(8), OVERLAY.encode(), (2**63 - 1).to_bytes(8, "big"))),
    ),
)


@examples()
@given(damaged(st.lists(boxes, max_size=6).map(b"".join)))
@example(b"\0\0\0\x08free" * 10**6)
def test_marks(data: bytes) -> None:
    with folder() as here:
        (here / "x.mp4").write_bytes(data)
        assert holds_mark(here / "x.mp4") in (True, False)


# --- Weights ----------------------------------------------------------------------------------------------------------

RELEASES = (Path(store.__file__).parent / "releases.toml").read_text(encoding="utf-8")


@examples()
@given(
    damaged(st.just(RELEASES)),
    st.lists(
        st.tuples(
            st.sampled_from(('"network"', '"MIT"', "[{", "kind", "google_drive", "}]")),
            st.sampled_from(("1", "[]", "{}", "nan", '"x"', "[" * 2000)),
        ),
        max_size=2,
    ),
)
def test_releases(data: bytes, swaps: list[tuple[str, str]]) -> None:
    with suppress(ValueError):
        text = data.decode()
        for old, new in swaps:
            text = text.replace(old, new)
        for x in store.parse_releases(text).values():
            store.describe(x)
            assert all({"url", "huggingface", "google_drive"} & y.keys() for y in x.sources)


VOCABULARIES = [rendered_vocabulary(), *(x.vocabulary for x in store.releases().values() if x.vocabulary)]


@examples()
@given(
    st.one_of(
        st.text(max_size=400),
        st.lists(
            st.sampled_from(
                ["left", "is", "on", "the", "grasper", "forceps", "kidney", "cutting", "top", "{category}", "-", ""]
            )
        ).map(" ".join),
    )
)
@example("left " * 5000)
@example("grasper is " * 2000)
def test_any_words_against_a_vocabulary(text: str) -> None:
    for known in VOCABULARIES:
        near, forms = known.nearest(text), known.forms_of(text)
        assert len(near) <= 3
        assert len(forms) <= 40
        assert not known.complete or all(known.knows(x) for x in near + forms)
        assert len(wording_notes(known, "weights", [text])) <= 1
        assert all(len(x) < 1500 for x in wording_notes(known, "weights", [text]))


SOURCES = (
    {"url": "https://a.invalid/b/c.pth?d=e"},
    {"huggingface": "a/b", "file": "c.bin"},
    {"google_drive": "abc", "member": "c.pth"},
)


@examples()
@given(st.one_of(texts, st.builds("{}://{}".format, st.sampled_from(("http", "https", "HTTP", "file")), texts)))
@example("http://[")
@example("http://a:99999999")
@example("https://a:b@c/")
@example("http://a/\u2028b")
def test_mirrors(value: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        try:
            patch.setenv(servers.MIRROR_VARIABLE, value)
        except ValueError:  # no environment holds it
            return
        with politely():
            for source in SOURCES:
                place = servers.placed(source)
                if place is source:
                    assert not value.strip()
                    continue
                assert place["url"].startswith(value.strip().rstrip("/") + "/")
                assert urlsplit(servers.address(place)).hostname
                assert place.get("member") == source.get("member")


INSTALLED = {
    "name": "a",
    "kind": "network",
    "path": "a.pth",
    "sha256": "0",
    "size": 3,
    "source": "/a.pth",
    "download_size": 5,
}


@examples()
@given(json_files(INSTALLED))
@example(json.dumps({**INSTALLED, "size": 10**400}).encode())
@example(json.dumps({**INSTALLED, "download_size": -1}).encode())
@example(json.dumps({**INSTALLED, "path": "../outside.pth"}).encode())
def test_records_of_the_cache(data: bytes) -> None:
    with folder() as here, mock.patch.dict(os.environ, {store.HOME_VARIABLE: str(here / "cache")}):
        (here / "cache").mkdir()
        (here / "outside.pth").touch()
        (here / "cache/a.pth").touch()
        (here / "cache/a.json").write_bytes(data)
        for x in store.installed().values():
            assert x.path.parent == here / "cache"
            assert f"{x.size / 1e6:.1f}"
            store.describe(x)
        with politely():
            store.resolve("auto", None)
        with politely():
            store.resolve("x" * 300, None)


names = st.one_of(
    st.sampled_from([theirs for theirs, _ in PUBLISHED_RULES]),
    st.sampled_from(
        (
            "language_model.encoder.layers.{}.self_attn.q_proj.weight",
            "text_model.{}",
            "transformer.resblocks.{}",
            "vision_model.{}",
        )
    ),
    texts,
).flatmap(lambda x: st.builds(lambda part: x.replace("{}", part).replace("*", part), texts))
tensors = st.lists(st.integers(0, 3), max_size=3).map(torch.zeros)


@examples()
@given(st.dictionaries(names, tensors, max_size=5), st.lists(tensors, min_size=3, max_size=3))
@example({}, [torch.zeros(2, 3), torch.zeros(5), torch.zeros(())])
def test_names_of_tensors(found: dict[str, Any], qkv: list[Any]) -> None:
    attention = {
        f"language_model.encoder.layers.0.self_attn.{x}_proj.weight": y for x, y in zip("qkv", qkv, strict=True)
    }
    for function in (published_network, clip_tower):
        for state in (found, found | attention):
            with suppress(UnknownKeys):
                function(state)


sizes = st.sampled_from((0, 1, 2, 3, 4, 6, 7, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 49408, 65536, 65537, 10**9, -1))


@st.composite
def configurations(draw: Any) -> Any:
    """The small network's, with other numbers; or with anything in it."""
    if draw(st.booleans()):
        return draw(changed(json.loads(json.dumps(to_dict(SMALL)))))
    config = json.loads(json.dumps(to_dict(SMALL)))
    places = [(here, key) for here, key in _places(config) if isinstance(here[key], (int, float))]
    for here, key in draw(st.lists(st.sampled_from(places), max_size=3)):
        here[key] = draw(sizes)
    return config


@examples()
@given(configurations())
@example([])
@example({"text": {"layers": 10**9}})
@example({**json.loads(json.dumps(to_dict(SMALL))), "hiera": {**to_dict(SMALL.hiera), "windows": [8, 2**14, 4, 4]}})
@example({"image_std": [math.nan, 1, 1]})
def test_configurations(values: Any) -> None:
    try:
        config = from_dict(NetworkConfig, values)
        config.check()
    except ValueError:
        return
    check_finite(to_dict(config))
    assert from_dict(NetworkConfig, json.loads(json.dumps(to_dict(config)))) == config
    with torch.device("meta"):
        network = ReSurgSAM2(config).eval()
    if sum(x.numel() for x in network.state_dict().values()) < 4e6 and config.image_size <= 128:
        network.load_state_dict({key: torch.zeros(x.shape) for key, x in network.state_dict().items()}, assign=True)
        with one_thread(), torch.inference_mode():
            check_runs(network)


@contextmanager
def one_thread() -> Iterator[None]:
    """Two threads would wait for one another longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def check_runs(network: ReSurgSAM2) -> None:
    """A network of this configuration sees a frame, finds an object in the next one, and follows it."""
    config = network.config
    features = network.encode_image(torch.zeros(1, 3, config.image_size, config.image_size))
    network.text_encoder.tower_states(torch.tensor([[49406, 320, 49407]]))
    valid = torch.ones(1, 3, dtype=torch.bool)
    prompts = Prompts(torch.zeros(1, 3, config.dim), valid, torch.zeros(1, 1, config.dim))
    found = network.detect(features, [features.main] * 2, prompts)
    memory = network.memorize(features.main, found.mask_logits, found.object_score)
    kept = network.memory(1, Rules())
    kept.buffers.write(torch.tensor([kept.take(0, 0)]), memory, found.pointer)
    table = kept.table([0], [MemoryBank(Rules(), 0).recall(1)], 1)
    assert network.follow(features, kept.buffers, table, prompts).mask_logits.shape[-1] == config.mask_size


@examples()
@given(changed(json.loads(json.dumps(to_dict(SMALL)))), damaged(st.just(b"")), st.integers(0, 2))
@example([], b"", 0)
def test_headers_of_releases(config: Any, rest: bytes, kind: int) -> None:
    name, text = "image_encoder.x", json.dumps(config)
    metadata = {"format": FORMAT, "config": text if kind else text[: len(text) // 2]}
    data = save({name: torch.zeros(2)}, metadata=metadata if kind < 2 else {"format": FORMAT})
    with folder() as here:
        (here / "a.safetensors").write_bytes(data + rest)
        for function in (check_network, read_clip):
            with politely():
                function(here / "a.safetensors")


def _release_bytes(dtype: torch.dtype = torch.float32) -> bytes:
    return save(
        {"image_encoder.a": torch.zeros(4, dtype=dtype), "b": torch.zeros(2, 2)},
        metadata={"format": "x", "config": "{}"},
    )


@examples(2)
@given(damaged(st.one_of(st.just(_release_bytes()), st.binary(max_size=60))))
def test_safetensors(data: bytes) -> None:
    with folder() as here:
        (here / "a.safetensors").write_bytes(data)
        with politely():
            read_tensors(here / "a.safetensors")
        with politely():
            read_checkpoint(here / "a.safetensors")


def _saved(content: Any, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


CHECKPOINT = {"model": {"image_encoder.a": torch.ones(4), "b": torch.zeros(2, 3, dtype=torch.float16)}, "epoch": 3}


class _Storage:
    """Stands for a storage in a pickle."""

    def __init__(self, kind: Any, key: str, numbers: Any) -> None:
        self.identifier = ("storage", kind, key, "cpu", numbers)


class _Made:
    """Stands for what a function makes in a pickle."""

    def __init__(self, function: Any, arguments: tuple[Any, ...]) -> None:
        self.parts = function, arguments

    def __reduce__(self) -> Any:
        return self.parts


class _Pickler(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        return thing.identifier if isinstance(thing, _Storage) else None


integers = st.sampled_from((0, 1, 2, 3, 4, 6, -1, -4, 2**31 - 1, 2**33, 2**62, 2**63 - 1, -(2**63)))
storages = st.builds(
    _Storage,
    st.sampled_from((torch.FloatStorage, torch.HalfStorage, torch.LongStorage, torch.BoolStorage)),
    st.sampled_from(("0", "1", "7", "../0")),
    integers,
)
shapes = st.lists(integers, max_size=3).map(tuple)
made_tensors = st.one_of(
    st.tuples(storages, integers, shapes, shapes, st.booleans(), st.just(OrderedDict())).map(
        lambda x: _Made(torch._utils._rebuild_tensor_v2, x)
    ),
    st.tuples(storages, integers, shapes, shapes).map(lambda x: _Made(torch._utils._rebuild_tensor, x)),
    st.tuples(st.sampled_from((torch.float32, torch.int64)), shapes, shapes, st.booleans()).map(
        lambda x: _Made(torch._utils._rebuild_meta_tensor_no_storage, x)
    ),
    shapes.map(lambda x: _Made(torch.Size, (x,))),
    scalars,
)


@st.composite
def programs(draw: Any) -> bytes:
    """Pickles of tensors that are not what they say, or of any steps."""
    if draw(st.booleans()):
        steps = (
            b")",
            b"\x85",
            b"\x86",
            b"]",
            b"}",
            b"(",
            b"t",
            b"u",
            b"s",
            b"a",
            b"e",
            b"K\x01",
            b"N",
            b"R",
            b"Q",
            b"q\0",
        )
        names = (b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n")
        return (
            b"\x80\x02"
            + b"".join(draw(st.lists(st.sampled_from((*steps, *names, b"h\0", b"X\1\0\0\0a")), max_size=30)))
            + b"."
        )
    made = io.BytesIO()
    with suppress(OverflowError):  # an int of so many digits that protocol 2 cannot hold it
        _Pickler(made, protocol=2).dump(
            draw(st.dictionaries(st.sampled_from(("a", "model", "image_encoder.a")), made_tensors, max_size=2))
        )
    return made.getvalue()


@st.composite
def checkpoints(draw: Any) -> bytes:
    """A .pth file: damaged bytes, a zip with other members or another pickle in it, or other content."""
    kind = draw(st.sampled_from(("bytes", "legacy", "members", "pickle", "content", "program")))
    if kind == "program":
        return _zip_with(draw(programs()))
    if kind in ("bytes", "legacy"):
        return draw(damaged(st.just(_saved(CHECKPOINT, zipped=kind == "bytes"))))
    if kind == "content":
        return _saved(
            draw(
                st.one_of(
                    changed(json.loads('{"model": {"a": 1}}')),
                    st.dictionaries(st.integers() | texts, tensors, max_size=3),
                )
            )
        )
    made = io.BytesIO()
    method = draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    with zipfile.ZipFile(io.BytesIO(_saved(CHECKPOINT))) as old, zipfile.ZipFile(made, "w", method) as new:
        for x in old.infolist():
            content = old.read(x)
            if (kind == "pickle") == x.filename.endswith("data.pkl"):
                content = draw(damaged(st.just(content)))
            if draw(st.integers(0, 9)):
                new.writestr(x.filename, content)
    return made.getvalue()


@examples(3)
@given(checkpoints())
def test_checkpoints(data: bytes) -> None:
    with folder() as here:
        (here / "a.pth").write_bytes(data)
        with politely():
            found = read_tensors(here / "a.pth")
            for key, x in found.tensors.items():
                assert isinstance(key, str)
                x.double().sum()
        for function in (read_checkpoint, read_clip):
            with politely():
                function(here / "a.pth")


def _zip_with(content: bytes, **options: Any) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_saved(CHECKPOINT))) as old, zipfile.ZipFile(made, "w", **options) as new:
        for x in old.infolist():
            new.writestr(x.filename, content if x.filename.endswith("data.pkl") else old.read(x))
    return made.getvalue()


def _encrypted() -> bytes:
    """A zip whose directory says that its members are encrypted."""
    data = bytearray(_saved(CHECKPOINT))
    at = 0
    while (at := data.find(b"PK\x01\x02", at)) >= 0:
        data[at + 8] |= 1
        at += 1
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "make"),
    {
        "tuples in tuples": lambda: _zip_with(b"\x80\x02})" + b"\x85" * 2_000_000 + b"K\x01s."),
        "a gigabyte of bytes": lambda: _zip_with(b"\x80\x02c__builtin__\nbytearray\nJ\0\0\0\x40\x85R."),
        "a pickle that unpacks to a gigabyte": lambda: _zip_with(bytes(2**26), compression=zipfile.ZIP_DEFLATED),
        "encrypted": _encrypted,
        "names that are numbers": lambda: _saved({1: torch.zeros(2)}),
        "a tensor larger than its file": lambda: _saved({"a": torch.zeros(1).expand(10**12)}),
        "sparse": lambda: _saved({"a": torch.zeros(2, 2).to_sparse()}),
        "meta": lambda: _saved({"a": torch.zeros(2, device="meta")}),
        "a size below zero": lambda: _zip_with(
            b"\x80\x02}X\x01\0\0\0actorch._utils\n_rebuild_tensor\n((X\x07\0\0\0storagectorch\nFloatStorage\n"
            b"X\x01\0\0\x000X\x03\0\0\0cpuK\x00tQK\x00K\x00J\xff\xff\xff\xff\x86)tRs."
        ),
    }.items(),
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_checkpoints_that_are_refused(name: str, make: Callable[[], bytes], tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(make())
    with pytest.raises(WeightsError):
        read_tensors(tmp_path / "a.pth")


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    """However large it might have been: it is also read where memory has just run out."""
    (tmp_path / "a.json").write_text("{}")
    tracemalloc.start()
    try:
        assert read_text(tmp_path / "a.json") == "{}"
        assert tracemalloc.get_traced_memory()[1] < 2**19
    finally:
        tracemalloc.stop()
    (tmp_path / "a.json").write_text("x" * 70_000)
    assert read_text(tmp_path / "a.json", 70_000) == "x" * 70_000
    with pytest.raises(TooLargeError):
        read_text(tmp_path / "a.json", 69_999)


def test_weights_that_are_not_finite_or_of_another_type(small_weights: Path, tmp_path: Path) -> None:
    for value, words in (
        (torch.full((1, 1, 64), math.nan), "not finite"),
        (torch.full((1, 1, 64), 1e300, dtype=torch.float64), "not finite"),  # the network has it in float32
        (torch.zeros(1, 1, 64).to(torch.float8_e4m3fn), "typed"),
    ):
        state = load(small_weights.read_bytes()) | {"no_memory": value}
        save_release(tmp_path / "x.safetensors", SMALL, state)
        for function in (check_network, load_network):
            with pytest.raises(WeightsError, match=words):
                function(tmp_path / "x.safetensors")


def test_one_number_that_is_not_finite(small_weights: Path, tmp_path: Path) -> None:
    """In tensors of all kinds, at any place."""
    state, numbers = load(small_weights.read_bytes()), np.random.default_rng(0)
    for key, value in zip(list(state)[::5], itertools.cycle((math.nan, math.inf, -math.inf)), strict=False):
        broken = state[key].clone()
        broken.view(-1)[numbers.integers(broken.numel())] = value
        save_release(tmp_path / "x.safetensors", SMALL, state | {key: broken})
        with pytest.raises(WeightsError, match=f"1 tensors are not finite: {re.escape(key)}"):
            load_network(tmp_path / "x.safetensors")


def _archive(kind: str, members: list[str], body: bytes) -> bytes:
    made = io.BytesIO()
    if kind == "zip":
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
            for name in members:
                file.writestr(name, body)
    else:
        mode: Any = f"w:{kind}"
        with tarfile.open(fileobj=made, mode=mode, format=tarfile.PAX_FORMAT) as tar:
            for name in members:
                entry = tarfile.TarInfo(name)
                entry.size = len(body)
                tar.addfile(entry, io.BytesIO(body))
    return made.getvalue()


@examples(2)
@given(
    damaged(
        st.builds(
            _archive,
            st.sampled_from(("zip", "", "", "gz", "bz2", "xz")),
            st.lists(st.sampled_from(("a.pth", "x/a.pth", "../a.pth", "b.txt", "é" * 120)), max_size=3),
            st.sampled_from((b"", b"x" * 700, bytes(2000))),
        )
    )
)
@example(_archive("zip", ["a.pth"], b"")[1:])  # the places in it are before its beginning
def test_archives(data: bytes) -> None:
    with folder() as here, politely():
        (here / "archive").write_bytes(data)
        for name, path in extract(here / "archive", {"a.pth"}):
            assert (name, path.parent) == ("a.pth", here)
            path.unlink()


def _tar_header(name: bytes, size: bytes, kind: bytes) -> bytes:
    header = bytearray(512)
    header[: len(name)] = name
    header[100:108], header[124:136], header[156:157], header[257:265] = b"0000644\0", size, kind, b"ustar\x0000"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize(
    ("make", "words"),
    {
        "gz": (lambda: _archive("gz", ["a.pth"], bytes(2**27)), "more than 20 times"),
        "zip": (lambda: _archive("zip", ["a.pth"], bytes(2**27)), "more than 20 times"),
        "a long name": (lambda: _tar_header(b"x", b"%011o\0" % 2**27, b"L"), "more than 20 times"),
        "a negative size": (lambda: _tar_header(b"x", b"\xff" * 12, b"0") + bytes(1024), "negative"),
    }.values(),
    ids=["gz", "zip", "a long name", "a negative size"],
)
def test_archives_that_are_refused(make: Callable[[], bytes], words: str, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(make())
    with pytest.raises(WeightsError, match=words):
        list(extract(tmp_path / "archive", {"a.pth"}))


def test_an_archive_whose_map_of_holes_ends_early(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(_tar_header(b"a.pth", b"00000000000\0", b"S")[:482] + b"\1" + bytes(29))
    with politely():
        list(extract(tmp_path / "archive", {"a.pth"}))
