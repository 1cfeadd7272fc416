"""Overlap metrics and their edge cases."""

from typing import NamedTuple

import numpy as np


class Counts(NamedTuple):
    """Voxels: hit, invented, missed and rightly left: true and false positives, false and true negatives."""

    tp: int
    fp: int
    fn: int
    tn: int


def dice(reference: np.ndarray, predicted: np.ndarray) -> float:
    """Dice overlap of two masks, in [0, 1] (Dice 1945).

    `reference`, `predicted`: bool, same shape. Both empty: NaN, which says nothing about the case and is left out of
    means. One empty: 0, so that a missed structure can only lower a mean.
    Raises ValueError if the shapes differ.
    """
    tp, fp, fn, _ = counts(reference, predicted)
    total = 2 * tp + fp + fn
    return 2 * tp / total if total else float("nan")


def counts(reference: np.ndarray, predicted: np.ndarray) -> Counts:
    """`reference`, `predicted`: bool, same shape. Raises ValueError if the shapes differ."""
    if reference.shape != predicted.shape:
        raise ValueError(f"reference {reference.shape} and predicted {predicted.shape} must have one shape")
    tp = int(np.count_nonzero(reference & predicted))
    fp, fn = (int(np.count_nonzero(mask)) - tp for mask in (predicted, reference))
    return Counts(tp, fp, fn, reference.size - tp - fp - fn)


def mean(values: list[float]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    known = [value for value in values if value == value]
    return float(np.mean(known)) if known else float("nan")
