"""What runs at one time fits; what dies takes nothing with it."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipelines.work import within_memory
from pipelines.work.within_memory import Load, LocalExecutor, Lost, Machine, each


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


def die_once_soon(number: int, delay_s: float, died: Path) -> int:
    """One process dies when its result may be told already, so that the pool breaks while it is given work."""
    if number == 0 and not died.exists():
        died.touch()
        threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
    time.sleep(0.002)
    return number


def refuse(number: int) -> int:
    raise RuntimeError(f"a mistake of ours at {number}")


def loads(count: int, memory_bytes: Callable[[int], int] = lambda _: 1, seconds: float = 1.0) -> list[Load[int]]:
    return [Load(number, memory_bytes(number), seconds) for number in range(count)]


@pytest.fixture(autouse=True)
def three_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_WORKERS", "3")


def test_every_item_has_its_result() -> None:
    assert dict(each(square, loads(50, seconds=1e-3), LocalExecutor(100), "test")) == {n: n * n for n in range(50)}


def test_the_predicted_memory_of_what_runs_stays_within_the_budget(tmp_path: Path) -> None:
    sizes = {number: 10 + 7 * number % 50 for number in range(24)}
    list(each(partial(note, folder=tmp_path), loads(24, sizes.__getitem__), LocalExecutor(60), "test"))
    spans = {int(path.name): [float(x) for x in path.read_text().split()] for path in tmp_path.iterdir()}
    assert len(spans) == 24
    used = [sum(sizes[m] for m, (start, end) in spans.items() if start <= at < end) for at, _ in spans.values()]
    assert max(used) <= 60
    assert max(sum(start <= at < end for start, end in spans.values()) for at, _ in spans.values()) > 1


def test_a_killed_case_is_named_and_takes_no_other_with_it() -> None:
    victims = (5, 11)
    found = dict(each(partial(die_on, victims=victims), loads(20), LocalExecutor(100), "test"))
    assert {number for number, outcome in found.items() if isinstance(outcome, Lost)} == set(victims)
    assert all(found[number] == number for number in range(20) if number not in victims)


@pytest.mark.parametrize("delay_s", [0.003, 0.01, 0.02])
def test_a_process_that_dies_between_two_cases_costs_none(tmp_path: Path, delay_s: float) -> None:
    work = partial(die_once_soon, delay_s=delay_s, died=tmp_path / "died")
    found = dict(each(work, loads(60), LocalExecutor(100), "test"))
    assert found == {number: number for number in range(60)}


def stubborn_once(item: int, begun: Path) -> int:
    """Item 0 lets nothing end it; item 1 dies beside it. Both only once."""
    if item == 0 and not begun.exists():
        begun.touch()
        for _ in range(2):
            with suppress(BaseException):
                time.sleep(60)
    elif item == 1 and not (fallen := begun.with_name("fallen")).exists():
        while not begun.exists():
            time.sleep(0.01)
        fallen.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_no_worker_outlives_a_pool_that_broke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_WORKERS", "2")
    work = partial(stubborn_once, begun=tmp_path / "begun")
    start = time.monotonic()
    assert dict(each(work, loads(2, seconds=1.0), LocalExecutor(100), "test")) == {0: 0, 1: 1}
    assert time.monotonic() - start < 50
    assert not multiprocessing.active_children()


def test_a_mistake_of_ours_is_no_lost_case() -> None:
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        list(each(refuse, loads(3), LocalExecutor(100), "test"))


def test_what_fits_no_machine_is_lost_before_it_starts_and_the_rest_goes_on() -> None:
    found = dict(each(square, loads(4, lambda number: 200 if number == 2 else 1), LocalExecutor(100), "test"))
    assert isinstance(lost := found.pop(2), Lost)
    assert lost.reason == "needs 1.9e-07 GiB, above preprocess.memory_gib 9.3e-08; raise it"
    assert found == {0: 0, 1: 1, 3: 9}


def take(size_bytes: int) -> bool:
    try:
        return bool(bytearray(size_bytes))
    except MemoryError:
        return False


def test_a_distrustful_worker_gets_no_more_than_the_budget_whatever_was_predicted() -> None:
    little, much = 1 << 20, 1 << 31  # more than freed memory of other tests, which workers inherit
    sizes = [Load(size, 1, 1.0) for size in (little, much)]
    assert dict(each(take, sizes, LocalExecutor(1 << 27, distrustful=True), "test")) == {little: True, much: False}
    assert dict(each(take, sizes[1:], LocalExecutor(1 << 27), "test")) == {much: True}


def test_too_many_left_out_stop_with_the_first_reasons() -> None:
    reasons = {str(number): f"file {number} is missing" for number in range(9)}
    within_memory.stop_above(reasons, 18, 0.5, "evaluate.max_left_out_fraction")
    with pytest.raises(
        ValueError,
        match=r"^9 of 18 .* above evaluate.max_left_out_fraction 0.4; .* 4: .*; and 4 more reasons, in the log$",
    ):
        within_memory.stop_above(reasons, 18, 0.4, "evaluate.max_left_out_fraction")
    with pytest.raises(ValueError, match="9 of 9"):
        within_memory.stop_above(reasons, 9, 1.0, "evaluate.max_left_out_fraction")


def test_several_machines_each_keep_their_own_budget() -> None:
    machines = [Machine("one", 2, 10), Machine("two", 2, 25)]
    assert [machine.has_room(20) for machine in machines] == [False, True]
    machines[1].running, machines[1].used_bytes = 1, 20
    assert [machine.has_room(8) for machine in machines] == [True, False]


def test_small_cases_go_together_and_large_ones_first() -> None:
    given: list[Load[Any]] = [*loads(100, seconds=0.01), Load("large", 50, 9.0)]
    chunks = list(within_memory._chunks(given, slots=2))
    assert [load.item for load in chunks[0].loads] == ["large"]
    assert len(chunks) == 5
    assert sum(len(chunk.loads) for chunk in chunks) == 101
