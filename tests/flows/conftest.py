"""Toy projects with real DVC, Prefect and MLflow.

`fresh` has never run; `done` is a copy of one that has; `served` runs `medseg ui`: one real server and worker for all.
"""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from prefect.client.orchestration import SyncPrefectClient
from ruamel.yaml import YAML

from flows import schedule
from tests import in_process
from tests.flows.receiver import Receiver

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
MEDSEG = str(Path(sys.executable).with_name("medseg"))


@dataclass
class Project:
    """A toy project's folder, and the commands to use it. `environment` goes on top of ours."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def medseg(self, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        return self.call(MEDSEG, *arguments, timeout_s=timeout_s)

    def here(self, *arguments: str) -> Result:
        """As `medseg`, in this process."""
        return in_process.medseg(self.root, *arguments, COLUMNS="200", **self.environment)

    def call(self, *command: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            check=False,
            cwd=self.root,
            env=self._variables(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def start(self, *command: str, out: str = "out") -> "subprocess.Popen[str]":
        """In a session of its own, output to the file `out`."""
        with (self.root / out).open("w") as file:
            return subprocess.Popen(
                command,
                cwd=self.root,
                env=self._variables(),
                text=True,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def read(self, path: str) -> str:
        return (self.root / path).read_text()

    def write(self, path: str, text: str) -> None:
        (self.root / path).write_text(text)

    def replace(self, path: str, before: str, after: str) -> None:
        assert before in self.read(path)
        self.write(path, self.read(path).replace(before, after))

    def copy(self, root: Path, **environment: str) -> "Project":
        shutil.copytree(self.root, root, symlinks=True)
        return Project(root, {**self.environment, **environment})

    def processes(self) -> list[str]:
        """Command lines of living processes that work in this project."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "cwd").readlink() == self.root:
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return [line for line in found if line]

    def prefect(self) -> Iterator[SyncPrefectClient]:
        """A client of the server that `environment` names."""
        api, login = (self.environment[name] for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"))
        with SyncPrefectClient(api=api, auth_string=login) as client:
            yield client

    def _variables(self) -> dict[str, str]:
        ours = {
            name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "MLFLOW", "MEDSEG"))
        }
        path = os.pathsep.join([str(Path(MEDSEG).parent), os.environ.get("PATH", os.defpath)])
        return {**ours, "PATH": path, "COLUMNS": "200", **self.environment}


