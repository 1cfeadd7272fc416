"""Two masks and the part of the grid that concerns them."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def checked(
    reference: np.ndarray, predicted: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """The masks and the spacing as given; ValueError if they cannot be compared."""
    if reference.shape != predicted.shape or reference.ndim != 3:
        raise ValueError(f"reference {reference.shape} and predicted {predicted.shape} must have one shape (D, H, W)")
    if reference.dtype != bool or predicted.dtype != bool:
        raise ValueError(f"masks must be boolean, not {reference.dtype} and {predicted.dtype}: pass label == value")
    spacing = tuple(float(step) for step in spacing_mm)
    if len(spacing) != 3 or not all(0 < step < np.inf for step in spacing):
        raise ValueError(f"spacing_mm {spacing} must be three positive lengths, one an axis")
    return reference, predicted, spacing


def joint_box(*masks: np.ndarray) -> tuple[slice, ...] | None:
    """The smallest box with all that is in any of the masks; None if they are empty."""
    box: list[slice] = []
    for axis in range(masks[0].ndim):
        inside: tuple[Any, ...] = (*box, ...)  # every axis is searched within the box of those before it
        others = tuple(other for other in range(masks[0].ndim) if other != axis)
        filled = np.flatnonzero(np.logical_or.reduce([mask[inside].any(axis=others) for mask in masks]))
        if not filled.size:
            return None
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)
