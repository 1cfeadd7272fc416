"""A profile states its differences; composed it is the whole params.yaml, in the form that DVC's own edits keep."""

import difflib
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from pipelines import params
from pipelines.params import fields, profiles
from tests.conftest import REPOSITORY

NAMES = [file.stem for file in sorted((REPOSITORY / "profiles").glob("*.yaml")) if file.stem != "base"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the base and the smoke profile, and no params.yaml yet."""
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "profiles").mkdir()
    for name in ("base", "smoke"):
        shutil.copy(REPOSITORY / f"profiles/{name}.yaml", tmp_path / f"profiles/{name}.yaml")
    monkeypatch.setenv("MEDSEG_ROOT", str(tmp_path))
    return tmp_path


def content(text: str) -> dict[str, Any]:
    return dict(YAML(typ="safe", pure=True).load(text))


def differing(before: str, after: str) -> list[str]:
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line for line in lines if line.startswith(("+ ", "- "))]


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_of_the_project_is_valid_and_its_text_says_the_same(name: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(profiles.compose(name))
    assert params.load(tmp_path / "params.yaml") == profiles.settings(name)


def test_the_committed_params_are_the_smoke_profile() -> None:
    command = ["git", "show", "HEAD:params.yaml"]
    committed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert committed == profiles.compose("smoke")


def test_the_base_states_every_setting() -> None:
    base = content((REPOSITORY / "profiles/base.yaml").read_text())
    assert sorted(key for key, _ in fields.stated(base)) == sorted(key for key, _ in fields.settings())


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_states_differences_only(name: str) -> None:
    *below, (_, own) = profiles.descent(name)
    before = dict(fields.stated(profiles.merged(below)))
    assert [key for key, value in fields.stated(own) if key != "extends" and before[key] == value] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_begins_with_what_it_is_for_and_so_does_what_is_composed_from_it(name: str) -> None:
    first = (REPOSITORY / f"profiles/{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ")
    head = profiles.compose(name).splitlines()
    assert head[0].startswith(f"# Profile {name} = profiles/base.yaml + ")
    assert head[2] == first


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("change", "lines"),
    [("train.steps=21", 1), ("train.learning_rate=0.0011", 1), ("model.preset=small", 1), ("evaluate.overlap=0.7", 1)],
)
def test_an_experiment_of_dvc_changes_the_line_it_means(name: str, change: str, lines: int, tmp_path: Path) -> None:
    """`dvc exp run -S` loads params.yaml, merges and dumps it whole; these are its own functions."""
    path, before = tmp_path / "params.yaml", profiles.compose(name)
    path.write_text(before)
    apply_overrides(path, [change])
    assert len(differing(before, path.read_text())) == 2 * lines


def test_reasons_written_behind_keys_come_along() -> None:
    text = profiles.compose("pretrained")
    assert "steps: 2000 # about 20 CPU minutes" in text  # its own
    assert "source_balance: 0.7 # 200 hippocampi" in text  # of the profile it extends
    assert "dicom: # clinical series: thick slices" in text  # of a list, on the key's line
    assert "# skipped: with all labels" not in text  # the reason for a value of the base that was replaced


def test_blocks_are_merged_while_lists_and_tables_by_source_are_replaced_whole(project: Path) -> None:
    (project / "profiles/knee.yaml").write_text(
        "data: {sources: [bids, nnunet]}\n"
        "preprocess: {spacing_mm: {default: [2.0, 2.0, 2.0]}}\n"
        "ingest: {quality: {tiny_mm3: {default: 1.0, liver: 9.0}}}\n"
    )
    composed, base = content(profiles.compose("knee")), content((project / "profiles/base.yaml").read_text())
    assert composed["data"] == {**base["data"], "sources": ["bids", "nnunet"]}
    assert "acdc" in base["preprocess"]["spacing_mm"]
    assert composed["preprocess"] == {**base["preprocess"], "spacing_mm": {"default": [2.0, 2.0, 2.0]}}
    assert composed["ingest"]["quality"]["tiny_mm3"] == {"default": 1.0, "liver": 9.0}


def test_what_was_no_block_below_becomes_one(project: Path) -> None:
    (project / "profiles/odd.yaml").write_text("train: 3\n")
    (project / "profiles/over.yaml").write_text("extends: odd\ntrain: {steps: 1000}\n")
    with pytest.raises(params.ParamsError, match=r"profiles/over\.yaml: train\.seed is missing"):
        profiles.use("over")


def test_a_profile_may_build_on_another(project: Path) -> None:
    (project / "profiles/longer.yaml").write_text("extends: smoke\ntrain: {steps: 1000}\n")
    longer, smoke = profiles.settings("longer"), profiles.settings("smoke")
    assert longer == smoke.model_copy(update={"train": smoke.train.model_copy(update={"steps": 1000})})
    assert "profiles/base.yaml + profiles/smoke.yaml + profiles/longer.yaml" in profiles.compose("longer")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data: {test_fraction: 2}", "profiles/other.yaml: data.test_fraction = 2"),
        ("data: {test_fractoin: 0.2}", "profiles/other.yaml: unknown key data.test_fractoin = 0.2; did you mean"),
        ("train: 3", "profiles/other.yaml: train = 3"),
        ("extends: smoek", "profiles/other.yaml: extends 'smoek': no such profile; did you mean 'smoke'"),
        ("extends: [smoke]", "profiles/other.yaml: extends"),
        ("extends: other", "profiles/other.yaml extends itself"),
        ("- 1", "profiles/other.yaml: must hold a mapping"),
    ],
)
def test_a_bad_profile_is_refused_by_name_and_changes_nothing(project: Path, text: str, told: str) -> None:
    profiles.use("smoke")
    before = (project / "params.yaml").read_text()
    (project / "profiles/other.yaml").write_text(text)
    with pytest.raises(params.ParamsError, match="^" + re.escape(told)):
        profiles.use("other")
    assert (project / "params.yaml").read_text() == before
    assert profiles.in_use() == "smoke"


def test_unknown_profile_is_refused_with_the_known_ones(project: Path) -> None:
    for name in ("huge", "base"):
        with pytest.raises(ValueError, match=f"no profile '{name}'; known: {', '.join(NAMES)}$"):
            profiles.use(name)


def test_a_project_has_the_programs_profiles_and_its_own_come_first(project: Path) -> None:
    (project / "profiles/smoke.yaml").write_text("extends: own\ntrain: {steps: 777}\n")
    assert profiles.names() == NAMES
    assert profiles.settings("smoke").train.steps == 777
    shutil.rmtree(project / "profiles")
    assert profiles.names() == NAMES
    assert profiles.settings("smoke").train.steps == 500


def test_use_writes_the_profile_and_keeps_what_was_ones_own(project: Path) -> None:
    assert profiles.use("smoke") is None
    assert profiles.in_use() == "smoke"
    (project / "params.yaml").write_text("of my own")
    assert profiles.in_use() is None
    kept = profiles.use("smoke")
    assert kept is not None
    assert kept.read_text() == "of my own"
    assert (project / "params.yaml").read_text() == profiles.compose("smoke")
    assert sorted(file.name for file in project.iterdir()) == [".medseg", "dvc.yaml", "params.yaml", "profiles"]


def test_in_use_is_told_by_values_not_by_how_they_are_written(project: Path) -> None:
    profiles.use("smoke")
    rewritten = (
        repr(content((project / "params.yaml").read_text()))
        .replace("True", "true")
        .replace("False", "false")
        .replace("None", "null")
    )
    (project / "params.yaml").write_text("# my remark\n" + rewritten)
    assert profiles.in_use() == "smoke"
    assert profiles.use("smoke") is None  # nothing to do: the remark stays
    assert (project / "params.yaml").read_text().startswith("# my remark")
    (project / "params.yaml").write_text(rewritten.replace("'overlap': 0.5", "'overlap': 0.25"))
    assert profiles.in_use() is None
