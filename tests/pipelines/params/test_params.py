"""params.yaml is refused with key, value, bound and remedy, before anything runs."""

import dataclasses
import datetime
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from model.data.draws import AugmentConfig
from pipelines import params
from pipelines.params import ParamsError, profiles, recipe
from tests.conftest import REPOSITORY

SMOKE = profiles.compose("smoke")


def changed(tmp_path: Path, key: str, value: Any) -> Path:
    """The smoke profile with one key set (or, with value ..., removed)."""
    content = YAML(typ="safe").load(SMOKE)
    *parents, last = key.split(".")
    block = content
    for parent in parents:
        block = block[parent]
    if value is ...:
        del block[last]
    else:
        block[last] = value
    path = tmp_path / "params.yaml"
    with path.open("w") as file:
        YAML().dump(content, file)
    return path


def test_the_reference_run_is_the_missions() -> None:
    reference = profiles.settings("xl-a100x32")
    train = reference.train
    assert reference.model.preset == "xl"
    assert (train.learning_rate, train.final_learning_rate, train.warmup_steps) == (1e-4, 1e-6, 2000)
    assert (train.global_batch, train.precision, train.patch_size["default"]) == (256, "float16", (256, 256, 256))
    assert train.patch_size["brats"] == reference.pretrain.patch_size["brats"] == (160, 192, 160)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("train.learning_rat", 0.1, ["unknown key train.learning_rat = 0.1", "did you mean 'learning_rate'"]),
        ("trian", {}, ["unknown key trian", "did you mean 'train'"]),
        ("train.steps", "many", ["train.steps = 'many'", "valid integer"]),
        ("train.steps", 1.5, ["train.steps = 1.5", "valid integer"]),
        ("train.learning_rate", "0.1", ["train.learning_rate = '0.1'", "valid number"]),
        ("train.learning_rate", -1, ["train.learning_rate = -1", "greater than 0"]),
        ("train.learning_rate", float("nan"), ["train.learning_rate", "finite"]),
        ("train.steps", ..., ["train.steps is missing"]),
        ("evaluate.overlap", 0.95, ["evaluate.overlap = 0.95", "less than or equal to 0.9"]),
        ("train.steps", datetime.date(2026, 1, 1), ["train.steps = '2026-01-01'", "valid integer"]),
        ("data.sources", ["folder"], ["data.sources.0 = 'folder'", "'msd'"]),
        ("data.sources", [], ["data.sources", "at least 1 item"]),
        ("model.preset", "huge", ["model.preset = 'huge'", "'xl'"]),
        (
            "train.patch_size.default",
            [50, 32, 32],
            ["train.patch_size.default [50, 32, 32]", "divisible", "[48, 32, 32]"],
        ),
        ("train.patch_size", {"acdc": [16, 32, 32]}, ["train.patch_size has no entry `default`"]),
        ("train.patch_size.ct", [32, 32, 32], ["unknown source 'ct'"]),
        ("train.micro_batch", 3, ["train.global_batch 2", "multiple of train.micro_batch 3", "nearest valid: 3"]),
        ("train.warmup_steps", 10_000, ["train.warmup_steps 10000 must be below train.steps"]),
        ("train.final_learning_rate", 0.5, ["train.final_learning_rate 0.5 must not exceed"]),
        ("preprocess.spacing_mm.default", [1, 0, 1], ["preprocess.spacing_mm.default.1 = 0", "greater than 0"]),
        ("plan.ct_percentiles", [99, 1], ["plan.ct_percentiles [99, 1]"]),
        ("ingest.quality.extent_mm", [50, 10], ["ingest.quality.extent_mm [50, 10]", "must be below"]),
        ("ingest.quality.on_air", 0.9, ["ingest.quality.on_air 0.9 must not exceed ingest.quality.on_air_refused 0.5"]),
        ("ingest.quality.tiny_mm3", {"spleen": 5.0}, ["ingest.quality.tiny_mm3 needs an entry `default`"]),
        ("ingest.quality.tiny_mm3.brane", 5.0, ["ingest.quality.tiny_mm3: unknown structure 'brane'"]),
        ("data.test_fraction", 0.95, ["data.test_fraction + data.validation_fraction = 1.05 must be below 1"]),
        ("promote", {"max_drop": 0.02}, ["unknown key promote", "remove or rename it"]),
        ("register.name", "Bad Name", ["register.name = 'Bad Name'"]),
    ],
)
def test_a_bad_parameter_is_named_with_value_and_bound(tmp_path: Path, key: str, value: Any, told: list[str]) -> None:
    with pytest.raises(ParamsError) as refused:
        params.load(changed(tmp_path, key, value))
    for words in told:
        assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", ["", "[1, 2]", "train: {", "train: 1\ntrain: 2", "[1, 2]: 3", "{1: 2}: 3"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "params.yaml").write_text(content)
    with pytest.raises(ParamsError, match=r"params\.yaml"):
        params.load(tmp_path / "params.yaml")


def test_scientific_notation_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(SMOKE.replace("learning_rate: 0.006", "learning_rate: 6e-3"))
    assert params.load(path).train.learning_rate == 0.006


def test_parameters_are_frozen() -> None:
    settings = profiles.settings("smoke")
    with pytest.raises(ValueError, match="frozen"):
        settings.train.steps = 3  # type: ignore[misc]


def test_the_augment_block_has_the_fields_of_the_augmentation() -> None:
    assert set(recipe.Augment.model_fields) == {field.name for field in dataclasses.fields(AugmentConfig)}


def test_bad_parameters_stop_the_first_stage_before_anything_is_written(tmp_path: Path) -> None:
    changed(tmp_path, "train.micro_batch", 3)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "inventory"],
        cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY), "PATH": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("inventory: params.yaml: train.global_batch 2 must")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "data").exists()
