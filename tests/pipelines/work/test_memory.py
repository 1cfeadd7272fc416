"""Freed memory stays with the process while it is asked for, and much of it goes back at the end."""

import resource
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from pipelines.work import memory
from tests.conftest import REPOSITORY

ONCE, TIMES = memory.LEFT_BYTES + (64 << 20), 4


def faults(work: Callable[[], object]) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * resource.getpagesize()


def fill() -> None:
    np.ones(ONCE, np.uint8)


@pytest.mark.skipif(memory._glibc() is None, reason="another C library than glibc")
def test_within_kept_the_same_pages_are_used_again_and_afterwards_given_back() -> None:
    """In a process of its own: this one may hold freed pages of other tests."""
    program = "from tests.pipelines.work.test_memory import keep_and_give_back; keep_and_give_back()"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def keep_and_give_back() -> None:
    fill()
    before, page = resident_bytes(), resource.getpagesize()
    assert faults(lambda: [fill() for _ in range(TIMES)]) > TIMES / 2 * ONCE / (512 * page)  # pages may be huge
    with memory.kept():
        fill()
        assert faults(lambda: [fill() for _ in range(TIMES)]) < ONCE / page / 16
        assert resident_bytes() - before > ONCE / 2
    assert resident_bytes() - before < ONCE / 2


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    with memory.kept():
        fill()
