"""What is worth a look: made-up runs, each with one thing that is wrong, and what is said of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.outputs import SINKS, Clip, FrameResult, ObjectResult
from resurgsam2_cli.outputs.base import Searched
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.refining import places
from resurgsam2_cli.refining.places import APART, WEIGHTS, Place, worth_a_look
from resurgsam2_cli.refining.signals import KEPT
from resurgsam2_cli.runs.reading import read_frames
from resurgsam2_cli.runs.record import read_run

HEIGHT, WIDTH = 90, 160
LENGTH = 100
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class One:
    """One object in one frame: boxes (left, top, width, height) that are its mask, less those that are cut out."""

    boxes: tuple[Box, ...] = ((60, 30, 40, 30),)
    cut: tuple[Box, ...] = ()
    score: float = 8.0
    iou: float = 0.97
    stage: str = "track"
    direction: int = 1
    conditioning: tuple[int, ...] = (10,)
    search: Searched | None = None

    def mask(self) -> np.ndarray:
        mask = np.zeros((HEIGHT, WIDTH), bool)
        for boxes, value in ((self.boxes, True), (self.cut, False)):
            for left, top, width, height in boxes:
                mask[top : top + height, left : left + width] = value
        return mask


GOOD = One()
AWAY = One(boxes=(), score=-8.0)
ELSEWHERE = One(boxes=((5, 5, 30, 20),))


def number(position: int) -> int:
    """Frames of the source are not those that were processed."""
    return 10 + 2 * position


def write(folder: Path, rows: list[list[One]]) -> Path:
    """A finished run, written by the sinks that every run has; a row of ``rows`` is an object."""
    folder.mkdir()
    prompts = tuple(Prompt(f"thing {i}", f"thing {i}") for i in range(1, len(rows) + 1))
    clip = Clip(folder.name, HEIGHT, WIDTH, Fraction(25), Fraction(0), None, None, prompts)
    sinks = [SINKS[name](folder, clip) for name in ("frames", "coco")]
    blank = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for t, objects in enumerate(zip(*rows, strict=True)):
        masks = np.stack([x.mask() for x in objects])
        results = [
            ObjectResult(
                i,
                x.stage,
                bool(mask.any()),
                x.score,
                x.iou,
                1.0,
                x.conditioning,
                (),
                x.direction,
                x.search,
            )
            for i, (x, mask) in enumerate(zip(objects, masks, strict=True), start=1)
        ]
        time = Fraction(number(t), 25)
        result = FrameResult(number(t), f"{number(t):05d}", time, blank, masks, blank[..., 0], results)
        for sink in sinks:
            sink.write(result)
    for sink in sinks:
        list(sink.finish())
    source = {"path": "/v.mp4", "width": WIDTH, "height": HEIGHT, "frame_rate": "25", "frames": len(rows[0])}
    named = [{"id": i, "text": x.text, "label": x.label, "color": "#00e5ff"} for i, x in enumerate(prompts, start=1)]
    settings = {"start": "10", "end": None, "stride": 2, "outputs": ["frames", "coco"]}
    record = {"format": 1, "complete": True, "source": source, "objects": named, "settings": settings}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


Look = Callable[..., list[Place]]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """What is worth a look in a run of these objects, but that they appear in its first frame."""

    def places_of(*rows: list[One], most: int | None = None) -> list[Place]:
        found = worth_a_look(read_run(write(tmp_path / f"run{len(list(tmp_path.iterdir()))}", list(rows))), most)
        return [x for x in found if not (x.kind == "first" and x.frame == number(0))]

    return places_of


def steady(length: int = LENGTH, good: One = GOOD) -> list[One]:
    return [good] * length


def changed(first: int, last: int, one: One, good: One = GOOD) -> list[One]:
    """An object that is another one from ``first`` to ``last``."""
    return [one if first <= t <= last else good for t in range(LENGTH)]


def span(first: int, last: int) -> tuple[int, int]:
    return number(first), number(last)


def test_nothing_is_wrong(tmp_path: Path) -> None:
    """A thing that moves as it always does, and grows a little, is fine: only where it appears may be worth a look."""
    moving = [replace(GOOD, boxes=((20 + t // 2, 30, 40 + t // 10, 30),)) for t in range(LENGTH)]
    (place,) = worth_a_look(read_run(write(tmp_path / "run", [moving])))
    assert place == Place(
        number(0), 1, span(0, 0), "first", place.score, "The object is shown for the first time.", False
    )
    assert place.score < 0.05
    assert place.to_json() == {
        "frame": 10,
        "object_id": 1,
        "span": [10, 10],
        "kind": "first",
        "score": round(place.score, 4),
        "reason": place.reason,
        "reviewed": False,
    }
    json.dumps(place.to_json())


TELLS: dict[str, tuple[list[One], tuple[int, int, int], str, str]] = {
    "score": (
        changed(40, 53, replace(GOOD, score=0.4)),
        (47, 40, 53),
        "near_threshold",
        "Confidence is near the threshold for 14 frames.",
    ),
    "score, absent": (
        changed(40, 40, replace(AWAY, score=-0.4), AWAY),
        (40, 40, 40),
        "near_threshold",
        "Confidence is near the threshold in one frame.",
    ),
    "poor": (
        changed(0, 9, replace(GOOD, iou=0.62)),
        (5, 0, 9),
        "poor_mask",
        "The network itself rates the mask 0.62 of 1 for 10 frames, and the object is shown for the first time.",
    ),
    "fall": (
        changed(40, 60, replace(GOOD, iou=0.88), replace(GOOD, iou=0.99)),
        (40, 40, 40),
        "iou_fall",
        "The network's own rating of the mask falls from 0.99 to 0.88.",
    ),
    "jump": (
        changed(40, LENGTH, replace(GOOD, boxes=((84, 62, 40, 28),))),
        (40, 39, 40),
        "place_jump",
        "The mask jumps by 39 pixels from one frame to the next.",
    ),
    "grows": (
        changed(40, LENGTH, replace(GOOD, boxes=((50, 20, 60, 50),))),
        (40, 39, 40),
        "area_jump",
        "The mask grows to 250% of its area from one frame to the next.",
    ),
    "shrinks": (
        changed(40, LENGTH, GOOD, replace(GOOD, boxes=((50, 20, 60, 50),))),
        (40, 39, 40),
        "area_jump",
        "The mask shrinks to 40% of its area from one frame to the next.",
    ),
    "pieces": (
        changed(42, 53, replace(GOOD, cut=((72, 30, 1, 30), (85, 30, 1, 30)))),
        (48, 42, 53),
        "pieces",
        "The mask is in 3 pieces for about 12 frames, unlike before.",
    ),
    "one piece": (
        changed(42, 53, GOOD, replace(GOOD, cut=((72, 30, 1, 30), (85, 30, 1, 30)))),
        (48, 42, 53),
        "pieces",
        "The mask is in one piece for about 12 frames, unlike before.",
    ),
    "holes": (
        changed(42, 53, replace(GOOD, cut=((65, 35, 6, 6), (80, 45, 6, 6)))),
        (48, 42, 53),
        "holes",
        "The mask has 2 holes for about 12 frames, unlike before.",
    ),
    "vanishes": (
        changed(40, 42, AWAY),
        (40, 40, 42),
        "flicker",
        "The object vanishes for 3 frames.",
    ),
    "shown shortly": (
        [GOOD if t < 20 or t == 50 else AWAY for t in range(LENGTH)],
        (50, 20, 50),
        "flicker",
        "The object is shown in only one frame, and the object is back after 30 frames.",
    ),
    "first": (
        changed(0, 29, AWAY),
        (30, 30, 30),
        "first",
        "The object is shown for the first time.",
    ),
    "last": (
        changed(70, LENGTH, AWAY),
        (69, 69, 69),
        "last",
        "The object is shown for the last time.",
    ),
    "back": (
        changed(40, 59, AWAY),
        (60, 40, 60),
        "reentry",
        "The object is back after 20 frames.",
    ),
    "words found more": (
        changed(0, 11, replace(AWAY, direction=1, search=Searched(True, 5.0, 0.9))),
        (6, 0, 11),
        "text_and_track",
        "Its words found the object for 12 frames, where tracking does not show it, "
        "and the object is shown for the first time.",
    ),
    "words found less": (
        changed(40, 51, replace(GOOD, search=Searched(False, -5.0, 0.9))),
        (46, 40, 51),
        "text_and_track",
        "Tracking shows the object for 12 frames, where its words did not find it.",
    ),
    "found again": (
        changed(40, 44, replace(GOOD, stage="detect")),
        (40, 39, 40),
        "found_again",
        "Its words find the object again after tracking had lost it.",
    ),
    "passes": (
        changed(0, 39, replace(GOOD, direction=-1)),
        (40, 39, 40),
        "seam",
        "Tracking backwards and tracking forwards meet.",
    ),
    "conditioning": (
        changed(40, LENGTH, replace(GOOD, conditioning=(10, 80))),
        (40, 39, 40),
        "seam",
        "From here on, the object is tracked from other frames.",
    ),
}


@pytest.mark.parametrize("name", TELLS)
def test_what_is_seen(name: str, look: Look) -> None:
    row, (frame, first, last), kind, reason = TELLS[name]
    (place,) = look(row)
    assert (place.frame, place.kind) == (number(frame), kind)
    assert place.reason == reason
    if "first time" not in reason or kind == "first":  # a second cause has a span of its own
        assert place.span == span(first, last)
    assert place.object_id == 1
    assert 0 < place.score < 1


def test_every_kind_is_tried() -> None:
    # Cuts are tried in test_joining.py.
    assert {kind for _, _, kind, _ in TELLS.values()} | {"overlap", "cut"} == set(WEIGHTS)


USUAL: dict[str, list[One]] = {
    "found at first": [replace(GOOD, stage="detect", conditioning=()) if t < 5 else GOOD for t in range(LENGTH)],
    "always in pieces": steady(good=replace(GOOD, cut=((72, 30, 3, 30), (72, 30, 3, 30)))),
    "specks": changed(
        42,
        53,
        replace(GOOD, boxes=(*GOOD.boxes, (5, 5, 3, 3)), cut=((70, 40, 3, 3),)),
        replace(GOOD, boxes=(*GOOD.boxes, (5, 5, 2, 2))),
    ),
    "always fast": [
        replace(GOOD, boxes=((10 + 12 * (t % 10 if t // 10 % 2 == 0 else 9 - t % 10), 30, 30, 30),))
        for t in range(LENGTH)
    ],
    "words agree": steady(good=replace(GOOD, search=Searched(True, 5.0, 0.9))),
    "absent, and sure": steady(good=replace(AWAY, iou=0.1)),
    "first words": [
        replace(GOOD, direction=-1) if t < 40 else replace(GOOD, stage="detect" if t == 40 else "track")
        for t in range(LENGTH)
    ],
}


@pytest.mark.parametrize("name", ["found at first", "always in pieces", "specks", "words agree", "absent, and sure"])
def test_what_is_usual_is_right(name: str, look: Look) -> None:
    assert look(USUAL[name]) == []


def test_what_is_always_fast_jumps_less(look: Look) -> None:
    """A jump is compared with how the object usually moves."""
    assert not [x for x in look(USUAL["always fast"]) if x.frame > number(30)]


def test_what_words_found_first_was_not_lost(look: Look) -> None:
    """The frames before it are tracked backwards, so tracking comes before finding here too."""
    (place,) = look(USUAL["first words"])
    assert (place.kind, place.frame) == ("seam", number(40))


def test_one_object_on_another(look: Look) -> None:
    """The one that is covered is doubted; the label says by what."""
    large = replace(GOOD, boxes=((74, 0, 86, 90),))
    over = look(steady(), changed(42, 53, large, AWAY))
    (place,) = [x for x in over if x.object_id == 1]
    assert (place.kind, place.frame, place.span) == ("overlap", number(48), span(42, 53))
    assert place.reason == "65% of the mask lies on that of thing 2 for about 12 frames."
    assert "lies on" not in " ".join(x.reason for x in over if x.object_id == 2)  # of whose mask it is little
    # A little at the edge is no collision.
    assert look(steady(), steady(good=replace(GOOD, boxes=((95, 0, 65, 90),)))) == []
    # The boxes of these have much in common, the masks nothing.
    corner = replace(GOOD, boxes=((60, 30, 40, 5), (60, 30, 5, 30)))
    assert look(steady(good=corner), steady(good=replace(GOOD, boxes=((70, 40, 30, 20),)))) == []


def test_what_lasts_is_worth_several_looks(look: Look) -> None:
    found = look(steady(good=replace(GOOD, iou=0.6)))
    assert 3 <= len(found) <= 4
    assert {x.kind for x in found} == {"poor_mask"}
    frames = sorted(x.frame for x in found)
    assert np.diff(frames).min() >= 2 * APART


def test_what_is_near_is_one_place(look: Look) -> None:
    """The weaker one gives its cause to the stronger one."""
    jump = replace(GOOD, boxes=((84, 62, 40, 28),))
    near = [replace(jump if t >= 60 else GOOD, score=0.0 if 48 <= t <= 54 else 8.0) for t in range(LENGTH)]
    (place,) = look(near)
    assert (place.kind, place.frame, place.span) == ("place_jump", number(60), span(48, 60))
    assert place.reason == (
        "The mask jumps by 39 pixels from one frame to the next, and confidence is near the threshold for 7 frames."
    )
    far = [replace(jump if t >= 80 else GOOD, score=0.0 if 48 <= t <= 54 else 8.0) for t in range(LENGTH)]
    found = sorted(look(far), key=lambda x: x.frame)
    assert [(x.kind, x.frame) for x in found] == [("near_threshold", number(51)), ("place_jump", number(80))]
    assert [x.span for x in found] == [span(48, 54), span(79, 80)]
    # Places of other objects are places of their own.
    first, second = look(near, changed(48, 54, replace(ELSEWHERE, score=0.0), ELSEWHERE))
    assert {first.object_id, second.object_id} == {1, 2}


def test_the_most_urgent_comes_first(look: Look) -> None:
    rows = (
        changed(40, 43, replace(GOOD, score=0.0)),
        changed(60, 79, replace(ELSEWHERE, score=0.0), ELSEWHERE),
        changed(
            20, 29, replace(GOOD, boxes=((120, 60, 20, 20),), score=0.0), replace(GOOD, boxes=((120, 60, 20, 20),))
        ),
    )
    found = look(*rows)
    assert [x.object_id for x in found] == [2, 3, 1]
    assert [x.score for x in found] == sorted((x.score for x in found), reverse=True)
    assert look(*rows, most=2) == found[:2]
    assert look(*rows, most=0) == []


def test_the_doubt_about_all_frames_around_counts(look: Look) -> None:
    """A jump among poor masks is worth more than the same jump among good ones."""
    jump = changed(40, LENGTH, replace(GOOD, boxes=((84, 62, 40, 28),)))
    (alone,) = look(jump)
    (among,) = look([replace(x, iou=0.88 if 30 <= t <= 50 else 0.97) for t, x in enumerate(jump)])
    assert among.frame == alone.frame
    assert among.score > alone.score + 0.05


def test_only_the_strongest_are_kept_in_memory(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_MOST_CANDIDATES", 1)
    one = [replace(GOOD, score=0.0 if 36 <= t < 46 else 2.8 if t < 6 or t > 90 else 8.0) for t in range(LENGTH)]
    (place,) = look(one)
    assert place.span == span(36, 45)


@pytest.mark.parametrize("stage", sorted(KEPT))
def test_what_a_person_said_is_no_place(stage: str, look: Look) -> None:
    """Whatever the numbers are there; next to it, what was tracked may be."""
    kept = replace(AWAY if stage == "absent" else GOOD, stage=stage, score=0.0, iou=0.3)
    assert look(steady(good=kept)) == []
    weak = replace(GOOD, score=0.0)
    found = look([kept if t in (45, 46) else weak if 40 <= t <= 52 else GOOD for t in range(LENGTH)])
    assert found
    assert not {x.frame for x in found} & {number(45), number(46)}
    assert found[0].span in (span(40, 44), span(47, 52))  # a stretch ends there
    if stage != "absent":  # what comes back after a person said "absent" is a re-entry
        assert look([kept if 40 <= t <= 50 else GOOD for t in range(LENGTH)]) == []


def test_a_jump_to_what_a_person_said(look: Look) -> None:
    """The end of what was tracked is wrong, not what a person drew; between two such frames, nothing is."""
    there = replace(GOOD, boxes=((84, 62, 40, 28),))
    drawn = replace(there, stage="drawn")
    (place,) = look([drawn if t == 40 else there if t > 40 else GOOD for t in range(LENGTH)])
    assert (place.kind, place.frame, place.span) == ("place_jump", number(39), span(39, 40))
    (place,) = look([drawn if t == 40 else GOOD for t in range(LENGTH - 59)])
    assert place.frame == number(39)
    (place,) = look([replace(GOOD, stage="drawn") if t <= 40 else there for t in range(LENGTH)])
    assert place.frame == number(41)
    said = [replace(GOOD, stage="point") if t < 40 else drawn for t in range(LENGTH)]
    assert look(said) == []


def test_what_was_reviewed_comes_last(look: Look) -> None:
    """What is doubtful beside a frame that a person gave was seen with it, and has no part in what was not."""
    weak = replace(GOOD, score=0.0)
    frames = [weak if 20 <= t < 26 or 80 <= t < 86 else GOOD for t in range(LENGTH)]
    first, second = (x for x in look(frames) if x.kind != "last")
    near, far = sorted((first.frame, second.frame))
    frames[26] = replace(GOOD, stage="drawn")
    found = look(frames)
    assert [x.reviewed for x in found] == [False] * (len(found) - 1) + [True]
    assert (found[0].frame, found[-1].frame) == (far, near)
    assert found[-1].score == found[0].score
    assert not any(x.span[0] <= near <= x.span[1] for x in found[:-1])


def test_appearances_that_a_person_said(look: Look) -> None:
    absent, drawn = replace(AWAY, stage="absent"), replace(GOOD, stage="drawn")
    assert look([AWAY if t < 30 else drawn if t == 30 else GOOD for t in range(LENGTH)]) == []
    assert look([GOOD if t < 30 else drawn if t == 30 else AWAY for t in range(LENGTH)]) == []
    assert look([absent if t == 40 else GOOD for t in range(LENGTH)]) == []
    assert look([drawn if t == 60 else AWAY if 40 <= t < 60 else GOOD for t in range(LENGTH)]) == []


def test_damaged_runs_raise_as_reading_does(tmp_path: Path) -> None:
    for i, spoil in enumerate((_without_annotations, _without_frames, _cut_off, _of_another_size, _one_too_many)):
        folder = write(tmp_path / f"run{i}", [steady(20), steady(20)])
        spoil(folder)
        run = read_run(folder)
        with pytest.raises(InputError) as found:
            worth_a_look(run)
        if i > 1:
            with pytest.raises(InputError) as expected:
                list(read_frames(run))
            assert str(found.value) == str(expected.value)
        assert str(folder) in str(found.value)


def _without_annotations(folder: Path) -> None:
    (folder / "annotations.json").unlink()


def _without_frames(folder: Path) -> None:
    (folder / "frames.jsonl").unlink()


def _cut_off(folder: Path) -> None:
    text = (folder / "frames.jsonl").read_text()
    (folder / "frames.jsonl").write_text(text[: len(text) // 2])


def _of_another_size(folder: Path) -> None:
    text = (folder / "annotations.json").read_text()
    (folder / "annotations.json").write_text(text.replace(f"[{HEIGHT}, {WIDTH}]", f"[{HEIGHT}, {WIDTH + 1}]"))


def _one_too_many(folder: Path) -> None:
    lines = (folder / "frames.jsonl").read_text().splitlines(keepends=True)
    (folder / "frames.jsonl").write_text("".join(lines[:-1]))


def test_odd_states_are_no_evidence(tmp_path: Path) -> None:
    """What this program never writes, and reading does not check, ends in no error."""
    folder = write(tmp_path / "run", [steady(20)])
    lines = [json.loads(x) for x in (folder / "frames.jsonl").read_text().splitlines()]
    huge = {"present": False, "object_score": 10**400}
    odds: tuple[Any, ...] = ([], {}, "x", None, 1e300, huge, {"object_score": "a"})
    for i, odd in enumerate(odds):
        lines[2 * i]["objects"][0] |= {"search": odd, "conditioning_frames": odd, "direction": odd}
        lines[2 * i]["objects"][0] |= {"object_score": 1e308, "predicted_iou": -1e308}
    (folder / "frames.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    for place in worth_a_look(read_run(folder)):
        assert 0 <= place.score <= 1
    del lines[3]["objects"][0]["direction"]
    del lines[3]["objects"][0]["conditioning_frames"]  # as in runs of older versions
    (folder / "frames.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    worth_a_look(read_run(folder))


def test_no_network_is_needed() -> None:
    code = "import sys, resurgsam2_cli.refining.places; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
