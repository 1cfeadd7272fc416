"""Mean over the cells of a coarser grid.

B batch, D H W tokens along the axes, E embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pool(volume_BDHWE: Tensor, grid: Sequence[int]) -> Tensor:
    """Mean over the cells of a coarser grid: any size to any smaller size, without padding or remainder.

    Where cell borders cut through tokens, as three small matrix products. (`avg_pool3d` knows neither such cells nor
    bfloat16 on a CPU.)
    """
    if all(size % cells == 0 for size, cells in zip(volume_BDHWE.shape[1:4], grid, strict=True)):
        return _pool_evenly(volume_BDHWE, grid)
    for axis in range(3):
        size = volume_BDHWE.shape[axis + 1]
        if size != grid[axis]:
            weight = _cell_means(size, grid[axis], volume_BDHWE.device, volume_BDHWE.dtype)
            flat = volume_BDHWE.flatten(0, axis).flatten(2)
            pooled = torch.matmul(weight, flat)
            volume_BDHWE = pooled.view(*volume_BDHWE.shape[: axis + 1], grid[axis], *volume_BDHWE.shape[axis + 2 :])
    return volume_BDHWE


def _pool_evenly(volume_BDHWE: Tensor, grid: Sequence[int]) -> Tensor:
    """The same where every cell holds equally many whole tokens."""
    if volume_BDHWE.shape[1:4] == tuple(grid):
        return volume_BDHWE
    for axis in reversed(range(3)):
        volume_BDHWE = volume_BDHWE.unflatten(1 + axis, (grid[axis], -1))
    return volume_BDHWE.mean(dim=(2, 4, 6))


_CELL_MEANS: dict[tuple[int, int, torch.device, torch.dtype], Tensor] = {}


def _cell_means(size: int, cells: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The (cells, size) matrix that averages `size` unit intervals over `cells` equal ones, by overlap.

    A network asks for a few of them at every block: each is made once. One that is made while a graph is traced stands
    for the trace, and is not kept.
    """
    if torch.compiler.is_compiling():
        return _overlaps(size, cells, device).to(dtype)
    key = (size, cells, device, dtype)
    if key not in _CELL_MEANS:
        with torch.inference_mode(False):  # what inference made, training could not use
            made = _overlaps(size, cells, device).to(dtype)
        if type(made) is not Tensor or device.type == "meta":
            return made
        _CELL_MEANS[key] = made
    return _CELL_MEANS[key]


def _overlaps(size: int, cells: int, device: torch.device) -> Tensor:
    width = size / cells
    start = torch.arange(cells, device=device, dtype=torch.float32).unsqueeze(1) * width
    unit = torch.arange(size, device=device, dtype=torch.float32)
    overlap = torch.minimum(start + width, unit + 1) - torch.maximum(start, unit)
    return overlap.clamp(min=0) / width
