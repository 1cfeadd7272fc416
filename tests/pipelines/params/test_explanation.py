"""`medseg params show`: what a setting is, its bounds, and where its value comes from."""

from pathlib import Path

import pytest

from pipelines import params
from pipelines.params import explanation, fields, profiles
from tests.pipelines.params.test_profiles import project  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("project")


def shown(key: str) -> dict[str, object]:
    """The one row that is not of the whole block."""
    (row,) = explanation.explain(key)
    return row


def test_every_setting_is_explained() -> None:
    profiles.use("smoke")
    rows = explanation.explain()
    assert [row["key"] for row in rows] == [key for key, _ in fields.settings()]
    for row in rows:
        assert list(row) == ["key", "value", "from", "type", "bound", "description"]
        assert row["type"], row
        assert row["description"], row


def test_a_value_comes_from_the_base_a_profile_or_ones_own_change(project: Path) -> None:  # noqa: F811
    (project / "profiles/longer.yaml").write_text("extends: smoke\ntrain: {steps: 1000, seed: 3}\n")
    profiles.use("longer", ["train.seed=4", "ingest.quality.tiny_mm3.liver=5.0"])
    origins = {row["key"]: row["from"] for row in explanation.explain()}
    assert origins["train.steps"] == "profile longer"
    assert origins["train.learning_rate"] == "profile smoke"
    assert origins["train.optimizer"] == "base"
    assert origins["train.seed"] == origins["ingest.quality.tiny_mm3"] == "own change"


def test_what_may_be_left_out_is_told_as_planned(project: Path) -> None:  # noqa: F811
    profiles.use("smoke")
    target = project / "params.yaml"
    target.write_text(target.read_text().replace("  ct_scale_hu: auto\n", ""))
    assert params.load(target).preprocess.ct_scale_hu is None
    row = shown("preprocess.ct_scale_hu")
    assert (row["value"], row["from"], row["type"]) == ("auto", "default", "4 numbers, or auto")


@pytest.mark.parametrize(
    ("key", "kind", "bound"),
    [
        ("train.steps", "whole number", "1 to 10,000,000"),
        ("train.learning_rate", "number", "above 0, at most 1"),
        ("train.beta2", "number", "at least 0, below 1"),
        ("train.compile", "true or false", ""),
        ("train.optimizer", "word", "adamw, muon"),
        ("train.patch_size", "by name: 3 whole numbers, or auto", "8 to 1,024"),
        ("train.patch_size.brats", "by name: 3 whole numbers, or auto", "8 to 1,024"),
        (
            "data.sources",
            "list of words",
            "msd, acdc, brats, kits, lits, bids, nnunet, totalsegmentator, flare, pairs, dicom, phantom",
        ),
        ("train.augment.flip_axes", "list of whole numbers", "0, 1, 2"),
        ("register.name", "word", "^[a-z][a-z0-9_-]{1,62}$"),
    ],
)
def test_types_and_bounds_are_told_in_words(key: str, kind: str, bound: str) -> None:
    profiles.use("smoke")
    row = shown(key)
    assert (row["type"], row["bound"]) == (kind, bound)


def test_a_block_is_explained_whole_and_no_more() -> None:
    profiles.use("smoke")
    assert [row["key"] for row in explanation.explain("register")] == ["register.name", "register.released"]
    assert {row["key"].rpartition(".")[0] for row in explanation.explain("train.augment")} == {"train.augment"}


@pytest.mark.parametrize(
    ("key", "told"), [("trian", "unknown key trian; did you mean 'train'?"), ("train.stepz", "did you mean 'steps'?")]
)
def test_an_unknown_key_is_refused_with_the_nearest(key: str, told: str) -> None:
    profiles.use("smoke")
    with pytest.raises(params.ParamsError) as refused:
        explanation.explain(key)
    assert told in str(refused.value)
