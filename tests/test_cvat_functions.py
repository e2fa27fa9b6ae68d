"""The functions for CVAT, through the code of ``cvat-cli`` that loads, calls and checks them, without a server."""

from __future__ import annotations

import argparse
import gc
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, small_state
from PIL import Image

from model.executor import Executor
from model.training.scenes import Scene
from resurgsam2_cli import VideoSession, open_source, segment_frames
from resurgsam2_cli.edits.masks import outline_counts
from resurgsam2_cli.errors import UserError
from resurgsam2_cli.exports.polygons import bordered, filled, outline
from resurgsam2_cli.files.rle import decoded
from resurgsam2_cli.refining.points import deepest
from weights.loader import save_release

pytest.importorskip("cvat_cli", reason="the extra cvat is not installed")

import cvat_cli.__main__ as program
import cvat_sdk.datasets
from cvat_cli._internal import agent_driver
from cvat_cli._internal.agent import (
    RecoverableExecutor,
    _default_tracking_state_id_generator,
    _worker_init,
    _worker_job_get_function_spec,
    get_function_driver_class,
)
from cvat_cli._internal.agent_driver_detection import _worker_job_detect
from cvat_cli._internal.commands_all import COMMANDS
from cvat_cli._internal.common import FunctionLoader, configure_common_arguments
from cvat_sdk.auto_annotation import BadFunctionError, TrackableShape
from cvat_sdk.auto_annotation import driver as sdk_driver
from cvat_sdk.masks import decode_mask, encode_mask

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "cvat.md"

SCENE = Scene(108, height=384, width=480)
FORCEPS, PROBE = (next(x.id for x in SCENE.targets if x.category == y) for y in ("bipolar forceps", "ultrasound probe"))
AWAY = range(96, 130)
"""Frames without the forceps."""

WORDS = "left ultrasound probe=probe; right bipolar forceps=forceps"
IDS = {"probe": PROBE, "forceps": FORCEPS}
DEMO = ("-p", "weights=str:demo", "-p", "device=str:cpu")


@lru_cache(maxsize=64)
def rendered(frame: int) -> tuple[Image.Image, np.ndarray]:
    rgb, labels = SCENE.render(frame)
    return Image.fromarray(rgb), labels


def truth(frame: int, target: int) -> np.ndarray:
    return rendered(frame)[1] == target


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def parsed(*command: str) -> argparse.Namespace:
    """The command line of ``cvat-cli``, read by its own parser."""
    parser = argparse.ArgumentParser()
    configure_common_arguments(parser)
    COMMANDS.configure_parser(parser)
    return parser.parse_args(command)


def loaded(module: str, *parameters: str) -> Any:
    """A function as an agent loads it."""
    found = parsed("function", "run-agent", "7", "--function-module", f"resurgsam2_cli.cvat.{module}", *parameters)
    return FunctionLoader(found.function_module, found.function_file, found.function_parameters).load()


@pytest.fixture(scope="module")
def detection() -> Any:
    return loaded("detection", "-p", f"text=str:{WORDS}", *DEMO)


@pytest.fixture(scope="module")
def tracking() -> Any:
    return loaded("tracking", *DEMO)


@pytest.fixture(scope="module")
def interaction() -> Any:
    return loaded("interaction", *DEMO)


class Here:
    """The agent's executor, without its process."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    def result(self, done: Any) -> Any:
        return done


class Server:
    """What is asked of CVAT: a task of the scene's frames. Keeps what it is sent."""

    def __init__(self, kind: str = "mask") -> None:
        self.read: list[int] = []
        self.sent: dict[str, Any] = {}
        self.logger = program.logger
        self.api_client = SimpleNamespace(call_api=self._call)
        self.tasks = SimpleNamespace(api=SimpleNamespace(partial_update_annotations=self._annotate))
        self.labels = [
            SimpleNamespace(id=50 + i, name=name, type=kind, attributes=[], sublabels=[]) for i, name in enumerate(IDS)
        ]
        self.frames = [5, 100]

    def _call(self, path: str, method: str, body: dict[str, Any]) -> tuple[None, Any]:
        assert (path, method) == ("/api/functions", "POST")
        self.sent = body
        return None, SimpleNamespace(data='{"id": 7, "name": "it"}')

    def _annotate(self, action: str, task: int, patched_labeled_data_request: Any) -> None:
        assert (action, task) == ("create", 42)
        self.sent = {"shapes": patched_labeled_data_request.shapes}

    def dataset(self, client: Any, task: int, **_: Any) -> Any:
        """In place of ``TaskDataset``."""

        def sample(frame: int) -> Any:
            def load_image() -> Image.Image:
                self.read.append(frame)
                return rendered(frame)[0]

            media = SimpleNamespace(load_image=load_image)
            return SimpleNamespace(frame_index=frame, frame_name=f"{frame:05d}.png", media=media)

        return SimpleNamespace(labels=self.labels, samples=[sample(x) for x in self.frames])


