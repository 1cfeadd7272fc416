"""Risk and coverage, reliability, conformal volumes: known answers, promises kept, and what a miss does to each."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from pipelines.evaluation import confidence
from pipelines.evaluation.confidence import VolumeInterval

ROUNDING = 1e-9
risks = st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.1, 1.0])), min_size=2, max_size=12)


def test_risk_and_coverage_by_hand() -> None:
    told = confidence.risk_coverage([0.9, 0.1, 0.5], [0.1, 0.6, 0.2])
    assert told.coverage == pytest.approx([1 / 3, 2 / 3, 1])
    assert told.risk == pytest.approx([0.1, 0.15, 0.3])
    assert (told.aurc, told.aurc_random) == pytest.approx(((0.1 + 0.15 + 0.3) / 3, 0.3))
    assert told.aurc_best == told.aurc
    assert told.augrc == pytest.approx((0.1 + 0.3 + 0.9) / 9)


@given(risks)
def test_the_best_order_is_the_best_and_a_constant_confidence_is_random(given_risks: list[float]) -> None:
    told = confidence.risk_coverage(np.zeros(len(given_risks)), given_risks)
    assert told.aurc == pytest.approx(told.aurc_random)
    ordered = confidence.risk_coverage(-np.array(given_risks), given_risks)
    assert ordered.aurc == pytest.approx(ordered.aurc_best)
    wrong = confidence.risk_coverage(given_risks, given_risks)
    assert wrong.aurc is not None
    assert wrong.aurc_best is not None
    assert wrong.aurc_best <= wrong.aurc + ROUNDING


@given(risks, st.data())
@settings(deadline=None)
def test_a_miss_never_lowers_a_risk_whether_its_confidence_stays_or_is_lost(
    given_risks: list[float], data: st.DataObject
) -> None:
    sure = np.array(
        data.draw(st.lists(st.sampled_from([0.2, 0.5, 0.8]), min_size=len(given_risks), max_size=len(given_risks)))
    )
    case = data.draw(st.integers(0, len(given_risks) - 1))
    missed, unsaid = np.array(given_risks), sure.copy()
    missed[case], unsaid[case] = 1.0, np.nan
    before = confidence.risk_coverage(sure, given_risks)
    for after in (confidence.risk_coverage(sure, missed), confidence.risk_coverage(unsaid, missed)):
        assert np.all(np.array(after.risk) >= np.array(before.risk) - ROUNDING)
        for field in ("aurc", "aurc_random", "aurc_best", "augrc"):
            assert getattr(after, field) >= getattr(before, field) - ROUNDING


def test_a_miss_may_improve_the_ratio_to_random_and_the_rank_correlation() -> None:
    """No law holds of these two: whoever prints them prints AURC and the number of misses beside them."""
    sure, given_risks = np.array([0.9, 0.8, 0.7, 0.2]), np.array([0.1, 0.1, 0.2, 0.1])
    missed = np.array([0.1, 0.1, 0.2, 1.0])
    before, after = (confidence.risk_coverage(sure, each) for each in (given_risks, missed))
    assert before.aurc is not None
    assert before.aurc_random is not None
    assert after.aurc is not None
    assert after.aurc_random is not None
    assert after.aurc / after.aurc_random < before.aurc / before.aurc_random
    correlated = [confidence.spearman(sure, 1 - each) for each in (given_risks, missed)]
    assert correlated[0] is not None
    assert correlated[1] is not None
    assert correlated[1] > correlated[0]


def test_no_case_has_no_risk_and_cases_without_a_risk_are_left_out() -> None:
    assert confidence.risk_coverage([0.5], [np.nan]).aurc is None
    assert confidence.risk_coverage([0.5, 0.6], [np.nan, 0.2]).n == 1
    with pytest.raises(ValueError, match="same cases"):
        confidence.risk_coverage([0.5, 0.6], [0.2])


def test_rank_correlation_is_scipys_and_says_nothing_of_what_does_not_vary() -> None:
    rng = np.random.default_rng(0)
    sure, dice = np.round(rng.random(30), 1), rng.random(30)
    assert confidence.spearman(sure, dice) == pytest.approx(spearmanr(sure, dice).statistic)
    assert confidence.spearman(np.ones(30), dice) is None
    assert confidence.spearman(sure, np.ones(30)) is None
    assert confidence.spearman(sure[:2], dice[:2]) is None


def test_a_calibrated_network_has_no_expected_error_and_an_overconfident_one_has_it() -> None:
    told = confidence.reliability([0.5, 0.7, 0.9, 1.0], [100, 0, 300], [60, 0, 285], [60.0, 0.0, 285.0])
    assert told.expected_error == pytest.approx(0.0)
    assert [each.observed for each in told.bins] == pytest.approx([0.6, None, 0.95])
    assert (told.bins[1].n, told.bins[1].predicted, told.n) == (0, None, 400)
    over = confidence.reliability([0.5, 0.7, 0.9, 1.0], [100, 0, 300], [40, 0, 225])
    assert over.expected_error == pytest.approx((100 * 0.2 + 300 * 0.2) / 400)


def test_histograms_that_do_not_fit_are_refused_and_empty_ones_have_no_error() -> None:
    assert confidence.reliability([0.0, 1.0], [0], [0]).expected_error is None
    for counts, hits in (([1, 1], [1, 1]), ([1], [2])):
        with pytest.raises(ValueError, match="edges need"):
            confidence.reliability([0.0, 1.0], counts, hits)


def volumes(
    count: int, seed: int = 0, scans: int = 1, spread: float = 0.1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    reference = np.exp(rng.normal(3, 1, count * scans))
    shared = np.repeat(rng.normal(0, spread, count), scans)
    predicted = reference * np.exp(shared + rng.normal(0, spread / 3, count * scans))
    return predicted, reference, np.repeat(np.arange(count), scans)


@pytest.mark.parametrize(("count", "rank"), [(19, 18), (39, 36), (40, 37)])
def test_the_factor_is_the_order_statistic_of_split_conformal_prediction(count: int, rank: int) -> None:
    predicted, reference, names = volumes(count)
    told = confidence.conformal_volume(predicted, reference, names)
    expected = np.exp(np.sort(np.abs(np.log(reference / predicted)))[rank - 1])
    assert (told.upper_factor, told.lower_factor) == pytest.approx((expected, 1 / expected))
    assert told.of(10.0) == pytest.approx((10 / expected, 10 * expected))


@pytest.mark.parametrize("scans", [1, 2])
@pytest.mark.parametrize("count", [19, 41])
def test_new_patients_are_covered_as_promised(count: int, scans: int) -> None:
    """The mean over calibrations is at least 90 %, and by one case a patient less than 1 / (n + 1) more."""
    predicted, reference, _ = volumes(5000, seed=99)
    ratios = np.abs(np.log(reference / predicted))
    shares = []
    for seed in range(200):
        factor = confidence.conformal_volume(*volumes(count, seed, scans)).upper_factor
        assert factor is not None
        shares.append(np.mean(ratios <= np.log(factor)))
    error = 4 * np.std(shares) / 200**0.5 + 4 * (0.9 * 0.1 / 5000) ** 0.5  # of the calibrations, of the new patients
    assert np.mean(shares) >= 0.9 - error
    if scans == 1:
        assert np.mean(shares) <= 0.9 + 1 / (count + 1) + error


def test_the_measured_coverage_is_that_of_patients_left_out() -> None:
    told = confidence.conformal_volume(*volumes(41))
    assert told.measured_coverage == pytest.approx(0.9, abs=1 / 41)
    assert told.elsewhere_coverage is None


def test_another_scanner_may_be_covered_less_and_is_told() -> None:
    predicted, reference, names = volumes(60)
    predicted[:20] *= 1.5
    scanner = np.where(np.arange(60) < 20, "odd", "usual")
    told = confidence.conformal_volume(predicted, reference, names, places=scanner)
    assert told.elsewhere_coverage is not None
    assert told.elsewhere_coverage < 0.5
    lone = np.where(np.arange(60) < 5, "odd", "usual")
    assert confidence.conformal_volume(predicted, reference, names, places=lone).elsewhere_coverage is None


def test_too_few_patients_have_no_interval() -> None:
    told = confidence.conformal_volume(*volumes(18, scans=3))
    assert (told.upper_factor, told.note, told.patients, told.of(5.0)) == (None, "too few", 18, None)
    assert confidence.conformal_volume(*volumes(19)).note == ""
    assert confidence.conformal_volume(*volumes(20), level=0.95).note == "too few"
    assert confidence.conformal_volume([0.0], [0.0], ["a"]).note == "no case"


@pytest.mark.parametrize("side", [0, 1])
def test_missed_and_invented_structures_are_never_covered(side: int) -> None:
    columns = volumes(41)
    columns[side][:2] = 0.0
    told = confidence.conformal_volume(*columns)
    assert told.measured_coverage is not None
    assert told.measured_coverage <= 39 / 41
    assert told.of(0.0) is None
    columns[side][:10] = 0.0
    assert confidence.conformal_volume(*columns).note == "too often missed"


def test_absent_structures_are_left_out_and_impossible_volumes_refused() -> None:
    predicted, reference, names = volumes(20)
    with_absent = [np.r_[column, 0.0] for column in (predicted, reference)]
    told = confidence.conformal_volume(*with_absent, np.r_[names, 99])
    assert told == confidence.conformal_volume(predicted, reference, names)
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            confidence.conformal_volume([bad], [1.0], ["a"])
    with pytest.raises(ValueError, match="same cases"):
        confidence.conformal_volume([1.0], [1.0, 2.0], ["a", "b"])


@given(st.integers(19, 60), st.integers(0, 10_000), st.integers(1, 2), st.integers(0, 18))
@settings(max_examples=40, deadline=None)
def test_a_miss_never_narrows_an_interval(count: int, seed: int, scans: int, case: int) -> None:
    predicted, reference, names = volumes(count, seed, scans)
    before = confidence.conformal_volume(predicted, reference, names)
    predicted[case] = 0.0
    after = confidence.conformal_volume(predicted, reference, names)
    assert before.upper_factor is not None
    assert after.upper_factor is None or after.upper_factor >= before.upper_factor - ROUNDING


def test_an_interval_comes_back_from_a_model_card() -> None:
    told = confidence.conformal_volume(*volumes(41))
    assert VolumeInterval(**json.loads(json.dumps(dataclasses.asdict(told), allow_nan=False))) == told
