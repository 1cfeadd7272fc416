"""What the gate can show on a test set: how often a version passes that is truly so much worse than the champion.

    power(scores, None, bounds, (41, 100)) -> GatePower

Told before training, of figures that there are: a version's cases stand for the population, samples of its patients are
drawn from it, and the gate's own lower bounds are asked of each. What two versions differ by is known of two (`other`).
Of one alone it is taken to be the difference between two random patients, narrowed until the two versions' figures
correlate by `agreement`. The true differences are then added: bounds move with them, so a sample answers for all.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pipelines.evaluation import statistics
from pipelines.evaluation.definitions import METRICS
from pipelines.evaluation.score import Score
from pipelines.release.pairing import Cell, paired_cells
from pipelines.release.plan import PerformanceEvaluation

AGREEMENT = 0.7  # of Dice, measured of two unlike networks on 41 hippocampi: 0.55 to 0.83
SHARES = tuple(np.round(np.arange(-1.5, 0.51, 0.125), 3).tolist())  # true differences, in margins
TOLD = (0.0, -0.5, -1.0)
EVERYTHING = "all together"
SEED = 23


@dataclass(frozen=True)
class PassingRate:
    """Of one comparison, or of all together, on test sets of so many patients: true difference in margins -> how often
    it passes. With `note` "too few" it never does."""

    patients: int
    structure: str
    group: str
    metric: str
    margin: float | None
    passes: dict[float, float]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "passes": {f"{share:g}": rate for share, rate in self.passes.items()}}


@dataclass(frozen=True)
class GatePower:
    """`patients`: of the figures it is told from. `agreement`: assumed; None: two versions were compared."""

    patients: int
    agreement: float | None
    rates: list[PassingRate]

    def to_json(self) -> dict[str, Any]:
        return {
            "patients": self.patients,
            "agreement": self.agreement,
            "rates": [rate.to_json() for rate in self.rates],
        }

    def together(self) -> dict[int, dict[float, float]]:
        """Patients -> true difference in margins -> how often all comparisons pass."""
        return {rate.patients: rate.passes for rate in self.rates if rate.structure == EVERYTHING}


def power(
    scores: Sequence[Score],
    other: Sequence[Score] | None,
    bounds: PerformanceEvaluation,
    sizes: Sequence[int],
    agreement: float = AGREEMENT,
    repetitions: int = 1000,
) -> GatePower:
    """`sizes`: numbers of patients. Raises ValueError if nothing can be compared."""
    compared = list(paired_cells(scores, _blank(scores) if other is None else other, bounds))
    if not compared:
        raise ValueError("no structure has a figure to compare; evaluate first")
    names, columns = _by_patient(compared)
    spread = (1 - agreement) ** 0.5  # the difference of two patients has twice the variance of one
    rates = []
    for size in sizes:
        rng = np.random.default_rng((SEED, size))
        samples = [_sample(columns, size, rng, None if other else spread) for _ in range(repetitions)]
        rates += _rates(size, _lower_bounds(np.stack(samples), compared), compared)
    return GatePower(len(names), None if other else agreement, rates)


def _blank(scores: Sequence[Score]) -> list[Score]:
    """A version of which nothing is known but the cases: with it a cell's gains are the version's own figures, up to a
    constant, which falls out of the difference of two patients."""
    keys = [metric.key for metric in METRICS]
    return [replace(score, **{key: 0.0 * getattr(score, key) for key in keys}) for score in scores]  # NaN stays NaN


def _by_patient(compared: Sequence[Cell]) -> tuple[list[str], np.ndarray]:
    """Mean gain of every patient (patients, cells); NaN where a patient is not of the cell."""
    names = sorted({patient for cell in compared for patient in cell.patients})
    place = {name: row for row, name in enumerate(names)}
    found = np.full((len(names), len(compared)), np.nan)
    for column, cell in enumerate(compared):
        rows = np.array([place[patient] for patient in cell.patients])
        counts = np.bincount(rows, minlength=len(names))
        sums = np.bincount(rows, cell.gains, minlength=len(names))
        found[counts > 0, column] = sums[counts > 0] / counts[counts > 0]
    return names, found


def _sample(columns: np.ndarray, size: int, rng: np.random.Generator, spread: float | None) -> np.ndarray:
    """Gains of `size` patients whose true mean is 0, (size, cells)."""
    one = columns[rng.integers(0, len(columns), size)]
    if spread is None:
        return one - np.nanmean(columns, axis=0)
    return spread * (one - columns[rng.integers(0, len(columns), size)])


def _lower_bounds(samples: np.ndarray, compared: Sequence[Cell]) -> np.ndarray:
    """As the gate takes them, in margins (repetitions, cells); NaN where it cannot tell. `samples`: (repetitions,
    patients, cells)."""
    lows = np.full(samples.shape[::2], np.nan)
    for column, cell in enumerate(compared):
        known = ~np.isnan(samples[:, :, column])
        counts = known.sum(1)
        for count in np.unique(counts[counts >= cell.fewest]):
            of_count = counts == count
            values = samples[of_count, :, column][known[of_count]].reshape(-1, count)
            lows[of_count, column] = statistics.lower_bounds(values.T) / cell.margin
    return lows


def _rates(size: int, lows: np.ndarray, compared: Sequence[Cell]) -> list[PassingRate]:
    """`lows`: (repetitions, cells), for a true difference of 0."""
    passed = {share: lows + share > -1 for share in SHARES}  # NaN does not
    found = [
        PassingRate(
            size, cell.structure, cell.group, cell.metric, cell.margin,
            {share: float(held[:, column].mean()) for share, held in passed.items()},
            statistics.TOO_FEW if np.isnan(lows[:, column]).all() else "",
        )
        for column, cell in enumerate(compared)
    ]  # fmt: skip
    together = {share: float(held.all(axis=1).mean()) for share, held in passed.items()}
    return [*found, PassingRate(size, EVERYTHING, "", "", None, together)]
