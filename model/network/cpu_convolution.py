"""3^3 convolutions in 16 bit on a CPU, where oneDNN's own are slow or their bfloat16 weight gradient is uninitialised
memory.

Onto a few voxels a convolution is a matrix product; else it computes in float32 if it is depth-wise (2.5 times faster
there) or the grid is small. On a GPU, and in float32, nothing of this is needed.

B batch, C channels, D H W voxels, N voxels of a whole volume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

# CPU bfloat16 gradients of dense 3^3 convolutions were seen wrong when an axis has 1 or 2 voxels; 4 leaves a margin.
SMALLEST_BFLOAT16_AXIS = 4
# On CPU, a convolution onto at most so many voxels is a matrix product: oneDNN's own takes 3 to 8 times as long there.
FEW_VOXELS = 16


def is_needed(volume_BCDHW: Tensor) -> bool:
    """Whether a convolution of this volume would be in 16 bit on a CPU."""
    return volume_BCDHW.device.type == "cpu" and _precision(volume_BCDHW) != torch.float32


def convolve_in_16_bit(
    volume_BCDHW: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], groups: int
) -> Tensor:
    """As `torch.nn.functional.conv3d` with a kernel of 3^3 and padding 1; `groups` is 1 or the number of channels."""
    size = [math.ceil(n / step) for n, step in zip(volume_BCDHW.shape[2:], stride, strict=True)]
    if math.prod(size) <= FEW_VOXELS and _precision(volume_BCDHW) == torch.bfloat16:
        if groups > 1:
            assert stride == (1, 1, 1)
            return _depthwise_product(volume_BCDHW, weight, bias).to(volume_BCDHW.dtype)
        return _dense_product(volume_BCDHW, weight, bias, stride).to(volume_BCDHW.dtype)
    if groups == 1 and min(volume_BCDHW.shape[2:]) > SMALLEST_BFLOAT16_AXIS:
        return F.conv3d(volume_BCDHW, weight, bias, stride, 1, 1)
    with torch.autocast("cpu", enabled=False):
        bias = None if bias is None else bias.float()
        out = F.conv3d(volume_BCDHW.float(), weight.float(), bias, stride, 1, 1, groups)
    return out.to(volume_BCDHW.dtype)


def _precision(volume_BCDHW: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else volume_BCDHW.dtype


def _dense_product(volume_BCDHW: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int]) -> Tensor:
    """Every output voxel's neighbourhood is a row."""
    windows = F.pad(volume_BCDHW, (1, 1, 1, 1, 1, 1))
    for axis, step in enumerate(stride, start=2):
        windows = windows.unfold(axis, 3, step)
    rows = windows.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4)
    return F.linear(rows, weight.flatten(1), bias).permute(0, 4, 1, 2, 3)


def _depthwise_product(volume_BCDHW: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Each channel's kernel is a (voxels, voxels) matrix."""
    depth, height, width = volume_BCDHW.shape[2:]
    taps = _taps(depth, height, width).to(weight.device)
    matrix = F.pad(weight.float().flatten(1), (0, 1)).index_select(1, taps.flatten()).unflatten(1, taps.shape)
    tokens_CNB = volume_BCDHW.float().flatten(2).permute(1, 2, 0)
    with torch.autocast("cpu", enabled=False):
        mixed_CNB = torch.bmm(matrix, tokens_CNB)
    out_BCN = mixed_CNB.permute(2, 0, 1)
    out_BCN = out_BCN if bias is None else out_BCN + bias[:, None]
    return out_BCN.unflatten(2, (depth, height, width))


@lru_cache(maxsize=32)
def _taps(depth: int, height: int, width: int) -> Tensor:
    """(N, N): which of a 3^3 kernel's weights joins output voxel i and input voxel j; 27 where none does."""
    with torch.inference_mode(False):  # what inference made, training could not use
        grid = torch.cartesian_prod(*(torch.arange(n) for n in (depth, height, width)))
        offset = grid.unsqueeze(0) - grid.unsqueeze(1)
        tap = ((offset + 1) * torch.tensor([9, 3, 1])).sum(2)
        return tap.where((offset.abs() <= 1).all(2), 27)