def eventually(fact: Callable[[], Any], timeout_s: float, what: str, every_s: float = 0.1) -> Any:
    """Wait until `fact()` is true, and return it; a server is asked less often than a file."""
    deadline = time.monotonic() + timeout_s
    while not (found := fact()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(every_s)
    return found


def toy_profile() -> str:
    """The smoke profile, with figures that tests rely on."""
    yaml, text = YAML(), io.StringIO()
    parameters = yaml.load(REPOSITORY / "profiles" / "smoke.yaml")
    parameters["train"].update(learning_rate=0.003, final_learning_rate=0.0)
    parameters.update(evaluate={"overlap": 0.5})
    yaml.dump(parameters, text)
    return text.getvalue()


@pytest.fixture(scope="package")
def fresh_template(tmp_path_factory: pytest.TempPathFactory, prefects_tables: Path) -> Project:
    project = make_toy(tmp_path_factory.mktemp("toy") / "project")
    with_prefects_tables(project.root, prefects_tables)
    return project


def with_prefects_tables(root: Path, made: Path) -> None:
    folder = root / ".medseg/prefect"
    folder.mkdir(parents=True)
    shutil.copy(made, folder)


def make_toy(root: Path) -> Project:
    """With DVC, git and an MLflow database, and never run."""
    project = Project(root)
    project.root.mkdir()
    (project.root / "data/raw").mkdir(parents=True)
    project.write("data/raw/a", "1")
    project.write(".gitignore", "/.medseg/\n/data/\n/models/\n/reports/\n")
    for source in (HERE / "toy.py", HERE / "dvc.yaml"):
        shutil.copy(source, project.root)
    (project.root / "profiles").mkdir()
    shutil.copy(REPOSITORY / "profiles/base.yaml", project.root / "profiles")
    project.write("profiles/smoke.yaml", toy_profile())
    assert project.medseg("profile", "use", "smoke").returncode == 0
    git = ("git", "-c", "user.name=Toy", "-c", "user.email=toy@example.org")
    for command in (
        (*git, "init", "-q"),
        (sys.executable, "-m", "dvc", "init", "-q"),
        (*git, "add", "-A"),
        (*git, "commit", "-qm", "Toy"),
    ):
        assert project.call(*command).returncode == 0
    configure = "from pipelines.release import tracking; tracking.configure()"  # MLflow's migrations: 5 s, once for all
    assert project.call(sys.executable, "-c", configure).returncode == 0
    return project


def start_ui(project: Project) -> "subprocess.Popen[str]":
    """`medseg ui`, up; its Prefect server goes into the project's environment."""
    ui = project.start(MEDSEG, "ui")
    eventually(lambda: "Ctrl-C" in project.read("out") or ui.poll() is not None, 180, "medseg ui is up")
    assert ui.poll() is None, project.read("out")
    address = next(line.split()[1] for line in project.read("out").splitlines() if line.startswith("Prefect"))
    project.environment.setdefault("PREFECT_API_URL", f"{address}/api")
    project.environment.setdefault("PREFECT_API_AUTH_STRING", project.read(".medseg/login").strip())
    return ui


def schedule_training(project: Project) -> None:
    """`medseg schedule on`, with the training by policy soon, but not before the scheduler knows it."""
    for margin_s in (75, 240, 900):
        soon = (datetime.now() + timedelta(seconds=margin_s)).replace(second=0)
        told = project.medseg("schedule", "on", "--training-at", f"{soon:%H:%M}", "--json", timeout_s=600)
        assert told.returncode == 0, told.stderr
        for client in project.prefect():
            (planned,) = client.read_deployment_by_name(schedule.TRAINING).schedules
            if planned.updated and planned.updated < soon.astimezone() - timedelta(seconds=15):
                return
    raise AssertionError("this machine is too busy")


@pytest.fixture(scope="package")
def receiver() -> Iterator[Receiver]:
    """Where MEDSEG_WEBHOOK of `served` leads."""
    with Receiver.started() as started:
        yield started


@pytest.fixture(scope="package")
def served(fresh_template: Project, tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Project]:
    """A project with `medseg ui` running and its schedules on; the night's training begins within two minutes."""
    project = fresh_template.copy(tmp_path_factory.mktemp("served") / "project")
    project.environment = {
        "MEDSEG_WEBHOOK": receiver.address,
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
        "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": "3",
    }
    project.write("preempt", "")  # the night's run is asked to stop, and goes on by itself
    ui = start_ui(project)
    schedule_training(project)
    yield project
    ui.send_signal(signal.SIGTERM)
    assert ui.wait(timeout=60) == 128 + signal.SIGTERM
    eventually(lambda: not project.processes(), 10, "nothing of medseg ui is left")


@pytest.fixture(scope="package")
def done_template(fresh_template: Project, served: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = fresh_template.copy(tmp_path_factory.mktemp("done") / "project")
    ended = project.medseg("run", timeout_s=300)  # on its own embedded server, whose database the copies inherit
    assert ended.returncode == 0, ended.stderr
    names = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")
    project.environment = {name: served.environment[name] for name in names}
    return project


@pytest.fixture
def fresh(fresh_template: Project, tmp_path: Path) -> Project:
    """Never run, with no server."""
    return fresh_template.copy(tmp_path / "project")


@pytest.fixture
def done(done_template: Project, tmp_path: Path) -> Iterator[Project]:
    """Everything fresh; uses the server of `served`. Whatever a test does, no process may be left."""
    project = done_template.copy(tmp_path / "project")
    yield project
    eventually(lambda: not project.processes(), 10, f"nothing is left: {project.processes()}")