Command = Callable[..., int]


@pytest.fixture
def cvat(monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server for whatever of ``cvat-cli`` looks for one."""
    server = Server()

    @contextmanager
    def client(parsed_args: argparse.Namespace, logger: Any) -> Iterator[Server]:
        for name in list(vars(parsed_args)):
            if name in ("insecure", "auth", "server_host", "server_port", "organization", "profile"):
                delattr(parsed_args, name)
        yield server

    monkeypatch.setattr(program, "build_client", client)
    monkeypatch.setattr(sdk_driver, "TaskDataset", server.dataset)
    monkeypatch.setattr(cvat_sdk.datasets, "TaskDataset", server.dataset)
    monkeypatch.setattr(program.logger, "handlers", [])
    return server


def agent(function: Any, server: Server) -> Any:
    """The agent's driver of a function, in this process."""
    agent_driver.set_worker_current_function(function)
    kind = get_function_driver_class(function.spec)
    kind.init_worker(map(str, itertools.count()).__next__)
    return kind(server, Here(), function.spec)


def asked(driver: Any, kind: str, frame: int, **parameters: Any) -> Any:
    """The result of a request of CVAT."""
    driver._client.frames = [frame]
    return driver.calculate_result_for_ar({"type": kind, "task": 42, "frame": frame, **parameters}, lambda **_: None)


def drawn(shape: Any, size: tuple[int, int] = (384, 480)) -> np.ndarray:
    """The mask (height, width) of a shape, by the SDK's decoder, or as polygons are filled in COCO's readers."""
    kind, points = (shape["type"], shape["points"]) if isinstance(shape, dict) else (str(shape.type), shape.points)
    if kind == "mask":
        return np.asarray(decode_mask(points, image_height=size[0], image_width=size[1]))
    assert kind == "polygon"
    return decoded(outline_counts([list(points)], size)[0], size)


# Words


@pytest.mark.parametrize("kind", ["mask", "polygon"])
def test_a_task_is_annotated(cvat: Server, kind: str) -> None:
    """The command as a user gives it, with the SDK's own checks: labels, frames and masks arrive."""
    options = ["--conv-mask-to-poly"] if kind == "polygon" else []
    for label in cvat.labels:
        label.type = kind
    command = ["task", "auto-annotate", "42", "--function-module", "resurgsam2_cli.cvat.detection"]
    assert program.main([*command, "-p", f"text=str:{WORDS}", "-p", "min_part=int:20", *DEMO, *options]) == 0
    found: dict[tuple[int, str], list[Any]] = {}
    for shape in cvat.sent["shapes"]:
        assert str(shape.type) == kind
        assert shape.source == "auto"
        name = next(x.name for x in cvat.labels if x.id == shape.label_id)
        found.setdefault((shape.frame, name), []).append(shape)
    assert set(found) == {(5, "probe"), (5, "forceps"), (100, "probe")}  # where the forceps is not, nothing is
    for (frame, name), shapes in found.items():
        assert iou(np.any([drawn(x) for x in shapes], axis=0), truth(frame, IDS[name])) > 0.85


def test_polygons_of_an_object_have_a_group(detection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros((384, 480), bool)
    mask[10:20, 10:30] = mask[100, 50] = mask[200:300, 400:480] = True
    monkeypatch.setattr(detection._network.__class__, "mask", lambda *_: mask)
    context = sdk_driver._DetectionFunctionContextImpl(frame_name="x", conv_mask_to_poly=True)
    shapes = detection.detect(context, rendered(5)[0])
    assert [(x.label_id, x.group) for x in shapes] == [(0, 1)] * 3 + [(1, 2)] * 3
    assert np.array_equal(np.any([drawn(x) for x in shapes[:3]], axis=0), mask)


def test_an_image_is_the_first_frame_of_a_video(detection: Any) -> None:
    """What the words find in it is what a run finds in its first frame, to the pixel."""
    context = sdk_driver._DetectionFunctionContextImpl(frame_name="x")
    for frame in (5, 100):
        image = rendered(frame)[0]
        (result,) = segment_frames([np.array(image)], WORDS.split("; "), engine=detection._network.engine)
        found = {x.label_id: drawn(x) for x in detection.detect(context, image)}
        assert found.keys() == {i for i, mask in enumerate(result.masks) if mask.any()}
        assert all(np.array_equal(mask, result.masks[i]) for i, mask in found.items())


def test_a_threshold_is_kept(detection: Any) -> None:
    """By the network's own two numbers; and no threshold gives a mask to what is absent."""
    engine = detection._network.engine
    confidences: dict[int, list[float]] = {}
    for frame in (5, 100):
        with engine.context():
            features = engine.executor.encode([np.array(rendered(frame)[0])])
            found = engine.executor.detect(features, [], detection._prompts)
        sure = found.object_score.sigmoid() * found.predicted_iou.clamp(0, 1)
        confidences[frame] = sure.tolist()

    def labels(frame: int, threshold: float | None) -> list[int]:
        context = sdk_driver._DetectionFunctionContextImpl(frame_name="x", conf_threshold=threshold)
        return [x.label_id for x in detection.detect(context, rendered(frame)[0])]

    low, high = sorted(confidences[5])
    best = confidences[5].index(high)
    assert 0.5 < low < high < 1
    assert labels(5, None) == labels(5, 0) == labels(5, low - 1e-4) == [0, 1]
    assert labels(5, low + 1e-4) == labels(5, high - 1e-4) == [best]
    assert labels(5, 1) == []
    assert labels(100, 0) == [0]


def test_each_image_is_searched_by_itself(detection: Any) -> None:
    """What came before makes no difference."""
    context = sdk_driver._DetectionFunctionContextImpl(frame_name="x")
    first = [x.points for x in detection.detect(context, rendered(5)[0])]
    for frame in (100, 60, 20):
        detection.detect(context, rendered(frame)[0])
    assert [x.points for x in detection.detect(context, rendered(5)[0])] == first


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "P"])
def test_images_of_any_mode_and_size(detection: Any, mode: str) -> None:
    context = sdk_driver._DetectionFunctionContextImpl(frame_name="x")
    image = rendered(5)[0].resize((811, 307))
    if mode == "I;16":
        given = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        same = image.convert("L")
    else:
        given = image.convert(mode)
        same = given.convert("RGB")
    assert given.mode == mode
    shapes = detection.detect(context, given)
    assert [x.points for x in shapes] == [x.points for x in detection.detect(context, same.convert("RGB"))]
    wanted = np.array(Image.fromarray(truth(5, PROBE)).resize((811, 307)))
    found = next(x for x in shapes if x.label_id == 0)
    assert iou(drawn(found, (307, 811)), wanted) > (0.8 if mode in ("RGBA", "P") else 0.6)  # it learned in colour


