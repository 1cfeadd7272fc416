"""How far a long piece of work is, in the log: at most a line in five seconds, also where a pipe is the reader."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

log = logging.getLogger(__name__)
Item = TypeVar("Item")

EVERY_S = 5.0
HEARD_S = 0.3  # between two shares that a listener hears
_listener: ContextVar[Callable[[float], None] | None] = ContextVar("listener", default=None)


def track(items: Iterable[Item], total: int, title: str) -> Iterator[Item]:
    """Pass items on and tell how many of `total` are done."""
    progress = Countdown(title, total, total)
    for item in items:
        yield item
        progress.advance(1)


class Countdown:
    """`total` items that are `work` together, in any unit: the time left is told by work, not by count."""

    def __init__(self, title: str, total: int, work: float) -> None:
        self.title, self.total, self.work = title, total, work
        self.done, self.done_work = 0, 0.0
        self.start = self.last = time.monotonic()

    def advance(self, work: float) -> None:
        """One item more is done."""
        self.done += 1
        self.done_work += work
        now = time.monotonic()
        if now - self.last >= EVERY_S or (self.done == self.total and now - self.start >= EVERY_S):
            left_s = (now - self.start) * (self.work - self.done_work) / max(self.done_work, 1e-9)
            log.info("%s %d/%d, %s left", self.title, self.done, self.total, duration(max(0.0, left_s)))
            self.last = now


def duration(seconds: float) -> str:
    """`75.2` -> `1:15`, `4000` -> `1:06:40`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


@contextmanager
def heard(listener: Callable[[float], None]) -> Iterator[None]:
    """Whoever tells `share` within is heard by `listener`, now and then."""
    last = 0.0

    def now_and_then(done: float) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= HEARD_S:
            last = now
            listener(done)

    token = _listener.set(now_and_then)
    try:
        yield
    finally:
        _listener.reset(token)


def share(done: float) -> None:
    """How much of what is being done is done, in [0, 1]; nobody need listen."""
    if (listener := _listener.get()) is not None:
        listener(done)


def tell(line: str) -> None:
    """What is being done now: on a terminal one line of stderr that is written over, and at the end empty."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
    elif line:
        print(line, file=sys.stderr, flush=True)
