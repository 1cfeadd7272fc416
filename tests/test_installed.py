"""The wheel, installed where no source checkout is, holds all that a project needs."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipelines.work import code
from tests.conftest import REPOSITORY, copy_checkout, save
from tests.test_pipeline import shorten

GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@t")


@dataclass(frozen=True)
class Installed:
    """A wheel's content in `packages`, and commands that know no other code of ours."""

    packages: Path

    def call(self, folder: Path, *command: str) -> str:
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("MEDSEG", "MLFLOW_TRACKING"))}
        path = os.pathsep.join([str(self.packages / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**ours, "PYTHONPATH": str(self.packages), "PATH": path, "COLUMNS": "160"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    copy_checkout(folder / "source")  # setuptools leaves its build folder beside
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    for command in (
        (*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "wheel", "./source"),
        (*pip, "install", "--no-deps", "--target", "packages", *("wheel/medsegformer-0.1.0-py3-none-any.whl",)),
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return Installed(folder / "packages")


@pytest.fixture(scope="module")
def project(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospital")
    told = installed.call(folder, "medseg", "init", "heart")
    assert told.endswith(f"Next:\n  cd {folder}/heart\n  medseg run\n")
    return folder / "heart"


def test_a_wheel_holds_every_file_of_the_packages_and_what_their_links_lead_to(installed: Installed) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "flows", "pipelines", "model"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    below = [[name, *(f"{name}/{each.name}" for each in (REPOSITORY / name).glob("*"))] for name in tracked]
    files = [name for names in below for name in names if (REPOSITORY / name).is_file()]
    assert "pipelines/shipped/profiles/base.yaml" in files
    assert [name for name in files if not (installed.packages / name).is_file()] == []
    for name in files:
        assert (installed.packages / name).read_bytes() == (REPOSITORY / name).read_bytes(), name


def test_a_project_of_ones_own_works_on_the_installed_program(installed: Installed, project: Path) -> None:
    status = json.loads(installed.call(project, "medseg", "status", "--json"))
    assert set(status["stages"].values()) == {"stale"}
    assert status["profile"] == "smoke"
    shown = json.loads(installed.call(project, "medseg", "params", "show", "train.steps", "--json"))
    assert (shown[0]["value"], shown[0]["from"]) == (500, "profile smoke")
    shorten(project)
    installed.call(project, "dvc", "repro", "--quiet", "inventory", "ingest")
    assert len(json.loads(installed.call(project, "medseg", "data", "ls", "--json"))["scans"]) == 36
    status = json.loads(installed.call(project, "medseg", "status", "--json"))
    assert (status["stages"]["ingest"], status["stages"]["plan"]) == ("fresh", "stale")
    assert (project / "data/code/ingest").read_text().strip() == code.of_stage("ingest")  # the same code as here


def test_a_result_can_be_traced_to_the_installed_program_and_the_projects_commit(
    installed: Installed, project: Path
) -> None:
    asked = "import json; from pipelines.release import run_identity; print(json.dumps(run_identity.origin()))"
    origin = json.loads(installed.call(project, sys.executable, "-c", asked))
    assert origin.pop("processor")
    assert origin == {"git_commit": "unknown", "program": f"0.1.0+{code.of_program()[:12]}"}
    installed.call(project, *GIT, "add", "-A")
    installed.call(project, *GIT, "commit", "-qm", "First")
    commit = installed.call(project, "git", "rev-parse", "HEAD").strip()
    assert json.loads(installed.call(project, sys.executable, "-c", asked))["git_commit"] == commit
    tracked = installed.call(project, "git", "ls-files").splitlines()
    assert [name for name in tracked if name.startswith(("data/", ".medseg/"))] == []


def test_documents_come_along_and_folders_are_checked_outside_of_any_project(
    installed: Installed, tmp_path: Path
) -> None:
    found = json.loads(installed.call(tmp_path, "medseg", "docs", "--json"))
    assert found[f"{installed.packages}/pipelines/shipped/docs/pipeline.md"] == "Pipeline"
    label = np.zeros((12, 12, 4), np.uint8)
    label[3:6, 3:9, 1:3], label[6:8, 3:9, 1:3], label[8:9, 3:9, 1:3] = 1, 2, 3
    image = np.random.default_rng(0).integers(1, 100, label.shape).astype(np.int16) + 100 * label.astype(np.int16)
    for name, array in (("patient001_frame01", image), ("patient001_frame01_gt", label)):
        save(tmp_path / "scans/patient001" / f"{name}.nii.gz", array, np.diag([1.5, 1.5, 10, 1]))
    (scan,) = json.loads(installed.call(tmp_path, "medseg", "data", "check", "scans", "--json"))["scans"]
    assert (scan["source"], scan["quarantined"]) == ("acdc", "")
