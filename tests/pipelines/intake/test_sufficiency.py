"""What a cohort cannot do is told when it is taken in, not after a training."""

from dataclasses import replace

import pytest

from pipelines.intake import sufficiency
from pipelines.scans.manifest import TEST, TRAIN, VALIDATION, Row

DECLARED = ["spleen", "liver"]


def row(number: int, split: str, drawn: list[str], source: str = "nnunet", quarantined: str = "") -> Row:
    name = f"{source}-{number}"
    return Row(name, name, source, split, ["CT"], [], DECLARED, quarantined=quarantined, drawn=drawn)


def cohort(count: int = 10, drawn: tuple[str, ...] = ("spleen", "liver")) -> list[Row]:
    return [row(number, TEST if number % 5 == 0 else TRAIN, list(drawn)) for number in range(count)]


def test_a_sound_cohort_is_not_remarked_on() -> None:
    assert sufficiency.check([*cohort(), row(99, VALIDATION, DECLARED)]) == []
    assert sufficiency.never_drawn(cohort()) == set()


@pytest.mark.parametrize(
    "rows", [cohort(1), [row(0, TRAIN, DECLARED)], [*cohort(1), row(1, TRAIN, [], quarantined="a label is empty")]]
)
def test_without_a_patient_to_train_on_and_one_held_out_the_stage_stops(rows: list[Row]) -> None:
    with pytest.raises(ValueError, match=r"have a label, . of them to train on and . held out: a run needs a patient"):
        sufficiency.check(rows)


def test_a_source_that_is_held_out_only_and_a_cohort_without_labels_are_told() -> None:
    told = sufficiency.check([*cohort(), row(0, TEST, ["spleen"], "kits")])
    assert "kits: 1 patients with a label, none to train on: evaluation will leave them out" in told
    (told,) = sufficiency.check([replace(each, annotated=[], drawn=[]) for each in cohort()])
    assert told.startswith("no usable scan has a label")


def test_few_patients_are_told() -> None:
    lone = row(0, TRAIN, ["spleen"], "kits")
    told = sufficiency.check([*cohort(), lone])
    assert told == ["kits: 1 patients with a label and none held out: it will have no Dice"]
    told = sufficiency.check([*cohort(), lone, row(1, TEST, ["spleen"], "kits")])
    assert told == ["kits: 2 patients with a label, 1 held out: too few for its Dice"]


def test_a_structure_that_training_never_shows_is_told_and_one_that_nobody_drew_is_not_scored() -> None:
    rows = cohort(drawn=("spleen",))
    (told,) = sufficiency.check(rows)
    assert told == (
        "nnunet: liver is declared, and has no voxel in any training label; no scan has it, and it is not scored"
    )
    assert sufficiency.never_drawn(rows) == {"liver"}
    (told,) = sufficiency.check([*rows, row(10, TEST, DECLARED)])
    assert told.endswith("no voxel in any training label; 1 other scans have it")
    assert sufficiency.never_drawn([*rows, row(10, TEST, DECLARED)]) == set()
