"""How windows lie in a scan, and how what is said in them is blended: the answer comes in blocks, never as a whole.

Windows are gone through row by row, in a row column by column, in a column cell by cell; which axis is which is chosen
so that least is held. A finished column leaves the voxels that no later window reaches: a block. Of a row, what the
next one goes on adding to stays in a band (`carry`), half a window deep for an overlap of a half; what the row adds
beyond it is held for one column alone (`fresh`), and moves into the band where a block has made room.

G groups of classes, D H W voxels; a window has a `reach`, which is its size, or the scan's where that is smaller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, permutations, product
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

WIDTH = 0.125  # of the Gaussian, in windows (Isensee et al. 2021)


class Blended(NamedTuple):
    """`probability` (G, d, h, w) float32 of the voxels from `corner` (D, H, W) on. The next one overwrites it."""

    corner: tuple[int, int, int]
    probability: Tensor

    @property
    def box(self) -> tuple[slice, ...]:
        return tuple(slice(at, at + n) for at, n in zip(self.corner, self.probability.shape[1:], strict=True))


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

    def shares(self) -> list[Tensor]:
        """What each window counts in each of its voxels, (reach,) float32; of a voxel all shares sum to 1."""
        weight = gaussian(self.window)[self.before : self.before + self.reach]
        total = torch.zeros(self.size, dtype=torch.float64)
        for start in self.starts:
            total[start : start + self.reach] += weight
        return [(weight / total[start : start + self.reach]).float() for start in self.starts]


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
    def shares(self) -> tuple[list[Tensor], ...]:
        return tuple(line.shares() for line in self.lines)

    def share(self, window: Sequence[int]) -> Tensor:
        """What a window counts in its voxels, (reach) float32: a product of lines, as the sum over windows is one."""
        d, h, w = (own[number] for own, number in zip(self.shares, window, strict=True))
        return d[:, None, None] * h[:, None] * w

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


class Sums:
    """Sums over windows of what they say, times their share."""

    def __init__(self, layout: Layout, groups: int, device: torch.device) -> None:
        self.layout = layout
        row, column, _ = layout.order
        band, rest = [line.size for line in layout.lines], [line.size for line in layout.lines]
        band[row] = max(layout.rows.carried)
        rest[row], rest[column] = layout.fresh_rows, layout.columns.reach
        self.carry = torch.zeros(groups, *band, device=device)
        self.fresh = torch.zeros(groups, *rest, device=device)
        self.scratch = torch.empty(groups * layout.block, device=device)  # one for all: fresh memory costs time

    def add(self, window: Sequence[int], part: Tensor, share: Tensor) -> None:
        """`part` (G, reach): probabilities; `share` (reach)."""
        row, column, cell = self.layout.order
        corner, reach = self.layout.corner(window), self.layout.reach
        kept = self.layout.rows.carried[window[row]]
        for held, first, count, start in (
            (self.carry, 0, kept, corner[column]),
            (self.fresh, kept, reach[row] - kept, 0),
        ):
            place = held.narrow(row + 1, 0, count).narrow(column + 1, start, reach[column])
            place = place.narrow(cell + 1, corner[cell], reach[cell])
            place.addcmul_(part.narrow(row + 1, first, count), share.narrow(row, first, count))

    def finished(self, window: Sequence[int]) -> Iterator[Blended]:
        """The blocks that the last cell of a column leaves."""
        row, column, cell = self.layout.order
        number, columns = window[row], self.layout.columns
        kept, step, reach = self.layout.rows.carried[number], self.layout.rows.steps[number], self.layout.rows.reach
        left, start = columns.steps[window[column]], self.layout.corner(window)[column]
        for first in range(0, left, self.layout.piece):
            count = min(self.layout.piece, left - first)
            band = self.carry.narrow(column + 1, start + first, count)
            rest = self.fresh.narrow(row + 1, 0, reach - kept).narrow(column + 1, first, count)
            block = self._scratch(rest, row, reach)
            torch.cat([band.narrow(row + 1, 0, kept), rest], row + 1, out=block)
            if number + 1 < len(self.layout.rows.starts):
                band.narrow(row + 1, 0, reach - step).copy_(block.narrow(row + 1, step, reach - step))
            corner = {row: self.layout.rows.starts[number], column: start + first, cell: 0}
            yield Blended((corner[0], corner[1], corner[2]), block.narrow(row + 1, 0, step))
        self._make_room(column + 1, left)

    def _make_room(self, axis: int, by: int) -> None:
        """What is left of `fresh` moves to its beginning, zeros follow it."""
        rest = self.fresh.shape[axis] - by
        kept = self.fresh.narrow(axis, by, rest)
        self.fresh.narrow(axis, 0, rest).copy_(self._scratch(kept, axis - 1, kept.shape[axis]).copy_(kept))
        self.fresh.narrow(axis, rest, by).zero_()

    def _scratch(self, like: Tensor, axis: int, count: int) -> Tensor:
        """Of the shape of `like`, but for `count` along an axis of D, H, W."""
        shape = list(like.shape)
        shape[axis + 1] = count
        return self.scratch[: prod(shape)].view(shape)


def line_of(size: int, window: int, overlap: float) -> Line:
    """Evenly spread windows, neighbours overlapping by at least `overlap` of their size."""
    room = max(size, window) - window
    count = 1 + int(np.ceil(room / max(1.0, window * (1 - overlap))))
    return Line(size, window, tuple(np.linspace(0, room, count).round().astype(int).tolist()))


def gaussian(length: int) -> Tensor:
    """(length,) float64, 1 in the middle, 3e-4 at the ends.

    No floor is put under the product of three, as where sums are kept in half precision: a voxel seen by one window
    alone keeps what that says, and sums over windows are products of sums along lines.
    """
    places = torch.arange(length, dtype=torch.float64) - (length - 1) / 2
    return torch.exp(-0.5 * (places / (length * WIDTH)) ** 2)
