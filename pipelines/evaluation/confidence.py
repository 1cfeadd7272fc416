"""Does the network know when it is wrong? Risk against coverage, calibration, and an interval for a volume.

A structure that was missed is the worst case here too: an empty mask warns nobody, so a case without a confidence
counts as the most certain one, and a volume of which one side is empty as one that no interval covers. With that,
turning a hit into a miss lowers neither the risk at any coverage, nor AURC, nor the width of a volume's interval.
Ratios of these (AURC to random's) and rank correlations have no such law: docs/statistics.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

TOO_FEW, TOO_OFTEN_MISSED, NO_CASE = "too few", "too often missed", "no case"
FEWEST_OF_A_PLACE = 10
ROUNDING = 1e-12

Numbers = Sequence[float] | np.ndarray
Names = Sequence[str] | np.ndarray


@dataclass(frozen=True)
class RiskCoverage:
    """Mean `risk` of the most confident `coverage` of `n` cases, and areas below it, None without a case.

    `aurc`: the mean over all coverages (Geifman and El-Yaniv 2017). `aurc_random`: of a confidence that says nothing,
    the mean risk. `aurc_best`: of one that orders the cases by their risk. `augrc`: the mean over all coverages of
    risk x coverage, what goes undetected of all (Traub et al. 2024); about half of the mean risk if at random.
    """

    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    aurc: float | None
    aurc_random: float | None
    aurc_best: float | None
    augrc: float | None
    n: int


@dataclass(frozen=True)
class Bin:
    """Of `n` answers given with a probability in [low, high), the mean probability and the share that was right."""

    low: float
    high: float
    n: int
    predicted: float | None
    observed: float | None


@dataclass(frozen=True)
class Reliability:
    """`expected_error`: mean distance of predicted and observed over all answers (ECE, Naeini et al. 2015)."""

    bins: tuple[Bin, ...]
    expected_error: float | None
    n: int


@dataclass(frozen=True)
class VolumeInterval:
    """From `lower_factor` to `upper_factor` times a predicted volume lies the reference's, in `level` of patients.

    The factors are None where `note` says why. `measured_coverage`: each patient against the factors of the others.
    `elsewhere_coverage`: the lowest over places (sites, scanners), each against the factors of the other places; it may
    be below `level`, which is promised for patients of the same kind only.
    """

    lower_factor: float | None
    upper_factor: float | None
    level: float
    n: int
    patients: int
    measured_coverage: float | None
    elsewhere_coverage: float | None = None
    note: str = ""

    def of(self, predicted_ml: float) -> tuple[float, float] | None:
        """Bounds in ml. None if there is no interval, or nothing was predicted: no factor reaches from 0."""
        if self.lower_factor is None or self.upper_factor is None or predicted_ml <= 0:
            return None
        return predicted_ml * self.lower_factor, predicted_ml * self.upper_factor


def risk_coverage(confidence: Numbers, risk: Numbers) -> RiskCoverage:
    """`risk`: 1 - Dice, NaN for a case to be left out. `confidence`: NaN counts as certain. Ties share a mean risk."""
    sure, risks = _with_risk(confidence, risk)
    n = len(risks)
    if not n:
        return RiskCoverage((), (), None, None, None, None, 0)
    _, tie, count = np.unique(-sure, return_inverse=True, return_counts=True)
    shared = np.bincount(tie, risks) / count  # by falling confidence
    kept = np.arange(1, n + 1)
    total = np.cumsum(np.repeat(shared, count))
    best = np.cumsum(np.sort(risks)) / kept
    return RiskCoverage(
        tuple((kept / n).tolist()),
        tuple((total / kept).tolist()),
        aurc=float((total / kept).mean()),
        aurc_random=float(risks.mean()),
        aurc_best=float(best.mean()),
        augrc=float((total / n).mean()),
        n=n,
    )


def spearman(confidence: Numbers, dice: Numbers) -> float | None:
    """Rank correlation, ties at their mean rank; None for fewer than 3 cases or if one side is all alike."""
    sure, scores = _with_risk(confidence, dice)
    if len(scores) < 3 or np.ptp(scores) == 0 or (sure == sure[0]).all():
        return None
    return float(np.corrcoef(_ranks(sure), _ranks(scores))[0, 1])


def reliability(edges: Numbers, counts: Numbers, hits: Numbers, probability_sums: Numbers | None = None) -> Reliability:
    """Calibration from a histogram: `edges` (B + 1,), answers and right answers (B,), sums of their probability (B,).

    Without the sums a bin's middle stands for its mean probability. Count no voxel that reference and prediction both
    leave to the background: there are so many of them, and so easy, that any network looks calibrated.
    Raises ValueError if the lengths do not fit or a count is not in 0 <= hits <= counts.
    """
    borders, n, right = (np.asarray(column, float) for column in (edges, counts, hits))
    if not len(borders) - 1 == len(n) == len(right) or not ((right >= 0) & (right <= n)).all():
        raise ValueError(f"{len(borders)} edges need {len(borders) - 1} counts, and hits between 0 and the count")
    middles = (borders[:-1] + borders[1:]) / 2
    some = np.maximum(n, 1)
    predicted = middles if probability_sums is None else np.asarray(probability_sums, float) / some
    observed = right / some
    bins = tuple(
        Bin(float(low), float(high), int(count), *((float(p), float(o)) if count else (None, None)))
        for low, high, count, p, o in zip(borders[:-1], borders[1:], n, predicted, observed, strict=True)
    )
    error = float((n * np.abs(predicted - observed)).sum() / n.sum()) if n.any() else None
    return Reliability(bins, error, int(n.sum()))


def conformal_volume(
    predicted_ml: Numbers, reference_ml: Numbers, patients: Names, level: float = 0.9, places: Names | None = None
) -> VolumeInterval:
    """Factors around a predicted volume by conformal prediction on |log(reference / predicted)|, of one structure.

    Cases of which neither side has a volume are left out. A patient's cases share its weight (Lee, Barber, Willett
    2023), with which at least `level` of new patients' cases are covered, whatever the distribution, and less than 1 in
    (patients + 1) more if each has one. One factor for both directions: two would let a miss narrow the interval.
    "too few" below 2 / (1 - level) - 1 patients (19 for 90 %), from which the excess stays near 3 points.
    Raises ValueError if lengths differ or a volume is negative or not finite.
    """
    scores, known = _scores(predicted_ml, reference_ml)
    order = np.argsort(scores, kind="stable")  # once, for all the quantiles below
    scores, names = scores[order], np.asarray(patients)[known][order]
    count = len(np.unique(names))
    if count < _fewest_for_volume(level):
        return VolumeInterval(None, None, level, len(scores), count, None, None, TOO_FEW if count else NO_CASE)
    widest = _quantile(scores, names, level)
    measured = _measured(scores, names, level)
    elsewhere = None if places is None else _elsewhere(scores, names, np.asarray(places)[known][order], level)
    if np.isinf(widest):
        return VolumeInterval(None, None, level, len(scores), count, measured, elsewhere, TOO_OFTEN_MISSED)
    factor = float(np.exp(widest))
    return VolumeInterval(1 / factor, factor, level, len(scores), count, measured, elsewhere)


def _fewest_for_volume(level: float) -> int:
    return ceil(2 / (1 - level) - 1 - 1e-6)


def _measured(scores: np.ndarray, patients: np.ndarray, level: float) -> float:
    """Mean over patients of the share of its cases within the factor of the other patients."""
    return float(np.mean([_covered(scores, patients, patients == patient, level) for patient in np.unique(patients)]))


def _elsewhere(scores: np.ndarray, patients: np.ndarray, places: np.ndarray, level: float) -> float | None:
    """The lowest coverage of a place by the factor of the others, None unless both sides have 10 patients."""
    shares = [
        _covered(scores, patients, places == place, level)
        for place in np.unique(places)
        if min(len(np.unique(patients[side])) for side in (places == place, places != place)) >= FEWEST_OF_A_PLACE
    ]
    return min(shares, default=None)


def _covered(scores: np.ndarray, patients: np.ndarray, own: np.ndarray, level: float) -> float:
    """A missed or invented structure is never covered."""
    bound = _quantile(scores[~own], patients[~own], level)
    return float(np.mean((scores[own] <= bound) & np.isfinite(scores[own])))


def _quantile(scores: np.ndarray, patients: np.ndarray, level: float) -> float:
    """The smallest of the sorted scores that `level` of a new patient's cases keep to; inf if none is known to be."""
    _, patient, cases = np.unique(patients, return_inverse=True, return_counts=True)
    mass = np.cumsum(1 / cases[patient]) / (len(cases) + 1)
    reached = np.searchsorted(mass, level - ROUNDING)
    return float(scores[reached]) if reached < len(scores) else float("inf")


def _scores(predicted_ml: Numbers, reference_ml: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """|log ratio| of the cases with a volume, inf where one side is empty; and which cases these are."""
    predicted, reference = np.asarray(predicted_ml, float), np.asarray(reference_ml, float)
    if predicted.shape != reference.shape:
        raise ValueError(f"{len(predicted)} predicted and {len(reference)} reference volumes must be of the same cases")
    if not (np.isfinite(predicted) & np.isfinite(reference) & (predicted >= 0) & (reference >= 0)).all():
        raise ValueError("volumes must be finite and not negative")
    known = (predicted > 0) | (reference > 0)
    with np.errstate(divide="ignore"):
        return np.abs(np.log(predicted[known]) - np.log(reference[known])), known


def _with_risk(confidence: Numbers, outcome: Numbers) -> tuple[np.ndarray, np.ndarray]:
    sure, told = np.asarray(confidence, float), np.asarray(outcome, float)
    if sure.shape != told.shape:
        raise ValueError(f"{len(sure)} confidences and {len(told)} outcomes must be of the same cases")
    known = ~np.isnan(told)
    return np.where(np.isnan(sure), np.inf, sure)[known], told[known]


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]
