"""The train stage as a job of a real Slurm cluster of two nodes: whatever happens to job, node or orchestrator, the
weights are those of an undisturbed run on this machine."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipelines.training import slurm_cluster
from tests.pipelines.training.slurm_cluster import SlurmCluster
from tests.pipelines.training.train_stage import told, training, wait_for_step, weights
from tests.test_pipeline import BIN, call, copy_project, set_params

STEPS = 60
pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing() or "there"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A requeued job is held back as long as Slurm does unless told otherwise."""
    with slurm_cluster.started(tmp_path_factory.mktemp("slurm") / "cluster", held_back_s=120) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages before training are done."""
    project = copy_project(tmp_path_factory.mktemp("on-slurm") / "project")
    set_params(project, **{"pretrain.steps": 0, "train.steps": STEPS, "train.validate_every": 1000})
    call(project, sys.executable, "-m", "dvc", "repro", "pretrain")
    return project


@pytest.fixture(scope="module")
def local(project: Path) -> tuple[bytes, bytes]:
    """dvc.lock and weights of two ranks on this machine."""
    return repro(project, MEDSEG_RANKS="2"), weights(project)


@pytest.fixture(autouse=True)
def forgotten(project: Path) -> None:
    """What the run before has left."""
    for name in (".medseg/checkpoints", ".medseg/finished", "models/train"):
        shutil.rmtree(project / name, ignore_errors=True)


def repro(project: Path, **variables: str) -> bytes:
    """Train anew as DVC's stage, whatever its caches know; dvc.lock then."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        call(project, sys.executable, "-m", "dvc", "repro", "--single-item", "--force", "--no-run-cache", "train")
    return (project / "dvc.lock").read_bytes()


def on_two_nodes(cluster: SlurmCluster) -> dict[str, str]:
    port = slurm_cluster.free_ports(1)[0]
    return {
        **cluster.environment, "PATH": f"{BIN}{os.pathsep}{cluster.environment['PATH']}", "MEDSEG_LAUNCHER": "slurm",
        "MEDSEG_NODES": "2", "MEDSEG_RANKS": "1", "MEDSEG_RENDEZVOUS": f"127.0.0.1:{port}", "MEDSEG_CHECKPOINT_S": "0",
        "MEDSEG_GRACE_S": "30",
    }  # fmt: skip


def test_the_lock_is_that_of_this_machine(cluster: SlurmCluster, project: Path, local: tuple[bytes, bytes]) -> None:
    assert repro(project, **on_two_nodes(cluster)) == local[0]
    assert weights(project) == local[1]
    assert not cluster.jobs()


def test_a_preempted_job_is_queued_again_and_goes_on_exactly(
    cluster: SlurmCluster, project: Path, local: tuple[bytes, bytes]
) -> None:
    with training(project, **on_two_nodes(cluster)) as process:
        wait_for_step(project, 5)
        cluster.call(
            "sbatch",
            "--wait",
            "--partition",
            "urgent",
            "--nodes",
            "2",
            "--exclusive",
            "--output",
            "/dev/null",
            "--wrap",
            "true",
        )
        back = time.monotonic()
        reached = last_step(project)
        assert 5 <= reached < STEPS
        wait_for_step(project, reached + 1)
        waited_s = time.monotonic() - back
        assert process.wait(timeout=300) == 0, told(project)
    assert "is queued again (1 of 10)" in told(project)
    assert f"resuming from checkpoint" in told(project)
    assert weights(project) == local[1]
    print(f"nodes back to resumed step: {waited_s:.0f} s")
    assert waited_s <= 60


def last_step(project: Path) -> int:
    return max(int(path.name[5:]) for path in project.glob(".medseg/checkpoints/*/step-*"))
