"""Too little shared memory is told before the first step, or at the batch that finds none; nobody waits for it."""

import resource
import time
from pathlib import Path

import pytest

from model.data import shared_memory
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


def test_a_batch_is_as_large_as_it_is_said_to_be() -> None:
    stream = SampleStream(CASES, STREAM)
    made = max(shared_memory.size_of(stream[index]) for index in range(20))
    assert made <= stream.batch_bytes() <= 1.1 * made
