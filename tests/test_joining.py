"""A long video in pieces: where it is cut, which object is which, and the whole run that is joined from them."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import encode, make
from conftest import Cli
from hypothesis import given, settings
from hypothesis import strategies as st

from resurgsam2_cli import open_run
from resurgsam2_cli.errors import InputError, UsageError, UserError
from resurgsam2_cli.files.rle import encoded
from resurgsam2_cli.joining.identities import Sides, best_pairs, meet
from resurgsam2_cli.joining.join import join, options_of_piece
from resurgsam2_cli.joining.pieces import LEAST, Split, cut, spans_of
from resurgsam2_cli.outputs import SINKS, FrameResult, ObjectResult, Sink
from resurgsam2_cli.outputs.base import Searched
from resurgsam2_cli.prompts.marks import parse_mark
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.refining.places import worth_a_look
from resurgsam2_cli.refining.refine import Given, refine
from resurgsam2_cli.runs.cuts import parse_cuts
from resurgsam2_cli.runs.folder import Wanted
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.runs.reading import read_frames
from resurgsam2_cli.runs.record import raw_record, read_run
from resurgsam2_cli.runs.sums import corrections, foreign, missing
from resurgsam2_cli.segmenting.engine import build_engine
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.segmenting.pipeline import clip_of, segment
from resurgsam2_cli.segmenting.summary import Made, Tally, run_record, source_record
from resurgsam2_cli.video.frames import EmptyPart, Frame
from resurgsam2_cli.video.positions import Part, Position
from resurgsam2_cli.video.source import Source, open_source, source_path

# Where a video is cut


@given(
    minutes=st.floats(0.001, 60),
    share=st.floats(0.01, 0.49),
    wanted=st.integers(1, 20_000),
    rate=st.sampled_from([Fraction(25), Fraction(30000, 1001), Fraction(1, 2), Fraction(60)]),
    stride=st.integers(1, 7),
)
@settings(max_examples=300, deadline=None)
def test_every_wanted_frame_is_in_one_piece_or_in_the_overlap_of_two(
    minutes: float, share: float, wanted: int, rate: Fraction, stride: int
) -> None:
    piece, overlap = Split(minutes, minutes * 60 * share).steps(rate, stride)
    spans = spans_of(wanted, piece, overlap)
    assert spans[0][0] == 0
    assert spans[-1][1] == wanted
    pieces_of = np.zeros(wanted, int)
    for a, b in spans:
        assert a < b
        pieces_of[a:b] += 1
    in_two = np.zeros(wanted, bool)
    for (_, end), (begin, _) in itertools.pairwise(spans):
        assert end - begin == overlap
        in_two[begin:end] = True
    assert (pieces_of == np.where(in_two, 2, 1)).all()
    if len(spans) > 1:
        assert all(b - a == piece for a, b in spans[:-1])
        assert spans[-1][1] - spans[-1][0] - overlap >= min(LEAST * piece, wanted - overlap)
    else:
        assert wanted < (1 + LEAST) * piece


class Counted:
    """A source that only says how many frames it has."""

    def __init__(self, frames: int | None, exact: int | None = None) -> None:
        self.rate, self._frames, self._exact = Fraction(25), frames, exact

    def expected(self, part: Part) -> int | None:
        return part.count(self._frames, self.rate)

    def within_reach(self) -> int | None:
        return self._exact


def pieces_of(frames: int | None, part: Part | None = None, exact: int | None = None) -> list[str]:
    source: Any = Counted(frames, exact)
    return [f"{x.start} {x.end} {x.stride}" for x in cut(source, part or Part(), Split(10 / 60, 2))]


def test_pieces_are_parts_of_the_source() -> None:
    assert pieces_of(700) == ["0 250 1", "200 450 1", "400 None 1"]
    assert pieces_of(250) == pieces_of(100) == ["0 None 1"]
    assert pieces_of(255) == ["0 None 1"]  # the rest is less than a quarter of a piece
    assert pieces_of(None, exact=700) == pieces_of(700)
    assert pieces_of(None) == ["0 None 1"]
    part = Part(Position(frame=7), Position(frame=607), 3)
    assert pieces_of(700, part) == ["7 256 3", "205 454 3", "403 607 3"]
    assert pieces_of(700, Part(end=Position(frame=100_000)))[-1] == "400 100000 1"
    assert pieces_of(700, Part(Position(frame=900))) == ["900 None 1"]  # segmenting it will say that this is empty


@pytest.mark.parametrize(
    ("minutes", "overlap", "words"),
    [
        (0, 1, "longer than 0"),
        (math.nan, 1, "longer than 0"),
        (math.inf, 1, "longer than 0"),
        (10, 0, "above 0"),
        (10, -1, "above 0"),
        (10, math.nan, "above 0"),
        (10, 300, "half of a piece"),
    ],
)
def test_a_split_that_makes_no_sense(minutes: float, overlap: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Split(minutes, overlap)


@pytest.mark.parametrize(
    "kind", ["mp4", "ps", "mpeg-1", "raw h264", "variable, mkv", "variable, flv", "negative start"]
)
@pytest.mark.parametrize(
    "part", [Part(), Part(Position(seconds=0.2), Position(seconds=0.9), 2), Part(end=Position(99))]
)
def test_pieces_hold_all_frames_of_files_whatever_their_headers_promise(kind: str, part: Part, tmp_path: Path) -> None:
    with open_source(str(make(kind, tmp_path).path)) as source:
        whole = [x.number for x in source.frames(part)]
        found: list[int] = []
        for x in cut(source, part, Split(0.4 / 60, 0.12)):
            with contextlib.suppress(EmptyPart):
                piece = [y.number for y in source.frames(x)]
                assert piece == whole[whole.index(piece[0]) :][: len(piece)]
                found += piece
    assert sorted(set(found)) == whole
    assert max(map(found.count, whole)) <= 2


# Which object is which

HEIGHT, WIDTH = 60, 90
Box = tuple[int, int, int, int] | None


def box_mask(box: Box) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    if box is not None:
        left, top, width, height = box
        mask[top : top + height, left : left + width] = True
    return mask


def sides(number: int, first: list[Box], second: list[Box]) -> Sides:
    def rles(boxes: list[Box]) -> dict[int, dict[str, Any]]:
        return {
            i: {"size": [HEIGHT, WIDTH], "counts": encoded(box_mask(x))}
            for i, x in enumerate(boxes, 1)
            if x is not None
        }

    return Sides(number, rles(first), rles(second))


def said(overlap: list[Sides], count: int) -> list[tuple[int, int, float | None, str | None]]:
    return [(x.id, x.was, None if x.iou is None else round(x.iou, 3), x.differs) for x in meet(overlap, count).objects]


LEFT, MIDDLE, RIGHT = (5, 10, 20, 20), (35, 10, 20, 20), (65, 10, 20, 20)


def test_the_same_masks_agree_and_are_cut_in_the_middle() -> None:
    found = meet([sides(100 + t, [LEFT, None], [LEFT, None]) for t in range(9)], 2)
    assert (found.frame, found.overlap) == (104, (100, 108))
    assert [(x.id, x.was, x.iou, x.differs) for x in found.objects] == [(1, 1, 1.0, None), (2, 2, None, None)]


def test_instruments_that_crossed_keep_their_identity() -> None:
    assert said([sides(t, [LEFT, RIGHT, MIDDLE], [RIGHT, LEFT, MIDDLE]) for t in range(5)], 3) == [
        (1, 2, 1.0, None),
        (2, 1, 1.0, None),
        (3, 3, 1.0, None),
    ]
    around = [sides(t, [LEFT, MIDDLE, RIGHT], [RIGHT, LEFT, MIDDLE]) for t in range(5)]
    assert meet(around, 3).ids == {2: 1, 3: 2, 1: 3}


def test_two_prompts_for_one_thing_are_not_exchanged() -> None:
    assert meet([sides(t, [LEFT, LEFT], [LEFT, LEFT]) for t in range(5)], 2).ids == {1: 1, 2: 2}


def test_objects_that_one_side_does_not_show() -> None:
    gone = [sides(t, [LEFT, RIGHT], [None, RIGHT]) for t in range(5)]
    assert said(gone, 2) == [(1, 1, 0.0, "gone"), (2, 2, 1.0, None)]
    new = [sides(t, [None, RIGHT], [LEFT, RIGHT]) for t in range(5)]
    assert said(new, 2) == [(1, 1, 0.0, "new"), (2, 2, 1.0, None)]
    elsewhere = [sides(t, [LEFT, RIGHT], [MIDDLE, RIGHT]) for t in range(5)]
    assert said(elsewhere, 2) == [(1, 1, 0.0, "elsewhere"), (2, 2, 1.0, None)]


def test_an_id_that_is_taken_goes_on_to_the_next_free_one() -> None:
    """The second piece takes the left thing for its object 2; its object 1 is something else."""
    overlap = [sides(t, [LEFT, None, RIGHT], [MIDDLE, LEFT, RIGHT]) for t in range(5)]
    assert said(overlap, 3) == [(1, 2, 1.0, None), (2, 1, 0.0, "new"), (3, 3, 1.0, None)]


def test_the_second_piece_may_find_an_object_late() -> None:
    """It searches from its beginning: frames before say nothing, and the pieces are cut together after them."""
    overlap = [sides(t, [LEFT], [LEFT if t >= 7 else None]) for t in range(10)]
    assert said(overlap, 1) == [(1, 1, 1.0, None)]
    assert meet(overlap, 1).frame == 7
    # But what the first piece had lost when the second found it is another matter.
    assert said([sides(t, [LEFT if t < 7 else None], [LEFT if t >= 7 else None]) for t in range(10)], 1) == [
        (1, 1, 0.0, "elsewhere")
    ]


def test_pieces_are_cut_where_they_agree_best() -> None:
    def shifted(by: int) -> Box:
        return (5 + by, 10, 20, 20)

    overlap = [sides(50 + t, [LEFT, RIGHT], [shifted(abs(t - 2)), None]) for t in range(9)]
    assert meet(overlap, 2).frame == 52
    assert meet([sides(50 + t, [LEFT], [RIGHT]) for t in range(9)], 1).frame == 54


@given(
    st.integers(1, 5).flatmap(
        lambda n: st.lists(
            st.lists(st.floats(0, 1, allow_subnormal=False), min_size=n, max_size=n), min_size=n, max_size=n
        )
    )
)
@settings(max_examples=200, deadline=None)
def test_the_best_assignment_is_the_best_of_all(rows: list[list[float]]) -> None:
    gain = np.array(rows)
    n = len(gain)
    found = best_pairs(gain)
    assert sorted(found) == list(range(n))
    best = max(sum(gain[i, j] for j, i in enumerate(order)) for order in itertools.permutations(range(n)))
    assert sum(gain[i, j] for j, i in enumerate(found)) == pytest.approx(best)


def test_many_objects_are_paired() -> None:
    order = np.random.default_rng(0).permutation(255)
    gain = np.zeros((255, 255))
    gain[order, np.arange(255)] = 0.9
    assert np.array_equal(best_pairs(gain), order)


# The whole run

PROMPTS = (Prompt("left grasper", "Greifer für Gewebe"), Prompt("kidney", "kidney"), Prompt("forceps", "鉗子"))
Draw = Callable[[int], list[Box]]
"""The box that is each object's mask in a frame of the source."""
SPLIT = Split(1 / 60, 0.2)
"""At 25 frames per second: pieces of 25 frames, overlaps of 5."""
WIDE = Split(32 / 25 / 60, 0.16)
"""Cuts that are too far apart to be seen in one look."""


