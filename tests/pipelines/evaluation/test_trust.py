"""Confidence against what came out; a miss warned nobody."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from pipelines.evaluation import trust
from tests.pipelines.evaluation.made import cohort, scored


def test_a_confidence_that_orders_the_cases_is_worth_something() -> None:
    scores = [replace(score, confidence=score.dice - 0.1) for score in cohort(20)]
    found = trust.of_structures(scores)["kidney"]
    assert found["confidence"]["spearman"] == pytest.approx(1)
    curve = found["confidence"]["risk_coverage"]
    assert curve["aurc"] == pytest.approx(curve["aurc_best"])
    assert curve["aurc"] < curve["aurc_random"]
    assert "flip_dice" not in found
    assert found["volume"]["lower_factor"] == found["volume"]["upper_factor"] == 1  # made so


def test_a_miss_with_a_low_confidence_is_no_warning() -> None:
    """An empty mask has a confidence of 0, which would make the curve look well ordered: nobody is shown a mask."""
    scores = [replace(score, confidence=0.9) for score in cohort(20)]
    missed = trust.of_structures([*scores, scored("m", 0.0, confidence=0.0)])["kidney"]["confidence"]["risk_coverage"]
    assert missed["risk"][0] == 1


@dataclass
class Counted:
    edges: np.ndarray
    counts: np.ndarray
    right: np.ndarray
    probability: np.ndarray


def test_calibration_is_over_the_voxels_of_all_cases() -> None:
    edges = np.array([0.0, 0.5, 1.0])
    one = Counted(edges, np.array([0, 10]), np.array([0, 9]), np.array([0.0, 9.0]))
    other = Counted(edges, np.array([10, 10]), np.array([1, 5]), np.array([4.0, 9.0]))
    found = trust.calibrated([one, None, other])
    assert found is not None
    assert [each["observed"] for each in found["bins"]] == [0.1, 0.7]
    assert found["expected_error"] == pytest.approx((10 * 0.3 + 20 * 0.2) / 30)
    assert trust.calibrated([None]) is None
