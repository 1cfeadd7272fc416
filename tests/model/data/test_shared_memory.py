"""Too little shared memory is told before the first step, or at the batch that finds none; nobody waits for it."""

import multiprocessing
import resource
import time
from contextlib import suppress
from pathlib import Path

import pytest

from model.data import casefile, shared_memory
from model.data.casefile import MAPPED
from model.data.dataset import Batch, SampleStream, loader
from tests.model.engine.test_trainer import CASES, STREAM


class WithoutRoom(SampleStream):
    """A stream whose loaders may make no file of more than 4 KiB: shared memory is a file."""

    def __getitem__(self, index: int) -> Batch:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        return super().__getitem__(index)


def test_a_batch_that_finds_no_shared_memory_is_an_error_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"found no room in /dev/shm .*--shm-size.*MEDSEG_LOADERS"):
        list(loader(WithoutRoom(CASES, STREAM), range(4), 1))
    assert time.monotonic() - start < 60  # a start of a process; it was half an hour


def test_what_all_loaders_keep_ready_must_fit(tmp_path: Path) -> None:
    shared_memory.require(1 << 20, loaders=2, ranks=2, place=tmp_path)
    shared_memory.require(1 << 60, loaders=0, ranks=2, place=tmp_path)
    with pytest.raises(ValueError, match=r"2 ranks with 3 loaders of 4 batches of 1,099,511,627,776.0 MiB .*MEDSEG_LO"):
        shared_memory.require(1 << 60, loaders=3, ranks=2, place=tmp_path)


def test_what_loaders_take_of_a_machine_is_counted() -> None:
    """8 ranks with 8 loaders, and batches of 40 MiB: of each loader four wait, and a rank trains with one."""
    found = shared_memory.loader_memory(40 << 20, loaders=8, ranks=8)
    assert found.shared_bytes == 8 * (8 * 4 + 1) * 40 << 20
    assert found.pinned_bytes == 8 * (8 * 4 + 1) * 64 << 20  # rounded up to a power of two
    none = shared_memory.loader_memory(40 << 20, loaders=0, ranks=8)
    assert (none.shared_bytes, none.pinned_bytes) == (0, 8 * 64 << 20)


def descriptors(process: str) -> set[tuple[str, str]]:
    """Number and file of each that a process has open."""
    found = set()
    for each in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # of listing them
            found.add((each.name, str(each.readlink())))
    return found


def test_a_rank_and_its_loaders_open_no_more_than_is_counted(tmp_path: Path) -> None:
    for number in range(MAPPED + 20):
        casefile.write(tmp_path / f"{number}.safetensors", CASES[0])
    stream = SampleStream(casefile.open_cases(tmp_path, "train"), STREAM)
    before = descriptors("self")  # of other tests: forked loaders have them as well, until they close them
    batches = loader(stream, range(2 * (MAPPED + 20)), 2)
    held = [next(batches) for _ in range(2 * MAPPED)][-1]
    processes = ["self", *(str(child.pid) for child in multiprocessing.active_children())]
    opened = sum(len(descriptors(process) - before) for process in processes)
    assert held.cases
    assert len(processes) == 3
    assert 2 * MAPPED < opened <= shared_memory.loader_memory(1, loaders=2, ranks=1).descriptors


def test_a_batch_is_as_large_as_it_is_said_to_be() -> None:
    stream = SampleStream(CASES, STREAM)
    made = max(shared_memory.size_of(stream[index]) for index in range(20))
    assert made <= stream.batch_bytes() <= 1.1 * made