def drawn(number: int) -> list[Box]:
    """One that moves, one that comes and goes, and one that the first lies on at times."""
    moving = (2 + number // 2, 10, 18, 15)
    return [moving, None if number % 30 < 8 else (60, 30, 20, 20), (20, 5 + number % 3, 40, 12)]


def result_of(frame: Frame, boxes: list[Box]) -> FrameResult:
    masks = np.stack([box_mask(x) for x in boxes])
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    left = np.arange(WIDTH) < WIDTH // 3
    for k in range(len(masks)):  # where objects overlap, the last wins on the left, the first elsewhere
        labels[masks[k] & (left | (labels == 0))] = k + 1
    n = frame.number
    objects = [
        ObjectResult(
            id=k + 1,
            stage="track" if n > 5 else "detect",
            present=boxes[k] is not None,
            object_score=2.123456789 + k - 0.0123 * n,
            predicted_iou=0.987654321 - 0.0012345 * n,
            presence=1 / (1 + math.exp(-(2.123456789 + k - 0.0123 * n))),
            conditioning_frames=(5,) if n > 5 else (),
            long_term_frames=(5, n - n % 4) if n > 9 else (),
            direction=-1 if n in (6, 7) else 1,
            search=Searched(False, -1.25, 0.5) if n in (6, 7) else None,
        )
        for k in range(len(boxes))
    ]
    return FrameResult(n, frame.name, frame.time, frame.rgb, masks, labels, objects)


def write(
    folder: Path,
    video: Path,
    options: SegmentOptions,
    draw: Draw = drawn,
    prompts: tuple[Prompt, ...] = PROMPTS,
    seconds: float = 2.0,
) -> Path:
    """A finished run of drawn masks, with a whole record."""
    folder.mkdir(parents=True)
    tally, sinks = Tally(prompts), list[Sink]()
    with open_source(str(video)) as source:
        for frame in source.frames(options.part):
            if not sinks:
                clip = replace(clip_of(folder.name, source, frame, prompts, options), demo_weights=True)
                sinks = [SINKS[name](folder, clip) for name in options.sinks]
            result = result_of(frame, draw(frame.number))
            tally.add(result)
            for sink in sinks:
                sink.write(result)
        for sink in sinks:
            list(sink.finish())
        stages = {"encode": {"seconds": 1.0, "frames_per_second": float(tally.frames)}}
        timing = {"seconds": seconds, "frames_per_second": tally.frames / seconds, "stages": stages}
        backend = {"device": "cpu", "device_name": folder.name, "precision": "fp32"}
        made = Made({"name": "x", "sha256": "ab", "demo": True}, backend, timing, {"host": 10**6}, ["interlaced"])
        record = run_record(
            source_record(source, clip, tally.frames, tally.span),
            tally,
            options.record(source.reading),
            made,
            {name: x for sink in sinks for name, x in sink.sums.items()},
            complete=True,
        )
    (folder / "run.json").write_text(json.dumps(record, ensure_ascii=False))
    return folder


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 frames at 25 per second, with sound."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    sound = ("-f", "lavfi", "-t", "3.2", "-i", "sine=300")
    encode(path, "-pix_fmt", "yuv420p", numbers=range(80), size=(HEIGHT, WIDTH), before=sound)
    return path


ALL = SegmentOptions(object_png=True)


@dataclass
class Joined:
    """The pieces of a video, and the run that was joined from them."""

    pieces: list[Path]
    folder: Path
    record: dict[str, Any]


@contextlib.contextmanager
def claimed(video: Path, out: Path, name: str) -> Iterator[tuple[Source, Any]]:
    with (
        open_source(str(video)) as source,
        Wanted(out, name, source_path(source), source.identity()).claim(overwrite=False) as folder,
    ):
        yield source, folder


def joined(
    video: Path,
    out: Path,
    options: SegmentOptions = ALL,
    draws: Callable[[int], Draw] = lambda piece: drawn,
    split: Split = SPLIT,
) -> Joined:
    """Segment in pieces and join; ``draws`` gives the masks of each piece."""
    with open_source(str(video)) as source:
        parts = cut(source, options.part, split)
    pieces = [
        write(out / "pieces" / f"{i:05d}", video, options_of_piece(options, x), draws(i)) for i, x in enumerate(parts)
    ]
    with claimed(video, out / "joined", "whole") as (source, folder):
        seen: list[int] = []
        summary = join(pieces, source, PROMPTS, options, split, folder, lambda x: seen.append(x.number))
    assert len(seen) == summary.record["source"]["frames"]
    assert all(x.exists() for x in summary.files)
    return Joined(pieces, summary.folder, summary.record)


def files_in(folder: Path) -> dict[str, bytes]:
    return {x.relative_to(folder).as_posix(): x.read_bytes() for x in sorted(folder.rglob("*")) if x.is_file()}


@pytest.mark.parametrize(
    "options",
    [
        ALL,
        SegmentOptions(part=Part(Position(frame=3), Position(frame=77), 2), legend=False),
        SegmentOptions(part=Part(Position(seconds=0.5), Position(seconds=2.9)), overlay=False),
        SegmentOptions(png=False, overlay=False, coco=False, object_png=True),
    ],
    ids=["all", "part", "times", "few"],
)
def test_the_joined_run_is_that_of_a_run_in_one(long_video: Path, tmp_path: Path, options: SegmentOptions) -> None:
    done = joined(long_video, tmp_path, options)
    whole = write(tmp_path / "one" / "whole", long_video, replace(options, part=options.part))
    assert len(done.pieces) > 1
    ours, theirs = files_in(done.folder), files_in(whole)
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"run.json"}:
        assert ours[name] == theirs[name], name
    record, other = raw_record(done.folder), raw_record(whole)
    assert record == json.loads(json.dumps(done.record))
    for name in ("objects", "source", "sums", "weights", "warnings", "complete", "format", "version"):
        assert record[name] == other[name], name
    assert record["settings"] == {**other["settings"], "split": {"minutes": SPLIT.minutes, "overlap": SPLIT.overlap}}
    assert not corrections(done.folder)
    assert not foreign(done.folder)
    assert not missing(done.folder)


