"""A run's checkpoints lie in a folder named by content: what was touched or copied goes on, what differs does not.
And the order in which a rank begins and ends."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.engine import checkpoint
from model.engine.ranks import Ranks
from pipelines import params
from pipelines.cases.case_folder import Entry
from pipelines.release import audit
from pipelines.scans import manifest
from pipelines.training import configs, rank
from pipelines.training.rank import Learning, LearningStage, run_folder
from pipelines.work import code
from tests.conftest import REPOSITORY

HEADER = "case_id,split,key,bytes,sha256,left_out\n"
SETTINGS = params.load(REPOSITORY / "params.yaml")
CPU = torch.device("cpu")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "data/cases").mkdir(parents=True)
    (tmp_path / "models/pretrain").mkdir(parents=True)
    index(tmp_path, train="aa", test="bb")
    (tmp_path / "data/cases/preprocessing.json").write_text("{}")
    (tmp_path / "models/pretrain/encoder.safetensors").write_bytes(b"encoder")
    manifest.write(tmp_path / "data/manifest.parquet", [])
    return tmp_path


def index(project: Path, train: str, test: str) -> None:
    assert ",".join(Entry.__dataclass_fields__) + "\n" == HEADER
    lines = f"one,train,key,1,{train},\ntwo,test,key,1,{test},\n"
    (project / "data/cases/index.csv").write_text(HEADER + lines)


def stop(*_: object, **__: object) -> Any:
    raise KeyboardInterrupt  # before anything is trained


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
    monkeypatch.setenv("MEDSEG_DETERMINISTIC", "1")
    monkeypatch.setattr(rank, "join_ranks", lambda **_: Ranks(1, 2, gpu))
    monkeypatch.setattr(rank, "set_numerics", lambda *arguments: told.append(arguments))
    monkeypatch.setattr(rank, "_train", stop)
    with pytest.raises(KeyboardInterrupt):
        rank.as_rank(LearningStage("train", stop, stop), SETTINGS)
    assert told == [(gpu, True)]


class Told(list[tuple[Any, ...]]):
    """What was called, in order: (name, *arguments)."""

    def by(self, name: str, result: Any = None) -> Callable[..., Any]:
        def note(*arguments: Any, **_: Any) -> Any:
            self.append((name, *arguments))
            return result

        return note

    def names(self) -> list[str]:
        return [name for name, *_ in self]


@pytest.fixture
def told(project: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """What a rank calls from its certificate to its checkpoints does nothing but note it."""
    told = Told()
    monkeypatch.setattr(rank.certificates, "require", told.by("certificate"))
    monkeypatch.setattr(rank.shared_memory, "require", told.by("room"))
    monkeypatch.setattr(rank, "parallelize", told.by("parallelize", SimpleNamespace(network=None)))
    monkeypatch.setattr(rank, "outlast_hangs", told.by("patience"))
    monkeypatch.setattr(rank, "load_encoder", told.by("encoder"))
    return told


def stage_of(told: Told, export: str = "last") -> LearningStage:
    """Of one that learns nothing, from an encoder; a batch has 7 bytes."""
    block = SETTINGS.train.model_copy(update={"export": export})
    stream: Any = SimpleNamespace(batch_bytes=lambda _: 7, config=SimpleNamespace(seed=0))
    task: Any = SimpleNamespace(decides="dice.mean")
    fit, parallel = configs.fit_config(block), configs.parallel_config(block)
    job = Learning(None, task, stream, [], fit, parallel, card=None, encoder=Path("models/pretrain"))
    return LearningStage("train", told.by("prepare", job), told.by("save", {"weights_sha256": "ab"}))


def test_a_refusal_comes_before_the_ranks_meet_and_patience_before_they_wait_for_each_other(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only groups that exist, those of the meshes among them, can be told to be patient."""
    monkeypatch.setenv("MEDSEG_HANG_S", "1234")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(rank, "run_folder", stop)
    with pytest.raises(KeyboardInterrupt):
        rank._train(stage_of(told), SETTINGS, Ranks(3, 4, CPU, node=4, loader_workers=2))
    assert told.names() == ["certificate", "prepare", "room", "parallelize", "patience", "encoder"]
    assert ("room", 7, 2, 4) in told
    assert ("patience", 1234.0) in told


@pytest.mark.parametrize(
    ("export", "best_step", "exported"), [("best", 3, {"exported_step": "3"}), ("best", None, {}), ("last", 3, {})]
)
def test_the_best_weights_are_loaded_before_they_are_saved_and_checkpoints_are_removed_last(
    told: Told, monkeypatch: pytest.MonkeyPatch, export: str, best_step: int | None, exported: dict[str, str]
) -> None:
    checkpoints = SimpleNamespace(load_best=told.by("load_best", best_step), remove=told.by("remove"))
    curves = SimpleNamespace(finish=lambda tags, _pictures: told.append(("finish", dict(tags))))
    monkeypatch.setattr(checkpoint, "Checkpoints", lambda *_, **__: checkpoints)
    monkeypatch.setattr(rank, "Curves", lambda *_: curves)
    monkeypatch.setattr(rank, "fit", told.by("fit", SimpleNamespace(step=SETTINGS.train.steps)))
    rank._train(stage_of(told, export), SETTINGS, Ranks(0, 1, CPU))
    ends = told.names()[told.names().index("fit") + 1 :]
    assert ends == [*(["load_best"] if export == "best" else []), "save", "finish", "remove"]
    tags = {"weights_sha256": "ab", **exported}
    assert ("finish", tags) in told
    assert [line.facts for line in audit.read(("train",))] == [{"run": run_folder("train", SETTINGS).name, **tags}]


def test_unfinished_runs_are_told_of_with_the_remedy_unless_this_one_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = tmp_path / "checkpoints/train-bbbbbbbbbbbb"
    for other in ("train-aaaaaaaaaaaa", "pretrain-cccccccccccc"):
        (folder.parent / other).mkdir(parents=True)
    rank._tell_of_unfinished_runs("train", folder)
    (message,) = caplog.messages
    assert "holds 1 unfinished run(s)" in message
    assert ": train-aaaaaaaaaaaa. Remove what is not needed" in message
    assert message.endswith("rename it to train-bbbbbbbbbbbb")
    caplog.clear()
    folder.mkdir()
    rank._tell_of_unfinished_runs("train", folder)
    assert not caplog.messages


@pytest.mark.parametrize("number", [0, 1])
def test_the_first_rank_alone_tells_of_unfinished_runs(
    told: Told, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(rank, "_tell_of_unfinished_runs", told.by("unfinished"))
    monkeypatch.setattr(checkpoint, "Checkpoints", stop)  # which makes the folder
    with pytest.raises(KeyboardInterrupt):
        rank._train(stage_of(told), SETTINGS, Ranks(number, 2, CPU))
    assert told.names().count("unfinished") == (number == 0)
