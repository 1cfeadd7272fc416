"""Two versions on the same cases: what the gate compares, and what the power of the gate is told from.

A cell is one metric of one structure over all cases, or within one group of cases.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.evaluation import statistics, subgroups
from pipelines.evaluation.definitions import BY_KEY, Metric
from pipelines.evaluation.score import Score, structures_of
from pipelines.release.plan import PerformanceEvaluation

Pair = tuple[Score, Score]


@dataclass(frozen=True)
class Cell:
    """`gains`: of each case, how much better the candidate is, in the metric's unit. `fewest`: patients from which
    their mean has an interval. `margin`: how far below 0 the mean may lie. `group`: as in `source: kits`, or empty."""

    metric: str
    structure: str
    group: str
    gains: np.ndarray
    patients: Sequence[str]
    fewest: int
    margin: float

    @property
    def shown(self) -> str:
        return f"{self.structure}, {self.group}" if self.group else self.structure


def paired_cells(
    candidate: Sequence[Score], champion: Sequence[Score], bounds: PerformanceEvaluation
) -> Iterator[Cell]:
    """Every structure that both were measured on, over all cases and in each group that the plan names."""
    theirs = {(score.case_id, score.structure): score for score in champion}
    pairs = [(ours, theirs[key]) for ours in candidate if (key := (ours.case_id, ours.structure)) in theirs]
    yield from _of_group("", 1.0, pairs, bounds)
    split = subgroups.split_up([ours for ours, _ in pairs])
    for kind, factor in bounds.subgroups.items():
        for value, scores in split.get(kind, {}).items():
            within = {(score.case_id, score.structure) for score in scores}
            own = [pair for pair in pairs if (pair[0].case_id, pair[0].structure) in within]
            yield from _of_group(f"{kind}: {value}", factor, own, bounds)


def lower_bound(interval: statistics.Interval) -> float | None:
    """None where too few were measured. Where all are alike there is no spread: the value itself."""
    return interval.estimate if interval.note == statistics.ALL_ALIKE else interval.low


def fewest_for(metric: str, bounds: PerformanceEvaluation) -> int:
    """Patients from which the mean of a metric is told."""
    return max(BY_KEY[metric].fewest or statistics.FEWEST_FOR_MEAN, bounds.fewest_patients)


def _of_group(group: str, factor: float, pairs: Sequence[Pair], bounds: PerformanceEvaluation) -> Iterator[Cell]:
    for structure in structures_of(ours for ours, _ in pairs):
        own = [pair for pair in pairs if pair[0].structure == structure]
        for metric in bounds.margins:
            gains = [_gain(BY_KEY[metric], pair) for pair in own]
            known = [index for index, gain in enumerate(gains) if not math.isnan(gain)]
            if known:
                yield Cell(
                    metric, structure, group, np.array([gains[index] for index in known]),
                    [own[index][0].patient for index in known], fewest_for(metric, bounds),
                    factor * bounds.margin(metric, structure),
                )  # fmt: skip


def _gain(metric: Metric, pair: Pair) -> float:
    """What neither has is no case. Where one alone rightly said nothing it gets the best value there is, else the
    other's invention would cost nothing (as in pipelines/evaluation/comparison.py)."""
    ours, theirs = (float(getattr(score, metric.key)) for score in pair)
    if math.isnan(ours) and math.isnan(theirs):
        return math.nan
    right = 1.0 if metric.better == "higher" else 0.0
    ours, theirs = (right if math.isnan(value) else value for value in (ours, theirs))
    return ours - theirs if metric.better == "higher" else theirs - ours