def test_the_record_has_the_cuts_and_what_the_pieces_took(long_video: Path, tmp_path: Path) -> None:
    done = joined(long_video, tmp_path, replace(ALL, overlay=False))
    assert len(done.pieces) == 4
    cuts = read_run(done.folder).cuts
    assert [x.frame for x in cuts] == [22, 42, 62]
    assert [x.overlap for x in cuts] == [(20, 24), (40, 44), (60, 64)]
    assert all((y.id, y.iou, y.differs) in ((y.was, 1.0, None), (y.was, None, None)) for x in cuts for y in x.objects)
    timing, pieces = done.record["timing"], [raw_record(x) for x in done.pieces]
    assert 8.0 < timing["seconds"] < 8.0 + 60
    assert timing["frames_per_second"] == pytest.approx(80 / timing["seconds"], abs=1e-3)
    frames = sum(x["source"]["frames"] for x in pieces)
    assert timing["stages"]["encode"] == {"seconds": 4.0, "frames_per_second": frames / 4}
    assert {"join", "write png", "write frames"} <= timing["stages"].keys()
    assert done.record["peak_memory_mb"]["host"] == 10**6
    assert done.record["backend"]["device"] == "cpu"
    assert done.record["backend"]["device_name"] == "00000, 00001, 00002, 00003"


