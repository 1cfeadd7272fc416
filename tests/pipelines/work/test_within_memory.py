"""What runs at one time fits; what dies takes nothing with it."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipelines.work import within_memory
from pipelines.work.within_memory import Job, LocalExecutor, Lost, Machine, run


def square(number: int) -> int:
    return number * number


def note(number: int, folder: Path) -> int:
    """Say when it starts and ends."""
    start = time.monotonic()
    time.sleep(0.03)
    (folder / str(number)).write_text(f"{start} {time.monotonic()}")
    return number


def die_on(number: int, victims: tuple[int, ...]) -> int:
    if number in victims:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return number


def refuse(number: int) -> int:
    raise RuntimeError(f"a mistake of ours at {number}")


def jobs(count: int, memory_bytes: Callable[[int], int] = lambda _: 1, seconds: float = 1.0) -> list[Job[int]]:
    return [Job(number, memory_bytes(number), seconds) for number in range(count)]


@pytest.fixture(autouse=True)
def three_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_WORKERS", "3")


def test_every_item_has_its_result() -> None:
    assert dict(run(square, jobs(50, seconds=1e-3), LocalExecutor(100), "test")) == {n: n * n for n in range(50)}


def test_the_predicted_memory_of_what_runs_stays_within_the_budget(tmp_path: Path) -> None:
    sizes = {number: 10 + 7 * number % 50 for number in range(24)}
    list(run(partial(note, folder=tmp_path), jobs(24, sizes.__getitem__), LocalExecutor(60), "test"))
    spans = {int(path.name): [float(x) for x in path.read_text().split()] for path in tmp_path.iterdir()}
    assert len(spans) == 24
    used = [sum(sizes[m] for m, (start, end) in spans.items() if start <= at < end) for at, _ in spans.values()]
    assert max(used) <= 60
    assert max(sum(start <= at < end for start, end in spans.values()) for at, _ in spans.values()) > 1


def test_a_killed_case_is_named_and_takes_no_other_with_it() -> None:
    victims = (5, 11)
    found = dict(run(partial(die_on, victims=victims), jobs(20), LocalExecutor(100), "test"))
    assert {number for number, outcome in found.items() if isinstance(outcome, Lost)} == set(victims)
    assert all(found[number] == number for number in range(20) if number not in victims)


def test_a_mistake_of_ours_is_no_lost_case() -> None:
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        list(run(refuse, jobs(3), LocalExecutor(100), "test"))


def test_several_machines_each_keep_their_own_budget() -> None:
    machines = [Machine("one", 2, 10), Machine("two", 2, 25)]
    assert [machine.has_room(20) for machine in machines] == [False, True]
    machines[1].running, machines[1].used_bytes = 1, 20
    assert [machine.has_room(8) for machine in machines] == [True, False]


def test_small_cases_go_together_and_large_ones_first() -> None:
    given: list[Job[Any]] = [*jobs(100, seconds=0.01), Job("large", 50, 9.0)]
    chunks = list(within_memory._chunks(given, slots=2))
    assert [job.item for job in chunks[0].jobs] == ["large"]
    assert len(chunks) == 5
    assert sum(len(chunk.jobs) for chunk in chunks) == 101
