"""Time and peak memory of exports from many finished runs, next to reading the same files.

    python benchmarks/export_runs.py [--runs 1000] [--frames 100] [--formats coco youtube-vis cvat] [--json FILE]

The runs are made up: two objects with ragged outlines at 854 x 480, in the files that a run has. Each export is a
process of its own, as a user starts it. *Reading* is another process that reads the same run.json, frames.jsonl and
annotations.json: *bytes* only reads them, *parsed* also turns the JSON into objects, file by file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from resurgsam2_cli.outputs.coco import (
    MaskEntry,
    annotation_entry,
    category_entry,
    coco_head,
    image_entry,
    video_entry,
)

HEIGHT, WIDTH = 480, 854
READ = """
import json, pathlib, sys
parse = sys.argv[2] == "parsed"
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*.json*")):
    text = path.read_bytes()
    if parse:
        [json.loads(x) for x in (text.splitlines() if path.suffix == ".jsonl" else [text])]
"""


def draw(random: np.random.Generator) -> np.ndarray:
    """A blob with a ragged outline, (height, width) bool."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    center = random.uniform((100, 150), (380, 700))
    angle = np.arctan2(y - center[0], x - center[1])
    radius = random.uniform(50, 110)
    for waves in (2, 3, 5, 11, 23, 47):
        radius = radius + random.normal(0, 12 / waves**0.5) * np.sin(waves * angle + random.uniform(0, 6))
    return np.hypot(y - center[0], x - center[1]) < radius


def write_run(folder: Path, frames: int, masks: list[MaskEntry], random: np.random.Generator) -> None:
    """Write the three files of a run, with masks drawn from a stock."""
    folder.mkdir(parents=True)
    images: list[Any] = []
    annotations: list[Any] = []
    lines = []
    for t in range(frames):
        images.append(image_entry(t + 1, f"{folder.name}/{t:05d}.png", HEIGHT, WIDTH, 1, t))
        objects = []
        for k, x in enumerate(random.choice(len(masks), 2)):
            mask = MaskEntry(masks[x].rle, masks[x].area, masks[x].box, k + 1, masks[x].score)
            annotations.append(annotation_entry(len(annotations) + 1, t + 1, k + 1, mask))
            objects.append(
                {
                    "id": k + 1,
                    "stage": "track",
                    "present": True,
                    "object_score": 9.12345,
                    "predicted_iou": 0.954321,
                    "area": int(mask.area),
                    "bbox": mask.box,
                    "conditioning_frames": [4],
                    "long_term_frames": [4, 17, 33],
                }
            )
        lines.append(json.dumps({"frame": t, "name": f"{t:05d}", "time": round(t / 25, 6), "objects": objects}))
    head = coco_head(
        folder.name,
        [video_entry(1, folder.name, HEIGHT, WIDTH, frames)],
        [category_entry(1, "grasper"), category_entry(2, "kidney")],
    )
    body = (", ".join(json.dumps(x) for x in items) for items in (images, annotations))
    parts = zip(("images", "annotations"), body, strict=True)
    text = json.dumps(head)[:-1] + "".join(f', "{name}": [{items}]' for name, items in parts) + "}\n"
    (folder / "annotations.json").write_text(text, encoding="utf-8")
    (folder / "frames.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    record = {
        "format": 1,
        "complete": True,
        "source": {
            "path": f"/videos/{folder.name}.mp4",
            "width": WIDTH,
            "height": HEIGHT,
            "frame_rate": "25/1",
            "frames": frames,
        },
        "objects": [
            {"id": i, "text": x, "label": x, "color": "#00e5ff"} for i, x in enumerate(("grasper", "kidney"), 1)
        ],
        "settings": {"start": "0", "end": None, "stride": 1, "outputs": ["frames", "coco"]},
    }
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")


LAUNCH = """
import json, resource, subprocess, sys, time
begin = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stderr=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
seconds = time.perf_counter() - begin
print(json.dumps({"seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "mb": used.ru_maxrss / 1024}))
"""


def measure(command: list[str]) -> dict[str, float]:
    """Seconds and peak memory in MB of a process. A small process starts it: a child's peak counts its parent's."""
    done = subprocess.run([sys.executable, "-c", LAUNCH, *command], check=True, stdout=subprocess.PIPE, text=True)
    return {key: round(value, 2) for key, value in json.loads(done.stdout).items()}


def main() -> None:
    """Make the runs, export and read them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--formats", nargs="+", default=["coco", "youtube-vis"])
    parser.add_argument("--folder", type=Path, help="for the runs; a temporary one if left out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root, out = Path(folder) / "runs", Path(folder) / "out"
        stock = []
        for _ in range(64):
            rle = coco_mask.encode(np.asfortranarray(draw(random)))
            area, box = float(coco_mask.area(rle)), coco_mask.toBbox(rle).tolist()
            entry = {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode("ascii")}
            stock.append(MaskEntry(entry, area, box, 0, 0.954217))
        for i in range(options.runs):
            write_run(root / f"video{i:04d}", options.frames, stock, random)
        size = sum(x.stat().st_size for x in root.rglob("*.json*"))
        report: dict[str, Any] = {"runs": options.runs, "frames": options.frames, "megabytes": round(size / 1e6, 1)}
        for kind in ("bytes", "parsed"):
            report[f"reading, {kind}"] = measure([sys.executable, "-c", READ, str(root), kind])
        for name in options.formats:
            command = [sys.executable, "-m", "resurgsam2_cli", "export", str(root), "-f", name, "-o", str(out)]
            figures = measure(command)
            for kind in ("bytes", "parsed"):
                figures[f"times reading, {kind}"] = round(figures["cpu"] / report[f"reading, {kind}"]["cpu"], 1)
            report[name] = figures
            shutil.rmtree(out)
    for key, value in report.items():
        print(f"{key:18} {value}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
