"""Work on many cases in order, one process a core. What one of them needs is not known before: see within_memory.py."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from pipelines.work import within_memory
from pipelines.work.progress import track
from pipelines.work.within_memory import CHUNK_S, Load, LocalExecutor, Lost

Item = TypeVar("Item")
Result = TypeVar("Result")

TOGETHER = 8  # cases at most that a process is given at a time


def each(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    title: str,
    name: Callable[[Item], str],
    processes: int | None = None,
) -> Iterator[Result]:
    """`work` of every item, in order, over all workers. `work` must be importable and catch what one case may raise.

    `name`: what to call an item in an error. `processes`: instead of one a core; 1 works in this process.
    Raises ValueError if the process of an item is killed, alone and beside others.
    """
    if processes == 1 or len(items) < 2:
        yield from track(map(work, items), len(items), title)
        return
    loads = [Load(place, 0, CHUNK_S / TOGETHER) for place in enumerate(items)]
    early: dict[int, Result] = {}
    due = 0
    for (number, item), outcome in within_memory.each(partial(_of_second, work), loads, LocalExecutor(0), title):
        if isinstance(outcome, Lost):
            raise ValueError(f"{name(item)}: {outcome.reason}")
        early[number] = outcome
        while due in early:
            yield early.pop(due)
            due += 1


def _of_second(work: Callable[[Item], Result], numbered: tuple[int, Item]) -> Result:
    return work(numbered[1])
