"""What clicks, passes backwards and finding again are worth, on rendered scenes that training never saw.

    python -m benchmarks.pointing [--weights demo] [--scenes 16] [--returning] [--json FILE]

Every thing of a scene is named by a sentence that fits it alone, and followed forwards; then with each of these:

- pointed at instead: one click, deep inside it, in the first frame in which it is clearly seen;
- both directions: the frames before the one that the words found are tracked backwards;
- found again: its words are searched for beside tracking, where tracking lost it.

With ``--returning`` only scenes count in which something comes back after 2 to 20 seconds, and nothing is pointed at.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model import ImageFeatures, ReSurgSAM2, Rules, Session, preprocess, resize_masks
from model.finding_again import FindAgain
from model.prompt_tokens import POSITIVE, Clicks
from model.training.scenes import Scene
from resurgsam2_cli.measuring.metrics import contour_accuracy, region_similarity
from resurgsam2_cli.refining.points import deepest
from weights.loader import load_network
from weights.store import resolve

FIRST_SEED = 1000
FRAMES = 600
CLEAR = 300
"""Pixels of a thing that is clearly seen."""
AWAY = (50, 500)
"""Frames between which a thing is out of sight for a re-entry to count: 2 to 20 seconds."""
CAUGHT = 25
"""Frames within which a re-entry must be found."""
VISIBLE = 40
"""More pixels than these of a thing are in sight."""


@dataclass
class Scores:
    """The results on one scene: a number per thing, or counts."""

    seed: int
    words: list[float] = field(default_factory=list)
    """J&F of all frames."""
    click: list[float] = field(default_factory=list)
    before: list[tuple[float, float]] = field(default_factory=list)
    """J&F of the frames before the initial one: as the search left them, and tracked backwards."""
    kept_credible: list[float] = field(default_factory=list)
    """Tracked backwards, but where the search was credible and the track says absent, as the search left it."""
    entries: dict[str, list[int]] = field(default_factory=dict)
    """Re-entries, those that were caught, absences, and those in which something was shown for five frames."""
    again: list[float] = field(default_factory=list)
    """J&F of all frames, with finding again."""


class Video:
    """A scene, encoded once."""

    def __init__(self, network: ReSurgSAM2, seed: int, frames: int) -> None:
        self.network, self.scene = network, Scene(seed, frames=frames)
        self.things = [x for x in self.scene.targets if self.scene.sentences(x)]
        self.texts = [self.scene.sentences(x)[0] for x in self.things]
        ids = np.array([x.id for x in self.things])[:, None, None]
        self.features: list[ImageFeatures] = []
        truth = []
        for t in range(frames):
            rgb, labels = self.scene.render(t)
            truth.append(labels == ids)
            self.features.append(network.encode_image(preprocess([rgb], network.config)))
        self.truth = np.stack(truth)

    def masks(self, logits: Tensor) -> np.ndarray:
        """Mask logits (objects, size / 4, size / 4) in the size of the video."""
        return (resize_masks(logits, *self.truth.shape[2:]) > 0).numpy()

    def quality(self, masks: Iterable[np.ndarray], thing: int, first: int = 0) -> float:
        """J&F of a thing over frames from ``first`` on, in percent."""
        scores = []
        for mask, true in zip(masks, self.truth[first:, thing], strict=False):
            if not mask.any() and not true.any():
                scores.append(1.0)
            else:
                scores.append((region_similarity(mask, true) + contour_accuracy(mask, true)) / 2)
        return 100 * float(np.mean(scores))


def click(mask: np.ndarray) -> Clicks:
    """A click deep inside a mask."""
    x, y = deepest(mask)
    point = torch.tensor([[[x / mask.shape[1], y / mask.shape[0]]]])
    return Clicks(point, torch.tensor([[POSITIVE]]))


@torch.inference_mode()
def measure(seed: int, path: Path, clip: Path | None, frames: int, *, pointed: bool) -> Scores:
    """All figures of one scene, on one core; those of clicks only if things are to be ``pointed`` at."""
    torch.set_num_threads(1)
    network, info = load_network(path, clip)
    rules = Rules(**info.rules)
    video, scores = Video(network, seed, frames), Scores(seed)
    if not video.things:
        return scores
    prompts = network.encode_text(video.texts)
    logits: dict[str, list[Tensor]] = {}
    for name, when in (("without", None), ("with", FindAgain())):
        session = Session(network, prompts, rules, keep="both", find_again=when)
        session.begin()
        steps, gaps, states = [], [], []
        for t, x in enumerate(video.features):
            step = session.step(t, x)
            steps.append(step.mask_logits.clone())
            states.append(step.objects)
            for again in session.found_again if when else ():
                gaps.append((again.row, again.since, min(again.results)))
                for other, (found, _) in again.results.items():
                    steps[other][again.row] = found
        if when:
            _fill(session, video, steps, gaps)
        else:
            _backwards(session, video, steps, states, scores)
        logits[name] = steps
    shown = {name: np.stack([video.masks(x) for x in steps]) for name, steps in logits.items()}
    for k in range(len(video.things)):
        scores.words.append(video.quality(shown["without"][:, k], k))
        scores.again.append(video.quality(shown["with"][:, k], k))
        if pointed:
            _pointed(network, video, k, scores)
    for name, masks in shown.items():
        scores.entries[name] = _entries(video.truth, masks)
    return scores


def _fill(session: Session, video: Video, steps: list[Tensor], gaps: list[tuple[int, int, int]]) -> None:
    """Track backwards where things were lost, until ten frames in a row agree with what is there."""
    session.begin(-1)
    for row, since, end in sorted(gaps, key=lambda x: -x[2]):
        agreed = 0
        for t in range(end - 1, since - 1, -1):
            new = session.step(t, video.features[t], [row]).mask_logits[0]
            old = steps[t][row]
            both, either = ((new > 0) & (old > 0)).sum(), ((new > 0) | (old > 0)).sum()
            steps[t][row] = new
            agreed = agreed + 1 if both >= 0.98 * either else 0
            if agreed == 10:
                break


def _backwards(session: Session, video: Video, steps: list[Tensor], states: list, scores: Scores) -> None:
    """Track the frames before the initial ones backwards."""
    initial = {k: min(x) for k in range(len(video.things)) if (x := session.conditioning_frames(k))}
    first = {k: t for k, t in initial.items() if t > 0}
    if not first:
        return
    session.begin(-1)
    back: dict[int, dict[int, Tensor]] = {k: {} for k in first}
    for t in range(max(first.values()) - 1, -1, -1):
        rows = [k for k, end in first.items() if t < end]
        step = session.step(t, video.features[t], rows)
        for i, k in enumerate(rows):
            back[k][t] = step.mask_logits[i]
    for k, tracked in back.items():
        times = sorted(tracked)
        searched = [video.masks(steps[t][k][None])[0] for t in times]
        masks = [video.masks(tracked[t][None])[0] for t in times]
        credible = [states[t][k].object_score > 2.2 and states[t][k].predicted_iou > 0.7 for t in times]
        mixed = [s if c and not m.any() else m for s, m, c in zip(searched, masks, credible, strict=True)]
        scores.before.append((video.quality(searched, k), video.quality(masks, k)))
        scores.kept_credible.append(video.quality(mixed, k))


def _pointed(network: ReSurgSAM2, video: Video, k: int, scores: Scores) -> None:
    """One click on a thing, followed in both directions."""
    areas = video.truth[:, k].sum(axis=(1, 2))
    if not areas.any():
        return
    first = int(np.flatnonzero(areas >= min(CLEAR, areas.max() // 2))[0])
    session = Session(network, keep="all")
    session.add()
    session.point(0, first, video.features[first], click(video.truth[first, k]))
    found: dict[int, Tensor] = {}
    for direction, times in ((1, range(first, len(video.features))), (-1, range(first, -1, -1))):
        session.begin(1 if direction == 1 else -1)
        for t in times:
            found[t] = session.step(t, video.features[t]).mask_logits
    masks = [video.masks(found[t])[0] for t in range(len(video.features))]
    scores.click.append(video.quality(masks, k))


def _absences(there: np.ndarray) -> Iterator[tuple[int, int]]:
    """The last frame before and the first after each absence that counts, from where a thing is visible."""
    for a, b in itertools.pairwise(np.flatnonzero(there).tolist()):
        if AWAY[0] <= b - a <= AWAY[1]:
            yield a, b


def something_returns(seed: int, frames: int) -> bool:
    """Whether a scene has an absence that counts."""
    scene = Scene(seed, frames=frames)
    ids = np.array([x.id for x in scene.targets if scene.sentences(x)])[:, None, None]
    seen = np.stack([(scene.render(t)[1] == ids).sum(axis=(1, 2)) > VISIBLE for t in range(frames)])
    return any(any(_absences(x)) for x in seen.T)


def _entries(truth: np.ndarray, masks: np.ndarray) -> list[int]:
    """Re-entries, those that were caught, absences, and those with something shown."""
    entries = caught = shown = 0
    for k in range(truth.shape[1]):
        there = truth[:, k].sum(axis=(1, 2)) > VISIBLE
        for a, b in _absences(there):
            entries += 1
            after = range(b, min(b + CAUGHT, len(truth)))
            caught += any(region_similarity(masks[t, k], truth[t, k]) > 0.5 for t in after if there[t])
            out = np.asarray(masks[a + 1 : b, k].any(axis=(1, 2)) & ~truth[a + 1 : b, k].any(axis=(1, 2)))
            shown += bool((np.convolve(out, np.ones(5), "valid") == 5).any())
    return [entries, caught, entries, shown]


def summary(scores: list[Scores]) -> dict[str, float]:
    """The figures of all scenes."""

    def mean(values: Iterable[float]) -> float:
        numbers = list(values)
        return float(np.mean(numbers)) if numbers else float("nan")

    before = [x for s in scores for x in s.before]
    table: dict[str, float] = {
        "scenes": len(scores),
        "things": sum(len(s.words) for s in scores),
        "words, J&F": mean(x for s in scores for x in s.words),
        "one click, J&F": mean(x for s in scores for x in s.click),
        "things with frames before the initial one": len(before),
        "these frames as the search left them, J&F": mean(a for a, _ in before),
        "these frames tracked backwards, J&F": mean(b for _, b in before),
        "the same, but keeping what was credible, J&F": mean(x for s in scores for x in s.kept_credible),
        "words with finding again, J&F": mean(x for s in scores for x in s.again),
    }
    for name in ("without", "with"):
        counts = np.sum([s.entries[name] for s in scores if name in s.entries], axis=0).tolist()
        table |= {
            f"re-entries, {name} finding again": counts[0],
            f"caught within {CAUGHT} frames, {name}": counts[1],
            f"absences with something shown, {name}": counts[3],
        }
    return table


def main() -> None:
    """Print a line per scene, then the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="demo")
    parser.add_argument("--clip-weights", type=Path)
    parser.add_argument("--scenes", type=int, default=16)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--returning", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    name, path, clip = resolve(options.weights, options.clip_weights)
    every = itertools.count(options.first_seed)
    wanted = (x for x in every if not options.returning or something_returns(x, options.frames))
    seeds = list(itertools.islice(wanted, options.scenes))
    one = partial(measure, path=path, clip=clip, frames=options.frames, pointed=not options.returning)
    scores = []
    with ProcessPoolExecutor(options.workers) as pool:
        for x in pool.map(one, seeds):
            scores.append(x)
            print(json.dumps(asdict(x)), flush=True)
    table = summary(scores)
    for key, value in table.items():
        print(f"{key:50} {value if isinstance(value, int) else round(value, 1)}")
    if options.json:
        record = {"weights": name, **table, "per_scene": [asdict(x) for x in scores]}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
