"""From probabilities on the network's grid to label maps on another, block by block: never all classes at full size."""

from collections.abc import Sequence

import numpy as np

from pipelines.cases.resampling import reached, resample_part

ROUNDING = 1e-4  # in float32 probabilities sum to one but for much less


class MostLikely:
    """The most likely id in every voxel of `shape`: groups' probabilities are interpolated linearly, the largest wins.

    Equal to interpolating the whole arrays, but for rounding where two groups are as likely. Blocks follow each other
    as `model.tasks.inference.blocks` gives them: of what came before, the last voxels are kept, as interpolation needs
    two neighbours. Of G groups one that reaches 1 / G nowhere in a block is the most likely nowhere between its voxels,
    so most are not looked at in most places.
    """

    def __init__(self, size: Sequence[int], shape: tuple[int, int, int], ids: np.ndarray, order: Sequence[int]) -> None:
        self.size, self.shape, self.ids = tuple(size), shape, ids
        self.row, self.column = order[:2]
        self.label = np.zeros(shape, ids.dtype)
        edge = [len(ids), *self.size]
        edge[self.row + 1] = 1
        self.above = np.zeros(edge, np.float32)  # last voxels of the row before
        self.beside = np.zeros((0,), np.float32)  # last voxels of the column before, and the one above them

    def take(self, corner: Sequence[int], probability: np.ndarray) -> None:
        """`probability` (G, d, h, w) float32, of the voxels from `corner` on."""
        first = [at - int(self._has_before(axis, at)) for axis, at in enumerate(corner)]
        extent = probability.shape[1:]
        rows = [self._ready(axis, at, n) for axis, (at, n) in enumerate(zip(corner, extent, strict=True))]
        if all(each.start < each.stop for each in rows):
            self.label[tuple(rows)] = self._winners(corner, first, probability, rows)
        self._keep(corner, first, probability)

    def _has_before(self, axis: int, at: int) -> bool:
        return axis in (self.row, self.column) and at > 0 and self.size[axis] != self.shape[axis]

    def _ready(self, axis: int, at: int, count: int) -> slice:
        """New voxels that need these old ones, and none later."""
        if self.size[axis] == self.shape[axis]:
            return slice(at, at + count)
        start, stop = np.searchsorted(reached(self.size[axis], self.shape[axis]), (at, at + count))
        return slice(int(start), int(stop))

    def _winners(
        self, corner: Sequence[int], first: Sequence[int], probability: np.ndarray, rows: Sequence[slice]
    ) -> np.ndarray:
        best, label = np.zeros(0), np.zeros(0)
        for group, values in enumerate(probability):
            whole = self._with_neighbours(group, corner, first, values)
            if whole.max() < (1 - ROUNDING) / len(probability):
                continue
            share = resample_part(whole, first, self.size, self.shape, rows)
            if not best.size:
                best, label = share, np.full(share.shape, self.ids[group])
                continue
            np.copyto(label, self.ids[group], where=share > best)
            np.maximum(best, share, out=best)
        return label

    def _with_neighbours(
        self, group: int, corner: Sequence[int], first: Sequence[int], values: np.ndarray
    ) -> np.ndarray:
        above, beside = (corner[axis] - first[axis] for axis in (self.row, self.column))
        if not above and not beside:
            return values
        shape = list(values.shape)
        shape[self.row] += above
        shape[self.column] += beside
        whole = np.empty(shape, np.float32)
        _along(whole, {self.row: slice(above, None), self.column: slice(beside, None)})[...] = values
        if above:
            along = slice(corner[self.column], corner[self.column] + values.shape[self.column])
            edge = _along(self.above[group], {self.column: along})
            _along(whole, {self.row: slice(0, 1), self.column: slice(beside, None)})[...] = edge
        if beside:
            _along(whole, {self.column: slice(0, 1)})[...] = self.beside[group]
        return whole

    def _keep(self, corner: Sequence[int], first: Sequence[int], probability: np.ndarray) -> None:
        row, column = self.row + 1, self.column + 1
        stop = corner[self.column] + probability.shape[column]
        parts = [_along(probability, {column: slice(-1, None)})]
        if corner[self.row] > first[self.row]:
            parts.insert(0, _along(self.above, {column: slice(stop - 1, stop)}))
        self.beside = np.concatenate(parts, row)
        _along(self.above, {column: slice(corner[self.column], stop)})[...] = _along(
            probability, {row: slice(-1, None)}
        )


def _along(array: np.ndarray, slices: dict[int, slice]) -> np.ndarray:
    """A view."""
    return array[tuple(slices.get(axis, slice(None)) for axis in range(array.ndim))]
