"""A batch in this process: one video after the other, on one device.

If the device fails for good, which it does for this process alone, the rest is done in another one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from resurgsam2_cli.batch.executor import EngineRequest, Queue, Spent, View, Warn, done
from resurgsam2_cli.batch.items import Item, Outcome
from resurgsam2_cli.batch.job import Job
from resurgsam2_cli.batch.processes import Processes
from resurgsam2_cli.files.filling import Busy

_PAUSE = 0.1  # seconds


@dataclass(frozen=True)
class Here:
    """An executor: see :class:`~resurgsam2_cli.batch.executor.Executor`."""

    request: EngineRequest
    device: str

    def run(self, job: Job, items: Iterable[Item], view: View, most: int | None, warn: Warn) -> Iterator[Outcome]:
        """Build the network, and do the videos with it."""
        engine = self.request.build(self.device)
        warn(engine.warnings)
        queue, device = Queue(items, most), str(engine.device)
        while not queue.is_over:
            item = queue.take()
            if item is None:
                time.sleep(_PAUSE)  # another program works on what is left
                continue
            view.begin(device, item)
            try:
                outcome = done(job, item, engine, lambda progress: view.advance(device, progress))
            except Busy:
                view.finish(device, None)
                queue.put_off(item)
                continue
            ended = queue.settle(item, outcome.outcome if isinstance(outcome, Spent) else outcome)
            view.finish(device, ended)
            if ended is not None:
                yield ended
            if isinstance(outcome, Spent):
                del engine
                yield from Processes(self.request, [self.device]).run(job, queue.drop(), view, queue.most, warn)
