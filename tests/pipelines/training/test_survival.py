"""The train stage itself, its launcher and two ranks: one dies, one hangs, the batch system wants the nodes back."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from model.engine.watch import PREEMPTED
from tests.pipelines.training.train_stage import hang, prepare, rank_pids, told, training, wait_for_step, weights

# Of MLflow where ranks hang: its thread sleeps. Stacks that change while they are written may be cut off.
AWAY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("survival") / "project", steps=14)


@pytest.fixture(scope="module")
def undisturbed(project: Path) -> bytes:
    with training(project, MEDSEG_CHECKPOINT_S="3600") as process:  # a checkpoint changes nothing, and costs a step
        assert process.wait(timeout=300) == 0, told(project)
    assert not list((project / ".medseg/checkpoints").glob("*"))  # the run is over
    return weights(project)


def test_a_run_that_hangs_is_asked_to_stop_and_loses_a_rank_ends_with_the_weights_of_an_undisturbed_one(
    project: Path, undisturbed: bytes
) -> None:
    """Each time it goes on where it was."""
    let_a_rank_hang(project, after=2)
    let_all_ranks_hang(project, after=4)
    lose_a_rank(project, after=7)
    assert weights(project) == undisturbed


@pytest.mark.slow
def test_a_request_of_the_batch_system_is_answered_in_the_same_way(project: Path, undisturbed: bytes) -> None:
    with training(project) as process:
        wait_for_further_step(project, 6)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=60) == PREEMPTED, told(project)
    assert "stopped on request" in told(project)
    with training(project) as process:
        assert process.wait(timeout=120) == 0, told(project)
    assert weights(project) == undisturbed


def let_a_rank_hang(project: Path, after: int) -> None:
    """It ends, and every rank's stack is kept.

    A stopped process stands for a rank that hangs in the driver: it does nothing and says nothing, however long it is
    given to end.
    """
    variables = {"MEDSEG_HANG_S": "10", "MEDSEG_RESTARTS": "0", "MEDSEG_GRACE_S": "2"}
    with training(project, MLFLOW_TRACKING_URI=AWAY, **variables) as process:
        wait_for_step(project, after)
        os.kill(rank_pids(process.pid)[1], signal.SIGSTOP)
        assert process.wait(timeout=60) == 1, told(project)
    assert "no step for too long; every rank's stack lies in" in told(project)
    stacks = next(project.glob(".medseg/checkpoints/hung/*/stacks-rank-0.txt")).read_text()
    assert "all_reduce" in stacks or "accumulate" in stacks


def let_all_ranks_hang(project: Path, after: int) -> None:
    """It goes on by itself, and says where each rank's stack is kept. Then it is stopped: it saves its state and says
    by its exit code that it goes on later."""
    with training(project, MLFLOW_TRACKING_URI=AWAY, MEDSEG_HANG_S="15") as process:
        wait_for_step(project, after)
        hang(project, 1, 0)
        again = (
            r"every rank's stack lies in (.*): stacks-rank-0.txt, stacks-rank-1.txt; again from the last .* \(1 of 3\)"
        )
        while not (found := re.search(again, told(project))):
            assert process.poll() is None, told(project)
            time.sleep(0.1)
        wait_for_further_step(project, after + 1)
        os.kill(process.pid, signal.SIGUSR1)
        assert process.wait(timeout=120) == PREEMPTED, told(project)
    assert "stopped on request" in told(project)
    for rank in (0, 1):
        stacks = (Path(found[1]) / f"stacks-rank-{rank}.txt").read_text()
        assert "train_step" in stacks


def wait_for_further_step(project: Path, after: int) -> None:
    """At least `after`, and one that this start of the run made: it has begun."""
    made = [int(path.name[5:]) for path in project.glob(".medseg/checkpoints/*/step-*")]
    wait_for_step(project, max(after, 1 + max(made, default=0)))


def lose_a_rank(project: Path, after: int) -> None:
    """It resumes, and the rank is replaced."""
    with training(project) as process:
        wait_for_further_step(project, after)
        start = time.monotonic()
        os.kill(rank_pids(process.pid)[1], signal.SIGKILL)
        while "again from the last checkpoint (1 of 3)" not in told(project):
            assert time.monotonic() - start < 60, told(project)
            time.sleep(0.05)
        assert process.wait(timeout=120) == 0, told(project)
    assert "was ended by SIGKILL" in told(project) or "lost the others" in told(project)
    assert told(project).count("resuming from checkpoint") >= 2


@pytest.mark.slow
def test_a_profile_is_written_on_demand(project: Path) -> None:
    with training(project) as process:
        wait_for_step(project, 2)
        os.kill(process.pid, signal.SIGUSR2)
        deadline = time.monotonic() + 60
        while not (found := list(project.glob(".medseg/checkpoints/*/trace-step-*-rank-0.json"))):
            assert time.monotonic() < deadline, told(project)
            assert process.poll() is None, told(project)
            time.sleep(0.01)
        assert found
