"""How windows lie in a scan, and what each counts in each of its voxels. Imports no torch.

Windows are gone through row by row, in a row column by column, in a column cell by cell; which axis is which is chosen
so that least is held (model/tasks/windows.py).

A window has a `reach`, which is its size, or the scan's where that is smaller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, permutations, product

import numpy as np

WIDTH = 0.125  # of the Gaussian, in windows (Isensee et al. 2021)


@dataclass(frozen=True)
class Line:
    """Windows along one axis. `size`: the scan's voxels. `window`: more than them if the scan is padded."""

    size: int
    window: int
    starts: tuple[int, ...]

    @property
    def reach(self) -> int:
        return min(self.size, self.window)

    @property
    def before(self) -> int:
        """Voxels of padding in front of the scan."""
        return (self.window - self.reach) // 2

    @property
    def steps(self) -> list[int]:
        """Voxels that are finished with each window."""
        return [later - earlier for earlier, later in pairwise((*self.starts, self.size))]

    @property
    def carried(self) -> list[int]:
        """Rows of each window that the one before reaches as well; of the first as many as of any, to begin with."""
        kept = [self.reach - step for step in self.steps[:-1]]
        return [max(kept, default=0), *kept]

    def shares(self) -> list[np.ndarray]:
        """What each window counts in each of its voxels, (reach,) float32; of a voxel all shares sum to 1."""
        weight = gaussian(self.window)[self.before : self.before + self.reach]
        total = np.zeros(self.size)
        for start in self.starts:
            total[start : start + self.reach] += weight
        return [(weight / total[start : start + self.reach]).astype(np.float32) for start in self.starts]


@dataclass(frozen=True)
class Layout:
    """Windows in a scan. `order`: the axes of rows, of columns and of cells."""

    lines: tuple[Line, Line, Line]
    order: tuple[int, int, int]

    @staticmethod
    def of(size: Sequence[int], window: Sequence[int], overlap: float) -> Layout:
        """The order in which least is held."""
        d, h, w = (line_of(*each, overlap) for each in zip(size, window, strict=True))
        ways = (Layout((d, h, w), (order[0], order[1], order[2])) for order in permutations(range(3)))
        return min(ways, key=lambda way: way.held)

    @property
    def rows(self) -> Line:
        return self.lines[self.order[0]]

    @property
    def columns(self) -> Line:
        return self.lines[self.order[1]]

    @property
    def reach(self) -> tuple[int, int, int]:
        d, h, w = (line.reach for line in self.lines)
        return d, h, w

    def windows(self) -> Iterator[tuple[int, int, int]]:
        """Their numbers along D, H and W, in the order they are gone through."""
        for numbers in product(*(range(len(self.lines[axis].starts)) for axis in self.order)):
            by_axis = dict(zip(self.order, numbers, strict=True))
            yield by_axis[0], by_axis[1], by_axis[2]

    def corner(self, window: Sequence[int]) -> tuple[int, int, int]:
        d, h, w = (line.starts[number] for line, number in zip(self.lines, window, strict=True))
        return d, h, w

    @cached_property
    def shares(self) -> tuple[list[np.ndarray], ...]:
        return tuple(line.shares() for line in self.lines)

    def share(self, window: Sequence[int]) -> np.ndarray:
        """What a window counts in its voxels, (reach) float32: a product of lines, as the sum over windows is one."""
        d, h, w = (own[number] for own, number in zip(self.shares, window, strict=True))
        return np.asarray(d[:, None, None] * h[:, None] * w)

    @property
    def held(self) -> int:
        """Voxels of every group of classes: the band, a column's rest, and a block as it leaves them."""
        carry = max(self.rows.carried) * self.columns.size
        return self.lines[self.order[2]].size * (carry + self.fresh_rows * self.columns.reach) + self.block

    @property
    def block(self) -> int:
        """Voxels of the largest block, or of what is moved in its place."""
        steps = self.rows.reach * self.piece, self.fresh_rows * (self.columns.reach - min(self.columns.steps))
        return self.lines[self.order[2]].size * max(steps)

    @property
    def fresh_rows(self) -> int:
        """Rows of a window that the one before does not reach, at most."""
        return max(self.rows.reach - kept for kept in self.rows.carried)

    @property
    def piece(self) -> int:
        """Columns' voxels that leave at one time; at the end of a row there may be twice as many."""
        return max(self.columns.steps[:-1], default=self.columns.reach)


def line_of(size: int, window: int, overlap: float) -> Line:
    """Evenly spread windows, neighbours overlapping by at least `overlap` of their size."""
    room = max(size, window) - window
    count = 1 + int(np.ceil(room / max(1.0, window * (1 - overlap))))
    return Line(size, window, tuple(np.linspace(0, room, count).round().astype(int).tolist()))


def gaussian(length: int) -> np.ndarray:
    """(length,) float64, 1 in the middle, 3e-4 at the ends.

    No floor is put under the product of three, as where sums are kept in half precision: a voxel seen by one window
    alone keeps what that says, and sums over windows are products of sums along lines.
    """
    places = np.arange(length) - (length - 1) / 2
    return np.exp(-0.5 * (places / (length * WIDTH)) ** 2)
