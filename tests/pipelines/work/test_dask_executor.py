"""A real Dask cluster: a scheduler and two worker processes, met by the address in the environment."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pipelines.stages import preprocess
from pipelines.work import project, within_memory
from pipelines.work.dask_executor import DaskExecutor, _local_cluster
from pipelines.work.within_memory import Load, Lost
from tests.pipelines.stages.test_preprocess import content, ingested, state
from tests.pipelines.work.test_within_memory import die_on


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MEDSEG_WORKERS", "2")
        cluster = _local_cluster()
    with cluster:
        yield cluster.scheduler_address


def test_a_cluster_makes_the_same_cases(cohort: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ingested()
    preprocess.main()
    expected = content()
    shutil.rmtree(project.CASES)
    monkeypatch.setenv("MEDSEG_DASK", address)
    state(**{"preprocess.executor": "dask"})
    preprocess.main()
    assert content() == expected


def test_a_case_that_kills_its_worker_is_named_and_the_others_are_made(
    cohort: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDSEG_DASK", address)
    loads = [Load(number, 1, 1.0) for number in range(6)]
    found = dict(within_memory.each(partial(die_on, victims=(2,)), loads, DaskExecutor(100), "test"))
    assert [number for number, outcome in found.items() if isinstance(outcome, Lost)] == [2]
    assert len(found) == 6


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_DASK", "tcp://127.0.0.1:9")
    monkeypatch.setattr("pipelines.work.dask_executor.CONNECT_S", 1)
    with pytest.raises(ValueError, match=r"MEDSEG_DASK tcp://127\.0\.0\.1:9: no scheduler answers"):
        DaskExecutor(100)
