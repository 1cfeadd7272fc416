"""Affine map, elastic deformation and flip of a patch as one resampling, on the device that holds the tensors.

D H W voxels of the region that is sampled, d h w of the patch, P control points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

UNDECIDED = -1


def resample(
    image_CDHW: Tensor,
    label_DHW: Tensor,
    corner: Sequence[int],
    shape: Sequence[int],
    matrix: np.ndarray,
    control: np.ndarray | None,
) -> tuple[Tensor, Tensor]:
    """Image (C, d, h, w) by linear interpolation; label (d, h, w), the structure whose interpolation is largest.

    The patch's voxel at offset `o` from its middle samples the region at `matrix @ o + displacement - corner`, in
    voxels. Outside the region the image and the label are 0.
    """
    grid = sampling_grid(label_DHW.shape, corner, shape, matrix, control, image_CDHW.device)
    return _linear(image_CDHW, grid), sample_label(label_DHW, grid)


def sampling_grid(
    size: Sequence[int],
    corner: Sequence[int],
    shape: Sequence[int],
    matrix: np.ndarray,
    control: np.ndarray | None,
    device: torch.device,
) -> Tensor:
    """Positions (3, d, h, w) in grid_sample's unit, where voxel i of n lies at (2 i + 1) / n - 1, and order: w, h, d.

    The affine part is a sum of functions of one axis each, so it costs an addition a value; the displacement is a small
    matrix product per axis.
    """
    unit = 2 / np.asarray(size, dtype=np.float64)
    offsets = [np.arange(n) - n // 2 for n in shape]
    along = [unit[:, None] * matrix[:, axis, None] * offset for axis, offset in enumerate(offsets)]
    along[0] += ((0.5 - np.asarray(corner)) * unit - 1)[:, None]
    along_d, along_h, along_w = (torch.tensor(part[::-1].copy(), dtype=torch.float32, device=device) for part in along)
    grid = along_d[:, :, None] + (along_h[:, :, None] + along_w[:, None]).flatten(1)[:, None]  # (3, d, h w)
    if control is not None:
        points = torch.tensor((control * unit[:, None, None, None])[::-1].copy(), dtype=torch.float32, device=device)
        d, h, w = (_smooth_weights(count, n).to(device) for count, n in zip(control.shape[1:], shape, strict=True))
        field = h @ (points @ w.T)  # (3, P, h, w)
        grid.baddbmm_(d.expand(3, *d.shape), field.flatten(2))
    return grid.view(3, *shape)


def sample_label(label_DHW: Tensor, grid: Tensor) -> Tensor:
    """The class with the largest weight among the eight voxels around each point; background if it ties.

    Classes compete only near a border between them; elsewhere all eight are of the nearest voxel's class.
    """
    padded = F.pad(label_DHW, (1,) * 6)  # with what lies outside
    border = _over_neighbours(padded, torch.maximum) != _over_neighbours(padded, torch.minimum)
    nearest = _nearest(F.pad(label_DHW.short().masked_fill(border, UNDECIDED), (1,) * 6), grid)
    undecided = (nearest == UNDECIDED).flatten().nonzero()[:, 0]
    points = grid.flatten(1).index_select(1, undecided)
    best = total = torch.zeros(points.shape[1], device=grid.device)
    winner = torch.zeros_like(best, dtype=nearest.dtype)
    for value in torch.bincount(label_DHW.flatten()).nonzero().flatten().tolist():
        if value:
            share = _linear((label_DHW == value).float()[None], points[:, None, None])[0, 0, 0]
            winner.masked_fill_(share > best, value)
            best, total = torch.maximum(best, share), total + share
    nearest.view(-1)[undecided] = winner.masked_fill_(best <= 1 - total, 0)
    return nearest.to(label_DHW.dtype)


def _linear(volume_CDHW: Tensor, grid: Tensor) -> Tensor:
    grid = grid.movedim(0, -1)[None]  # a view: grid_sample reads whole axes as fast as interleaved ones
    return F.grid_sample(volume_CDHW[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]


def _nearest(padded: Tensor, grid: Tensor) -> Tensor:
    """Of a volume with a border of one voxel, onto which points further out fall; half the time of grid_sample."""
    index = torch.zeros(1, dtype=torch.int32, device=grid.device)
    for axis, position in enumerate((grid[2], grid[1], grid[0])):
        size = padded.shape[axis]
        voxel = (position * ((size - 2) / 2)).add_((size - 1) / 2).clamp_(0, size - 1).round_().int()
        index = index * size + voxel
    return padded.flatten().index_select(0, index.flatten()).view(index.shape)


def _over_neighbours(padded: Tensor, extreme: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Largest or smallest value of each 3^3 neighbourhood."""
    for axis in range(3):
        inner = padded.shape[axis] - 2
        before, at, after = (padded.narrow(axis, start, inner) for start in range(3))
        padded = extreme(extreme(before, at), after)
    return padded


def _smooth_weights(points: int, size: int) -> Tensor:
    """(size, points): cubic B-spline weights of equally spaced control points; the border ones repeat."""
    position = torch.linspace(0, points - 1, size)
    distance = (position[:, None] - torch.arange(-1, points + 1)).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp(min=0) ** 3 / 6
    weight = torch.where(distance < 1, near, far)
    weight[:, 1] += weight[:, 0]
    weight[:, -2] += weight[:, -1]
    return weight[:, 1:-1].contiguous()
