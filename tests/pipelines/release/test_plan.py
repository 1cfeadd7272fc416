"""The release plan: what it may say, and how what it may not is refused."""

from pathlib import Path

import pytest

from pipelines.release import plan
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / plan.FILE).read_text()


def test_the_shipped_plan_is_valid_and_has_the_sections_of_a_change_control_plan() -> None:
    found = plan.parse(TEXT)
    sections = ["description_of_modifications", "modification_protocol", "impact_assessment"]
    assert list(type(found).model_fields) == sections
    assert found.bounds.margin("dice", "kidney") == 0.03
    assert found.bounds.floor("dice", "kidney") == 0.5
    assert found.bounds.named_structures() == []


def test_a_structure_may_have_a_margin_and_a_floor_of_its_own() -> None:
    text = TEXT.replace("dice: {default: 0.03}", "dice: {default: 0.03, liver_tumour: 0.05}")
    found = plan.parse(text.replace("dice: {default: 0.5}", "dice: {default: 0.5, liver: 0.9}"))
    assert (found.bounds.margin("dice", "liver_tumour"), found.bounds.margin("dice", "liver")) == (0.05, 0.03)
    assert found.bounds.floor("dice", "liver") == 0.9
    assert found.bounds.named_structures() == ["liver_tumour", "liver"]


def test_the_digest_is_of_the_content_and_not_of_its_spelling() -> None:
    before = plan.digest(plan.parse(TEXT))
    assert plan.digest(plan.parse(f"# mine\n{TEXT}".replace("600.0", "6e2"))) == before
    assert plan.digest(plan.parse(TEXT.replace("dice: {default: 0.5}", "dice: {default: 0.49}"))) != before
    assert plan.digest(plan.parse(TEXT.replace("Training anew", "Training"))) != before


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("level: 0.95", "level: 0.9", "must be 0.95, the one whose coverage is simulated"),
        ("{default: 0.03}", "{kidney: 0.03}", "margins.dice has no entry `default`"),
        ("{default: 0.03}", "{default: 0.0}", "margins.dice.default: 0 must be above 0"),
        ("dice: {default: 0.03}", "dise: {default: 0.03}", "no metric 'dise'; did you mean 'dice'?"),
        ("dice: {default: 0.5}", "hd95_mm: {default: 5.0}", "floors: no metric 'hd95_mm'"),
        ("source: 1.0", "hospital: 1.0", "subgroups.hospital"),
        ("source: 1.0", "source: 0.0", "source: 0 must be above 0"),
        ("looks_allowed: 20", "looks_allowed: 0", "looks_allowed = 0: must be greater than or equal to 1"),
        ("looks_allowed", "looks_alowed", "unknown key"),
        ("  benefits:", "  benefit:", "impact_assessment.benefits is missing"),
        ("left_out_allowed: 0 ", "left_out_allowed: .nan", "left_out_allowed"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(before: str, after: str, told: str) -> None:
    assert before in TEXT
    with pytest.raises(ValueError, match=r"plan\.yaml") as refused:
        plan.parse(TEXT.replace(before, after))
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "[1]", "a: {", "a: 1\na: 2"])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"plan\.yaml"):
        plan.parse(text)


def test_without_a_plan_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").touch()
    with pytest.raises(ValueError, match=r"release/plan\.yaml: no such file; `medseg init \.` writes one"):
        plan.read()
