"""How many lesions were found, of all patients together, and of which size: rates with intervals by patient."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pipelines.evaluation import statistics
from pipelines.evaluation.score import Score

BOUNDS_ML = (0.1, 1.0, 10.0)  # spheres of 6, 12 and 27 mm
SIZES = ("below 0.1 ml", "0.1 to 1 ml", "1 to 10 ml", "above 10 ml")


def rates(scores: Sequence[Score]) -> dict[str, Any] | None:
    """Of one structure; None if it has no lesions (definitions.py). By the size of the reference's lesion."""
    known = [score for score in scores if score.lesions or score.lesions_invented]
    if not known:
        return None
    patients = [score.patient for score in known]
    found = [score.lesions_found for score in known]
    return {
        "lesions": sum(score.lesions for score in known),
        "sensitivity": asdict(statistics.rate(found, [score.lesions for score in known], patients)),
        "precision": asdict(statistics.rate(found, [s.lesions_found + s.lesions_invented for s in known], patients)),
        "by_size": {size: each for index, size in enumerate(SIZES) if (each := _of_size(known, index))},
    }


def _of_size(scores: Sequence[Score], index: int) -> dict[str, Any] | None:
    """None if the reference has no lesion of it."""
    there, found = ([_counted(each)[index] for each in both] for both in zip(*map(_volumes, scores), strict=True))
    if not sum(there):
        return None
    rate = statistics.rate(found, there, [score.patient for score in scores])
    return {"lesions": sum(there), "found": sum(found), "sensitivity": asdict(rate)}


def _volumes(score: Score) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return score.lesions_ml, score.lesions_found_ml


def _counted(volumes_ml: Sequence[float]) -> Counter[int]:
    return Counter(bisect_right(BOUNDS_ML, volume) for volume in volumes_ml)
