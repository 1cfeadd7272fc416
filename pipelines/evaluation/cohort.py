"""What metrics.json says: of every structure its figures with intervals, over all cases and group by group.

    {"mean_dice": 0.88, "structures": {"kidney": {"dice": {"mean", "low", "high", "n", "note", "q25", "median", "q75"},
     "cases": {"scored", "missed", "invented", "absent", "cut"}, "warnings": [...]}}, "groups": {"source": {...}}, ...}

None stands for what has no value, as NaN is no JSON. `mean_dice` is over structures, regions left out.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pipelines.evaluation import detection, statistics, subgroups, warnings
from pipelines.evaluation.definitions import BY_KEY, METRICS
from pipelines.evaluation.score import Score, structures_of
from pipelines.scans.vocabulary import Vocabulary

STATUSES = ("scored", "missed", "invented", "absent")


def summarise(scores: Sequence[Score], words: Vocabulary) -> dict[str, Any]:
    """Of all scores of a cohort."""
    by_structure = {name: [score for score in scores if score.structure == name] for name in structures_of(scores)}
    dice = {name: _mean([score.dice for score in own]) for name, own in by_structure.items()}
    split = subgroups.split_up(scores)
    return {
        "mean_dice": _or_none(
            _mean([value for name, value in dice.items() if not _told_by_parts(name, list(dice), words)])
        ),
        "dice": {name: _or_none(value) for name, value in dice.items()},
        "by_source": _by_source(scores),
        "cases": len({score.case_id for score in scores}),
        "patients": len({score.patient for score in scores}),
        "structures": {
            name: {**figures(own), "tolerance_mm": words[name].tolerance_mm, "warnings": warnings.of_structure(own)}
            for name, own in by_structure.items()
        },
        "groups": {
            kind: {
                value: {name: figures([s for s in own if s.structure == name]) for name in structures_of(own)}
                for value, own in values.items()
            }
            for kind, values in split.items()
        },
    }


def figures(scores: Sequence[Score]) -> dict[str, Any]:
    """Of one structure: every metric that has a value, and how many cases are of which kind."""
    counted = Counter(str(score.status) for score in scores)
    cases = {status: counted[status] for status in STATUSES}
    cases["cut"] = sum(score.cut for score in scores)
    measured = {metric.key: figure(scores, metric.key) for metric in METRICS}
    lesions = {"lesions": told} if (told := detection.rates(scores)) else {}
    found = {"found": asdict(_found(scores))}
    return {**{key: each for key, each in measured.items() if each["n"]}, **lesions, **found, "cases": cases}


def _found(scores: Sequence[Score]) -> statistics.Interval:
    """Of the cases whose reference has it, the share in which it was found at all."""
    drawn = [score for score in scores if score.status in ("scored", "missed")]
    hits = [float(score.status == "scored") for score in drawn]
    return statistics.rate(hits, [1.0] * len(drawn), [score.patient for score in drawn])


def figure(scores: Sequence[Score], key: str) -> dict[str, Any]:
    """One metric's mean with its interval by patient, median and quartiles. `n`: cases with a value."""
    known = [score for score in scores if not math.isnan(getattr(score, key))]
    values = np.array([getattr(score, key) for score in known], dtype=float)
    if not len(values):
        return {"mean": None, "low": None, "high": None, "n": 0, "note": "no case"}
    mean = statistics.mean(values, [score.patient for score in known], BY_KEY[key].fewest)
    middle = statistics.quantiles(values)
    return {
        "mean": mean.estimate,
        "low": mean.low,
        "high": mean.high,
        "n": len(values),
        "note": mean.note,
        "q25": middle.q25,
        "median": middle.median,
        "q75": middle.q75,
    }


def _by_source(scores: Sequence[Score]) -> dict[str, dict[str, dict[str, float | int | None]]]:
    found: dict[str, dict[str, dict[str, float | int | None]]] = {}
    for source in sorted({score.source for score in scores}):
        own = [score for score in scores if score.source == source]
        found[source] = {
            name: _entry([score.dice for score in own if score.structure == name]) for name in structures_of(own)
        }
    return found


def _entry(dice: Sequence[float]) -> dict[str, float | int | None]:
    return {"dice": _or_none(_mean(dice)), "cases": sum(not math.isnan(value) for value in dice)}


def _told_by_parts(name: str, scored: Sequence[str], words: Vocabulary) -> bool:
    """A union with structures within that are scored themselves: the mean would count these twice."""
    return any(words.atoms(other) < words.atoms(name) for other in scored)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else float("nan")


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
