"""3^3 convolutions on a CPU, where oneDNN's own are slow or their bfloat16 weight gradient is uninitialised memory.

Onto a few voxels a convolution is a matrix product. Depth-wise ones are in float32 (2.5 times faster than in 16 bit),
in which a dense one on a thin grid computes as well, and depthwise.py's where there will be gradients: calling that
operator loads PyTorch's compiler, which is 60 MB and a second that a prediction has no use for. A small volume alone
goes in two halves: for a single sample in float32 PyTorch takes a kernel of its own, which takes three times as long as
oneDNN's.

B batch, C channels, D H W voxels, N voxels of a whole volume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from model.network import depthwise

# CPU bfloat16 gradients of dense 3^3 convolutions were seen wrong when an axis has 1 or 2 voxels; 4 leaves a margin.
SMALLEST_BFLOAT16_AXIS = 4
# On CPU, a convolution onto at most so many voxels is a matrix product: oneDNN's own takes 3 to 8 times as long there.
FEW_VOXELS = 16
# PyTorch asks oneDNN for float32 from two samples on, or where B C D H is larger (ATen/native/Convolution.cpp).
SMALLEST_ALONE = 20480


def is_needed(volume_BCDHW: Tensor) -> bool:
    return volume_BCDHW.device.type == "cpu"


def convolve(volume_BCDHW: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], groups: int) -> Tensor:
    """As `torch.nn.functional.conv3d` with a kernel of 3^3 and padding 1; `groups` is 1 or the number of channels."""
    precision, eager = _precision(volume_BCDHW), not torch.compiler.is_compiling()
    if precision == torch.float32 and not eager:  # also when exporting, for any device
        return F.conv3d(volume_BCDHW, weight, bias, stride, 1, 1, groups)
    size = [math.ceil(n / step) for n, step in zip(volume_BCDHW.shape[2:], stride, strict=True)]
    if eager and math.prod(size) <= FEW_VOXELS and precision != torch.float16:
        if groups > 1:
            assert stride == (1, 1, 1)
            return _depthwise_product(volume_BCDHW, weight, bias).to(volume_BCDHW.dtype)
        return _dense_product(volume_BCDHW, weight, bias, stride).to(volume_BCDHW.dtype)
    if precision != torch.float32 and groups == 1 and min(volume_BCDHW.shape[2:]) > SMALLEST_BFLOAT16_AXIS:
        return F.conv3d(volume_BCDHW, weight, bias, stride, 1, 1)
    with torch.autocast("cpu", enabled=False):
        whole = (volume_BCDHW.float(), weight.float(), None if bias is None else bias.float())
        if eager and groups > 1 and torch.is_grad_enabled():
            out = depthwise.convolve(*whole)
        elif eager and groups == 1 and len(volume_BCDHW) == 1 and volume_BCDHW[..., 0].numel() <= SMALLEST_ALONE:
            out = _in_halves(*whole, stride)
        else:
            out = F.conv3d(*whole, stride, 1, 1, groups)
    return out.to(volume_BCDHW.dtype)


def _in_halves(volume_BCDHW: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...]) -> Tensor:
    """The halves along D, each with what its kernel sees of the other, are two samples."""
    depth, step = volume_BCDHW.shape[2], stride[0]
    after = math.ceil(depth / step)
    half = math.ceil(after / 2)
    start, seen = step * half, step * (half - 1) + 3
    padded = F.pad(volume_BCDHW, (0, 0, 0, 0, 1, start + seen - 1 - depth))
    halves = torch.cat([padded[:, :, :seen], padded[:, :, start : start + seen]])
    return torch.cat(F.conv3d(halves, weight, bias, stride, (0, 1, 1)).chunk(2), 2)[:, :, :after]


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
