"""Resampling of volumes and label maps: separable splines as thin bands of small matrices.

Voxel centres are spread over the same extent, the signal goes on as its outermost voxel. Both orders equal
`scipy.ndimage.zoom(array, factor, order, mode="nearest", grid_mode=True)` to 1e-5 of the range, and so nnU-Net's
default (skimage's `resize`, mode edge).

A spline along one axis, its prefilter included, is one (new, old) matrix; a spline's memory of far voxels falls by 3.7
a voxel, so all but a band of it is below float32's rounding. A block of rows and the columns they need is a small dense
matrix, and the work is matrix products, the fastest code on any processor.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

BLOCK_ROWS = 32  # wide enough for matrix products to be fast, narrow enough to skip most zeros; measured
NEGLIGIBLE = 1e-8  # weights below it vanish in float32
PADDING = 16  # voxels of constant signal beyond the ends: 0.27 ** 16 is 7e-10


class Band(NamedTuple):
    """`weights` (rows, columns) of new voxels [row, row + rows) on old voxels [column, column + columns)."""

    row: int
    column: int
    weights: np.ndarray


def resampled_shape(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], target_mm: tuple[float, ...]
) -> tuple[int, int, int]:
    """Voxels needed to cover the same extent at another spacing, at least 1 an axis."""
    d, h, w = (max(1, round(n * have / want)) for n, have, want in zip(shape, spacing_mm, target_mm, strict=True))
    return d, h, w


def resample(array: np.ndarray, shape: tuple[int, int, int], order: int) -> np.ndarray:
    """Resample (D, H, W) to `shape`; order 1 (linear) or 3 (cubic spline); float32."""
    result = np.ascontiguousarray(array, dtype=np.float32)
    for axis in axes_in_order(array.shape, shape):
        result = _along(result, axis, _blocks(result.shape[axis], shape[axis], order))
    return result


def axes_in_order(shape: tuple[int, ...], target: tuple[int, int, int]) -> list[int]:
    """The axes to resample; shrinking ones first, for least work and memory."""
    return sorted((axis for axis in range(3) if shape[axis] != target[axis]), key=lambda a: target[a] / shape[a])


def resample_part(
    part: np.ndarray, first: Sequence[int], size: Sequence[int], shape: Sequence[int], rows: Sequence[slice]
) -> np.ndarray:
    """The voxels `rows` of `resample(array, shape, order=1)`, of an array of `size` of which only a part is at hand.

    `part`: of the array, from its voxel `first` on; along an axis that keeps its size, just `rows`. It must hold what
    `reached` says, and the voxel before.
    """
    axes = axes_in_order(tuple(size), (shape[0], shape[1], shape[2]))
    result = np.ascontiguousarray(part, dtype=np.float32) if axes else np.array(part, dtype=np.float32)
    for axis in axes:
        span = rows[axis].start, rows[axis].stop, first[axis], result.shape[axis]
        result = _along(result, axis, _cut(size[axis], shape[axis], span))
    return result


@lru_cache(maxsize=64)
def reached(old: int, new: int) -> np.ndarray:
    """The later of the two old voxels between which each new one is interpolated, (new,), never falling."""
    return old - 1 - np.argmax(np.abs(_matrix(old, new, 1)[:, ::-1]) > NEGLIGIBLE, axis=1)


def resample_label(label: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Resample a label map: each structure as a linear field, the largest wins. Same dtype."""
    if label.shape == shape:
        return label
    best = np.full(shape, -1, dtype=np.float32)
    result = np.zeros(shape, dtype=label.dtype)
    for value in np.unique(label):  # one at a time: memory does not grow with their number
        share = resample(label == value, shape, order=1)
        wins = share > best
        np.copyto(best, share, where=wins)
        result[wins] = value
        del share, wins  # not beside the next one's
    return result


def _along(array: np.ndarray, axis: int, blocks: tuple[Band, ...]) -> np.ndarray:
    """Every line of `array` along `axis` times the banded matrix; no copy but the result."""
    new = blocks[-1].row + len(blocks[-1].weights)
    before, old, after = int(np.prod(array.shape[:axis])), array.shape[axis], int(np.prod(array.shape[axis + 1 :]))
    result = np.empty((*array.shape[:axis], new, *array.shape[axis + 1 :]), dtype=np.float32)
    for row, column, weights in blocks:
        rows, columns = slice(row, row + weights.shape[0]), slice(column, column + weights.shape[1])
        if after == 1:
            np.matmul(array.reshape(before, old)[:, columns], weights.T, out=result.reshape(before, new)[:, rows])
        else:
            lines = array.reshape(before, old, after)[:, columns]
            np.matmul(weights, lines, out=result.reshape(before, new, after)[:, rows])
    return result


@lru_cache(maxsize=256)
def _cut(old: int, new: int, span: tuple[int, int, int, int]) -> tuple[Band, ...]:
    """Of the bands of order 1: new voxels [start, stop), counted from there, on old voxels [first, first + count)."""
    start, stop, first, count = span
    cut = []
    for row, column, weights in _blocks(old, new, 1):
        top, bottom = max(row, start), min(row + len(weights), stop)
        left, right = max(column, first), min(column + weights.shape[1], first + count)
        if top < bottom and left < right:
            inner = weights[top - row : bottom - row, left - column : right - column]
            cut.append(Band(top - start, left - first, np.ascontiguousarray(inner)))
    return tuple(cut)


@lru_cache(maxsize=64)
def _blocks(old: int, new: int, order: int) -> tuple[Band, ...]:
    matrix = _matrix(old, new, order)
    blocks = []
    for row in range(0, new, BLOCK_ROWS):
        rows = matrix[row : row + BLOCK_ROWS]
        used = np.flatnonzero(np.abs(rows).max(axis=0) > NEGLIGIBLE)
        column = int(used[0])
        blocks.append(Band(row, column, np.ascontiguousarray(rows[:, column : used[-1] + 1], dtype=np.float32)))
    return tuple(blocks)


def _matrix(old: int, new: int, order: int) -> np.ndarray:
    """(new, old) float64: row i holds the weights of the old voxels in new voxel i."""
    if order not in (1, 3):
        raise ValueError(f"order {order} must be 1 (linear) or 3 (cubic spline)")
    centres = (np.arange(new) + 0.5) * old / new - 0.5 + PADDING
    knots = np.arange(old + 2 * PADDING)
    weights = _spline(centres[:, None] - knots, order)
    if order == 3:  # prefilter: coefficients whose spline passes through the voxels
        samples = _spline(knots[:, None] - knots, order)
        weights = np.linalg.solve(samples.T, weights.T).T
    inner = weights[:, PADDING:-PADDING].copy()
    inner[:, 0] += weights[:, :PADDING].sum(axis=1)
    inner[:, -1] += weights[:, -PADDING:].sum(axis=1)
    return inner


def _spline(x: Any, order: int) -> np.ndarray:
    """The cardinal B-spline of order 1 or 3 at `x` (Unser 1999)."""
    x = np.abs(x)
    if order == 1:
        return np.maximum(1 - x, 0)
    return np.where(x < 1, 2 / 3 - x * x + x**3 / 2, np.maximum(2 - x, 0) ** 3 / 6)
