"""The machines that a run is spread over: how many, which this one is, and where they meet.

    here() -> Nodes(count=4, rank=2, rendezvous="gpu-01:29500")

MEDSEG_NODES, MEDSEG_NODE_RANK and MEDSEG_RENDEZVOUS say so; each that is unset is taken from Slurm, if `srun` started
this process (once on each machine); without either, a run is of one machine.
"""

import re
from dataclasses import dataclass

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipelines.work import environment

FIRST_PORT, PORTS = 20_000, 10_000  # of Slurm's jobs, by their number: below what systems give out by themselves


@dataclass(frozen=True)
class Nodes:
    """`rendezvous`: host:port of node 0; empty for a single one."""

    count: int = 1
    rank: int = 0
    rendezvous: str = ""

    @property
    def host(self) -> str:
        return self.rendezvous.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.rendezvous.rpartition(":")[2])


class Slurm(BaseSettings):
    """What it tells every process; the numbers of a step's are srun's alone."""

    model_config = SettingsConfigDict(env_prefix="SLURM_", env_ignore_empty=True, frozen=True, extra="ignore")

    nnodes: int = 1
    step_num_nodes: int | None = None
    step_num_tasks: int | None = None
    nodeid: int | None = None
    job_nodelist: str = ""
    step_nodelist: str = ""
    job_id: int = 0


def here() -> Nodes:
    """As the environment has it now. Raises ValueError naming what is missing or out of bounds."""
    own, slurm = environment.read(), _slurm()
    count = own.nodes or slurm.step_num_nodes or slurm.nnodes
    if slurm.nodeid is None and own.nodes is None:
        count = 1  # within an allocation, but started on this machine alone
    if count == 1 and not own.node_rank:
        return Nodes()
    if own.nodes is None and (slurm.step_num_tasks or count) != count:
        raise ValueError(
            f"srun started {slurm.step_num_tasks} processes on {count} machines, and one a machine starts all its "
            "ranks: `srun --ntasks-per-node 1`, or MEDSEG_NODES=1 to train on this machine alone"
        )
    rank = own.node_rank if own.node_rank is not None else slurm.nodeid
    if rank is None:
        raise ValueError(f"MEDSEG_NODES = {count}: MEDSEG_NODE_RANK is not set; give each machine its own, from 0 up")
    if rank >= count:
        raise ValueError(f"MEDSEG_NODE_RANK = {rank} must be below MEDSEG_NODES = {count}; machines count from 0")
    nodelist = slurm.step_nodelist or slurm.job_nodelist
    rendezvous = own.rendezvous or (f"{first_host(nodelist)}:{FIRST_PORT + slurm.job_id % PORTS}" if nodelist else "")
    if not rendezvous:
        raise ValueError(
            f"MEDSEG_NODES = {count}: MEDSEG_RENDEZVOUS is not set; name a free port of machine 0, the same "
            "everywhere: MEDSEG_RENDEZVOUS=host:29500"
        )
    return Nodes(count, rank, rendezvous)


def first_host(nodelist: str) -> str:
    """Of Slurm's list: gpu[07-09,12],login is gpu07 and others."""
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", nodelist)
    assert first is not None
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[0])


def _slurm() -> Slurm:
    try:
        return Slurm()
    except ValidationError as error:
        detail = error.errors()[0]
        name = f"SLURM_{str(detail['loc'][0]).upper()}"
        raise ValueError(f"{name} = {detail['input']!r}: {detail['msg']}; MEDSEG_NODES=1 passes Slurm by") from None