def test_the_smallest_image(detection: Any, interaction: Any) -> None:
    tiny = Image.new("RGB", (1, 1))
    for shape in detection.detect(sdk_driver._DetectionFunctionContextImpl(frame_name="x"), tiny):
        assert drawn(shape, (1, 1)).all()
    picture = interaction.preprocess_image(None, tiny)
    prompts = SimpleNamespace(pos_points=((0.5, 0.5),), neg_points=(), bounding_box=None)
    for shape in interaction.detect(None, picture, prompts):
        assert drawn(shape, (1, 1)).all()


def test_prompt_files_and_shared_labels(tmp_path: Path) -> None:
    """Two sentences with one label are one label; a prompt file adds to them."""
    file = tmp_path / "prompts.csv"
    file.write_text("video,text,label\na,left kidney; if any,kidney\nb,left kidney; if any,kidney\nb,suction,probe\n")
    function = loaded("detection", "-p", f"text=str:{WORDS}; ;", "-p", f"prompts=str:{file}", *DEMO)
    assert [x.name for x in function.spec.labels] == ["probe", "forceps", "kidney"]
    assert function._labels == [0, 1, 2, 0]


# Shapes that are followed


def points_of(kind: str, mask: np.ndarray) -> list[float]:
    """A shape that a person drew around what is there."""
    if kind == "mask":
        return [float(x) for x in encode_mask(mask)]
    rows, columns = (np.flatnonzero(mask.any(axis=x)).tolist() for x in (1, 0))
    if kind == "rectangle":
        return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    return [float(x) for x in (outline(mask).parts[0] + 0.5).ravel()]


