"""A run's checkpoints lie in a folder named by content: what was touched or copied goes on, what differs does not."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from model.engine.ranks import Ranks
from pipelines import params
from pipelines.cases.case_folder import Entry
from pipelines.training import rank
from pipelines.training.rank import LearningStage, run_folder
from pipelines.work import code
from tests.conftest import REPOSITORY

HEADER = "case_id,split,key,bytes,sha256,left_out\n"
SETTINGS = params.load(REPOSITORY / "params.yaml")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "data/cases").mkdir(parents=True)
    (tmp_path / "models/pretrain").mkdir(parents=True)
    index(tmp_path, train="aa", test="bb")
    (tmp_path / "data/cases/preprocessing.json").write_text("{}")
    (tmp_path / "models/pretrain/encoder.safetensors").write_bytes(b"encoder")
    return tmp_path


def index(project: Path, train: str, test: str) -> None:
    assert ",".join(Entry.__dataclass_fields__) + "\n" == HEADER
    lines = f"one,train,key,1,{train},\ntwo,test,key,1,{test},\n"
    (project / "data/cases/index.csv").write_text(HEADER + lines)


def test_times_of_files_and_held_out_cases_do_not_matter(project: Path) -> None:
    before = run_folder("train", SETTINGS)
    for path in project.rglob("*"):
        os.utime(path, (1, 1))
    shutil.rmtree(project / ".medseg")
    index(project, train="aa", test="cc")
    assert run_folder("train", SETTINGS) == before


def test_other_cases_another_encoder_other_parameters_and_other_code_are_another_run(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [run_folder("train", SETTINGS)]
    index(project, train="dd", test="bb")
    seen.append(run_folder("train", SETTINGS))
    (project / "models/pretrain/encoder.safetensors").write_bytes(b"another")
    seen.append(run_folder("train", SETTINGS))
    longer = SETTINGS.train.model_copy(update={"steps": SETTINGS.train.steps + 1})
    seen.append(run_folder("train", SETTINGS.model_copy(update={"train": longer})))
    monkeypatch.setattr(code, "of_stage", lambda stage: "other code")
    seen.append(run_folder("train", SETTINGS))
    assert len(set(seen)) == len(seen)


def test_the_encoder_is_nothing_to_pretraining(project: Path) -> None:
    before = run_folder("pretrain", SETTINGS)
    (project / "models/pretrain/encoder.safetensors").write_bytes(b"another")
    assert run_folder("pretrain", SETTINGS) == before


def test_every_rank_sets_its_numerics_before_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device that it joined with, as the environment says."""
    told: list[tuple[torch.device, bool]] = []
    gpu = torch.device("cuda", 1)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt  # before anything is trained

    monkeypatch.setenv("MEDSEG_DETERMINISTIC", "1")
    monkeypatch.setattr(rank, "join_ranks", lambda **_: Ranks(1, 2, gpu))
    monkeypatch.setattr(rank, "set_numerics", lambda *arguments: told.append(arguments))
    monkeypatch.setattr(rank, "_train", stop)
    with pytest.raises(KeyboardInterrupt):
        rank.as_rank(LearningStage("train", stop, stop), SETTINGS)  # type: ignore[arg-type]
    assert told == [(gpu, True)]
