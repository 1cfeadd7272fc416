"""Masks whose figures are known."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

SPACINGS_MM = ((1.0, 1.0, 1.0), (5.0, 0.7, 0.7), (0.5, 1.25, 3.0))
GRID = (24, 24, 24)
NOTHING = np.zeros(GRID, bool)


def box(low: Sequence[int], size: Sequence[int], grid: Sequence[int] = GRID) -> np.ndarray:
    mask = np.zeros(grid, bool)
    mask[tuple(slice(start, start + length) for start, length in zip(low, size, strict=True))] = True
    return mask


def ball(radius_mm: float, spacing_mm: Sequence[float], grid: Sequence[int]) -> np.ndarray:
    axes = zip(np.indices(grid), grid, spacing_mm, strict=True)
    return np.asarray(sum(((axis - length // 2) * step) ** 2 for axis, length, step in axes) <= radius_mm**2)


def blobs(seed: int, grid: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Two masks of odd shape that agree in part."""
    rng = np.random.default_rng(seed)
    one, other = (gaussian_filter(rng.standard_normal(grid), 1.5) for _ in range(2))
    return one > np.quantile(one, 0.7), one + other / 2 > np.quantile(one + other / 2, 0.7)


seeds = st.integers(0, 2**32 - 1)