def box_iou(a: list[float], b: list[float]) -> float:
    sides = [max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1)]
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return sides[0] * sides[1] / (sum(areas) - sides[0] * sides[1])


@pytest.mark.parametrize("kind", ["mask", "polygon", "rectangle"])
def test_shapes_are_followed(tracking: Any, cvat: Server, kind: str) -> None:
    """Two at once, by the agent's own driver: each state is about its object, in its type, where that is."""
    driver = agent(tracking, cvat)
    shapes = [{"type": kind, "points": points_of(kind, truth(20, x))} for x in (FORCEPS, PROBE)]
    states = asked(driver, "init_tracking", 20, shapes=shapes)["states"]
    assert len(set(states)) == 2
    for frame in range(23, 48, 3):
        done = asked(driver, "track", frame, states=states)
        assert done["states"] == states
        for target, shape in zip((FORCEPS, PROBE), done["shapes"], strict=True):
            true = truth(frame, target)
            assert shape["type"] == kind
            if kind == "rectangle":
                assert box_iou(shape["points"], points_of(kind, true)) > 0.8
            else:
                assert iou(drawn(shape), true) > 0.82


@pytest.mark.parametrize("kind", ["mask", "rectangle"])
def test_shapes_as_marks(tracking: Any, cvat: Server, tmp_path: Path, kind: str) -> None:
    """What is followed is what ``segment --mark`` makes of the same mask or box, to the pixel."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(18):
        rendered(20 + number)[0].save(folder / f"{number:02d}.png", compress_level=1)
    true = truth(20, FORCEPS)
    Image.fromarray(true.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    left, top, right, bottom = points_of("rectangle", true)
    what = f"mask {tmp_path / 'mask.png'}" if kind == "mask" else f"box {left},{top},{right - left},{bottom - top}"
    driver = agent(tracking, cvat)
    (state,) = asked(driver, "init_tracking", 20, shapes=[{"type": kind, "points": points_of(kind, true)}])["states"]
    with open_source(folder) as source, VideoSession(tracking._network.engine, source) as session:
        session.mark(f"forceps@0 {what}")
        session.run("forward")
        for number in range(1, 18):
            (shape,) = asked(driver, "track", 20 + number, states=[state])["shapes"]
            (mask,) = session.masks(number)
            if kind == "mask":
                assert np.array_equal(drawn(shape), mask)
            else:
                assert shape["points"] == points_of("rectangle", mask)


def test_an_object_that_leaves_has_no_shape(tracking: Any, cvat: Server) -> None:
    """It comes back, as a state is not over when its object is gone."""
    driver = agent(tracking, cvat)
    shapes = [{"type": "mask", "points": points_of("mask", truth(60, x))} for x in (FORCEPS, PROBE)]
    states = asked(driver, "init_tracking", 60, shapes=shapes)["states"]
    gone, there = [], []
    for frame in range(64, 160, 4):
        forceps, probe = asked(driver, "track", frame, states=states)["shapes"]
        assert probe is not None
        if frame in AWAY:
            gone.append(forceps is None)
        elif truth(frame, FORCEPS).sum() > 2000:
            there.append(forceps is not None and iou(drawn(forceps), truth(frame, FORCEPS)) > 0.6)
    assert len(gone) >= 8
    assert np.mean(gone) >= 0.8
    assert len(there) >= 8
    assert np.mean(there) >= 0.8


def followed(tracking: Any, state: Any, frames: range) -> list[Any]:
    context = SimpleNamespace(original_shape_type="mask")
    return [tracking.track(context, tracking.preprocess_image(None, rendered(x)[0]), state) for x in frames]


def begun(tracking: Any, frame: int, target: int) -> Any:
    picture = tracking.preprocess_image(None, rendered(frame)[0])
    shape = TrackableShape(type="mask", points=points_of("mask", truth(frame, target)))
    return tracking.init_tracking_state(None, picture, shape)


def test_states_share_nothing(tracking: Any) -> None:
    """To follow another object in between, from elsewhere and to elsewhere, changes nothing, to the pixel."""
    alone = followed(tracking, begun(tracking, 20, FORCEPS), range(21, 45, 2))
    state, other = begun(tracking, 20, FORCEPS), begun(tracking, 60, PROBE)
    beside = []
    for frame in range(21, 45, 2):
        beside += followed(tracking, state, range(frame, frame + 1))
        followed(tracking, other, range(frame + 40, frame + 43))
    assert beside == alone
    assert all(x is not None for x in alone)


def tensors_of(thing: Any) -> dict[int, int]:
    """The bytes of all tensors that a thing holds, by where they lie; the network is not its own."""
    found: dict[int, int] = {}
    seen, todo = set(), [thing]
    while todo:
        x = todo.pop()
        if id(x) in seen or isinstance(x, Executor | type) or callable(x):
            continue
        seen.add(id(x))
        if isinstance(x, torch.Tensor):
            found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        else:
            todo += gc.get_referents(x)
    return found


def test_the_memory_of_a_state_is_bounded(tracking: Any) -> None:
    """By the memory of 25 frames, however many it goes over."""
    state = begun(tracking, 20, PROBE)
    sizes = []
    for frame in range(21, 101, 20):
        followed(tracking, state, range(frame, frame + 20))
        sizes.append(sum(tensors_of(state).values()))
    config = tracking._network.engine.config
    row = 2 * config.map_size**2 * config.memory.dim + 4 * config.dim
    assert 25 * row <= sizes[0] < 25 * row + 8 * 4 * config.mask_size**2
    assert sizes[1:] == [sizes[0]] * 3
    assert state.frame == 80


def test_a_shape_that_is_too_small_for_the_network(tracking: Any, cvat: Server) -> None:
    """A pixel is none in the network's size, and is not taken for an object that is absent."""
    mask = np.zeros((384, 480), bool)
    x, y = deepest(truth(20, PROBE))
    mask[int(y), int(x)] = True
    driver = agent(tracking, cvat)
    (state,) = asked(driver, "init_tracking", 20, shapes=[{"type": "mask", "points": points_of("mask", mask)}])[
        "states"
    ]
    session = tracking_state(state).session
    ((_, known),) = session._objects[0].results.values()
    assert known.stage == "point"


