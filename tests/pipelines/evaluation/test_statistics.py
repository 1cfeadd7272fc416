"""Means, rates and differences by patient: known answers, edge cases, and that no miss improves a printed figure."""

import dataclasses
import json
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from scipy.stats import beta, binom

from pipelines.evaluation import statistics
from pipelines.evaluation.statistics import FEWEST_FOR_MEAN, FEWEST_FOR_RATE, RESAMPLES, Interval

ROUNDING = 1e-9
DIAGONAL_MM = 373.0


def patients(count: int, scans: int = 1) -> list[str]:
    return [f"patient-{index:03}" for index in range(count) for _ in range(scans)]


def some_dice(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).beta(18, 2, count)


def bounds(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


def test_a_mean_lies_within_its_bounds_and_is_said_of_how_many() -> None:
    told = statistics.mean(some_dice(60), patients(30, scans=2))
    low, high = bounds(told)
    assert told.estimate == pytest.approx(some_dice(60).mean())
    assert low < told.estimate < high
    assert (told.n, told.patients, told.note) == (60, 30, "")


def test_the_same_cases_give_the_same_bounds_in_any_order() -> None:
    values, names = some_dice(60), np.array(patients(30, scans=2))
    order = np.random.default_rng(3).permutation(60)
    first, second = statistics.mean(values, names), statistics.mean(values[order], names[order])
    assert bounds(second) == pytest.approx(bounds(first), abs=ROUNDING)
    assert statistics.mean(values, names) == first


def test_a_second_scan_of_the_same_patients_is_no_news() -> None:
    values = some_dice(30)
    twice = statistics.mean(np.repeat(values, 2), patients(30, scans=2))
    assert bounds(twice) == pytest.approx(bounds(statistics.mean(values, patients(30))), abs=ROUNDING)


def test_bounds_follow_a_change_of_units_and_swap_with_the_sign() -> None:
    values, names = some_dice(30), patients(30)
    low, high = bounds(statistics.mean(values, names))
    assert bounds(statistics.mean(5 + 10 * values, names)) == pytest.approx((5 + 10 * low, 5 + 10 * high), abs=1e-7)
    assert bounds(statistics.mean(-values, names)) == pytest.approx((-high, -low), abs=ROUNDING)


def test_too_few_patients_have_a_mean_and_no_bounds() -> None:
    few = FEWEST_FOR_MEAN - 1
    told = statistics.mean(some_dice(few * 3), patients(few, scans=3))
    assert told.estimate is not None
    assert (told.low, told.high, told.note, told.patients) == (None, None, "too few", few)
    assert statistics.mean(some_dice(few + 1), patients(few + 1)).note == ""
    few = FEWEST_FOR_RATE - 1
    assert statistics.rate(np.ones(few), np.ones(few), patients(few)).note == "too few"


def test_cases_without_a_value_are_left_out_and_no_case_is_no_figure() -> None:
    values = np.r_[some_dice(30), np.nan]
    assert statistics.mean(values, patients(31)) == statistics.mean(values[:30], patients(30))
    nothing = statistics.mean([np.nan, np.nan], ["a", "b"])
    assert (nothing.estimate, nothing.n, nothing.note) == (None, 0, "no case")
    assert statistics.rate([0.0], [0.0], ["a"]).note == "no case"
    assert statistics.quantiles([np.nan]).median is None
    assert statistics.paired([np.nan], [np.nan], ["a"]).p is None


def test_values_that_are_all_alike_have_no_bounds() -> None:
    told = statistics.mean(np.ones(30), patients(30))
    assert (told.estimate, told.low, told.note) == (1.0, None, "all alike")


@pytest.mark.parametrize("values", [[1.0, np.inf], [1.0]])
def test_infinite_values_and_unequal_columns_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"infinite|one length"):
        statistics.mean(values, ["a", "b"])


def test_hits_above_trials_and_unknown_directions_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and trials"):
        statistics.rate([2.0], [1.0], ["a"])
    with pytest.raises(ValueError, match="higher or lower"):
        statistics.paired([1.0], [1.0], ["a"], better="larger")


