"""Two evaluations of the same cases: paired differences with intervals, and where in the structures they differ.

A pair counts if either has a value. Where neither reference nor prediction has the structure, that version did right:
it gets the best value there is, else the other's invention would cost it nothing.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import edt
import numpy as np
from scipy import ndimage

from pipelines.evaluation import statistics
from pipelines.evaluation.definitions import METRICS, Metric
from pipelines.evaluation.score import Score, structures_of

BINS = (18, 36)  # of elevation (feet to head) and azimuth (left, front, right, back): 10 degrees each


def differences(first: Sequence[Score], other: Sequence[Score]) -> list[dict[str, Any]]:
    """Every structure and metric that both were measured on: the first's mean minus the other's.

    Each: structure, metric, mean, low, high, n, note, better, equal, worse (cases, as the first does), p, and p_holm,
    which allows for the number of structures compared by that metric. Raises ValueError if they share no case.
    """
    theirs = {(score.case_id, score.structure): score for score in other}
    pairs = [(mine, theirs[key]) for mine in first if (key := (mine.case_id, mine.structure)) in theirs]
    if not pairs:
        raise ValueError("the two were measured on no case in common; evaluate both on the same held-out scans")
    found = []
    for metric in METRICS:
        told = {
            name: _difference(metric, [p for p in pairs if p[0].structure == name]) for name in structures_of(first)
        }
        known = {name: each for name, each in told.items() if each.n}
        adjusted = statistics.holm({name: each.p for name, each in known.items() if each.p is not None})
        found += [_record(name, metric.key, each, adjusted.get(name)) for name, each in known.items()]
    return found


def cases_in_common(first: Sequence[Score], other: Sequence[Score]) -> tuple[list[str], list[str]]:
    """Those that both have, and those that only one has."""
    one, two = ({score.case_id for score in scores} for scores in (first, other))
    return sorted(one & two), sorted(one ^ two)


def _difference(metric: Metric, pairs: Sequence[tuple[Score, Score]]) -> statistics.Difference:
    values = [(getattr(mine, metric.key), getattr(theirs, metric.key)) for mine, theirs in pairs]
    mine, theirs = np.array(values, dtype=float).reshape(-1, 2).T
    right = 1.0 if metric.better == "higher" else 0.0
    patients = [pair[0].patient for pair in pairs]
    return statistics.paired(mine, theirs, patients, better=metric.better, nothing=right, fewest=metric.fewest)


def _record(structure: str, metric: str, found: statistics.Difference, p_holm: float | None) -> dict[str, Any]:
    return {
        "structure": structure, "metric": metric, "mean": found.estimate, "low": found.low, "high": found.high,
        "n": found.n, "note": found.note, "better": found.better, "equal": found.equal, "worse": found.worse,
        "p": found.p, "p_holm": p_holm,
    }  # fmt: skip


class ShiftMap:
    """Where the surface of a structure lies otherwise in one version than in the other, seen from its middle.

    Every part of the other's surface has a direction from the reference's middle; its distance to the first's surface,
    outwards positive, is averaged in bins of 10 degrees over all cases. A shift that Dice hides is a bright spot.
    """

    def __init__(self) -> None:
        self._sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(BINS))
        self._counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(BINS))

    def add(
        self,
        structure: str,
        reference: np.ndarray,
        first: np.ndarray,
        other: np.ndarray,
        spacing_mm: tuple[float, float, float],
    ) -> None:
        """Masks (D, H, W), towards head, front and right. A case in which one is empty tells nothing."""
        if not (reference.any() and first.any() and other.any()):
            return
        apart_mm = _outwards(first, spacing_mm)
        border = np.argwhere(other & ~ndimage.binary_erosion(other))
        middle = np.argwhere(reference).mean(0)
        bins = _directions((border - middle) * np.asarray(spacing_mm))
        np.add.at(self._sums[structure], bins, apart_mm[tuple(border.T)])
        np.add.at(self._counts[structure], bins, 1)

    def maps(self) -> dict[str, np.ndarray]:
        """structure -> mean shift in mm, (elevation, azimuth); NaN where no surface was seen."""
        with np.errstate(invalid="ignore"):
            return {name: sums / self._counts[name] for name, sums in self._sums.items()}


def _outwards(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Distance of every voxel to the mask's surface, mm: positive outside, 0 on its outermost voxels."""
    surface = ~(mask & ~ndimage.binary_erosion(mask))
    distance = edt.edt(surface, anisotropy=spacing_mm, black_border=False)
    return np.where(mask, -distance, distance)


def _directions(offsets_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bins of offsets (n, 3): elevation from the feet up; azimuth from the left by the front and right to the back."""
    up, front, right = offsets_mm.T
    elevation = np.arctan2(up, np.hypot(front, right)) / np.pi + 0.5
    azimuth = np.arctan2(front, -right) / (2 * np.pi) % 1
    rows = np.minimum((elevation * BINS[0]).astype(int), BINS[0] - 1)
    return rows, np.minimum((azimuth * BINS[1]).astype(int), BINS[1] - 1)
