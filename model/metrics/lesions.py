"""Lesions found, missed and invented, one by one.

A lesion is a connected component, voxels that touch by a corner included (26 neighbours). Every lesion of the reference
is matched with at most one of the prediction and the other way round, so that the sum of the matched pairs' Dice is
largest; a pair counts if its Dice exceeds 1e-6, which one common voxel does. That is how BraTS 2026 counts them
(brats-evaluation 0.0.10: panoptica's MaxBipartiteMatching). One predicted component that covers two lesions finds one
of them; two fragments of one lesion are one hit and one invention.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.metrics.cropping import checked, joint_box

LEAST_DICE = 1e-6
Touch = tuple[int, int, float]  # component of the reference, of the prediction, their Dice


@dataclass(frozen=True)
class Pair:
    """A lesion and what was predicted of it; volumes in mm3."""

    reference_mm3: float
    predicted_mm3: float
    dice: float


@dataclass(frozen=True)
class Detection:
    """Volumes are of whole lesions, in mm3: of misses the reference's, of inventions the prediction's."""

    pairs: tuple[Pair, ...]
    missed_mm3: tuple[float, ...]
    spurious_mm3: tuple[float, ...]

    @property
    def sensitivity(self) -> float:
        """Share of the reference's lesions that are hit, in [0, 1]; NaN if there are none."""
        return _share(len(self.pairs), len(self.missed_mm3))

    @property
    def precision(self) -> float:
        """Share of the predicted lesions that hit one, in [0, 1]; NaN if none is predicted."""
        return _share(len(self.pairs), len(self.spurious_mm3))

    @property
    def f1(self) -> float:
        """2 hits / (lesions of the reference + of the prediction), in [0, 1]; NaN if there are neither."""
        return _share(2 * len(self.pairs), len(self.missed_mm3) + len(self.spurious_mm3))

    def sensitivity_to(self, smallest_mm3: float, below_mm3: float) -> float:
        """`sensitivity` to the lesions whose volume in the reference is at least the one and below the other."""
        hit, missed = (
            sum(smallest_mm3 <= volume < below_mm3 for volume in volumes)
            for volumes in ([pair.reference_mm3 for pair in self.pairs], self.missed_mm3)
        )
        return _share(hit, missed)


def detect(
    reference: np.ndarray, predicted: np.ndarray, spacing_mm: Sequence[float], smallest_mm3: float = 0.0
) -> Detection:
    """Which lesions of the reference were found.

    `reference`, `predicted`: bool, (D, H, W). `spacing_mm` follows the axes. Components below `smallest_mm3` count
    neither in the reference nor in the prediction.
    Raises ValueError if the shapes differ, a mask is not boolean or a spacing is not positive.
    """
    reference, predicted, spacing = checked(reference, predicted, spacing_mm)
    box = joint_box(reference, predicted)
    if box is None:
        return Detection((), (), ())
    masks = [np.ascontiguousarray(mask[box]) for mask in (reference, predicted)]
    labelled = [components(mask) for mask in masks]
    sizes = [np.bincount(labels[mask], minlength=1) for labels, mask in zip(labelled, masks, strict=True)]
    volumes = [size * float(np.prod(spacing)) for size in sizes]
    counted = [(volume >= smallest_mm3) & (volume > 0) for volume in volumes]
    both = masks[0] & masks[1]
    touching = _touching(*(labels[both] for labels in labelled), *sizes)
    return _detection([pair for pair in touching if counted[0][pair[0]] and counted[1][pair[1]]], *volumes, *counted)


def _touching(of_reference: np.ndarray, of_predicted: np.ndarray, *sizes: np.ndarray) -> list[Touch]:
    """All components that overlap, with their Dice; from the components of the common voxels and the sizes of all."""
    places, common = np.unique(of_reference.astype(np.int64) * len(sizes[1]) + of_predicted, return_counts=True)
    lesions, inventions = np.divmod(places, len(sizes[1]))
    dice = 2 * common / (sizes[0][lesions] + sizes[1][inventions])
    return [(int(i), int(j), float(d)) for i, j, d in zip(lesions, inventions, dice, strict=True) if d > LEAST_DICE]


def _detection(
    touching: list[Touch], reference_mm3: np.ndarray, predicted_mm3: np.ndarray, *counted: np.ndarray
) -> Detection:
    matched = _matched(touching)
    hit, by = ({pair[side] for pair in matched} for side in (0, 1))
    return Detection(
        tuple(Pair(float(reference_mm3[i]), float(predicted_mm3[j]), dice) for i, j, dice in matched),
        tuple(float(reference_mm3[i]) for i in np.flatnonzero(counted[0]) if i not in hit),
        tuple(float(predicted_mm3[j]) for j in np.flatnonzero(counted[1]) if j not in by),
    )


def _matched(touching: list[Touch]) -> list[Touch]:
    """One-to-one pairs, out of those that touch, whose Dice sum up to most."""
    rows, columns = (sorted({pair[side] for pair in touching}) for side in (0, 1))
    if len(rows) == len(columns) == len(touching):  # each touches one: nothing to choose
        return touching
    from scipy.optimize import linear_sum_assignment

    worth = np.zeros((len(rows), len(columns)))
    for i, j, dice in touching:
        worth[np.searchsorted(rows, i), np.searchsorted(columns, j)] = dice + LEAST_DICE
    chosen = {(rows[i], columns[j]) for i, j in zip(*linear_sum_assignment(worth, maximize=True), strict=True)}
    return [pair for pair in touching if pair[:2] in chosen]


def components(mask: np.ndarray) -> np.ndarray:
    import cc3d

    labels: np.ndarray = cc3d.connected_components(mask, connectivity=26)
    return labels


def _share(part: int, rest: int) -> float:
    return part / (part + rest) if part + rest else float("nan")
