"""Means, rates and differences with 95 % intervals by patient, medians and quartiles. Arithmetic on arrays only.

Every interval comes from the Bayesian bootstrap (Rubin 1981) over patients, each with all of its cases, to which half a
patient as bad as the worst and half a patient as good as the best are added: what a sample has not seen, in the measure
of Jeffreys' half a success and half a failure. Each of the 10,000 weighted means rises with every value and the weights
depend on the number of patients alone, so turning a hit into a miss can move no estimate and no bound for the better.
Mean +- t x standard error lacks that, and so does the bootstrap-t: their upper bound rises with a miss.

The coverage is simulated by `benchmarks/intervals.py`: docs/statistics.md. With fewer patients than the constants below
it leaves 93-97 %: there is no interval then, and `note` says "too few". Only the number of patients decides. A rule
that looked at the values would print just those samples that happen to lack the rare failures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np

LEVEL = 0.95
RESAMPLES = 10_000
LARGEST_DRAW = 10_000_000  # weights held: 80 MB; beyond 1,000 patients the resamples get fewer, never below 1,000
SEED = 17
# Patients from which the simulated coverage is 93-97 %, rarely missed structures apart: docs/statistics.md.
FEWEST_FOR_MEAN = 30  # also for a difference, which is the mean of one
FEWEST_FOR_DISTANCE = 100  # of HD95, which is 1 mm in most cases and 10 in a few: 89-90 % held from 20 to 41 patients
FEWEST_FOR_RATE = 15
TOO_FEW, ALL_ALIKE, NO_CASE, NONE_BETTER = "too few", "all alike", "no case", "no version is better"
EQUAL = 1e-9  # values nearer than that are one value

Numbers = Sequence[float] | np.ndarray
Names = Sequence[str] | np.ndarray


@dataclass(frozen=True)
class Interval:
    """An estimate over `n` cases of `patients` patients; `low` and `high` are None where `note` says why."""

    estimate: float | None
    low: float | None
    high: float | None
    n: int
    patients: int
    note: str = ""


@dataclass(frozen=True)
class Quantiles:
    """Quartiles of `n` cases, None without any. No intervals: docs/statistics.md."""

    q25: float | None
    median: float | None
    q75: float | None
    n: int


@dataclass(frozen=True)
class Difference(Interval):
    """The mean of one version minus another on the same cases, and in how many cases it is the better one.

    `p`: of a sign-flip test by patient, None without a case. `undecided`: cases in which only one of the two has a
    value and nobody said what the other's absence is worth; they are in no other figure.
    """

    better: int = 0
    equal: int = 0
    worse: int = 0
    undecided: int = 0
    p: float | None = None


def mean(values: Numbers, patients: Names, fewest: int | None = None) -> Interval:
    """Mean over cases, each of the same weight. `patients` names each one's; NaN is a case without a value, left out.
    `fewest`: patients from which there is an interval, FEWEST_FOR_MEAN unless told.

    Raises ValueError if a value is infinite (put the metric's worst case in its place first) or the lengths differ.
    """
    given = _numbers(values)
    _same_length(given, patients)
    known = ~np.isnan(given)
    if not known.any():
        return Interval(None, None, None, 0, 0, NO_CASE)
    sums, sizes = _by_patient(np.asarray(patients)[known], given[known], np.ones(known.sum()))
    note = _why_no_bounds(sums / sizes, fewest)
    low, high = (None, None) if note else _bounds_of_mean(sums, sizes)
    return Interval(float(sums.sum() / sizes.sum()), low, high, int(known.sum()), len(sums), note)


def lower_bounds(samples: np.ndarray) -> np.ndarray:
    """Of the means of many samples at once: `mean(...).low` of each column of (patients, samples), a case a patient."""
    weights, half, _ = _weights(len(samples))
    share, size = half[:, None], weights.sum(1)[:, None]
    return np.asarray(
        np.quantile((weights @ samples + share * samples.min(0)) / (size + share), _tail(len(samples)), 0)
    )


def rate(hits: Numbers, trials: Numbers, patients: Names) -> Interval:
    """Hits per trial, pooled over cases: lesions found of those there are, structures not missed; in [0, 1].

    `hits` and `trials` are counts per case. A patient without a trial is left out. For one trial a patient it is
    Jeffreys' interval of a proportion, which ends at 0 without a hit and at 1 without a miss (Brown, Cai, DasGupta
    2001). Where a miss takes a trial away too, as of precision, it improves no estimate but may improve a bound.
    Raises ValueError if a count is not in 0 <= hits <= trials or the lengths differ.
    """
    found, told = _numbers(hits), _numbers(trials)
    _same_length(found, told, patients)
    if not ((found >= 0) & (found <= told)).all():
        raise ValueError("hits must lie between 0 and trials in every case")
    tried = told > 0
    if not tried.any():
        return Interval(None, None, None, 0, 0, NO_CASE)
    sums, sizes = _by_patient(np.asarray(patients)[tried], found[tried], told[tried])
    note = TOO_FEW if len(sums) < FEWEST_FOR_RATE else ""
    low, high = (None, None) if note else _bounds_of_rate(sums, sizes)
    return Interval(float(sums.sum() / sizes.sum()), low, high, int(tried.sum()), len(sums), note)


def quantiles(values: Numbers) -> Quantiles:
    """Quartiles (linear interpolation) of the values that are not NaN."""
    known = _numbers(values)
    known = known[~np.isnan(known)]
    if not len(known):
        return Quantiles(None, None, None, 0)
    lower, median, upper = np.quantile(known, [0.25, 0.5, 0.75])
    return Quantiles(float(lower), float(median), float(upper), len(known))


def paired(
    values: Numbers,
    others: Numbers,
    patients: Names,
    *,
    better: str = "higher",
    nothing: float | None = None,
    fewest: int | None = None,
) -> Difference:
    """Mean of `values` minus `others`, case by case. `better`: which values of the metric are, "higher" or "lower".

    A case without a value for either is left out. Where only one has a value, the other rightly said nothing: it counts
    as `nothing` (1 for Dice, 0 for a distance), or as undecided if that is None. `note` says that no version is better
    where the interval holds 0. `fewest`: as in `mean`.
    Raises ValueError as `mean` does, or if `better` is another word.
    """
    if better not in ("higher", "lower"):
        raise ValueError(f"better must be higher or lower, not {better!r}")
    one, other = _numbers(values), _numbers(others)
    _same_length(one, other, patients)
    half = np.isnan(one) != np.isnan(other)
    if nothing is not None:
        one, other = (np.where(half & np.isnan(side), nothing, side) for side in (one, other))
    differences = one - other
    undecided = int(half.sum()) if nothing is None else 0
    told = mean(differences, patients, fewest)
    gains = differences if better == "higher" else -differences
    won, lost = int((gains > EQUAL).sum()), int((gains < -EQUAL).sum())
    p = _sign_flip_test(differences, patients) if told.n else None
    spans = told.low is not None and told.high is not None and told.low <= 0 <= told.high
    if spans or (told.note == ALL_ALIKE and not won + lost):
        told = replace(told, note=NONE_BETTER)
    equal = told.n - won - lost
    return Difference(**asdict(told), better=won, equal=equal, worse=lost, undecided=undecided, p=p)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values of several comparisons, adjusted so that 5 % bounds the chance of any false "better" (Holm 1979)."""
    adjusted, largest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, p * (len(p_values) - rank)))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def _bounds_of_mean(sums: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """The worst and the best patient are the sample's, as long as the mean patient is; level widened to Student's t."""
    weights, half, _ = _weights(len(sums))
    (total, size), share, tail = _drawn(weights, sums, sizes), half * sizes.mean(), _tail(len(sums))
    low = np.quantile((total + share * (sums / sizes).min()) / (size + share), tail)
    high = np.quantile((total + share * (sums / sizes).max()) / (size + share), 1 - tail)
    return float(low), float(high)


def _bounds_of_rate(sums: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """The worst patient has no hit, the best no miss: that is known of a rate."""
    weights, missed, hit = _weights(len(sums))
    total, size = _drawn(weights, sums, sizes)
    draws = (total + hit * sizes.mean()) / (size + (hit + missed) * sizes.mean())
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return (float(low) if sums.any() else 0.0), (float(high) if (sums < sizes).any() else 1.0)


def _drawn(weights: np.ndarray, sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Weighted sums of both, (2, resamples)."""
    return (weights @ np.column_stack((sums, sizes))).T


@lru_cache(maxsize=2)
def _weights(patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of patients (resamples, patients) and of two half patients (resamples,), the same for the same number.

    Exponential weights over their sum are Dirichlet(1, ..., 1), the Bayesian bootstrap; Gamma(1/2) is half a patient.
    """
    rng = np.random.default_rng((SEED, patients))
    resamples = _resamples(patients)
    weights = rng.standard_exponential((resamples, patients))
    halves = rng.standard_gamma(0.5, (2, resamples))
    return weights, halves[0], halves[1]


@lru_cache
def _tail(patients: int) -> float:
    """Share beyond either bound: less than 2.5 %, as the spread of few is itself uncertain (Hesterberg 2015)."""
    from scipy.special import ndtr, stdtrit  # late: half a second

    return float(ndtr(stdtrit(patients - 1, (1 - LEVEL) / 2) * np.sqrt(patients / (patients - 1))))


def _sign_flip_test(differences: np.ndarray, patients: Names) -> float:
    """p of no difference, two-sided: how often random signs of the patients' sums give a total as far from 0."""
    known = ~np.isnan(differences)
    (sums,) = _by_patient(np.asarray(patients)[known], differences[known])
    rng = np.random.default_rng((SEED, len(sums)))
    heads = rng.integers(0, 2, (_resamples(len(sums)), len(sums)), dtype=np.int8)
    totals = np.abs(2 * (heads @ sums) - sums.sum())
    return float((1 + (totals >= abs(sums.sum()) - EQUAL).sum()) / (1 + len(totals)))


def _resamples(patients: int) -> int:
    return max(1_000, min(RESAMPLES, LARGEST_DRAW // patients))


def _why_no_bounds(means: np.ndarray, fewest: int | None = None) -> str:
    if len(means) < (fewest or FEWEST_FOR_MEAN):
        return TOO_FEW
    return ALL_ALIKE if np.ptp(means) <= EQUAL else ""


def _by_patient(patients: np.ndarray, *columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """Sums over the cases of each patient, in order of their names."""
    _, patient = np.unique(patients, return_inverse=True)
    return tuple(np.bincount(patient, column) for column in columns)


def _numbers(values: Numbers) -> np.ndarray:
    given = np.asarray(values, float)
    if np.isinf(given).any():
        raise ValueError("a value is infinite; put the metric's worst case in its place")
    return given


def _same_length(*columns: Numbers | Names) -> None:
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"columns of {sorted({len(column) for column in columns})} cases must have one length")
