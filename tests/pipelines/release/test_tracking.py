"""Which store MLflow is pointed to."""

import os
from pathlib import Path

import pytest

from pipelines.release import tracking


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
