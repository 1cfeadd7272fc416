"""A project whose stores are destroyed is what it was, by its copy alone."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.flows.conftest import Project

STORES = (".medseg", ".dvc/cache", "models", "reports", "data/cases", "data/manifest.parquet", "dvc.lock")


def runs(project: Project) -> int:
    with closing(sqlite3.connect(project.root / ".medseg/prefect/prefect.db")) as database:
        found: int = database.execute("SELECT count(*) FROM flow_run").fetchone()[0]
    return found


def status(project: Project) -> dict[str, object]:
    ended = project.medseg("status", "--json")
    assert ended.returncode == 0, ended.stderr
    found: dict[str, object] = json.loads(ended.stdout)
    return found


def backup(project: Project, folder: Path) -> dict[str, int]:
    ended = project.medseg("backup", str(folder), "--json")
    assert ended.returncode == 0, ended.stderr
    kept: dict[str, int] = json.loads(ended.stdout)
    return kept


def destroy(project: Project) -> None:
    for name in STORES:
        path = project.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_stores_that_were_destroyed_come_back_and_a_second_copy_takes_little(done: Project, tmp_path: Path) -> None:
    before, history, lock = status(done), runs(done), done.read("dvc.lock")
    weights = next((done.root / ".medseg/weights").rglob("*.safetensors")).read_bytes()
    first, second = backup(done, tmp_path / "copies"), backup(done, tmp_path / "elsewhere")
    assert first["files"] == second["files"] > 20
    destroy(done)
    restored = done.medseg("restore", str(tmp_path / "copies"))
    assert restored.returncode == 0, restored.stderr
    assert status(done) == before
    assert runs(done) == history > 0
    assert done.read("dvc.lock") == lock
    assert next((done.root / ".medseg/weights").rglob("*.safetensors")).read_bytes() == weights
    assert (done.root / "models/train/model.safetensors").exists()
    assert (done.root / ".medseg").stat().st_mode & 0o777 == 0o700


def test_a_copy_becomes_a_project_elsewhere_with_its_history(done: Project, tmp_path: Path) -> None:
    backup(done, tmp_path / "copies")
    moved = Project(tmp_path / "other disk" / "project", done.environment)
    restored = done.medseg("restore", str(tmp_path / "copies"), "--into", str(moved.root))
    assert restored.returncode == 0, restored.stderr
    (moved.root / "data/raw").mkdir(parents=True)
    shutil.copy(done.root / "data/raw/a", moved.root / "data/raw")  # scans are no part of a copy
    assert status(moved)["registered"] == status(done)["registered"]
    assert "Toy" in moved.call("git", "log", "--oneline").stdout
    assert moved.call("git", "status", "--porcelain").stdout == done.call("git", "status", "--porcelain").stdout


def test_what_is_damaged_or_would_overwrite_is_refused(done: Project, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    folder = Path(str(backup(done, copies)["folder"]))
    there = done.medseg("restore", str(copies))
    assert (there.returncode, "say --overwrite" in there.stderr) == (1, True)
    inside = done.medseg("backup", str(done.root / "copies"))
    assert (inside.returncode, "name a folder on another disk" in inside.stderr) == (1, True)
    registry = folder / "state/mlflow.db"
    registry.write_bytes(registry.read_bytes()[:-1] + b"x")
    damaged = done.medseg("restore", str(copies), "--overwrite")
    assert damaged.returncode == 1
    assert "1 of" in damaged.stderr
    assert "damaged" in damaged.stderr
    registry.unlink()
    with pytest.raises(FileNotFoundError):
        registry.stat()
    assert status(done)["registered"] is not None  # nothing of it was touched
