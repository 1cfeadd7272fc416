"""How what is said in windows is blended: the answer comes in blocks, never as a whole.

Windows are gone through row by row, in a row column by column, in a column cell by cell (model/tasks/layout.py). A
finished column leaves the voxels that no later window reaches: a block. Of a row, what the next one goes on adding to
stays in a band (`carry`), half a window deep for an overlap of a half; what the row adds beyond it is held for one
column alone (`fresh`), and moves into the band where a block has made room.

G groups of classes, D H W voxels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from model.tasks.layout import Layout


class Blended(NamedTuple):
    """`probability` (G, d, h, w) float32 of the voxels from `corner` (D, H, W) on. The next one overwrites it."""

    corner: tuple[int, int, int]
    probability: Tensor

    @property
    def box(self) -> tuple[slice, ...]:
        return tuple(slice(at, at + n) for at, n in zip(self.corner, self.probability.shape[1:], strict=True))


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