def tracking_state(name: str) -> Any:
    from cvat_cli._internal import agent_driver_tracking

    return agent_driver_tracking._tracking_states._id_to_ext_state[name].inner_state


@pytest.mark.parametrize(
    ("kind", "points", "cause"),
    [
        ("mask", [3, 10, 10, 12, 12], "bitmap does not match"),
        ("mask", [9, 10, 10, 12, 12], "has no pixels"),
        ("polygon", [1.0, 1.0, 5.0, 5.0], "three corners"),
        ("rectangle", [500.0, 10.0, 600.0, 20.0], "no area"),
    ],
)
def test_broken_shapes(tracking: Any, kind: str, points: list[float], cause: str) -> None:
    picture = tracking.preprocess_image(None, rendered(20)[0])
    with pytest.raises(UserError, match=cause) as error:
        tracking.init_tracking_state(None, picture, TrackableShape(type=kind, points=points))
    assert error.value.hint


# Clicks


def test_clicks_and_boxes(interaction: Any, cvat: Server) -> None:
    """By the agent's own driver: a click, a box, or both; the image is fetched and encoded once."""
    driver = agent(interaction, cvat)
    for target in (FORCEPS, PROBE):
        true = truth(20, target)
        left, top, right, bottom = points_of("rectangle", true)
        click, box = [list(deepest(true))], [[left, top], [right, bottom]]
        for points, corners in ((click, []), ([], box), (click, box)):
            (shape,) = asked(driver, "interact", 20, pos_points=points, neg_points=[], obj_bbox=corners)["shapes"]
            assert iou(drawn(shape), true) > 0.85, (target, points, corners)
            (sure,) = shape["attributes"]
            assert sure["spec_id"] == 0
            assert 0.5 < float(sure["value"]) <= 1
    assert cvat.read == [20]


