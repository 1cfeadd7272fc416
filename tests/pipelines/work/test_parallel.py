"""Many cases over all workers: in order, and a killed process is one clear error."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from pipelines.work import parallel


@pytest.fixture(autouse=True)
def three_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_WORKERS", "3")


def slow_at_first(number: int) -> tuple[int, int]:
    time.sleep(0.1 if number < 3 else 0)
    return number, os.getpid()


def die_beside_others(number: int, folder: Path) -> int:
    """Killed once for the memory that others take, and number 7 even alone."""
    first = folder / f"tried-{number}"
    if number == 7 or (number == 4 and not first.exists()):
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_results_come_in_order_from_several_processes() -> None:
    found = list(parallel.each(slow_at_first, range(50), "test", str))
    assert [number for number, _ in found] == list(range(50))
    assert len({process for _, process in found}) == 3
    assert os.getpid() not in {process for _, process in found}


@pytest.mark.parametrize("count", [0, 1, 5])
def test_few_items_or_one_process_stay_in_this_one(count: int) -> None:
    processes = 1 if count > 1 else None
    found = list(parallel.each(slow_at_first, range(count), "test", str, processes))
    assert found == [(number, os.getpid()) for number in range(count)]


def test_an_item_that_is_killed_beside_others_is_tried_alone(tmp_path: Path) -> None:
    assert list(parallel.each(partial(die_beside_others, folder=tmp_path), range(7), "test", str)) == list(range(7))


def test_an_item_that_is_killed_even_alone_is_named(tmp_path: Path) -> None:
    work = partial(die_beside_others, folder=tmp_path)
    with pytest.raises(ValueError, match=r"^case 7: its process was killed.* most likely it needs more memory$"):
        list(parallel.each(work, range(20), "test", lambda number: f"case {number}"))


def test_a_mistake_of_ours_keeps_its_trace() -> None:
    with pytest.raises(ZeroDivisionError):
        list(parallel.each(partial(divmod, 1), range(20), "test", str))
