"""Cases on machines, inside a memory budget: what runs at one time is predicted to fit.

What a case needs, its load, is predicted before it starts (pipelines/cases/forecast.py). The largest start first,
smaller ones fill what is left. A process that dies at a case - killed by the system for its memory, most often - takes
no other case with it: what ran at that moment is tried again, each alone, and only one that dies alone is given up.
"""

import queue
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from pipelines.work.cores import workers
from pipelines.work.memory import GIB, bound_this_process
from pipelines.work.progress import Countdown
from pipelines.work.tether import tether
from pipelines.work.wording import listed

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK_S = 0.25  # small cases go together: handing one over costs a millisecond


@dataclass(frozen=True)
class Load(Generic[Item]):
    """What an item will need. `memory_bytes`: peak above an idle worker's. `seconds`: on one core."""

    item: Item
    memory_bytes: int
    seconds: float


@dataclass(frozen=True)
class Lost:
    """Stands for the result of an item that cannot fit, or whose process died, though it ran alone."""

    reason: str = "its process was killed, though no other case ran beside it; most likely it needs more memory"


@dataclass
class Machine:
    """One host: `slots` items at a time, predicted to stay below `memory_bytes` together."""

    name: str
    slots: int
    memory_bytes: int
    running: int = 0
    used_bytes: int = 0

    def has_room(self, memory_bytes: int) -> bool:
        return self.running < self.slots and self.used_bytes + memory_bytes <= self.memory_bytes


class Executor(Protocol):
    """Where work is done. `submit` gives a future with `add_done_callback`, `exception`, `result`.

    `shares_death`: one dead process ends all that runs, and `repair` is due.
    """

    machines: list[Machine]
    shares_death: bool

    def submit(self, machine: Machine, work: Callable[..., Any], items: Sequence[Any]) -> Any: ...
    def is_death(self, error: BaseException) -> bool: ...
    def repair(self) -> None: ...
    def close(self) -> None: ...


def executor(kind: str, memory_bytes: int) -> Executor:
    """`kind`: `local`, or `dask`. `memory_bytes`: a machine's budget."""
    if kind == "dask":
        from pipelines.work.dask_executor import DaskExecutor

        return DaskExecutor(memory_bytes)
    return LocalExecutor(memory_bytes)


class LocalExecutor:
    """Processes on this machine, `slots` or one a core ($MEDSEG_WORKERS).

    `distrustful`: of what items hold. No process gets more address space than the budget, whatever was predicted.
    """

    shares_death = True  # the pool does not say whose process it was

    def __init__(self, memory_bytes: int, slots: int | None = None, distrustful: bool = False) -> None:
        self.machines = [Machine("here", slots or workers(), memory_bytes)]
        self.bound_bytes = memory_bytes if distrustful else None
        self.repair()

    def submit(self, machine: Machine, work: Callable[..., Any], items: Sequence[Any]) -> Any:
        return self.pool.submit(_all, work, items)

    def is_death(self, error: BaseException) -> bool:
        return isinstance(error, BrokenProcessPool)

    def repair(self) -> None:
        self.pool = ProcessPoolExecutor(self.machines[0].slots, initializer=_begin, initargs=(self.bound_bytes,))

    def close(self) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)


def each(
    work: Callable[[Item], Result], loads: Sequence[Load[Item]], where: Executor, title: str
) -> Iterator[tuple[Item, Result | Lost]]:
    """(item, its result) as they come. `work` must be importable and catch what one case may raise.

    An item that fits no machine alone is lost before anything starts. Closes the executor.
    """
    try:
        bound = max(machine.memory_bytes for machine in where.machines)
        for load in loads:
            if load.memory_bytes > bound:
                yield load.item, Lost(too_large(load.memory_bytes, bound))
        yield from _Run(work, [load for load in loads if load.memory_bytes <= bound], where, title).results()
    finally:
        where.close()


def stop_above(left_out: Mapping[str, str], total: int, bound: float, key: str) -> None:
    """Raise ValueError with the reasons, once more of `total` cases are left out than the parameter `key` allows."""
    if len(left_out) > bound * total or len(left_out) == total:
        raise ValueError(
            f"{len(left_out)} of {total} cases are left out, above {key} {bound:g}; mend or remove their scans, or "
            f"raise the bound: {listed(left_out.items())}"
        )


