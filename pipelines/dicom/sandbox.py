"""Work on hostile input in child processes, each with a limit on time and memory.

    for result in each(work, items, Limits(60, 4), "deidentify"): ...      results in order; Refused where a limit fell

A codec that loops, recurses into a crash or asks for a terabyte takes its own process down and nothing else; the result
is then `Refused` with the reason. Children are forked from a small server process that has loaded the libraries, so one
costs milliseconds. Linux and macOS; where the platform knows no address-space limit only time is bounded.
"""

import multiprocessing as mp
import os
import resource
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from pipelines.work import memory
from pipelines.work.cores import workers
from pipelines.work.progress import track
from pipelines.work.tether import tether

Item = TypeVar("Item")


@dataclass(frozen=True)
class Limits:
    """`seconds` of the processor's time; `memory_gib` of address space beyond what the libraries take. `wall_s`: of the
    clock; ten times as much and two minutes at least unless told, since on a busy machine a good scan takes so long."""

    seconds: float
    memory_gib: float
    wall_s: float | None = None

    @property
    def patience_s(self) -> float:
        return max(120.0, 10 * self.seconds) if self.wall_s is None else self.wall_s


@dataclass(frozen=True)
class Refused:
    """Why there is no result."""

    reason: str


@dataclass
class _Child:
    index: int
    process: Any
    receive: Connection
    deadline: float


def each(
    work: Callable[[Item], Any], items: Sequence[Item], limits: Limits, title: str, processes: int | None = None
) -> Iterator[Any]:
    """`work` of every item, in order, or Refused. `work` must be importable; `processes`: instead of `workers()`."""
    return track(_ordered(work, items, limits, processes or workers()), len(items), title)


def _ordered(work: Callable[[Item], Any], items: Sequence[Item], limits: Limits, processes: int) -> Iterator[Any]:
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.dicom.preloaded"])
    living: list[_Child] = []
    done: dict[int, Any] = {}
    started = given = 0
    try:
        while given < len(items):
            while started < len(items) and len(living) < processes:
                living.append(_start(context, work, items[started], started, limits))
                started += 1
            for child in _ended(living):
                living.remove(child)
                done[child.index] = _result(child, limits)
            while given in done:
                yield done.pop(given)
                given += 1
    finally:
        for child in living:
            child.process.kill()
            child.process.join()


def _start(context: Any, work: Callable[[Any], Any], item: Any, index: int, limits: Limits) -> _Child:
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(send, work, item, limits), daemon=True)
    process.start()
    send.close()
    return _Child(index, process, receive, time.monotonic() + limits.patience_s)


def _ended(living: list[_Child]) -> list[_Child]:
    """Wait until a child has answered, died or outlived its time."""
    patience = max(0.0, min(child.deadline for child in living) - time.monotonic())
    ready = wait([child.receive for child in living], timeout=patience)
    now = time.monotonic()
    return [child for child in living if child.receive in ready or child.deadline <= now]


def _result(child: _Child, limits: Limits) -> Any:
    try:
        if not child.receive.poll():
            return Refused(f"took longer than {limits.patience_s:g} s")
        return child.receive.recv()
    except EOFError:  # it died without an answer
        child.process.join(5)
        code = child.process.exitcode or 0
        if code == -signal.SIGXCPU:
            return Refused(f"took longer than {limits.seconds:g} s")
        return Refused(f"crashed its reader ({f'signal {-code}' if code < 0 else f'exit {code}'})")
    finally:
        child.process.kill()
        child.process.join()
        child.receive.close()


def _work(send: Connection, work: Callable[[Any], Any], item: Any, limits: Limits) -> None:
    tether()
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # codecs written in C print what they stumble over, values of the header included
        os.dup2(silent, stream)
    warnings.simplefilter("ignore")  # libraries warn with values out of the header
    _limit(limits)
    try:
        result = work(item)
    except MemoryError:
        result = Refused(f"needs more than {limits.memory_gib:g} GiB")
    except Exception as error:  # what no reader foresaw: named and counted, and the next item's turn
        result = Refused(f"failed its reader ({type(error).__name__})")
    send.send(result)
    send.close()


def _limit(limits: Limits) -> None:
    seconds = int(limits.seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    memory.bound_this_process(int(limits.memory_gib * memory.GIB))
