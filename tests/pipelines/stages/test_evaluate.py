"""Scores and their means: a miss counts, an absence says nothing, unknown structures are left alone."""

import json
from pathlib import Path

import numpy as np

from model.data.casefile import Case, CaseRecord
from pipelines.scans import vocabulary
from pipelines.scans.contracts import CONTRACTS
from pipelines.scans.structure import IGNORED
from pipelines.stages.evaluate import Score, score_case, summarise
from pipelines.work.writing import write_json

BRATS = CONTRACTS["brats"].annotated
WORDS = vocabulary.default()


def case(annotated: tuple[str, ...]) -> Case:
    nothing = np.zeros((2, 2, 2), np.uint8)
    record = CaseRecord("c", "brats", "test", ("FLAIR",), annotated, (1.0, 1.0, 1.0), {})
    return Case(record, nothing[None].astype(np.float16), nothing, np.zeros((0, 4), np.int32))


def test_a_region_is_the_union_of_its_parts() -> None:
    reference, predicted = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    reference[0], predicted[0] = WORDS["tumour_oedema"].id, WORDS["tumour_enhancing"].id
    found = {score.structure: score.dice for score in score_case(case(BRATS), reference, predicted)}
    assert found["whole_tumour"] == 1
    assert found["tumour_oedema"] == 0
    assert np.isnan(found["tumour_necrotic_core"])


def test_a_structure_that_was_not_annotated_is_not_scored() -> None:
    predicted = np.full((4, 4, 4), WORDS["kidney"].id, np.uint8)
    scores = list(score_case(case(("kidney",)), predicted, predicted))
    assert [score.structure for score in scores] == ["kidney"]


def test_a_structure_that_no_scan_of_the_cohort_has_is_not_scored() -> None:
    """Nobody showed it to the network: a voxel of it would be a Dice of 0 that says nothing of the others."""
    reference = np.full((4, 4, 4), WORDS["kidney"].id, np.uint8)
    predicted = reference.copy()
    predicted[0] = WORDS["liver"].id
    scores = score_case(case(("kidney", "liver")), reference, predicted, frozenset({"liver"}))
    assert [score.structure for score in scores] == ["kidney"]


def score(structure: str, dice: float, source: str = "brats", case_id: str = "a") -> Score:
    return Score(case_id, source, structure, dice, 1, 1)


def test_means_leave_out_absences_but_never_misses() -> None:
    nan = float("nan")
    found = summarise([score("kidney", 0.8), score("kidney", 0.0, case_id="b"), score("kidney", nan, case_id="c")])
    assert found["dice"] == {"kidney": 0.4}
    assert found["by_source"]["brats"]["kidney"] == {"dice": 0.4, "cases": 2}
    assert found["cases"] == 3


def test_regions_do_not_count_twice_in_the_mean() -> None:
    found = summarise([score("tumour_oedema", 0.5), score("whole_tumour", 1.0)])
    assert found["mean_dice"] == 0.5


def test_a_structure_nobody_has_is_none_and_valid_json(tmp_path: Path) -> None:
    found = summarise([score("kidney", float("nan"))])
    assert found["dice"] == {"kidney": None}
    write_json(tmp_path / "metrics.json", found)
    assert json.loads((tmp_path / "metrics.json").read_text()) == found


def test_labels_through_a_contract_and_back_are_themselves() -> None:
    for contract in CONTRACTS.values():
        label = np.array([[[0, *contract.values]]], np.uint8)
        np.testing.assert_array_equal(contract.from_structures(contract.to_structures(label), WORDS), label)


def test_a_union_is_found_where_its_parts_are() -> None:
    """A source called a kidney what the network tells as left and right; and the other way round."""
    reference = np.full((4, 4, 4), WORDS["kidney"].id, np.uint8)
    predicted = np.full((4, 4, 4), WORDS["kidney_left"].id, np.int16)
    predicted[2:] = WORDS["kidney_right"].id
    assert {score.structure: score.dice for score in score_case(case(("kidney",)), reference, predicted)} == {
        "kidney": 1
    }
    found = {s.structure: s.dice for s in score_case(case(("kidney_left", "kidney_right")), predicted, predicted)}
    assert found == {"kidney_left": 1, "kidney_right": 1, "kidney": 1}


def test_undecided_voxels_are_scored_neither_way() -> None:
    reference = np.full((4, 4, 4), WORDS["spleen"].id, np.int16)
    reference[2:] = IGNORED
    predicted = np.full((4, 4, 4), WORDS["spleen"].id, np.uint8)
    (found,) = score_case(case(("spleen",)), reference, predicted)
    assert (found.dice, found.reference_voxels, found.predicted_voxels) == (1, 32, 32)
