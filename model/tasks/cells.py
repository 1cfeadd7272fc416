"""What a target says on the grid of a coarser output, whose cells hold several voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def at_middles(target_BDHW: Tensor, cell: Sequence[int], size: Sequence[int]) -> Tensor:
    """The target in the middle of every cell of `cell` voxels, `size` cells along the axes; the last may be cut off."""
    for axis, (step, count) in enumerate(zip(cell, size, strict=True), start=1):
        if step > 1:
            middles = target_BDHW[(slice(None),) * axis + (slice(step // 2, None, step),)]
            if middles.shape[axis] < count:  # the last cell ends before its middle
                middles = torch.cat([middles, target_BDHW.narrow(axis, target_BDHW.shape[axis] - 1, 1)], axis)
            target_BDHW = middles
    return target_BDHW
