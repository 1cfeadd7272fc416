"""dvc.yaml says the truth: a stage depends on its code, its data and each parameter that it reads, and on no more."""

import importlib
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipelines.params import schema
from pipelines.params.block import Block
from pipelines.stages import CODE, STAGES
from pipelines.work import code
from tests.conftest import REPOSITORY
from tests.test_pipeline import THE_ONLY_RANK, shorten

DECLARED: dict[str, dict[str, Any]] = dict(YAML(typ="safe").load((REPOSITORY / "dvc.yaml").read_text())["stages"])


def test_stages_and_modules_have_one_name() -> None:
    assert tuple(DECLARED) == (CODE, *STAGES)
    for stage in STAGES:
        assert (REPOSITORY / "pipelines/stages" / f"{stage}.py").is_file()
        assert DECLARED[stage]["cmd"] == f"exec python -m pipelines {stage}"
    assert {path.stem for path in (REPOSITORY / "pipelines/stages").glob("*.py")} == {"__init__", *STAGES}


def test_every_stage_depends_on_the_digest_of_its_code() -> None:
    asked_at_every_run = {"inventory"}
    for stage in set(STAGES) - asked_at_every_run:
        assert f"data/code/{stage}" in DECLARED[stage]["deps"]
    assert DECLARED[CODE]["outs"] == [f"data/code/{stage}" for stage in STAGES if stage not in asked_at_every_run]


def test_no_stage_depends_on_a_file_of_code() -> None:
    """DVC would hash its comments; and of a folder its __pycache__."""
    deps = {str(dep) for stage in DECLARED.values() for dep in stage.get("deps", [])}
    assert all(dep.startswith(("data/", "models/", "reports/")) for dep in deps)


def test_training_is_never_given_the_held_out_cases() -> None:
    for stage in ("pretrain", "train"):
        assert not {"data", "data/cases", "data/cases/test", "data/cases/index.csv"} & set(DECLARED[stage]["deps"])


def test_the_code_behind_training_is_all_that_trains_and_nothing_that_predicts() -> None:
    behind = set(code.closure("pipelines.stages.train"))
    assert behind >= {
        "model.data.dataset", "model.engine.checkpoint", "model.engine.trainer", "model.network.layers",
        "model.tasks.losses", "pipelines.training.rank", "pipelines.cases.preparation",
        "pipelines.training.configs", "pipelines.scans.source_tables",
    }  # fmt: skip
    assert not [name for name in behind if name.startswith(("pipelines.serving", "pipelines.pages", "flows"))]
    assert "model.tasks.inference" not in behind


def test_what_is_said_to_have_no_influence_exists() -> None:
    for name in (*code.WITHOUT_INFLUENCE, *code.PICTURES):
        assert find_spec(name) is not None, name


class Reads:
    """Which parameters were read, by their keys, while each stage ran."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: set[str] = set()
        self.places: dict[int, tuple[Block, str]] = {}
        validate, get = schema.Params.model_validate_json, Block.__getattribute__

        def load(*arguments: Any, **settings: Any) -> schema.Params:
            self._place(found := validate(*arguments, **settings), "")
            return found

        def read(block: Block, name: str) -> Any:
            value = get(block, name)
            if (known := self.places.get(id(block))) and known[0] is block:
                self._note(block, known[1], name, value)
            return value

        monkeypatch.setattr(schema.Params, "model_validate_json", load)
        monkeypatch.setattr(Block, "__getattribute__", read)

    def _place(self, block: Block, key: str) -> None:
        for name, field in type(block).model_fields.items():
            if isinstance(value := block.__dict__[name], Block):
                self._place(value, f"{key}.{field.alias or name}".removeprefix("."))
        self.places[id(block)] = (block, key)

    def _note(self, block: Block, key: str, name: str, value: Any) -> None:
        if name == "model_dump":
            self.keys.add(key)  # all of the block
        elif name in type(block).model_fields and not isinstance(value, Block):
            self.keys.add(f"{key}.{name}".removeprefix("."))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Parameters cut down to seconds; the one rank of a training stage is this process."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    two_steps = {"steps": 2, "warmup_steps": 1, "validate_every": 2}
    shorten(tmp_path, train=two_steps, pretrain=two_steps, **{"ingest.phantom": {"cases_per_layout": 6}})
    monkeypatch.chdir(tmp_path)
    for name, value in THE_ONLY_RANK.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.mark.filterwarnings("ignore::UserWarning")  # MLflow's, of type hints, at registration
def test_a_stage_declares_every_parameter_that_it_reads(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(monkeypatch)
    for stage in STAGES:
        reads.keys.clear()
        importlib.import_module(f"pipelines.stages.{stage}").main()
        declared = set(DECLARED[stage].get("params", ()))
        asked = reads.keys if stage != "inventory" else set()  # asked at every run, so it needs none
        undeclared = {key for key in asked if not any(f"{key}.".startswith(f"{each}.") for each in declared)}
        placement = {"preprocess.executor"}  # where cases are made, with the same result
        assert undeclared <= placement, stage
        if stage in ("plan", "train"):
            assert asked, stage  # the reading is seen at all
