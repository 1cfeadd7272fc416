"""Which machines a run is spread over: from our own variables, from Slurm's, and what is refused."""

import os
import re

import pytest

from pipelines.params import profiles
from pipelines.training.launcher import rank_count
from pipelines.training.nodes import Nodes, first_host, here

OURS = {"MEDSEG_NODES": "4", "MEDSEG_NODE_RANK": "2", "MEDSEG_RENDEZVOUS": "gpu-01:29500"}
SLURMS = {"SLURM_NNODES": "4", "SLURM_NODEID": "2", "SLURM_JOB_NODELIST": "gpu[07-09,12]", "SLURM_JOB_ID": "12345"}


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("MEDSEG_", "SLURM_"))]:
        monkeypatch.delenv(name)


def said(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Nodes:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return here()


def test_our_own_variables_count_before_slurms_and_one_machine_is_what_nothing_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert here() == Nodes(1, 0, "")
    assert said(monkeypatch, **SLURMS) == Nodes(4, 2, "gpu07:22345")
    assert said(monkeypatch, MEDSEG_RENDEZVOUS="10.0.0.1:29500") == Nodes(4, 2, "10.0.0.1:29500")
    assert said(monkeypatch, **{**OURS, "MEDSEG_NODES": "3"}) == Nodes(3, 2, "gpu-01:29500")
    assert said(monkeypatch, MEDSEG_NODES="1", MEDSEG_NODE_RANK="0") == Nodes(1, 0, "")


def test_the_numbers_of_a_step_count_before_those_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    step = {"SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "gpu[09,12]"}
    assert said(monkeypatch, **{**SLURMS, **step, "SLURM_NODEID": "1"}) == Nodes(2, 1, "gpu09:22345")


def test_an_allocation_seen_from_its_front_end_is_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, SLURM_NNODES="4", SLURM_JOB_NODELIST="gpu[07-10]") == Nodes(1, 0, "")


@pytest.mark.parametrize(
    ("nodelist", "first"),
    [
        ("login", "login"),
        ("gpu[07-09,12],login", "gpu07"),
        ("a,b[1-2]", "a"),
        ("rack[03,05]-node[1-4]", "rack03-node1"),
        ("gpu[001].cluster.example,x", "gpu001.cluster.example"),
    ],
)
def test_the_first_of_slurms_machines(nodelist: str, first: str) -> None:
    assert first_host(nodelist) == first


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"MEDSEG_NODE_RANK": "4"}, "MEDSEG_NODE_RANK = 4 must be below MEDSEG_NODES = 4; machines count from 0"),
        ({"MEDSEG_NODES": ""}, "MEDSEG_NODE_RANK = 2 must be below MEDSEG_NODES = 1"),
        ({"MEDSEG_NODE_RANK": ""}, "MEDSEG_NODES = 4: MEDSEG_NODE_RANK is not set; give each machine its own"),
        ({"MEDSEG_RENDEZVOUS": ""}, "MEDSEG_NODES = 4: MEDSEG_RENDEZVOUS is not set; name a free port of machine 0"),
        ({"MEDSEG_RENDEZVOUS": "gpu-01"}, "MEDSEG_RENDEZVOUS = 'gpu-01': String should match"),
        ({"MEDSEG_NODES": "two"}, "MEDSEG_NODES = 'two': must be a valid integer"),
        ({"MEDSEG_NODES": "", "SLURM_NNODES": "some"}, "SLURM_NNODES = 'some': Input should be a valid integer"),
        (
            {"MEDSEG_NODES": "", **SLURMS, "SLURM_STEP_NUM_TASKS": "32"},
            "srun started 32 processes on 4 machines, and one a machine starts all its ranks: `srun --ntasks-per-node",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(told)):
        said(monkeypatch, **{**OURS, **changes})


def test_the_ranks_of_all_machines_share_the_batch_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = profiles.settings("smoke").train.model_copy(update={"global_batch": 4, "micro_batch": 1})
    assert rank_count(recipe, machines=4) == 1
    monkeypatch.setenv("MEDSEG_RANKS", "2")
    assert rank_count(recipe, machines=2) == 2
    share = re.escape("must divide train.global_batch / train.micro_batch = 4")
    with pytest.raises(ValueError, match=f"MEDSEG_RANKS = 2 on each of 4 machines {share}"):
        rank_count(recipe, machines=4)
    monkeypatch.delenv("MEDSEG_RANKS")
    with pytest.raises(ValueError, match=f"MEDSEG_NODES = 3 {share}"):
        rank_count(recipe, machines=3)
