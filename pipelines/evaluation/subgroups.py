"""By what an evaluation is split: source, site, scanner, modality, slice thickness, heart phase, size of the structure.

A kind that does not split a cohort - one source, no scanner known - is left out. Sizes are thirds of a structure's own
reference volumes in the cohort; a structure that is invented has none.
"""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from pipelines.evaluation import heart
from pipelines.evaluation.score import Score

Groups = dict[str, dict[str, list[Score]]]  # kind -> value -> scores
SLICES_MM = (1.5, 3.0, 6.0)
_SLICES = ("up to 1.5 mm", "1.5 to 3 mm", "3 to 6 mm", "above 6 mm")
SIZES = ("small", "medium", "large")
LEAST_FOR_SIZES = 9  # cases with the structure: three a third


def split_up(scores: Sequence[Score]) -> Groups:
    """Every kind that tells cases apart, its values in order."""
    size, phase = thirds(scores), heart.phases(scores)
    told_by: dict[str, Callable[[Score], str]] = {
        "source": lambda score: score.source,
        "site": lambda score: score.site,
        "scanner": lambda score: score.scanner,
        "modality": lambda score: score.modality,
        "slice": lambda score: slices(score.slice_mm),
        "phase": lambda score: phase.get(score.case_id, ""),
        "size": lambda score: size.get((score.case_id, score.structure), ""),
    }
    found: Groups = {}
    for kind, told in told_by.items():
        values: dict[str, list[Score]] = defaultdict(list)
        for score in scores:
            values[told(score)].append(score)
        if len([value for value in values if value]) > 1:
            found[kind] = {value or "not known": values[value] for value in sorted(values, key=_order)}
    if "size" in found:  # what has no size is absent or invented: told of the whole, and in no third
        found["size"].pop("not known", None)
    return found


def thirds(scores: Sequence[Score]) -> dict[tuple[str, str], str]:
    """(case, structure) -> the third of the structure's reference volumes that it lies in."""
    volumes: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        if score.reference_ml > 0:
            volumes[score.structure].append(score.reference_ml)
    bounds = {
        name: np.quantile(known, (1 / 3, 2 / 3)).tolist()
        for name, known in volumes.items()
        if len(known) >= LEAST_FOR_SIZES
    }
    return {
        (score.case_id, score.structure): SIZES[bisect_right(bounds[score.structure], score.reference_ml)]
        for score in scores
        if score.reference_ml > 0 and score.structure in bounds
    }


def slices(slice_mm: float) -> str:
    return "" if math.isnan(slice_mm) else _SLICES[bisect_right(SLICES_MM, slice_mm - 1e-6)]


def _order(value: str) -> tuple[int, str]:
    known = (*_SLICES, *SIZES)
    return (known.index(value) if value in known else len(known), value)
