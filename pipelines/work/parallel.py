"""Work on many cases: one process a core, progress with the time left, and no child that outlives its parent."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from pipelines.work import environment
from pipelines.work.tether import tether

log = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")


def workers() -> int:
    """$MEDSEG_WORKERS, or one a core."""
    return environment.read().workers or len(os.sched_getaffinity(0))


def each(
    work: Callable[[Item], Result], items: Sequence[Item], title: str, processes: int | None = None
) -> Iterator[Result]:
    """`work` of every item, in order, over all workers. `work` must be importable and catch what one case may raise.

    `processes`: instead of `workers()`; 1 works in this process.
    """
    if processes == 1 or len(items) < 2:
        yield from track(map(work, items), len(items), title)
        return
    chunk = max(1, min(8, len(items) // (4 * workers())))
    with ProcessPoolExecutor(min(workers(), len(items)), initializer=tether) as pool:
        try:
            yield from track(pool.map(work, items, chunksize=chunk), len(items), title)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def track(items: Iterable[Item], total: int, title: str, every_s: float = 5.0) -> Iterator[Item]:
    """Pass items on and log progress, at most one line each `every_s` seconds."""
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= every_s or (done == total and now - start >= every_s):
            left_s = (now - start) / done * (total - done)
            log.info("%s %d/%d, %s left", title, done, total, duration(left_s))
            last = now


def duration(seconds: float) -> str:
    """`75.2` -> `1:15`, `4000` -> `1:06:40`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
