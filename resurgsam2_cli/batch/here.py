"""A batch in this process: one video after the other, on one device."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from resurgsam2_cli.batch.executor import Queue, View
from resurgsam2_cli.batch.items import Item, Outcome
from resurgsam2_cli.batch.job import Job
from resurgsam2_cli.files.atomic import Busy
from resurgsam2_cli.segmenting.engine import Engine

_PAUSE = 0.1  # seconds


def segment_here(job: Job, items: Iterable[Item], engine: Engine, view: View, most: int | None) -> Iterator[Outcome]:
    """Segment the videos; yield their outcomes in the order in which they end."""
    queue, device = Queue(items, most), str(engine.device)
    while not queue.is_over:
        item = queue.take()
        if item is None:
            time.sleep(_PAUSE)  # another program works on what is left
            continue
        view.begin(device, item)
        try:
            outcome = job.run(item, engine, lambda progress: view.advance(device, progress))
        except Busy:
            view.finish(device, None)
            queue.put_off(item)
            continue
        queue.count(outcome)
        view.finish(device, outcome)
        yield outcome
