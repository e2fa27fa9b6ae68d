"""What corrections are worth, on rendered scenes that training never saw; and how exact a bounded one is.

    python -m benchmarks.refining [--weights demo] [--scenes 20] [--no-curve] [--no-exact] [--json FILE]

Each scene is written as a folder of images and segmented by its words, as the program does. Then it is corrected, one
place at a time: on the first place of the list of what is worth a look that was not reviewed yet, or on a random
object and frame. A correction is one click on the worst error of that mask, "absent" where there is nothing to see, or
"confirmed" where the mask is right. What was given must stay the same to the byte through all versions.

Then the second part: each thing is pointed at in its first clear frame, alone, and corrected by a second click on the
worst frame: as far as the correction changes anything (the default), to the ends of the video, and by a whole new run
with the same marks: the first click, and the mask that the second one made. A click that the network finds nothing at
is refused; it counts as a correction that changes nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.pointing import CLEAR
from model import Rules
from model.training.scenes import Scene
from resurgsam2_cli.api import segment_video
from resurgsam2_cli.errors import UsageError
from resurgsam2_cli.files.rle import decoded, encoded
from resurgsam2_cli.measuring.metrics import contour_accuracy, region_similarity
from resurgsam2_cli.prompts.marks import Mark
from resurgsam2_cli.refining.places import worth_a_look
from resurgsam2_cli.refining.points import deepest
from resurgsam2_cli.refining.refine import Given, refine
from resurgsam2_cli.refining.tracking import Reach
from resurgsam2_cli.runs.index import RunIndex
from resurgsam2_cli.runs.record import Run, read_run
from resurgsam2_cli.segmenting.engine import Engine, build_engine
from resurgsam2_cli.segmenting.options import SegmentOptions
from resurgsam2_cli.video.positions import Position

FIRST_SEED = 1000
FRAMES = 600
CORRECTIONS = (0, 1, 2, 5, 10)
RIGHT = 0.95
"""A mask with this IoU needs no click."""


@dataclass
class Scores:
    """The results on one scene."""

    seed: int
    by_list: list[float] = field(default_factory=list)
    """J&F of all things and frames after each number of corrections."""
    at_random: list[float] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    """Frames that each correction from the list changed."""
    clicks: int = 0
    """Corrections from the list that were clicks, rather than "absent" or "confirmed"."""
    refused: int = 0
    """Clicks of both parts that the network found nothing at."""
    exact: list[tuple[float, float, float, float, int]] = field(default_factory=list)
    """For each thing: J&F before the second click, after it as far as needed, to the ends, and of a whole new run;
    frames that changed in the first case."""


class Video:
    """A scene on disk, with its truth."""

    def __init__(self, seed: int, frames: int, folder: Path) -> None:
        scene = Scene(seed, frames=frames)
        self.things = [x for x in scene.targets if scene.sentences(x)]
        self.texts = [scene.sentences(x)[0] for x in self.things]
        self.path = folder / f"scene{seed}"
        self.path.mkdir()
        labels = []
        for t in range(frames):
            rgb, label = scene.render(t)
            Image.fromarray(rgb).save(self.path / f"{t:05d}.png", compress_level=1)
            labels.append(label)
        ids = np.array([x.id for x in self.things])[:, None, None]
        self.truth = np.stack([x == ids for x in labels])
        """(frames, things, height, width) bool"""

    def quality(self, run: Run, things: list[int] | None = None) -> float:
        """J&F over frames and things, in percent."""
        scores = []
        with RunIndex(run) as index:
            for t in range(len(index)):
                for k, mask in enumerate(masks_of(index, t)):
                    true = self.truth[t, k if things is None else things[k]]
                    if not mask.any() and not true.any():
                        scores.append(1.0)
                    else:
                        scores.append((region_similarity(mask, true) + contour_accuracy(mask, true)) / 2)
        return 100 * float(np.mean(scores))


def masks_of(index: RunIndex, t: int) -> list[np.ndarray]:
    """The mask of each object in a frame."""
    run = index.run
    counts = {x.object_id: x.rle["counts"] for x in index.frame(t).masks}
    return [decoded(counts.get(x.id), (run.height, run.width)) for x in run.objects]


def truth_of(mask: np.ndarray, true: np.ndarray, name: str, t: int) -> Mark:
    """What a person would say of a mask."""
    mark = Mark(name, Position(frame=t), origin=f"{name}@{t}")
    if not true.any():
        return replace(mark, absent=True) if mask.any() else replace(mark, confirmed=True)
    if region_similarity(mask, true) >= RIGHT:
        return replace(mark, confirmed=True)
    missing, extra = true & ~mask, mask & ~true
    on = bool(missing.sum() >= extra.sum())
    x, y = deepest(missing if on else extra)
    return replace(mark, points=((x, y, on),))


def measure(seed: int, weights: str, frames: int, *, curve: bool, exact: bool) -> Scores:
    """All figures of one scene, on one core."""
    torch.set_num_threads(1)
    scores, engine = Scores(seed), build_engine(weights)
    options = SegmentOptions(rules=Rules(**engine.weights.rules), overlay=False)
    with tempfile.TemporaryDirectory() as folder:
        video = Video(seed, frames, Path(folder))
        if not video.things:
            return scores
        for way in ("list", "random") if curve else ():
            run = segment_video(video.path, video.texts, Path(folder) / way, engine=engine, options=options).folder
            _corrected(scores, video, run, engine, way)
        if exact:
            _exact(scores, video, Path(folder), engine, options)
    return scores


def _corrected(scores: Scores, video: Video, folder: Path, engine: Engine, way: str) -> None:
    """Correct a run, one place at a time."""
    rng, said, kept = np.random.default_rng(scores.seed), set[tuple[int, int]](), dict[tuple[int, int], str]()
    found = scores.by_list if way == "list" else scores.at_random
    for number in range(max(CORRECTIONS) + 1):
        run = read_run(folder)
        if number in CORRECTIONS:
            found.append(video.quality(run))
        if way == "list":
            places = [(x.frame, x.object_id - 1) for x in worth_a_look(run) if not x.reviewed]
        else:
            frames, things = video.truth.shape[:2]
            places = [(int(rng.integers(frames)), int(rng.integers(things))) for _ in range(50)]
        place = next((x for x in places if x not in said), None)
        with RunIndex(run) as index:
            for (t, k), state in kept.items():
                assert json.dumps(index.frame(t).states[k]) == state, f"object {k + 1} in frame {t} was changed"
            if place is None or number == max(CORRECTIONS):
                continue
            t, k = place
            mark = truth_of(masks_of(index, t)[k], video.truth[t, k], str(k + 1), t)
        said.add(place)
        try:
            changed = refine(folder, Given([mark]), lambda words: engine).frames
        except UsageError:
            scores.refused += 1
            continue
        if way == "list":
            scores.frames.append(changed)
            scores.clicks += bool(mark.points)
        with RunIndex(read_run(folder)) as index:
            kept[place] = json.dumps(index.frame(t).states[k])


def _exact(scores: Scores, video: Video, folder: Path, engine: Engine, options: SegmentOptions) -> None:
    """A second click on each thing, followed as far as needed, to the ends, and in a whole new run."""
    for k in range(len(video.things)):
        areas = video.truth[:, k].sum(axis=(1, 2))
        if not areas.any():
            continue
        first = int(np.flatnonzero(areas >= min(CLEAR, areas.max() // 2))[0])
        nothing = np.zeros(video.truth.shape[2:], bool)
        one = replace(truth_of(nothing, video.truth[first, k], "thing", first))
        place = folder / f"one{k}"
        run = segment_video(video.path, [one], place, engine=engine, options=options).folder
        before, mark = video.quality(read_run(run), [k]), _on_worst(read_run(run), video, k)
        if mark.confirmed:
            continue
        qualities, target = [], run
        for reach in (Reach(), Reach(agreed=0)):
            target = segment_video(
                video.path, [one], folder / f"two{k}-{reach.agreed}", engine=engine, options=options
            ).folder
            try:
                changed = refine(target, Given([mark], reach=reach), lambda words: engine).frames
            except UsageError:
                break
            qualities.append((video.quality(read_run(target), [k]), changed))
        if not qualities:
            scores.refused += 1
            continue
        said = [one, _as_drawn(read_run(target), mark)]
        whole = segment_video(video.path, said, folder / f"whole{k}", engine=engine, options=options).folder
        scores.exact.append(
            (before, qualities[0][0], qualities[1][0], video.quality(read_run(whole), [k]), qualities[0][1])
        )


def _as_drawn(run: Run, mark: Mark) -> Mark:
    """A mark of the only object as the mask that it made."""
    assert mark.position.frame is not None
    with RunIndex(run) as index:
        mask = masks_of(index, mark.position.frame)[0]
    if not mask.any():
        return replace(mark, points=(), absent=True)
    return replace(mark, points=(), mask={"size": list(mask.shape), "counts": encoded(mask)})


def _on_worst(run: Run, video: Video, k: int) -> Mark:
    """A correction of the worst frame."""
    areas = video.truth[:, k].sum(axis=(1, 2))
    with RunIndex(run) as index:
        seen = [t for t in range(len(index)) if areas[t] >= CLEAR // 3]
        similarities = {t: region_similarity(masks_of(index, t)[0], video.truth[t, k]) for t in seen}
        worst = min(similarities, key=lambda t: similarities[t])
        return truth_of(masks_of(index, worst)[0], video.truth[worst, k], "thing", worst)


def main() -> None:
    """Print a line per scene, then the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="demo")
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--curve", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--exact", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.scenes)
    scores: list[Scores] = []
    work = partial(measure, weights=options.weights, frames=options.frames, curve=options.curve, exact=options.exact)
    with ProcessPoolExecutor(options.workers) as pool:
        for x in pool.map(work, seeds):
            print(json.dumps(asdict(x)), flush=True)
            scores += [x] if x.by_list or x.exact else []
    if options.curve:
        for name in ("by_list", "at_random"):
            curve = np.mean([getattr(x, name) for x in scores], axis=0)
            said = ", ".join(f"{n}: {x:.1f}" for n, x in zip(CORRECTIONS, curve, strict=True))
            print(f"J&F after corrections, {name.replace('_', ' ')}: {said}")
        changed = [y for x in scores for y in x.frames]
        print(
            f"{np.mean(changed):.0f} frames changed by a correction, of {options.frames}; half of them below", end=" "
        )
        print(f"{np.median(changed):.0f}; {sum(x.clicks for x in scores)} of {len(changed)} were clicks")
    print(f"{sum(x.refused for x in scores)} clicks were refused, in both parts and ways")
    exact = np.array([y for x in scores for y in x.exact])
    if len(exact):
        print("second click, J&F before / as far as needed / to the ends / whole new run, frames changed:")
        print("  " + " / ".join(f"{x:.2f}" for x in exact[:, :4].mean(axis=0)) + f", {exact[:, 4].mean():.0f}")
        gain = exact[:, 1] - exact[:, 0]
        print(
            f"  of {len(gain)} things, {(gain > 0.1).sum()} gain over 0.1, {(gain < -0.1).sum()} lose over 0.1", end=" "
        )
        print(f"(at most {max(0.0, -gain.min()):.1f})")
        off = [np.abs(exact[:, a] - exact[:, b]).mean() for a, b in ((2, 3), (1, 2))]
        print(f"  to the ends and whole new run differ by {off[0]:.2f}, the bounded one and that by {off[1]:.2f}")
    if options.json:
        options.json.write_text(json.dumps([asdict(x) for x in scores], indent=1) + "\n")


if __name__ == "__main__":
    main()
