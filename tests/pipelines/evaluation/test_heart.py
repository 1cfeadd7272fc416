"""End-diastole is the largest left ventricle, end-systole the smallest; a missed ventricle is the worst error."""

import pytest

from pipelines.evaluation import heart, subgroups
from pipelines.evaluation.score import Score
from tests.pipelines.evaluation.made import scored


def frames(patient: str, reference_ml: tuple[float, ...], predicted_ml: tuple[float, ...]) -> list[Score]:
    return [
        scored(
            f"{patient}-{k}",
            0.9,
            "left_ventricle",
            patient=patient,
            modality="CINE",
            reference_ml=one,
            predicted_ml=two,
        )
        for k, (one, two) in enumerate(zip(reference_ml, predicted_ml, strict=True))
    ]


def test_the_phases_are_those_of_the_reference() -> None:
    assert heart.phases(frames("p", (60.0, 120.0, 90.0), (80.0, 70.0, 1.0))) == {"p-1": "ED", "p-0": "ES"}
    assert heart.phases(frames("p", (60.0,), (60.0,))) == {}


def test_an_ejection_fraction_is_in_percent_and_its_error_in_points() -> None:
    (found,) = heart.pumped(frames("p", (60.0, 120.0), (60.0, 100.0)))
    assert found.reference_percent == 50
    assert found.predicted_percent == pytest.approx(40)
    assert found.error_percent == pytest.approx(10)


def test_a_missed_ventricle_costs_all_of_it() -> None:
    scores = [*frames("p", (60.0, 120.0), (60.0, 120.0)), *frames("q", (60.0, 120.0), (0.0, 0.0))]
    assert heart.errors(scores)["left_ventricle"] == {"mean_error_points": 50, "bias_points": 0, "patients": 2}


def test_scans_that_are_no_cine_have_no_phase() -> None:
    assert heart.errors([scored("a", 0.9, "left_ventricle"), scored("b", 0.9, "left_ventricle")]) == {}


def test_the_phases_are_groups_of_their_own() -> None:
    split = subgroups.split_up(frames("p", (60.0, 120.0, 90.0), (60.0, 100.0, 80.0)))
    assert {phase: [score.case_id for score in own] for phase, own in split["phase"].items()} == {
        "ED": ["p-1"], "ES": ["p-0"], "not known": ["p-2"],
    }  # fmt: skip
