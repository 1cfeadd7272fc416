"""The train stage as a user starts it, in a small project that is ready to train."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests import in_process
from tests.test_pipeline import copy_project, set_params

# In the copy's watch.py, of which no result depends: a rank that finds the file hang-RANK takes it and hangs, once.
HANG = """

def _hang_if_asked(watch, _beat=Watch.beat):
    import time

    _beat(watch)
    asked = Path(f"hang-{watch.rank}")
    if asked.exists():
        asked.unlink()
        time.sleep(1e6)


Watch.beat = _hang_if_asked
"""

# Likewise: while the file `hold` is there, with a number, ranks wait after so many beats, unless asked to stop.
HOLD = """

def _hold_if_asked(watch, _beat=Watch.beat):
    import time

    _beat(watch)
    watch.beats = getattr(watch, "beats", 0) + 1
    asked = Path("hold")
    while not watch.stop and asked.exists() and watch.beats > int(asked.read_text() or 0):
        time.sleep(0.05)


Watch.beat = _hold_if_asked
"""


def prepare(folder: Path, steps: int) -> Path:
    """A copy of the project, its phantoms preprocessed, whose ranks hang when `hang` says so."""
    project = copy_project(folder)
    set_params(project, **{"pretrain.steps": 0, "train.steps": steps, "train.validate_every": 1000})
    with in_process.inside(project):  # of this process's code, which is the project's still
        for stage in ("inventory", "deidentify", "ingest", "plan", "preprocess"):
            importlib.import_module(f"pipelines.stages.{stage}").main()
    with (project / "model/engine/watch.py").open("a") as file:
        file.write(HANG)
    return project


def hang(project: Path, *ranks: int) -> None:
    """At their next step."""
    for rank in ranks:
        (project / f"hang-{rank}").touch()


@contextmanager
def training(project: Path, name: str = "train", **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The train stage on two ranks, a checkpoint after every step; what it says goes to NAME.log."""
    log = (project / f"{name}.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines", "train"],
        cwd=project, stdout=log, stderr=log, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(project), "MEDSEG_RANKS": "2", "MEDSEG_CHECKPOINT_S": "0", **environment},
    )  # fmt: skip
    try:
        yield process
    finally:
        log.close()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for_step(project: Path, step: int) -> None:
    deadline = time.monotonic() + 300
    while last_step(project) < step:
        assert time.monotonic() < deadline, told(project)
        time.sleep(0.02)


def last_step(project: Path) -> int:
    """Of the checkpoints that are there; 0 without one."""
    while True:
        with suppress(FileNotFoundError):  # folders come and go
            return max((int(path.name[5:]) for path in project.glob(".medseg/checkpoints/*/step-*")), default=0)


def rank_pids(agent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{agent}/task/{agent}/children").read_text().split()]


def told(project: Path, name: str = "train") -> str:
    return (project / f"{name}.log").read_text()


def weights(project: Path) -> bytes:
    return (project / "models/train/model.safetensors").read_bytes()
