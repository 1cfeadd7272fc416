"""A project whose stores are destroyed is what it was, by its copy alone."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.flows.conftest import Project, eventually

STORES = (".medseg", ".dvc/cache", "models", "reports", "data/cases", "data/manifest.parquet", "dvc.lock")


@dataclass
class Original:
    """A project as it was when its copy was made in `copies`."""

    project: Project
    copies: Path
    status: dict[str, Any]

    def folder(self) -> Path:
        (found,) = self.copies.iterdir()
        return found


@pytest.fixture(scope="module")
def original(done_template: Project, tmp_path_factory: pytest.TempPathFactory) -> Original:
    folder = tmp_path_factory.mktemp("original")
    project = done_template.copy(folder / "project")
    before = status(project)
    kept = project.here("backup", str(folder / "copies"), "--json")
    assert kept.exit_code == 0, kept.stderr
    assert json.loads(kept.stdout)["files"] > 20
    return Original(project, folder / "copies", before)


@pytest.fixture
def later(original: Original, tmp_path: Path) -> Iterator[Project]:
    """The project some time later. Whatever a test does, no process may be left."""
    project = original.project.copy(tmp_path / "project")
    yield project
    eventually(lambda: not project.processes(), 10, f"nothing is left: {project.processes()}")


def status(project: Project) -> dict[str, Any]:
    ended = project.here("status", "--json")
    assert ended.exit_code == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def runs(project: Project) -> int:
    with closing(sqlite3.connect(project.root / ".medseg/prefect/prefect.db")) as database:
        found: int = database.execute("SELECT count(*) FROM flow_run").fetchone()[0]
    return found


def weights(project: Project) -> bytes:
    return next((project.root / ".medseg/weights").rglob("*.safetensors")).read_bytes()


def test_stores_that_were_destroyed_come_back(original: Original, later: Project) -> None:
    for name in STORES:
        path = later.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    restored = later.here("restore", str(original.copies))
    assert restored.exit_code == 0, restored.stderr
    assert status(later) == original.status
    assert runs(later) == runs(original.project) > 0
    assert weights(later) == weights(original.project)
    assert later.read("dvc.lock") == original.project.read("dvc.lock")
    assert (later.root / "models/train/model.safetensors").exists()
    assert (later.root / ".medseg").stat().st_mode & 0o777 == 0o700


def test_a_copy_becomes_a_project_elsewhere_with_its_history(original: Original, tmp_path: Path) -> None:
    moved = Project(tmp_path / "other disk" / "project", original.project.environment)
    restored = original.project.here("restore", str(original.copies), "--into", str(moved.root))
    assert restored.exit_code == 0, restored.stderr
    (moved.root / "data/raw").mkdir(parents=True)
    shutil.copy(original.project.root / "data/raw/a", moved.root / "data/raw")  # scans are no part of a copy
    assert status(moved)["registered"] == original.status["registered"]
    assert "Toy" in moved.call("git", "log", "--oneline").stdout
    changes = [project.call("git", "status", "--porcelain").stdout for project in (moved, original.project)]
    assert changes[0] == changes[1]


def test_what_is_damaged_or_would_overwrite_is_refused(original: Original, later: Project, tmp_path: Path) -> None:
    there = later.here("restore", str(original.copies))
    assert (there.exit_code, "say --overwrite" in there.stderr) == (1, True)
    inside = later.here("backup", str(later.root / "copies"))
    assert (inside.exit_code, "name a folder on another disk" in inside.stderr) == (1, True)
    copy = tmp_path / "copy"
    shutil.copytree(original.folder(), copy, symlinks=True)
    (copy / "state/mlflow.db").write_bytes((copy / "state/mlflow.db").read_bytes()[:-1] + b"x")
    registry = (later.root / ".medseg/mlflow.db").read_bytes()
    damaged = later.here("restore", str(copy), "--overwrite")
    assert (damaged.exit_code, "are gone or damaged" in damaged.stderr) == (1, True)
    assert (later.root / ".medseg/mlflow.db").read_bytes() == registry
