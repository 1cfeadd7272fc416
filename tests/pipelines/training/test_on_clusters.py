"""The train stage as a job of a real Slurm cluster of two nodes, and as the pods that a manifest asks for, run here as
processes: whatever happens to job, node or orchestrator, lock and weights are those of an undisturbed local run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.states import Cancelling

from tests.flows.conftest import Project, start_ui
from tests.pipelines.training import slurm_cluster
from tests.pipelines.training.slurm_cluster import SlurmCluster
from tests.pipelines.training.train_stage import HOLD, last_step, told, training, wait_for_step, weights
from tests.test_pipeline import BIN, call, copy_project, set_params

STEPS, HELD_AT = 12, 4
pytestmark = pytest.mark.cluster
on_slurm = pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing() or "Slurm is here")
slow = pytest.mark.slow  # what is not slow is part of `make test`, where Slurm is


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
    with (project / "model/engine/watch.py").open("a") as file:
        file.write(HOLD)
    call(project, sys.executable, "-m", "dvc", "repro", "pretrain")
    shutil.copy(project / "dvc.lock", project / "before.lock")
    return project


@pytest.fixture(scope="module")
def local(project: Path) -> tuple[bytes, bytes]:
    """dvc.lock and weights of two ranks on this machine."""
    return repro(project, MEDSEG_RANKS="2"), weights(project)


@pytest.fixture(autouse=True)
def forgotten(project: Path, local: tuple[bytes, bytes]) -> None:
    """What the run before has left, and what DVC knows of it; the next one waits at a step until it may go on."""
    for name in (".medseg/checkpoints", ".medseg/finished", ".medseg/jobs", "models/train", ".dvc/cache/runs"):
        shutil.rmtree(project / name, ignore_errors=True)
    shutil.copy(project / "before.lock", project / "dvc.lock")
    (project / "hold").write_text(str(HELD_AT))


def repro(project: Path, **variables: str) -> bytes:
    """Train as DVC's stage; dvc.lock then."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        call(project, sys.executable, "-m", "dvc", "repro", "--single-item", "train")
    return (project / "dvc.lock").read_bytes()


def on_two_nodes(cluster: SlurmCluster) -> dict[str, str]:
    port = slurm_cluster.free_ports(1)[0]
    return {
        **cluster.environment, "PATH": f"{BIN}{os.pathsep}{cluster.environment['PATH']}", "MEDSEG_LAUNCHER": "slurm",
        "MEDSEG_NODES": "2", "MEDSEG_RANKS": "1", "MEDSEG_RENDEZVOUS": f"127.0.0.1:{port}", "MEDSEG_CHECKPOINT_S": "0",
        "MEDSEG_GRACE_S": "30",
    }  # fmt: skip


@contextmanager
def ordered(project: Path, cluster: SlurmCluster) -> Iterator[subprocess.Popen[str]]:
    """`medseg run`, its output to run.log."""
    with (project / "run.log").open("w") as log:
        process = subprocess.Popen(
            [str(BIN / "medseg"), "run"], cwd=project, stdout=log, stderr=log, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(project), **on_two_nodes(cluster)},
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=60)


def at_the_held_step(project: Path) -> float:
    """Waits for it. What a resumed step may take after the nodes are back: a minute; or, where ranks start as slowly as
    they just did, since the machine is busy with other things, half a minute more than that."""
    until(lambda: "is RUNNING" in told(project), 120, "the job runs")
    started_s = until(lambda: last_step(project) > 0, 300, "a first step")
    wait_for_step(project, HELD_AT - 1)
    return max(60.0, started_s + 30)


def until(fact: Callable[[], bool], timeout_s: float, what: str) -> float:
    began = time.monotonic()
    while not fact():
        assert time.monotonic() - began < timeout_s, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - began


def go_on(project: Path) -> None:
    (project / "hold").unlink()


@on_slurm
def test_the_lock_is_that_of_this_machine(cluster: SlurmCluster, project: Path, local: tuple[bytes, bytes]) -> None:
    go_on(project)
    assert repro(project, **on_two_nodes(cluster)) == local[0]
    assert weights(project) == local[1]
    assert not cluster.jobs()
    assert not list((project / ".medseg/finished").iterdir())