def too_large(memory_bytes: int, bound_bytes: int) -> str:
    return f"needs {memory_bytes / GIB:.2g} GiB, above preprocess.memory_gib {bound_bytes / GIB:.2g}; raise it"


def _begin(bound_bytes: int | None) -> None:
    """In a new worker: it ends with us, and at once.

    One that waits for a lock which a killed one held would swallow a request to clean up, and stay for ever.
    """
    tether()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if bound_bytes is not None:
        bound_this_process(bound_bytes)


@dataclass(frozen=True)
class _Chunk(Generic[Item]):
    loads: tuple[Load[Item], ...]
    alone: bool = False

    @property
    def memory_bytes(self) -> int:
        return max(load.memory_bytes for load in self.loads)


@dataclass
class _Run(Generic[Item, Result]):
    work: Callable[[Item], Result]
    loads: Sequence[Load[Item]]
    where: Executor
    title: str
    waiting: list[_Chunk[Item]] = field(default_factory=list)
    running: dict[Any, tuple[_Chunk[Item], Machine]] = field(default_factory=dict)

    def results(self) -> Iterator[tuple[Item, Result | Lost]]:
        progress = Countdown(self.title, len(self.loads), sum(load.seconds for load in self.loads))
        self.waiting = list(_chunks(self.loads, sum(machine.slots for machine in self.where.machines)))
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        while self.waiting or self.running:
            self._start(ended)
            future = ended.get()
            if future not in self.running:
                continue  # of a pool that broke; its chunk waits again
            chunk, machine = self.running.pop(future)
            machine.running -= 1
            machine.used_bytes -= chunk.memory_bytes
            error = future.exception()
            if error is None:
                outcomes: Sequence[Result | Lost] = future.result()
            elif not self.where.is_death(error):
                raise error
            else:
                outcomes = self._bury(chunk)
            for load, outcome in zip(chunk.loads, outcomes, strict=False):
                progress.advance(load.seconds)
                yield load.item, outcome

    def _start(self, ended: Any) -> None:
        """Give every machine what fits beside what it is doing; suspects run with nothing beside them."""
        for machine in self.where.machines:
            while chunk := self._next(machine):
                try:
                    future = self.where.submit(machine, self.work, [load.item for load in chunk.loads])
                except Exception as error:
                    if not self.where.is_death(error):
                        raise
                    if self.running:
                        return  # what was running when a process died says so itself, in a moment
                    self.where.repair()
                    continue
                self.waiting.remove(chunk)
                machine.running += 1
                machine.used_bytes += chunk.memory_bytes
                self.running[future] = (chunk, machine)
                future.add_done_callback(ended.put)

    def _next(self, machine: Machine) -> _Chunk[Item] | None:
        if any(chunk.alone for chunk, _ in self.running.values()):
            return None
        suspects = [chunk for chunk in self.waiting if chunk.alone]
        if suspects:
            return suspects[0] if not self.running else None
        return next((chunk for chunk in self.waiting if machine.has_room(chunk.memory_bytes)), None)

    def _bury(self, chunk: _Chunk[Item]) -> Sequence[Lost]:
        """A process died: all that may have been in it is suspect and goes alone; what was alone is lost."""
        suspects = [] if chunk.alone else list(chunk.loads)
        if self.where.shares_death:
            for other, machine in self.running.values():
                machine.running -= 1
                machine.used_bytes -= other.memory_bytes
                suspects += other.loads
            self.running.clear()
            self.where.repair()
        self.waiting += [_Chunk((load,), alone=True) for load in suspects]
        return [Lost()] if chunk.alone else []


def _chunks(loads: Sequence[Load[Item]], slots: int) -> Iterator[_Chunk[Item]]:
    """Largest first. Small cases together, but never so many that a slot would idle at the end."""
    bound_s = min(CHUNK_S, sum(load.seconds for load in loads) / (4 * slots))
    chunk: list[Load[Item]] = []
    for load in sorted(loads, key=lambda load: -load.memory_bytes):
        chunk.append(load)
        if sum(load.seconds for load in chunk) >= bound_s:
            yield _Chunk(tuple(chunk))
            chunk = []
    if chunk:
        yield _Chunk(tuple(chunk))


def _all(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [work(item) for item in items]
