"""Overlap metrics and their edge cases."""

import numpy as np


def dice(reference: np.ndarray, predicted: np.ndarray) -> float:
    """Dice overlap of two masks, in [0, 1] (Dice 1945).

    `reference`, `predicted`: bool, same shape. Both empty: NaN, which says nothing about the case and is left out of
    means. One empty: 0, so that a missed structure can only lower a mean.
    Raises ValueError if the shapes differ.
    """
    if reference.shape != predicted.shape:
        raise ValueError(f"reference {reference.shape} and predicted {predicted.shape} must have one shape")
    total = int(reference.sum()) + int(predicted.sum())
    return 2 * int((reference & predicted).sum()) / total if total else float("nan")


def mean(values: list[float]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    known = [value for value in values if value == value]
    return float(np.mean(known)) if known else float("nan")
