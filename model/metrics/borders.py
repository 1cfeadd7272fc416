"""Distances between the border voxels of two masks: the figures of panoptica and MedPy, and so of BraTS.

Another definition than that of `surfaces`, and not comparable with it: a border is made up of voxels, those of a mask
with one of their six neighbours outside it (or beyond the grid), each counts the same whatever its share of the
surface, and both directions are pooled. For the figures of a challenge that are to be its own (brats-evaluation 0.0.10,
panoptica 2.1.7); ours are those of `surfaces`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.metrics.cropping import checked, joint_box
from model.metrics.proximity import distances_mm
from model.metrics.surfaces import EXACTNESS


@dataclass(frozen=True)
class Borders:
    """From each border voxel of one mask to the nearest of the other, mm. One mask empty: 0 and inf; both: NaN."""

    reference_mm: np.ndarray
    predicted_mm: np.ndarray

    def dice(self, tolerance_mm: float) -> float:
        """Mean of the two shares of border voxels within `tolerance_mm` of the other border (panoptica's NSD)."""
        if (outcome := self._of_empty(0.0)) is not None:
            return outcome
        within = tolerance_mm * (1 + EXACTNESS)
        return sum(float(np.mean(side <= within)) for side in (self.reference_mm, self.predicted_mm)) / 2

    def hausdorff_mm(self, percentile: float = 95.0) -> float:
        """Percentile of the pooled distances, interpolated linearly (panoptica's and MedPy's HD95)."""
        if (outcome := self._of_empty(float("inf"))) is not None:
            return outcome
        return float(np.percentile(np.concatenate([self.predicted_mm, self.reference_mm]), percentile))

    def _of_empty(self, worst: float) -> float | None:
        filled = [bool(side.size) for side in (self.reference_mm, self.predicted_mm)]
        return None if all(filled) else worst if any(filled) else float("nan")


def between(reference: np.ndarray, predicted: np.ndarray, spacing_mm: Sequence[float]) -> Borders:
    """Distances between the border voxels of two masks, as `surfaces.between` is called."""
    reference, predicted, spacing = checked(reference, predicted, spacing_mm)
    box = joint_box(reference, predicted)
    if box is None:
        return Borders(np.empty(0), np.empty(0))
    borders = [_border(mask[box]) for mask in (reference, predicted)]
    sides = [distances_mm(other, border, spacing) for border, other in zip(borders, reversed(borders), strict=True)]
    return Borders(*sides)


def _border(mask: np.ndarray) -> np.ndarray:
    """The voxels of the mask that have one of their six neighbours outside it."""
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis in range(3):
        along = padded.swapaxes(0, axis)[:, 1:-1, 1:-1]
        inner &= (along[:-2] & along[2:]).swapaxes(0, axis)
    return mask & ~inner
