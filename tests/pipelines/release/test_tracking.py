"""Which store MLflow is pointed to."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.release import tracking
from tests.conftest import REPOSITORY


def test_projects_in_turn_have_a_store_each_and_the_environment_names_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(tracking.VARIABLE, raising=False)
    for name in ("one", "other", "one"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "dvc.yaml").write_text("stages: {}\n")
        monkeypatch.chdir(tmp_path / name)
        mlflow = tracking.configure()
        assert mlflow.get_tracking_uri() == f"sqlite:///{tmp_path / name}/.medseg/mlflow.db"
        assert tracking.is_embedded()
        assert not {tracking.VARIABLE, "MLFLOW_EXPERIMENT_ID"} & os.environ.keys()


CONFIGURED = "from pipelines.release import tracking; print(tracking.configure().search_experiments()[0].name)"


def test_a_store_whose_making_was_killed_is_made_anew_and_of_two_makers_one_is_late(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    killed = start(tmp_path)
    while not list(tmp_path.glob(".medseg/*.mlflow.db*")):
        time.sleep(0.01)
        assert killed.poll() is None
    killed.kill()
    killed.communicate()
    assert not (tmp_path / ".medseg/mlflow.db").exists()
    both = [start(tmp_path) for _ in range(2)]
    for process in both:
        assert process.communicate(timeout=120)[0] == "medsegformer\n"
    assert sorted(path.name for path in tmp_path.glob(".medseg/*mlflow.db*")) == ["mlflow.db", "mlflow.db.lock"]


def start(project: Path) -> "subprocess.Popen[str]":
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    environment = {**ours, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-c", CONFIGURED], cwd=project, env=environment, text=True, stdout=subprocess.PIPE
    )


def test_what_a_run_is_told_goes_in_as_few_requests_as_mlflow_takes() -> None:
    asked: list[tuple[str, int]] = []

    class Client:
        def log_batch(self, run_id: str, **given: list[str]) -> None:
            asked.extend((kind, len(entities)) for kind, entities in given.items())

    for kind, count in (("params", 230), ("metrics", 1000), ("tags", 0)):
        tracking.log_all(Client(), "run", kind, ["x"] * count)
    assert asked == [("params", 100), ("params", 100), ("params", 30), ("metrics", 1000)]
