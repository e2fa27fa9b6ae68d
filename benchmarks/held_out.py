"""How well a release does on rendered scenes that training never saw, and what each part of the method adds.

    python benchmarks/held_out.py [--weights auto] [--scenes 40] [--ablate] [--json FILE]

The scenes have the seeds 1000, 1001, ... and 150 to 600 frames at 25 per second. Each thing in a scene is named by a
sentence that fits it alone; one more sentence names something that is not there. The figures are J and F of DAVIS,
averaged over frames, then things; how many of the frames in which the named thing cannot be seen are empty; and in
scenes with two of a kind, whether the two sentences gave two different things.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from model import Rules
from model.training.scenes import Scene
from resurgsam2_cli.training.validation import AnnotatedFrame, Example, Measured, measure
from weights.loader import load_network
from weights.store import resolve, stated_rules

FIRST_SEED = 1000

ALL = "all parts"


def parts_of(rules: Rules) -> dict[str, Rules]:
    """The rules of a release, and the same less a part each."""
    return {
        ALL: rules,
        "no CIFS: first credible frame": replace(rules, window=1),
        "no DLM: no long-term frames": replace(rules, long_term=0),
        "no temporal context in detection": replace(rules, context=0),
    }


def frames_of(seed: int) -> int:
    """150 to 600, determined by the seed."""
    return 150 + 50 * (seed * 7 % 10)


@dataclass(frozen=True)
class SceneScores:
    """The results on one scene; one row per thing."""

    seed: int
    texts: list[str]
    j: list[float]
    f: list[float]
    away: tuple[int, int]
    """Frames in which a thing of the scene is out of sight, and in how many of them its mask is empty."""
    absent: tuple[int, int]
    """All frames, and in how many of them the mask of the thing that is not there is empty."""
    pairs: list[bool]
    """For each category with two instruments, whether both were told apart."""


def score(seed: int, path: Path, clip: Path | None, rules: list[Rules], frames: int | None) -> list[SceneScores]:
    """Segment one scene with each of the rules, on one core."""
    torch.set_num_threads(1)
    network, _ = load_network(path, clip)
    scene = Scene(seed, frames=frames or frames_of(seed))
    named = [(x, scene.sentences(x)[0]) for x in scene.targets if scene.sentences(x)]
    ids = np.array([x.id for x, _ in named] + [255])[:, None, None]

    def render() -> Iterator[AnnotatedFrame]:
        for t in range(scene.frames):
            rgb, labels = scene.render(t)
            yield rgb, labels == ids

    texts = [text for _, text in named] + scene.absent_sentences(np.random.default_rng(seed), 1)
    kinds = [x.category for x, _ in named]
    return [_scores(seed, texts, kinds, x) for x in measure(network, Example(texts, render), *rules)]


def _scores(seed: int, texts: list[str], kinds: list[str], measured: Measured) -> SceneScores:
    pairs = []
    for kind in sorted({x for x in kinds if kinds.count(x) > 1}):
        rows = [k for k, other in enumerate(kinds) if other == kind]
        overlaps = measured.overlaps
        pairs.append(all(overlaps[k].any() and int(overlaps[k].argmax()) == k for k in rows))
    *things, missing = measured.found
    away = [x.predicted[~x.truly_there] for x in things]
    return SceneScores(
        seed,
        texts,
        [float(100 * x.j.mean()) for x in things],
        [float(100 * x.f.mean()) for x in things],
        (sum(map(len, away)), sum(int((~x).sum()) for x in away)),
        (len(missing.predicted), int((~missing.predicted).sum())),
        pairs,
    )


def summary(scores: list[SceneScores]) -> dict[str, float]:
    """The figures of all scenes."""
    j, f = (float(np.mean([v for x in scores for v in getattr(x, name)])) for name in ("j", "f"))
    away, absent = (np.sum([getattr(x, name) for x in scores], axis=0) for name in ("away", "absent"))
    pairs = [v for x in scores for v in x.pairs]
    return {
        "scenes": len(scores),
        "things": sum(len(x.j) for x in scores),
        "J&F": (j + f) / 2,
        "J": j,
        "F": f,
        "empty, out of sight": _percent(away),
        "empty, not there": _percent(absent),
        "empty, both": _percent(away + absent),
        "pairs told apart": sum(pairs),
        "pairs": len(pairs),
    }


def _percent(counts: np.ndarray) -> float:
    frames, empty = counts.tolist()
    return 100 * empty / frames if frames else float("nan")


def main() -> None:
    """Print one line per thing, then a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--clip-weights", type=Path)
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--frames", type=int, help="frames of every scene, instead of 150 to 600")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--ablate", action="store_true", help="also without each part")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    name, path, clip = resolve(options.weights, options.clip_weights)
    seeds = range(options.first_seed, options.first_seed + options.scenes)
    parts = parts_of(Rules(**stated_rules(path)))
    if not options.ablate:
        parts = {ALL: parts[ALL]}
    scores: dict[str, list[SceneScores]] = {part: [] for part in parts}
    with ProcessPoolExecutor(options.workers) as pool:
        run = partial(score, path=path, clip=clip, rules=list(parts.values()), frames=options.frames)
        for results in pool.map(run, seeds):
            for part, x in zip(parts, results, strict=True):
                scores[part].append(x)
                for text, j, f in zip(x.texts, x.j, x.f, strict=False):
                    print(f"{part}, scene {x.seed}: {text:30} J {j:5.1f}  F {f:5.1f}", flush=True)
    table = {part: summary(x) for part, x in scores.items()}
    columns = list(table[ALL])
    print("| | " + " | ".join(columns) + " |\n|" + " --- |" * (len(columns) + 1))
    for part, row in table.items():
        cells = [str(x) if isinstance(x, int) else f"{x:.1f}" for x in row.values()]
        print(f"| {part} | " + " | ".join(cells) + " |")
    if options.json:
        record = {part: {**table[part], "per_scene": [asdict(x) for x in rows]} for part, rows in scores.items()}
        options.json.write_text(json.dumps({"weights": name, **record}, indent=1) + "\n")


if __name__ == "__main__":
    main()
