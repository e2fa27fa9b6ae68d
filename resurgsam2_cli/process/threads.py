"""Reading, network and writing side by side: threads with bounded buffers between them.

An error in one ends the others at their next item, and is the one that the caller sees.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """The buffer is closed: nothing more comes out, or may go in."""


class Buffer(Generic[T]):
    """Items on their way from one thread to another, at most ``capacity`` of them."""

    def __init__(self, capacity: int) -> None:
        self._items: deque[T] = deque()
        self._capacity, self._closed = capacity, False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Wait for room. Raises :class:`Closed`."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._capacity)
            if self._closed:
                raise Closed
            self._items.append(item)
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> T:
        """Wait for an item. Raises :class:`Closed` when there will be none, and ``TimeoutError`` after some seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or self._items, timeout):
                raise TimeoutError
            if not self._items:
                raise Closed
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self, *, drop: bool = False) -> None:
        """Take nothing more; with ``drop``, give nothing more either."""
        with self._changed:
            self._closed = True
            if drop:
                self._items.clear()
            self._changed.notify_all()


@contextmanager
def ahead(items: Generator[T, None, None], capacity: int, interrupt: Callable[[], None]) -> Iterator[Iterator[T]]:
    """Make ``items`` in a thread of their own, up to ``capacity`` ahead; their error comes after the last of them.

    Leaving the block stops the thread; ``interrupt`` unblocks a pending read.
    """
    buffer: Buffer[T] = Buffer(capacity)
    failure: list[BaseException] = []

    def work() -> None:
        try:
            for item in items:
                buffer.put(item)
        except Closed:
            pass
        except BaseException as error:
            failure.append(error)
        finally:
            items.close()
            buffer.close()

    def taken() -> Iterator[T]:
        while True:
            try:
                item = buffer.get()
            except Closed:
                break
            yield item
        if failure:
            raise failure[0]

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        buffer.close(drop=True)
        interrupt()
        thread.join()


class Hung(Exception):
    """A thread has not shown that it is alive for too long."""


class Watched(Generic[T]):
    """Items made in a thread of its own by code that nothing interrupts, and that may hang.

    The thread shows that it is alive by calling the function that ``make`` is given. Whoever waits for an item while it
    has not done so for ``patience`` seconds gets :class:`Hung`, and the thread is left to itself.
    """

    def __init__(self, make: Callable[[Callable[[], None]], Generator[T, None, None]], capacity: int, patience: float):
        self._buffer: Buffer[T] = Buffer(capacity)
        self._patience, self._alive_at, self._stopped = patience, time.monotonic(), False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, args=(make,), name="watched", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        if self._stopped:
            raise Closed
        self._alive_at = time.monotonic()

    def _work(self, make: Callable[[Callable[[], None]], Generator[T, None, None]]) -> None:
        items = make(self._beat)
        try:
            for item in items:
                self._buffer.put(item)
                self._beat()
        except Closed:
            pass
        except BaseException as error:
            self._failure = error
        finally:
            items.close()
            self._buffer.close()

    def __iter__(self) -> Iterator[T]:
        while True:
            since = time.monotonic()
            while True:
                try:
                    item = self._buffer.get(timeout=min(1.0, self._patience))
                    break
                except TimeoutError:
                    if time.monotonic() - max(since, self._alive_at) > self._patience:
                        self.stop()
                        raise Hung from None
                except Closed:
                    if self._failure is not None:
                        raise self._failure from None
                    return
            yield item

    def stop(self) -> None:
        """Give nothing more, and tell the thread to end; from any thread."""
        self._stopped = True
        self._buffer.close(drop=True)

    def close(self) -> None:
        """Stop, and wait a moment for the thread to let go of what it holds."""
        self.stop()
        self._thread.join(timeout=1)


class Lane(Generic[T]):
    """Takes items in a thread of its own, up to ``capacity`` behind: one at a time, and in order.

    Meanwhile, other ``threads`` may ``prepare`` the next items, side by side: what comes of that is taken.
    """

    def __init__(
        self, take: Callable[[Any], None], capacity: int, prepare: Callable[[T], Any] | None = None, threads: int = 1
    ) -> None:
        self._take, self._prepare, self._buffer = take, prepare, Buffer[T](capacity)
        self._failure: BaseException | None = None
        self._begin, self._numbers = threading.Lock(), itertools.count()
        self._preparing = threading.Semaphore(threads)
        self._done, self._changed = 0, threading.Condition()
        workers = 1 if prepare is None else threads + 1
        self._threads = [threading.Thread(target=self._work, name="lane", daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        try:
            while self._take_next():
                pass
        except BaseException as error:  # also that a lane is closed which this one feeds
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()
            self._buffer.close(drop=True)

    def _take_next(self) -> bool:
        """Take an item; False if there is none any more, or none is to be taken."""
        with self._preparing:
            try:
                with self._begin:
                    made, number = self._buffer.get(), next(self._numbers)
            except Closed:
                return False
            if self._prepare is not None:
                made = self._prepare(made)
        with self._changed:
            self._changed.wait_for(lambda: self._done == number or self._failure is not None)
            if self._failure is not None:
                return False
            self._take(made)
            self._done += 1
            self._changed.notify_all()
        return True

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def put(self, item: T) -> None:
        """Wait for room. Raises the error of an earlier item."""
        try:
            self._buffer.put(item)
        except Closed:
            self.finish()
            raise

    def finish(self) -> None:
        """Wait until all items are taken. Raises the error of an item."""
        self._buffer.close()
        self._join()
        if self._failure is not None:
            raise self._failure

    def abort(self) -> None:
        """Wait until the current items are taken, and drop the others."""
        self._buffer.close(drop=True)
        self._join()
