"""What a job trained is kept by content until the stage takes it, once and whole."""

from pathlib import Path

import pytest

from pipelines.training import finished


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "models/train").mkdir(parents=True)
    (tmp_path / "models/train/model.safetensors").write_text("weights")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models/train/model.safetensors"


def test_a_result_outlives_the_removal_of_the_stages_outputs(trained: Path) -> None:
    finished.keep("train", "train-1")
    trained.unlink()
    trained.parent.rmdir()
    assert finished.kept("train-1")
    assert finished.take("train", "train-1")
    assert trained.read_text() == "weights"
    assert trained.stat().st_nlink == 1  # DVC may make it read-only, or a link, as it likes
    assert not finished.kept("train-1")


def test_it_is_of_one_run(trained: Path) -> None:
    finished.keep("train", "train-1")
    assert not finished.take("train", "train-2")
    assert finished.kept("train-1")


def test_outputs_that_are_there_are_replaced(trained: Path) -> None:
    finished.keep("train", "train-1")
    trained.unlink()
    trained.write_text("half")
    assert finished.take("train", "train-1")
    assert trained.read_text() == "weights"
