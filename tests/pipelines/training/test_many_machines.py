"""Two launchers with two ranks each, on one machine: the run of one launcher with four, whatever is lost on the way."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.engine.watch import PREEMPTED
from tests.pipelines.training.train_stage import prepare, rank_pids, told, training, wait_for_step
from tests.test_pipeline import set_params

Launchers = list[subprocess.Popen[str]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sharded: under DDP four ranks that resume were seen to round otherwise (docs/training.md)."""
    project = prepare(tmp_path_factory.mktemp("machines") / "project", steps=12)
    set_params(project, **{"train.global_batch": 4, "train.micro_batch": 1, "train.strategy": "fsdp"})
    return project


@pytest.fixture(scope="module")
def on_one(project: Path) -> dict[str, torch.Tensor]:
    with training(project, MEDSEG_RANKS="4") as process:
        assert process.wait(timeout=300) == 0, told(project)
    return load_file(project / "models/train/model.safetensors")


@contextmanager
def machines(project: Path) -> Iterator[Launchers]:
    """Their launchers, which may be replaced in the list."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ["MEDSEG_RENDEZVOUS"] = f"127.0.0.1:{port}"
    with ExitStack() as stack:
        stack.callback(os.environ.pop, "MEDSEG_RENDEZVOUS")
        yield [stack.enter_context(machine(project, rank)) for rank in (0, 1)]


def machine(project: Path, rank: int, name: str | None = None) -> AbstractContextManager[subprocess.Popen[str]]:
    return training(project, name or f"machine-{rank}", MEDSEG_NODES="2", MEDSEG_NODE_RANK=str(rank))


def ended(project: Path, *launchers: subprocess.Popen[str]) -> list[int]:
    try:
        return [launcher.wait(timeout=300) for launcher in launchers]
    except subprocess.TimeoutExpired:
        pytest.fail("\n".join(path.read_text() for path in project.glob("machine-*.log")))


def lose(launcher: subprocess.Popen[str]) -> None:
    """A machine: launcher and ranks at once."""
    for pid in (launcher.pid, *rank_pids(launcher.pid)):
        os.kill(pid, signal.SIGKILL)
    launcher.wait()


def same(project: Path, expected: dict[str, torch.Tensor]) -> None:
    found = load_file(project / "models/train/model.safetensors")
    assert max(float((found[name] - tensor).abs().max()) for name, tensor in expected.items()) < 1e-5


@pytest.mark.slow
def test_two_machines_train_what_one_does_and_start_again_when_a_rank_or_a_launcher_is_killed(
    project: Path, on_one: dict[str, torch.Tensor]
) -> None:
    with machines(project) as (zero, one):
        wait_for_step(project, 3)
        os.kill(rank_pids(one.pid)[1], signal.SIGKILL)
        wait_until("again from the last checkpoint (1 of 3)", project, "machine-0")
        wait_for_step(project, 7)
        lose(one)
        with machine(project, 1, "machine-1-again") as again:
            assert ended(project, zero, again) == [0, 0]
    assert told(project, "machine-0").count("again from the last checkpoint") == 2
    assert not told(project, "machine-1-again").count("again from the last checkpoint")
    same(project, on_one)


@pytest.mark.slow
def test_the_first_machine_may_be_lost_and_a_stop_on_the_other_stops_both(
    project: Path, on_one: dict[str, torch.Tensor]
) -> None:
    with machines(project) as (zero, one):
        wait_for_step(project, 3)
        lose(zero)
        with machine(project, 0, "machine-0-again") as again:
            wait_for_step(project, 7)
            os.kill(one.pid, signal.SIGTERM)
            assert ended(project, again, one) == [PREEMPTED, PREEMPTED]
    with machines(project) as (zero, one):
        assert ended(project, zero, one) == [0, 0]
    same(project, on_one)


@pytest.mark.slow
def test_a_launcher_that_is_killed_alone_is_waited_for(project: Path, on_one: dict[str, torch.Tensor]) -> None:
    """Its ranks then are asked to stop and stop the others, which is no request of the batch system."""
    with machines(project) as (zero, one):
        wait_for_step(project, 3)
        one.kill()
        one.wait()
        with machine(project, 1, "machine-1-again") as again:
            assert ended(project, zero, again) == [0, 0]
    same(project, on_one)


def wait_until(words: str, project: Path, name: str) -> None:
    deadline = time.monotonic() + 120
    while words not in told(project, name):
        assert time.monotonic() < deadline, told(project, name)
        time.sleep(0.05)
