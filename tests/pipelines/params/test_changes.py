"""`--set` changes the lines it means and nothing else, or is refused in the words of params.yaml's own errors."""

import difflib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipelines import params
from pipelines.params import changes, profiles
from tests.pipelines.params.test_profiles import project  # noqa: F401 - a fixture

SMOKE = profiles.compose("smoke")


def changed(text: str, *wished: str) -> list[str]:
    """The lines taken away and put in."""
    lines = difflib.ndiff(text.splitlines(), changes.apply(text, wished).splitlines())
    return [line for line in lines if line.startswith(("+ ", "- "))]


def value(key: str, *wished: str) -> Any:
    content = YAML(typ="safe", pure=True).load(changes.apply(SMOKE, wished))
    for part in key.split("."):
        content = content[part]
    return content


@pytest.mark.parametrize(
    ("wished", "lines"),
    [
        (["train.steps=200"], ["-   steps: 500", "+   steps: 200"]),
        (["train.seed=1", "pretrain.seed=1"], ["-   seed: 0", "+   seed: 1"] * 2),
        (["model.preset=tiny"], ["-   preset: nano", "+   preset: tiny"]),
        (["train.learning_rate=5e-3"], ["-   learning_rate: 0.006", "+   learning_rate: 5e-3"]),
        (["ingest.quality.tiny_mm3.liver=9.0"], ["+       liver: 9.0"]),
        (["train.patch_size.brats=auto"], ["+     brats: auto"]),
        (["data.sources=[acdc]"], ["-   - phantom", "+   - acdc"]),
        (["data.sources=[phantom, acdc]"], ["+   - acdc"]),
        (["preprocess.spacing_mm.acdc=[10.0, 1.5, 1.2]"], ["-     - 1.5", "+     - 1.2"]),
        ([], []),
        (["train.steps=500"], []),
    ],
)
def test_a_change_touches_the_lines_it_means(wished: list[str], lines: list[str]) -> None:
    assert sorted(changed(SMOKE, *wished)) == sorted(lines)


def test_comments_stay_also_those_of_ones_own_and_any_style() -> None:
    text = SMOKE.replace("  steps: 500", "  # as long as\n  # lunch takes\n  steps: 500 # or so")
    text = text.replace("  - phantom\n", "  - phantom # made up\n  # of the split\n")
    block = "\n  overlap: 0.5\n  flips: []\n  max_left_out_fraction: 0.0\n  references: 200"
    text = text.replace(block, " {overlap: 0.5, flips: [], max_left_out_fraction: 0.0, references: 200} # mine")
    assert changed(text, "train.steps=200") == ["-   steps: 500 # or so", "+   steps: 200 # or so"]
    assert changed(text, "evaluate.overlap=0.25") == [
        "- evaluate: {overlap: 0.5, flips: [], max_left_out_fraction: 0.0, references: 200} # mine",
        "+ evaluate: {overlap: 0.25, flips: [], max_left_out_fraction: 0.0, references: 200} # mine",
    ]
    longer = changes.apply(text, ["data.sources=[phantom, kits]"])
    assert "  - phantom\n  - kits" in longer
    assert longer.count("# of the split") == 1


@pytest.mark.parametrize("name", profiles.names())
def test_every_profile_can_be_changed_by_one_line(name: str) -> None:
    assert len(changed(profiles.compose(name), "train.seed=7")) == 2


def test_a_value_is_yaml() -> None:
    assert value("train.patch_size.default", "train.patch_size.default=[48, 48, 48]") == [48, 48, 48]
    assert value("preprocess.ct_scale_hu", "preprocess.ct_scale_hu=[-100, 200, 50.0, 1e2]") == [-100, 200, 50.0, 100.0]
    assert value("train.compile", "train.compile=true") is True
    assert value("train.patch_size", "train.patch_size={default: auto}") == {"default": "auto"}
    assert value("train.steps", "train.steps=600", "train.steps=700") == 700


@pytest.mark.parametrize(
    ("wished", "told"),
    [
        ("train.stepz=20", "--set train.stepz=20: unknown key train.stepz; did you mean 'steps'?"),
        ("trian.steps=20", "--set trian.steps=20: unknown key trian; did you mean 'train'?"),
        ("train.steps.more=1", "--set train.steps.more=1: unknown key train.steps.more"),
        ("train=20", "--set train=20: train is a block; set one of its keys: "),
        ("train.steps", "--set train.steps must be KEY=VALUE, as in --set train.steps=20"),
        ("train.steps=", "--set train.steps= must be KEY=VALUE"),
        ("=20", "--set =20: unknown key"),
        ("train.steps=[", "--set train.steps=[: not valid YAML"),
        ("train.steps=many", "params.yaml with --set: train.steps = 'many': must be a valid integer"),
        (
            "train.steps=0",
            "params.yaml with --set: train.steps = 0: must be greater than or equal to 1; set train.steps",
        ),
        ("train.steps=20", "params.yaml with --set: train.warmup_steps 30 must be below train.steps 20; a tenth is"),
        ("train.patch_size.ct=auto", "params.yaml with --set: train.patch_size: unknown source 'ct'"),
    ],
)
def test_an_impossible_change_is_refused_with_the_remedy(wished: str, told: str) -> None:
    with pytest.raises(params.ParamsError) as refused:
        changes.apply(SMOKE, [wished])
    assert str(refused.value).startswith(told)
    assert "\n" not in str(refused.value)


def test_a_table_that_was_left_out_may_be_given() -> None:
    text = SMOKE.replace("  normalisation:\n    default: auto\n", "")
    assert changed(text, "preprocess.normalisation.default=window") == ["+   normalisation:", "+     default: window"]


def test_params_that_were_bad_before_are_not_blamed_on_the_change() -> None:
    with pytest.raises(params.ParamsError, match=r"^params\.yaml: evaluate\.overlap = 5"):
        changes.apply(SMOKE.replace("overlap: 0.5", "overlap: 5"), ["train.steps=300"])


def test_use_changes_params_in_place_or_on_top_of_a_profile(project: Path) -> None:  # noqa: F811
    profiles.use("smoke")
    target = project / "params.yaml"
    target.write_text(target.read_text().replace("overlap: 0.5", "overlap: 0.25 # mine"))
    assert profiles.use(None, ["train.steps=300"]) is None
    assert params.load(target).train.steps == 300
    assert "overlap: 0.25 # mine" in target.read_text()
    kept = profiles.use("smoke", ["train.steps=200"])
    assert kept is not None
    assert params.load(kept).train.steps == 300
    assert params.load(target).train.steps == 200
    assert params.load(target).evaluate.overlap == 0.5
    assert profiles.use("smoke", ["train.steps=200"]) is None  # it is already so
    before = target.read_bytes()
    with pytest.raises(params.ParamsError):
        profiles.use("smoke", ["train.steps=many"])
    assert target.read_bytes() == before
    assert len(list((project / ".medseg").glob("params-*.yaml"))) == 1
