"""A Dask cluster as the place where cases are made: `preprocess.executor: dask`.

$MEDSEG_DASK is the scheduler's address (`tcp://host:8786`); without it a cluster of processes on this machine is
started for the time of the stage. Every worker must see the project under the same path and have its environment. A
machine's slots are the threads of its workers, its budget `preprocess.memory_gib`; start workers with one thread each
(`dask worker tcp://host:8786 --nworkers 16 --nthreads 1`), so that cases do not share one interpreter.
"""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dask
from distributed import Client, KilledWorker, LocalCluster

from pipelines.work import environment, project
from pipelines.work.cores import workers
from pipelines.work.within_memory import Machine

CONNECT_S = 60


class DaskExecutor:
    """Jobs go to the machine that the schedule chose; which of its workers takes one, Dask decides."""

    shares_death = False

    def __init__(self, memory_bytes: int) -> None:
        address = environment.read().dask
        self.cluster = None if address else _local_cluster()
        try:
            self.client = Client(address or self.cluster, timeout=CONNECT_S, set_as_default=False)
        except OSError as error:
            raise ValueError(f"MEDSEG_DASK {address}: no scheduler answers ({error}); start one or unset it") from None
        self.client.wait_for_workers(1, timeout=CONNECT_S)
        slots: dict[str, int] = {}
        for worker in self.client.scheduler_info(n_workers=-1)["workers"].values():
            slots[worker["host"]] = slots.get(worker["host"], 0) + worker["nthreads"]
        self.machines = [Machine(host, slots[host], memory_bytes) for host in sorted(slots)]

    def submit(self, machine: Machine, work: Callable[..., Any], items: Sequence[Any]) -> Any:
        # by host: a worker that was started again has another port
        return self.client.submit(_each_in, str(project.root()), work, items, workers=[machine.name], pure=False)

    def is_death(self, error: BaseException) -> bool:
        return isinstance(error, KilledWorker)

    def repair(self) -> None:
        """Nothing to do: Dask starts a dead worker again itself."""

    def close(self) -> None:
        self.client.close()
        if self.cluster is not None:
            self.cluster.close()


def _local_cluster() -> LocalCluster:
    """One process a core; memory, and who goes on after a death, is the schedule's business and not Dask's."""
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        return LocalCluster(
            n_workers=workers(), threads_per_worker=1, memory_limit=None, dashboard_address=None, host="127.0.0.1"
        )


def _each_in(root: str, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """`work` of every item, in the project's folder: paths are relative to it."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # of a task that failed it would log the file names
    if Path.cwd() != Path(root):
        os.chdir(root)
    return [work(item) for item in items]