@pytest.mark.parametrize(("hits", "trials"), [(38, 41), (15, 20), (1, 16), (90, 200)])
def test_a_rate_of_one_trial_a_patient_has_jeffreys_interval(hits: int, trials: int) -> None:
    told = bounds(statistics.rate(np.arange(trials) < hits, np.ones(trials), patients(trials)))
    known = beta(hits + 0.5, trials - hits + 0.5)
    for found, share in zip(told, (0.025, 0.975), strict=True):
        deviation = (share * (1 - share) / RESAMPLES) ** 0.5 / known.pdf(known.ppf(share))  # of a sampled quantile
        assert found == pytest.approx(known.ppf(share), abs=5 * deviation)


def test_a_rate_without_a_miss_ends_at_one_and_without_a_hit_at_zero() -> None:
    low, high = bounds(statistics.rate(np.ones(41), np.ones(41), patients(41)))
    assert high == 1.0
    assert 0.9 < low < 0.96
    assert statistics.rate(np.zeros(41), np.ones(41), patients(41)).low == 0.0


def test_lesions_of_few_patients_tell_less_than_lesions_of_many() -> None:
    hits = (np.random.default_rng(0).random(120) < 0.8).astype(float)
    many = bounds(statistics.rate(hits, np.ones(120), patients(120)))
    few = bounds(statistics.rate(np.sort(hits), np.ones(120), patients(20, scans=6)))
    assert few[1] - few[0] > 1.5 * (many[1] - many[0])


def test_quartiles() -> None:
    assert dataclasses.astuple(statistics.quantiles([4.0, 1.0, np.nan, 3.0, 2.0, 5.0])) == (2.0, 3.0, 4.0, 5)


def test_a_paired_comparison_counts_cases_and_gives_the_mean_difference() -> None:
    one = some_dice(30)
    other = one - np.r_[np.full(20, 0.02), np.zeros(6), np.full(4, -0.01)]
    told = statistics.paired(one, other, patients(30))
    assert told.estimate == pytest.approx((20 * 0.02 - 4 * 0.01) / 30)
    assert (told.better, told.equal, told.worse, told.note) == (20, 6, 4, "")
    assert bounds(told) == pytest.approx(bounds(statistics.mean(one - other, patients(30))), abs=ROUNDING)
    assert told.p is not None
    assert told.p < 0.01
    turned = statistics.paired(one, other, patients(30), better="lower")
    assert (turned.better, turned.worse, turned.estimate) == (4, 20, told.estimate)


def test_no_version_is_better_where_the_interval_holds_zero() -> None:
    one = some_dice(30)
    told = statistics.paired(one, one + np.tile([0.01, -0.01], 15), patients(30))
    assert told.note == "no version is better"
    same = statistics.paired(one, one, patients(30))
    assert (same.note, same.equal, same.p, same.low) == ("no version is better", 30, 1.0, None)
    assert statistics.paired(one, one - 0.5, patients(30)).note == "all alike"


def test_a_version_that_invents_a_structure_is_told_apart_from_one_that_rightly_says_nothing() -> None:
    one, other = some_dice(30), some_dice(30, seed=1)
    one[0], other[0] = 0.0, np.nan  # reference empty: the first invents, the second has nothing
    assert statistics.paired(one, other, patients(30)).undecided == 1
    told = statistics.paired(one, other, patients(30), nothing=1.0)
    assert (told.undecided, told.n) == (0, 30)
    assert told.estimate == pytest.approx(np.mean(one - np.r_[1.0, other[1:]]))


def test_the_sign_flip_test_is_exact_but_for_its_draws() -> None:
    told = statistics.paired(np.full(5, 0.1) + 0.01 * np.arange(5), np.zeros(5), patients(5))
    fewest, most = binom.ppf([1e-6, 1 - 1e-6], RESAMPLES, 2 / 2**5)
    assert told.p is not None
    assert fewest <= told.p * (RESAMPLES + 1) - 1 <= most


def test_holm_as_in_a_worked_example() -> None:
    given_p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    assert statistics.holm(given_p) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


def test_figures_are_plain_json() -> None:
    told = statistics.paired(some_dice(30), some_dice(30, seed=1), patients(30))
    assert json.loads(json.dumps(dataclasses.asdict(told), allow_nan=False))["patients"] == 30


