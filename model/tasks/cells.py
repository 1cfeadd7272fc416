"""What a target says on the grid of a coarser output, whose cells hold several voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def at_middles(target_BDHW: Tensor, cell: Sequence[int], size: Sequence[int]) -> Tensor:
    """The target in the middle of every cell of `cell` voxels, `size` cells along the axes; the last may be cut off."""
    for axis, (step, count) in enumerate(zip(cell, size, strict=True), start=1):
        if step > 1:
            middle = (torch.arange(count, device=target_BDHW.device) * step + step // 2).clamp(
                max=target_BDHW.shape[axis] - 1
            )
            target_BDHW = target_BDHW.index_select(axis, middle)
    return target_BDHW