def test_identities_go_on_through_all_pieces(long_video: Path, tmp_path: Path) -> None:
    """Each piece gives the prompts to other things; every frame must have the things in the order of the first."""
    orders = [(0, 1, 2), (2, 0, 1), (1, 0, 2), (0, 2, 1)]

    def steady(number: int) -> list[Box]:
        return [(2 + number // 2, 10, 12, 15), (60, 35, 20, 20), (10, 40, 12, 9)]

    def draws(piece: int) -> Draw:
        return lambda number: [steady(number)[k] for k in orders[piece]]

    done = joined(long_video, tmp_path, replace(ALL, overlay=False), draws)
    with RunIndex(read_run(done.folder)) as index:
        assert len(index) == 80
        for step in range(80):
            frame = index.frame(step)
            assert [x["id"] for x in frame.states] == [1, 2, 3]
            boxes = [x.box for x in sorted(frame.masks, key=lambda x: x.object_id)]
            assert boxes == [list(map(float, x or ())) for x in steady(step)]
    with open_run(done.folder) as run:
        one = write(tmp_path / "one", long_video, ALL, steady)
        assert np.array_equal(run.mask(79, 2), box_mask(steady(79)[1]))
    for path in (one / "masks").iterdir():  # no two overlap here, so label images do not depend on the order
        assert path.read_bytes() == (done.folder / "masks" / path.name).read_bytes()


def lost(piece: int) -> Draw:
    """The second piece does not find the second object, and takes something else for the third."""

    def draw(number: int) -> list[Box]:
        steady: list[Box] = [(2 + number // 2, 10, 12, 15), (60, 35, 20, 20), (10, 40, 12, 9)]
        return [steady[0], None, (30, 48, 9, 9)] if piece == 1 else steady

    return draw


def test_cuts_that_do_not_agree_are_worth_a_look(long_video: Path, tmp_path: Path) -> None:
    done = joined(long_video, tmp_path, replace(ALL, overlay=False), lost, WIDE)
    run = read_run(done.folder)
    differing = [[(x.id, x.differs) for x in cut.objects if x.differs] for cut in run.cuts]
    assert differing == [[(2, "gone"), (3, "elsewhere")], [(2, "new"), (3, "elsewhere")]]
    assert "the pieces do not agree at 2 of 2 cuts: review shows where" in done.record["warnings"]
    places = [x for x in worth_a_look(run) if x.kind == "cut"]
    found = {(x.frame, x.object_id): x.reason for x in places}
    first, second = (x.frame for x in run.cuts)
    assert found.keys() == {(first, 2), (first, 3), (second, 2), (second, 3)}
    assert found[first, 2].startswith("Two pieces are joined here; only the one before shows kidney")
    assert found[second, 2].startswith("Two pieces are joined here; only the one after shows kidney")
    assert found[first, 3].startswith("Two pieces are joined here; 鉗子 differs on the two sides (IoU 0.00)")
    assert {x.kind for x in worth_a_look(run, 4)} == {"cut"}


def test_cuts_that_agree_are_not(long_video: Path, tmp_path: Path) -> None:
    """That each piece searched for itself, and tracks from frames of its own, is no sign of wrong masks."""

    def at_cuts() -> list[str]:
        return [x.kind for x in worth_a_look(read_run(done.folder)) if x.frame in cuts]

    def still(number: int) -> list[Box]:
        return [(2, 10, 18, 15), None, (40, 35, 20, 20)]

    done = joined(long_video, tmp_path, replace(ALL, overlay=False), lambda piece: still, WIDE)
    cuts = [x["frame"] for x in done.record["cuts"]]
    path = done.folder / "frames.jsonl"
    lines = [json.loads(x) for x in path.read_text().splitlines()]
    for line in lines:
        piece = sum(line["frame"] >= x for x in cuts)
        for state in line["objects"]:
            state |= {"conditioning_frames": [piece * 20], "stage": "track", "direction": 1, "search": None}
            state |= {"object_score": 8.0 if state["present"] else -8.0, "predicted_iou": 0.97}
    path.write_text("".join(json.dumps(x) + "\n" for x in lines))
    assert at_cuts() == []
    record = raw_record(done.folder)
    (done.folder / "run.json").write_text(json.dumps({**record, "cuts": []}))
    assert at_cuts() == ["seam"] * 6


def test_the_list_and_refine_know_the_cuts(long_video: Path, tmp_path: Path, cli: Cli, small_weights: Path) -> None:
    done = joined(long_video, tmp_path, ALL, lost, WIDE)
    listed = cli("refine", done.folder, "--list")
    assert listed.code == 0
    assert "two pieces are joined here" in listed.out.lower()
    first = done.record["cuts"][0]["frame"]
    refine(done.folder, Given([parse_mark(f"kidney@{first} absent")]), lambda words: build_engine(str(small_weights)))
    after = raw_record(done.folder)
    assert after["versions"]
    assert after["cuts"] == done.record["cuts"]
    assert after["settings"]["split"] == {"minutes": WIDE.minutes, "overlap": WIDE.overlap}
    looks = [(x.frame, x.object_id) for x in worth_a_look(read_run(done.folder)) if x.kind == "cut"]
    assert (first, 2) not in looks
    assert (first, 3) in looks
    page = tmp_path / "look.html"
    saved = cli("review", done.folder, "--save", page)
    assert saved.code == 0, saved.err
    assert "Two pieces are joined here" in page.read_text()
    shutil.copytree(done.folder / "masks", tmp_path / "truth" / "whole")
    measured = cli("evaluate", done.folder.parent, "--truth", tmp_path / "truth", "--json")
    assert measured.code == 0, measured.err
    for form in ("davis", "coco", "overlay"):
        exported = cli("export", done.folder, "-f", form, "-o", tmp_path / f"as-{form}")
        assert exported.code == 0, exported.err


def test_one_piece_is_the_whole(long_video: Path, tmp_path: Path) -> None:
    options = replace(ALL, part=Part(Position(seconds=0.2), Position(seconds=0.9)))
    done = joined(long_video, tmp_path, options)
    assert len(done.pieces) == 1
    assert done.record["cuts"] == []
    assert [x.number for x in read_frames(read_run(done.folder))] == list(range(5, 23))


# Pieces that do not fit


def pieces_on_disk(video: Path, out: Path) -> tuple[list[Part], list[Path]]:
    with open_source(str(video)) as source:
        parts = cut(source, Part(), SPLIT)
    return parts, [write(out / str(i), video, options_of_piece(ALL, x)) for i, x in enumerate(parts)]


def refused(video: Path, out: Path, pieces: list[Path], options: SegmentOptions = ALL) -> str:
    """The error of joining, after which nothing may be there."""
    with pytest.raises(InputError) as error, claimed(video, out, "whole") as (source, folder):
        join(pieces, source, PROMPTS, options, SPLIT, folder)
    assert not (out / "whole").exists()
    return error.value.message


def test_pieces_that_do_not_belong_together_are_named(long_video: Path, tmp_path: Path) -> None:
    parts, pieces = pieces_on_disk(long_video, tmp_path / "pieces")
    out = tmp_path / "out"
    assert "is not the first piece" in refused(long_video, out, pieces[1:])
    assert "is not the last piece" in refused(long_video, out, pieces[:-1])
    assert "does not overlap" in refused(long_video, out, [pieces[0], *pieces[2:]])
    assert "does not overlap" in refused(long_video, out, [pieces[0], *pieces])
    assert "is not the last piece" in refused(long_video, out, pieces[::-1])
    assert "another threshold" in refused(long_video, out, pieces, replace(ALL, threshold=0.5))
    other = write(tmp_path / "other", long_video, options_of_piece(ALL, parts[1]), prompts=PROMPTS[::-1])
    assert "other prompts" in refused(long_video, out, [pieces[0], other, *pieces[2:]])
    no_png = write(tmp_path / "no", long_video, replace(options_of_piece(ALL, parts[1]), png=False))
    assert "--no-png" in refused(long_video, out, [pieces[0], no_png, *pieces[2:]])
    record = raw_record(pieces[1])
    for change, words in (
        ({"complete": False}, "not finished"),
        ({"weights": {"sha256": "cd"}}, "other weights"),
        ({"source": {**record["source"], "sum": "0"}}, "is not a piece of"),
        ({"source": {**record["source"], "frames": 20}}, "ended early"),
        ({"source": {**record["source"], "frame_rate": "30/1"}}, "frames per second"),
    ):
        (pieces[1] / "run.json").write_text(json.dumps({**record, **change}))
        message = refused(long_video, out, pieces)
        assert words in message
        assert str(pieces[1]) in message
    assert "is not finished" in refused(long_video, out, [pieces[0], tmp_path / "nothing"])
    with pytest.raises(UsageError, match="no pieces"), claimed(long_video, out, "whole") as (source, folder):
        join([], source, PROMPTS, ALL, SPLIT, folder)


def test_damaged_records_of_pieces_end_in_one_line(tmp_path: Path) -> None:
    video = encode(tmp_path / "v.mp4", "-pix_fmt", "yuv420p", numbers=range(32), size=(HEIGHT, WIDTH))
    options = replace(ALL, overlay=False, object_png=False)
    _, pieces = pieces_on_disk(video, tmp_path / "pieces")
    assert len(pieces) == 2
    record, refused, joined = raw_record(pieces[1]), 0, 0
    odds: tuple[Any, ...] = (None, "x", [[]])
    places = [(record, x) for x in record]
    for name in ("source", "settings", "backend", "timing", "peak_memory_mb"):
        places += [(record[name], x) for x in record[name]]
    for table, key in places:
        for odd in odds:
            good, table[key] = table[key], odd
            (pieces[1] / "run.json").write_text(json.dumps(record))
            table[key] = good
            try:
                with claimed(video, tmp_path / "out", f"{refused + joined}") as (source, folder):
                    join(pieces, source, PROMPTS, options, SPLIT, folder)
                joined += 1
                read_run(folder.path)
            except UserError as error:
                assert str(tmp_path) in error.message
                refused += 1
    assert min(refused, joined) > 20


def test_a_last_piece_that_ends_before_the_video_does(long_video: Path, tmp_path: Path) -> None:
    """Its record speaks of the end of the video: the overlay, or whoever reads all frames, notices."""
    parts, pieces = pieces_on_disk(long_video, tmp_path / "pieces")
    short = write(tmp_path / "short", long_video, options_of_piece(ALL, replace(parts[-1], end=Position(frame=75))))
    record = raw_record(short)
    (short / "run.json").write_text(json.dumps({**record, "settings": {**record["settings"], "end": None}}))
    assert "ended early, before frame 75" in refused(long_video, tmp_path / "out", [*pieces[:-1], short])


@pytest.mark.parametrize(("frames", "there"), [(47, 3), (45, 3), (43, 3), (41, 3), (40, 2), (39, 2), (20, 1)])
def test_pieces_beyond_the_end_are_left_out(tmp_path: Path, frames: int, there: int) -> None:
    """A header that promises more frames than there are: later pieces are empty, and the rest is the whole."""
    size = (HEIGHT, WIDTH)
    video = encode(tmp_path / "short.mp4", "-pix_fmt", "yuv420p", numbers=range(frames), size=size)
    promised: Any = Counted(120)
    pieces = []
    for i, part in enumerate(parts := cut(promised, Part(), SPLIT)):
        with contextlib.suppress(EmptyPart):
            pieces.append(write_or_raise(tmp_path / str(i), video, part))
    assert (len(pieces), len(parts)) == (there, 6)
    with claimed(video, tmp_path / "out", "whole") as (source, folder):
        record = join(pieces, source, PROMPTS, ALL, SPLIT, folder).record
    assert record["source"]["frames"] == frames
    assert [x.number for x in read_frames(read_run(tmp_path / "out" / "whole"))] == list(range(frames))


def write_or_raise(folder: Path, video: Path, part: Part) -> Path:
    with open_source(str(video)) as source:
        next(source.frames(part))
    return write(folder, video, options_of_piece(ALL, part))


# With a network


def test_a_video_is_segmented_in_pieces(long_video: Path, tmp_path: Path, small_weights: Path) -> None:
    engine = build_engine(str(small_weights), device="cpu", precision="fp32")
    options, prompts = SegmentOptions(part=Part(stride=2)), (Prompt("kidney", "kidney"), Prompt("liver", "liver"))
    split, pieces = Split(1 / 60, 0.3), []
    with open_source(str(long_video)) as source:
        for i, part in enumerate(cut(source, options.part, split)):
            with Wanted(tmp_path / "p", str(i), source_path(source), source.identity()).claim(overwrite=False) as piece:
                segment(engine, source, prompts, options_of_piece(options, part), piece, lambda x: None)
                pieces.append(piece.path)
    with claimed(long_video, tmp_path, "whole") as (source, folder):
        summary = join(pieces, source, prompts, options, split, folder)
    run = read_run(summary.folder)
    assert len(pieces) > 2
    assert [x.number for x in read_frames(run)] == list(range(0, 80, 2))
    assert len(run.cuts) == len(pieces) - 1
    with claimed(long_video, tmp_path / "one", "whole") as (source, folder):
        one = segment(engine, source, prompts, options, folder, lambda x: None)
    assert summary.record.keys() - {"cuts"} == one.record.keys()
    assert summary.record["source"] == one.record["source"]
    assert summary.record["backend"] == one.record["backend"]
    assert [x.name for x in summary.files] == [x.name for x in one.files]


# The record


@pytest.mark.parametrize(
    "change",
    [
        {"frame": -1},
        {"frame": 10**30},
        {"frame": "5"},
        {"overlap": [6, 8]},
        {"overlap": [1]},
        {"objects": [{"id": 9, "was": 1, "iou": 1, "differs": None}]},
        {"objects": [{"id": 1, "was": 1, "iou": 2, "differs": None}]},
        {"objects": [{"id": 1, "was": 1, "iou": True, "differs": None}]},
        {"objects": [{"id": 1, "was": 1, "iou": None, "differs": "odd"}]},
        {"objects": [{"id": 1, "was": 1, "iou": None, "differs": []}]},
        {"objects": [{"id": 1}]},
        {"objects": 3},
    ],
)
def test_cuts_in_a_record_are_checked(change: dict[str, Any]) -> None:
    good = {"frame": 5, "overlap": [4, 8], "objects": [{"id": 1, "was": 2, "iou": 0.5, "differs": "elsewhere"}]}
    (parsed,) = parse_cuts([good], [1, 2])
    assert parsed.to_json() == good
    with pytest.raises((ValueError, KeyError, TypeError)):
        parse_cuts([good | change], [1, 2])
    with pytest.raises(ValueError, match="in order"):
        parse_cuts([good, good], [1, 2])
