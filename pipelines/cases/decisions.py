"""From a cohort's statistics to target spacing, patch and normalisation, each with its reason in a sentence.

The rules are those that nnU-Net published (Isensee et al. 2021, supplement) where they concern the data alone: median
spacing, a low percentile for the coarse axis of anisotropic scans, a patch of the median scan's proportions within a
budget of voxels, CT by percentiles of the foreground, all else by each scan's own mean and deviation.

A decision moves in steps: numbers are rounded, so that one more scan among many leaves it, and every case made by it,
as it was.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.network.config import ALIGNMENT
from pipelines.cases.preparation import WINDOW, Z_SCORE, CTScale
from pipelines.scans.modalities import in_hu

COARSE_PERCENTILE = 10
SOFT_TISSUE = CTScale(low=-1000.0, high=1000.0, mean=0.0, std=300.0)


@dataclass(frozen=True)
class Decision:
    """`value` holds; `planned` is what the statistics say, `stated` whether params.yaml overrides it."""

    value: Any
    planned: Any
    stated: bool
    reason: str


def decide(planned: Any, reason: str, stated: Any, key: str) -> Decision:
    """The planned value, unless `key` in params.yaml states another."""
    if stated is None:
        return Decision(planned, planned, False, reason)
    return Decision(
        stated, planned, True, f"stated by {key} in params.yaml; the plan's own: {_shown(planned)}, {reason}"
    )


def spacing(
    spacings_mm: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]], anisotropy: float
) -> tuple[Any, str]:
    """Target spacing in mm (D, H, W) and why. `shapes`: of the scans' content, voxels."""
    table = np.array(spacings_mm, dtype=float)
    target = [_typical(axis) for axis in table.T]
    shape = np.median(np.array(shapes), axis=0)
    coarse = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != coarse]
    finest_mm, coarsest_mm = min(target), max(target[axis] for axis in others)
    if target[coarse] > anisotropy * finest_mm and shape[coarse] * anisotropy < min(shape[axis] for axis in others):
        low = _rounded(float(np.percentile(table[:, coarse], COARSE_PERCENTILE)))
        target[coarse] = max(low, coarsest_mm)
        reason = (
            f"the median of {len(table)} training scans, but on axis {'DHW'[coarse]}, coarser by more than "
            f"{anisotropy:g} times, their {COARSE_PERCENTILE}th percentile, so that thin slices keep their detail"
        )
    else:
        reason = f"the median of {len(table)} training scans: half of them lose no resolution, half gain no voxels"
    return tuple(target), reason


def patch(median_shape: Sequence[float], spacing_mm: Sequence[float], budget: int) -> tuple[Any, str]:
    """Patch in voxels (D, H, W) and why: a cube in mm, cut to the median scan, within `budget` voxels.

    `median_shape`: of the scans' content at `spacing_mm`.
    """
    bound = [max(8, ALIGNMENT * math.ceil(size / ALIGNMENT)) for size in median_shape]
    free, size = [0, 1, 2], [0.0, 0.0, 0.0]
    while free:
        taken = math.prod(size[axis] for axis in range(3) if axis not in free)
        edge_mm = (budget / taken * math.prod(spacing_mm[axis] for axis in free)) ** (1 / len(free))
        full = [axis for axis in free if edge_mm / spacing_mm[axis] >= bound[axis]]
        for axis in full or free:
            size[axis] = bound[axis] if full else edge_mm / spacing_mm[axis]
        free = [axis for axis in free if full and axis not in full]
    voxels = [max(8, ALIGNMENT * math.floor(value / ALIGNMENT + 1e-9)) for value in size]
    while math.prod(voxels) > budget and max(voxels) > 8:  # an axis was raised to 8
        voxels[int(np.argmax(voxels))] -= ALIGNMENT
    share = math.prod(min(1.0, own / max(1.0, whole)) for own, whole in zip(voxels, median_shape, strict=True))
    shape = " x ".join(f"{value:.0f}" for value in median_shape)
    reason = (
        f"nearly a cube in mm within {budget} voxels and the median scan of {shape}: it sees {share:.0%} of it; "
        f"multiples of {ALIGNMENT}, the network's stride"
    )
    return tuple(voxels), reason


def normalisation(modalities: Sequence[str]) -> tuple[str, str]:
    if any(map(in_hu, modalities)):
        return WINDOW, "CT numbers mean the same tissue in every scan: one window for all keeps that"
    return Z_SCORE, f"{', '.join(modalities)} has no physical unit: each scan by the mean and deviation of its content"


def ct_scale(samples: Sequence[np.ndarray], percentiles: tuple[float, float]) -> tuple[CTScale, str]:
    """The CT window of a cohort and why. `samples`: of each labelled scan's foreground, HU."""
    drawn = [values for values in samples if values.size]
    if not drawn:
        return SOFT_TISSUE, "no labelled training CT: a wide soft-tissue window, on which no trained model depends"
    values = np.concatenate(drawn).astype(np.float64)
    low, high = np.percentile(values, percentiles)
    clipped = values.clip(low, high)
    deviation = max(float(clipped.std()), 1.0)
    step = 10.0 ** (math.floor(math.log10(deviation)) - 1)
    low, high, mean, std = (round(round(float(x) / step) * step, 6) for x in (low, high, clipped.mean(), deviation))
    reason = (
        f"percentiles {percentiles[0]:g} and {percentiles[1]:g}, mean and deviation of the foreground of {len(drawn)} "
        f"training CTs, in steps of {step:g} HU so that one more scan does not move them"
    )
    return CTScale(low, high, mean, std), reason


def _typical(values_mm: np.ndarray) -> float:
    """The median: exact where half of the scans share it, else to two digits."""
    median = round(float(np.median(values_mm)), 6)
    agree = np.isclose(values_mm, median, rtol=1e-4).mean()
    return median if agree >= 0.5 else _rounded(median)


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def _shown(value: Any) -> str:
    return ", ".join(f"{item:g}" for item in value) if isinstance(value, tuple) else str(value)
