"""`medseg run` killed in every real stage: no process, no half-written output, no lock; and the same result later."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pipelines.__main__ import STAGES
from tests.test_pipeline import BIN, call, copy_project

pytestmark = pytest.mark.slow


def environment(project: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_TRACKING", "PREFECT_API"))}
    return {**kept, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(project)}


def alive(project: Path) -> list[str]:
    """Command lines of the processes that work in this project."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "cwd").readlink().is_relative_to(project):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # gone meanwhile
            continue
    return found


def kill_in(project: Path, stage: str, signum: signal.Signals) -> None:
    log = project.parent / f"{stage}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [BIN / "medseg", "run"], cwd=project, env=environment(project), stdout=file, stderr=file
        )
    deadline = time.monotonic() + 180
    while f"Running stage '{stage}'" not in log.read_text():
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.05)
    process.send_signal(signum)
    process.wait(timeout=30)
    deadline = time.monotonic() + 10
    while left := alive(project):
        assert time.monotonic() < deadline, f"{stage}: {left}"
        time.sleep(0.1)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_killed_in_every_stage_a_run_ends_as_if_undisturbed(tmp_path: Path, signum: signal.Signals) -> None:
    project = copy_project(tmp_path / "killed" / "project")
    for stage in STAGES:
        kill_in(project, stage, signum)
    call(project, "medseg", "run")
    assert not [path for folder in ("data", "models", "reports") for path in (project / folder).rglob(".*partial*")]
    undisturbed = copy_project(tmp_path / "undisturbed" / "project")
    call(undisturbed, "dvc", "repro")
    assert (project / "dvc.lock").read_text() == (undisturbed / "dvc.lock").read_text()