def test_clicks_as_marks(interaction: Any, cvat: Server, tmp_path: Path) -> None:
    """The mask is that of ``segment --mark``, to the pixel: a click, clicks beside it, a box, and all of them."""
    driver = agent(interaction, cvat)
    rendered(20)[0].save(tmp_path / "0.png")
    (px, py), (fx, fy) = deepest(truth(20, PROBE)), deepest(truth(20, FORCEPS))
    left, top, right, bottom = points_of("rectangle", truth(20, FORCEPS) | truth(20, PROBE))
    box = f"box {left},{top},{right - left},{bottom - top}"
    cases: list[tuple[list[list[float]], list[list[float]], list[list[float]]]] = [
        ([[px, py]], [], []),
        ([[px, py]], [[fx, fy], [5, 5]], []),
        ([], [], [[left, top], [right, bottom]]),
        ([[fx, fy]], [[px, py], [px - 20, py]], [[left, top], [right, bottom]]),
    ]
    masks = []
    with open_source(tmp_path) as source, VideoSession(interaction._network.engine, source) as session:
        for number, (on, beside, corners) in enumerate(cases):
            clicks = [*(f"+{x},{y}" for x, y in on), *(f"-{x},{y}" for x, y in beside)]
            (mask,) = session.mark(" ".join([f"thing{number}@0", *([box] if corners else []), *clicks]))
            (shape,) = asked(driver, "interact", 20, pos_points=on, neg_points=beside, obj_bbox=corners)["shapes"]
            assert np.array_equal(drawn(shape), mask)
            masks.append(mask)
    assert not any(np.array_equal(x, y) for x, y in itertools.combinations(masks, 2))
    nothing = asked(driver, "interact", 20, pos_points=[], neg_points=[[5, 5]], obj_bbox=[])
    assert nothing == {"shapes": []}


def test_a_region_of_interest(interaction: Any, cvat: Server) -> None:
    """CVAT cuts it out: the mask is of its size."""
    driver = agent(interaction, cvat)
    true = truth(20, PROBE)[50:384, 0:400]
    x, y = deepest(true)
    clicks: dict[str, Any] = {"pos_points": [[x, y]], "neg_points": [], "obj_bbox": []}
    (shape,) = asked(driver, "interact", 20, roi=[0, 50, 400, 384], **clicks)["shapes"]
    assert iou(drawn(shape, (334, 400)), true) > 0.85


# How cvat-cli takes them


@pytest.mark.parametrize(
    ("module", "kind", "fields"),
    [
        ("detection", "detector", {"labels_v2": [{"name": x, "attributes": [], "type": "mask"} for x in IDS]}),
        ("tracking", "tracker", {"supported_shape_types": ["mask", "polygon", "rectangle"]}),
        (
            "interaction",
            "interactor",
            {"min_pos_points": 0, "min_neg_points": 0, "startswith_box_optional": True},
        ),
    ],
)
def test_functions_are_registered(cvat: Server, module: str, kind: str, fields: dict[str, Any]) -> None:
    text = ["-p", f"text=str:{WORDS}"] if module == "detection" else []
    command = ["function", "create-native", "it", "--function-module", f"resurgsam2_cli.cvat.{module}"]
    assert program.main([*command, *text, *DEMO]) == 0
    assert cvat.sent["kind"] == kind
    assert cvat.sent.items() >= {"provider": "native", "name": "it"}.items()
    assert {x: cvat.sent[x] for x in fields} == fields


