"""Two versions on the same cases: what each did better, and where their surfaces lie apart."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.evaluation.comparison import BINS, ShiftMap, cases_in_common, differences
from tests.pipelines.evaluation.made import NOTHING, cohort, scored

ONE_MM = (1.0, 1.0, 1.0)


def test_a_difference_is_of_the_same_cases() -> None:
    better = [replace(score, dice=score.dice + 0.02) for score in cohort(20)]
    found = {each["metric"]: each for each in differences(better, cohort(25))}
    dice = found["dice"]
    assert dice["mean"] == pytest.approx(0.02)
    assert (dice["n"], dice["better"], dice["equal"], dice["worse"]) == (20, 20, 0, 0)
    assert (found["hd95_mm"]["mean"], found["hd95_mm"]["equal"]) == (0, 20)
    assert cases_in_common(better, cohort(21)) == ([s.case_id for s in better], ["case-20"])


def test_what_one_invents_and_the_other_does_not_is_no_lost_case() -> None:
    absent = [scored(f"case-{index}", NOTHING) for index in range(20)]
    invented = [replace(score, status="invented", dice=0.0, hd95_mm=30.0) for score in absent]
    found = {each["metric"]: each for each in differences(absent, invented)}
    assert (found["dice"]["mean"], found["dice"]["better"]) == (1, 20)
    assert (found["hd95_mm"]["mean"], found["hd95_mm"]["better"]) == (-30, 20)


def test_without_a_case_in_common_nothing_is_compared() -> None:
    with pytest.raises(ValueError, match="no case in common"):
        differences(cohort(2), [scored("other", 0.5)])


def ball(shift: int = 0) -> np.ndarray:
    """Shifted towards the head."""
    offsets = np.indices((40, 40, 40)) - 20
    offsets[0] -= shift
    return np.asarray((offsets**2).sum(0) <= 144)


def test_a_shift_towards_the_head_is_seen_outwards_there_and_inwards_at_the_feet() -> None:
    shifts = ShiftMap()
    shifts.add("liver", ball(), ball(), ball(2), ONE_MM)
    found = shifts.maps()["liver"]
    assert found.shape == BINS
    assert np.nanmean(found[-3:]) == pytest.approx(2, abs=0.5)
    assert np.nanmean(found[:3]) == pytest.approx(-2, abs=0.5)
    assert abs(np.nanmean(found[8:10])) < 0.5


def test_the_map_says_left_right_front_and_back() -> None:
    for axis, step, azimuth in ((1, 3, 9), (2, 3, 18), (1, -3, 27), (2, -3, 0)):
        shifts = ShiftMap()
        shifts.add("liver", ball(), ball(), np.roll(ball(), step, axis), ONE_MM)
        row = np.nanmean(shifts.maps()["liver"][7:11], axis=0)
        assert abs(int(np.nanargmax(row)) - azimuth) % 36 in (0, 1, 2, 34, 35)


def test_an_empty_mask_tells_nothing() -> None:
    shifts = ShiftMap()
    shifts.add("liver", ball(), ball(), np.zeros_like(ball()), ONE_MM)
    assert shifts.maps() == {}