def test_five_hundred_patients_take_a_fraction_of_a_second() -> None:
    start = time.process_time()
    statistics.mean(some_dice(1000), patients(500, scans=2))
    assert time.process_time() - start < 1.0


@st.composite
def measured(draw: DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Dice per case and patient, with misses, ties and patients of several scans."""
    scans = draw(st.lists(st.integers(1, 3), min_size=FEWEST_FOR_MEAN, max_size=40))
    values = draw(
        st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.9, 1.0])), min_size=sum(scans), max_size=sum(scans))
    )
    return np.array(values), np.repeat(np.arange(len(scans)), scans)


@given(measured(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_miss_never_improves_a_mean_or_a_bound(cases: tuple[np.ndarray, np.ndarray], data: st.DataObject) -> None:
    values, names = cases
    missed = values.copy()
    missed[data.draw(st.integers(0, len(values) - 1))] = 0.0
    assert_not_above(statistics.mean(missed, names), statistics.mean(values, names))
    distances, worse = DIAGONAL_MM * (1 - values), DIAGONAL_MM * (1 - missed)  # higher is worse
    assert_not_above(statistics.mean(distances, names), statistics.mean(worse, names))


@given(measured(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_miss_never_improves_a_difference(cases: tuple[np.ndarray, np.ndarray], data: st.DataObject) -> None:
    values, names = cases
    other = np.random.default_rng(len(values)).random(len(values))
    missed = values.copy()
    missed[data.draw(st.integers(0, len(values) - 1))] = 0.0
    assert_not_above(statistics.paired(missed, other, names), statistics.paired(values, other, names))
    assert statistics.paired(missed, other, names).better <= statistics.paired(values, other, names).better


@given(measured(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_miss_never_improves_a_rate(cases: tuple[np.ndarray, np.ndarray], data: st.DataObject) -> None:
    values, names = cases
    trials = 1 + np.round(4 * values)
    hits = np.round(trials * np.random.default_rng(len(values)).random(len(values)))
    case = data.draw(st.integers(0, len(values) - 1))
    assume(hits[case] > 0)
    missed = hits.copy()
    missed[case] -= 1
    assert_not_above(statistics.rate(missed, trials, names), statistics.rate(hits, trials, names))


def test_a_miss_that_takes_its_trial_along_never_improves_the_estimate_of_precision() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        said = rng.integers(1, 6, 20).astype(float)
        right = np.minimum(said, rng.integers(0, 6, 20)).astype(float)
        case = int(rng.choice(np.flatnonzero(right)))
        less = np.eye(20)[case]
        before, after = (statistics.rate(right - k, said - k, patients(20)) for k in (0 * less, less))
        assert before.estimate is not None
        assert after.estimate is not None
        assert after.estimate <= before.estimate


def test_symmetric_intervals_would_let_a_miss_raise_the_upper_bound() -> None:
    """Why the bounds are not mean +- t x standard error."""
    values = np.r_[np.full(20, 0.9), np.full(21, 0.88)]
    missed = np.r_[0.0, values[1:]]
    upper_before, upper_after = (v.mean() + 2.02 * v.std(ddof=1) / len(v) ** 0.5 for v in (values, missed))
    assert upper_after > upper_before
    assert_not_above(statistics.mean(missed, patients(41)), statistics.mean(values, patients(41)))


def assert_not_above(lower: Interval, upper: Interval) -> None:
    """Neither estimate nor bounds of the first lie above those of the second."""
    assert lower.estimate is not None
    assert upper.estimate is not None
    assert lower.estimate <= upper.estimate + ROUNDING
    if lower.low is not None and upper.low is not None:
        for one, other in zip(bounds(lower), bounds(upper), strict=True):
            assert one <= other + ROUNDING


def test_bounds_of_many_samples_at_once_are_those_of_each() -> None:
    samples = np.random.default_rng(4).normal(0.8, 0.1, (35, 6))
    each = [statistics.mean(sample, np.arange(35)).low for sample in samples.T]
    np.testing.assert_allclose(statistics.lower_bounds(samples), each, rtol=1e-12)