@pytest.mark.parametrize(
    ("module", "parameters", "line"),
    [
        ("detection", {}, "there is nothing to look for"),
        ("detection", {"text": "str:=probe"}, "has no text"),
        ("detection", {"text": "str:a; a"}, "given twice"),
        ("detection", {"text": "int:3"}, "write -p text=str:VALUE"),
        ("detection", {"txet": "str:probe"}, "did you mean 'text'?"),
        ("detection", {"text": f"str:{'x' * 65}"}, "64 characters"),
        ("detection", {"text": f"str:{'many words ' * 40}=x"}, "would be cut off"),
        ("detection", {"prompts": "str:none.csv"}, "none.csv: cannot be read"),
        ("tracking", {"weights": "str:nowhere"}, "nowhere"),
        ("tracking", {"device": "str:tpu"}, "unknown device 'tpu'"),
        ("tracking", {"precision": "str:fp8"}, "unknown precision"),
        ("interaction", {"min_part": "int:-1"}, "write 0 or more"),
        ("interaction", {"fill_holes": "bool:true"}, "write -p fill_holes=int:VALUE"),
        ("interaction", {"text": "str:probe"}, "it takes weights, device"),
        ("tracking", {"weights": "str:OLD"}, "cannot be pointed at"),
        ("interaction", {"weights": "str:OLD"}, "cannot be pointed at"),
        ("detection", {"text": "str:probe", "weights": "str:MUTE"}, "knows no words"),
    ],
)
def test_errors_are_one_line(
    cvat: Server,
    module: str,
    parameters: dict[str, str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if "weights" not in parameters:
        parameters = {**parameters, "weights": "str:demo"}
    if parameters["weights"] in ("str:OLD", "str:MUTE"):
        mute = parameters["weights"] == "str:MUTE"
        config = replace(SMALL, words=False) if mute else replace(SMALL, pointing=False)
        save_network(tmp_path / "some.safetensors", config)
        parameters = {**parameters, "weights": "str:some.safetensors"}
    options = [x for name, value in parameters.items() for x in ("-p", f"{name}={value}")]
    command = ["function", "create-native", "it", "--function-module", f"resurgsam2_cli.cvat.{module}", *options]
    assert program.main(command) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "CRITICAL" in said
    assert line in said
    assert "; " in said.split("CRITICAL: ")[1], "it does not say what to do"
    assert not cvat.sent


def test_an_image_without_a_range_is_one_line(
    cvat: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command ends with it, and has annotated nothing."""
    media = SimpleNamespace(load_image=lambda: Image.new("F", (20, 10)))
    sample = SimpleNamespace(frame_index=0, frame_name="x", media=media)
    dataset = SimpleNamespace(labels=cvat.labels, samples=[sample])
    monkeypatch.setattr(sdk_driver, "TaskDataset", lambda *_, **__: dataset)
    command = ["task", "auto-annotate", "42", "--function-module", "resurgsam2_cli.cvat.detection"]
    assert program.main([*command, "-p", f"text=str:{WORDS}", *DEMO]) == 1
    said = capsys.readouterr().err
    assert "CRITICAL: an image of CVAT: floating-point pixels" in said
    assert "Traceback" not in said
    assert not cvat.sent


def save_network(path: Path, config: Any) -> None:
    """A release of a network that lacks a part of the small one."""
    from model import ReSurgSAM2

    with torch.device("meta"):
        names = ReSurgSAM2(config).state_dict().keys()
    save_release(path, config, {k: v for k, v in small_state().items() if k in names})


def test_the_user_is_told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of words that the weights did not learn, and of the bundled weights if nobody asked for them."""
    monkeypatch.setenv("RESURGSAM2_HOME", str(tmp_path))
    loaded("detection", "-p", "text=str:purple unicorn", "-p", "device=str:cpu")
    said = [x.getMessage() for x in caplog.records if x.name == "resurgsam2_cli.cvat"]
    assert any("rendered scenes only" in x for x in said)
    assert any('did not learn "purple unicorn"' in x for x in said)
    caplog.clear()
    loaded("detection", "-p", f"text=str:{WORDS}", *DEMO)
    assert not [x for x in caplog.records if x.name == "resurgsam2_cli.cvat"]


def test_the_sdk_checks_labels(detection: Any, cvat: Server) -> None:
    """A task whose label is for rectangles takes no masks: the SDK says so before anything is detected."""
    cvat.labels[0].type = "rectangle"
    with pytest.raises(BadFunctionError, match="'probe' has type 'mask' in the function"):
        sdk_driver.annotate_task(cvat, 42, detection)
    assert cvat.read == []


def test_in_the_process_of_an_agent() -> None:
    """A worker loads the function by itself, and what it finds can be sent back."""
    found = parsed(
        *("function", "run-agent", "7", "--function-module", "resurgsam2_cli.cvat.detection"),
        *("-p", f"text=str:{WORDS}", *DEMO),
    )
    loader = FunctionLoader(found.function_module, found.function_file, found.function_parameters)
    with RecoverableExecutor(_worker_init, (loader, _default_tracking_state_id_generator)) as executor:
        spec = executor.result(executor.submit(_worker_job_get_function_spec))
        assert [x.name for x in spec.labels] == ["probe", "forceps"]
        context = sdk_driver._DetectionFunctionContextImpl(frame_name="x")
        shapes = executor.result(executor.submit(_worker_job_detect, context, rendered(5)[0]))
    assert [x.label_id for x in shapes] == [0, 1]
    assert iou(drawn(shapes[0]), truth(5, PROBE)) > 0.85


_breaking: Any = None


def breaks_now_and_then() -> None:
    """Load a function whose device fails for good in each process's second request."""
    global _breaking
    from resurgsam2_cli.cvat import detection as detection_module
    from resurgsam2_cli.cvat import serving as served_by

    _breaking = detection_module.create(text=WORDS, weights="demo", device="cpu")
    whole = Executor.encode
    requests: list[int] = []

    def encode(executor: Executor, frames: list[Any]) -> Any:
        requests.append(1)
        if len(requests) > 1:
            served_by.computes = lambda device: False  # type: ignore[attr-defined]
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return whole(executor, frames)

    Executor.encode = encode  # type: ignore[method-assign, assignment]


def request(number: int) -> int:
    how = SimpleNamespace(conf_threshold=0, conv_mask_to_poly=False)
    return len(_breaking.detect(how, rendered(number)[0]))


def test_a_device_that_fails_for_good() -> None:
    """Ends the agent's process, which the agent replaces, and not all that come after."""
    done = []
    with RecoverableExecutor(breaks_now_and_then, ()) as executor:
        for number in range(4):
            try:
                done.append(executor.result(executor.submit(request, number)))
            except BrokenExecutor:
                done.append(-1)
    assert done == [2, -1, 2, -1]


def test_without_the_sdk() -> None:
    """The program does not need it; the functions say what to install."""
    script = """
import sys
sys.modules["cvat_sdk"] = None
import resurgsam2_cli.api, resurgsam2_cli.app
assert not [x for x in sys.modules if x.startswith(("cvat_cli", "cvat_sdk."))]
import resurgsam2_cli.cvat.tracking
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: resurgsam2_cli.cvat needs cvat-cli 2.71 or newer")
    assert "resurgsam2[cvat]" in last


# Polygons


@pytest.mark.parametrize("seed", range(8))
def test_polygons_fill_to_their_mask(seed: int) -> None:
    """To the pixel, by pycocotools: parts of one pixel, threads, diagonals, and whatever chance makes."""
    numbers = np.random.default_rng(seed)
    mask = filled(numbers.random((int(numbers.integers(1, 30)), int(numbers.integers(1, 30)))) < 0.1 + seed / 12)
    if seed == 0:
        mask = np.eye(12, 17, dtype=bool)
        mask[5, :] = mask[11, 3] = True
        mask = filled(mask)
    assert mask.any()
    rings = [bordered(x) for x in outline(mask).parts]
    for ring in rings:
        assert len(ring) >= 3
        assert (ring > 0).all()
        assert (ring < mask.shape[::-1]).all()
    counts, _ = outline_counts([x.ravel().tolist() for x in rings], (mask.shape[0], mask.shape[1]))
    assert np.array_equal(decoded(counts, (mask.shape[0], mask.shape[1])), mask)


# The page


def documented() -> list[list[str]]:
    """The commands of the page that are cvat-cli's."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.S | re.M)
    lines = [x for block in blocks for x in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(x)[1:] for x in lines if x.startswith("cvat-cli ")]


def test_the_documented_commands() -> None:
    """cvat-cli's parser takes each, and the functions have the parameters that are named."""
    commands = documented()
    assert {tuple(x[:2]) for x in map(without_options, commands)} >= {
        ("task", "auto-annotate"),
        ("function", "create-native"),
        ("function", "run-agent"),
    }
    modules = set()
    for command in commands:
        found = parsed(*command)
        if not hasattr(found, "function_module"):
            continue
        modules.add(found.function_module)
        create = __import__(found.function_module, fromlist=["create"]).create
        bound = signature(create).bind(**found.function_parameters)
        assert all(isinstance(x, str | int) for x in bound.arguments.values())
    assert modules == {f"resurgsam2_cli.cvat.{x}" for x in ("detection", "tracking", "interaction")}


def without_options(command: list[str]) -> list[str]:
    """A command from its verb on."""
    return command[next(i for i, x in enumerate(command) if x in ("task", "function", "profile")) :]
