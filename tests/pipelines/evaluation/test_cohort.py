"""Means leave out absences but never misses; groups, warnings and lesions are told beside them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.evaluation import detection, subgroups, warnings
from pipelines.evaluation.cohort import summarise
from pipelines.scans import vocabulary
from pipelines.work.writing import write_json
from tests.pipelines.evaluation.made import NOTHING, cohort, scored

WORDS = vocabulary.default()


def test_means_leave_out_absences_but_never_misses() -> None:
    found = summarise([scored("a", 0.8), scored("b", 0.0), scored("c", NOTHING)], WORDS)
    assert found["dice"] == {"kidney": 0.4}
    assert found["by_source"]["kits"]["kidney"] == {"dice": 0.4, "cases": 2}
    assert (found["cases"], found["patients"]) == (3, 3)
    kidney = found["structures"]["kidney"]
    assert kidney["cases"] == {"scored": 1, "missed": 1, "invented": 0, "absent": 1, "cut": 0}
    assert (kidney["dice"]["mean"], kidney["dice"]["n"], kidney["dice"]["low"]) == (0.4, 2, None)
    assert kidney["dice"]["note"] == "too few"


def test_regions_do_not_count_twice_in_the_mean() -> None:
    found = summarise([scored("a", 0.5, "tumour_oedema"), scored("a", 1.0, "whole_tumour")], WORDS)
    assert found["mean_dice"] == 0.5


def test_a_structure_nobody_has_is_none_and_valid_json(tmp_path: Path) -> None:
    found = summarise([scored("a", NOTHING)], WORDS)
    assert found["dice"] == {"kidney": None}
    assert "dice" not in found["structures"]["kidney"]
    write_json(tmp_path / "metrics.json", found)
    assert json.loads((tmp_path / "metrics.json").read_text()) == found


def test_an_interval_holds_its_mean_and_is_drawn_by_patient() -> None:
    dice = summarise(cohort(30), WORDS)["structures"]["kidney"]["dice"]
    assert dice["low"] < dice["mean"] < dice["high"]
    twice = [replace(score, case_id=f"{score.case_id}-{eye}") for score in cohort(20) for eye in "lr"]
    assert summarise(twice, WORDS)["structures"]["kidney"]["dice"]["note"] == "too few"  # 20 patients, not 40


def test_a_cohort_is_split_by_what_tells_its_cases_apart_and_by_nothing_else() -> None:
    other = [replace(score, case_id=f"x{score.case_id}", source="own", slice_mm=5.0) for score in cohort(3)]
    found = subgroups.split_up([*cohort(9), *other])
    assert {kind: list(values) for kind, values in found.items()} == {
        "source": ["kits", "own"],
        "slice": ["up to 1.5 mm", "3 to 6 mm"],
    }
    assert [len(values) for values in found["source"].values()] == [9, 3]


def test_sizes_are_thirds_of_a_structures_own_volumes() -> None:
    scores = [replace(score, reference_ml=float(index)) for index, score in enumerate(cohort(10))]
    size = subgroups.thirds(scores)
    assert "case-00" not in {case for case, _ in size}  # absent from the reference: of no size
    assert [size[f"case-{index:02d}", "kidney"] for index in (1, 5, 9)] == ["small", "medium", "large"]
    assert subgroups.thirds(scores[:8]) == {}  # too few for thirds


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"true_positives": 80, "false_negatives": 20}, "fewer than 100 voxels"),
        ({"border_share": 0.8}, "80% of its voxels lie at its border"),
        ({"cut": True}, "Cut by the field of view in 20 of 20 scans"),
        ({"reference_ml": 0.0}, "No held-out scan has it"),
    ],
)
def test_where_a_figure_misleads_it_is_said(change: dict[str, object], words: str) -> None:
    assert any(words in sentence for sentence in warnings.of_structure(cohort(20, **change)))
    assert warnings.of_structure(cohort(20)) == []


def test_lesions_are_counted_over_all_patients_and_by_size() -> None:
    one = scored("a", 0.5, lesions=3, lesions_found=2, lesions_ml=(0.05, 0.5, 20.0), lesions_found_ml=(0.5, 20.0))
    other = scored("b", 0.0, lesions=1, lesions_invented=4, lesions_ml=(0.02,))
    found = detection.rates([one, other])
    assert found is not None
    assert found["sensitivity"]["estimate"] == 0.5
    assert found["precision"]["estimate"] == pytest.approx(2 / 6)
    assert {size: (each["found"], each["lesions"]) for size, each in found["by_size"].items()} == {
        "below 0.1 ml": (0, 2), "0.1 to 1 ml": (1, 1), "above 10 ml": (1, 1),
    }  # fmt: skip
    assert detection.rates(cohort(3)) is None
