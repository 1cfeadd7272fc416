"""Distances between the surfaces of two masks, weighted by area: surface Dice, HD95, mean (Nikolov et al. 2018).

The definition is that of DeepMind's surface-distance: the surface of a mask is made up of the cells between 2x2x2
voxels that are not all inside or all outside (beyond the grid all is outside), each with the area that marching cubes
gives it (`elements`), and the distance from a cell to the other surface is that of their centres. A grid of one slice
is measured within its plane, by contours and their lengths: its voxels have no neighbours from which to tell a surface
above and below. A tolerance holds up to one part in a million, the exactness of a distance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.metrics import elements
from model.metrics.cropping import checked, joint_box
from model.metrics.proximity import distances_mm

EXACTNESS = 1e-6  # of a distance, relative: far ones are float32


@dataclass(frozen=True)
class Directed:
    """From each element of one surface to the other one; `inf` where there is no other, empty where there is no one."""

    distances_mm: np.ndarray  # (N,) float64
    areas_mm2: np.ndarray  # (N,) float64

    def area_within(self, tolerance_mm: float) -> float:
        return float(self.areas_mm2[self.distances_mm <= tolerance_mm * (1 + EXACTNESS)].sum())

    def percentile_mm(self, percentile: float) -> float:
        """The distance that this percentage of the area does not exceed."""
        order = np.argsort(self.distances_mm)
        reached = np.cumsum(self.areas_mm2[order])
        place = np.searchsorted(reached, percentile / 100 * reached[-1])
        return float(self.distances_mm[order[min(int(place), len(order) - 1)]])

    def mean_mm(self) -> float:
        return float(np.average(self.distances_mm, weights=self.areas_mm2))


@dataclass(frozen=True)
class Surfaces:
    """Two surfaces, each with its distances to the other one.

    Both masks empty: every figure is NaN. One empty: surface Dice 0, distances infinite; what an infinite distance
    counts in a mean is for the caller to say.
    """

    reference: Directed
    predicted: Directed

    def dice(self, tolerance_mm: float) -> float:
        """Share of both surfaces' area that lies within `tolerance_mm` of the other one, in [0, 1].

        Raises ValueError if the tolerance is negative.
        """
        if not tolerance_mm >= 0:
            raise ValueError(f"tolerance_mm {tolerance_mm} must not be negative")
        sides = (self.reference, self.predicted)
        total = sum(float(side.areas_mm2.sum()) for side in sides)
        return sum(side.area_within(tolerance_mm) for side in sides) / total if total else float("nan")

    def hausdorff_mm(self, percentile: float = 95.0) -> float:
        """The larger of the two directed percentiles of distance; at 100 the Hausdorff distance.

        Raises ValueError if the percentile is not within 0 and 100.
        """
        if not 0 <= percentile <= 100:
            raise ValueError(f"percentile {percentile} must lie within 0 and 100")
        if (outcome := self._of_empty()) is not None:
            return outcome
        return max(side.percentile_mm(percentile) for side in (self.reference, self.predicted))

    def mean_mm(self) -> float:
        """Mean of the two directed mean distances."""
        if (outcome := self._of_empty()) is not None:
            return outcome
        return (self.reference.mean_mm() + self.predicted.mean_mm()) / 2

    def _of_empty(self) -> float | None:
        filled = [bool(side.distances_mm.size) for side in (self.reference, self.predicted)]
        return None if all(filled) else float("inf") if any(filled) else float("nan")


def between(reference: np.ndarray, predicted: np.ndarray, spacing_mm: Sequence[float]) -> Surfaces:
    """Distances between the surfaces of two masks.

    `reference`, `predicted`: bool, (D, H, W). `spacing_mm` follows the axes.
    Raises ValueError if the shapes differ, a mask is not boolean or a spacing is not positive.
    """
    reference, predicted, spacing = checked(reference, predicted, spacing_mm)
    box = joint_box(reference, predicted)
    if box is None:
        nothing = Directed(np.empty(0), np.empty(0))
        return Surfaces(nothing, nothing)
    thin = tuple(axis for axis, size in enumerate(reference.shape) if size == 1)[:2]  # one axis at least remains
    kept = tuple(step for axis, step in enumerate(spacing) if axis not in thin)
    codes = [_codes(mask[box].squeeze(thin)) for mask in (reference, predicted)]
    areas = elements.areas(kept)
    borders = [(code != 0) & (code != len(areas) - 1) for code in codes]
    sides = [
        Directed(distances_mm(other, border, kept), areas[code[border]])
        for code, border, other in zip(codes, borders, reversed(borders), strict=True)
    ]
    return Surfaces(*sides)


def _codes(mask: np.ndarray) -> np.ndarray:
    """Code of every cell between voxels, uint8, one more than voxels on every axis; see `elements`."""
    codes = np.pad(mask, 1).view(np.uint8)
    for axis in reversed(range(mask.ndim)):
        before, after = codes.swapaxes(0, axis)[:-1], codes.swapaxes(0, axis)[1:]
        shift = np.uint8(1 << (2 ** (mask.ndim - 1 - axis)))
        codes = (before * shift | after).swapaxes(0, axis)
    return codes