@slow
def test_the_lock_is_that_of_pods(project: Path, local: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """They train while no orchestrator watches; DVC's stage takes what they leave."""
    go_on(project)
    for name, value in (("NODES", "2"), ("RANKS", "1"), ("IMAGE", "none"), ("CHECKPOINT_S", "0")):
        monkeypatch.setenv(f"MEDSEG_{name}", value)
    manifests = list(yaml.safe_load_all(call(project, "medseg", "launch", "render", "--to", "indexed-job").stdout))
    for name in ("NODES", "RANKS", "IMAGE"):
        monkeypatch.delenv(f"MEDSEG_{name}")
    spec = next(each["spec"] for each in manifests if each["kind"] == "Job")
    (port,) = slurm_cluster.free_ports(1)
    with ExitStack() as stack:
        pods = [stack.enter_context(pod(project, spec, index, port)) for index in range(spec["completions"])]
        assert [each.wait(timeout=300) for each in pods] == [0, 0], told(project, "pod-0")
    assert repro(project, MEDSEG_RANKS="2") == local[0]
    assert weights(project) == local[1]


@contextmanager
def pod(project: Path, spec: dict[str, Any], index: int, port: int) -> Iterator[subprocess.Popen[str]]:
    """The container of an Indexed Job's pod as a process, where the volume is the project and each host this one."""
    container = spec["template"]["spec"]["containers"][0]
    variables = {each["name"]: each.get("value", str(index)) for each in container["env"]}
    variables["MEDSEG_ROOT"] = str(project)
    variables["MEDSEG_RENDEZVOUS"] = f"127.0.0.1:{port}"
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    with (project / f"pod-{index}.log").open("w") as log:
        process = subprocess.Popen(
            container["command"], cwd=project, stdout=log, stderr=log, text=True,
            env={"PATH": path, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1", **variables},
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@on_slurm
@slow
def test_a_preempted_job_is_queued_again_and_goes_on_exactly(
    cluster: SlurmCluster, project: Path, local: tuple[bytes, bytes]
) -> None:
    with training(project, **on_two_nodes(cluster)) as process:
        allowed_s = at_the_held_step(project)
        cluster.call("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
        until(lambda: "PENDING (BeginTime)" in told(project), 60, "it had to go")
        reached = last_step(project)
        go_on(project)
        until(lambda: len(cluster.jobs()) == 1, 60, "the nodes are back")
        waited_s = until(lambda: last_step(project) > reached, 120, "a further step")
        assert process.wait(timeout=300) == 0, told(project)
    print(f"from nodes back to a resumed step: {waited_s:.0f} s of {allowed_s:.0f}")
    assert "is queued again (1 of 10)" in told(project)
    assert "resuming from checkpoint" in told(project)
    assert weights(project) == local[1]
    assert waited_s <= allowed_s


@on_slurm
@slow
def test_a_job_whose_node_is_killed_goes_on_when_it_is_back(
    cluster: SlurmCluster, project: Path, local: tuple[bytes, bytes]
) -> None:
    with training(project, **on_two_nodes(cluster)) as process:
        allowed_s = at_the_held_step(project)
        reached = last_step(project)
        cluster.lose_node("n2")
        go_on(project)
        until(lambda: "is PENDING (" in told(project).partition("is RUNNING")[2], 120, "Slurm noticed")
        cluster.start_node("n2")
        waited_s = until(lambda: last_step(project) > reached, 180, "a further step")
        assert process.wait(timeout=300) == 0, told(project)
    print(f"from node back to a resumed step: {waited_s:.0f} s of {allowed_s:.0f}")
    assert weights(project) == local[1]
    assert waited_s <= allowed_s


@on_slurm
@pytest.mark.parametrize(("signum", "code"), [pytest.param(signal.SIGINT, 130, marks=slow), (signal.SIGTERM, 143)])
def test_an_interrupted_stage_cancels_its_job(
    signum: signal.Signals, code: int, cluster: SlurmCluster, project: Path
) -> None:
    with training(project, **on_two_nodes(cluster)) as process:
        wait_for_step(project, HELD_AT - 1)
        process.send_signal(signum)
        assert process.wait(timeout=30) == code, told(project)
    assert "is cancelled" in told(project)
    until(lambda: not cluster.jobs(), 30, "the job is gone")


@on_slurm
@slow
def test_a_job_that_outlives_its_orchestrator_is_found_again_and_a_cancelled_run_cancels_it(
    cluster: SlurmCluster, project: Path, local: tuple[bytes, bytes]
) -> None:
    with ordered(project, cluster) as run:
        until(lambda: last_step(project) >= HELD_AT - 1, 900, "a step")
        run.kill()
        run.wait()
    job = cluster.jobs()
    with ordered(project, cluster) as run:
        number = job[0].split()[0]
        until(lambda: f"Slurm has job {number} of this run already" in told(project, "run"), 400, "found")
        assert cluster.jobs() == job
        run.terminate()
        assert run.wait(timeout=60) == 128 + signal.SIGTERM
    until(lambda: not cluster.jobs(), 30, "the job is gone")


@on_slurm
@slow
def test_a_run_that_is_cancelled_on_prefects_page_cancels_its_job(
    cluster: SlurmCluster, project: Path, local: tuple[bytes, bytes]
) -> None:
    """With `medseg ui`: a server, and a worker that takes the run of a deployment."""
    site = Project(project, {**on_two_nodes(cluster), "PYTHONPATH": str(project)})
    with ExitStack() as stack:
        ui = start_ui(site)
        stack.callback(ui.wait, timeout=60)
        stack.callback(ui.terminate)
        client = stack.enter_context(contextmanager(site.prefect)())
        run = client.create_flow_run_from_deployment(client.read_deployment_by_name("training/on-demand").id)
        until(lambda: last_step(project) >= HELD_AT - 1, 900, "a step")
        assert len(cluster.jobs()) == 1
        client.set_flow_run_state(run.id, Cancelling())
        gone_s = until(lambda: not cluster.jobs(), 60, "the job is gone")
        until(lambda: client.read_flow_run(run.id).state.is_cancelled(), 60, "the run is cancelled")
    print(f"from the cancelled run to the cancelled job: {gone_s:.0f} s")


@on_slurm
@slow
def test_a_job_that_ends_while_nobody_watches_is_not_trained_again(
    cluster: SlurmCluster, project: Path, local: tuple[bytes, bytes]
) -> None:
    """Although DVC removes what it left among the stage's outputs before it starts the stage."""
    with training(project, **on_two_nodes(cluster)) as process:
        wait_for_step(project, HELD_AT - 1)
        process.kill()
        process.wait()
    go_on(project)
    until(lambda: not cluster.jobs(), 300, "the job has ended")
    made = cluster.call("squeue", "--noheader", "--states", "all", "--format", "%i")
    assert repro(project, **on_two_nodes(cluster)) == local[0]
    assert weights(project) == local[1]
    assert cluster.call("squeue", "--noheader", "--states", "all", "--format", "%i") == made
