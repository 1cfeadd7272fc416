"""A polygon on a grid of voxels: which centres lie inside it, and which on its outline.

Tools that make contours from masks draw them through the outermost voxels' centres, so those on the outline count, on
all sides alike; that leaves the inside of a hole to be cut out, and not its rim.
"""

import numpy as np
from matplotlib.path import Path as Polygon

ON_OUTLINE_VOXELS = 1e-3  # coordinates are written with 4 digits and more


def filled(points: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) corners as (row, column), in voxels -> two masks (rows, columns): strictly inside; on the outline."""
    inside, on = np.zeros(shape, dtype=bool), _outline(points, shape)
    low = np.clip(np.floor(points.min(axis=0)), 0, shape).astype(int)
    high = np.clip(np.ceil(points.max(axis=0)) + 1, 0, shape).astype(int)
    if (high > low).all():
        grid = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), axis=-1).reshape(-1, 2)
        inside[low[0] : high[0], low[1] : high[1]] = Polygon(points).contains_points(grid).reshape(high - low)
    return inside & ~on, on


def _outline(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The centres that the outline runs through: along every edge's longer axis, where the other is whole, too."""
    on = np.zeros(shape, dtype=bool)
    start, stop = points, np.roll(points, -1, axis=0)
    longer = np.abs(stop - start).argmax(axis=1)
    for axis in (0, 1):
        one, two = start[longer == axis], stop[longer == axis]
        low = np.maximum(np.ceil(np.minimum(one, two)[:, axis] - ON_OUTLINE_VOXELS), 0).astype(int)
        high = np.minimum(np.floor(np.maximum(one, two)[:, axis] + ON_OUTLINE_VOXELS), shape[axis] - 1).astype(int)
        count = np.maximum(high - low + 1, 0)
        edge = np.repeat(np.arange(len(count)), count)
        along = low[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
        span = (two - one)[edge, axis]
        share = np.clip((along - one[edge, axis]) / np.where(span == 0, 1, span), 0, 1)
        across = one[edge, 1 - axis] + share * (two - one)[edge, 1 - axis]
        whole = np.rint(across)
        hit = (np.abs(across - whole) <= ON_OUTLINE_VOXELS) & (whole >= 0) & (whole < shape[1 - axis])
        places = np.stack([along[hit], whole[hit].astype(int)])
        on[tuple(places[::-1] if axis else places)] = True
    return on
